from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from napari_lesionseg.inference.run_length import Runs

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
