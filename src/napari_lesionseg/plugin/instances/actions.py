"""Actions on the lesions of one layer, by button, key and mouse. No widgets in here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from psygnal import Signal

from napari_lesionseg.plugin.editor.layout_guard import LayoutGuard
from napari_lesionseg.plugin.instances.editing import InstanceEditor
from napari_lesionseg.plugin.instances.model import InstanceModel
from napari_lesionseg.plugin.instances.mouse import CutTool, longest_inside
from napari_lesionseg.plugin.napari_layers.overlays import InstanceOverlay, add_overlay, remove_overlay
from napari_lesionseg.types import Box

if TYPE_CHECKING:
    from napari.components import ViewerModel

INSTANCE_KEYS = {"cut": "K", "cut at narrow point": "Shift+K", "join": "U", "delete": "D"}
"""Keys of the actions while the layer of the lesions is the active one."""


class InstanceActions:
    """One layer of lesions while the panel shows it: its model, editor, mouse, keys and overlay."""

    changed = Signal()  # what can be done now may have changed
    message = Signal(str)

    def __init__(self, viewer: ViewerModel, labels: Labels) -> None:
        self._viewer, self.labels = viewer, labels
        self.selected: tuple[int, ...] = ()
        self.model = InstanceModel(viewer, labels)
        self.editor = InstanceEditor(self.model)
        self.overlay = add_overlay(labels, InstanceOverlay)
        self.tool = CutTool(labels)
        self._guard = LayoutGuard(viewer, None, labels)
        self.tool.lined.connect(self._on_lined)
        self.tool.seeded.connect(self._on_seeded)
        self.tool.drawn.connect(self.overlay.show_path)
        for signal in (self.tool.changed, self.model.busy, self.editor.busy):
            signal.connect(self._on_changed)
        self._functions: dict[str, Callable[[], None]] = {
            "cut": self._toggle_cutting,
            "cut at narrow point": lambda: self.editor.cut_at_narrow_point(self.selected[0]),
            "join": lambda: self.editor.merge(self.selected),
            "delete": lambda: self.editor.delete(self.selected),
            "undo": labels.undo,
            "redo": labels.redo,
        }
        self._former_keys: dict[str, Any] = {}
        for action, key in INSTANCE_KEYS.items():
            self._bind_key(key, partial(self.run, action))
        self._bind_key("Delete", partial(self.run, "delete"))
        self._bind_key("Escape", self.tool.stop)

    @property
    def is_busy(self) -> bool:
        """Whether lesions are being listed or edited."""
        return self.model.is_listing or self.editor.is_editing

    def run(self, action: str) -> None:
        """Do one of the actions, or say why it cannot be done now."""
        reason = self.why_not(action)
        if reason:
            self.message.emit(f"{reason}.")
        else:
            self._functions[action]()

    def why_not(self, action: str) -> str:
        """Return why an action cannot be done now; empty when it can."""
        if self.editor.why_not:
            return self.editor.why_not
        if not self.model.rows and action not in {"undo", "redo"}:
            return "There are no lesions"
        if action == "join" and len(self.selected) < 2:
            return "Select two or more lesions, holding Ctrl or Shift"
        if action == "cut at narrow point" and len(self.selected) != 1:
            return "Select one lesion first"
        return "Select a lesion first" if action == "delete" and not self.selected else ""

    def select(self, numbers: Collection[int]) -> None:
        """Select lesions and draw boxes around them."""
        self.selected = tuple(numbers)
        rows = [row for number in numbers if (row := self.model.row_of(number)) is not None]
        self.overlay.show_boxes(Box(row.top, row.left, row.bottom, row.right) for row in rows)

    def close(self) -> None:
        """Return mouse and keys to the layer, and discard what is being computed."""
        for signal in (self.changed, self.message, self.model.changed, self.model.failed):
            signal.disconnect()
        for signal in (self.tool.picked, self.editor.edited, self.editor.failed):
            signal.disconnect()
        self.model.close()
        self.editor.close()
        self.tool.close()
        self._guard.close()
        remove_overlay(self.labels, self.overlay)
        for key, former in self._former_keys.items():
            self.labels.bind_key(key, former, overwrite=True)

    def _bind_key(self, key: str, function: Callable[[], None]) -> None:
        # napari fails when a key is pressed whose handler is a partial, so it gets a plain function.
        self._former_keys[key] = self.labels.bind_key(key, lambda layer: function(), overwrite=True)

    def _toggle_cutting(self) -> None:
        self._viewer.layers.selection.active = self.labels
        if self.tool.cutting:
            self.tool.stop()
        else:
            self.tool.start()

    def _on_changed(self) -> None:
        self.changed.emit()

    def _on_lined(self, path: list[tuple[float, float]]) -> None:
        target = longest_inside(path, self.model.number_at)
        if target:
            self.editor.cut_by_line(target, path)
        else:
            self.message.emit("The line crosses no lesion. Draw it across one, from border to border.")
        self.overlay.show_path(())

    def _on_seeded(self, seeds: list[tuple[float, float]]) -> None:
        found = {self.model.number_at(*seed) for seed in seeds}
        if len(found) == 1 and 0 not in found:
            self.editor.cut_by_seeds(found.pop(), seeds)
        else:
            self.message.emit("Click twice inside one lesion, once in each part.")
