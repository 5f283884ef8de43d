from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_lesionseg.datasets.formats.coco_masks import (
    decode_runs,
    draw_polygons,
    encode_runs,
    pack_runs,
    trace_polygons,
    unpack_runs,
)
from napari_lesionseg.errors import DatasetError

reference = pytest.importorskip("pycocotools.mask", reason="pycocotools is the judge (extra test)")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2
masks = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)
numbers = st.floats(-15, 40, allow_nan=False).map(lambda value: round(value, 3))
polygons = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8).map(
    lambda points: [value for point in points for value in point]
)


def drawn_by_pycocotools(found: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    return reference.decode(reference.merge(reference.frPyObjects(found, *shape)))


@given(masks)
def test_runs_are_those_of_pycocotools(mask: np.ndarray) -> None:
    runs = encode_runs(mask)
    packed = reference.encode(np.asfortranarray(mask))["counts"].decode()
    assert pack_runs(runs) == packed
    assert unpack_runs(packed, mask.size) == runs
    assert np.array_equal(decode_runs(runs, *mask.shape), mask)


@given(masks)
def test_outlines_give_the_mask_back_here_and_in_pycocotools(mask: np.ndarray) -> None:
    found = trace_polygons(mask)
    assert np.array_equal(draw_polygons(found, *mask.shape), mask)
    if mask.any():
        assert np.array_equal(drawn_by_pycocotools(found, mask.shape), mask)


@settings(max_examples=300)
@given(polygons, st.integers(1, 30), st.integers(1, 30))
def test_any_polygon_is_drawn_as_pycocotools_does(polygon: list[float], height: int, width: int) -> None:
    expected = drawn_by_pycocotools([polygon], (height, width))
    assert np.array_equal(draw_polygons([polygon], height, width), expected)


def test_several_polygons_are_united() -> None:
    squares = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]]
    assert draw_polygons(squares, 6, 6).sum() == 16 + 16 - 4
    assert draw_polygons([], 3, 3).sum() == 0


def test_a_hole_is_cut_free_by_one_polygon() -> None:
    mask = np.ones((9, 9), np.uint8)
    mask[3:6, 3:6] = 0
    assert len(trace_polygons(mask)) == 1
    assert trace_polygons(np.zeros((4, 4))) == []


@pytest.mark.parametrize(
    "polygon",
    [[], [1, 2], [1, 2, 3, 4], [0, 0, 1, 1, 2], [0, 0, 1, float("nan"), 2, 2], [0, 0, float("inf"), 1, 2, 2],
     [0, 0, 1e9, 0, 0, 1e9], [-9e5, -9e5, 9e5, 9e5] * 4],
)  # fmt: skip
def test_polygons_that_are_none_are_refused(polygon: list[float]) -> None:
    with pytest.raises(DatasetError):
        draw_polygons([polygon], 10, 10)


@pytest.mark.parametrize("runs", [[], [5], [9, -9, 9], [4, 6], [1.5, 7.5], ["9"], [10**30]])
def test_runs_that_do_not_fill_the_image_are_refused(runs: list[int]) -> None:
    with pytest.raises(DatasetError):
        decode_runs(runs, 3, 3)


@given(st.text(max_size=40))
def test_any_text_is_runs_or_refused(text: str) -> None:
    try:
        runs = unpack_runs(text, 100)
    except DatasetError:
        return
    assert all(0 <= run <= 100 for run in runs)


@given(
    st.text(alphabet=[chr(code) for code in range(48, 112)], max_size=60),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_any_packed_text_stays_inside_the_image(text: str, height: int, width: int) -> None:
    try:
        mask = decode_runs(unpack_runs(text, height * width), height, width)
    except DatasetError:
        return
    assert mask.shape == (height, width)
