"""The mask of one image in its Labels layer, with its overlays and undo history. No network in here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray
from psygnal import Signal

from napari_lesionseg.plugin.editor import compose
from napari_lesionseg.plugin.editor.undo_history import Snapshot, UndoHistory, begins_empty
from napari_lesionseg.plugin.napari_layers.managed_labels import ManagedLabels
from napari_lesionseg.plugin.napari_layers.overlays import PromptOverlay, add_overlay
from napari_lesionseg.types import NO_PROMPTS, LabelImage, Prompts, Stroke

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.config import PostprocessConfig
    from napari_lesionseg.inference.prediction import Prediction

STROKES_BUDGET = 128 << 20
"""Memory in bytes for predictions kept so that strokes can be removed without asking the network."""


class MaskDocument:
    """A Labels layer drawn from the current `Snapshot` of an undo history.

    `changed` is emitted after any change with what was done.
    """

    changed = Signal(str)

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        labels: Labels,
        config: PostprocessConfig,
        model_threshold: float,
    ) -> None:
        self.layer = ManagedLabels(viewer, image, labels)
        self.overlay = add_overlay(labels, PromptOverlay)
        self.pending = NO_PROMPTS  # the network has not predicted with these yet
        manual_mask = np.zeros(labels.data.shape, dtype=bool)
        self.history = UndoHistory(
            Snapshot(self.layer.mask, manual_mask, config, model_threshold=model_threshold)
        )
        self._labels = labels
        self._checked: Snapshot | None = None
        self._has_mask = False

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot; what is being painted is not in it yet."""
        return self.history.current

    @property
    def has_mask(self) -> bool:
        """Whether any pixel is labeled."""
        now = self.snapshot
        if self._checked is not now:  # buttons ask often, about millions of pixels
            self._checked, self._has_mask = now, bool(now.mask.max(initial=0))
        return self._has_mask

    @property
    def active_class(self) -> int:
        """The class that is painted next, from 1."""
        return max(1, int(self._labels.selected_label))

    @property
    def can_undo(self) -> bool:
        """Whether a step, or a stroke not recorded yet, can be undone."""
        return self.history.depth > 0 or _is_painted(self)

    @property
    def can_redo(self) -> bool:
        """Whether a step can be redone."""
        return self.history.can_redo and not _is_painted(self)

    def record_painting(self) -> bool:
        """Record what was painted since the last step; return whether anything was."""
        if not _is_painted(self):
            return False
        now, mask = self.snapshot, self.layer.mask
        manual_mask = now.manual_mask | (mask != now.mask)
        self.history.record(replace(now, mask=mask, manual_mask=manual_mask), "stroke")
        self.changed.emit("stroke")
        return True

    def redraw(self, snapshot: Snapshot, kind: str, *, merge: bool = False) -> None:
        """Compose the mask of a snapshot and record it."""
        self.record(compose.compose_mask(snapshot, self.active_class), kind, merge=merge)

    def record(self, snapshot: Snapshot, kind: str, *, merge: bool = False) -> None:
        """Make a snapshot the current one, as an undoable step; `merge` as in `UndoHistory.record`."""
        trimmed = replace(snapshot, predictions=compose.within_budget(snapshot.predictions, STROKES_BUDGET))
        self.history.record(trimmed, kind, merge=merge)
        self.show(trimmed, kind)

    def show(self, snapshot: Snapshot, kind: str) -> None:
        """Write a snapshot into the layer and emit what was done."""
        self.layer.write(snapshot.mask)
        self.show_strokes()
        self.changed.emit(kind)

    def show_strokes(self, *drawing: Stroke) -> None:
        """Show the clicks and scribbles: those that count, those that wait, and the one being drawn."""
        self.overlay.show([*self.snapshot.strokes, *self.pending.strokes, *drawing])

    def show_pending(self, pending: Prompts) -> None:
        """Show what the network has not answered yet."""
        self.pending = pending
        self.show_strokes()
        self.overlay.show_box(pending.box)
        self.overlay.show_lasso(pending.lasso)

    def draw_prediction(
        self,
        prediction: Prediction,
        before: Snapshot,
        model_threshold: float,
        config: PostprocessConfig | None = None,
    ) -> None:
        """Draw the model's own prediction; what was painted since `before` stays."""
        now = self.snapshot

        def predicted(snapshot: Snapshot, manual_mask: NDArray[np.bool_] | None) -> Snapshot:
            bare = compose.without_edits(snapshot, prediction, manual_mask)
            then = replace(
                bare,
                initial_prediction=prediction,
                model_threshold=model_threshold,
                config=config or snapshot.config,
            )
            return compose.compose_mask(then, self.active_class)

        since = None if before is now else now.mask != before.mask
        if begins_empty(self.history):
            # The first outline is what undo ends at, below all that was painted before it was there.
            self.history.rebase(lambda snapshot: predicted(snapshot, snapshot.manual_mask))
            if not before.manual_mask.any():
                self.show(self.snapshot, "prediction")
                return
        self.record(predicted(self.snapshot, since), "prediction")

    def apply_mask(self, mask: LabelImage, before: Snapshot, *, manual: bool) -> bool:
        """Record what a tool made of the mask in `before`; return whether that changed anything.

        What was painted since stays.
        """
        now = self.snapshot
        if before is not now:
            mask = np.where(now.mask != before.mask, now.mask, mask)
        if np.array_equal(mask, now.mask):
            return False
        manual_mask = now.manual_mask | (mask != now.mask) if manual else now.manual_mask
        self.record(replace(now, mask=mask, manual_mask=manual_mask), "tool")
        return True

    def close(self) -> None:
        """Release the layer."""
        self.overlay.clear()
        self.layer.close()


def _is_painted(document: MaskDocument) -> bool:
    return document.layer.usable and not document.layer.shows(document.snapshot.mask)
