"""What a network said of an image, at the size it worked at, and outlines of the image told from it.

A network looks at an image of any size at some 300 x 200 pixels. Between its pixels its answer runs straight
(bilinearly), so where four neighbors agree, everything between them agrees with them, and of the millions of
pixels of a large image only those have to be looked at between which the outline runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.clicks import clicks_inside, honor_clicks, honor_part
from napari_lesionseg.inference.postprocess import (
    clean_labels,
    click_radius,
    clicked_pixels,
    threshold_labels,
    with_discs,
)
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.models.base import logits_to_probability
from napari_lesionseg.types import Click, LabelImage, Probability

_Value = TypeVar("_Value", bound=np.generic)

_AT_ONCE = 1 << 22
"""Pixels that are interpolated at once, which bounds the memory that this takes."""


class _Axis(NamedTuple):
    """Where the pixels of an image lie between those of the network, along one axis.

    Parameters
    ----------
    low : ndarray, shape (N,), intp
        The network's pixel before each of the image's.
    weight : ndarray, shape (N,), float32
        How far it is on the way to the next, 0 to 1.
    starts : ndarray, shape (n + 1,), intp
        First of the image's pixels behind each of the network's.
    """

    low: NDArray[np.intp]
    weight: NDArray[np.float32]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, small: int, large: int) -> _Axis:
        """Reckon as PyTorch does, in float32 as well."""
        at = (np.arange(large, dtype=np.float32) + np.float32(0.5)) * np.float32(small / large)
        at = np.maximum(at - np.float32(0.5), np.float32(0))
        low = np.minimum(at.astype(np.intp), small - 1)
        return cls(low, at - low.astype(np.float32), np.searchsorted(low, np.arange(small + 1)))


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a network said of an image; never changed, so that threads can share it.

    Parameters
    ----------
    logits : ndarray
        (C, h, w) float32: one channel for one class, else the background first.
    size : (int, int)
        Height and width of the image.
    clicks : tuple of Click
        What the probability agrees with, in pixels of the image.
    """

    logits: NDArray[np.float32]
    size: tuple[int, int]
    clicks: tuple[Click, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the probability at the image's size, (H, W) or (C, H, W)."""
        return self.size if len(self.logits) == 1 else (len(self.logits), *self.size)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return int(self.logits.nbytes)

    @torch.inference_mode()
    def probability(self, size: tuple[int, int] | None = None) -> Probability:
        """Say how likely each pixel belongs to the lesion.

        Parameters
        ----------
        size : (int, int), optional
            Height and width to say it at; None: the image's own.

        Returns
        -------
        Probability
            float32 in [0, 1] of shape (H, W), or (C, H, W) with the background first.
        """
        height, width = size or self.size
        logits = torch.from_numpy(self.logits)[None]
        full = functional.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        probability: Probability = logits_to_probability(full)[0].numpy()
        rows, cols = height / self.size[0], width / self.size[1]
        clicks = [
            Click((click.row + 0.5) * rows - 0.5, (click.col + 0.5) * cols - 0.5, click.positive)
            if size is not None
            else click
            for click in self.clicks
        ]
        return honor_clicks(probability[0] if len(probability) == 1 else probability, clicks)

    def small(self) -> Probability:
        """Give the probability at the size the network worked at, whatever the clicks say."""
        logits = torch.from_numpy(self.logits)[None]
        probability: Probability = logits_to_probability(logits)[0].numpy()
        return probability[0] if len(probability) == 1 else probability

    def outline(
        self, config: PostprocessConfig, threshold: float, clicks: Iterable[Click] = ()
    ) -> LabelImage:
        """Draw what ``postprocess(answer.probability(), config, threshold, clicks)`` draws, only quicker.

        The logit is compared with that of the threshold, so pixels may differ whose probability is within
        1e-5 of the threshold.

        Parameters
        ----------
        config : PostprocessConfig
            What is cleaned.
        threshold : float
            In (0, 1).
        clicks : iterable of Click
            What the outline has to agree with.

        Returns
        -------
        LabelImage
            uint8 of shape (H, W), a new array.
        """
        drawing = _Drawing(self, threshold)
        labels, region = drawing.labels()
        inside = clicks_inside(self.clicks, self.size)
        for click in inside:
            drawing.press(labels, click)
        wanted = clicked_pixels(clicks, self.size)
        best = drawing.best_at(list(wanted))
        targets = {pixel: best[pixel] if positive else 0 for pixel, positive in wanted.items()}
        region = with_discs(region, [click.pixel for click in inside], self.size)
        return clean_labels(labels, config, targets, region)

    def contains(self, row: int, col: int, threshold: float) -> bool:
        """Tell whether a pixel of the image reaches a threshold, whatever the clicks say."""
        values = _Drawing(self, threshold).margins_at([(row, col)])
        return bool(values.max() >= _cut(threshold))


class _Drawing:
    """One drawing of an answer at a threshold.

    What is compared with the threshold are margins, (K, h, w): the logit of a single class, or how much
    those of several are above that of the background.
    """

    def __init__(self, answer: Prediction, threshold: float) -> None:
        logits = answer.logits
        self._answer, self._threshold = answer, threshold
        self._margins = logits if len(logits) == 1 else logits[1:] - logits[0]
        self._cut = _cut(threshold)
        self._rows = _Axis.of(logits.shape[1], answer.size[0])
        self._cols = _Axis.of(logits.shape[2], answer.size[1])

    def labels(self) -> tuple[LabelImage, tuple[slice, slice]]:
        """Give class indices (H, W), not cleaned, and rows and columns outside of which there are none."""
        labels = np.zeros(self._answer.size, np.uint8)
        nodes = self._classes(self._margins)
        corners = np.stack(_corners(nodes))
        most, least = corners.max(axis=0), corners.min(axis=0)
        cells = bounding_box(most)
        if cells is None:
            return labels, (slice(0, 0), slice(0, 0))
        down, across = (
            slice(int(axis.starts[box.start]), int(axis.starts[box.stop]))
            for axis, box in zip((self._rows, self._cols), cells, strict=True)
        )
        columns = self._cols.low[across]
        for row in range(cells[0].start, cells[0].stop):
            labels[self._rows.starts[row] : self._rows.starts[row + 1], across] = nodes[row, columns]
        self._draw_border(labels, *np.nonzero(most != least))
        return labels, (down, across)

    def press(self, labels: LabelImage, click: Click) -> None:
        """Draw, in place, the surroundings of a click, which the probability follows there."""
        radius, size = click_radius(self._answer.size), self._answer.size
        rows, cols = (
            np.arange(max(at - radius, 0), min(at + radius + 1, side))
            for at, side in zip(click.pixel, size, strict=True)
        )
        logits = torch.from_numpy(self._between(self._answer.logits, rows, cols))[None]
        values: Probability = logits_to_probability(logits)[0].numpy()
        part = values[0] if len(values) == 1 else values
        corner = (int(rows[0]), int(cols[0]))
        agreed = honor_part(part, clicks_inside(self._answer.clicks, size), radius, corner)
        labels[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = threshold_labels(agreed, self._threshold)

    def margins_at(self, pixels: list[tuple[int, int]]) -> NDArray[np.float32]:
        """Give the margins (K, N) at N pixels of the image."""
        found = [self._between(self._margins, np.array([row]), np.array([col])) for row, col in pixels]
        return np.concatenate(found, axis=-1)[:, 0] if found else self._margins[:, :0, 0]

    def best_at(self, pixels: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Give the class, other than the background, that is the most probable at pixels of the image."""
        return dict(zip(pixels, (int(at) + 1 for at in self.margins_at(pixels).argmax(axis=0)), strict=True))

    def _classes(self, margins: NDArray[np.float32]) -> LabelImage:
        """Turn margins (K, ...) into class indices (...)."""
        if len(margins) == 1:
            inside: LabelImage = (margins[0] >= self._cut).view(np.uint8)
            return inside
        best = (margins.argmax(axis=0) + 1).astype(np.uint8)
        return np.where(margins.max(axis=0) >= self._cut, best, np.uint8(0))

    def _between(
        self, values: NDArray[np.float32], rows: NDArray[np.intp], cols: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Interpolate values (K, h, w) at rows and columns of the image, (K, rows, cols)."""
        down, right = self._rows.weight[rows, None], self._cols.weight[cols]
        low, left = self._rows.low[rows, None], self._cols.low[cols]
        return _blend([corner[:, low, left] for corner in _corners(values)], down, right)

    def _draw_border(self, labels: LabelImage, tops: NDArray[np.intp], lefts: NDArray[np.intp]) -> None:
        """Draw, in place, what lies between pixels of the network that disagree."""
        high, wide = (int(np.diff(axis.starts).max()) for axis in (self._rows, self._cols))
        corners = _corners(self._margins)
        step = max(1, _AT_ONCE // (high * wide))
        flat = labels.reshape(-1)
        for first in range(0, len(tops), step):
            top, left = tops[first : first + step], lefts[first : first + step]
            rows, known_rows = _pixels_behind(self._rows, top, high)  # (N, high)
            cols, known_cols = _pixels_behind(self._cols, left, wide)
            there = known_rows & known_cols  # images smaller than what the network saw leave some out
            rows, cols, top, left = rows[there], cols[there], top[there], left[there]
            around = [corner[:, top, left][:, :, None, None] for corner in corners]
            values = _blend(around, self._rows.weight[rows][:, :, None], self._cols.weight[cols][:, None])
            flat[(rows * labels.shape[1])[:, :, None] + cols[:, None]] = self._classes(values)


def _cut(threshold: float) -> np.float32:
    """Give the margin at which a threshold is reached: its log odds, with one class as with several."""
    return np.float32(math.log(threshold / (1 - threshold)))


def _corners(values: NDArray[_Value]) -> tuple[NDArray[_Value], ...]:
    """Give the four values around each place between pixels (..., h, w); beyond the last there is none."""
    below = np.concatenate([values[..., 1:, :], values[..., -1:, :]], axis=-2)
    return tuple(
        corner
        for row in (values, below)
        for corner in (row, np.concatenate([row[..., 1:], row[..., -1:]], axis=-1))
    )


def _blend(
    corners: list[NDArray[np.float32]], down: NDArray[np.float32], right: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Interpolate between four corners."""
    upper_left, upper_right, lower_left, lower_right = corners
    upper = upper_left * (1 - right) + upper_right * right
    lower = lower_left * (1 - right) + lower_right * right
    return np.asarray(upper * (1 - down) + lower * down)


def _pixels_behind(
    axis: _Axis, cells: NDArray[np.intp], most: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Give the image's pixels behind each of the network's (N, most), the last repeated; and if any are."""
    starts, stops = axis.starts[cells], axis.starts[cells + 1]
    pixels = np.minimum(starts[:, None] + np.arange(most), stops[:, None] - 1)
    return pixels, stops > starts
