"""A box around the lesion, placed by keyboard. No Qt in here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.types import Box, Prompts

STEP = 0.03
"""How far a key moves or widens the box, as a fraction of the image's longer side."""

_ARROWS = {"Up": (-1, 0), "Down": (1, 0), "Left": (0, -1), "Right": (0, 1)}


class BoxKeys:
    """Arrow keys that move a box, and with Alt make it larger or smaller, until Enter outlines what is in it.

    It begins around the present outline. Esc, or any change of the outline, puts it away.
    """

    def __init__(self, editor: MaskEditor) -> None:
        self._editor = editor
        self._former: dict[str, Any] = {}  # what the keys did before
        self.box: Box | None = None

    def start(self) -> None:
        """Show the box, and take the keys."""
        self._editor.document.changed.connect(self._on_changed)
        found = bounding_box(self._editor.snapshot.mask)
        rows, cols = found or tuple(slice(side // 4, 3 * side // 4) for side in self._shape)
        self._show(Box(rows.start, cols.start, rows.stop, cols.stop))
        actions: dict[str, Callable[[], None]] = {"Enter": self._outline, "Escape": self.stop}
        for key, (down, across) in _ARROWS.items():
            actions[key] = partial(self._change, down, across, 0, 0)
            actions[f"Alt-{key}"] = partial(self._change, 0, 0, -down, across)
        labels = self._editor.labels
        for key, action in actions.items():
            self._former[key] = labels.bind_key(key, _for_layer(action), overwrite=True)

    def stop(self) -> None:
        """Put the box away, and give the keys back."""
        if self.box is None:
            return
        self.box = None
        self._editor.document.changed.disconnect(self._on_changed)
        for key, former in self._former.items():
            self._editor.labels.bind_key(key, former, overwrite=True)
        self._former.clear()
        self._editor.document.overlay.show_box(None)

    @property
    def _shape(self) -> tuple[int, int]:
        height, width = self._editor.labels.data.shape[-2:]
        return height, width

    def _show(self, box: Box) -> None:
        self.box = box
        self._editor.document.overlay.show_box(box)

    def _change(self, down: int, across: int, taller: int, wider: int) -> None:
        """Move or resize the box by steps; it keeps a part of the image."""
        box, step = self.box, max(1, round(STEP * max(self._shape)))
        if box is None:
            return
        height, width = self._shape
        half_height = max((box.bottom - box.top + taller * step) // 2, step)
        half_width = max((box.right - box.left + wider * step) // 2, step)
        row = min(max((box.top + box.bottom) // 2 + down * step, 0), height)
        col = min(max((box.left + box.right) // 2 + across * step, 0), width)
        self._show(Box(row - half_height, col - half_width, row + half_height, col + half_width))

    def _outline(self) -> None:
        box = self.box
        self.stop()
        if box is not None:
            self._editor.add_area(Prompts(box=box))

    def _on_changed(self) -> None:
        self.stop()


def _for_layer(action: Callable[[], None]) -> Callable[[Any], None]:
    """Return a function as napari binds it; it refuses a `partial`."""
    return lambda layer: action()
