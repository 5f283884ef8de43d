"""Data sets that become studies, with their outlines."""

from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.data.importing import read_dataset
from napari_lesionseg.data.io import write_mask, write_picture
from napari_lesionseg.study.datasets import study_of_dataset, take_outlines
from napari_lesionseg.study.fold import Status
from napari_lesionseg.study.study import Study


@pytest.fixture
def folder(tmp_path):
    """Pictures with masks of three classes; the last picture has none, the one before it a broken one."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(4):
        rng = np.random.default_rng(number)
        write_picture(tmp_path / f"images/p{number}.png", rng.integers(0, 256, (20, 30, 3), np.uint8))
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
    assert study_of_dataset(folder / "study", "am", dataset) == 2
    with Study.open(folder / "study", "am") as study:
        states = {state.name: state for state in study.state.pictures.values()}
        assert [entry.name for entry in study.info.classes] == ["lesion", "hair"]
        assert len({entry.colour for entry in study.info.classes}) == 2
        assert states["p0"].added.patient == states["p1"].added.patient == "A"
        assert [states[f"p{number}"].status for number in range(4)] == [
            Status.PREDICTED, Status.PREDICTED, Status.NOT_LOOKED_AT, Status.NOT_LOOKED_AT,
        ]  # fmt: skip
        picture = next(picture for picture, state in study.state.pictures.items() if state.name == "p0")
        labels = dataset.records[0].load().labels
        np.testing.assert_array_equal(study.outline(picture), labels)


def test_what_a_reader_did_is_left_alone(folder):
    records = read_dataset(folder).records
    with Study.create(folder / "study", "am", pictures=folder / "images") as study:
        first = next(iter(study.state.pictures))
        study.no_lesion(first)
        assert take_outlines(study, records) == 0  # hairs are no class of this study
        assert study.state.pictures[first].status is Status.NO_LESION


def test_the_study_inside_is_no_part_of_the_data_set(folder):
    before = [record.name for record in read_dataset(folder).records]
    study_of_dataset(folder / "lesionseg-study", "am", read_dataset(folder))
    assert [record.name for record in read_dataset(folder).records] == before
