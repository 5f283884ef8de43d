"""Clicks: the planes a network sees them as, the promise to honour them, and a simulated reader who sets them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.types import Click, Probability

DISC_RADIUS = 5.0  # pixels at working size; discs of 5 px serve RITM (Sofiiuk et al. 2022) best
HONOURED_RADIUS = 3.0  # pixels of the picture around a click that always agree with it
MIN_ERROR_PIXELS = 1


def guidance_planes(
    clicks: Sequence[Click],
    previous: Probability | None,
    shape: tuple[int, int],
    planes_shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Draw clicks and the previous probability as the planes that steer a network.

    Parameters
    ----------
    clicks : sequence of Click
        In pixels of the picture.
    previous : Probability, optional
        Shape ``planes_shape``; None: no previous outline.
    shape : (int, int)
        Height and width of the picture.
    planes_shape : (int, int)
        Height and width of the planes.

    Returns
    -------
    ndarray
        float32 of shape (3, h, w) in [0, 1]: positive discs, negative discs, previous probability.
    """
    planes = np.zeros((3, *planes_shape), np.float32)
    rows, cols = np.ogrid[: planes_shape[0], : planes_shape[1]]
    for click in clicks:
        row = (click.row + 0.5) * planes_shape[0] / shape[0] - 0.5
        col = (click.col + 0.5) * planes_shape[1] / shape[1] - 0.5
        disc = (rows - row) ** 2 + (cols - col) ** 2 <= DISC_RADIUS**2
        planes[0 if click.positive else 1][disc] = 1
    if previous is not None:
        planes[2] = previous
    return planes


def honour_clicks(probability: Probability, clicks: Sequence[Click]) -> Probability:
    """Return ``probability`` (H, W) with every positive click at 1 and every negative click at 0.

    The pixels around a click follow it with a weight that falls to nothing at `HONOURED_RADIUS`; where discs of
    different sign meet, the later click counts.
    """
    if not clicks:
        return probability
    honoured = probability.copy()
    reach = int(np.ceil(HONOURED_RADIUS))
    for click in clicks:
        row = int(np.clip(round(click.row), 0, probability.shape[0] - 1))
        col = int(np.clip(round(click.col), 0, probability.shape[1] - 1))
        window = np.s_[
            max(0, row - reach) : min(row + reach + 1, probability.shape[0]),
            max(0, col - reach) : min(col + reach + 1, probability.shape[1]),
        ]
        rows, cols = np.ogrid[window]
        weight = np.clip(1 - np.hypot(rows - row, cols - col) / HONOURED_RADIUS, 0, 1).astype(np.float32)
        part = honoured[window]
        part += (np.float32(click.positive) - part) * weight
    return honoured


def next_click(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    rng: np.random.Generator | None = None,
    jitter: float = 0.0,
) -> Click | None:
    """Say where a reader would click next: at the centre of the largest wrong region.

    The field's protocol (Xu et al. 2016, "Deep interactive object selection"; RITM): of the false-negative and
    the false-positive pixels, the one deepest inside its region.

    Parameters
    ----------
    predicted, truth : ndarray of bool
        Shape (H, W).
    rng : numpy.random.Generator, optional
        Needed for a jittered click.
    jitter : float
        Share of the depth of the region by which a human-like click may be off its centre, 0 to 1.

    Returns
    -------
    Click or None
        None when nothing is wrong.
    """
    missed, extra = _depth(truth & ~predicted), _depth(predicted & ~truth)
    positive = bool(missed.max(initial=0) >= extra.max(initial=0))
    depth = missed if positive else extra
    deepest = float(depth.max(initial=0))
    if deepest < MIN_ERROR_PIXELS:
        return None
    if rng is None or jitter == 0:
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
    else:
        choices = np.argwhere(depth >= deepest * (1 - jitter))
        row, col = choices[rng.integers(len(choices))]
    return Click(float(row), float(col), positive)


def _depth(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance in pixels of each pixel of ``region`` to the outside; the picture's border counts as outside."""
    padded = np.pad(region, 1)
    depth: NDArray[np.float32] = ndimage.distance_transform_edt(padded)[1:-1, 1:-1].astype(np.float32)
    return depth
