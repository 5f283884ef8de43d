"""The prediction of a network at its own resolution, and masks of the image drawn from it.

A network works on about 300 x 200 pixels, whatever the size of the image. Between its pixels the logits are
interpolated bilinearly, so where four neighbors agree, every pixel between them agrees with them, and only
the pixels of the image along the border have to be interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.clicks import (
    StrokeReach,
    honor_reach,
    honor_strokes,
    move_stroke,
    reach_of,
    share_out,
)
from napari_lesionseg.inference.postprocess import (
    Targets,
    clean_labels,
    stroked_pixels,
    threshold_labels,
    with_discs,
)
from napari_lesionseg.inference.prompts import fill_area
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.models.base import logits_to_probability
from napari_lesionseg.types import NO_PROMPTS, Box, LabelImage, Probability, Prompts, Stroke

_Value = TypeVar("_Value", bound=np.generic)

_CERTAIN_BACKGROUND = -50.0  # a logit; its probability is 0 in float32 for every threshold

_AT_ONCE = 1 << 22
"""Pixels interpolated at once, which bounds the memory."""


class _Axis(NamedTuple):
    """Where N pixels of an image lie between n pixels of the network, along one axis."""

    low: NDArray[np.intp]  # (N,) the network's pixel before each of the image's
    weight: NDArray[np.float32]  # (N,) how far each is on the way to the next, 0 to 1
    starts: NDArray[np.intp]  # (n + 1,) first pixel of the image behind each of the network's

    @classmethod
    def of(cls, small: int, large: int) -> _Axis:
        # As PyTorch computes it, in float32 as well, so that both agree on every pixel.
        at = (np.arange(large, dtype=np.float32) + np.float32(0.5)) * np.float32(small / large)
        at = np.maximum(at - np.float32(0.5), np.float32(0))
        low = np.minimum(at.astype(np.intp), small - 1)
        return cls(low, at - low.astype(np.float32), np.searchsorted(low, np.arange(small + 1)))


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Logits at the network's resolution; never changed, so that threads can share it."""

    logits: NDArray[np.float32]  # (C, h, w): one channel for one class, else the background first
    size: tuple[int, int]  # height and width of the image
    prompts: Prompts = NO_PROMPTS  # the probability agrees with their strokes and ends at their area
    part: Box | None = None  # of the image that the logits cover; the rest is background; None: all of it

    @classmethod
    def empty(cls, size: tuple[int, int]) -> Prediction:
        """Return the prediction that an image shows no lesion."""
        return cls(np.full((1, 1, 1), _CERTAIN_BACKGROUND, np.float32), size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the probability at the image's size, (H, W) or (C, H, W)."""
        return self.size if len(self.logits) == 1 else (len(self.logits), *self.size)

    @property
    def window(self) -> Box:
        """The part of the image that the logits cover."""
        return self.part or Box(0, 0, *self.size)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return int(self.logits.nbytes)

    @torch.inference_mode()
    def probability(self, size: tuple[int, int] | None = None) -> Probability:
        """Return the probability, (H, W) or (C, H, W), at the image's size or another one."""
        height, width = size or self.size
        rows, cols = height / self.size[0], width / self.size[1]
        window = _scaled(self.window, rows, cols)
        part = (window.bottom - window.top, window.right - window.left)
        logits = torch.from_numpy(self.logits)[None]
        full = functional.interpolate(logits, part, mode="bilinear", align_corners=False)
        probability: Probability = logits_to_probability(full)[0].numpy()
        if self.prompts.has_area:
            _keep_inside(probability, fill_area(self.prompts, self.window, part))
        if part != (height, width):
            probability = _surrounded(probability, window, (height, width))
        strokes = [
            move_stroke(stroke, lambda at: ((at[0] + 0.5) * rows - 0.5, (at[1] + 0.5) * cols - 0.5))
            if size is not None
            else stroke
            for stroke in self.prompts.strokes
        ]
        return honor_strokes(probability[0] if len(probability) == 1 else probability, strokes)

    def low_resolution(self) -> Probability:
        """Return the probability of the window at the network's resolution, regardless of the prompts."""
        logits = torch.from_numpy(self.logits)[None]
        probability: Probability = logits_to_probability(logits)[0].numpy()
        return probability[0] if len(probability) == 1 else probability

    def to_mask(
        self, config: PostprocessConfig, threshold: float, strokes: Iterable[Stroke] = ()
    ) -> LabelImage:
        """Return ``postprocess(self.probability(), config, threshold, strokes)``, (H, W) uint8, only faster.

        Logits are compared with that of the threshold, so pixels within 1e-5 of it may differ.
        """
        drawing = _MaskDrawing(self, threshold)
        labels, region = drawing.labels()
        reached = reach_of(self.prompts.strokes, self.size)
        drawing.stamp(labels, reached)
        pixels, positive = stroked_pixels(strokes, self.size)
        targets = Targets(pixels, np.where(positive, drawing.best_at(pixels), np.uint8(0)))
        for stroke in reached:
            region = with_discs(region, np.stack(np.divmod(stroke.pixels, self.size[1]), axis=1), self.size)
        return clean_labels(labels, config, targets, region)

    def contains(self, row: int, col: int, threshold: float) -> bool:
        """Whether a pixel of the image reaches a threshold, regardless of the strokes."""
        values = _MaskDrawing(self, threshold).margins_at(np.array([(row, col)]))
        return bool(values.max() >= _cut(threshold))


class _MaskDrawing:
    """A prediction drawn at a threshold.

    Margins (K, h, w) are compared with the threshold: the logit of a single class, or by how much the logits
    of several classes exceed that of the background.
    """

    def __init__(self, prediction: Prediction, threshold: float) -> None:
        logits, window = prediction.logits, prediction.window
        self._prediction, self._threshold = prediction, threshold
        self._margins = logits if len(logits) == 1 else logits[1:] - logits[0]
        self._cut = _cut(threshold)
        self._window = window
        self._rows = _Axis.of(logits.shape[1], window.bottom - window.top)
        self._cols = _Axis.of(logits.shape[2], window.right - window.left)
        self._inside: NDArray[np.bool_] | None = None  # the window's pixels that may be lesion; None: all
        if prediction.prompts.has_area:
            shape = (window.bottom - window.top, window.right - window.left)
            self._inside = fill_area(prediction.prompts, window, shape)

    def labels(self) -> tuple[LabelImage, tuple[slice, slice]]:
        """Return class indices (H, W), not cleaned, and the rows and columns that hold them all."""
        drawn, (rows, cols) = self._draw_window()
        if self._inside is not None:
            drawn *= self._inside
        window = self._window
        if drawn.shape == self._prediction.size:
            return drawn, (rows, cols)
        labels = np.zeros(self._prediction.size, np.uint8)
        labels[window.top : window.bottom, window.left : window.right] = drawn
        return labels, (
            slice(rows.start + window.top, rows.stop + window.top),
            slice(cols.start + window.left, cols.stop + window.left),
        )

    def _draw_window(self) -> tuple[LabelImage, tuple[slice, slice]]:
        """Return the class indices of the window, and the rows and columns that hold them all."""
        window = self._window
        labels = np.zeros((window.bottom - window.top, window.right - window.left), np.uint8)
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

    def stamp(self, labels: LabelImage, reached: Sequence[StrokeReach]) -> None:
        """Draw, in place, the surroundings of strokes, where the probability follows them."""
        if not reached:
            return
        near = np.concatenate([stroke.near for stroke in reached])  # with repetitions where strokes meet
        rows, cols = np.divmod(near, labels.shape[1])
        logits = torch.from_numpy(self._at(self._prediction.logits, rows, cols))[None, :, :, None]
        probability: Probability = logits_to_probability(logits)[0, :, :, 0].numpy()
        lesion = np.empty(labels.size, np.float32)  # as large as the image, but only what is near is touched
        lesion[near] = probability[0] if len(probability) == 1 else 1 - probability[0]
        honor_reach(lesion, reached)
        agreed = lesion[near] if len(probability) == 1 else share_out(probability, lesion[near])
        labels.reshape(-1)[near] = threshold_labels(agreed[..., None, :], self._threshold)[0]

    def margins_at(self, pixels: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the margins (K, N) at pixels (N, 2) of the image."""
        return self._at(self._margins, pixels[:, 0], pixels[:, 1])

    def best_at(self, pixels: NDArray[np.intp]) -> LabelImage:
        """Return the most probable class (N,), other than the background, at pixels (N, 2) of the image."""
        best: LabelImage = (self.margins_at(pixels).argmax(axis=0) + 1).astype(np.uint8)
        return best

    def _classes(self, margins: NDArray[np.float32]) -> LabelImage:
        """Convert margins (K, ...) into class indices (...)."""
        if len(margins) == 1:
            inside: LabelImage = (margins[0] >= self._cut).view(np.uint8)
            return inside
        best = (margins.argmax(axis=0) + 1).astype(np.uint8)
        return np.where(margins.max(axis=0) >= self._cut, best, np.uint8(0))

    def _at(
        self, values: NDArray[np.float32], rows: NDArray[np.intp], cols: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Interpolate logits or margins (K, h, w) at pixels of the image, (K, N)."""
        window = self._window
        found = np.full((len(values), len(rows)), _CERTAIN_BACKGROUND, np.float32)
        if len(values) != len(self._margins):
            found[0] = 0
        there = (rows >= window.top) & (rows < window.bottom) & (cols >= window.left) & (cols < window.right)
        if self._inside is not None:
            places = np.flatnonzero(there)
            there[places] = self._inside[rows[places] - window.top, cols[places] - window.left]
        found[:, there] = self._between(values, rows[there] - window.top, cols[there] - window.left)
        return found

    def _between(
        self, values: NDArray[np.float32], rows: NDArray[np.intp], cols: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Interpolate values (K, h, w) at rows and columns of the window, which are broadcast."""
        down, right = self._rows.weight[rows], self._cols.weight[cols]
        low, left = self._rows.low[rows], self._cols.low[cols]
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


def _scaled(box: Box, rows: float, cols: float) -> Box:
    """Return a box of an image in the pixels of the same image at another size; it keeps a pixel at least."""
    top, left = math.floor(box.top * rows + 0.5), math.floor(box.left * cols + 0.5)
    bottom, right = math.floor(box.bottom * rows + 0.5), math.floor(box.right * cols + 0.5)
    top, left = min(top, math.ceil(box.bottom * rows) - 1), min(left, math.ceil(box.right * cols) - 1)
    return Box(top, left, max(bottom, top + 1), max(right, left + 1))


def _keep_inside(probability: Probability, inside: NDArray[np.bool_]) -> None:
    """Make all but some pixels of a probability (C, h, w) certain background, in place."""
    probability[:, ~inside] = 0
    if len(probability) > 1:
        probability[0, ~inside] = 1


def _surrounded(probability: Probability, window: Box, size: tuple[int, int]) -> Probability:
    """Return the probability (C, H, W) of an image that is background but for a window."""
    full = np.zeros((len(probability), *size), np.float32)
    if len(probability) > 1:
        full[0] = 1
    full[:, window.top : window.bottom, window.left : window.right] = probability
    return full


def _cut(threshold: float) -> np.float32:
    """Return the margin at which a threshold is reached: its log odds, with one class as with several."""
    return np.float32(math.log(threshold / (1 - threshold)))


def _corners(values: NDArray[_Value]) -> tuple[NDArray[_Value], ...]:
    """Return the four values around each place between pixels (..., h, w); the last ones are repeated."""
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
    """Return the image's pixels behind each of the network's (N, most), and whether they exist."""
    starts, stops = axis.starts[cells], axis.starts[cells + 1]
    pixels = np.minimum(starts[:, None] + np.arange(most), stops[:, None] - 1)
    return pixels, stops > starts
