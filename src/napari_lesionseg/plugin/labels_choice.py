"""The list of Labels layers to choose from, which follows the viewer's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_lesionseg.plugin.controls import keep_narrow

if TYPE_CHECKING:
    from napari.components import ViewerModel


class LabelsChoice(QComboBox):
    """One Labels layer; one that is made active in the viewer becomes the current one.

    Attributes
    ----------
    changed : Signal
        Another layer is meant now, or none.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._layers = viewer.layers
        self._listed: list[Labels] = []
        self._meant: Labels | None = None
        keep_narrow(self)
        self.setPlaceholderText("no outline is open")
        self.setToolTip("The layer whose lesions are listed; the one that is active in the layer list")
        self._sources = [
            (viewer.layers.events.inserted, self._refresh),
            (viewer.layers.events.removed, self._refresh),
            (viewer.layers.events.reordered, self._refresh),
            (viewer.layers.events.renamed, self._refresh),
            (viewer.layers.selection.events.active, self._follow),
        ]
        for events, callback in self._sources:
            events.connect(callback)
        self.currentIndexChanged.connect(self._tell)
        self._refresh()
        self._follow()

    @property
    def layer(self) -> Labels | None:
        """The layer that is meant."""
        place = self.currentIndex()
        return self._listed[place] if 0 <= place < len(self._listed) else None

    def choose(self, layer: Labels) -> None:
        """Mean a layer."""
        if layer in self._listed:
            self.setCurrentIndex(self._listed.index(layer))

    def disconnect_viewer(self) -> None:
        """Stop listening to the viewer."""
        for events, callback in self._sources:
            events.disconnect(callback)

    def _refresh(self, event: Any = None) -> None:
        """Fill the list anew, and stay on the same layer if it is still there."""
        self._listed = [layer for layer in self._layers if isinstance(layer, Labels)]
        with QSignalBlocker(self):
            self.clear()
            self.addItems([layer.name for layer in self._listed])
            kept = self._meant in self._listed
            last = len(self._listed) - 1
            self.setCurrentIndex(self._listed.index(self._meant) if kept and self._meant else last)
        self._tell()

    def _follow(self, event: Any = None) -> None:
        active = self._layers.selection.active
        if isinstance(active, Labels):
            self.choose(active)

    def _tell(self) -> None:
        if self.layer is not self._meant:
            self._meant = self.layer
            self.changed.emit()
