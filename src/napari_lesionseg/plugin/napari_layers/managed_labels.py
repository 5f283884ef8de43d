"""The Labels layer of an outline while it is edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.components._viewer_mouse_bindings import double_click_to_zoom, drag_to_zoom
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.plugin.napari_layers.labels_writing import same_pixels, show_mask
from napari_lesionseg.plugin.napari_layers.layers import fits, update_style
from napari_lesionseg.plugin.settings import outline_style_events
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

_ZOOMS = (double_click_to_zoom, drag_to_zoom)


class ManagedLabels:
    """A Labels layer whose undo leads to the editor, and that reports when it was painted."""

    def __init__(self, viewer: ViewerModel, image: Image, labels: Labels) -> None:
        if not fits(labels, image):
            raise MaskError(f"“{labels.name}” and “{image.name}” differ in size; open the image again.")
        self._viewer, self._image, self._labels = viewer, image, labels
        self._writing = self._announced = self._closed = False
        self._notice: Callable[[], bool] = _nothing_new
        self._on_image: Callable[[], None] = _do_nothing
        self._style_events: Any = None

    def take_over(
        self,
        undo: Callable[[], None],
        redo: Callable[[], None],
        notice: Callable[[], bool],
        on_image: Callable[[], None] | None = None,
    ) -> None:
        """Replace undo and redo of the layer, and keep nothing in napari's own history.

        `notice` is called when the layer may have been painted, and returns whether it was; `on_image` when
        the image has other pixels.
        """
        self._notice, self._on_image = notice, on_image or _do_nothing
        vars(self._labels).update(undo=undo, redo=redo, _history_limit=0)
        self._labels._reset_history()
        self._labels.events.paint.connect(self._on_painted)
        self._labels.events.labels_update.connect(self._on_refreshed)
        self._labels.events.data.connect(self._on_painted)
        self._image.events.data.connect(self._on_image_changed)
        self._style_events = outline_style_events()
        if self._style_events is not None:
            self._style_events.connect(self._on_style_changed)

    def close(self) -> None:
        """Restore the layer's own undo."""
        self._closed = True
        for name in ("undo", "redo", "_history_limit"):
            vars(self._labels).pop(name, None)
        self._labels._reset_history()
        self._labels.events.paint.disconnect(self._on_painted)
        self._labels.events.labels_update.disconnect(self._on_refreshed)
        self._labels.events.data.disconnect(self._on_painted)
        self._image.events.data.disconnect(self._on_image_changed)
        if self._style_events is not None:
            self._style_events.disconnect(self._on_style_changed)
        self._notice, self._on_image = _nothing_new, _do_nothing

    @property
    def usable(self) -> bool:
        """Whether image and outline are still in the viewer and fit each other."""
        layers: Any = self._viewer.layers
        present = not self._closed and self._labels in layers and self._image in layers
        return present and fits(self._labels, self._image)

    @property
    def mask(self) -> LabelImage:
        """A copy of what it shows, (H, W) uint8."""
        data: NDArray[Any] = self._labels.data
        if data.dtype == np.uint8:
            return data.copy()
        mask: LabelImage = np.clip(data, 0, 255).astype(np.uint8)  # it was converted to another type
        return mask

    @property
    def drawing(self) -> str:
        """What is being drawn and not finished: "polygon", "stroke", or nothing."""
        overlays: Any = self._labels._overlays
        if overlays["polygon"].points:
            return "polygon"
        return "stroke" if self._labels._block_history or overlays["brush_stroke"].active else ""

    def remove_corner(self) -> None:
        """Remove the last corner of the polygon that is being drawn."""
        overlays: Any = self._labels._overlays
        points = overlays["polygon"].points  # the last one follows the mouse
        overlays["polygon"].points = [] if len(points) < 3 else [*points[:-2], points[-1]]

    def shows(self, mask: LabelImage) -> bool:
        """Whether it shows exactly this mask."""
        return same_pixels(self._labels.data, mask)

    def write(self, mask: LabelImage) -> None:
        """Show a mask; this does not count as painting."""
        self._writing = True
        try:
            show_mask(self._labels, mask)
        finally:
            self._writing = False

    def _on_painted(self) -> None:
        if not self._writing and self.usable:
            self._announced = not self._notice()  # polygons are announced before they are drawn

    def _on_refreshed(self) -> None:
        if self._announced and not self._writing and self.usable:
            self._announced = False
            self._notice()

    def _on_style_changed(self) -> None:
        update_style(self._labels)

    def _on_image_changed(self) -> None:
        self._on_image()


def suspend_zooms(viewer: ViewerModel) -> Callable[[], None]:
    """Take napari's own gestures from the mouse, which two quick clicks, or a drag with Alt, would trigger.

    Return a function that restores them.
    """
    lists: Any = (viewer.mouse_double_click_callbacks, viewer.mouse_drag_callbacks)
    taken = [(callbacks, zoom) for callbacks in lists for zoom in _ZOOMS if zoom in callbacks]
    for callbacks, zoom in taken:
        callbacks.remove(zoom)

    def restore() -> None:
        for callbacks, zoom in taken:
            callbacks.append(zoom)

    return restore


def _nothing_new() -> bool:
    return False


def _do_nothing() -> None:
    """Do nothing, in place of a callback."""
