"""Datasets that become studies, with their outlines."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.images import read_mask, write_image, write_mask
from napari_lesionseg.study.datasets import IMPORTED, import_annotations, study_from_dataset
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import IGNORED


@pytest.fixture
def folder(tmp_path):
    """Images with masks of three classes; the last image has none, the one before it a broken one."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(4):
        rng = np.random.default_rng(number)
        write_image(tmp_path / f"images/p{number}.png", rng.integers(0, 256, (20, 30, 3), np.uint8))
    for number in range(2):
        labels = np.zeros((20, 30), np.uint8)
        labels[4:12, 5:20] = 1
        labels[6:8, 7:9] = 2
        write_mask(tmp_path / f"masks/p{number}.png", labels, style="index")
    (tmp_path / "masks/p2.png").write_bytes(b"broken")
    (tmp_path / "classes.csv").write_text("index,name\n0,background\n1,lesion\n2,hair\n")
    (tmp_path / "metadata.csv").write_text("name,patient_id,diagnosis\np0,A,nevus\np1,A,nevus\n")
    return tmp_path


def test_outlines_patients_and_classes_come_along(folder):
    dataset = read_dataset(folder)
    taken, lost = study_from_dataset(folder / "study", "am", dataset)
    assert (taken, [problem.name for problem in lost]) == (2, ["p2"])
    with Study.open(folder / "study", "am") as study:
        states = {state.name: state for state in study.state.images.values()}
        assert [entry.name for entry in study.info.classes] == ["lesion", "hair"]
        assert len({entry.color for entry in study.info.classes}) == 2
        assert states["p0"].added.patient == states["p1"].added.patient == "A"
        assert [states[f"p{number}"].status for number in range(4)] == [
            Status.CORRECTED, Status.CORRECTED, Status.UNREVIEWED, Status.UNREVIEWED,
        ]  # fmt: skip
        image = next(image for image, state in study.state.images.items() if state.name == "p0")
        labels = dataset.records[0].load().labels
        np.testing.assert_array_equal(study.read_mask(image), labels)


def test_masks_that_are_not_taken_as_they_are_are_named(folder):
    lesion_masks(folder)
    write_mask(folder / "masks/p2.png", read_mask(folder / "masks/p2.png"), style="index")
    for number in range(2):
        labels = np.ones((20, 30), np.uint8)
        labels[10:] = IGNORED
        write_mask(folder / f"masks/p{number}.png", labels, style="index")
    with Study.create(folder / "study", "am", paths=folder / "images") as study:
        assert import_annotations(study, read_dataset(folder).records) == 3
        assert [str(problem) for problem in study.problems] == [
            "p3: The mask is empty, and the image is still to be outlined; press No lesion if that is right.",
            "p0 and 1 more: A study cannot mark pixels to be ignored; they become background.",
        ]
    dataset = read_dataset(folder)
    assert len(study_from_dataset(folder / "other", "am", dataset)[1]) == 2


def test_an_interrupted_study_is_not_there(folder):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_from_dataset(folder / "study", "am", read_dataset(folder), interrupt)
    assert not (folder / "study").exists()
    (folder / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt):
        study_from_dataset(folder / "empty", "am", read_dataset(folder), interrupt)
    assert list((folder / "empty").iterdir()) == []
    (folder / "mine/images").mkdir(parents=True)
    (folder / "mine/file.txt").write_text("mine")
    with pytest.raises(StudyError):
        study_from_dataset(folder / "mine", "am", read_dataset(folder))
    assert sorted(path.name for path in (folder / "mine").iterdir()) == ["file.txt", "images"]


def test_an_interrupted_study_is_kept_if_others_work_in_it(folder):
    def interrupt(done, total):
        with Study.open(folder / "study", "bo") as study:
            if images := list(study.state.images):
                study.no_lesion(images[0])
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study_from_dataset(folder / "study", "am", read_dataset(folder), interrupt)
    with Study.open(folder / "study", "bo") as study:
        assert Status.NO_LESION in {state.status for state in study.state.images.values()}


def test_what_an_annotator_saved_is_left_alone(folder):
    records = read_dataset(folder).records
    with Study.create(folder / "study", "am", paths=folder / "images") as study:
        first = next(iter(study.state.images))
        study.no_lesion(first)
        assert import_annotations(study, records) == 0  # hairs are no class of this study
        assert study.state.images[first].status is Status.NO_LESION


def test_the_study_inside_is_no_part_of_the_data_set(folder):
    before = [record.name for record in read_dataset(folder).records]
    study_from_dataset(folder / "lesionseg-study", "am", read_dataset(folder))
    assert [record.name for record in read_dataset(folder).records] == before


def lesion_masks(folder):
    """Let all four images have a mask of one class; the last one is empty."""
    (folder / "classes.csv").unlink()
    for number in range(4):
        labels = np.zeros((20, 30), np.uint8)
        labels[4:12, 5 : 5 + 4 * (3 - number)] = 1
        write_mask(folder / f"masks/p{number}.png", labels)
    return read_dataset(folder).records


def test_outlines_that_came_along_are_nobodys_verdict_and_yield_to_no_network(folder):
    records = lesion_masks(folder)
    with Study.create(folder / "study", "am", paths=folder / "images") as study:
        assert import_annotations(study, records) == 3
        image, state = next(iter(study.state.images.items()))
        assert state.annotator == IMPORTED
        assert not state.verdicts
        assert state.corrected is not None
        assert state.corrected.model is None
        study.record_prediction(image, np.ones((20, 30), np.uint8))
        np.testing.assert_array_equal(study.read_mask(image), records[0].load().labels)
        assert list(study.state.images.values())[3].status is Status.UNREVIEWED


def test_what_was_drawn_is_never_overwritten(folder):
    records = lesion_masks(folder)
    with Study.create(folder / "study", "am", paths=folder / "images") as study:
        first, second, third, _ = study.state.images
        drawn = np.zeros((20, 30), np.uint8)
        drawn[0, 0] = 1
        study.save_correction(first, drawn)
        study.record_prediction(second, drawn)
        assert import_annotations(study, records) == 1
        assert import_annotations(study, records) == 0
        np.testing.assert_array_equal(study.read_mask(first), drawn)
        np.testing.assert_array_equal(study.read_mask(second), drawn)
        assert study.state.images[third].annotator == IMPORTED


def test_images_are_known_by_their_content(folder):
    records = lesion_masks(folder)
    with Study.create(folder / "study", "am", paths=folder / "images") as study:
        swapped = [dataclasses.replace(record, name="other") for record in records]
        assert import_annotations(study, swapped) == 3


def test_copies_are_known_by_their_names(folder):
    records = lesion_masks(folder)
    (folder / "jpg").mkdir()
    for number in range(4):
        image = np.full((20, 30, 3), 40 * number, np.uint8)
        write_image(folder / f"jpg/p{number}.jpg", image)
    with Study.create(folder / "study", "am", paths=folder / "jpg", copy=True) as study:
        assert import_annotations(study, records) == 3


def test_a_blinded_study_takes_none(folder):
    records = lesion_masks(folder)
    with Study.create(folder / "study", "am", paths=folder / "images", blinded=True) as study:
        assert import_annotations(study, records) == 0
        assert {state.status for state in study.state.images.values()} == {Status.UNREVIEWED}
