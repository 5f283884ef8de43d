"""The task that segments a very large image in parts, and the outline that it draws. No widgets in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError
from napari_lesionseg.inference.tiling import TileConfig, predict_tiles, predict_whole
from napari_lesionseg.inference.tiling_io import (
    Readable,
    choose_level,
    new_output,
    remove_specks,
    threshold_strips,
)
from napari_lesionseg.plugin.editor.editor import editor_of, open_editor
from napari_lesionseg.plugin.napari_layers.layers import CLASSES, fits, image_shape, new_outline, show_as
from napari_lesionseg.plugin.segment.outlines import ImageEditors
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.predictor import Model

ENOUGH = 4
"""A multiscale image is predicted as a whole at a level of this many times the network's working size."""


@dataclass(frozen=True, slots=True)
class TiledResult:
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


class TiledTask(Task[TiledResult]):
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
    ) -> TiledResult:
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
        return TiledResult(made, draw(made, threshold, smallest))


class TiledOutline:
    """The outline of a very large image: its stored probabilities, and the layer that shows it."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer, self._editors = viewer, ImageEditors(viewer)
        self._stored: NDArray[np.uint8] | None = None
        self._classes: tuple[str, ...] = ()
        self.image: Image | None = None
        self.labels: Labels | None = None

    @property
    def stored(self) -> NDArray[np.uint8] | None:
        """The probabilities as bytes; None if there are none, or their image was closed."""
        return self._stored if self.image in self._viewer.layers else None

    def accept(self, image: Image, result: TiledResult, classes: tuple[str, ...]) -> None:
        """Draw a result; raise an ImageError if the image was closed or changed meanwhile."""
        self._editors.check(image, result.mask.shape)
        self.image, self._stored, self._classes = image, result.stored, classes
        self._write(result.mask, over_strokes=True)

    def redraw(self, mask: LabelImage) -> None:
        """Draw a mask made with another threshold, as an undoable step; what was painted stays."""
        self._write(mask, over_strokes=False)

    def _write(self, mask: LabelImage, *, over_strokes: bool) -> None:
        """Draw a mask; the first time, into a new Labels layer."""
        image, layers = self.image, self._viewer.layers
        if image is None:
            return
        if self.labels is None or self.labels not in layers or not fits(self.labels, image):
            self.labels = new_outline(image)
            self.labels.metadata[CLASSES] = self._classes
            self.labels.data[...] = mask  # the layer is not shown yet: there is nothing to undo
            show_as(self.labels, filled=False)
            layers.insert(layers.index(image) + 1, self.labels)
        editor = editor_of(self.labels) or open_editor(self._viewer, image, self.labels, PostprocessConfig())
        document = editor.document
        document.record_painting()
        manual_mask = document.snapshot.manual_mask
        if over_strokes:
            manual_mask = np.zeros_like(manual_mask)
        elif manual_mask.any():
            mask = np.where(manual_mask, document.snapshot.mask, mask)
        if not np.array_equal(mask, document.snapshot.mask):
            document.record(replace(document.snapshot, mask=mask, manual_mask=manual_mask), "threshold")
