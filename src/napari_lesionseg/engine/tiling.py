"""Very large pictures, a tile at a time, in memory that does not grow with them.

Two ways, for two kinds of picture. `predict_tiles` looks at every part of the picture closely: for many small
lesions, as in photographs of the whole body. `predict_whole` looks at the whole picture from afar: for one
large lesion, which no tile would hold.

Tiles of any size give the same answer within a tolerance. Three things see to that:

- tiles begin at multiples of the coarsest stride of the network, so that every pixel is sampled alike;
- every tile is seen with surroundings, its context, most of which is thrown away; beyond the picture it is
  mirrored;
- neighbours are faded into each other along their seam, with weights that add up to one everywhere.

With three quarters of the context beyond the receptive field of the network, the answers are equal but for
rounding, below 1e-5 in float32. The default network's field is wide, but what is far off hardly counts: with
the default context, probabilities differ by less than 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.config import Settings
from napari_lesionseg.data.transforms import STRIDE, normalise, resize_picture
from napari_lesionseg.engine.device import autocast
from napari_lesionseg.engine.inference import Model
from napari_lesionseg.engine.large_arrays import (
    NpyFile,
    Readable,
    Stored,
    Writable,
    as_bytes,
    check_output,
    check_picture,
    new_output,
    put_rows,
    strips_of,
)
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.models.blocks import logits_to_probability
from napari_lesionseg.types import Box, ByteImage, Click, Probability

_BATCH_PIXELS = 1536**2  # of the network's input at once, unless a number of tiles is asked for
_SCALES = [Fraction(over, under) for over in (1, 2, 3, 4) for under in range(1, 65)]
_FACES = 4  # the whole picture is averaged down to this many times the model's working size


class TileConfig(Settings):
    """How a picture is cut into tiles; lengths are in pixels of the network, see ``scale``."""

    tile: int = Field(
        1536,
        ge=64,
        le=4096,
        description="Side of a tile with its context; larger is quicker, smaller takes less memory.",
    )
    context: int = Field(
        256, ge=0, le=1024, description="Surroundings that a tile is seen with, on every side."
    )
    scale: float = Field(
        1.0,
        ge=1 / 64,
        le=4,
        description="Pixels of the network for one of the picture, taken to a near fraction such as 2/3; "
        "below 1 it looks from farther off.",
    )
    batch: int | None = Field(
        None, ge=1, description="Tiles at once; None: as many as make up one of 1536 pixels a side."
    )


@dataclass(frozen=True, slots=True)
class TileProgress:
    """Where the work stands after a tile."""

    done: int
    """Tiles done."""
    total: int
    """Tiles there are."""
    box: Box
    """The part of the picture that was done last."""
    rows: int
    """Rows of the picture, from the top, whose probabilities are final."""


# ------------------------------------------------------------------------------------------- the two ways


def predict_tiles(
    model: Model, picture: Readable, out: Writable, config: TileConfig | None = None
) -> Iterator[TileProgress]:
    """Say how likely each pixel belongs to a lesion, looking at the picture tile by tile.

    Parameters
    ----------
    model : Model
        Any; clicks are not used.
    picture : Readable
        Read a tile at a time.
    out : Writable
        Takes the probabilities, band by band; see `new_output`.
    config : TileConfig, optional
        Size and scale of the tiles.

    Yields
    ------
    TileProgress
        After every tile. A caller that stops asking has cancelled, and finds ``out`` filled as far as the
        last ``rows`` said.

    Raises
    ------
    PictureError
        If the picture is none that can be read.
    MaskError
        If ``out`` does not fit the picture and the model.
    """
    shape = check_picture(picture)
    check_output(out, shape, model.card.out_channels)
    return _predict_tiles(model, picture, out, _Grid.cut(shape, config or TileConfig()))


def predict_whole(
    model: Model, picture: Readable, out: Writable, clicks: Sequence[Click] = ()
) -> Iterator[TileProgress]:
    """Say how likely each pixel belongs to a lesion, looking at the whole picture from afar.

    The picture is averaged down strip by strip until it is a few times as large as what the network sees;
    then `Model.predict` does as ever, and its answer is enlarged strip by strip.

    Parameters
    ----------
    model : Model
        Any.
    picture : Readable
        Read a strip at a time. Of a multiscale picture, any level large enough; see `choose_level`.
    out : Writable
        Takes the probabilities; of the height and width of the picture, or of another level of it.
    clicks : sequence of Click
        In pixels of ``out``.

    Yields
    ------
    TileProgress
        After every strip read, and after every strip written.

    Raises
    ------
    PictureError
        If the picture is none that can be read.
    MaskError
        If ``out`` does not fit the model.
    """
    check_picture(picture)
    height, width = (0, 0, *out.shape)[-2:]
    check_output(out, (int(height), int(width)), model.card.out_channels)
    return _predict_whole(model, picture, out, tuple(clicks))


def predict_large(
    model: Model,
    picture: Readable,
    *,
    config: TileConfig | None = None,
    store: Stored = "uint8",
    path: Path | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> NDArray[Any]:
    """Do `predict_tiles` to the end.

    Parameters
    ----------
    model, picture, config
        See `predict_tiles`.
    store, path
        See `new_output`.
    should_stop : callable, optional
        Asked after every tile.

    Returns
    -------
    ndarray
        Shape (H, W), or (C, H, W) for C classes, of the type ``store``; with a ``path``, mapped from disk.

    Raises
    ------
    CancelledError
        If ``should_stop`` said so.
    PictureError, MaskError
        See `predict_tiles`.
    """
    out = new_output(check_picture(picture), model.card.out_channels, store=store, path=path)
    for _ in predict_tiles(model, picture, out, config):
        if should_stop and should_stop():
            raise CancelledError("Stopped before the whole picture was looked at.")
    return out.mapped() if isinstance(out, NpyFile) else out


# --------------------------------------------------------------------------------------------- the tiles


@dataclass(frozen=True, slots=True)
class _Axis:
    """How one side of the picture is cut; all in pixels of the picture."""

    length: int
    core: int
    """Distance from tile to tile."""
    margin: int
    """Context on either side."""

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.length // self.core)

    @property
    def size(self) -> int:
        """Length of a tile with its context."""
        return self.core + 2 * self.margin

    @property
    def fade(self) -> int:
        """Half the width of a seam; three quarters of the context are thrown away."""
        return min(self.margin, self.core) // 4

    def read(self, index: int) -> NDArray[np.intp]:
        """Tell where the pixels of a tile and its context come from, mirrored at the ends of the picture."""
        places = np.arange(self.size) + index * self.core - self.margin
        period = max(1, 2 * self.length - 2)
        folded = places % period
        return np.where(folded < self.length, folded, period - folded)

    def written(self, index: int) -> slice:
        """Tell which part of the picture a tile has a say in: its own, and the seams around it."""
        start, stop = index * self.core - self.fade, (index + 1) * self.core + self.fade
        return slice(max(0, start), min(self.length, stop))

    def weights(self, index: int) -> NDArray[np.float32]:
        """Weigh a tile in every pixel of `written`; the weights of all tiles add up to one."""
        part = self.written(index)
        places = np.arange(part.start, part.stop) + 0.5
        weights = np.ones(len(places), np.float32)
        for border, sign in ((index * self.core, 1), ((index + 1) * self.core, -1)):
            if self.fade and 0 < border < self.length:
                weights *= np.clip(0.5 + sign * (places - border) / (2 * self.fade), 0, 1).astype(np.float32)
        return weights


@dataclass(frozen=True, slots=True)
class _Grid:
    """How a picture is cut into tiles."""

    rows: _Axis
    cols: _Axis
    scale: Fraction
    batch: int

    @classmethod
    def cut(cls, shape: tuple[int, int], config: TileConfig) -> _Grid:
        """Cut a picture into tiles of about the same size, none larger than asked for where that can be."""
        scale = min(_SCALES, key=lambda near: abs(math.log(near / config.scale)))
        # A step is a whole number of the network's strides and of the picture's pixels; here in either.
        step, unit = STRIDE * scale.numerator, STRIDE * scale.denominator
        margin = -(-config.context // step)
        core = max(1, config.tile // step - 2 * margin)

        def cut_axis(length: int) -> _Axis:
            tiles = -(-length // (core * unit))
            return _Axis(length, -(-length // (tiles * unit)) * unit, margin * unit)

        grid = cls(cut_axis(shape[0]), cut_axis(shape[1]), scale, config.batch or 1)
        return grid if config.batch else replace(grid, batch=max(1, _BATCH_PIXELS // math.prod(grid.seen)))

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of a tile with context, in pixels of the network."""
        return int(self.rows.size * self.scale), int(self.cols.size * self.scale)


def _predict_tiles(model: Model, picture: Readable, out: Writable, grid: _Grid) -> Iterator[TileProgress]:
    rows, cols = grid.rows, grid.cols
    carried = np.zeros((model.card.out_channels, 0, cols.length), np.float32)
    for row in range(rows.count):
        part = rows.written(row)
        final = part.stop if row == rows.count - 1 else (row + 1) * rows.core - rows.fade
        band = np.zeros((len(carried), part.stop - part.start, cols.length), np.float32)
        band[:, : carried.shape[1]] = carried
        for first in range(0, cols.count, grid.batch):
            places = range(first, min(first + grid.batch, cols.count))
            answers = _look(model, [_read(picture, grid, row, col) for col in places], grid)
            for col, answer in zip(places, answers, strict=True):
                _blend(band, answer, grid, row, col)
                last = col == cols.count - 1
                if last:
                    put_rows(out, slice(part.start, final), band[:, : final - part.start])
                across = cols.written(col)
                yield TileProgress(
                    done=row * cols.count + col + 1,
                    total=rows.count * cols.count,
                    box=Box(part.start, across.start, part.stop, across.stop),
                    rows=final if last else part.start,
                )
        carried = band[:, final - part.start :]


def _read(picture: Readable, grid: _Grid, row: int, col: int) -> ByteImage:
    """Read a tile with its context, at the size at which the network sees it."""
    rows, cols = grid.rows.read(row), grid.cols.read(col)
    top, left = int(rows.min()), int(cols.min())
    block = as_bytes(picture[top : int(rows.max()) + 1, left : int(cols.max()) + 1])
    return resize_picture(block[np.ix_(rows - top, cols - left)], grid.seen)


def _blend(band: Probability, answer: Probability, grid: _Grid, row: int, col: int) -> None:
    """Add what a tile says, shape (C, h, w) with context, to its band, weighted."""
    rows, cols = grid.rows.written(row), grid.cols.written(col)
    top = rows.start - (row * grid.rows.core - grid.rows.margin)
    left = cols.start - (col * grid.cols.core - grid.cols.margin)
    own = answer[:, top : top + rows.stop - rows.start, left : left + cols.stop - cols.start]
    band[:, :, cols] += own * (grid.rows.weights(row)[:, None] * grid.cols.weights(col))


@torch.inference_mode()
def _look(model: Model, tiles: Sequence[ByteImage], grid: _Grid) -> Probability:
    """Predict tiles as the network sees them; shape (B, C, h, w) in pixels of the picture."""
    stacked = np.stack([normalise(tile, model.card.mean, model.card.std) for tile in tiles])
    images, shape = torch.from_numpy(stacked), (grid.rows.size, grid.cols.size)
    try:
        return _run(model, images, shape)
    except torch.OutOfMemoryError:  # the graphics card's: the processor has more
        model.move_to_cpu()
        torch.cuda.empty_cache()
        return _run(model, images, shape)


def _run(model: Model, images: Tensor, shape: tuple[int, int]) -> Probability:
    probability = _forward(model, images, shape)
    if model.card.test_time_flips:
        probability = (probability + _forward(model, images.flip(-1), shape).flip(-1)) / 2
    found: Probability = probability.cpu().numpy()
    return found


def _forward(model: Model, images: Tensor, shape: tuple[int, int]) -> Tensor:
    moved = images.to(model.device).contiguous(memory_format=torch.channels_last)
    with autocast(model.device, model.precision):
        logits = model.network(moved)
    full = functional.interpolate(logits.float(), shape, mode="bilinear", align_corners=False)
    return logits_to_probability(full, model.card.temperature)


# ------------------------------------------------------------------------------------ the whole picture


def _predict_whole(
    model: Model, picture: Readable, out: Writable, clicks: tuple[Click, ...]
) -> Iterator[TileProgress]:
    (height, width), (tall, wide) = picture.shape[:2], out.shape[-2:]
    factor = max(1, max(height, width) // (_FACES * model.card.working_size))
    reading, writing = strips_of(height, width, factor), strips_of(tall, wide)
    total, small = len(reading) + len(writing), []
    for done, strip in enumerate(reading, 1):
        small.append(_reduce(as_bytes(picture[strip, 0:width]), factor))
        yield TileProgress(done, total, Box(strip.start, 0, strip.stop, width), 0)
    zoom = (factor * tall / height, factor * wide / width)  # pixels of ``out`` for one of the small picture
    moved = [Click((c.row + 0.5) / zoom[0] - 0.5, (c.col + 0.5) / zoom[1] - 0.5, c.positive) for c in clicks]
    probability = model.predict(np.concatenate(small), moved)
    planes = probability[None] if probability.ndim == 2 else probability
    for done, strip in enumerate(writing, len(reading) + 1):
        put_rows(out, strip, _enlarge(planes, strip, wide, zoom))
        yield TileProgress(done, total, Box(strip.start, 0, strip.stop, wide), strip.stop)


def _reduce(strip: ByteImage, factor: int) -> ByteImage:
    """Average squares of ``factor`` pixels a side; at the far ends, what is left of them."""
    return strip if factor == 1 else np.array(Image.fromarray(strip).reduce(factor))


def _enlarge(planes: Probability, rows: slice, width: int, zoom: tuple[float, float]) -> Probability:
    """Enlarge planes (C, h, w) bilinearly by ``zoom``, and give some rows of them, shape (C, rows, width)."""
    above, below, down = _between(np.arange(rows.start, rows.stop), planes.shape[1], zoom[0])
    left, right, across = _between(np.arange(width), planes.shape[2], zoom[1])
    tall = planes[:, above] * (1 - down[:, None]) + planes[:, below] * down[:, None]
    return np.asarray(tall[:, :, left] * (1 - across) + tall[:, :, right] * across)


def _between(
    places: NDArray[np.intp], length: int, zoom: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Find the two small pixels around each large one, and how far it is from the first to the second."""
    exact = np.clip((places + 0.5) / zoom - 0.5, 0, length - 1)
    before = np.floor(exact).astype(np.intp)
    return before, np.minimum(before + 1, length - 1), (exact - before).astype(np.float32)
