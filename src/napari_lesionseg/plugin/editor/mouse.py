"""Clicks, drawn rows of clicks and boxes, set with the mouse on the outline's layer. No Qt in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from psygnal import Signal

from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.types import Box

Mode = Literal["off", "click", "box", "remove"]

STILL = 4.0
"""Pixels of the screen that the mouse may move for a click to be no drag yet."""

_ZOOMS = ("double_click_to_zoom", "drag_to_zoom")
"""napari's own gestures that two quick clicks, and a drag with Alt, would set off as well."""

_RIGHT = 2


class ClickTool:
    """The mouse on the outline of an editor: it clicks, or draws boxes, or is napari's own.

    While clicking, the left button says what `positive` says, and the right button, or Alt, the opposite.
    All of it ends by itself when another tool of napari, such as the brush, is taken.

    Parameters
    ----------
    editor : OutlineEditor
        What is clicked at.

    Attributes
    ----------
    changed : psygnal.Signal
        Emitted when the mode or the sign was changed.
    panning : bool
        While True, the mouse moves the image in any mode.
    """

    changed = Signal()

    def __init__(self, editor: MaskEditor) -> None:
        self._editor, self._labels = editor, editor.labels
        self._mode: Mode = "off"
        self._positive = True
        self._zooms: dict[str, list[Callable[..., Any]]] = {}
        self.panning = False
        self._labels.mouse_drag_callbacks.append(self._on_drag)
        self._labels.events.mode.connect(self._on_layer_mode)

    @property
    def mode(self) -> Mode:
        """What the mouse does: "click", "box", "remove" parts, or "off" for what napari makes of it."""
        return self._mode

    @property
    def positive(self) -> bool:
        """Whether the left button says that something belongs to the lesion."""
        return self._positive

    def start(self, mode: Mode, positive: bool = True) -> None:
        """Let the mouse click, draw boxes or take parts away, or give it back to napari.

        Parameters
        ----------
        mode : {"off", "click", "box", "remove"}
            What the mouse is to do.
        positive : bool
            What the left button is to say.
        """
        if mode != "off":
            self._labels.mode = "pan_zoom"  # leaves the brush; what napari itself then does is held back
            self._labels.cursor = "cross"
            self._hold_zooms_back()
        elif self._mode != "off":
            self._labels.cursor = "standard"
            self._let_zooms_go()
        self._mode, self._positive = mode, positive
        self.changed.emit()

    def close(self) -> None:
        """Give the mouse back."""
        if self._mode != "off":
            self.start("off")
        self._labels.events.mode.disconnect(self._on_layer_mode)
        if self._on_drag in self._labels.mouse_drag_callbacks:
            self._labels.mouse_drag_callbacks.remove(self._on_drag)

    def _on_layer_mode(self) -> None:
        if self._mode != "off" and str(self._labels.mode) != "pan_zoom":
            self._mode = "off"
            self._let_zooms_go()
            self.changed.emit()

    def _on_drag(self, layer: Any, event: Any) -> Iterator[None]:
        if self._mode == "off" or self.panning:
            return
        if self._mode == "remove":
            event.handled = True
            self._editor.apply_tool("remove_part", *self._place(event))
            return
        gesture = self._box if self._mode == "box" else self._clicks
        yield from gesture(event)

    def _clicks(self, event: Any) -> Iterator[None]:
        """Follow the mouse from press to release: a click, or a row of clicks."""
        positive = self._positive != (event.button == _RIGHT or "Alt" in event.modifiers)
        start = np.asarray(event.pos)
        path, dragged = [self._place(event)], False
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            dragged = dragged or np.hypot(*(np.asarray(event.pos) - start)) > STILL
            if dragged:
                path.append(self._place(event))
                self._editor.preview(path, positive)
            yield
        event.handled = True
        if dragged:
            self._editor.add_scribble(path, positive)
        else:
            self._editor.add_click(*path[0], positive)

    def _box(self, event: Any) -> Iterator[None]:
        """Follow the mouse from press to release: the two corners of a box."""
        first = last = self._place(event)
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            last = self._place(event)
            self._editor.overlay.show_box(self._box_between(first, last))
            yield
        event.handled = True
        self._editor.overlay.show_box(None)
        self._editor.box(self._box_between(first, last))

    def _place(self, event: Any) -> tuple[float, float]:
        """Row and column under the mouse."""
        row, col = self._labels.world_to_data(event.position)[-2:]
        return float(row), float(col)

    def _box_between(self, first: tuple[float, float], last: tuple[float, float]) -> Box:
        """Give the pixels between two corners, as far as the image goes."""
        height, width = self._labels.data.shape[-2:]
        corners = np.clip(np.round([first, last]), 0, (height - 1, width - 1)).astype(int)
        (top, left), (bottom, right) = corners.min(axis=0), corners.max(axis=0)
        return Box(int(top), int(left), int(bottom) + 1, int(right) + 1)

    def _hold_zooms_back(self) -> None:
        viewer: Any = self._editor.viewer
        for name in ("mouse_double_click_callbacks", "mouse_drag_callbacks"):
            callbacks = getattr(viewer, name)
            held = [callback for callback in callbacks if getattr(callback, "__name__", "") in _ZOOMS]
            for callback in held:
                callbacks.remove(callback)
            self._zooms.setdefault(name, []).extend(held)

    def _let_zooms_go(self) -> None:
        for name, held in self._zooms.items():
            getattr(self._editor.viewer, name).extend(held)
        self._zooms.clear()
