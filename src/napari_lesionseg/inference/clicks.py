"""Clicks: guidance planes for a network, predictions that honor clicks, and a simulated annotator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.inference.postprocess import click_radius
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.types import Click, Probability

DISC_RADIUS = 8.0  # pixels at working size: 5 are felt less, 12 hide where they are (benchmarks/clicks.py)


def clicks_inside(clicks: Sequence[Click], shape: tuple[int, ...]) -> list[Click]:
    """Leave out the clicks that lie outside an image of ``shape`` (H, W), in pixels."""
    return [c for c in clicks if 0 <= c.pixel[0] < shape[0] and 0 <= c.pixel[1] < shape[1]]


def draw_disc(shape: tuple[int, int], row: float, col: float) -> NDArray[np.bool_]:
    """Mark the pixels of planes of ``shape`` that stand for a click at (row, col); shape (h, w)."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    disc: NDArray[np.bool_] = (rows - row) ** 2 + (cols - col) ** 2 <= DISC_RADIUS**2
    return disc


def guidance_planes(
    clicks: Sequence[Click],
    previous: Probability | None,
    shape: tuple[int, int],
    planes_shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Return a network's guidance (3, h, w) in [0, 1]: positive discs, negative discs, previous mask."""
    planes = np.zeros((3, *planes_shape), np.float32)
    for click in clicks_inside(clicks, shape):
        row = (click.row + 0.5) * planes_shape[0] / shape[0] - 0.5
        col = (click.col + 0.5) * planes_shape[1] / shape[1] - 0.5
        planes[0 if click.positive else 1][draw_disc(planes_shape, row, col)] = 1
    if previous is not None:
        planes[2] = previous
    return planes


def honor_clicks(probability: Probability, clicks: Sequence[Click]) -> Probability:
    """Return a probability, (H, W) or (C, H, W), that agrees with every click.

    The lesion (all classes but the background together) has 1 at every positive click and 0 at every negative
    one, fading out to `click_radius`; where such discs meet, the later click counts. Without clicks it is the
    same array.
    """
    shape = probability.shape[-2:]
    inside = clicks_inside(clicks, shape)
    return honor_part(probability, inside, click_radius(shape)) if inside else probability


def honor_part(
    part: Probability, clicks: Sequence[Click], radius: int, corner: tuple[int, int] = (0, 0)
) -> Probability:
    """Apply `honor_clicks` to the part of an image that begins at row and column ``corner``."""
    if part.ndim == 2:
        return _honor(part, clicks, radius, corner)
    return _share_out(part, _honor(1 - part[0], clicks, radius, corner))


def _honor(
    probability: Probability, clicks: Sequence[Click], radius: int, corner: tuple[int, int]
) -> Probability:
    honored = probability.copy()
    height, width = honored.shape
    places = [(click.pixel[0] - corner[0], click.pixel[1] - corner[1], click.positive) for click in clicks]
    for row, col, positive in places:
        top, left = max(0, row - radius), max(0, col - radius)
        part = honored[top : max(row + radius + 1, 0), left : max(col + radius + 1, 0)]
        rows, cols = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        weight = np.clip(1 - np.hypot(rows - row, cols - col) / radius, 0, 1).astype(np.float32)
        part += (np.float32(positive) - part) * weight
    for row, col, positive in places:  # the disc of a later click may have run over an earlier one
        if 0 <= row < height and 0 <= col < width:
            honored[row, col] = positive
    return honored


def _share_out(probability: Probability, lesion: Probability) -> Probability:
    """Scale the classes so that together they have the probability ``lesion`` (H, W)."""
    classes = probability[1:]
    total = classes.sum(axis=0)
    shares = np.divide(classes, total, out=np.full_like(classes, 1 / len(classes)), where=total > 0)
    return np.concatenate([1 - lesion[None], shares * lesion])


def next_click(
    predicted: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    rng: np.random.Generator | None = None,
    jitter: float = 0.0,
) -> Click | None:
    """Return the click at the center of the largest wrong region; None if nothing is wrong.

    The protocol of the field (Xu et al. 2016, "Deep interactive object selection"; RITM): of the
    false-negative and the false-positive pixels, the one deepest inside its region. ``jitter`` is the share
    of that depth by which a human-like click may be off the center, 0 to 1; it needs ``rng``.
    """
    missed, extra = _measure(truth & ~predicted), _measure(predicted & ~truth)
    positive = missed.deepest >= extra.deepest
    region = missed if positive else extra
    if region.deepest == 0:
        return None
    if rng is None or jitter == 0:
        row, col = np.unravel_index(int(region.depth.argmax()), region.depth.shape)
    else:
        choices = np.argwhere((region.depth >= region.deepest * (1 - jitter)) & (region.depth > 0))
        row, col = choices[rng.integers(len(choices))]
    return Click(float(region.top + row), float(region.left + col), positive)


class _Region(NamedTuple):
    """How deep inside a region each pixel of its bounding box lies."""

    depth: NDArray[np.float32]
    top: int
    left: int

    @property
    def deepest(self) -> float:
        return float(self.depth.max(initial=0))


def _measure(region: NDArray[np.bool_]) -> _Region:
    """Measure how far each pixel of ``region`` is from the outside; the image ends there as well."""
    box = bounding_box(region)
    if box is None:
        return _Region(np.zeros((0, 0), np.float32), 0, 0)
    depth = ndimage.distance_transform_edt(np.pad(region[box], 1))[1:-1, 1:-1]
    return _Region(depth.astype(np.float32), box[0].start, box[1].start)
