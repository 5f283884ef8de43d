"""Landmarks exported with their images, and read back as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.datasets.landmarks import read_landmarks
from napari_lesionseg.datasets.manifest import verify
from napari_lesionseg.datasets.records import NOT_OUTLINED, Provenance, Record
from napari_lesionseg.datasets.splits import WHOLE
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import read_image, write_image
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


@pytest.mark.parametrize("name", FILES)
def test_landmarks_come_in_as_they_went_out(kit, marked: list[Record], tmp_path: Path, name: str) -> None:
    kit.last(export_dataset(marked, tmp_path / "out", name, config=ALL))
    report = kit.last(import_dataset(tmp_path / "out", tmp_path / "back"))
    assert (report.written, report.problems) == (6, ())
    known = {record.name: record for record in marked}
    for folder, title in (("out", name), ("back", "coco-keypoints")):
        found = read_dataset(tmp_path / folder)
        assert (found.format, found.problems) == (title, ())
        assert {record.name for record in found.records} == set(known)
        for record in found.records:
            one = known[record.name]
            assert same(record.people or (), one.people)
            assert record.skeleton is not None
            assert record.skeleton.names == SKELETON.names
            assert (record.patient, record.diagnosis) == (one.patient, one.diagnosis)
            assert record.provenance == one.provenance
            assert np.array_equal(record.load_image(), one.load_image())
            if name == "coco-keypoints":  # DeepLabCut's tables have no lines
                assert record.skeleton == SKELETON


@pytest.mark.parametrize("name", FILES)
def test_parts_come_in_again(kit, marked: list[Record], tmp_path: Path, name: str) -> None:
    parts = {record.name: "val" if number < 2 else "train" for number, record in enumerate(marked)}
    kit.last(export_dataset(marked, tmp_path / "out", name, config=ALL, parts=parts))
    kit.last(import_dataset(tmp_path / "out", tmp_path / "back"))
    for folder in ("out", "back"):
        assert {record.name: record.part for record in read_dataset(tmp_path / folder).records} == parts


def coco(folder: Path, name: str, **entry: object) -> Path:
    """Write a COCO file of one person, its image, and an image that is not listed."""
    folder.mkdir(exist_ok=True)
    for number in range(2):
        write_image(folder / f"photo{number}.png", np.full((30, 40, 3), 100 * number, np.uint8))
    content = {
        "images": [
            {"id": 7, "file_name": "photo0.png", "width": 40, "height": 30},
            {"id": 8, "file_name": "gone.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "keypoints": [12.5, 8.25, 2, 20, 9, 1], **entry}
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": ["left_eye", "right_eye"], "skeleton": []}],
    }
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", ["labels.json", "person_keypoints_val.json"])
def test_a_coco_file_of_others_is_told_by_its_name_or_content(tmp_path: Path, name: str) -> None:
    attributes = {"Diagnosis": "nevus", "id": "A", "Glasses": True}
    folder = coco(tmp_path / "set", name, attributes=attributes, segmentation=[])
    for source in (folder, folder / name):
        dataset = read_dataset(source)
        first, second = dataset.records
        assert dataset.format == "coco-keypoints"
        assert first.people is not None
        assert first.people[0].points.tolist() == [[8.25, 12.5], [9.0, 20.0]]
        assert (first.people[0].id, first.diagnosis) == ("A", "nevus")
        assert first.metadata == {"glasses": "True"}
        assert (second.name, second.people, second.provenance) == ("photo1", None, NOT_OUTLINED)
        assert [(problem.name, problem.reason) for problem in dataset.problems] == [
            ("gone.png", "The image 'gone.png' is not there.")
        ]


def test_a_coco_file_of_outlines_stays_one(tmp_path: Path) -> None:
    outline = [[1, 1, 20, 1, 20, 20, 1, 20]]
    folder = coco(tmp_path / "set", "labels.json", segmentation=outline)
    assert read_dataset(folder).format == "coco"
    assert read_dataset(folder, "coco-keypoints").records[0].people


def test_an_image_of_another_folder_of_deeplabcut_is_another_image(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / "labeled-data" / f"video{number}"
        folder.mkdir(parents=True)
        write_image(folder / "img01.png", np.full((30, 40, 3), 100 * number, np.uint8))
    table = "scorer,,,me,me\nbodyparts,,,nose,nose\ncoords,,,x,y\nlabeled-data,video0,img01.png,3,4\n"
    (tmp_path / "labeled-data" / "video0" / "CollectedData_me.csv").write_text(table)
    dataset = read_dataset(tmp_path)
    assert (dataset.format, dataset.problems) == ("deeplabcut", ())
    people = {record.image.parent.name: record.people for record in dataset.records}
    assert people["video1"] is None
    assert people["video0"][0].points.tolist() == [[4, 3]]


def test_files_of_different_landmarks_are_refused(kit, marked: list[Record], tmp_path: Path) -> None:
    kit.last(export_dataset(marked, tmp_path / "out", "coco-keypoints", config=ALL))
    coco(tmp_path / "out", "more.json")
    with pytest.raises(DatasetError, match="other landmarks than"):
        read_dataset(tmp_path / "out", "coco-keypoints")
