"""The layers in which a study's images are shown, one image at a time, and where the viewer looks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_lesionseg.plugin.napari_layers.layers import new_outline, place_like, show_as
from napari_lesionseg.types import ByteImage

if TYPE_CHECKING:
    from napari.components import ViewerModel


class ViewerLayers:
    """An image and its outline in a viewer; the same two layers serve all images.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer; held weakly, so that it can be closed.

    Attributes
    ----------
    losing : psygnal.Signal
        Emitted when the user deletes one of the layers, before the other one is taken away as well.
    """

    losing = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self._layers: tuple[Image, Labels] | None = None
        viewer.layers.events.removed.connect(self._on_layer_removed)

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, as long as it is open."""
        return self._viewer()

    @property
    def view(self) -> dict[str, Any] | None:
        """Where the viewer looks, as `describe_view` says it."""
        viewer = self._viewer()
        return None if viewer is None else describe_view(viewer)

    def show(self, viewer: ViewerModel, image: ByteImage, name: str) -> tuple[Image, Labels]:
        """Show an image with an empty outline, which becomes the active layer.

        The layers are kept, since napari takes about half a second to remove two and add two.
        """
        if self._layers is None:
            layer = Image(image, rgb=True, name=name)
            labels = new_outline(layer)
            viewer.layers.extend([layer, labels])
        else:
            layer, labels = self._layers
            layer.data, labels.data = image, np.zeros(image.shape[:2], np.uint8)
        layer.name, labels.name = name, f"{name} outline"
        _set_visible((layer, labels), visible=True)
        labels.selected_label = 1  # else the network's outline would be of the class painted last
        place_like(labels, layer)
        show_as(labels, filled=False)
        viewer.layers.selection.active = labels
        self._layers = layer, labels
        return self._layers

    def look(self, view: Mapping[str, Any] | None) -> None:
        """Let the viewer look at the whole image, or at what a `view` says."""
        viewer = self._viewer()
        if viewer is not None:
            viewer.reset_view()
            if view is not None:
                apply_view(viewer, view)

    def hide(self) -> None:
        """Show nothing until the next image is there."""
        _set_visible(self._layers or (), visible=False)

    def close(self) -> None:
        """Take the layers away and let go of the viewer."""
        layers, self._layers = self._layers, None
        viewer = self._viewer()
        if viewer is not None:
            viewer.layers.events.removed.disconnect(self._on_layer_removed)
        _remove(self._viewer, layers or ())

    def _on_layer_removed(self, event: Any) -> None:
        if self._layers is None or event.value not in self._layers:
            return
        self.losing.emit()
        left = [layer for layer in self._layers if layer is not event.value]
        self._layers = None
        QTimer.singleShot(0, partial(_remove, self._viewer, left))  # napari may still be removing others


def _set_visible(layers: Iterable[Layer], *, visible: bool) -> None:
    """Show or hide layers; napari draws all of them anew even where they are shown already."""
    for layer in layers:
        if layer.visible != visible:
            layer.visible = visible


def describe_view(viewer: ViewerModel) -> dict[str, Any]:
    """Say where the viewer looks, as plain values that a journal takes."""
    camera = viewer.scene.camera
    return {"center": [float(value) for value in camera.center], "zoom": float(camera.zoom)}


def apply_view(viewer: ViewerModel, view: Mapping[str, Any]) -> None:
    """Look where `describe_view` says; what another version wrote is left alone."""
    center, zoom, camera = view.get("center"), view.get("zoom"), viewer.scene.camera
    if not isinstance(center, list) or len(center) != len(camera.center):
        return
    if isinstance(zoom, int | float) and zoom > 0 and all(isinstance(value, int | float) for value in center):
        camera.center, camera.zoom = tuple(center), zoom


def _remove(viewer: Callable[[], ViewerModel | None], layers: Iterable[Layer]) -> None:
    """Take layers out of a viewer, if both are still there."""
    model = viewer()
    for layer in layers:
        if model is not None and layer in model.layers:
            model.layers.remove(layer)
