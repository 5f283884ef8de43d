"""Masks as COCO writes them: run lengths and polygons.

Runs go down the columns, background first. The polygon that is written runs along the edges of the pixels,
so that pycocotools, and `draw_polygons`, which draws as it does, give back exactly the mask it came from.

The rules are those of ``maskApi.c`` in https://github.com/cocodataset/cocoapi; this annotator checks what it
is given, since files come from anywhere, and never writes beyond the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.types import LabelImage

_SCALE = 5  # polygons are drawn five times finer than pixels
MAX_STEPS = 2_000_000
"""Longest outline that is drawn, over all polygons of a mask, in fifths of a pixel: less than a second."""

_FAR = 1e6


def encode_runs(mask: NDArray[np.bool_] | LabelImage) -> list[int]:
    """Return the lengths of a mask's runs.

    Parameters
    ----------
    mask : ndarray
        (H, W); not 0 is foreground.

    Returns
    -------
    list of int
        Background and foreground by turns, down the columns, background first (may be 0).
    """
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    bounds = [0, *edges.tolist(), flat.size]
    runs = np.diff(bounds).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def decode_runs(runs: Sequence[int], height: int, width: int) -> LabelImage:
    """Return the mask that run lengths stand for.

    Parameters
    ----------
    runs : sequence of int
        As `encode_runs` gives them.
    height, width : int
        Of the image.

    Returns
    -------
    ndarray
        (H, W) uint8 of 0 and 1.

    Raises
    ------
    DatasetError
        When the lengths are negative or do not fill the image.
    """
    if any(not isinstance(run, int) or run < 0 for run in runs) or sum(runs) != height * width:
        raise DatasetError(f"The run lengths of a mask do not fill its {width} x {height} pixels.")
    values = np.arange(len(runs)) % 2
    flat = np.repeat(values.astype(np.uint8), np.array(runs, dtype=np.int64))
    return flat.reshape((height, width), order="F")


def pack_runs(runs: Sequence[int]) -> str:
    """Write run lengths as COCO's short text (differences to the run before last, 5 bits a character)."""
    packed = []
    for index, run in enumerate(runs):
        value = run - (runs[index - 2] if index > 2 else 0)
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            packed.append(chr(bits + (0x20 if more else 0) + 48))
    return "".join(packed)


def unpack_runs(text: str, most: int) -> list[int]:
    """Read COCO's short text.

    Parameters
    ----------
    text : str
        As `pack_runs` writes it.
    most : int
        Largest length that can be meant: the number of pixels.

    Returns
    -------
    list of int
        Run lengths.

    Raises
    ------
    DatasetError
        When the text is damaged.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DatasetError("The packed run lengths of a mask are damaged.")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        value = value - (1 << shift) if bits & 0x10 else value
        value += runs[-2] if len(runs) > 2 else 0
        if not 0 <= value <= most:
            raise DatasetError("The packed run lengths of a mask are damaged.")
        runs.append(value)
        value = shift = 0
    if shift:
        raise DatasetError("The packed run lengths of a mask end too early.")
    return runs


def draw_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> LabelImage:
    """Draw polygons as pycocotools does, pixel for pixel.

    Parameters
    ----------
    polygons : sequence of sequences of float
        Each ``x0, y0, x1, y1, ...`` with at least three points; (0, 0) is the image's corner.
    height, width : int
        Of the image.

    Returns
    -------
    ndarray
        (H, W) uint8, 1 inside any of them.

    Raises
    ------
    DatasetError
        When one is no polygon, or together they are absurdly long.
    """
    corners = [_points(polygon) for polygon in polygons]
    if sum(_steps(points) for points in corners) > MAX_STEPS:
        raise DatasetError("The outline of a mask is too long to be drawn.")
    mask = np.zeros((height, width), np.uint8)
    for points in corners:
        mask |= _draw(points, height, width)
    return mask


def _points(polygon: Sequence[float]) -> NDArray[np.int64]:
    """Return the corners on the fine grid, shape (N + 1, 2), closed."""
    if len(polygon) < 6 or len(polygon) % 2:
        raise DatasetError("A polygon needs at least three points of two numbers.")
    corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if not (np.abs(corners) < _FAR).all():  # false for NaN as well
        raise DatasetError("A polygon lies far outside its image.")
    fine = np.trunc(_SCALE * corners + 0.5).astype(np.int64)
    return np.concatenate([fine, fine[:1]])


def _steps(points: NDArray[np.int64]) -> int:
    """Return how many steps it takes to walk along the edges."""
    return int(np.abs(np.diff(points, axis=0)).max(axis=1).sum())


def _draw(points: NDArray[np.int64], height: int, width: int) -> LabelImage:
    """Fill one polygon: walk its edges on the fine grid, note where they enter columns, fill by parity."""
    u, v = _walk(points)
    left = np.minimum(u[1:], u[:-1])
    crossing = (u[1:] != u[:-1]) & (left % _SCALE == _SCALE // 2)
    column = left[crossing] // _SCALE
    row = np.ceil((np.minimum(v[1:], v[:-1])[crossing] + 0.5) / _SCALE - 0.5)
    row = np.clip(row, 0, height).astype(np.int64)
    inside = (column >= 0) & (column < width)
    starts = column[inside] * height + row[inside]
    parity = np.bincount(starts, minlength=height * width + 1)[: height * width]
    flat = (np.cumsum(parity) % 2).astype(np.uint8)
    return flat.reshape((height, width), order="F")


def _walk(points: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return every step along the edges, both ends of each edge included."""
    start, stop = points[:-1], points[1:]
    span = np.abs(stop - start)
    steep = span[:, 1] > span[:, 0]
    along = np.where(steep, 1, 0)
    edge = np.arange(len(start))
    flip = start[edge, along] > stop[edge, along]
    low, high = np.where(flip[:, None], stop, start), np.where(flip[:, None], start, stop)
    length = span.max(axis=1)
    slope = (high - low)[edge, 1 - along] / np.maximum(length, 1)
    which = np.repeat(edge, length + 1)
    step = np.arange(len(which)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    step = np.where(flip[which], length[which] - step, step)
    main = low[which, along[which]] + step
    cross = np.trunc(low[which, 1 - along[which]] + slope[which] * step + 0.5).astype(np.int64)
    return np.where(steep[which], cross, main), np.where(steep[which], main, cross)


def trace_polygons(mask: NDArray[np.bool_] | LabelImage) -> list[list[float]]:
    """Outline a mask along the edges of its pixels.

    Parameters
    ----------
    mask : ndarray
        (H, W); not 0 is foreground.

    Returns
    -------
    list of list of float
        One polygon ``x0, y0, x1, y1, ...`` for each part (pixels that share an edge). A hole is joined to its
        outline by a cut of no width.
    """
    parts, count = ndimage.label(np.asarray(mask, dtype=bool))
    polygons = []
    for number, box in enumerate(ndimage.find_objects(parts, max_label=count), 1):
        loops = _loops(parts[box] == number)
        offset = np.array([box[1].start, box[0].start])
        polygons.append((_joined(loops) + offset).astype(float).ravel().tolist())
    return polygons


def _loops(part: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the closed paths round one part, (N, 2) corners x, y; the outer one first."""
    following = _edges(part)
    loops = []
    for start in sorted(following):  # the leftmost corner is on the outer path, which so comes first
        while start in following:
            loops.append(_corners(_follow(following, start)))
    return loops


def _edges(part: NDArray[np.bool_]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the edges between inside and outside, as ways from corner to corner, inside on the right."""
    padded = np.pad(part, 1).astype(np.int8)
    down = np.diff(padded, axis=0)[:, 1:-1]  # +1: enters the part going down, its upper edge
    right = np.diff(padded, axis=1)[1:-1]
    ways: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (row, column), value in zip(np.argwhere(down), down[down != 0], strict=True):
        ends = ((column, row), (column + 1, row))
        _add_way(ways, ends if value > 0 else ends[::-1])
    for (row, column), value in zip(np.argwhere(right), right[right != 0], strict=True):
        ends = ((column, row + 1), (column, row))
        _add_way(ways, ends if value > 0 else ends[::-1])
    return ways


def _add_way(ways: dict[tuple[int, int], list[tuple[int, int]]], ends: tuple[tuple[int, int], ...]) -> None:
    start, stop = ((int(x), int(y)) for x, y in ends)
    ways.setdefault(start, []).append(stop)


def _follow(
    ways: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int]
) -> list[tuple[int, int]]:
    """Walk from a corner until it is met again, turning right where two ways part, lest paths cross."""
    path = [start]
    before: tuple[int, int] | None = None
    while len(path) == 1 or path[-1] != start:
        here = path[-1]
        choices = ways[here]
        choice = choices[0] if len(choices) == 1 or before is None else _right_turn(before, here, choices)
        choices.remove(choice)
        if not choices:
            del ways[here]
        before = here
        path.append(choice)
    return path[:-1]


def _right_turn(
    before: tuple[int, int], here: tuple[int, int], choices: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Return the corner to the right; y points down, so right of (dx, dy) is (-dy, dx)."""
    dx, dy = here[0] - before[0], here[1] - before[1]
    right = (here[0] - dy, here[1] + dx)
    return right if right in choices else choices[0]


def _corners(path: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Drop the points at which a path goes straight on."""
    points = np.array(path, dtype=np.int64)
    straight: NDArray[np.bool_] = (
        points - np.roll(points, 1, axis=0) == np.roll(points, -1, axis=0) - points
    ).all(axis=1)
    corners: NDArray[np.int64] = points[~straight]
    return corners


def _joined(loops: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Make one closed path of an outline and its holes, going to each hole and back the same way."""
    outline = loops[0]
    for hole in loops[1:]:
        gap = np.abs(outline[:, None] - hole[None]).sum(axis=2)
        at, entry = np.unravel_index(int(gap.argmin()), gap.shape)
        round_trip = np.concatenate([np.roll(hole, -int(entry), axis=0), hole[entry : entry + 1]])
        outline = np.concatenate([outline[: at + 1], round_trip, outline[at:]])
    return outline
