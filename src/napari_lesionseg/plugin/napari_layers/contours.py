"""Contours of outlines, drawn some thirty times quicker than napari's own, which look the same.

napari filters the labels with a footprint of the contour's shape, which takes a fifth of a second for four
megapixels. Here the same erosion is done by comparing each pixel with its neighbors, step by step, in tiles
that fit into the processor's cache; tiles of one class alone, most of them, have no border.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

from napari_lesionseg.types import LabelImage

_TILE = 256


def contour_of(labels: LabelImage, thickness: int) -> LabelImage:
    """Keep of each class what lies along its border, inwards.

    Parameters
    ----------
    labels : ndarray
        (H, W) uint8, 0 = background.
    thickness : int
        How far from the border pixels are kept, in steps from pixel to neighbor.

    Returns
    -------
    ndarray
        (H, W) uint8: the class of the pixels that have a smaller one within reach, 0 elsewhere.
    """
    contour = np.zeros(labels.shape, np.uint8)
    height, width = labels.shape
    for top in range(0, height, _TILE):
        for left in range(0, width, 2 * _TILE):
            rows, cols = slice(top, top + _TILE), slice(left, left + 2 * _TILE)
            around = labels[_widened(rows, thickness), _widened(cols, thickness)]
            if around.min() != around.max():
                inner = labels[rows, cols]
                first = min(top, thickness), min(left, thickness)
                eroded = _eroded(around, thickness)[first[0] :, first[1] :]
                eroded = eroded[: inner.shape[0], : inner.shape[1]]
                np.multiply(inner, eroded != inner, out=contour[rows, cols])
    return contour


def draw_quickly(layer: Labels) -> None:
    """Let a layer draw its contours by `contour_of`, where its data are bytes.

    napari has no public way to choose the filter. Should it call the method another name one day, its own
    filter is back, and nothing but time is lost.
    """
    layer_of = weakref.ref(layer)
    own = type(layer)._calculate_contour

    def calculate(labels: NDArray[Any], data_slice: tuple[slice, ...]) -> NDArray[Any] | None:
        layer = layer_of()
        if layer is None or layer.contour < 1 or labels.ndim != 2 or labels.dtype != np.uint8:
            return None if layer is None else own(layer, labels, data_slice)
        around = labels[tuple(_widened(cut, layer.contour) for cut in data_slice)]
        first = [min(cut.start, layer.contour) for cut in data_slice]
        inner = tuple(slice(at, at + cut.stop - cut.start) for at, cut in zip(first, data_slice, strict=True))
        return contour_of(around, int(layer.contour))[inner]

    vars(layer)["_calculate_contour"] = calculate


def _widened(cut: slice, margin: int) -> slice:
    """Add a margin on both sides; what lies beyond the end is left out by indexing itself."""
    return slice(max(cut.start - margin, 0), cut.stop + margin)


def _eroded(labels: LabelImage, times: int) -> LabelImage:
    """Give every pixel the smallest class within some steps; what is beyond the border does not count."""
    eroded = labels
    for _ in range(times):
        before, eroded = eroded, eroded.copy()
        np.minimum(eroded[1:], before[:-1], out=eroded[1:])
        np.minimum(eroded[:-1], before[1:], out=eroded[:-1])
        np.minimum(eroded[:, 1:], before[:, :-1], out=eroded[:, 1:])
        np.minimum(eroded[:, :-1], before[:, 1:], out=eroded[:, :-1])
    return eroded
