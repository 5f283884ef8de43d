"""Clicks and scribbles: planes for a network, predictions that honor them, and a simulated annotator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
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

_PIECE = 256  # pixels of a scribble whose surroundings are drawn at once
_REMEMBERED = 32  # strokes; of a scribble in an image of 24 megapixels about a megabyte is kept


class StrokeReach(NamedTuple):
    """What a click or scribble touches in an image, and what lies near it."""

    pixels: NDArray[np.intp]  # (N,) touched, counted through the rows of the image
    near: NDArray[np.intp]  # (M,) closer than `click_radius`, counted in the same way; each once
    nearness: NDArray[np.float32]  # (M,) 1 where it is touched, down to 0 at the radius
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
    reach = math.ceil(DISC_RADIUS) + 1
    for stroke in strokes:
        plane = planes[0 if stroke.positive else 1]
        for row, col in sample_stroke(move_stroke(stroke, place), DISC_SPACING):
            top, left = max(math.floor(row) - reach, 0), max(math.floor(col) - reach, 0)
            part = plane[top : max(math.floor(row) + reach, 0), left : max(math.floor(col) + reach, 0)]
            part[draw_disc((part.shape[0], part.shape[1]), row - top, col - left)] = 1
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


def reach_of(strokes: Sequence[Stroke], shape: tuple[int, ...]) -> list[StrokeReach]:
    """Return what each stroke reaches in an image of ``shape`` (H, W), without those that lie outside."""
    found = []
    for stroke in strokes:
        points = np.asarray(points_of(stroke), float).reshape(-1, 2).tobytes()
        reached = _reach(points, (shape[0], shape[1]))
        if len(reached.pixels):
            found.append(reached._replace(positive=stroke.positive))
    return found


# A scribble across an image of 24 megapixels takes 10 ms, and each click after it needs it again.
@lru_cache(maxsize=_REMEMBERED)
def _reach(points: bytes, shape: tuple[int, int]) -> StrokeReach:
    """Return what a stroke reaches; ``points`` are the bytes of its rows and columns, float64."""
    pixels = stroke_pixels(
        Scribble([(row, col) for row, col in np.frombuffer(points).reshape(-1, 2).tolist()]), shape
    )
    places, nearness = [np.zeros(0, np.intp)], [np.zeros(0, np.float32)]
    for first in range(0, len(pixels), _PIECE):  # the bounding box of a long line may be most of the image
        found = _nearness(pixels[first : first + _PIECE], shape)
        places.append(found[0])
        nearness.append(found[1])
    place, near = np.concatenate(places), np.concatenate(nearness)
    if len(places) > 2 and len(place):  # pieces overlap
        order = np.argsort(place, kind="stable")
        place = place[order]
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        place, near = place[starts], np.maximum.reduceat(near[order], starts)
    reached = StrokeReach(pixels[:, 0] * shape[1] + pixels[:, 1], place, near, True)
    for array in reached[:3]:
        array.setflags(write=False)
    return reached


def _nearness(
    pixels: NDArray[np.intp], shape: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the places around pixels (N, 2) of an image of ``shape``, and how near they are, 0 to 1."""
    radius = click_radius(shape)
    corner = np.maximum(pixels.min(axis=0) - radius, 0)
    height, width = np.minimum(pixels.max(axis=0) + radius + 1, shape) - corner
    rows, cols = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = np.clip(1 - np.hypot(rows, cols) / radius, 0, 1).astype(np.float32)
    canvas = np.zeros((height, width), np.float32)
    for row, col in (pixels - corner).tolist():
        top, left = max(row - radius, 0), max(col - radius, 0)
        part = canvas[top : row + radius + 1, left : col + radius + 1]
        first_row, first_col = top - row + radius, left - col + radius
        seen = disc[first_row : first_row + part.shape[0], first_col : first_col + part.shape[1]]
        np.maximum(part, seen, out=part)
    found = np.flatnonzero(canvas)
    down, across = np.divmod(found, width)
    return (down + corner[0]) * shape[1] + across + corner[1], canvas.reshape(-1)[found]


def honor_strokes(probability: Probability, strokes: Sequence[Stroke]) -> Probability:
    """Return a probability, (H, W) or (C, H, W), that agrees with every click and scribble.

    The lesion (all classes but the background together) has 1 at every pixel of a positive stroke and 0 at
    those of a negative one, fading out to `click_radius`; where strokes meet, the later one counts. Without
    strokes it is the same array.
    """
    reached = reach_of(strokes, probability.shape[-2:])
    if not reached:
        return probability
    lesion = probability.copy() if probability.ndim == 2 else 1 - probability[0]
    honor_reach(lesion.reshape(-1), reached)
    return lesion if probability.ndim == 2 else share_out(probability, lesion)


def honor_reach(lesion: NDArray[np.float32], reached: Sequence[StrokeReach]) -> None:
    """Make the probability of the lesion, of all pixels of an image (N,), agree with strokes, in place."""
    for stroke in reached:
        before = lesion[stroke.near]
        lesion[stroke.near] = before + (np.float32(stroke.positive) - before) * stroke.nearness
    for stroke in reached:  # a later stroke may have run over an earlier one
        lesion[stroke.pixels] = stroke.positive


def share_out(probability: Probability, lesion: Probability) -> Probability:
    """Scale the classes (C, ...) so that together they have the probability ``lesion`` (...)."""
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
