"""Landmarks exported with their images, and read back as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.landmarks import read_landmarks
from napari_lesionseg.datasets.manifest import verify
from napari_lesionseg.datasets.records import NOT_OUTLINED, Provenance, Record
from napari_lesionseg.datasets.splits import WHOLE
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import read_image
from napari_lesionseg.types import Landmarks, make_landmarks

SKELETON = Skeleton.from_names(["nose", "left_eye", "right_eye"], [(0, 1), (0, 2)])
ALL = ExportConfig(pseudonymize="nothing", shares=WHOLE)
FILES = {
    "coco-keypoints": ("images", "annotations/keypoints.json"),
    "deeplabcut": ("labeled-data/images", "labeled-data/images/CollectedData_lesionseg.csv"),
}


def person(seed: int, *, occluded: bool = False) -> Landmarks:
    points = np.random.default_rng(seed).uniform(0, 39, (3, 2)).astype(np.float32)
    points[2] = np.nan if seed % 2 else points[2]
    return make_landmarks(points, [1 if occluded else 2, 2, 0 if seed % 2 else 2], id=f"p{seed % 3}")


@pytest.fixture
def marked(kit) -> list[Record]:
    made = [kit.record(seed, mask=None, people=(person(seed),), skeleton=SKELETON) for seed in range(6)]
    made[0] = replace(made[0], people=(person(0), person(1)))
    made[1] = replace(made[1], people=(), provenance=Provenance("am", status="no lesion"))
    made[2] = replace(made[2], image=kit.image(2, (40, 90)))
    return made


def same(found: tuple[Landmarks, ...], known: tuple[Landmarks, ...] | None) -> bool:
    pairs = list(zip(found, known or (), strict=True))
    return all(
        np.array_equal(one.points, other.points, equal_nan=True)
        and np.array_equal(one.visibility, other.visibility)
        and one.id == other.id
        for one, other in pairs
    )


@pytest.mark.parametrize("name", FILES)
def test_points_and_pixels_are_read_back_as_they_were(
    kit, marked: list[Record], tmp_path: Path, name: str
) -> None:
    report = kit.last(export_dataset(marked, tmp_path / "out", name, config=ALL))
    assert (report.written, report.problems) == (6, ())
    images, file = (tmp_path / "out" / part for part in FILES[name])
    dataset = read_landmarks(file)
    assert dataset.problems == ()
    assert dataset.skeleton.names == SKELETON.names
    known = {record.name: record for record in marked}
    assert {Path(entry.name).stem for entry in dataset.images} == set(known)
    for entry in dataset.images:
        record = known[Path(entry.name).stem]
        assert same(entry.people, record.people)
        assert np.array_equal(read_image(images / Path(entry.name).name), record.load_image())
    assert kit.last(verify(tmp_path / "out")).intact
    again = read_dataset(tmp_path / "out")
    assert {record.patient for record in again.records} == {"P0", "P1", "P2"}
    assert "Landmarks: nose, left_eye, right_eye." in (tmp_path / "out/DATASHEET.md").read_text()


@pytest.mark.parametrize("name", FILES)
def test_parts_have_a_file_each_and_share_no_patient(
    kit, marked: list[Record], tmp_path: Path, name: str
) -> None:
    config = ExportConfig(shares={"train": 0.5, "val": 0.5})
    kit.last(export_dataset(marked, tmp_path / "out", name, config=config))
    ending = Path(FILES[name][1]).suffix
    files = [
        path for path in (tmp_path / "out").rglob(f"*{ending}") if "ata_" in path.name or "keyp" in path.name
    ]
    assert len(files) == 2
    first, second = ({entry.name for entry in read_landmarks(file).images} for file in files)
    assert first
    assert second
    assert not first & second


def test_occluded_landmarks_are_counted_where_the_format_cannot_mark_them(
    kit, marked: list[Record], tmp_path: Path
) -> None:
    marked[3] = replace(marked[3], people=(person(3, occluded=True),))
    report = kit.last(export_dataset(marked, tmp_path / "dlc", "deeplabcut", config=ALL))
    (problem,) = report.problems
    assert problem.reason.startswith("1 occluded landmarks are written as visible ones")
    assert not problem.left_out
    assert kit.last(export_dataset(marked, tmp_path / "coco", "coco-keypoints", config=ALL)).problems == ()


def test_landmarks_that_nobody_approved_are_left_out(kit, marked: list[Record], tmp_path: Path) -> None:
    marked[3] = replace(marked[3], provenance=Provenance(status="predicted"))
    marked[4] = replace(marked[4], people=None, provenance=NOT_OUTLINED)
    report = kit.last(export_dataset(marked, tmp_path / "out", "coco-keypoints", config=ALL))
    assert [problem.reason for problem in report.problems] == [
        "The landmarks are not signed by an annotator (predicted).",
        "The image has no landmarks yet.",
    ]
    assert report.written == 4


def test_outlines_and_landmarks_are_not_mixed_up(kit, marked: list[Record], tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"landmarks, no outlines; choose the format coco-keypoints or deep"
    ):
        kit.last(export_dataset(marked, tmp_path / "out", "isic"))
    with pytest.raises(DatasetError, match="outlines, no landmarks; choose the format"):
        kit.last(export_dataset([kit.record(1)], tmp_path / "out", "deeplabcut"))
    assert not (tmp_path / "out").exists()
