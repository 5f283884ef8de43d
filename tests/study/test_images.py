"""Images that were moved, renamed, changed or taken away."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import noise
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study import images as locating
from napari_lesionseg.study.study import Study


@pytest.fixture
def photos(study: Study) -> Path:
    return study.folder.parent / "photos"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed."""
    seen: list[str] = []
    real = locating.sha256_file

    def counting(path: Path) -> str:
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(locating, "sha256_file", counting)
    return seen


def test_opening_hashes_nothing_and_reading_hashes_once(
    study: Study, images: list[str], hashed: list[str]
) -> None:
    with Study.open(study.folder, "am") as again:
        assert hashed == []
        for _ in range(3):
            again.read_image(images[1])
    assert hashed == ["IMD2.png"]


def test_a_renamed_image_is_found(study: Study, images: list[str], photos: Path) -> None:
    (photos / "IMD2.png").rename(photos / "renamed.png")
    assert study.missing_images() == (images[1],)
    assert study.image_path(images[1]) == photos / "renamed.png"
    assert np.array_equal(study.read_image(images[1]), noise(2))


def test_two_images_that_changed_names_are_not_mixed_up(
    study: Study, images: list[str], photos: Path
) -> None:
    (photos / "IMD1.png").rename(photos / "x.png")
    (photos / "IMD2.png").rename(photos / "IMD1.png")
    (photos / "x.png").rename(photos / "IMD2.png")
    assert np.array_equal(study.read_image(images[0]), noise(1))
    assert np.array_equal(study.read_image(images[1]), noise(2))


def test_where_a_moved_image_was_found_is_remembered(
    study: Study, images: list[str], photos: Path, hashed: list[str]
) -> None:
    (photos / "deep" / "er").mkdir(parents=True)
    (photos / "IMD2.png").rename(photos / "deep" / "er" / "a b.png")
    study.image_path(images[1])
    study.close()
    hashed.clear()
    with Study.open(study.folder, "am") as again:
        assert again.image_path(images[1]) == photos / "deep" / "er" / "a b.png"
    assert hashed == ["a b.png"]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"x":"../../etc/passwd"}', b"\xff"])
def test_a_damaged_memory_does_no_harm(study: Study, images: list[str], photos: Path, content: bytes) -> None:
    (study.folder / "cache").mkdir()
    (study.folder / "cache" / "moved.json").write_bytes(content)
    (photos / "IMD2.png").rename(photos / "renamed.png")
    with Study.open(study.folder, "am") as again:
        assert again.image_path(images[1]) == photos / "renamed.png"


def test_a_memory_that_lies_is_not_believed(study: Study, images: list[str], photos: Path) -> None:
    (study.folder / "cache").mkdir()
    (study.folder / "cache" / "moved.json").write_text(json.dumps({images[1]: "IMD1.png"}))
    (photos / "IMD2.png").rename(photos / "renamed.png")
    with Study.open(study.folder, "am") as again:
        assert again.image_path(images[1]) == photos / "renamed.png"


def test_a_changed_image_is_another_image(study: Study, images: list[str], photos: Path) -> None:
    study.read_image(images[1])
    Image.fromarray(noise(99)).save(photos / "IMD2.png")
    with pytest.raises(StudyError, match="moved away or changed"):
        study.read_image(images[1])
    Image.fromarray(noise(2)).save(photos / "IMD2.png")
    assert np.array_equal(study.read_image(images[1]), noise(2))


def test_a_change_of_the_same_size_is_noticed(study: Study, images: list[str], photos: Path) -> None:
    study.read_image(images[1])
    payload = bytearray((photos / "IMD2.png").read_bytes())
    payload[-20] ^= 1
    (photos / "IMD2.png").write_bytes(payload)
    os.utime(photos / "IMD2.png", ns=(1, 1))
    with pytest.raises(StudyError, match="moved away or changed"):
        study.read_image(images[1])


def test_an_image_that_comes_back_is_found_after_a_refresh(
    study: Study, images: list[str], photos: Path, tmp_path: Path
) -> None:
    (photos / "IMD2.png").rename(tmp_path / "IMD2.png")
    with pytest.raises(StudyError, match="moved away or changed"):
        study.image_path(images[1])
    assert [problem.file for problem in study.check()] == ["IMD2.png"]
    (tmp_path / "IMD2.png").rename(photos / "back.png")
    study.refresh()
    assert study.image_path(images[1]) == photos / "back.png"


def test_a_folder_of_images_that_moved(study: Study, images: list[str], photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "moved")
    with pytest.raises(StudyError, match="connect its disk"):
        study.read_image(images[0])
    with pytest.raises(StudyError, match="not a folder"):
        study.set_images_folder(tmp_path / "nowhere")
    study.set_images_folder(tmp_path / "moved")
    assert np.array_equal(study.read_image(images[0]), noise(1))
    with Study.open(study.folder, "am") as again:
        assert np.array_equal(again.read_image(images[0]), noise(1))


def test_study_and_images_can_move_together(study: Study, images: list[str], tmp_path: Path) -> None:
    (tmp_path / "new place").mkdir()
    for name in ("study", "photos"):
        (tmp_path / name).rename(tmp_path / "new place" / name)
    with Study.open(tmp_path / "new place" / "study", "am") as again:
        assert again.check() == ()


def replace_path(study: Study, path: str) -> None:
    """Let the journal say that IMD2 is elsewhere."""
    for journal in (study.folder / "journal").iterdir():
        journal.write_text(journal.read_text().replace('"path":"IMD2.png"', f'"path":"{path}"'))


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", "a/../../secret.png"])
def test_a_journal_cannot_lead_out_of_the_folder(study: Study, path: str) -> None:
    replace_path(study, path)
    with Study.open(study.folder, "am") as again:
        assert [state.name for state in again.state.images.values()] == ["IMD1", "IMD3"]
        assert len(again.problems) == 1


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nor_can_a_link(study: Study, photos: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (photos / "IMD2.png").rename(secret / "IMD2.png")
    if kind == "file":
        (photos / "IMD2.png").symlink_to(secret / "IMD2.png")
    else:
        (photos / "link").symlink_to(secret)
        replace_path(study, "link/IMD2.png")
    with Study.open(study.folder, "am") as again:
        assert [state.name for state in again.state.images.values()] == ["IMD1", "IMD3"]
        assert "link" in again.problems[0].reason


def test_a_link_that_appears_later_is_not_followed(
    study: Study, images: list[str], photos: Path, tmp_path: Path
) -> None:
    (photos / "IMD2.png").rename(tmp_path / "IMD2.png")
    (photos / "IMD2.png").symlink_to(tmp_path / "IMD2.png")
    with pytest.raises(StudyError, match="moved away or changed"):
        study.image_path(images[1])


def test_a_link_inside_the_folder_is_fine(study: Study, images: list[str], photos: Path) -> None:
    (photos / "IMD2.png").rename(photos / "real.png")
    (photos / "IMD2.png").symlink_to(photos / "real.png")
    with Study.open(study.folder, "am") as again:
        assert again.problems == ()
        assert np.array_equal(again.read_image(images[1]), noise(2))
