from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_lesionseg.errors import MaskError
from napari_lesionseg.evaluation.instances import MatchCounts
from napari_lesionseg.evaluation.panoptic import PanopticMap, PanopticQuality, make_panoptic, panoptic_quality
from napari_lesionseg.types import IGNORED

THINGS = {1, 2}  # of four classes; 0 and 3 are stuff
class_maps = hnp.arrays(np.uint8, (6, 8), elements=st.sampled_from([0, 1, 2, 3, IGNORED]))
id_maps = hnp.arrays(np.int32, (6, 8), elements=st.integers(0, 3))


def drawn(seed: int) -> tuple[PanopticMap, PanopticMap]:
    """Draw discs of three classes, moved, missed and mistaken in the prediction; some pixels ignored."""
    rng = np.random.default_rng(seed)
    rows, cols = np.ogrid[:40, :50]
    labels, ids = np.zeros((2, 40, 50), np.uint8), np.zeros((2, 40, 50), np.int32)
    for number in range(1, 9):
        row, col, radius, kind = (
            rng.uniform(0, 40),
            rng.uniform(0, 50),
            rng.uniform(3, 10),
            rng.integers(1, 4),
        )
        down, right = rng.normal(0, 1, 2)
        own = (rows - row) ** 2 + (cols - col) ** 2 < radius**2
        moved = (rows - row - down) ** 2 + (cols - col - right) ** 2 < radius**2
        labels[1][own], ids[1][own] = kind, number
        if rng.random() < 0.8:
            labels[0][moved], ids[0][moved] = kind if rng.random() < 0.8 else rng.integers(1, 4), number
    ids[~np.isin(labels, list(THINGS))] = 0
    labels[1, :12, :20], ids[1, :12, :20] = IGNORED, 0
    return PanopticMap(labels[0], ids[0]), PanopticMap(labels[1], ids[1])


# Panoptic quality of classes 0 to 3 in `drawn(seed)`, by torchmetrics 1.9.0, an absent class being 0.
JUDGED = (
    (0.860561, 0.787396, 0.0, 0.0),
    (0.832308, 0.0, 0.568801, 0.823529),
    (0.863469, 0.585759, 0.730623, 0.968085),
    (0.865684, 0.915441, 0.548611, 0.536398),
)


@pytest.mark.parametrize("seed", range(4))
def test_quality_is_that_of_torchmetrics(seed: int) -> None:
    quality = panoptic_quality(*drawn(seed), 4, THINGS)
    assert [part.quality if part.present else 0 for part in quality.classes] == pytest.approx(
        JUDGED[seed], abs=1e-6
    )


def square(side: int, number: int, kind: int = 1) -> PanopticMap:
    classes, ids = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.int32)
    classes[:side, :side], ids[:side, :side] = kind, number
    return PanopticMap(classes, ids)


def test_numbers_themselves_do_not_matter() -> None:
    quality = panoptic_quality(square(10, 3), square(10, 8), 2, {1})
    assert quality.quality == quality.quality_of_things == quality.quality_of_stuff == 1


def test_half_is_not_enough() -> None:
    truth, guess = square(10, 1), square(10, 1)
    guess.classes[5:10, :10] = guess.ids[5:10, :10] = 0
    assert panoptic_quality(guess, truth, 2, {1}).classes[1] == MatchCounts(extra=1, missed=1)


def test_another_class_is_another_segment() -> None:
    quality = panoptic_quality(square(10, 1, kind=2), square(10, 1, kind=1), 3, {1, 2})
    assert quality.classes[1] == MatchCounts(missed=1)
    assert quality.classes[2] == MatchCounts(extra=1)
    assert quality.quality_of_things == 0
    assert quality.quality_of_stuff == 1


def test_what_lies_on_ignored_pixels_is_not_held_against_the_prediction() -> None:
    truth = square(0, 1)
    truth.classes[:6, :10] = IGNORED
    assert panoptic_quality(square(10, 1), truth, 2, {1}).classes[1] == MatchCounts()
    truth.classes[:6] = 0
    assert panoptic_quality(square(10, 1), truth, 2, {1}).classes[1] == MatchCounts(extra=1)


def test_images_add_up() -> None:
    one, two = (panoptic_quality(*drawn(seed), 4, THINGS) for seed in (0, 1))
    total = one + two
    assert total.classes[1].matched == one.classes[1].matched + two.classes[1].matched
    with pytest.raises(MaskError, match="different classes"):
        _ = one + PanopticQuality((MatchCounts(),), frozenset())


def test_absent_classes_are_left_out_of_the_mean() -> None:
    quality = panoptic_quality(square(10, 1), square(10, 1), 7, {1, 5})
    assert quality.quality == 1
    assert PanopticQuality((MatchCounts(),), frozenset()).quality == 1


@given(class_maps, id_maps)
def test_every_pixel_has_a_class_and_every_thing_one_number(labels: np.ndarray, ids: np.ndarray) -> None:
    image = make_panoptic(labels, ids, THINGS)
    assert ((image.ids > 0) == np.isin(image.classes, list(THINGS))).all()
    for number in np.unique(image.ids[image.ids > 0]):
        assert len(np.unique(image.classes[image.ids == number])) == 1
    stuff = ~np.isin(labels, list(THINGS))
    assert (image.classes[stuff] == labels[stuff]).all()
    assert panoptic_quality(image, image, 4, THINGS).quality == 1


def test_things_without_a_number_get_one() -> None:
    labels, ids = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.int32)
    labels[:3, :3], ids[:3, :3] = 1, 4
    labels[5:, 5:] = 1
    labels[5:, :2] = 3
    image = make_panoptic(labels, ids, {1})
    assert image.ids[0, 0] == 4
    assert image.ids[7, 7] == 5
    assert image.ids[7, 0] == 0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(MaskError, match="classes"):
        make_panoptic(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.int32), {1})
    small = PanopticMap(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.int32))
    with pytest.raises(MaskError, match="different shapes"):
        panoptic_quality(square(3, 1), small, 2, {1})
