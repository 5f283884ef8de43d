"""Lists of layers to choose from, which follow the viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from magicgui.widgets import ComboBox
from magicgui.widgets.bases import CategoricalWidget
from napari.layers import Image, Layer

from napari_lesionseg.plugin.widgets.forms import keep_narrow

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.plugin.segment.outlines import ImageEditors

SELECTED: Final = "selected"
"""Value of the entry for all images that are selected in the layer list."""


class LayerCombo(ComboBox):
    """One layer of a kind; a layer that becomes active in the viewer is chosen."""

    def __init__(self, viewer: ViewerModel, kind: type[Layer], placeholder: str) -> None:
        self._viewer, self._kind = viewer, kind
        super().__init__(choices=self._list_choices)
        keep_narrow(self.native)
        self.native.setPlaceholderText(placeholder)
        self.native.setToolTip(self._explain())
        self._sources = [
            (viewer.layers.events.inserted, self._refresh),
            (viewer.layers.events.removed, self._refresh),
            (viewer.layers.events.reordered, self._refresh),
            (viewer.layers.events.renamed, self._refresh),
            (viewer.layers.selection.events.active, self._follow),
        ]
        for event, callback in self._sources:
            event.connect(callback)
        self._refresh()
        self._follow()

    @property
    def layer(self) -> Any:
        """The chosen layer, None where there is none."""
        return self.value if isinstance(self.value, self._kind) else None

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer, if it is listed."""
        if layer in self.choices:
            self.value = layer

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        for event, callback in self._sources:
            event.disconnect(callback)

    def _layers(self) -> list[Layer]:
        return [layer for layer in self._viewer.layers if isinstance(layer, self._kind)]

    def _list_choices(self, widget: CategoricalWidget[Any]) -> list[tuple[str, Any]]:
        return [(layer.name, layer) for layer in self._layers()]

    def _chosen_by(self, active: Layer | None) -> Layer | None:
        """Return the layer that is chosen when a layer becomes active."""
        return active

    def _explain(self) -> str:
        kind = "Image" if self._kind is Image else "Outline"
        return f"{kind} to work on. Follows the active layer."

    def _refresh(self, event: Any = None) -> None:
        """List the layers again, and stay on the same one if it still exists."""
        kept = self.value
        with self.changed.blocked():
            self.native.clear()  # magicgui would keep the former order
            self.reset_choices()
            if kept in self.choices:
                self.value = kept
            elif layers := self._layers():
                self.value = next((layer for layer in reversed(layers) if layer.visible), layers[-1])
        if self.value is not kept:
            self.changed.emit(self.value)

    def _follow(self, event: Any = None) -> None:
        chosen = self._chosen_by(self._viewer.layers.selection.active)
        if chosen in self.choices and isinstance(chosen, Layer) and not chosen.visible:
            # napari makes the layer active that was added last, which may be one of a stack of hidden ones.
            chosen = next((layer for layer in reversed(self._layers()) if layer.visible), chosen)
        self.choose(chosen)


class ImagesCombo(LayerCombo):
    """One image, or all that are selected in the layer list; an active outline chooses its image."""

    def __init__(self, viewer: ViewerModel, editors: ImageEditors) -> None:
        self._editors = editors
        super().__init__(viewer, Image, "no image is open")
        self._sources.append((viewer.layers.selection.events.changed, self._on_selection))
        viewer.layers.selection.events.changed.connect(self._on_selection)

    def images(self) -> list[Image]:
        """Return the images that are chosen."""
        if self.value == SELECTED:
            return self._editors.selected_images()
        return [self.layer] if self.layer is not None else []

    def _layers(self) -> list[Layer]:
        return list(self._editors.images())

    def _list_choices(self, widget: CategoricalWidget[Any]) -> list[tuple[str, Any]]:
        listed = super()._list_choices(widget)
        count = len(self._editors.selected_images())
        return [*listed, (f"All selected images ({count})", SELECTED)] if listed else []

    def _chosen_by(self, active: Layer | None) -> Layer | None:
        return None if self.value == SELECTED else self._editors.image_of(active)

    def _on_selection(self, event: Any = None) -> None:
        self._refresh()
        if self.value == SELECTED:
            self.changed.emit(SELECTED)  # other images are meant
