"""Lesions picked and cut with the mouse on their layer. No Qt in here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from napari.layers import Labels
from psygnal import Signal

from napari_lesionseg.plugin.editor.mouse import CLICK_TOLERANCE

Place = tuple[float, float]


class CutTool:
    """The mouse on the lesions of a layer: a click picks one; while cutting, clicks and lines cut it.

    Only while the layer's own mode is to move the image; brush and eraser keep the mouse.
    """

    picked = Signal(float, float, bool)
    lined = Signal(list)
    seeded = Signal(list)
    drawn = Signal(list)
    changed = Signal()

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._cutting = False
        self._seeds: list[Place] = []
        labels.mouse_drag_callbacks.append(self._on_drag)
        labels.events.mode.connect(self._on_mode)

    @property
    def cutting(self) -> bool:
        """Whether the mouse cuts."""
        return self._cutting

    def start(self) -> None:
        """Begin cutting."""
        self._labels.mode = "pan_zoom"
        self._labels.cursor = "cross"
        self._seeds.clear()
        self._cutting = True
        self.changed.emit()

    def stop(self) -> None:
        """Stop cutting; clicks pick lesions again."""
        if self._cutting:
            self._cutting = False
            self._labels.cursor = "standard"
            self._clear_seeds()
            self.changed.emit()

    def close(self) -> None:
        """Stop following the mouse."""
        self.stop()
        self._labels.events.mode.disconnect(self._on_mode)
        if self._on_drag in self._labels.mouse_drag_callbacks:
            self._labels.mouse_drag_callbacks.remove(self._on_drag)

    def _on_mode(self) -> None:
        if str(self._labels.mode) != "pan_zoom":
            self.stop()

    def _on_drag(self, layer: Any, event: Any) -> Iterator[None]:
        if str(self._labels.mode) != "pan_zoom" or event.button != 1:
            return
        path, dragged, start = [self._place(event)], False, np.asarray(event.pos)
        event.handled = self._cutting
        yield
        while event.type == "mouse_move":
            dragged = dragged or bool(np.hypot(*(np.asarray(event.pos) - start)) > CLICK_TOLERANCE)
            event.handled = self._cutting
            if dragged and self._cutting:
                path.append(self._place(event))
                self.drawn.emit(list(path))
            yield
        if not self._cutting:
            if not dragged:
                self.picked.emit(*path[0], bool({"Shift", "Control"} & set(event.modifiers)))
            return
        event.handled = True
        self._cut(path, dragged)

    def _cut(self, path: Sequence[Place], dragged: bool) -> None:
        if dragged:
            self._clear_seeds()
            self.lined.emit(list(path))
            return
        self._seeds.append(path[0])
        if len(self._seeds) == 1:
            self.drawn.emit(list(self._seeds))
            return
        seeds = list(self._seeds)
        self._clear_seeds()
        self.seeded.emit(seeds)

    def _clear_seeds(self) -> None:
        self._seeds.clear()
        self.drawn.emit([])

    def _place(self, event: Any) -> Place:
        row, col = self._labels.world_to_data(event.position)[-2:]
        return float(row), float(col)


def longest_inside(path: Sequence[Place], number_at: Callable[[float, float], int]) -> int:
    """Return the lesion that a line crosses farthest, 0 for none."""
    counts: dict[int, int] = {}
    for start, end in itertools.pairwise(path):
        steps = max(1, int(np.ceil(np.hypot(end[0] - start[0], end[1] - start[1]))))
        for share in np.arange(steps) / steps:
            found = number_at(start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
            counts[found] = counts.get(found, 0) + 1
    counts.pop(0, None)
    return max(counts, key=lambda number: counts[number]) if counts else 0
