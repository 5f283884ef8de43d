"""The list of layers of one kind to choose from, which follows the viewer's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_lesionseg.plugin.widgets.postprocess_form import keep_narrow

if TYPE_CHECKING:
    from napari.components import ViewerModel


class LayerChoice(QComboBox):
    """One layer of a kind; one that is made active in the viewer becomes the current one.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Whose layers are listed.
    kind : type
        Kind of the layers.
    nothing : str
        What is shown where there is none.

    Attributes
    ----------
    changed : Signal
        Another layer is meant now, or none.
    """

    changed = Signal()

    def __init__(
        self, viewer: ViewerModel, kind: type[Layer], nothing: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._layers, self._kind = viewer.layers, kind
        self._listed: list[Layer] = []
        self._meant: Layer | None = None
        keep_narrow(self)
        self.setPlaceholderText(nothing)
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
    def meant(self) -> Layer | None:
        """The layer that is meant."""
        place = self.currentIndex()
        return self._listed[place] if 0 <= place < len(self._listed) else None

    def choose(self, layer: Layer) -> None:
        """Mean a layer."""
        if layer in self._listed:
            self.setCurrentIndex(self._listed.index(layer))

    def disconnect_viewer(self) -> None:
        """Stop listening to the viewer."""
        for events, callback in self._sources:
            events.disconnect(callback)

    def _refresh(self, event: Any = None) -> None:
        """Fill the list anew, and stay on the same layer if it is still there."""
        self._listed = [layer for layer in self._layers if isinstance(layer, self._kind)]
        with QSignalBlocker(self):
            self.clear()
            self.addItems([layer.name for layer in self._listed])
            kept = self._meant is not None and self._meant in self._listed
            self.setCurrentIndex(self._listed.index(self._meant) if kept else len(self._listed) - 1)
        self._tell()

    def _follow(self, event: Any = None) -> None:
        active = self._layers.selection.active
        if isinstance(active, self._kind):
            self.choose(active)

    def _tell(self) -> None:
        if self.meant is not self._meant:
            self._meant = self.meant
            self.changed.emit()


class LabelsChoice(LayerChoice):
    """One outline, or other Labels layer."""

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(viewer, Labels, "no outline is open", parent)
        self.setToolTip("The layer whose lesions are meant: the one that is active in the layer list")

    @property
    def layer(self) -> Labels | None:
        """The layer that is meant."""
        return self.meant if isinstance(self.meant, Labels) else None


class ImageChoice(LayerChoice):
    """One image."""

    def __init__(self, viewer: ViewerModel, parent: QWidget | None = None) -> None:
        super().__init__(viewer, Image, "no image is open", parent)
        self.setToolTip("The image that is meant: the one that is active in the layer list")

    @property
    def layer(self) -> Image | None:
        """The image that is meant."""
        return self.meant if isinstance(self.meant, Image) else None
