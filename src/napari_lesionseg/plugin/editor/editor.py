"""The editor of one image's mask: strokes, boxes, painting, settings and tools, with one undo history.

The mask is composed from a `Snapshot`: the current prediction at the current settings, what was found in
boxes, and the manual pixels, which stay. So neither the threshold nor a click elsewhere costs a painted
stroke; a click that contradicts a manual part returns that part to the network. Manual pixels are painted
ones and those of tools that add or remove parts or holes. Smoothing and snapping reshape the mask as it is;
the next prediction or threshold starts again without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError, MaskError
from napari_lesionseg.inference.postprocess import stroke_pixels
from napari_lesionseg.plugin.editor import compose
from napari_lesionseg.plugin.editor.document import MaskDocument
from napari_lesionseg.plugin.editor.layout_guard import LayoutGuard
from napari_lesionseg.plugin.editor.requests import PredictionRequests, own_threshold
from napari_lesionseg.plugin.editor.stack_editor import StackEditor
from napari_lesionseg.plugin.editor.undo_history import Snapshot, UndoHistory
from napari_lesionseg.plugin.napari_layers.layers import CLASSES, read_frame
from napari_lesionseg.types import NO_PROMPTS, LabelImage, Prompts, Stroke

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import EncodedImage, Model
    from napari_lesionseg.plugin.editor.tools import MaskEdit

MIN_BOX = 8
"""Pixels; a smaller box was not meant as one."""

THREAD_PIXELS = 1 << 21
"""Images with more pixels are smoothed and snapped in another thread."""

_EDITOR = "lesionseg_editor"


def editor_of(labels: Labels) -> MaskEditor | StackEditor | None:
    """Return the open editor of a Labels layer."""
    # A duplicated layer has a copy of the metadata, but not the editor.
    editor = labels.metadata.get(_EDITOR)
    return editor if isinstance(editor, MaskEditor | StackEditor) and editor.labels is labels else None


def open_editor(
    viewer: ViewerModel, image: Image, labels: Labels, config: PostprocessConfig
) -> MaskEditor | StackEditor:
    """Open the editor of a single image or of a stack."""
    if labels.ndim == 2:
        made = MaskEditor(viewer, image, labels, config=config, model=None)
        made.guard = LayoutGuard(viewer, image, labels, partial(_class_count, made))
        return made
    editor = labels.metadata[_EDITOR] = StackEditor(viewer, image, labels, config=config)
    return editor


def _class_count(editor: MaskEditor) -> int:
    """Return how many classes the outline of an image can have."""
    prediction = editor.document.snapshot.prediction
    names = editor.labels.metadata.get(CLASSES, ())
    return max(len(names) - 1, 1 if prediction is None else len(prediction.logits) - 1, 1)


class MaskEditor:
    """Edits the mask of one image.

    While it is open, undo and redo of the Labels layer lead here, and napari's own history stays empty.
    `changed` is emitted with what was done: "prediction", "click", "box", "lasso", "stroke", "threshold",
    "tool", "undo", "redo" or "restored"; `busy` when the network starts and stops; `failed` with an exception
    whose text is for the user.
    """

    changed = Signal(str)
    busy = Signal(bool)
    failed = Signal(Exception)
    noted = Signal(str)  # why something had no effect
    undo_offered = Signal()  # `undo_verdict` was set

    def __init__(
        self,
        viewer: ViewerModel,
        image: Image,
        labels: Labels,
        *,
        config: PostprocessConfig,
        model: Model | None,
    ) -> None:
        if labels.ndim != 2:
            raise MaskError(f"“{labels.name}” is a stack; only single images can be edited.")
        self.viewer, self.image, self.labels = viewer, image, labels
        self.document = MaskDocument(viewer, image, labels, config, own_threshold(model))
        self.requests = PredictionRequests(self.document, image, model)
        self.guard: LayoutGuard | None = None  # closed with the editor
        self.undo_verdict: Callable[[], bool] | None = None  # tried before a step is undone
        self._closed = False
        self.document.changed.connect(self.changed.emit)
        self.requests.noted.connect(self.noted.emit)
        self.requests.failed.connect(self.failed.emit)
        self.requests.queue.busy.connect(self.busy.emit)
        self.document.layer.take_over(
            self.undo, self.redo, self.document.record_painting, self.requests.discard_encoding
        )
        labels.metadata[_EDITOR] = self

    @property
    def snapshot(self) -> Snapshot:
        """The current state, with what was painted last; never changed, so that threads can share it."""
        if self.document.layer.usable:
            self.document.record_painting()
        return self.document.snapshot

    def predict(self) -> None:
        """Predict the mask again, without strokes and manual edits."""
        self.requests.cancel()
        self.requests.submit("predict")

    def set_prediction(
        self,
        prediction: Prediction,
        encoded: EncodedImage | None = None,
        *,
        draw: bool = True,
        config: PostprocessConfig | None = None,
    ) -> None:
        """Use a prediction made before, without strokes, and perhaps draw it with other settings.

        If it is not drawn, the mask stays, and pixels that differ from the prediction count as manual.
        """
        self.requests.cancel()
        if not self._is_ready():
            return
        document, now = self.document, self.document.snapshot
        if prediction.size != now.mask.shape:
            self.failed.emit(MaskError("The prediction is of another image; segment this one again."))
            return
        self.requests.encoded = encoded if encoded is not None else self.requests.encoded
        if draw:
            document.draw_prediction(
                prediction, now, own_threshold(self.requests.model), config=config or now.config
            )
        elif not now.strokes:
            threshold = own_threshold(self.requests.model)
            document.history.amend(compose.with_prediction(now, prediction, threshold))
        else:
            predictions = (prediction, *now.predictions[1:])
            document.history.amend(replace(now, initial_prediction=prediction, predictions=predictions))

    def set_config(self, config: PostprocessConfig) -> None:
        """Redraw with other settings, from the current prediction; calls in a row are one undo step.

        The prediction behind a restored mask is requested first.
        """
        if config == self.requests.config or not self._is_ready():
            return
        document = self.document
        then = replace(document.snapshot, config=config)
        if then.prediction is not None or then.added:
            document.redraw(then, "threshold", merge=True)
        elif document.has_mask and self.requests.model is not None:
            self.requests.submit("redraw", config=config)
        else:
            document.record(then, "threshold", merge=True)

    def add_stroke(self, stroke: Stroke) -> None:
        """Add a click or a scribble; what is outside the image is ignored."""
        if not len(stroke_pixels(stroke, self.document.snapshot.mask.shape)):
            self.noted.emit("Click on the image.")
        elif self._is_ready():
            self.requests.submit("stroke", (stroke,))

    def remove_last_stroke(self) -> None:
        """Remove the last click or scribble; what was painted since stays."""
        if self.requests.cancel_last(stroke=True) or not self._is_ready():
            return
        now = self.document.snapshot
        if not now.strokes:
            self.noted.emit("There is no click to remove.")
            return
        then = compose.without_last_stroke(now)
        known = now.prediction is not None or bool(now.added)
        if then.prediction is not None or (not then.strokes and not known):
            self.document.redraw(then, "click")
        else:
            self.requests.submit("remove_stroke")

    def add_area(self, area: Prompts, *, adds: bool = False) -> None:
        """Draw the lesion in a box or a lasso: instead of the outline, or added to it."""
        if area.box is not None:
            box = compose.clipped(area.box, self.document.snapshot.mask.shape)
            area, extent = Prompts(box=box), min(box.bottom - box.top, box.right - box.left)
        else:
            extent = np.ptp(area.lasso, axis=0).min() if len(area.lasso) > 2 else 0
        if extent < MIN_BOX:
            self.noted.emit("Too small: draw around the whole lesion.")
        elif self._is_ready():
            self.requests.submit("area", area=area, adds=adds)

    def apply(self, edit: MaskEdit, point: tuple[float, float] | None = None) -> None:
        """Apply a tool to the mask, at a point (row, column) if it needs one."""
        if not self._is_ready():
            return
        document, now = self.document, self.document.snapshot
        if edit.reshapes and now.mask.size > THREAD_PIXELS:
            self.requests.submit("edit", edit=edit)
            return
        try:
            image = read_frame(self.image, ()) if edit.uses_image else None
            mask = edit.run(now.mask, document.active_class, image, point)
        except LesionSegError as error:
            self.failed.emit(error)
            return
        if not document.apply_mask(mask, now, manual=not edit.reshapes):
            self.noted.emit(edit.no_effect)

    def reset(self, prediction: Prediction | None) -> None:
        """Discard strokes and manual edits and draw a prediction; request it if there is none."""
        if not self._is_ready():
            return
        if prediction is None:
            self.predict()
            return
        self.requests.cancel()
        document, now = self.document, self.document.snapshot
        drawn = compose.compose_mask(compose.without_edits(now, prediction), document.active_class)
        if now.prediction is prediction and not now.strokes and np.array_equal(drawn.mask, now.mask):
            self.noted.emit("The outline is as the model drew it.")
        else:
            document.record(drawn, "tool")

    def undo(self) -> None:
        """Undo the last step; a click that waits for its prediction, or a polygon's corner, goes first."""
        if self.document.layer.drawing == "polygon":
            self.document.layer.remove_corner()
            return
        if not self._is_ready():
            return
        history = self.document.history
        if self.undo_verdict is not None and self.undo_verdict():
            return
        if self.requests.cancel_last():
            self.changed.emit("undo")
        elif history.depth:
            self.document.show(history.undo(), "undo")
            self.requests.queue.put_back()  # the mask that it was about was undone
            self.requests.start_next()
        else:
            self.noted.emit("There is nothing to undo.")

    def redo(self) -> None:
        """Redo the step that was undone last."""
        if not self._is_ready():
            return
        if self.document.history.can_redo:
            self.requests.cancel()
            self.document.show(self.document.history.redo(), "redo")
        else:
            self.noted.emit("There is nothing to redo.")

    def restore(self, history: UndoHistory[Snapshot]) -> None:
        """Use a history kept when the image was left, or one that starts with a saved mask."""
        self.requests.cancel()
        document = self.document
        if not document.layer.usable:
            return
        if history.current.mask.shape != document.snapshot.mask.shape:
            self.failed.emit(MaskError("The saved outline is of another size; segment the image again."))
            return
        document.history = history
        document.show(history.current, "restored")

    def close(self) -> None:
        """Release the layer and the viewer; requests are cancelled."""
        if self._closed:
            return
        self._closed = True
        if self.guard is not None:
            self.guard.close()
        self.requests.cancel()
        self.requests.discard_encoding()
        self.labels.metadata.pop(_EDITOR, None)
        self.document.close()

    def _is_ready(self) -> bool:
        """Record what was painted, and return whether the mask can be edited; report why not."""
        if self.document.layer.usable:
            self.document.record_painting()
            return True
        self.requests.cancel()
        if not self._closed:
            self.failed.emit(MaskError("The outline or its image was closed or changed; open it again."))
        return False


def saved_history(
    editor: MaskEditor,
    mask: LabelImage,
    strokes: Sequence[Stroke] = (),
    config: PostprocessConfig | None = None,
    area: Prompts = NO_PROMPTS,
) -> UndoHistory[Snapshot]:
    """Return a new history of a saved mask (H, W), with the prompts and settings it was made with."""
    base = Snapshot(
        mask.astype(np.uint8),
        np.zeros(mask.shape, bool),
        config if config is not None else editor.document.snapshot.config,
        tuple(strokes),
        (None,) * (len(strokes) + 1),
        model_threshold=own_threshold(editor.requests.model),
        area=area,
    )
    return UndoHistory(base)
