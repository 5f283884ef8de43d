from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import folders
from napari_lesionseg.io.folders import FolderScan, contained, follow_links, walk

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


def test_a_scan_lists_files_folders_and_what_is_passed_over(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("b.PNG", "a.csv", "deep/c.png", "deep/d.csv", ".hidden.png", "@eaDir/e.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "out.png").symlink_to(tmp_path)
    scan = FolderScan(root)
    assert [path.name for path in scan.files] == ["a.csv", "b.PNG", "c.png", "d.csv"]
    assert scan.folders == (root, root / "deep")
    assert [path.name for path in scan.with_suffix(".png", ".csv")] == ["a.csv", "b.PNG", "c.png", "d.csv"]
    assert [path.name for path in scan.with_suffix(".png")] == ["b.PNG", "c.png"]
    assert [(path.name, "leads out" in reason) for path, reason in scan.passed_over] == [("out.png", True)]


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
    monkeypatch.setattr(folders, "MAX_ENTRIES", 3)
    with pytest.raises(DatasetError, match="more than 3"):
        list(walk(tmp_path))


def test_studies_are_no_part_of_what_they_are_in(tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.png", "study/study.json", "study/masks/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in walk(tmp_path)] == ["a.png", "b.png"]
    assert [path.name for path in walk(tmp_path / "study")] == ["study.json", "c.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be listed"):
        list(walk(tmp_path / "none"))


def test_links_are_followed_into_a_folder_only(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="none, which is no folder"), follow_links(tmp_path / "none"):
        pass
