"""What the queue shows of an image beyond its state, made in the background: thumbnails and agreement."""

from __future__ import annotations

import numpy as np
from qtpy.QtGui import QIcon, QImage, QPixmap

from napari_lesionseg.io.overlay import draw_outline
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.plugin.widgets.lazy_cache import LazyCache
from napari_lesionseg.study.agreement import measure_agreement, read_verdicts
from napari_lesionseg.study.events import Approved
from napari_lesionseg.study.landmarks import current_marks
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage

SIDE = 44
"""Pixels of a thumbnail's longer side."""

MAX_THUMBNAILS = 600
"""Thumbnails kept in memory, about 6 kB each."""

MAX_AGREEMENTS = 20_000
"""Figures kept in memory."""

_MARK_COLOR = (240, 228, 66)  # the yellow of the first person's landmarks

MAX_WAITING = 60
"""Images that may wait; more were scrolled past."""


class Thumbnails(LazyCache[QIcon]):
    """Small images with their outlines drawn in, made as they are requested."""

    def __init__(self, study: Study) -> None:
        super().__init__("drawing thumbnails", MAX_THUMBNAILS, MAX_WAITING)
        self._study = study

    def of(self, state: ImageState) -> QIcon | None:
        """Return an image's thumbnail; None, or the former one, while it is made."""
        return self.get(state.image_id, None if state.current is None else state.current.revision)

    def _make(self, image_id: str) -> ByteImage:
        return make_thumbnail(self._study, image_id)

    def _finish(self, made: ByteImage) -> QIcon:
        return _as_icon(made)

    def _instead(self) -> QIcon:
        """Return an empty icon: opening the image tells what is wrong with it."""
        return QIcon()


class AgreementColumn(LazyCache[float | None]):
    """How well the outlines agree that annotators approved, as mean Dice of all pairs."""

    def __init__(self, study: Study) -> None:
        super().__init__("comparing the annotators", MAX_AGREEMENTS, MAX_WAITING)
        self._study = study

    def of(self, state: ImageState) -> float | None:
        """Return a figure in [0, 1]; None where fewer than two decided, and while it is computed."""
        if len(state.verdicts) < 2:
            return None
        approved = (
            (annotator, verdict.revision if isinstance(verdict, Approved) else "")
            for annotator, verdict in sorted(state.verdicts.items())
        )
        return self.get(state.image_id, tuple(approved))

    def _make(self, image_id: str) -> float | None:
        return measure_agreement([read_verdicts(self._study, image_id)]).mean

    def _finish(self, made: float | None) -> float | None:
        return made

    def _instead(self) -> None:
        """Return nothing where an outline cannot be read; opening the image tells what is wrong with it."""


def make_thumbnail(study: Study, image_id: str, side: int = SIDE) -> ByteImage:
    """Read an image and its outline, and shrink them to at most `side` pixels; runs in another thread."""
    image, mask = study.read_image(image_id), study.read_mask(image_id)
    factor = side / max(image.shape[:2])
    shape = (max(1, round(image.shape[0] * factor)), max(1, round(image.shape[1] * factor)))
    small = resize_image(image, shape)
    for mark in current_marks(study.state.images[image_id]):
        row, col = round(mark.row * factor), round(mark.col * factor)
        small[max(0, row - 1) : row + 2, max(0, col - 1) : col + 2] = _MARK_COLOR
    return small if mask is None else draw_outline(small, resize_labels(mask, shape))


def as_pixmap(image: ByteImage) -> QPixmap:
    """Convert an image (H, W, 3) for Qt."""
    pixels = np.ascontiguousarray(image)
    height, width = pixels.shape[:2]
    return QPixmap.fromImage(
        QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888).copy()
    )


def _as_icon(small: ByteImage) -> QIcon:
    """Return an icon that keeps its colors in the selected row, where Qt would tint it."""
    pixmap = as_pixmap(small)
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Selected)
    return icon
