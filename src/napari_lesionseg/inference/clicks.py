"""Clicks and scribbles: planes for a network, predictions that honor them, and a simulated annotator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.inference.postprocess import click_radius, path_along, stroke_pixels
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.types import Click, Probability, Scribble, Stroke, points_of

Point = tuple[float, float]

DISC_RADIUS = 8.0  # pixels at working size: 5 are felt less, 12 hide where they are (benchmarks/clicks.py)
DISC_SPACING = 3.0  # pixels at working size between the discs of a scribble


class StrokePixels(NamedTuple):
    """The pixels (N, 2) of an image that a click or scribble touches, in order."""

    pixels: NDArray[np.intp]
    positive: bool


def strokes_inside(strokes: Sequence[Stroke], shape: tuple[int, ...]) -> list[Stroke]:
    """Leave out the strokes that lie outside an image of ``shape`` (H, W)."""
    return [stroke for stroke in strokes if len(stroke_pixels(stroke, shape))]


def move_stroke(stroke: Stroke, place: Callable[[Point], Point]) -> Stroke:
    """Return a stroke in other coordinates, to which ``place`` converts a row and column."""
    if isinstance(stroke, Click):
        return Click(*place((stroke.row, stroke.col)), stroke.positive)
    return Scribble(tuple(place(point) for point in stroke.points), stroke.positive)


def sample_stroke(stroke: Stroke, spacing: float) -> list[Point]:
    """Return points along a stroke, at most ``spacing`` pixels apart."""
    points = np.asarray(points_of(stroke), float).reshape(-1, 2)
    along = path_along(points, np.hypot(*np.diff(points, axis=0).T), spacing)
    return [(row, col) for row, col in along.tolist()]


def draw_disc(shape: tuple[int, int], row: float, col: float) -> NDArray[np.bool_]:
    """Mark the pixels of planes of ``shape`` that stand for a click at (row, col); shape (h, w)."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    disc: NDArray[np.bool_] = (rows - row) ** 2 + (cols - col) ** 2 <= DISC_RADIUS**2
    return disc


def draw_strokes(
    strokes: Sequence[Stroke],
    place: Callable[[Point], Point],
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Return planes (2, h, w) of positive and negative strokes; ``place`` converts image pixels to theirs."""
    planes = np.zeros((2, *shape), np.float32)
    for stroke in strokes:
        for row, col in sample_stroke(move_stroke(stroke, place), DISC_SPACING):
            planes[0 if stroke.positive else 1][draw_disc(shape, row, col)] = 1
    return planes


def guidance_planes(
    strokes: Sequence[Stroke],
    previous: Probability | None,
    shape: tuple[int, int],
    planes_shape: tuple[int, int],
) -> NDArray[np.float32]:
    """Return a network's guidance (3, h, w) in [0, 1]: positive discs, negative discs, previous mask."""
    planes = np.zeros((3, *planes_shape), np.float32)

    def place(point: Point) -> Point:
        row, col = point
        return (row + 0.5) * planes_shape[0] / shape[0] - 0.5, (col + 0.5) * planes_shape[1] / shape[1] - 0.5

    planes[:2] = draw_strokes(strokes_inside(strokes, shape), place, planes_shape)
    if previous is not None:
        planes[2] = previous
    return planes


def touched_pixels(strokes: Sequence[Stroke], shape: tuple[int, ...]) -> list[StrokePixels]:
    """Return what each stroke touches in an image of ``shape`` (H, W), without those that lie outside."""
    touched = (StrokePixels(stroke_pixels(stroke, shape), stroke.positive) for stroke in strokes)
    return [each for each in touched if len(each.pixels)]


def honor_strokes(probability: Probability, strokes: Sequence[Stroke]) -> Probability:
    """Return a probability, (H, W) or (C, H, W), that agrees with every click and scribble.

    The lesion (all classes but the background together) has 1 at every pixel of a positive stroke and 0 at
    those of a negative one, fading out to `click_radius`; where strokes meet, the later one counts. Without
    strokes it is the same array.
    """
    shape = probability.shape[-2:]
    touched = touched_pixels(strokes, shape)
    return honor_part(probability, touched, click_radius(shape)) if touched else probability


def honor_part(
    part: Probability, touched: Sequence[StrokePixels], radius: int, corner: tuple[int, int] = (0, 0)
) -> Probability:
    """Apply `honor_strokes` to the part of an image that begins at row and column ``corner``."""
    if part.ndim == 2:
        return _honor(part, touched, radius, corner)
    return _share_out(part, _honor(1 - part[0], touched, radius, corner))


def _honor(
    probability: Probability, touched: Sequence[StrokePixels], radius: int, corner: tuple[int, int]
) -> Probability:
    honored = probability.copy()
    size = np.array(honored.shape)
    places = [(pixels - corner, np.float32(positive)) for pixels, positive in touched]
    for pixels, positive in places:
        near = pixels[((pixels > -radius) & (pixels < size + radius)).all(axis=1)]
        if len(near):
            first, last = np.maximum(near.min(axis=0) - radius, 0), near.max(axis=0) + radius + 1
            part = honored[first[0] : last[0], first[1] : last[1]]
            part += (positive - part) * _nearness(near - first, part.shape, radius)
    for pixels, positive in places:  # a later stroke may have run over an earlier one
        inside = pixels[((pixels >= 0) & (pixels < size)).all(axis=1)]
        honored[inside[:, 0], inside[:, 1]] = positive
    return honored


def _nearness(pixels: NDArray[np.intp], shape: tuple[int, int], radius: int) -> NDArray[np.float32]:
    """Return 1 at the pixels (N, 2) and less around them, down to 0 at a distance of ``radius``; (h, w)."""
    rows, cols = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = np.clip(1 - np.hypot(rows, cols) / radius, 0, 1).astype(np.float32)
    nearness = np.zeros(shape, np.float32)
    for row, col in pixels.tolist():
        top, left = max(row - radius, 0), max(col - radius, 0)
        part = nearness[top : row + radius + 1, left : col + radius + 1]
        first_row, first_col = top - row + radius, left - col + radius
        seen = disc[first_row : first_row + part.shape[0], first_col : first_col + part.shape[1]]
        np.maximum(part, seen, out=part)
    return nearness


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
