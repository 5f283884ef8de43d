from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from napari_lesionseg.masks.components import (
    Runs,
    bounding_box,
    component_at,
    connected_components,
    have_several_parts,
    largest_component,
)

masks = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
FOUR, EIGHT = ndimage.generate_binary_structure(2, 1), np.ones((3, 3), bool)


def painted(mask: np.ndarray, runs: Runs, numbers: np.ndarray) -> np.ndarray:
    """Write the number of its run's part, from 1, into every pixel."""
    labels = np.zeros(mask.shape, int)
    rows, cols = np.nonzero(mask)
    labels[rows, cols] = numbers[runs.at(rows, cols)] + 1
    return labels


@given(masks, st.booleans())
def test_parts_are_those_of_a_labeling_in_the_same_order(mask: np.ndarray, diagonal: bool) -> None:
    runs = Runs.of(mask)
    expected, _ = ndimage.label(mask, EIGHT if diagonal else FOUR)
    assert np.array_equal(painted(mask, runs, runs.parts(diagonal=diagonal)), expected)
    assert runs.lengths.sum() == mask.sum()


@given(masks, st.booleans())
def test_chosen_runs_are_written_and_no_others(mask: np.ndarray, diagonal: bool) -> None:
    runs = Runs.of(mask)
    parts = runs.parts(diagonal=diagonal)
    changed = mask.copy()
    runs.write(changed, parts == 0, False)
    expected, _ = ndimage.label(mask, EIGHT if diagonal else FOUR)
    assert np.array_equal(changed, mask & (expected != 1))


@given(masks)
def test_gaps_are_the_runs_of_what_is_not_set(mask: np.ndarray) -> None:
    gaps = Runs.of(mask).gaps(len(mask))
    expected = Runs.of(np.pad(~mask, 1, constant_values=True))
    assert np.array_equal(gaps.starts, expected.starts)
    assert np.array_equal(gaps.stops, expected.stops)
    assert gaps.width == expected.width


@given(masks)
def test_runs_are_counted_without_a_frame(mask: np.ndarray) -> None:
    runs, framed = Runs.of(mask), Runs.of(np.pad(mask, 1)).without_frame()
    assert np.array_equal(framed.starts, runs.starts)
    assert np.array_equal(framed.stops, runs.stops)
    assert framed.width == runs.width


def test_masks_taller_than_a_strip(rng: np.random.Generator) -> None:
    mask = ndimage.gaussian_filter(rng.random((150, 40)), 3) > 0.5
    runs = Runs.of(mask)
    expected, _ = ndimage.label(mask, EIGHT)
    assert np.array_equal(painted(mask, runs, runs.parts(diagonal=True)), expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_nothing_has_no_runs(shape: tuple[int, int]) -> None:
    runs = Runs.of(np.zeros(shape, bool))
    assert len(runs.starts) == 0
    assert len(runs.parts(diagonal=True)) == 0


def test_parts_are_numbered() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[0:2, 0:2] = 1
    mask[2, 2] = 1  # touches at the corner
    mask[4:, 5:] = 1
    parts = connected_components(mask)
    assert parts.dtype == np.int32
    assert parts.max() == 2
    assert parts[2, 2] == parts[0, 0] == 1


def test_pixels_of_different_classes_are_different_parts() -> None:
    parts = connected_components(np.array([[1, 1, 2, 2]], np.uint8))
    np.testing.assert_array_equal(parts, [[1, 1, 2, 2]])
    assert connected_components(np.array([[True, False, True]])).max() == 2


@given(masks, st.booleans())
def test_parts_agree_with_scipy(mask: np.ndarray, diagonal: bool) -> None:
    expected, _ = ndimage.label(mask, EIGHT if diagonal else FOUR)
    np.testing.assert_array_equal(connected_components(mask, diagonal=diagonal), expected)


@given(masks, st.integers(0, 3))
def test_the_bounding_box_holds_everything_and_no_more(mask: np.ndarray, margin: int) -> None:
    box = bounding_box(mask, margin)
    if box is None:
        assert not mask.any()
        return
    assert mask[box].sum() == mask.sum()
    for axis, side in enumerate(mask.shape):
        places = np.flatnonzero(mask.any(axis=1 - axis))
        assert box[axis] == slice(max(places[0] - margin, 0), min(places[-1] + 1 + margin, side))


def test_the_largest_part_and_the_part_at_a_pixel() -> None:
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = True
    mask[2:4, 3:6] = True
    assert np.array_equal(np.argwhere(component_at(mask, (0, 0))), [[0, 0]])
    assert not component_at(mask, (5, 5)).any()
    assert largest_component(mask).sum() == component_at(mask, (3, 4)).sum() == 6
    assert not largest_component(np.zeros((3, 3), bool)).any()


def two_parts(second: int, label: int = 1) -> np.ndarray:
    labels = np.zeros((20, 40), np.uint8)
    labels[2:12, 2:12], labels[2 : 2 + second, 20:30] = 1, label
    return labels


def test_several_parts_count_if_they_are_large_and_of_one_class() -> None:
    assert have_several_parts([two_parts(8)])
    assert not have_several_parts([two_parts(0), two_parts(0)])
    assert not have_several_parts([np.zeros((20, 40), np.uint8)])
    assert not have_several_parts([two_parts(8, label=2)])
    specks = two_parts(0)
    specks[18, 30:33] = 1
    assert not have_several_parts([specks])


def test_a_few_masks_with_several_parts_do_not_count() -> None:
    assert not have_several_parts([two_parts(8), *[two_parts(0)] * 9])
    assert have_several_parts([two_parts(8), *[two_parts(0)] * 8])
