"""Keeps the image and outline of a study in place: napari's ways to move or reshape them are undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info

if TYPE_CHECKING:
    from napari.components import ViewerModel

_PLACE = ("scale", "translate", "rotate", "shear", "affine")
_REDO = "Ctrl+Y"  # napari's key for 3D, and that of redo on Windows


class LayoutGuard:
    """Restores what napari changes about the place of two layers, and reports it."""

    def __init__(
        self, viewer: ViewerModel, image: Image, labels: Labels, class_count: Callable[[], int]
    ) -> None:
        self._viewer, self._labels, self._class_count = viewer, labels, class_count
        self._places = {layer: _place_of(layer) for layer in (image, labels)}
        self._restoring = False
        self._connections = self._connect()
        self._former_key = viewer.bind_key(_REDO, self._redo, overwrite=True)

    def close(self) -> None:
        """Watch the layers no longer."""
        for event, callback in self._connections:
            event.disconnect(callback)
        self._connections = []
        self._viewer.bind_key(_REDO, self._former_key, overwrite=True)

    def _connect(self) -> list[tuple[Any, Callable[[], None]]]:
        pairs: list[tuple[Any, Callable[[], None]]] = [
            (self._viewer.dims.events.ndisplay, self._on_view),
            (self._viewer.dims.events.order, self._on_view),
            (self._viewer.canvas.grid.events.enabled, self._on_view),
            (self._labels.events.selected_label, self._on_class),
        ]
        for layer in self._places:
            pairs.append((layer.events.mode, self._on_mode))
            pairs.extend((getattr(layer.events, name), self._on_moved) for name in _PLACE)
        for event, callback in pairs:
            event.connect(callback)
        return pairs

    def _redo(self, viewer: ViewerModel) -> None:
        self._labels.redo()

    def _on_view(self) -> None:
        dims, grid = self._viewer.dims, self._viewer.canvas.grid
        in_order = tuple(range(dims.ndim))
        if dims.ndisplay == 2 and tuple(dims.order) == in_order and not grid.enabled:
            return
        dims.ndisplay, dims.order, grid.enabled = 2, in_order, False
        show_info("A study is shown in 2D, upright, one layer upon the other.")

    def _on_mode(self) -> None:
        for layer in self._places:
            if str(layer.mode) == "transform":
                layer.mode = "pan_zoom"
                show_info("The image and outline of a study cannot be moved or turned.")

    def _on_moved(self) -> None:
        if self._restoring or not any(_moved(layer, place) for layer, place in self._places.items()):
            return
        self._restoring = True
        try:
            for layer, place in self._places.items():
                for name, value in place.items():
                    setattr(layer, name, value)
        finally:
            self._restoring = False
        show_info("The image and outline of a study cannot be moved or turned.")

    def _on_class(self) -> None:
        count = self._class_count()
        if self._labels.selected_label > count:
            self._labels.selected_label = count
            many = "only one class" if count == 1 else f"only {count} classes"
            show_info(f"This study has {many}. Add others with Classes\N{HORIZONTAL ELLIPSIS}")


def _place_of(layer: Layer) -> dict[str, Any]:
    place = {name: getattr(layer, name) for name in _PLACE[:-1]}
    return place | {"affine": np.asarray(layer.affine).copy()}


def _moved(layer: Layer, place: dict[str, Any]) -> bool:
    return any(not np.allclose(getattr(layer, name), value) for name, value in place.items())
