"""Eyes are covered with a margin, and a face whose eyes are not known is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.export import ExportReport, export_dataset
from napari_lesionseg.datasets.eyes import (
    MARGIN,
    black_out_eyes,
    box_over_eyes,
    eyes_of,
    known_people,
)
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.errors import DatasetError, ImageError
from napari_lesionseg.io.images import read_image
from napari_lesionseg.types import make_landmarks

FACE = Skeleton.from_names(["nose", "left_eye", "right_eye", "left_eyebrow"])
FACES = np.array([[60, 40], [45, 60], [45, 20], [38, 60]], float)


def record(name: str = "face") -> Record:
    return Record(
        name, lambda: np.full((100, 80, 3), 200, np.uint8), mask=lambda: np.ones((100, 80), np.uint8)
    )


@pytest.mark.parametrize("angle", [0, 30, 90, 200])
def test_the_box_covers_both_eyes_with_a_margin_however_the_head_is_turned(angle: float) -> None:
    turn = np.deg2rad(angle)
    half = 20 * np.array([np.sin(turn), np.cos(turn)])
    points = np.array([100 + half, 100 - half], np.float32)
    box = box_over_eyes(points, (200, 200, 3))
    margin = MARGIN * 40
    assert box.top <= points[:, 0].min() - margin + 1
    assert box.bottom >= points[:, 0].max() + margin - 1
    assert box.left <= points[:, 1].min() - margin + 1
    assert box.right >= points[:, 1].max() + margin - 1


def test_the_box_ends_at_the_border_of_the_image() -> None:
    box = box_over_eyes(np.array([[2, 3], [2, 78]], np.float32), (100, 80, 3))
    assert (box.top, box.left, box.right) == (0, 0, 80)
    assert box.bottom <= 100


def test_eyebrows_are_not_eyes() -> None:
    assert eyes_of(FACE) == [1, 2]
    with pytest.raises(DatasetError, match="named after the eyes"):
        eyes_of(Skeleton.from_names(["nose", "left_eye", "left_eyebrow"]))


def test_pixels_under_the_box_are_black_and_all_others_stay() -> None:
    (covered,) = black_out_eyes([record()], FACE, lambda found, image: [make_landmarks(FACES)])
    assert isinstance(covered, Record)
    image = covered.load_image()
    for row, col in FACES[1:3].astype(int):
        assert not image[row - 10 : row + 11, max(0, col - 10) : col + 11].any()
    assert (image[0] == 200).all()
    assert (image[-1] == 200).all()


def test_several_people_are_all_covered() -> None:
    people = [make_landmarks(FACES), make_landmarks(FACES + np.array([40, 0]))]
    (covered,) = black_out_eyes([record()], FACE, lambda found, image: people)
    assert isinstance(covered, Record)
    image = covered.load_image()
    assert not image[45, 60].any()
    assert not image[85, 60].any()


def test_a_face_whose_eyes_are_not_all_known_is_left_out() -> None:
    one_eye = make_landmarks(FACES, [2, 2, 0, 2])
    for people in (None, [one_eye], [make_landmarks(FACES), one_eye]):
        (problem,) = black_out_eyes([record()], FACE, lambda found, image, people=people: people)
        assert isinstance(problem, Problem)
        assert problem.left_out
        assert "eyes were not found" in problem.reason


def test_an_image_that_cannot_be_read_is_named() -> None:
    def broken() -> np.ndarray:
        raise ImageError("torn")

    (problem,) = black_out_eyes([Record("a", broken)], FACE, lambda found, image: [])
    assert problem == Problem("a", "torn")


def test_images_are_looked_up_by_name_and_those_that_show_nobody_are_written_as_they_are() -> None:
    images = (LandmarkImage("photos/face.jpg", (make_landmarks(FACES),)), LandmarkImage("arm.png", ()))
    locate = known_people(LandmarkDataset(FACE, images))
    found = list(black_out_eyes([record("face"), record("arm"), record("other")], FACE, locate))
    assert isinstance(found[0], Record)
    assert isinstance(found[1], Record)
    assert (found[1].load_image() == 200).all()
    assert isinstance(found[2], Problem)


def test_an_image_that_two_entries_may_mean_is_left_out() -> None:
    images = (LandmarkImage("a/face.jpg", (make_landmarks(FACES),)), LandmarkImage("b/face.jpg", ()))
    locate = known_people(LandmarkDataset(FACE, images))
    (found,) = black_out_eyes([record("face")], FACE, locate)
    assert isinstance(found, Problem)


def test_exported_images_have_no_eyes(tmp_path: Path) -> None:
    covered = black_out_eyes([record()], FACE, lambda found, image: [make_landmarks(FACES)])
    records = [item for item in covered if isinstance(item, Record)]
    *_, report = export_dataset(records, tmp_path / "out", "folder")
    assert isinstance(report, ExportReport)
    (path,) = (p for p in (tmp_path / "out").rglob("*.png") if "mask" not in str(p).casefold())
    assert not read_image(path)[45, 20].any()
