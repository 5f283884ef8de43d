"""Buttons that set how large the pixels of an image are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.masks.measurements import Scale
from napari_lesionseg.plugin.instances import pixel_size
from napari_lesionseg.plugin.widgets.forms import DecimalBox, when_gone

if TYPE_CHECKING:
    from napari.components import ViewerModel

RULER_LENGTH = 10.0
"""Millimeters between the marks, until the user changes it."""


class ScaleForm(QWidget):
    """The scale of one image, from a ruler in it or from its DICOM file."""

    changed = Signal()
    was_set = Signal()  # by this form
    message = Signal(str)

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._image: Image | None = None
        self.scale = QLabel()
        self.draw = QPushButton("Draw along a ruler")
        self.length = DecimalBox()
        self.set = QPushButton("Set")
        self.dicom = QPushButton("From DICOM\N{HORIZONTAL ELLIPSIS}")
        self.clear = QPushButton("Back to pixels")
        self._lay_out()
        self.draw.clicked.connect(self._on_draw)
        self.set.clicked.connect(self._on_set)
        self.dicom.clicked.connect(self._on_dicom)
        self.clear.clicked.connect(self._on_clear)
        when_gone(self, self._follow_none)

    def known(self) -> pixel_size.KnownScale | None:
        """Return the scale of the image; an ImageError if its pixels are not square."""
        return pixel_size.scale_of(self._image)

    def show_image(self, image: Image | None, known: pixel_size.KnownScale | None) -> None:
        """Show the scale of an image, and set that of this image from now on."""
        if image is not self._image:
            self._follow_none()
            self._image = image
            if image is not None:
                image.events.metadata.connect(self._on_metadata)
        self.scale.setText(
            "none: pixels"
            if known is None
            else f"{known.scale.millimeters:.4g} mm per pixel ({known.source})"
        )
        for button in (self.draw, self.set, self.dicom):
            button.setEnabled(image is not None)
        self.clear.setEnabled(known is not None and known.source != "image")

    def _follow_none(self) -> None:
        if self._image is not None:
            self._image.events.metadata.disconnect(self._on_metadata)
        self._image = None

    def _on_metadata(self) -> None:
        self.changed.emit()

    def _lay_out(self) -> None:
        self.length.setRange(0.01, 10_000)
        self.length.setDecimals(2)
        self.length.setValue(RULER_LENGTH)
        self.length.setSuffix(" mm")
        self.length.setToolTip("Length on the ruler between both ends of the line")
        self.draw.setToolTip("Draw a line in the image between two marks of a ruler")
        self.set.setToolTip("Set the scale from the last line")
        self.dicom.setToolTip("Read the scale from the DICOM file of the image")
        self.clear.setToolTip("Remove the scale, and measure in pixels")
        self.scale.setStyleSheet("font-weight: bold;")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widgets in (
            (QLabel("Scale"), self.scale),
            (self.draw, self.length, self.set),
            (self.dicom, self.clear),
        ):
            row = QHBoxLayout()
            for widget in widgets:
                row.addWidget(widget, int(widget is self.scale))
            column.addLayout(row)

    def _on_draw(self) -> None:
        if self._image is not None:
            pixel_size.add_ruler(self._viewer, self._image)
            self.message.emit("Draw a line between two marks of the ruler, enter its length, and press Set.")

    def _on_set(self) -> None:
        ruler = pixel_size.find_ruler(self._viewer)
        if self._image is None:
            return
        if ruler is None:
            self.message.emit("Draw a line along the ruler first.")
            return
        self._take(partial(pixel_size.scale_of_ruler, ruler, self._image, self.length.value()), "ruler")

    def _on_dicom(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "DICOM file of the image", "", "DICOM (*.dcm);;All files (*)"
        )
        if path and self._image is not None:
            self._take(partial(pixel_size.scale_of_file, Path(path), self._image), "DICOM file")

    def _take(self, find: Callable[[], Scale], source: str) -> None:
        if self._image is None:
            return
        try:
            pixel_size.set_scale(self._image, find(), source)
        except LesionSegError as error:
            self.message.emit(str(error))
        else:
            self.was_set.emit()

    def _on_clear(self) -> None:
        if self._image is not None:
            pixel_size.set_scale(self._image, None)
