"""The editor of the masks of a stack: predictions, settings and painting, with one undo history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.editor.document import MaskDocument
from napari_lesionseg.plugin.editor.undo_history import Snapshot, UndoHistory, begins_empty
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.prediction import Prediction


class StackEditor:
    """Edits the masks of all frames of a stack in one Labels layer; frames cannot be clicked.

    A step of undo is the whole stack.
    """

    def __init__(
        self, viewer: ViewerModel, image: Image, labels: Labels, *, config: PostprocessConfig
    ) -> None:
        self.viewer, self.image, self.labels = viewer, image, labels
        self.document = MaskDocument(viewer, image, labels, config, 0.5)
        self._outdated: set[Frame] = set()  # frames not drawn with the current settings yet
        self.document.layer.take_over(self.undo, self.redo, self.document.record_painting)

    def set_predictions(
        self, predictions: Mapping[Frame, Prediction], config: PostprocessConfig, model_threshold: float
    ) -> None:
        """Draw the predictions of all frames, without manual edits."""
        now, frames = self.document.snapshot, list(np.ndindex(self.labels.data.shape[:-2]))
        then = replace(
            now,
            mask=np.empty_like(now.mask),
            manual_mask=np.zeros(now.mask.shape, bool),
            config=config,
            predictions=tuple(predictions[frame] for frame in frames),
            model_threshold=model_threshold,
        )
        for frame in frames:
            then.mask[frame] = predictions[frame].to_mask(config, then.threshold)
        self._outdated.clear()
        if begins_empty(self.document.history) and not self.document.history.depth:
            self.document.history = UndoHistory(then)  # undo never removes the first outline
            self.document.show(then, "prediction")
        else:
            self._record(then, "prediction")

    def set_config(self, config: PostprocessConfig, frames: Iterable[Frame] | None = None) -> None:
        """Redraw some frames, or all, with other settings; calls in a row are one step of undo."""
        self.document.record_painting()
        now = self.document.snapshot
        every = set(np.ndindex(now.mask.shape[:-2]))
        outdated = self._outdated if config == now.config else every
        chosen = outdated if frames is None else outdated & set(frames)
        self._outdated = outdated - chosen
        if not chosen:
            return
        then = replace(now, mask=now.mask.copy(), config=config)
        for frame in chosen:
            prediction, manual = now.prediction_of(frame), now.manual_mask[frame]
            if prediction is not None:
                drawn = prediction.to_mask(config, then.threshold)
                np.copyto(then.mask[frame], drawn, where=~manual)
        self._record(then, "threshold", merge=True)

    def undo(self) -> None:
        """Undo the last step."""
        self._move("undo")

    def redo(self) -> None:
        """Redo the step that was undone last."""
        self._move("redo")

    def close(self) -> None:
        """Release the layer."""
        self.document.close()

    def _move(self, kind: str) -> None:
        if self.document.layer.usable:
            self.document.record_painting()
            history = self.document.history
            self._outdated.clear()
            self.document.show(history.undo() if kind == "undo" else history.redo(), kind)

    def _record(self, then: Snapshot, kind: str, *, merge: bool = False) -> None:
        self.document.history.record(then, kind, merge=merge)
        self.document.show(then, kind)
