from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.landmarks import write_landmarks
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage
from napari_lesionseg.errors import CancelledError, LesionSegError, StudyError
from napari_lesionseg.plugin.workbench import open_study
from napari_lesionseg.plugin.workbench.open_study import (
    NewStudy,
    import_folder,
    make_study,
    open_folder,
    open_samples,
)
from napari_lesionseg.study.datasets import IMPORTED, study_records
from napari_lesionseg.study.landmarks import current_marks
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Mark, make_landmarks


@pytest.fixture
def photos(tmp_path: Path) -> Any:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"IMD{number}.png")
    return folder


def test_a_folder_of_images_becomes_a_study_and_stays_one(photos: Path) -> None:
    with open_folder(photos, "am") as study:
        assert study.folder == photos / STUDY_FOLDER
        images = list(study.state.images)
        assert len(images) == 3
        study.approve(images[0], np.ones((20, 30), np.uint8))
    with open_folder(photos, "am") as study:
        assert list(study.state.images) == images
        assert study.state.images[images[0]].approved is not None


def test_images_that_were_added_since_are_taken_in(photos: Path) -> None:
    open_folder(photos, "am").close()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photos / "IMD9.png")
    with open_folder(photos, "am") as study:
        assert len(study.state.images) == 4


def test_a_study_is_opened_as_it_is(make_study: Any) -> None:
    folder = make_study(2).folder
    with open_folder(folder, "bo") as study:
        assert len(study.state.images) == 2


def test_a_study_is_opened_though_its_images_are_gone(photos: Path, tmp_path: Path) -> None:
    open_folder(photos, "am").close()
    for image in photos.glob("*.png"):
        image.rename(tmp_path / image.name)
    with open_folder(photos, "am") as study:
        assert len(study.state.images) == 3


@pytest.mark.parametrize("annotator", ["", "a b", "../x"])
def test_an_invalid_annotator_is_reported(photos: Path, annotator: Any) -> None:
    with pytest.raises(StudyError, match="name"):
        open_folder(photos, annotator)


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LesionSegError):
        open_folder(tmp_path, "am")
    assert not (tmp_path / STUDY_FOLDER).exists()


def test_samples_and_images_of_the_viewer(tmp_path: Path) -> None:
    with open_samples("am") as study:
        assert len(study.state.images) == 6
    images = {"a": np.zeros((9, 9, 3), np.uint8), "b": np.ones((9, 9, 3), np.uint8)}
    with make_study(NewStudy(tmp_path / "new", "am", images=images)) as study:
        assert [state.name for state in study.state.images.values()] == ["a", "b"]


def test_what_a_new_study_is_to_be(photos: Path, tmp_path: Path) -> None:
    plan = NewStudy(
        tmp_path / "new",
        "am",
        images_folder=photos,
        classes=("lesion", "ulcer"),
        key_file=tmp_path / "key.csv",
        blinded=True,
    )
    with make_study(plan) as study:
        assert [entry.name for entry in study.info.classes] == ["lesion", "ulcer"]
        assert len({entry.color for entry in study.info.classes}) == 2
        assert study.info.blinded
        assert study.info.pseudonymized
        assert all(state.name.startswith("P") for state in study.state.images.values())
        assert all(state.added.own for state in study.state.images.values())
    assert "IMD2" in (tmp_path / "key.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("more", [{"copy": True}, {"key_file": Path("key.csv")}])
def test_a_study_of_copies_inside_its_images_is_opened_as_it_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Any
) -> None:
    """Its images are not taken in once more from the files that were copied."""
    monkeypatch.chdir(tmp_path)
    make_study(NewStudy(photos / STUDY_FOLDER, "am", images_folder=photos, **more)).close()
    with open_folder(photos, "bo") as study:
        assert len(study.state.images) == 3


def test_patients_and_diagnoses_of_a_data_set_are_taken_over(real_data: Path, tmp_path: Path) -> None:
    plan = NewStudy(tmp_path / "new", "am", images_folder=real_data / "ph2-sample")
    with make_study(plan) as study:
        diagnoses = {state.added.stratify_by for state in study.state.images.values()}
    assert len(diagnoses) > 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images_folder": None}, "holds the images"),
        ({"images_folder": Path("nowhere")}, "no folder"),
        ({"folder": Path()}, "new or empty folder"),
        ({"annotator": "a b"}, "annotator's name"),
        ({"classes": ()}, "at least one"),
    ],
)
def test_settings_that_cannot_be_used_are_reported_before(
    photos: Path, tmp_path: Path, change: Any, words: Any
) -> None:
    plan = replace(NewStudy(tmp_path / "new", "am", images_folder=photos), **change)
    assert words in plan.problem
    with pytest.raises(StudyError, match=words):
        make_study(plan)


def test_an_existing_study_is_reported(photos: Path, tmp_path: Path) -> None:
    plan = NewStudy(tmp_path / "new", "am", images_folder=photos)
    make_study(plan).close()
    assert "already" in plan.problem


def put_mask(folder: Any, number: Any) -> Any:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5 : 10 + number] = 255
    Image.fromarray(mask).save(folder / f"IMD{number}_segmentation.png")
    return mask // 255


def test_masks_in_the_folder_are_there_to_be_corrected(photos: Path) -> None:
    mask = put_mask(photos, 0)
    with open_folder(photos, "am") as study:
        first, second, _ = study.state.images
        np.testing.assert_array_equal(study.read_mask(first), mask)
        assert study.state.images[first].status is Status.CORRECTED
        assert study.state.images[first].annotator == IMPORTED
        assert study.read_mask(second) is None


def test_masks_that_come_with_new_images_are_taken_over_and_no_others(photos: Path) -> None:
    put_mask(photos, 0)
    with open_folder(photos, "am") as study:
        first = next(iter(study.state.images))
        study.approve(first, np.ones((20, 30), np.uint8))
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(photos / "IMD3.png")
    mask = put_mask(photos, 3)
    with open_folder(photos, "am") as study:
        assert study.read_mask(first).all()
        np.testing.assert_array_equal(study.read_mask(list(study.state.images)[3]), mask)


def test_a_study_is_left_when_its_masks_are_cancelled(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []
    monkeypatch.setattr(open_study.Study, "close", lambda study: left.append(study.folder))

    def cancel(*_: Any) -> None:
        raise CancelledError("Cancelled.")

    monkeypatch.setattr(open_study, "import_annotations", cancel)
    with pytest.raises(CancelledError):
        make_study(NewStudy(tmp_path / "study", "am", photos))
    assert left[-1] == tmp_path / "study"


KILLED = """
import os, sys
from pathlib import Path
from napari_lesionseg.plugin.workbench.open_study import open_folder
from napari_lesionseg.study import datasets, study

folder, module, name, calls = sys.argv[1:]
module, left = {"datasets": datasets, "study": study.Study}[module], [int(calls)]
real = getattr(module, name)

def killed(*given, **named):
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    return real(*given, **named)

setattr(module, name, killed)
open_folder(Path(folder), "am")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [("study", "add_images", 0), ("datasets", "_import_mask", 1), ("datasets", "_import_mask", 2)],
)
def test_a_study_whose_making_was_killed_is_completed(
    photos: Path, module: str, name: str, calls: int
) -> None:
    for number in range(3):
        mask = np.zeros((20, 30), np.uint8)
        mask[5:15, 5 : 10 + number] = 255
        Image.fromarray(mask).save(photos / f"IMD{number}_segmentation.png")
    command = [sys.executable, "-c", KILLED, str(photos), module, name, str(calls)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    if module == "datasets":
        with open_folder(photos / STUDY_FOLDER, "am") as study:
            assert ["interrupted" in problem.reason for problem in study.problems] == [True]
    with open_folder(photos, "am") as study:
        areas = sorted(np.count_nonzero(record.load().labels) for record in study_records(study))
        assert areas == [50, 60, 70]
    with open_folder(photos, "am") as study:
        assert not study.problems


def test_a_data_set_is_imported_into_a_study(tmp_path: Path) -> None:
    source = tmp_path / "source"
    samples = {f"N{number}": np.full((30, 40, 3), 200 - number, np.uint8) for number in range(3)}
    with Study.create(tmp_path / "first", "am", images=samples) as study:
        for image in study.state.images:
            study.approve(image, np.ones((30, 40), np.uint8))
        for _ in export_dataset(study_records(study), source, "coco"):
            pass
    steps: list[tuple[int, int]] = []
    with import_folder(source, tmp_path / "out", "bk", lambda *step: steps.append(step)) as study:
        assert study.folder == tmp_path / "out" / STUDY_FOLDER
        assert study.annotator == "bk"
        assert len(study.state.images) == 3
        assert all(study.read_mask(image).all() for image in study.state.images)
    assert steps


def test_an_odd_mask_is_named_and_the_others_are_taken(photos: Path) -> None:
    """The rest of a folder whose masks are black and white but for one of class indices."""
    for number in range(3):
        put_mask(photos, number)
    Image.fromarray(np.full((20, 30), 3, np.uint8)).save(photos / "IMD0_segmentation.png")
    with open_folder(photos, "am") as study:
        drawn = [study.read_mask(image) is not None for image in study.state.images]
        assert drawn == [False, True, True]
        (problem,) = study.problems
        assert str(problem).startswith("IMD0: The mask holds class 3")


def test_what_needs_a_look_is_told_once(photos: Path, tmp_path: Path) -> None:
    line = np.zeros((20, 30), np.uint8)
    line[4:16, 4:26] = 255
    line[5:15, 5:25] = 0
    Image.fromarray(line).save(photos / "IMD0_segmentation.png")
    with import_folder(photos, tmp_path / "out", "am") as study:
        (problem,) = study.problems
        assert "a line around the lesion" in str(problem)


def test_odd_names_are_opened_or_named(photos: Path) -> None:
    names = [b"a:b", b"back\\slash", b"x" * 245, b"bl\xe5", "\u6f22".encode() * 80, b"new\nline", b"p[0]*"]
    for number, name in enumerate(names, 10):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(photos / "t.png")
        (photos / "t.png").rename(photos / os.fsdecode(name + b".png"))
    with open_folder(photos, "am") as study:
        named = {Path(problem.file).name for problem in study.problems}
        assert len(study.state.images) + len(named) == 10
        assert len(study.state.images) >= 7
        for image in study.state.images:
            study.approve(image, np.ones(study.read_image(image).shape[:2], np.uint8))
    with open_folder(photos, "am") as study:
        assert all(state.approved is not None for state in study.state.images.values())


def test_the_table_of_a_folder_without_masks_keeps_patients_in_one_part(photos: Path, tmp_path: Path) -> None:
    for number in range(3, 9):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"IMD{number}.png")
    rows = "".join(f"imd{number}.PNG;P{number // 3}\n" for number in range(9))
    (photos / "metadata.csv").write_text(f"\n\nName;Patient ID\n{rows}", encoding="utf-16")
    with open_folder(photos, "am") as study:
        for image in study.state.images:
            study.approve(image, np.ones((20, 30), np.uint8))
        *_, report = export_dataset(study_records(study), tmp_path / "out", "folder")
        assert study.problems == ()
    assert report.parts == {"train": 3, "val": 3, "test": 3}
    lines = (tmp_path / "out/metadata.csv").read_text(encoding="utf-8").splitlines()[1:]
    parts = {(line.split(",")[1], line.split(",")[-1]) for line in lines}
    assert len({patient for patient, _ in parts}) == len(parts) == 3


def test_a_dataset_of_landmarks_becomes_a_study_of_landmarks(photos: Path) -> None:
    skeleton = Skeleton.from_names(["left_eye", "right_eye"])
    people = make_landmarks([(5.5, 6), (7, 20.25)])
    write_landmarks(
        photos / "keypoints.json",
        LandmarkDataset(skeleton, (LandmarkImage("IMD0.png", (people,), (20, 30)),)),
    )
    with open_folder(photos, "am") as study:
        assert study.info.landmarks == skeleton
        marks = {state.name: current_marks(state) for state in study.state.images.values()}
    assert marks == {
        "IMD0": (Mark("left_eye", 5.5, 6.0), Mark("right_eye", 7.0, 20.25)),
        "IMD1": (),
        "IMD2": (),
    }
