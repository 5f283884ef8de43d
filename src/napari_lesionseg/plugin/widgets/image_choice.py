"""The list of images to choose from, which follows the viewer's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_lesionseg.plugin.segment.outlines import Session
from napari_lesionseg.plugin.widgets.postprocess_form import keep_narrow

if TYPE_CHECKING:
    from napari.components import ViewerModel


class ImageChoice(QComboBox):
    """One image, or all that are selected in the layer list.

    An image becomes the current one when it, or its outline, is made active in the viewer.

    Attributes
    ----------
    changed : Signal
        Other images are meant now.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._layers = viewer.layers
        self._listed: list[Image] = []
        keep_narrow(self)
        self.setPlaceholderText("no image is open")
        self._sources = [
            (events, callback)
            for events, callback in (
                (viewer.layers.events.inserted, self._refresh),
                (viewer.layers.events.removed, self._refresh),
                (viewer.layers.events.reordered, self._refresh),
                (viewer.layers.events.renamed, self._refresh),
                (viewer.layers.selection.events.active, self._follow),
                (viewer.layers.selection.events.changed, self._on_selection),
            )
        ]
        for events, callback in self._sources:
            events.connect(callback)
        self.currentIndexChanged.connect(self.changed)
        self._refresh()
        self._follow()

    @property
    def selected_meant(self) -> bool:
        """Whether all selected images are meant, rather than one."""
        return bool(self._listed) and self.currentIndex() == len(self._listed)

    def images(self) -> list[Image]:
        """List the images that are meant."""
        if self.selected_meant:
            return self._session.selected_images()
        return self._listed[self.currentIndex() : self.currentIndex() + 1] if self._listed else []

    def disconnect_viewer(self) -> None:
        """Stop listening to the viewer."""
        for events, callback in self._sources:
            events.disconnect(callback)

    def _refresh(self, event: Any = None) -> None:
        """Fill the list anew, and stay on the same image if it is still there."""
        meant, selected = self.images(), self.selected_meant
        self._listed = self._session.images()
        with QSignalBlocker(self):
            self.clear()
            self.addItems([image.name for image in self._listed])
            if self._listed:
                self.addItem("")
            self._name_selection()
            if selected and self._listed:
                self.setCurrentIndex(len(self._listed))
            elif self._listed:
                self.setCurrentIndex(
                    self._listed.index(meant[0]) if meant and meant[0] in self._listed else 0
                )
        if self.images() != meant or selected:
            self.changed.emit()

    def _follow(self, event: Any = None) -> None:
        image = self._session.image_of(self._layers.selection.active)
        if image in self._listed and not self.selected_meant:
            self.setCurrentIndex(self._listed.index(image))

    def _on_selection(self, event: Any = None) -> None:
        self._name_selection()
        if self.selected_meant:
            self.changed.emit()

    def _name_selection(self) -> None:
        if self._listed:
            count = len(self._session.selected_images())
            self.setItemText(len(self._listed), f"All selected images ({count})")
