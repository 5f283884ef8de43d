"""Very large images, part by part, in memory that does not grow with the image.

There are two ways. `predict_tiles` runs the network at full resolution on every part of the image: for many
small lesions, as in photographs of the whole body. `predict_whole` runs it once on the whole image, averaged
down: for one large lesion, which no tile would hold.

The network runs on windows of one size that overlap. Their places depend on the image alone; how many are
read at once, as a tile, depends on the memory. So tiles of any size give the same prediction within 1e-5 in
float32, which is the effect of rounding in batches of different sizes. The weights of overlapping windows add
up to one, so that there are no seams. Beyond its border the image is mirrored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from napari_lesionseg.config import Settings
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.inference.device import empty_cache, is_out_of_memory
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.inference.tiling_io import (
    NpyFile,
    Readable,
    Stored,
    Writable,
    as_bytes,
    check_image,
    check_output,
    new_output,
    put_part,
    strips_of,
)
from napari_lesionseg.io.resize import STRIDE, normalize, resize_image, resize_plane
from napari_lesionseg.models.base import logits_to_probability, resize_bilinear
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.mixture import has_experts
from napari_lesionseg.types import Box, ByteImage, Click, Probability

_OVERVIEW_FACTOR = 4  # the whole image is averaged down to this many times the model's working size


class TileConfig(Settings):
    """Windows and tiles in which a large image is predicted."""

    window: int = Field(
        768,
        ge=64,
        le=2048,
        multiple_of=STRIDE,
        description="Side of what the network sees at once, in its own pixels.",
    )
    overlap: int = Field(
        256,
        ge=0,
        le=1024,
        description="How far windows reach into each other, in the network's pixels; at most half of one.",
    )
    scale: float = Field(
        1.0,
        ge=1 / 64,
        le=8,
        description="The network's pixels for one of the image; below 1 the image is averaged down.",
    )
    tile: int = Field(
        1536,
        ge=64,
        description="Side of what is read at once, in pixels of the image, at least a window; "
        "the prediction does not depend on it.",
    )
    batch: int | None = Field(
        None,
        ge=1,
        description="Windows in the network at once; None: 1 on the CPU, 4 on a GPU.",
    )

    @model_validator(mode="after")
    def _windows_move_on(self) -> TileConfig:
        if 2 * self.overlap > self.window:
            raise ValueError("overlap must be at most half of window")
        return self


@dataclass(frozen=True, slots=True)
class TileProgress:
    """Where the work stands after a tile."""

    done: int
    """Tiles done."""
    total: int
    """Tiles there are."""
    box: Box
    """The part of the image that was done last."""
    rows: int
    """Rows of the image, from the top, whose probabilities are final."""


# ------------------------------------------------------------------------------------------- the two ways


def predict_tiles(
    model: Model, image: Readable, out: Writable, config: TileConfig | None = None
) -> Iterator[TileProgress]:
    """Write the probability of an image of any size to ``out``, tile by tile; clicks are not used.

    A caller that stops iterating finds ``out`` filled at least as far as the last ``rows`` said.
    """
    shape = check_image(image)
    check_output(out, shape, model.card.out_channels)
    return _predict_tiles(model, image, out, config or TileConfig())


def predict_whole(
    model: Model, image: Readable, out: Writable, clicks: Sequence[Click] = ()
) -> Iterator[TileProgress]:
    """Write the probability of a whole, averaged down image to ``out``, strip by strip.

    The image is averaged down until it is a few times as large as the network's input. ``out`` has the size
    of the image or of another level of it; clicks are in its pixels.
    """
    check_image(image)
    height, width = (0, 0, *out.shape)[-2:]
    check_output(out, (int(height), int(width)), model.card.out_channels)
    return _predict_whole(model, image, out, tuple(clicks))


def predict_large(
    model: Model,
    image: Readable,
    *,
    config: TileConfig | None = None,
    store: Stored = "uint8",
    path: Path | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> NDArray[Any]:
    """Run `predict_tiles` to the end and return the probability; with ``path``, mapped from disk."""
    out = new_output(check_image(image), model.card.out_channels, store=store, path=path)
    for _ in predict_tiles(model, image, out, config):
        if should_stop and should_stop():
            raise CancelledError("Stopped before the whole image was segmented.")
    return out.mapped() if isinstance(out, NpyFile) else out


# ------------------------------------------------------------------------------------------- the windows


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where windows stand along one side of the image; all in pixels of the image."""

    length: int
    window: int
    overlap: int

    @classmethod
    def along(cls, length: int, config: TileConfig) -> _Axis:
        """Place windows along a side of that length."""
        window = max(1, round(config.window / config.scale))
        return cls(length, window, min(round(config.overlap / config.scale), window // 2))

    @property
    def step(self) -> int:
        """Distance from window to window."""
        return self.window - self.overlap

    @property
    def count(self) -> int:
        """Number of windows; the first and last reach beyond the image by an overlap."""
        return -(-(self.length + self.overlap) // self.step)

    def start(self, index: int) -> int:
        """Return where a window begins; the first one begins before the image."""
        return index * self.step - self.overlap

    def read(self, first: int, last: int) -> NDArray[np.intp]:
        """Return the places in the image of some windows' pixels, mirrored at the ends of the image."""
        places = np.arange(self.start(first), self.start(last) + self.window)
        period = max(1, 2 * self.length - 2)
        folded = places % period
        return np.where(folded < self.length, folded, period - folded)

    def covered(self, index: int) -> slice:
        """Return the part of the image that a window contributes to."""
        start = self.start(index)
        return slice(min(max(0, start), self.length), min(self.length, start + self.window))

    def weights(self, index: int) -> NDArray[np.float32]:
        """Return the weight of a window in every pixel of `covered`; all windows add up to one."""
        covered, start = self.covered(index), self.start(index)
        depth = np.arange(covered.start, covered.stop) - start + 0.5
        weights = np.ones(len(depth), np.float32)
        if index > 0 and self.overlap:
            weights *= np.clip(depth / self.overlap, 0, 1).astype(np.float32)
        if index < self.count - 1 and self.overlap:
            weights *= np.clip((self.window - depth) / self.overlap, 0, 1).astype(np.float32)
        return weights

    def span(self, tile: range) -> tuple[int, int, int]:
        """Return where a tile begins, where the next one begins to contribute, and where the tile ends."""
        start, stop = self.covered(tile[0]).start, self.covered(tile[-1]).stop
        last = tile[-1] == self.count - 1
        return start, stop if last else self.covered(tile[-1] + 1).start, stop

    def tiles(self, size: int) -> list[range]:
        """Group windows into tiles of at most ``size`` pixels, where one window is not larger already."""
        group = max(1, (size - self.overlap) // self.step)
        return [range(first, min(first + group, self.count)) for first in range(0, self.count, group)]


_Window = tuple[int, int]


def _predict_tiles(
    model: Model, image: Readable, out: Writable, config: TileConfig
) -> Iterator[TileProgress]:
    rows, cols = (_Axis.along(length, config) for length in image.shape[:2])
    # Which of several experts looks is decided by the whole image, or neighbors would be outlined by two.
    whole = model.network_input(_overview(image, model.card)) if has_experts(model.card.arch) else None
    down, across = rows.tiles(config.tile), cols.tiles(config.tile)
    channels, carried = model.card.out_channels, 0
    # What the tiles above have said of those below them, and the tile to the left of the next one.
    below = np.zeros((channels, rows.overlap, cols.length), np.float32)
    for turn, tall in enumerate(down):
        top, low, bottom = rows.span(tall)
        beside = np.zeros((channels, bottom - top, 0), np.float32)
        for place, wide in enumerate(across):
            left, far, right = cols.span(wide)
            block = np.zeros((channels, bottom - top, right - left), np.float32)
            block[:, :carried] = below[:, :carried, left:right]
            block[:, :, : beside.shape[2]] = beside
            for window, prediction in _predict_windows(
                model, image, (rows, cols), (tall, wide), config, whole
            ):
                _blend(block, (top, left), prediction, (rows, cols), window)
            put_part(out, (slice(top, low), slice(left, far)), block[:, : low - top, : far - left])
            below[:, : bottom - low, left:far] = block[:, low - top :, : far - left]
            beside = block[:, :, far - left :].copy()
            yield TileProgress(
                done=turn * len(across) + place + 1,
                total=len(down) * len(across),
                box=Box(top, left, bottom, right),
                rows=low if far == cols.length else top,
            )
        carried = bottom - low


def _predict_windows(
    model: Model,
    image: Readable,
    axes: tuple[_Axis, _Axis],
    tile: tuple[range, range],
    config: TileConfig,
    whole: Tensor | None,
) -> Iterator[tuple[_Window, Probability]]:
    """Read a tile, and predict its windows; (C, h, w) each, in pixels of the image."""
    rows, cols = axes
    pixels = _read(image, rows.read(tile[0][0], tile[0][-1]), cols.read(tile[1][0], tile[1][-1]))
    windows = [(row, col) for row in tile[0] for col in tile[1]]
    batch = config.batch or (1 if model.device.type == "cpu" else 4)
    for first in range(0, len(windows), batch):
        chosen = windows[first : first + batch]
        views = []
        for row, col in chosen:
            top, left = (row - tile[0][0]) * rows.step, (col - tile[1][0]) * cols.step
            view = pixels[top : top + rows.window, left : left + cols.window]
            small = resize_image(view, (config.window, config.window))
            views.append(normalize(small, model.card.mean, model.card.std))
        yield from zip(chosen, _predict(model, np.stack(views), rows.window, whole), strict=True)


def _read(image: Readable, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> ByteImage:
    """Read rows and columns, some of them more than once, of what lies between the outermost of them."""
    top, left = int(rows.min()), int(cols.min())
    block = as_bytes(image[top : int(rows.max()) + 1, left : int(cols.max()) + 1])
    return block[np.ix_(rows - top, cols - left)]


def _blend(
    block: Probability,
    corner: tuple[int, int],
    prediction: Probability,
    axes: tuple[_Axis, _Axis],
    window: _Window,
) -> None:
    """Add the weighted prediction of a window to the block that begins at ``corner``."""
    (rows, cols), (row, col), (top, left) = axes, window, corner
    down, across = rows.covered(row), cols.covered(col)
    own = prediction[
        :,
        down.start - rows.start(row) : down.stop - rows.start(row),
        across.start - cols.start(col) : across.stop - cols.start(col),
    ]
    weights = rows.weights(row)[:, None] * cols.weights(col)
    places = slice(down.start - top, down.stop - top), slice(across.start - left, across.stop - left)
    block[:, *places] += own * weights


@torch.inference_mode()
def _predict(model: Model, views: NDArray[np.float32], side: int, whole: Tensor | None) -> Probability:
    """Predict windows (B, 3, h, w) of an image of which the network may need a view; (B, C, side, side)."""
    images = torch.from_numpy(views)
    try:
        return _run(model, images, (side, side), whole)
    except RuntimeError as error:
        if model.device.type == "cpu" or not is_out_of_memory(error):
            raise
    # Not in the handler: the traceback keeps the tensors of the failed attempt on the GPU.
    model.move_to_cpu()
    empty_cache()
    return _run(model, images, (side, side), whole)


def _run(model: Model, images: Tensor, shape: tuple[int, int], whole: Tensor | None) -> Probability:
    device_model = model.device_model if whole is None else model.device_model.for_image(whole)
    logits = device_model.decode(device_model.encode(images), None)
    probability = logits_to_probability(resize_bilinear(logits, shape), model.card.temperature)
    return np.asarray(probability.cpu().numpy())


# ------------------------------------------------------------------------------------ the whole image


def _predict_whole(
    model: Model, image: Readable, out: Writable, clicks: tuple[Click, ...]
) -> Iterator[TileProgress]:
    (height, width), (tall, wide) = image.shape[:2], out.shape[-2:]
    factor = _reduction(image, model.card)
    reading, writing = strips_of(height, width, factor), strips_of(tall, wide)
    total, small = len(reading) + len(writing), []
    for done, strip in enumerate(reading, 1):
        small.append(_reduce(as_bytes(image[strip, 0:width]), factor))
        yield TileProgress(done, total, Box(strip.start, 0, strip.stop, width), 0)
    zoom = (factor * tall / height, factor * wide / width)  # pixels of ``out`` for one of the small image
    moved = [Click((c.row + 0.5) / zoom[0] - 0.5, (c.col + 0.5) / zoom[1] - 0.5, c.positive) for c in clicks]
    probability = model.predict(np.concatenate(small), moved)
    planes = probability[None] if probability.ndim == 2 else probability
    for done, strip in enumerate(writing, len(reading) + 1):
        put_part(out, (strip, slice(0, wide)), _enlarge(planes, strip, wide, zoom))
        yield TileProgress(done, total, Box(strip.start, 0, strip.stop, wide), strip.stop)


def _reduction(image: Readable, card: ModelCard) -> int:
    """Count the pixels a side that become one, so that a few times as many are left as the network sees."""
    return int(max(1, max(image.shape[:2]) // (_OVERVIEW_FACTOR * card.working_size)))


def _overview(image: Readable, card: ModelCard) -> ByteImage:
    """Read an image strip by strip, averaged down."""
    (height, width), factor = image.shape[:2], _reduction(image, card)
    strips = strips_of(height, width, factor)
    return np.concatenate([_reduce(as_bytes(image[strip, 0:width]), factor) for strip in strips])


def _reduce(strip: ByteImage, factor: int) -> ByteImage:
    """Average squares of ``factor`` pixels a side; at the far ends, what is left of them."""
    return strip if factor == 1 else np.array(Image.fromarray(strip).reduce(factor))


def _enlarge(planes: Probability, rows: slice, width: int, zoom: tuple[float, float]) -> Probability:
    """Enlarge planes (C, h, w) by ``zoom``, and return some rows of them, (C, rows, width)."""
    box = (rows.start / zoom[0], 0, rows.stop / zoom[0], width / zoom[1])
    return np.stack([resize_plane(plane, (rows.stop - rows.start, width), box) for plane in planes])
