from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.training.simulated_prompts import correct, simulate_box, simulate_lasso

SHAPE = (120, 140)


@pytest.fixture
def lesion() -> NDArray[np.bool_]:
    rows, cols = np.ogrid[: SHAPE[0], : SHAPE[1]]
    disc: NDArray[np.bool_] = np.hypot((rows - 60) / 30, (cols - 70) / 40) <= 1
    return disc


def jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_boxes_are_around_the_lesion_on_average_and_never_exact(lesion: NDArray[np.bool_]) -> None:
    rng = np.random.default_rng(0)
    boxes = np.array(
        [(b.top, b.left, b.bottom, b.right) for b in (simulate_box(lesion, rng) for _ in range(300))]
    )
    np.testing.assert_allclose(boxes.mean(axis=0), (30, 30, 91, 111), atol=1)
    assert (boxes.std(axis=0) > 2).all()
    assert (boxes.std(axis=0) < 8).all()


def test_lassos_are_too_wide_and_rough_but_in_one_piece(lesion: NDArray[np.bool_]) -> None:
    rng, radius = np.random.default_rng(0), math.sqrt(30 * 40)
    lassos = [simulate_lasso(lesion, rng) for _ in range(40)]
    wider = [math.sqrt(lasso.sum() / math.pi) / radius - 1 for lasso in lassos]
    assert 0.05 < np.mean(wider) < 0.14
    assert all(ndimage.label(lasso)[1] == 1 for lasso in lassos)
    scores = [jaccard(lasso, lesion) for lasso in lassos]
    assert 0.75 < np.mean(scores) < 0.92
    grown = ndimage.distance_transform_edt(~lesion) <= 0.1 * radius
    assert max(jaccard(lasso, grown) for lasso in lassos) < 1  # no lasso is the outline moved outward


def test_two_lesions_are_one_gesture(lesion: NDArray[np.bool_]) -> None:
    both = lesion | np.roll(lesion, 60, axis=1)
    assert simulate_lasso(both, np.random.default_rng(1)).any()


@pytest.mark.parametrize("positive", [True, False])
def test_corrections_lie_in_the_error(lesion: NDArray[np.bool_], positive: bool) -> None:
    half = lesion[::2, ::2]
    right = np.arange(half.shape[1]) > 35
    predicted, truth = (half & ~right, half) if positive else (half, half & ~right)
    for seed in range(20):
        planes = np.zeros((2, *SHAPE), np.float32)
        correct(predicted, truth, planes, np.random.default_rng(seed))
        drawn = planes[0 if positive else 1]
        assert drawn.any()
        assert not planes[1 if positive else 0].any()
        center = ndimage.center_of_mass(drawn)
        assert (half & right)[round(center[0] / 2), round(center[1] / 2)]


def test_strokes_are_longer_than_clicks(lesion: NDArray[np.bool_]) -> None:
    half, areas = lesion[::2, ::2], []
    for seed in range(40):
        planes = np.zeros((2, *SHAPE), np.float32)
        correct(np.zeros_like(half), half, planes, np.random.default_rng(seed))
        areas.append(planes[0].sum())
    click = math.pi * 8**2
    assert min(areas) < 1.1 * click
    assert max(areas) > 2 * click


def test_a_perfect_outline_gets_no_correction(lesion: NDArray[np.bool_]) -> None:
    planes = np.zeros((2, *SHAPE), np.float32)
    correct(lesion[::2, ::2], lesion[::2, ::2], planes, np.random.default_rng(0))
    assert not planes.any()
