"""Small images with their outlines drawn in, made in the background, for the queue."""

from __future__ import annotations

import numpy as np
from qtpy.QtGui import QIcon, QImage, QPixmap

from napari_lesionseg.io.overlay import draw_outline
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.plugin.widgets.lazy_cache import LazyCache
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage

SIDE = 44
"""Pixels of the longer side."""

KEPT = 600
"""Thumbnails kept in memory, about 6 kB each."""

WAITING = 60
"""Thumbnails that may wait to be made; more were scrolled past."""


def make_thumbnail(study: Study, image_id: str) -> ByteImage:
    """Read an image and its outline and make them small; to be called in a worker.

    Returns
    -------
    ndarray
        (h, w, 3) uint8, at most `SIDE` pixels either way.
    """
    image, mask = study.read_image(image_id), study.read_mask(image_id)
    factor = SIDE / max(image.shape[:2])
    shape = (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
    small = resize_image(image, shape)
    return small if mask is None else draw_outline(small, resize_labels(mask, shape))


class Thumbnails(LazyCache[QIcon]):
    """Makes thumbnails as they are asked for.

    Parameters
    ----------
    study : Study
        The study whose images they are of.
    """

    def __init__(self, study: Study) -> None:
        super().__init__("drawing a small image", KEPT, WAITING)
        self._study = study

    def of(self, state: ImageState) -> QIcon | None:
        """Give an image's thumbnail; None, or the former one, while it is made."""
        return self.get(state.image_id, None if state.current is None else state.current.revision)

    def _make(self, image_id: str) -> ByteImage:
        return make_thumbnail(self._study, image_id)

    def _finish(self, made: ByteImage) -> QIcon:
        return _as_icon(made)

    def _instead(self) -> QIcon:
        """Give nothing: opening the image says what is wrong with it."""
        return QIcon()


def _as_icon(small: ByteImage) -> QIcon:
    """Make an icon that keeps its colors in the selected row, where Qt would tint it."""
    pixels = np.ascontiguousarray(small)
    height, width = pixels.shape[:2]
    image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    pixmap = QPixmap.fromImage(image.copy())
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Selected)
    return icon
