"""From a probability map to a clean mask: threshold, clicks, parts, holes.

The work is done again at every move of the threshold slider, so it stays inside the bounding box of the
mask and never loops over parts. Parts are 8-connected and holes 4-connected, the pair under which an outline
separates inside from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import MaskError, SettingsError
from napari_lesionseg.masks.components import Runs, bounding_box
from napari_lesionseg.types import LabelImage, Probability, Stroke, points_of

_Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]


class Targets(NamedTuple):
    """The class that each pixel of a stroke must have, 0 for background; every pixel once."""

    pixels: NDArray[np.intp]  # (N, 2)
    classes: NDArray[np.uint8]  # (N,)

    def chosen(self, which: NDArray[np.bool_]) -> Targets:
        """Keep some of the pixels, (N,) bool."""
        return Targets(self.pixels[which], self.classes[which])


def resolve_threshold(threshold: float | None, config: PostprocessConfig, default: float) -> float:
    """Return the threshold to use: the argument, else the setting, else the model's own."""
    if threshold is not None:
        if not 0 < threshold < 1:
            raise SettingsError(f"The threshold must lie between 0 and 1, which {threshold} does not.")
        return threshold
    return default if config.threshold is None else config.threshold


def postprocess(
    probability: Probability, config: PostprocessConfig, threshold: float, strokes: Iterable[Stroke] = ()
) -> LabelImage:
    """Convert probabilities, (H, W) or (C, H, W), into a mask (H, W) that agrees with every stroke.

    Parts smaller than ``config.min_area`` pixels, and with ``config.largest_only`` all but the largest part,
    are dropped, but never a part with a positive stroke in it. Then holes are filled, except those with a
    negative stroke in them. Parts go first, so that a thin ring around the image cannot swallow the lesion
    inside it. What touches the border of the image is not a hole.

    With C classes the background must be beaten by odds of ``threshold``, so 0.5 gives the most probable
    class and two classes give the same mask as a map of one. Every class is cleaned by itself, and holes are
    filled only where no other class has pixels left.
    """
    probability = np.asarray(probability)
    best = most_probable(probability)
    pixels, positive = stroked_pixels(strokes, probability.shape[-2:])
    targets = Targets(pixels, np.where(positive, best[pixels[:, 0], pixels[:, 1]], np.uint8(0)))
    return clean_labels(threshold_labels(probability, threshold, best), config, targets)


def most_probable(probability: Probability) -> LabelImage:
    """Return the most probable class of every pixel, (H, W), other than the background."""
    if probability.ndim == 2:
        return np.broadcast_to(np.uint8(1), probability.shape)
    if probability.ndim == 3 and len(probability) > 1:
        best: LabelImage = (probability[1:].argmax(axis=0) + 1).astype(np.uint8)
        return best
    raise MaskError(
        f"Probabilities must be of shape (H, W) or (C, H, W) with C > 1, not {probability.shape}."
    )


def threshold_labels(
    probability: Probability, threshold: float, best: LabelImage | None = None
) -> LabelImage:
    """Turn probabilities into class indices without cleaning anything, see `postprocess`."""
    if probability.ndim == 2:
        labels: LabelImage = (probability >= threshold).view(np.uint8)
        return labels
    best = most_probable(probability) if best is None else best
    odds = threshold / (1 - threshold)
    return np.where(probability[1:].max(axis=0) >= probability[0] * odds, best, np.uint8(0))


def clean_labels(
    labels: LabelImage,
    config: PostprocessConfig,
    targets: Targets,
    region: tuple[slice, slice] | None = None,
) -> LabelImage:
    """Apply clicks, remove parts and fill holes in place, see `postprocess`.

    Outside ``region`` there are no labels yet.
    """
    _honor(labels, targets)
    if region is None:
        region = bounding_box(labels) or (slice(0, 0), slice(0, 0))
    else:
        region = with_discs(region, targets.pixels[targets.classes > 0], labels.shape)
    first, stop = (region[0].start, region[1].start), (region[0].stop, region[1].stop)
    inside = ((targets.pixels >= first) & (targets.pixels < stop)).all(axis=1)
    local = targets.chosen(np.asarray(inside))
    local = Targets(local.pixels - first, local.classes)
    window = np.ascontiguousarray(labels[region])
    if not window.size:
        return labels
    if window.max(initial=0) > 1:
        labels[region] = _clean_classes(window, config, local)
    else:
        labels[region] = _clean(window.view(bool), config, local).view(np.uint8)
    return labels


def click_radius(shape: tuple[int, ...]) -> int:
    """Return the radius in pixels of the disc of a click; 3 for an image of 768x560."""
    return max(2, round(math.hypot(*shape) / 300))


def stroke_pixels(stroke: Stroke, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the pixels (N, 2) of an image (H, W) that a click or a scribble touches, in order."""
    points = np.asarray(points_of(stroke), float).reshape(-1, 2)
    inside = ((points >= -0.5) & (points < np.array(shape[:2]) - 0.5)).all(axis=1)
    runs = np.split(points[inside], np.flatnonzero(np.diff(np.cumsum(~inside)[inside])) + 1)
    lines = [path_along(run, np.abs(np.diff(run, axis=0)).max(axis=1, initial=0), 1.0) for run in runs]
    return np.floor(np.concatenate(lines) + 0.5).astype(np.intp)


def path_along(
    points: NDArray[np.float64], lengths: NDArray[np.float64], spacing: float
) -> NDArray[np.float64]:
    """Return points (N, 2) with others between them, of which two are at most ``spacing`` apart.

    ``lengths`` (N - 1,) says how far each is from the one before.
    """
    if len(points) < 2:
        return points
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    places = np.union1d(along, np.arange(0, along[-1], spacing))
    return np.stack([np.interp(places, along, axis) for axis in points.T], axis=1)


def stroked_pixels(
    strokes: Iterable[Stroke], shape: tuple[int, ...]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return each pixel of the image that was drawn on, (N, 2), and whether its last stroke was positive."""
    drawn = [(stroke_pixels(stroke, shape), stroke.positive) for stroke in strokes]
    if not drawn:
        return np.zeros((0, 2), np.intp), np.zeros(0, bool)
    pixels = np.concatenate([each for each, _ in drawn])
    positive = np.repeat([sign for _, sign in drawn], [len(each) for each, _ in drawn])
    places = pixels[:, 0] * shape[1] + pixels[:, 1]
    _, last = np.unique(places[::-1], return_index=True)
    _, first = np.unique(places, return_index=True)
    order = np.argsort(first)  # as drawn, so that discs that meet are set in this order
    return pixels[first[order]], positive[::-1][last[order]]


def with_discs(
    region: tuple[slice, slice], pixels: NDArray[np.intp], shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Enlarge a region by the discs that clicks on pixels (N, 2) stand for, within an image of a shape."""
    if not len(pixels):
        return region
    radius = click_radius(shape)
    (top, left), (bottom, right) = pixels.min(axis=0) - radius, pixels.max(axis=0) + radius + 1
    return (
        slice(max(min(region[0].start, int(top)), 0), min(max(region[0].stop, int(bottom)), shape[0])),
        slice(max(min(region[1].start, int(left)), 0), min(max(region[1].stop, int(right)), shape[1])),
    )


def _honor(labels: LabelImage, targets: Targets) -> None:
    """Set or clear a disc, in place, where the labels disagree with a click."""
    rows, cols = targets.pixels.T
    wrong = (labels[rows, cols] > 0) != (targets.classes > 0)
    if not wrong.any():
        return
    radius, begin = click_radius(labels.shape), int(wrong.argmax())
    pairs = list(
        zip(map(tuple, targets.pixels[begin:].tolist()), targets.classes[begin:].tolist(), strict=True)
    )
    for pixel, target in pairs:
        if (labels[pixel] > 0) != (target > 0):
            _paint_disc(labels, pixel, radius, target)
    # A disc may have run over neighboring clicks.
    wrong = (labels[rows, cols] > 0) != (targets.classes > 0)
    labels[rows[wrong], cols[wrong]] = targets.classes[wrong]


def _paint_disc(labels: LabelImage, center: tuple[int, int], radius: int, target: int) -> None:
    """Write ``target`` into a disc, in place; a class never paints over another one."""
    (row, col), (height, width) = center, labels.shape
    top, left = max(row - radius, 0), max(col - radius, 0)
    rows, cols = np.ogrid[top : min(row + radius + 1, height), left : min(col + radius + 1, width)]
    window = labels[top : top + rows.size, left : left + cols.size]
    disc = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
    if target:
        disc &= window == 0
    window[disc] = target


def _clean_classes(labels: LabelImage, config: PostprocessConfig, targets: Targets) -> LabelImage:
    """Clean every class by itself; gives a new array."""
    cleaned = np.zeros_like(labels)
    kept = np.zeros_like(labels)
    for index in range(1, int(labels.max()) + 1):
        own = labels == index
        concerned = (targets.classes == 0) | own[targets.pixels[:, 0], targets.pixels[:, 1]]
        part = _clean(own.copy(), config, targets.chosen(concerned))
        cleaned[part] = index
        kept[part & own] = index
    return np.where(kept > 0, kept, cleaned)


def _clean(mask: NDArray[np.bool_], config: PostprocessConfig, targets: Targets) -> NDArray[np.bool_]:
    """Drop parts and fill holes of a mask that already agrees with the clicks."""
    runs = Runs.of(mask)
    if config.min_area > 1 or config.largest_only:
        kept = _kept_runs(runs, config, _select(targets, positive=True))
        runs.write(mask, ~kept, False)
        runs = runs.chosen(kept)
    if config.fill_holes:
        _fill_holes(mask, runs, _select(targets, positive=False))
    return mask


def _select(targets: Targets, *, positive: bool) -> _Pixels:
    """Pick the positive or the negative clicks, as indices."""
    rows, cols = targets.pixels[(targets.classes > 0) == positive].T
    return rows, cols


def _kept_runs(runs: Runs, config: PostprocessConfig, inside: _Pixels) -> NDArray[np.bool_]:
    """Return which runs stay: no small parts, only the largest if set so, but all with a positive click."""
    parts = runs.parts(diagonal=True)
    sizes = np.bincount(parts, runs.lengths)
    keep = sizes >= max(config.min_area, 1)
    if config.largest_only and sizes.size:
        keep &= np.arange(sizes.size) == sizes.argmax()
    keep[parts[runs.at(*inside)]] = True
    return np.asarray(keep[parts])


def _fill_holes(mask: NDArray[np.bool_], runs: Runs, outside: _Pixels) -> None:
    """Fill, in place, what the border cannot reach, except holes with a negative click in them."""
    gaps = runs.gaps(len(mask))
    parts = gaps.parts(diagonal=False)
    rows, cols = outside
    left_open = np.isin(parts, parts[gaps.at(rows + 1, cols + 1)])
    holes = gaps.chosen((parts != 0) & ~left_open)  # the frame is read first: the outside is part 0
    holes.without_frame().write(mask, np.ones(len(holes.starts), bool), True)
