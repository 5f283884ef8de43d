"""A very large image outlined part by part in another thread; it can be cancelled. No widgets in here."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_lesionseg.errors import CancelledError, ImageError
from napari_lesionseg.inference.tiling import TileConfig, predict_tiles, predict_whole
from napari_lesionseg.inference.tiling_io import (
    Readable,
    choose_level,
    new_output,
    remove_specks,
    threshold_strips,
)
from napari_lesionseg.plugin.napari_layers.layers import image_shape
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from napari_lesionseg.inference.predictor import Model

ENOUGH = 4
"""Of a multiscale image, the level looked at from afar has this many times the network's working size."""


@dataclass(frozen=True, slots=True)
class LargeOutline:
    """What came out of a very large image.

    Parameters
    ----------
    stored : ndarray
        Probabilities as bytes, (H, W) or (C, H, W), kept for another threshold.
    mask : ndarray
        (H, W) uint8, class indices.
    """

    stored: NDArray[np.uint8]
    mask: LabelImage


def levels_of(image: Image) -> Sequence[Readable]:
    """Give an image's arrays from large to small, without reading them; one where it is not multiscale.

    Raises
    ------
    ImageError
        If it is a stack.
    """
    if len(image_shape(image)) != 2:
        raise ImageError(f"“{image.name}” is a stack; open one image of it.")
    return list(image.data) if image.multiscale else [image.data]


def draw(stored: NDArray[np.uint8], threshold: float, smallest: int) -> LabelImage:
    """Make a mask of stored probabilities, in memory that hardly grows; to be called in a worker."""
    mask = np.zeros(stored.shape[-2:], np.uint8)
    threshold_strips(stored, threshold, mask)
    remove_specks(mask, smallest)
    return mask


class TileRun(QObject):
    """One very large image at work.

    Parameters
    ----------
    model : Model
        The network.
    image : napari.layers.Image
        A single image, in memory or not, multiscale or not.
    config : TileConfig or None
        Look closely, tile by tile; None: look at the whole from afar, for one large lesion.
    threshold : float
        In (0, 1).
    smallest : int
        Pixels; smaller parts are dropped.

    Attributes
    ----------
    progressed : Signal
        Emitted on the main thread with (parts done, parts in all).
    finished : Signal
        Emitted with the `LargeOutline`.
    failed : Signal
        Emitted with the exception; a `CancelledError` when it was cancelled.

    Raises
    ------
    ImageError
        If the image is a stack.
    """

    progressed = Signal(int, int)
    finished = Signal(object)
    failed = Signal(object)

    def __init__(
        self,
        model: Model,
        image: Image,
        config: TileConfig | None,
        threshold: float,
        smallest: int,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._cancelled = threading.Event()
        self._job: Task[Any] = run_task(
            f"outlining {image.name}",
            self._work,
            model,
            levels_of(image),
            config,
            threshold,
            smallest,
            done=self.finished.emit,
            failed=self.failed.emit,
        )

    def cancel(self) -> None:
        """Stop after the part in hand; nothing comes of it."""
        self._cancelled.set()

    def abandon(self) -> None:
        """Cancel, and let nobody hear of it: the window is closing."""
        self._job.close()
        self.cancel()

    def _work(
        self,
        model: Model,
        levels: Sequence[Readable],
        config: TileConfig | None,
        threshold: float,
        smallest: int,
    ) -> LargeOutline:
        """Run the engine in this, another, thread."""
        height, width = levels[0].shape[:2]
        stored = new_output((height, width), model.card.out_channels)
        if config is None:
            level = levels[choose_level(levels, ENOUGH * model.card.working_size)]
            parts = predict_whole(model, level, stored)
        else:
            parts = predict_tiles(model, levels[0], stored, config)
        for part in parts:
            self.progressed.emit(part.done, part.total)
            if self._cancelled.is_set():
                raise CancelledError("Cancelled; nothing was changed.")
        made = np.asarray(stored)
        return LargeOutline(made, draw(made, threshold, smallest))
