from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_lesionseg.datasets.manifest import (
    MANIFEST_NAME,
    Hashed,
    Verification,
    read_manifest,
    verify,
    write_manifest,
)
from napari_lesionseg.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a b").mkdir()
    for name in ("a b/æ.png", "x.csv", "y.csv"):
        (tmp_path / name).write_bytes(name.encode())
    steps = list(write_manifest(tmp_path, software="s", convention="isic", created="now"))
    assert steps[-1] == Hashed(3, 3, "y.csv")
    return tmp_path


def check(folder: Path) -> Verification:
    *steps, result = verify(folder)
    assert all(isinstance(step, Hashed) for step in steps)
    assert isinstance(result, Verification)
    return result


def test_an_untouched_set_is_intact(folder: Path) -> None:
    assert check(folder) == Verification(3, (), (), ())
    assert check(folder).intact
    assert read_manifest(folder).format == "isic"


def test_every_change_is_named(folder: Path) -> None:
    (folder / "x.csv").write_bytes(b"y.csv")
    (folder / "y.csv").unlink()
    (folder / "new.txt").touch()
    (folder / "out.png").symlink_to(folder.parent)
    assert check(folder) == Verification(3, ("y.csv",), ("x.csv",), ("new.txt", "out.png"))
    assert not check(folder).intact


def test_added_files_alone_do_no_harm(folder: Path) -> None:
    (folder / "new.txt").touch()
    assert check(folder).intact


@pytest.mark.parametrize("path", ["../x.csv", "/etc/passwd", "a/../../x"])
def test_a_manifest_cannot_point_elsewhere(folder: Path, path: str) -> None:
    content = json.loads((folder / MANIFEST_NAME).read_text())
    content["files"][0]["path"] = path
    (folder / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(DatasetError):
        read_manifest(folder)


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"files": 3}, {"files": [{"path": "x", "sha256": "0", "bytes": 1}]}]
)
def test_a_damaged_manifest_is_refused(folder: Path, change: dict[str, object]) -> None:
    content = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps(content | change))
    with pytest.raises(DatasetError, match="damaged"):
        read_manifest(folder)


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no manifest"):
        list(verify(tmp_path))
