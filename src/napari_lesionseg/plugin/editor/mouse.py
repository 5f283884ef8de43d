"""Clicks, scribbles, boxes and lassos made with the mouse on the Labels layer. No Qt in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from psygnal import Signal
from skimage.measure import approximate_polygon

from napari_lesionseg.plugin.editor.box_keys import BoxKeys
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.tools import REMOVE_PART
from napari_lesionseg.plugin.napari_layers.managed_labels import suspend_zooms
from napari_lesionseg.plugin.napari_layers.overlays import clear_brush
from napari_lesionseg.types import Box, Click, Prompts, Scribble

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

Mode = Literal["off", "click", "box", "lasso", "remove"]

CLICK_TOLERANCE = 4.0
"""Screen pixels that the mouse may move during a click before it is a drag."""

TOLERANCE = 0.5
"""Pixels of the image by which the points kept of a path may miss it."""

MOST_POINTS = 2000
"""Points kept of a path."""

_RIGHT = 2


BRUSH_PIXELS = 24
"""Diameter of the brush on the screen, if none was chosen."""

BRUSHES = range(2, 401)


class Brush:
    """Keeps the brush of a Labels layer at the same size on the screen at any zoom.

    It covers a pixel of the image at least. `changed` is emitted after a change of its size.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel, labels: Labels) -> None:
        self.pixels = BRUSH_PIXELS  # on the screen
        self._camera, self._labels = viewer.scene.camera, labels
        self._zooming = False
        clear_brush(viewer)
        self._camera.events.zoom.connect(self._on_zoom)
        labels.events.brush_size.connect(self._on_size)
        self._on_zoom()

    def resize(self, pixels: int) -> None:
        """Set the diameter on the screen."""
        self.pixels = min(max(pixels, BRUSHES[0]), BRUSHES[-1])
        self._on_zoom()
        self.changed.emit()

    def close(self) -> None:
        """Leave the brush as it is."""
        self._camera.events.zoom.disconnect(self._on_zoom)
        self._labels.events.brush_size.disconnect(self._on_size)

    @property
    def _magnified(self) -> float:
        """How many pixels of the screen a pixel of the image takes."""
        return float(self._camera.zoom * np.abs(self._labels.scale[-2:]).min())

    def _on_zoom(self) -> None:
        self._zooming = True
        self._labels.brush_size = max(1, round(self.pixels / self._magnified))
        self._zooming = False

    def _on_size(self) -> None:
        """Follow napari's own slider."""
        if not self._zooming:
            self.pixels = round(self._labels.brush_size * self._magnified)
            self.changed.emit()


class EditMouse:
    """The mouse on the Labels layer of an editor: it clicks, draws boxes, removes parts, or is napari's own.

    The left button clicks as `positive` says; the right button, or Alt, does the opposite. Choosing one of
    napari's tools, such as the brush, ends it. `changed` is emitted after a change of mode or sign.
    """

    changed = Signal()

    def __init__(self, editor: MaskEditor) -> None:
        self._editor, self._labels = editor, editor.labels
        self._mode: Mode = "off"
        self._positive = True
        self._resume_zooms: Callable[[], None] | None = None
        self.brush = Brush(editor.viewer, editor.labels)
        self.box_keys = BoxKeys(editor)
        self.panning = False  # while True, the mouse moves the image in any mode
        self._labels.mouse_drag_callbacks.append(self._on_drag)
        self._labels.events.mode.connect(self._on_layer_mode)

    @property
    def mode(self) -> Mode:
        """What the mouse does; "off": what napari does."""
        return self._mode

    @property
    def positive(self) -> bool:
        """Whether the left button marks lesion."""
        return self._positive

    def start(self, mode: Mode, positive: bool = True) -> None:
        """Set what the mouse does, and what the left button means."""
        if mode != "off":
            self._labels.mode = "pan_zoom"  # deselects the brush
            self._labels.cursor = "cross"
            self._resume_zooms = self._resume_zooms or suspend_zooms(self._editor.viewer)
        elif self._mode != "off":
            self._labels.cursor = "standard"
            self._stop()
        self._mode, self._positive = mode, positive
        self.changed.emit()

    def close(self) -> None:
        """Return the mouse to napari."""
        if self._mode != "off":
            self.start("off")
        self.brush.close()
        self.box_keys.stop()
        self._labels.events.mode.disconnect(self._on_layer_mode)
        if self._on_drag in self._labels.mouse_drag_callbacks:
            self._labels.mouse_drag_callbacks.remove(self._on_drag)

    def _on_layer_mode(self) -> None:
        if self._mode != "off" and str(self._labels.mode) != "pan_zoom":
            self._mode = "off"
            self._stop()
            self.changed.emit()

    def _stop(self) -> None:
        if self._resume_zooms is not None:
            self._resume_zooms()
            self._resume_zooms = None

    def _on_drag(self, layer: Any, event: Any) -> Iterator[None]:
        if self._mode == "off" or self.panning:
            return
        if self._mode == "remove":
            event.handled = True
            self._editor.apply(REMOVE_PART, self._position(event))
            return
        gesture = {"box": self._box, "lasso": self._lasso}.get(self._mode, self._stroke)
        yield from gesture(event)

    def _stroke(self, event: Any) -> Iterator[None]:
        """Follow the mouse from press to release: a click or, if it moves, a scribble."""
        positive = self._positive != (event.button == _RIGHT or "Alt" in event.modifiers)
        start = np.asarray(event.pos)
        path, dragged = [self._position(event)], False
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            dragged = dragged or np.hypot(*(np.asarray(event.pos) - start)) > CLICK_TOLERANCE
            if dragged:
                path.append(self._position(event))
                self._editor.document.show_strokes(Scribble(tuple(path), positive))
            yield
        event.handled = True
        self._editor.document.show_strokes()
        self._editor.add_stroke(Scribble(_thinned(path), positive) if dragged else Click(*path[0], positive))

    def _box(self, event: Any) -> Iterator[None]:
        """Follow the mouse from press to release: the two corners of a box."""
        first = last = self._position(event)
        adds = "Shift" in event.modifiers
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            last = self._position(event)
            self._editor.document.overlay.show_box(self._box_between(first, last))
            yield
        event.handled = True
        self._editor.document.overlay.show_box(None)
        self._editor.add_area(Prompts(box=self._box_between(first, last)), adds=adds)

    def _lasso(self, event: Any) -> Iterator[None]:
        """Follow the mouse from press to release: a closed stroke."""
        path, adds = [self._position(event)], "Shift" in event.modifiers
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            path.append(self._position(event))
            self._editor.document.overlay.show_lasso(path)
            yield
        event.handled = True
        self._editor.document.overlay.show_lasso(())
        self._editor.add_area(Prompts(lasso=_thinned(path)), adds=adds)

    @property
    def _shape(self) -> tuple[int, int]:
        height, width = self._labels.data.shape[-2:]
        return height, width

    def _position(self, event: Any) -> tuple[float, float]:
        """Row and column under the mouse."""
        row, col = self._labels.world_to_data(event.position)[-2:]
        return float(row), float(col)

    def _box_between(self, first: tuple[float, float], last: tuple[float, float]) -> Box:
        """Return the pixels between two corners, within the image."""
        height, width = self._shape
        corners = np.clip(np.round([first, last]), 0, (height - 1, width - 1)).astype(int)
        (top, left), (bottom, right) = corners.min(axis=0), corners.max(axis=0)
        return Box(int(top), int(left), int(bottom) + 1, int(right) + 1)


def _thinned(path: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Leave out the points of a path (rows and columns) that add nothing to its shape."""
    # A fast mouse reports a thousand a second, and a study takes some thousand for each stroke.
    kept, tolerance = np.asarray(path), TOLERANCE
    while len(kept := approximate_polygon(kept, tolerance)) > MOST_POINTS:
        tolerance *= 2
    return tuple((row, col) for row, col in kept.tolist())
