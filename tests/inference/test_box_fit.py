from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_lesionseg.inference.box_fit import automatic_trust, fit_box

ROWS, COLS = np.ogrid[:100, :120]
DISTANCE = np.hypot((ROWS - 50) / 30, (COLS - 60) / 40)  # 1 on an ellipse


def lesion(size: float) -> NDArray[np.float32]:
    return np.asarray(8 * (size - DISTANCE), np.float32)


def box(size: float) -> NDArray[np.bool_]:
    return np.asarray((np.abs(ROWS - 50) <= 30 * size) & (np.abs(COLS - 60) <= 40 * size))


@pytest.mark.parametrize("size", [0.7, 1.3])
def test_an_outline_of_another_size_grows_or_shrinks_to_the_box(size: float) -> None:
    logit, goal = lesion(size), box(1.0)
    shift = fit_box(logit, goal).shift
    moved = logit + shift >= 0
    height, width = np.ptp(np.nonzero(moved), axis=1) + 1
    assert np.sign(shift) == np.sign(1 - size)
    assert height == pytest.approx(60, abs=5)
    assert width == pytest.approx(80, abs=7)


def test_an_outline_that_nearly_fits_stays_as_it_is() -> None:
    assert fit_box(lesion(1.03), box(1.0)).shift == 0


def test_small_parts_elsewhere_do_not_count() -> None:
    logit = lesion(1.0)
    logit[2:6, 2:6] = 5
    assert fit_box(logit, box(1.0)).shift == 0


def test_a_box_around_two_lesions_wants_both() -> None:
    logit = np.full((100, 120), -3.0, np.float32)
    logit[20:50, 20:40] = logit[40:80, 70:110] = 3
    inside = np.zeros(logit.shape, bool)
    inside[20:80, 20:110] = True
    assert fit_box(logit, inside) == (0, pytest.approx(0, abs=1e-3))


def test_the_automatic_outline_is_trusted_if_it_fits() -> None:
    fits, too_small = automatic_trust(lesion(1.0), box(1.0)), automatic_trust(lesion(0.3), box(1.0))
    elsewhere = automatic_trust(np.roll(lesion(0.5), 50, axis=1), box(0.8))
    assert fits > 0.95
    assert fits > too_small > elsewhere


@pytest.mark.parametrize("logit", [np.full((100, 120), -9, np.float32), np.full((100, 120), 9, np.float32)])
def test_nothing_found_and_everything_found_are_no_error(logit: NDArray[np.float32]) -> None:
    assert automatic_trust(logit, box(1.0)) < 0.05


def test_a_box_outside_the_view_says_nothing() -> None:
    assert fit_box(lesion(1.0), np.zeros((100, 120), bool)) == (0, 1)
