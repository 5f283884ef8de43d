from __future__ import annotations

import contextlib
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import archives
from napari_lesionseg.io.archives import contained, read_json, read_table, unpack, walk, write_table

CLIMBING = [
    "../x.png",
    "/etc/passwd",
    "a/../../x",
    "..\\x.png",
    "C:\\x.png",
    "c:/x",
    "\\\\host\\x",
    "",
    ".",
    "a\0b",
]


@pytest.mark.parametrize("name", CLIMBING)
def test_names_that_climb_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError):
        contained(tmp_path, name)


@pytest.mark.parametrize("name", ["x.png", "a/b c/æøå.png", "a\\b.png", "a..b/c"])
def test_plain_names_stay(tmp_path: Path, name: str) -> None:
    assert contained(tmp_path, name) == tmp_path.joinpath(*name.replace("\\", "/").split("/"))


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "link").symlink_to(tmp_path)
    (root / "file.png").symlink_to(tmp_path / "secret.png")
    (root / "own.png").write_bytes(b"x")
    (root / "alias.png").symlink_to(root / "own.png")
    with pytest.raises(DatasetError):
        contained(root, "link/secret.png")
    assert [path.name for path in walk(root)] == ["alias.png", "own.png"]


def test_a_ring_of_links_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert list(walk(tmp_path)) == []


@given(st.text(max_size=300))
@example("a" * 300)
@example("\ud800")
def test_any_name_stays_inside_or_is_refused(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.getbasetemp()
    try:
        path = contained(root, name)
    except DatasetError:
        return
    assert path.resolve().is_relative_to(root.resolve())


def test_walking_stops_at_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").touch()
    (tmp_path / ".hidden.png").touch()
    assert len(list(walk(tmp_path))) == 4
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    with pytest.raises(DatasetError, match="more than 3"):
        list(walk(tmp_path))


def make_zip(
    path: Path, entries: dict[str, bytes], mode: int = 0, compression: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, payload in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = compression
            archive.writestr(info, payload)
    return path


def make_tar(path: Path, *members: tarfile.TarInfo, payload: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for member in members:
            member.size = len(payload) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(payload))
    return path


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def unpack_all(archive: Path, folder: Path) -> list[str]:
    folder.mkdir()
    return list(unpack(archive, folder))


@pytest.mark.parametrize("make", [
    lambda path: make_zip(path / "a.zip", {"x/1.png": b"one", "x/2.png": b"two"}),
    lambda path: make_tar(path / "a.tar", tar_info("x/1.png"), payload=b"one"),
    lambda path: make_tar(
        path / "a.tar.gz", tar_info("x", tarfile.DIRTYPE), tar_info("x/1.png"), payload=b"one"
    ),
])  # fmt: skip
def test_sound_archives_are_unpacked(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    names = unpack_all(make(tmp_path), tmp_path / "out")
    assert "x/1.png" in names
    assert (tmp_path / "out/x/1.png").read_bytes() == b"one"


@pytest.mark.parametrize("name", [name for name in CLIMBING if name and "\0" not in name])
def test_archives_that_climb_out_are_refused_whole(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"first.png": b"x", name: b"x"})
    with pytest.raises(DatasetError):
        unpack_all(archive, tmp_path / "out")
    assert list((tmp_path / "out").rglob("*")) == []
    with pytest.raises(DatasetError):
        unpack_all(make_tar(tmp_path / "a.tar", tar_info(name), payload=b"x"), tmp_path / "out2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "a.zip", "out", "out2"]


@pytest.mark.parametrize(
    ("kind", "link"),
    [(tarfile.SYMTYPE, "/etc"), (tarfile.LNKTYPE, "x"), (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, "")],
)
def test_links_and_devices_in_archives_are_refused(tmp_path: Path, kind: bytes, link: str) -> None:
    with pytest.raises(DatasetError, match="link or device"):
        unpack_all(make_tar(tmp_path / "a.tar", tar_info("x", kind, link)), tmp_path / "out")


def test_links_in_zip_archives_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DatasetError, match="link or device"):
        unpack_all(archive, tmp_path / "out")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_SLACK", 0)
    bomb = make_zip(tmp_path / "a.zip", {"x": bytes(2_000_000)})
    with pytest.raises(DatasetError, match="grow too large"):
        unpack_all(bomb, tmp_path / "out")
    tar = make_tar(tmp_path / "a.tar.gz", tar_info("x"), payload=bytes(2_000_000))
    with pytest.raises(DatasetError, match="grow too large"):
        unpack_all(tar, tmp_path / "out2")


def test_an_entry_that_lies_about_its_size_is_cut_off(tmp_path: Path) -> None:
    target = io.BytesIO()
    with pytest.raises(DatasetError, match="larger than it says"):
        archives._copy(io.BytesIO(bytes(100)), target, 10)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    with pytest.raises(DatasetError, match="more than 2"):
        unpack_all(make_zip(tmp_path / "a.zip", {"1": b"", "2": b"", "3": b""}), tmp_path / "out")


def test_huge_tar_headers_are_not_read_into_memory(tmp_path: Path) -> None:
    header = tarfile.TarInfo("PaxHeaders/x")
    header.type, header.size = tarfile.XHDTYPE, 40 * 1024**2
    archive = tmp_path / "a.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as stream:
        stream.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(header.size))
    with pytest.raises(DatasetError, match="header"):
        unpack_all(archive, tmp_path / "out")


def test_encrypted_and_doubled_entries_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x.png": b"x", "X.PNG": b"y"})
    with pytest.raises(DatasetError, match="same name"):
        unpack_all(archive, tmp_path / "out")
    payload = bytearray(make_zip(tmp_path / "b.zip", {"x.png": b"x"}).read_bytes())
    payload[6] |= 1
    payload[payload.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(payload)
    with pytest.raises(DatasetError, match="encrypted"):
        unpack_all(tmp_path / "b.zip", tmp_path / "out2")


SOUND_ZIP = io.BytesIO()
with zipfile.ZipFile(SOUND_ZIP, "w", zipfile.ZIP_DEFLATED) as _archive:
    _archive.writestr("a/x.png", bytes(range(256)))
SOUND_TAR = io.BytesIO()
with tarfile.open(fileobj=SOUND_TAR, mode="w:gz") as _tar:
    _tar.addfile(tar_info("a/x.png"), io.BytesIO(b""))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    sound=st.sampled_from([(".zip", SOUND_ZIP.getvalue()), (".tar.gz", SOUND_TAR.getvalue())]),
    flips=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 1000),
)
def test_damaged_archives_give_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, sound: tuple[str, bytes], flips: list[tuple[int, int]], cut: int
) -> None:
    payload = bytearray(sound[1])
    for place, value in flips:
        payload[place % len(payload)] = value
    folder = tmp_path_factory.mktemp("damaged")
    archive = folder / f"a{sound[0]}"
    archive.write_bytes(payload[: len(payload) - cut % 40])
    with contextlib.suppress(DatasetError):
        unpack_all(archive, folder / "out")
    outside = [path for path in folder.rglob("*") if path.is_file() and path != archive]
    assert all(path.is_relative_to(folder / "out") for path in outside)


def test_damaged_json_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    for text in ("", "{", "[" * 100_000, "1" * 10_000, "\ufeff{]"):
        path.write_text(text)
        with pytest.raises(DatasetError, match="not JSON"):
            read_json(path)
    path.write_text('\ufeff{"a": 1}')
    assert read_json(path) == {"a": 1}
    monkeypatch.setattr(archives, "MAX_JSON_BYTES", 3)
    with pytest.raises(DatasetError, match="larger"):
        read_json(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_tables_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfname, age ,\r\n a ,5,x,more\r\nb\r\n\xff\xfe,7\r\n")
    assert read_table(path) == [
        {"name": "a", "age": "5"},
        {"name": "b", "age": ""},
        {"name": "\ufffd\ufffd", "age": "7"},
    ]
    path.write_text("name\n" + '"' + "x" * 200_000)
    with pytest.raises(DatasetError, match="not a table"):
        read_table(path)


def test_written_tables_are_read_back(tmp_path: Path) -> None:
    rows = [{"name": 'a "quoted", one', "note": "æøå"}, {"name": "b"}]
    write_table(tmp_path / "x.csv", rows, ("name", "note"))
    assert read_table(tmp_path / "x.csv") == [rows[0], {"name": "b", "note": ""}]
    assert b"\r" not in (tmp_path / "x.csv").read_bytes()


def test_studies_are_no_part_of_what_they_are_in(tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.png", "study/study.json", "study/masks/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in walk(tmp_path)] == ["a.png", "b.png"]
    assert [path.name for path in walk(tmp_path / "study")] == ["study.json", "c.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be listed"):
        list(walk(tmp_path / "none"))
