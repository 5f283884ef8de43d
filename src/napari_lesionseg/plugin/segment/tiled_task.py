"""The task that segments a very large image in parts. No widgets in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray

from napari_lesionseg.errors import ImageError
from napari_lesionseg.inference.tiling import TileConfig, predict_tiles, predict_whole
from napari_lesionseg.inference.tiling_io import (
    Readable,
    choose_level,
    new_output,
    remove_specks,
    threshold_strips,
)
from napari_lesionseg.plugin.napari_layers.layers import image_shape
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from napari_lesionseg.inference.predictor import Model

ENOUGH = 4
"""A multiscale image is predicted as a whole at a level of this many times the network's working size."""


@dataclass(frozen=True, slots=True)
class LargeOutline:
    """The result for a very large image."""

    stored: NDArray[np.uint8]  # probabilities as bytes, (H, W) or (C, H, W), kept for another threshold
    mask: LabelImage  # (H, W) class indices


def levels_of(image: Image) -> Sequence[Readable]:
    """Return an image's arrays from large to small, without reading them; raise an ImageError for a stack."""
    if len(image_shape(image)) != 2:
        raise ImageError(f"“{image.name}” is a stack; open one image of it.")
    return list(image.data) if image.multiscale else [image.data]


def draw(stored: NDArray[np.uint8], threshold: float, smallest: int) -> LabelImage:
    """Draw the mask of stored probabilities, in little memory; runs in another thread."""
    mask = np.zeros(stored.shape[-2:], np.uint8)
    threshold_strips(stored, threshold, mask)
    remove_specks(mask, smallest)
    return mask


class TiledTask(Task[LargeOutline]):
    """Segments one very large image, in memory or not, multiscale or not.

    Without a `TileConfig`, a reduced image is predicted as a whole, for one large lesion. `progressed` is
    emitted with (parts done, parts in all). Raises an ImageError if the image is a stack.
    """

    def __init__(
        self, model: Model, image: Image, config: TileConfig | None, threshold: float, smallest: int
    ) -> None:
        super().__init__(
            f"outlining {image.name}", self._segment, model, levels_of(image), config, threshold, smallest
        )

    def _segment(
        self,
        model: Model,
        levels: Sequence[Readable],
        config: TileConfig | None,
        threshold: float,
        smallest: int,
    ) -> LargeOutline:
        height, width = levels[0].shape[:2]
        stored = new_output((height, width), model.card.out_channels)
        if config is None:
            level = levels[choose_level(levels, ENOUGH * model.card.working_size)]
            parts = predict_whole(model, level, stored)
        else:
            parts = predict_tiles(model, levels[0], stored, config)
        for part in parts:
            self.report((part.done, part.total))
        made = np.asarray(stored)
        return LargeOutline(made, draw(made, threshold, smallest))
