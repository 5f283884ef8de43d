"""Small pictures with their outlines drawn in, made in the background, for the queue."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

import numpy as np
from psygnal import Signal
from qtpy.QtGui import QImage, QPixmap

from napari_lesionseg.data.overlay import draw_outline
from napari_lesionseg.data.transforms import resize_labels, resize_picture
from napari_lesionseg.plugin.workers import Job
from napari_lesionseg.study.fold import PictureState
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage

SIDE = 44
"""Pixels of the longer side."""

KEPT = 600
"""Thumbnails kept in memory, about 6 kB each."""

WAITING = 60
"""Thumbnails that may wait to be made; more were scrolled past."""

_Key: TypeAlias = tuple[str, str | None]


def make_thumbnail(study: Study, picture: str) -> ByteImage:
    """Read a picture and its outline and make them small; to be called in a worker.

    Returns
    -------
    ndarray
        (h, w, 3) uint8, at most `SIDE` pixels either way.
    """
    image, mask = study.read_picture(picture), study.outline(picture)
    factor = SIDE / max(image.shape[:2])
    shape = (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
    small = resize_picture(image, shape)
    return small if mask is None else draw_outline(small, resize_labels(mask, shape))


class Thumbnails:
    """Makes thumbnails as they are asked for, the last asked first, and keeps the latest.

    Attributes
    ----------
    ready : psygnal.Signal
        Emitted with the SHA-256 of a picture whose thumbnail is there now.
    """

    ready = Signal(str)

    def __init__(self, study: Study) -> None:
        self._study = study
        self._kept: OrderedDict[str, tuple[_Key, QPixmap]] = OrderedDict()
        self._waiting: OrderedDict[str, _Key] = OrderedDict()
        self._job: Job[ByteImage] | None = None

    def of(self, state: PictureState) -> QPixmap | None:
        """Give a picture's thumbnail; None, or the former one, while it is made."""
        key = (state.picture, None if state.outline is None else state.outline.revision)
        kept = self._kept.get(state.picture)
        if kept is None or kept[0] != key:
            self._waiting[state.picture] = key
            self._waiting.move_to_end(state.picture)
            while len(self._waiting) > WAITING:
                self._waiting.popitem(last=False)
            self._begin()
        return None if kept is None else kept[1]

    def close(self) -> None:
        """Let nothing come of what is being made."""
        if self._job is not None:
            self._job.drop()
        self._job = None
        self._waiting.clear()

    def _begin(self) -> None:
        if self._job is not None or not self._waiting:
            return
        picture, key = self._waiting.popitem()
        self._job = Job(
            "drawing a small picture",
            make_thumbnail,
            self._study,
            picture,
            done=lambda small: self._on_done(key, _as_pixmap(small)),
            # A grey square: opening the picture says what is wrong with it.
            failed=lambda error: self._on_done(key, QPixmap()),
        )

    def _on_done(self, key: _Key, pixmap: QPixmap) -> None:
        self._job = None
        self._kept[key[0]] = (key, pixmap)
        self._kept.move_to_end(key[0])
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        self.ready.emit(key[0])
        self._begin()


def _as_pixmap(small: ByteImage) -> QPixmap:
    pixels = np.ascontiguousarray(small)
    height, width = pixels.shape[:2]
    image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image.copy())
