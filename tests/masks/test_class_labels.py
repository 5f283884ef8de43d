from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.datasets.formats import ph2
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.errors import MaskError
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.masks.class_labels import convert_labels, label_as, label_parts
from napari_lesionseg.types import IGNORED

DIAGNOSES = ("skin", *ph2.DIAGNOSES)


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((12, 12), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_a_diagnosis_becomes_the_class_of_the_lesion() -> None:
    mask = square(2, 2, 4)
    mask[0, 0] = IGNORED
    labels = label_as(mask, "melanoma", DIAGNOSES)
    assert labels.dtype == np.uint8
    assert (labels[mask == 1] == 3).all()
    assert labels[0, 0] == IGNORED
    assert (labels[mask == 0] == 0).all()


def test_a_lesion_without_diagnosis_counts_for_nothing() -> None:
    assert (label_as(square(2, 2, 4), None, DIAGNOSES)[2:6, 2:6] == IGNORED).all()


def test_an_unknown_diagnosis_is_refused() -> None:
    with pytest.raises(MaskError, match="no class 'wart'"):
        label_as(square(2, 2, 4), "wart", DIAGNOSES)


def test_small_parts_lie_on_top_and_nothing_outside_the_lesion() -> None:
    regions = {"black": square(4, 4, 2), "red": square(3, 3, 9)}
    labels = label_parts(square(2, 2, 6), regions, ("skin", "lesion", "red", "black"))
    assert (labels[4:6, 4:6] == 3).all()
    assert labels[3, 3] == 2
    assert labels[2, 2] == 1
    assert (labels[8:] == 0).all()


def test_a_part_of_another_size_is_refused() -> None:
    with pytest.raises(MaskError, match="shape"):
        label_parts(square(2, 2, 6), {"red": np.ones((3, 3))}, ("skin", "lesion", "red"))


def test_labels_follow_their_names() -> None:
    labels = np.array([[0, 1, 2, 3, IGNORED]], np.uint8)
    old, new = ("skin", "nevus", "hair", "melanoma"), ("background", "melanoma", "nevus")
    assert convert_labels(labels, old, new).tolist() == [[0, 2, 0, 1, IGNORED]]
    assert convert_labels(labels, old, new, missing=IGNORED).tolist() == [[0, 2, IGNORED, 1, IGNORED]]
    with pytest.raises(MaskError, match="class 3"):
        convert_labels(labels, old[:3], new)


def test_ph2_gives_diagnoses_and_colors(real_data: Path) -> None:
    classes = ("skin", "lesion", *ph2.COLORS)
    records = read_dataset(real_data / "ph2-sample", "ph2").records
    colored = next(record for record in records if record.regions)
    assert isinstance(colored.mask, Path)
    mask = read_mask(colored.mask)
    regions = {name: source() for name, source in colored.regions.items() if callable(source)}
    parts = label_parts(mask, regions, classes)
    assert set(np.unique(parts)) <= {0, 1, *(classes.index(name) for name in regions)}
    assert set(np.unique(parts)) > {0}
    assert ((parts > 0) == (mask > 0)).all()
    assert {record.diagnosis for record in records} == set(ph2.DIAGNOSES)
    assert (label_as(mask, colored.diagnosis, DIAGNOSES) > 0).sum() == (mask > 0).sum()
