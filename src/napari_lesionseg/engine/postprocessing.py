"""From a probability map to a clean mask: threshold, clicks, parts, holes.

The work is done again at every move of the threshold slider, so it stays inside the bounding box of the
mask and never loops over parts. Parts are 8-connected and holes 4-connected, the pair under which an outline
separates inside from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.engine.runs import Runs
from napari_lesionseg.errors import MaskError
from napari_lesionseg.types import Click, LabelImage, Probability

_Pixel = tuple[int, int]
_Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]


def resolve_threshold(threshold: float | None, config: PostprocessConfig, default: float) -> float:
    """Pick the threshold in force: the one asked for, else the setting, else the model's own.

    Parameters
    ----------
    threshold : float or None
        What the caller asked for, in (0, 1).
    config : PostprocessConfig
        Settings; its ``threshold`` may be None.
    default : float
        The model's own threshold.
    """
    if threshold is not None:
        return threshold
    return default if config.threshold is None else config.threshold


def postprocess(
    probability: Probability, config: PostprocessConfig, threshold: float, clicks: Iterable[Click] = ()
) -> LabelImage:
    """Turn probabilities into a mask that agrees with every click.

    Parameters
    ----------
    probability : ndarray, shape (H, W) or (C, H, W), float
        Probability of the lesion, or of each of C classes with the background first.
    config : PostprocessConfig
        What is cleaned. Its ``threshold`` is not looked at; see `resolve_threshold`.
    threshold : float
        A pixel belongs to the lesion where its probability is at least this.
    clicks : iterable of Click
        Every positive click ends up inside and every negative click outside. Where the probabilities
        disagree, a disc of `click_radius` pixels around the click is set or cleared. Of several clicks on one
        pixel the last counts; clicks outside the picture are ignored.

    Returns
    -------
    ndarray, shape (H, W), uint8
        0 = background, 1 = lesion, or the index of the class.

    Raises
    ------
    MaskError
        If ``probability`` has another shape.

    Notes
    -----
    Parts smaller than ``config.min_area`` pixels, and with ``config.largest_only`` all but the largest part,
    are dropped, but never a part with a positive click in it. Then holes are filled, except those with a
    negative click in them. Parts go first, so that a thin ring around the picture cannot swallow the lesion
    inside it. What touches the border of the picture is not a hole.

    With C classes the background must be beaten by odds of ``threshold``, so 0.5 gives the most probable
    class and two classes give the same mask as a map of one. Every class is cleaned by itself, and holes are
    filled only where no other class has pixels left.
    """
    probability = np.asarray(probability)
    if probability.ndim == 2:
        labels = (probability >= threshold).view(np.uint8)
        targets = {pixel: int(inside) for pixel, inside in _clicked(clicks, labels.shape).items()}
        _honour(labels, targets)
        return _clean(labels.view(bool), config, targets).view(np.uint8)
    if probability.ndim == 3 and len(probability) > 1:
        return _postprocess_classes(probability, config, threshold, clicks)
    raise MaskError(
        f"Probabilities must be of shape (H, W) or (C, H, W) with C > 1, not {probability.shape}."
    )


def split_instances(mask: NDArray[np.generic]) -> NDArray[np.int32]:
    """Give every connected part of a mask.

    Parameters
    ----------
    mask : ndarray, shape (H, W)
        0 = background. Touching pixels of different classes belong to different parts.

    Returns
    -------
    ndarray, shape (H, W), int32
        0 = background, parts numbered from 1 in the order of their first pixel.
    """
    values = mask.view(np.uint8) if mask.dtype == bool else mask
    parts = measure.label(values, background=0, connectivity=2)  # type: ignore[no-untyped-call]
    return np.asarray(parts, dtype=np.int32)


def click_radius(shape: tuple[int, ...]) -> int:
    """Tell the radius in pixels of the disc a click stands for.

    It grows with the picture: a hand aims no better when the picture is larger, as it fills the same screen.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the picture in pixels; a 768x560 picture gives 3.
    """
    return max(2, round(math.hypot(*shape) / 300))


def _clicked(clicks: Iterable[Click], shape: tuple[int, ...]) -> dict[_Pixel, bool]:
    """Map each clicked pixel inside the picture to whether its last click was positive."""
    pixels: dict[_Pixel, bool] = {}
    for click in clicks:
        row, col = click.pixel
        if 0 <= row < shape[0] and 0 <= col < shape[1]:
            pixels[row, col] = click.positive
    return pixels


def _honour(labels: LabelImage, targets: Mapping[_Pixel, int]) -> None:
    """Set or clear a disc, in place, where the labels disagree with a click."""
    radius = click_radius(labels.shape)
    for pixel, target in targets.items():
        if (labels[pixel] > 0) != (target > 0):
            _paint_disc(labels, pixel, radius, target)
    for pixel, target in targets.items():  # a disc may have run over a neighbouring click
        if (labels[pixel] > 0) != (target > 0):
            labels[pixel] = target


def _paint_disc(labels: LabelImage, centre: _Pixel, radius: int, target: int) -> None:
    """Write ``target`` into a disc, in place; a class never paints over another one."""
    (row, col), (height, width) = centre, labels.shape
    top, left = max(row - radius, 0), max(col - radius, 0)
    rows, cols = np.ogrid[top : min(row + radius + 1, height), left : min(col + radius + 1, width)]
    window = labels[top : top + rows.size, left : left + cols.size]
    disc = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
    if target:
        disc &= window == 0
    window[disc] = target


def _postprocess_classes(
    probability: Probability, config: PostprocessConfig, threshold: float, clicks: Iterable[Click]
) -> LabelImage:
    lesion = probability[1:]
    best = (lesion.argmax(axis=0) + 1).astype(np.uint8)
    odds = threshold / (1 - threshold)
    labels = np.where(lesion.max(axis=0) >= probability[0] * odds, best, np.uint8(0))
    targets = {
        pixel: int(best[pixel]) if inside else 0 for pixel, inside in _clicked(clicks, labels.shape).items()
    }
    _honour(labels, targets)
    cleaned = np.zeros_like(labels)
    kept = np.zeros_like(labels)
    for index in range(1, len(probability)):
        own = labels == index
        part = _clean(own, config, _targets_of(targets, own))
        cleaned[part] = index
        kept[part & own] = index
    return np.where(kept > 0, kept, cleaned)


def _targets_of(targets: Mapping[_Pixel, int], own: NDArray[np.bool_]) -> dict[_Pixel, int]:
    """Keep the clicks that concern one class: those in its pixels, and all negative ones."""
    return {pixel: target for pixel, target in targets.items() if not target or own[pixel]}


def _clean(
    mask: NDArray[np.bool_], config: PostprocessConfig, targets: Mapping[_Pixel, int]
) -> NDArray[np.bool_]:
    """Drop parts and fill holes of a mask that already agrees with the clicks.

    Parameters
    ----------
    mask : ndarray, shape (H, W), bool
    config : PostprocessConfig
    targets : mapping of (row, col) to int
        Clicked pixels; above 0 for those inside.

    Returns
    -------
    ndarray, shape (H, W), bool
        A new array.
    """
    cleaned = np.zeros(mask.shape, bool)  # zeros_like would touch every pixel
    region = _bounding_box(mask)
    if region is None:
        return cleaned
    inside = _select(targets, region, positive=True)
    cleaned[region] = _keep_parts(mask[region], config, inside)
    region = _bounding_box(cleaned)
    if config.fill_holes and region is not None:
        cleaned[region] = _fill_holes(cleaned[region], _select(targets, region, positive=False))
    return cleaned


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    band = slice(int(rows[0]), int(rows[-1]) + 1)
    cols = np.flatnonzero(mask[band].any(axis=0))
    return band, slice(int(cols[0]), int(cols[-1]) + 1)


def _select(targets: Mapping[_Pixel, int], region: tuple[slice, slice], *, positive: bool) -> _Pixels:
    """Pick the positive or the negative clicks within a region, as indices into it."""
    rows, cols = region
    chosen = [
        (row - rows.start, col - cols.start)
        for (row, col), target in targets.items()
        if (target > 0) == positive and rows.start <= row < rows.stop and cols.start <= col < cols.stop
    ]
    indices = np.array(chosen, dtype=np.intp).reshape(-1, 2)
    return indices[:, 0], indices[:, 1]


def _keep_parts(mask: NDArray[np.bool_], config: PostprocessConfig, inside: _Pixels) -> NDArray[np.bool_]:
    """Drop small parts, and all but the largest if so set; parts with a positive click stay."""
    if config.min_area <= 1 and not config.largest_only:
        return mask
    runs = Runs.of(mask)
    parts = runs.parts(diagonal=True)
    sizes = np.bincount(parts, runs.lengths)
    keep = sizes >= max(config.min_area, 1)
    if config.largest_only:
        keep &= np.arange(sizes.size) == sizes.argmax()
    keep[parts[runs.at(*inside)]] = True
    kept = np.array(mask, order="C")
    runs.write(kept, ~keep[parts], False)
    return kept


def _fill_holes(mask: NDArray[np.bool_], outside: _Pixels) -> NDArray[np.bool_]:
    """Fill what the border cannot reach, except holes with a negative click in them."""
    runs = Runs.of(np.pad(~mask, 1, constant_values=True))
    parts = runs.parts(diagonal=False)
    rows, cols = outside
    left_open = np.isin(parts, parts[runs.at(rows + 1, cols + 1)])
    filled = np.pad(mask, 1)
    runs.write(filled, (parts != 0) & ~left_open, True)  # the padding is read first: the outside is part 0
    return filled[1:-1, 1:-1]
