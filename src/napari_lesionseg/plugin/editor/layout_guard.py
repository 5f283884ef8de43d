"""Keeps an outline on its image: napari's ways to move or reshape them are undone, with a message."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info

from napari_lesionseg.plugin.napari_layers.layers import place_like

if TYPE_CHECKING:
    from napari.components import ViewerModel

_PLACE = ("scale", "translate", "rotate", "shear", "affine")
_REDO = "Ctrl+Y"  # napari's key for 3D, and that of redo on Windows
_STAYS = "An outline cannot be moved or turned; it stays on its image."


class LayoutGuard:
    """Restores what napari changes about the place of an outline, and reports it.

    In a study the image stays where it is as well. Elsewhere the outline follows its image, and other views,
    such as 3D, are possible once another layer is selected.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image | None,
        labels: Labels,
        class_count: Callable[[], int] | None = None,
        *,
        in_study: bool = False,
    ) -> None:
        self._viewer, self._labels, self._class_count = viewer, labels, class_count
        self._image, self._in_study = image, in_study
        self._layers: tuple[Layer, ...] = (labels,) if image is None else (image, labels)
        self._places = {layer: _place_of(layer) for layer in self._layers} if in_study else {}
        self._restoring = False
        self._connections = self._connect()
        self._former_keys = [
            layer.bind_key(_REDO, lambda layer: self._redo(), overwrite=True) for layer in self._layers
        ]

    def close(self) -> None:
        """Watch the layers no longer."""
        for event, callback in self._connections:
            event.disconnect(callback)
        self._connections = []
        for layer, former in zip(self._layers, self._former_keys, strict=True):
            layer.bind_key(_REDO, former, overwrite=True)

    def _connect(self) -> list[tuple[Any, Callable[[], None]]]:
        pairs: list[tuple[Any, Callable[[], None]]] = [
            (self._viewer.dims.events.ndisplay, self._on_view),
            (self._viewer.dims.events.order, self._on_view),
            (self._viewer.canvas.grid.events.enabled, self._on_view),
            (self._labels.events.selected_label, self._on_class),
        ]
        for layer in self._layers:
            pairs.append((layer.events.mode, self._on_mode))
            pairs.extend((getattr(layer.events, name), self._on_moved) for name in _PLACE)
        for event, callback in pairs:
            event.connect(callback)
        return pairs

    def _redo(self) -> None:
        if self._labels in self._viewer.layers:
            self._labels.redo()
        else:
            self._viewer.dims.ndisplay = 5 - self._viewer.dims.ndisplay  # as napari does

    def _on_view(self) -> None:
        dims, grid = self._viewer.dims, self._viewer.canvas.grid
        in_order = tuple(range(dims.ndim))
        if dims.ndisplay == 2 and tuple(dims.order) == in_order and not grid.enabled:
            return
        if self._in_study:
            dims.ndisplay, dims.order, grid.enabled = 2, in_order, False
            show_info("A study is shown in 2D, upright, one layer upon the other.")
        elif self._viewer.layers.selection.active in self._layers and self._labels in self._viewer.layers:
            dims.ndisplay, dims.order, grid.enabled = 2, in_order, False
            show_info("Outlines are corrected in 2D, upright. For other views, select another layer first.")

    def _on_mode(self) -> None:
        for layer in self._layers if self._in_study else (self._labels,):
            if str(layer.mode) == "transform":
                layer.mode = "pan_zoom"
                show_info("The image and outline of a study cannot be moved." if self._in_study else _STAYS)

    def _on_moved(self) -> None:
        if self._restoring:
            return
        self._restoring = True
        try:
            if not self._in_study:
                if self._image is not None:
                    place_like(self._labels, self._image)
            elif any(_moved(layer, place) for layer, place in self._places.items()):
                for layer, place in self._places.items():
                    for name, value in place.items():
                        setattr(layer, name, value)
                show_info("The image and outline of a study cannot be moved or turned.")
        finally:
            self._restoring = False

    def _on_class(self) -> None:
        count = None if self._class_count is None else self._class_count()
        if count is not None and self._labels.selected_label > count:
            self._labels.selected_label = count
            many = "only one class" if count == 1 else f"only {count} classes"
            if self._in_study:
                show_info(f"This study has {many}. Add others with Classes\N{HORIZONTAL ELLIPSIS}")
            else:
                show_info(f"This outline has {many}.")


def _place_of(layer: Layer) -> dict[str, Any]:
    place = {name: getattr(layer, name) for name in _PLACE[:-1]}
    return place | {"affine": np.asarray(layer.affine).copy()}


def _moved(layer: Layer, place: dict[str, Any]) -> bool:
    return any(not np.allclose(getattr(layer, name), value) for name, value in place.items())
