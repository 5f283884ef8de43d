from __future__ import annotations

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.event_log import MAX_LINE, EventReader, EventWriter, StudyProblem
from napari_lesionseg.study.events import Added, Flagged, Session

IMAGE = "5" * 64
WRITER = "a" * 32
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
FILE = f"am-{WRITER}.jsonl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "events"
    path.mkdir()
    return path


def flagged(seq: int, /, **other: object) -> dict[str, object]:
    """A valid line, unless fields are changed."""
    entry = Flagged(writer=WRITER, seq=seq, annotator="am", time=NOW, image_id=IMAGE, note=f"note {seq}")
    return {**json.loads(entry.model_dump_json()), **other}


def line(seq: int, /, **other: object) -> bytes:
    return json.dumps(flagged(seq, **other)).encode() + b"\n"


def notes(entries: list[object]) -> list[str]:
    return [entry.note for entry in entries if isinstance(entry, Flagged)]


def test_what_is_written_is_read(folder: Path) -> None:
    writer = EventWriter(folder, "am")
    first = writer.append(Flagged, time=NOW, image_id=IMAGE, note="hår?")
    second = writer.append(Session, time=NOW, image_id=IMAGE, view={"zoom": 2.5, "center": [0, 1]})
    reader = EventReader(folder)
    assert reader.read_new() == [first, second]
    assert reader.read_new() == []
    assert not reader.problems


def test_only_new_lines_are_read_again(folder: Path) -> None:
    writer, reader = EventWriter(folder, "am"), EventReader(folder)
    writer.append(Flagged, time=NOW, image_id=IMAGE, note="one")
    assert notes(reader.read_new()) == ["one"]
    writer.append(Flagged, time=NOW, image_id=IMAGE, note="two")
    EventWriter(folder, "bo").append(Flagged, time=NOW, image_id=IMAGE, note="three")
    assert notes(reader.read_new()) == ["two", "three"]


def test_two_runs_never_share_a_file(folder: Path) -> None:
    for _ in range(2):
        EventWriter(folder, "am").append(Flagged, time=NOW, image_id=IMAGE)
    assert len(list(folder.iterdir())) == 2


def test_many_entries_are_written_in_one_step(folder: Path) -> None:
    records = [{"image_id": f"{n:064x}", "note": str(n)} for n in range(50)]
    entries = EventWriter(folder, "am").append_together(Flagged, records, time=NOW)
    assert EventReader(folder).read_new() == entries
    assert len(list(folder.iterdir())) == 1


def test_nothing_to_write_makes_no_file(folder: Path) -> None:
    assert EventWriter(folder, "am").append_together(Flagged, [], time=NOW) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_left_until_it_is_whole(folder: Path, cut: int) -> None:
    (folder / FILE).write_bytes(line(0) + line(1)[:-cut])
    reader = EventReader(folder)
    assert notes(reader.read_new()) == ["note 0"]
    assert not reader.problems
    (folder / FILE).write_bytes(line(0) + line(1))
    assert notes(reader.read_new()) == ["note 1"]


def test_a_line_torn_in_the_middle_costs_only_itself(folder: Path) -> None:
    (folder / FILE).write_bytes(line(0) + line(1)[:40] + b"\n" + line(2))
    reader = EventReader(folder)
    assert notes(reader.read_new()) == ["note 0", "note 2"]
    (problem,) = reader.problems
    assert (problem.file, problem.line) == (f"events/{FILE}", 2)
    assert str(problem).startswith(f"events/{FILE}:2: Invalid JSON")


HOSTILE = {
    "newer version": (line(1, v=2), "newer version of the program (schema 2)"),
    "older version": (line(1, v=0), "v: Input should be 1"),
    "unknown event": (line(1, event="erased"), "does not match any of the expected tags"),
    "unknown field": (line(1, erase=True), "erase: Extra inputs"),
    "no image": (line(1, image_id=None), "image"),
    "image that climbs": (line(1, image_id="../" * 21 + "x"), "image"),
    "note of another kind": (line(1, note=3), "note"),
    "number as text": (line(1, seq="1"), "seq"),
    "negative number": (line(1, seq=-1), "seq"),
    "time without zone": (line(1, time="2026-03-01T12:00:00"), "timezone"),
    "time far ahead": (line(1, time="9999-12-31T23:59:59Z"), "far in the past or in the future"),
    "another's name": (line(1, annotator="bo"), "belongs in another file"),
    "another's writer": (line(1, writer="b" * 32), "belongs in another file"),
    "a number again": (line(0), "is used twice"),
    "not JSON": (b"hello\n", "Invalid JSON"),
    "empty": (b"\n", "Invalid JSON"),
    "not an object": (b"[1]\n", "object"),
    "not UTF-8": (line(1).replace(b"note 1", b"\xff\xfe"), "Invalid JSON"),
    "zero bytes": (b"\0" * 100 + b"\n", "Invalid JSON"),
    "deep nesting": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"\n", "recursion"),
    "huge number": (line(1).replace(b'"seq": 1', b'"seq": ' + b"9" * 5000), "out of range"),
    "too long": (line(1, note="x" * MAX_LINE), "too long"),
    "long note": (line(1, note="x" * 5000), "note"),
    "control characters": (line(1, event="\x1b[2J\u202e"), "does not match"),
}


@pytest.mark.parametrize(("bad", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_bad_lines_are_refused_one_by_one_and_named(folder: Path, bad: bytes, reason: str) -> None:
    (folder / FILE).write_bytes(line(0) + bad + line(2))
    reader = EventReader(folder)
    assert notes(reader.read_new()) == ["note 0", "note 2"]
    (problem,) = reader.problems
    assert problem.line == 2
    assert reason in problem.reason
    assert problem.reason.isprintable()
    assert len(problem.reason) <= 200


def added(**other: object) -> bytes:
    entry = Added(
        writer=WRITER, seq=1, annotator="am", time=NOW, image_id=IMAGE, name="IMD1", path="a/b.png",
        own=False, size=9, shape=(3, 4),
    )  # fmt: skip
    return json.dumps({**json.loads(entry.model_dump_json(exclude_none=True)), **other}).encode() + b"\n"


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x.png", "a/../../x.png", "a/./b.png", "a//b.png", "", ".", "..", "C:/x", "c:x.png",
     "\\\\host\\x.png", "a\\..\\..\\x.png", "//host/x.png", "a\0b.png", "x" * 2000],
)  # fmt: skip
def test_paths_that_lead_out_are_refused(folder: Path, path: str) -> None:
    (folder / FILE).write_bytes(line(0) + added(path=path))
    reader = EventReader(folder)
    assert notes(reader.read_new()) == ["note 0"]
    (problem,) = reader.problems
    assert "path" in problem.reason


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(folder: Path, number: str) -> None:
    writer = EventWriter(folder, "am")
    writer.append(Session, time=NOW, image_id=IMAGE, view={"zoom": 1.25})
    (path,) = folder.iterdir()
    path.write_text(path.read_text().replace("1.25", number))
    reader = EventReader(folder)
    assert reader.read_new() == []
    assert len(reader.problems) == 1


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"shape": [0, 4]}, {"shape": [3]}, {"shape": [3, 4, 5]}, {"own": "no"}, {"name": ""}],
)
def test_impossible_images_are_refused(folder: Path, change: dict[str, object]) -> None:
    (folder / FILE).write_bytes(added(**change))
    reader = EventReader(folder)
    assert reader.read_new() == []
    assert len(reader.problems) == 1


def test_a_line_without_end_is_not_kept_in_memory(folder: Path) -> None:
    (folder / FILE).write_bytes(line(0) + b"x" * (3 * MAX_LINE))
    reader = EventReader(folder)
    assert notes(reader.read_new()) == ["note 0"]
    assert [problem.reason for problem in reader.problems] == ["the line is too long"]
    with (folder / FILE).open("ab") as stream:
        stream.write(b"yyy\n" + line(1))
    assert notes(reader.read_new()) == ["note 1"]
    assert len(reader.problems) == 1


@pytest.mark.parametrize(
    "name", ["notes.txt", "am.jsonl", f"am-{WRITER} (conflicted copy).jsonl", f"a/m-{WRITER}.jsonl"[2:] + "x"]
)
def test_foreign_files_are_left_out_and_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(line(0))
    reader = EventReader(folder)
    assert reader.read_new() == []
    (problem,) = reader.problems
    assert problem == StudyProblem(
        f"events/{name}", 0, "it is not an event file of this program, and was left out"
    )
    reader.read_new()
    assert len(reader.problems) == 1


def test_an_event_file_that_is_a_link_is_left_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(line(0))
    (folder / FILE).symlink_to(tmp_path / "elsewhere")
    reader = EventReader(folder)
    assert reader.read_new() == []
    assert len(reader.problems) == 1


def test_hidden_files_are_nobodys_business(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    reader = EventReader(folder)
    assert reader.read_new() == []
    assert not reader.problems


def test_an_event_file_that_became_shorter_is_read_again(folder: Path) -> None:
    (folder / FILE).write_bytes(line(0) + line(1))
    reader = EventReader(folder)
    reader.read_new()
    (folder / FILE).write_bytes(line(0))
    assert notes(reader.read_new()) == ["note 0"]
    assert not reader.problems


def test_entries_can_be_refused_for_other_reasons(folder: Path) -> None:
    (folder / FILE).write_bytes(line(0) + line(1))
    reader = EventReader(folder, lambda entry: "not today" if entry.seq == 1 else None)
    assert notes(reader.read_new()) == ["note 0"]
    assert [problem.reason for problem in reader.problems] == ["not today"]


def test_what_could_not_be_read_back_is_not_written(folder: Path) -> None:
    writer = EventWriter(folder, "am")
    with pytest.raises(StudyError, match="note: String should have at most 4000"):
        writer.append(Flagged, time=NOW, image_id=IMAGE, note="x" * 5000)
    with pytest.raises(StudyError, match="far in the past"):
        writer.append(Flagged, time=datetime(1970, 1, 1, tzinfo=UTC), image_id=IMAGE)
    with pytest.raises(StudyError, match="view"):
        writer.append(Session, time=NOW, view={"zoom": float("nan")})
    with pytest.raises(StudyError, match="too long"):
        writer.append(Session, time=NOW, view={"layers": ["x" * 17_000]})
    assert list(folder.iterdir()) == []


def test_a_changed_event_file_is_not_written_on(folder: Path) -> None:
    writer = EventWriter(folder, "am")
    writer.append(Flagged, time=NOW, image_id=IMAGE, note="one")
    (path,) = folder.iterdir()
    os.truncate(path, path.stat().st_size - 5)
    writer.append(Flagged, time=NOW, image_id=IMAGE, note="two")
    assert notes(EventReader(folder).read_new()) == ["two"]
    assert len(list(folder.iterdir())) == 2


@given(
    st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=4),
    st.integers(0, 250),
    st.integers(0, 250),
)
def test_whatever_happens_to_a_line_the_others_are_read(
    changes: list[tuple[int, int]], start: int, length: int
) -> None:
    bad = bytearray(line(1))
    for place, value in changes:
        bad[place % len(bad)] = value
    del bad[start : start + length]
    with tempfile.TemporaryDirectory() as name:
        Path(name, FILE).write_bytes(line(0) + bytes(bad) + b"\n" + line(2))
        found = notes(EventReader(Path(name)).read_new())
    assert found[0] == "note 0"
    assert found[-1] == "note 2" or b'"seq": 2,' in bytes(bad)
