"""One image on the screen: what the annotator decides about it, and its outline until it is saved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from napari.layers import Image, Labels, Layer
from psygnal import Signal, SignalInstance

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import StudyError
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.plugin.editor.editor import MaskEditor, saved_history
from napari_lesionseg.plugin.editor.undo_history import Snapshot, UndoHistory
from napari_lesionseg.plugin.napari_layers.labels_writing import same_pixels
from napari_lesionseg.plugin.shortcuts import key_of
from napari_lesionseg.plugin.tasks import Delay
from napari_lesionseg.plugin.workbench.autosave import MaskKind, Quality, SaveQueue, UnsavedMask
from napari_lesionseg.plugin.workbench.predictions import AnyModel, Prepared
from napari_lesionseg.plugin.workbench.verdict_guard import Screen
from napari_lesionseg.study.events import NO_ORIGIN, CarriedMask, MaskOrigin, Predicted
from napari_lesionseg.study.followup import CarriedOutline
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import NO_PROMPTS, LabelImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import Model

PAUSE_MS = 400
"""Time without a change after which the outline is saved."""


class Review(ABC):
    """An image that is being reviewed: what the annotator decides about it, and what of it is saved.

    Whatever the annotator does is saved a moment later; a decision is saved at once.
    """

    decided = Signal()
    failed = Signal(str)

    nothing_to_approve: ClassVar[str]

    def __init__(self, study: Study, save_queue: SaveQueue, image_id: str, drawn: Layer) -> None:
        self.image_id = image_id
        self.drawn = drawn
        """The layer that decisions are about."""
        self.annotator = study.annotator
        self.hint = ""  # where what is shown first is from, if not from the model
        self._study, self._save_queue = study, save_queue
        self.shown_state = self.state
        self._by_annotator = False
        self._save_soon = Delay(PAUSE_MS, self.save)

    @property
    def state(self) -> ImageState:
        """What the study knows of the image, as far as it is saved."""
        return self._study.state.images[self.image_id]

    @property
    @abstractmethod
    def can_undo(self) -> bool:
        """Whether the annotator has done anything since the image was opened."""

    @property
    @abstractmethod
    def _is_empty(self) -> bool:
        """Whether nothing is drawn or marked."""

    @abstractmethod
    def screen(self) -> Screen:
        """Return what the annotator sees now, and what is not finished."""

    def set_model(self, model: AnyModel | None) -> None:
        """Use another model; what the annotator changed or approved stays as it is."""
        current = self.state.current
        is_known = model is not None and current is not None and current.model == model.sha256
        self._use_model(model, predict=model is not None and not self._by_annotator and not is_known)

    def approve(self) -> None:
        """Approve what is drawn or marked."""
        if self._is_empty:
            self.failed.emit(self.nothing_to_approve)
            return
        self.save()
        self._by_annotator = True
        self._put("approval")
        self.decided.emit()

    def flag(self, note: str) -> None:
        """Set the image aside with a note."""
        self.save()
        self._show_hidden()
        self._save_queue.save_flag(self.image_id, note)
        self.decided.emit()

    def reopen(self) -> None:
        """Withdraw the decision; what was drawn or marked stays."""
        self.save()
        self._show_hidden()
        self._save_queue.save_reopen(self.image_id)

    def save(self) -> None:
        """Put what is shown into the save queue, if it changed."""
        if self._save_queue.dirty:
            self._set_dirty(False)
            self._put("correction" if self._by_annotator else "prediction")

    @abstractmethod
    def _use_model(self, model: AnyModel | None, *, predict: bool) -> None:
        """Use another model, and show what it predicts."""

    @abstractmethod
    def _put(self, kind: MaskKind) -> None:
        """Put what is shown into the save queue."""

    @abstractmethod
    def _show_hidden(self) -> None:
        """Show again what the decision that there is nothing hid."""

    def _set_dirty(self, dirty: bool) -> None:
        """Note whether what is shown differs from what is saved; it is saved after a pause."""
        self._save_queue.dirty = dirty
        if dirty:
            self._save_queue.all_saved.emit(False)
            self._save_soon.start()
        else:
            self._save_soon.cancel()


def why_hidden(viewer: ViewerModel, image: Image, drawn: Layer, what: str) -> str:
    """Return why `what` is drawn over an image cannot be seen; empty if it can."""
    layers = list(viewer.layers)
    if drawn not in layers or image not in layers:
        return f"The {what} or its image was closed. Open the image again."
    above = layers[layers.index(image) + 1 :]
    if not image.visible or math.isclose(image.opacity, 0):
        return "The image is hidden. Show it first."
    is_partly_hidden = isinstance(drawn, Labels) and drawn.show_selected_label
    if not drawn.visible or math.isclose(drawn.opacity, 0) or is_partly_hidden:
        return f"The {what} is hidden. Show it first."
    if drawn not in above or any(_covers(layer) for layer in above):
        return f"Another layer covers the {what}. Hide that layer first."
    return "" if viewer.dims.ndisplay == 2 else "Return to the 2D view first."


def _covers(layer: Layer) -> bool:
    return isinstance(layer, Image) and layer.visible and layer.opacity > 0


_UNFINISHED = {
    "": "",
    "polygon": "Finish the polygon first: double-click, or press Esc to discard it.",
    "stroke": "Release the mouse button first.",
}


class ImageReview(Review):
    """The review of an outline."""

    nothing_to_approve = "The outline is empty. Draw one, or choose No lesion."

    def __init__(self, study: Study, save_queue: SaveQueue, editor: MaskEditor, image_id: str) -> None:
        super().__init__(study, save_queue, image_id, editor.labels)
        self.editor = editor
        self._is_no_lesion = self.state.status is Status.NO_LESION
        self._hidden: UnsavedMask | None = None
        self._hidden_history: UndoHistory[Snapshot] | None = None
        self._carried: CarriedMask | None = None

    @property
    def history(self) -> UndoHistory[Snapshot]:
        """The undo history, to go on with when the image is opened again."""
        return self._hidden_history or self.editor.document.history

    @property
    def can_undo(self) -> bool:
        """Whether the annotator has done anything since the image was opened."""
        return self.editor.requests.can_undo

    def screen(self) -> Screen:
        """Return whether the outline can be seen, and what the annotator has begun to draw."""
        editor, requests = self.editor, self.editor.requests
        hidden = why_hidden(editor.viewer, editor.image, editor.labels, "outline")
        if not hidden and not editor.document.layer.usable:
            hidden = "The outline or its image was changed. Open the image again."
        unfinished = _UNFINISHED[editor.document.layer.drawing]
        if requests.holding and requests.queue:
            unfinished = "Outline what you collected first: choose Hold again."
        return Screen(self.image_id, hidden, unfinished, computing=bool(requests.queue))

    @property
    def _mask(self) -> LabelImage:
        """The outline as it is to be saved."""
        return _within_classes(self.editor.snapshot.mask, len(self._study.info.classes))

    @property
    def _is_empty(self) -> bool:
        return not self._mask.any()

    def show(self, prepared: Prepared, history: UndoHistory[Snapshot] | None = None) -> None:
        """Show the outline that was saved, or waits to be saved, or else the prediction.

        A `history` of this very outline goes on.
        """
        state, unsaved = self.state, self._save_queue.unsaved_mask(self.image_id)
        if unsaved is None:
            self._by_annotator = self._is_no_lesion or is_by_annotator(state)
            mask, origin = prepared.mask, saved_origin(state)
            self._carried = None if state.current is None else state.current.carried
        else:
            self._by_annotator, mask, origin = unsaved.by_annotator, unsaved.mask, unsaved.origin
        carried = prepared.carried if unsaved is None else None
        if carried is not None:
            mask, origin, self._by_annotator = carried.mask, NO_ORIGIN, True
            self._carried, self.hint = carried.origin.carried, _describe_carried(carried)
            self._save_queue.save_mask("prediction", self.image_id, carried.mask, carried.origin)
        known = history is not None and mask is not None and same_pixels(mask, history.current.mask)
        if known and history is not None:
            self.editor.restore(history)
            self.editor.requests.encoded = prepared.encoded
        elif mask is not None and (self._by_annotator or prepared.prediction is None):
            config = _config_of(self.editor, self.state, unsaved)
            _restore(self.editor, mask, origin, config)
        if prepared.prediction is not None and not known:
            self.editor.set_prediction(prepared.prediction, prepared.encoded, draw=not self._by_annotator)
            is_new = mask is None or not same_pixels(mask, self.editor.snapshot.mask)
            if is_new and not self._by_annotator:
                self._set_dirty(True)
                self.save()
        self.editor.changed.connect(self._on_edited)
        self.editor.failed.connect(partial(_emit_text, self.failed))

    def no_lesion(self) -> None:
        """Decide that the image shows no lesion."""
        self.save()
        hidden, history = self._hidden, self._hidden_history
        if not self._is_no_lesion:
            hidden = UnsavedMask(self._mask, self._origin(), self._by_annotator)
            history = self.editor.document.history
        shape = self.state.shape
        self._save_queue.save_no_lesion(self.image_id, shape)
        self.editor.restore(saved_history(self.editor, np.zeros(shape, np.uint8)))
        self._set_dirty(False)
        self._hidden, self._hidden_history, self._is_no_lesion = hidden, history, True
        self.decided.emit()

    def close(self) -> None:
        """Save the outline and close its editor."""
        self.save()
        self._save_soon.cancel()
        self.editor.close()

    def _show_hidden(self) -> None:
        """Show the outline again that "no lesion" hid; it is saved already."""
        if not self._is_no_lesion:
            return
        try:
            hidden = self._hidden or _hidden_on_disk(self._study, self.state)
        except StudyError as error:
            self.failed.emit(str(error))
            return
        history = self._hidden_history
        if history is not None and same_pixels(history.current.mask, hidden.mask):
            self.editor.restore(history)
        else:
            _restore(self.editor, hidden.mask, hidden.origin)
        self._by_annotator = hidden.by_annotator
        self._set_dirty(False)

    def _use_model(self, model: AnyModel | None, *, predict: bool) -> None:
        self.editor.requests.set_model(cast("Model | None", model))
        if predict:
            self.editor.predict()

    def _put(self, kind: MaskKind) -> None:
        self._save_queue.save_mask(kind, self.image_id, self._mask, self._origin(), _quality_of(self.editor))

    def _origin(self) -> MaskOrigin:
        """Return what the outline on the screen came from."""
        editor = self.editor
        model = editor.requests.model
        if self._carried is not None and not editor.snapshot.strokes:
            model = None  # it did not contribute to the outline
        return MaskOrigin(
            model=None if model is None else model.sha256,
            threshold=editor.snapshot.threshold,
            strokes=editor.snapshot.strokes,
            areas=editor.snapshot.areas,
            carried=self._carried,
            label=min(editor.document.active_class, len(self._study.info.classes)),
        )

    def _on_edited(self, what: str) -> None:
        self._hidden, self._hidden_history, self._is_no_lesion = None, None, False
        if what != "prediction":
            self._by_annotator = True
        self._set_dirty(True)
        if not self._by_annotator:
            self.save()  # at once, so that the prediction is kept whatever the annotator does next


def _restore(
    editor: MaskEditor, mask: LabelImage, origin: MaskOrigin, config: PostprocessConfig | None = None
) -> None:
    """Show a saved outline with the prompts that it came from.

    Of several boxes and lassos the first is restored, to which the next stroke belongs; what the others added
    is in the mask.
    """
    area = origin.areas[0] if origin.areas else NO_PROMPTS
    editor.restore(saved_history(editor, mask, origin.strokes, config, area))


def changed_by_another(review: Review) -> bool:
    """Whether another annotator has changed the image since its outline was shown."""
    state = review.state
    return state.annotator not in (None, review.annotator) and state.when != review.shown_state.when


def _describe_carried(carried: CarriedOutline) -> str:
    visit = "last visit" if carried.day is None else f"visit of {carried.day.isoformat()}"
    return f"This is the outline of the {visit}. {key_of('back_to_prediction')} draws the model's own."


def is_by_annotator(state: ImageState) -> bool:
    """Whether an annotator changed or approved the outline of an image, or that of the last visit."""
    current = state.current
    return current is not None and (not isinstance(current, Predicted) or current.carried is not None)


def saved_origin(state: ImageState) -> MaskOrigin:
    """Return what the outline that is to be shown came from."""
    return NO_ORIGIN if state.status is Status.NO_LESION else MaskOrigin.of(state.current)


def _emit_text(signal: SignalInstance, error: Exception) -> None:
    signal.emit(str(error))


def _hidden_on_disk(study: Study, state: ImageState) -> UnsavedMask:
    """Return the outline that a saved "no lesion" hides."""
    if state.current is None:
        return UnsavedMask(np.zeros(state.shape, np.uint8), NO_ORIGIN, by_annotator=False)
    mask, origin = study.read_revision(state.current), MaskOrigin.of(state.current)
    return UnsavedMask(mask, origin, is_by_annotator(state))


def _quality_of(editor: MaskEditor) -> Quality | None:
    """Return a function that estimates the quality of the outline in another thread."""
    prediction = editor.snapshot.prediction
    return None if prediction is None else partial(_estimate, prediction, editor.snapshot.threshold)


def _estimate(prediction: Prediction, threshold: float) -> float:
    return quality_estimate(prediction.low_resolution(), threshold)


def _config_of(editor: MaskEditor, state: ImageState, unsaved: UnsavedMask | None) -> PostprocessConfig:
    """Return the settings of the editor, with the threshold that the outline was made with."""
    current = state.current
    threshold = (
        unsaved.origin.threshold if unsaved is not None else None if current is None else current.threshold
    )
    config, model = editor.requests.config, editor.requests.model
    if model is not None and threshold == model.card.threshold:
        threshold = None  # follow the model's own
    return config if threshold is None else config.model_copy(update={"threshold": threshold})


def _within_classes(mask: LabelImage, highest: int) -> LabelImage:
    """Return a mask in the classes of the study; labels beyond count as the last one."""
    return mask if mask.max(initial=0) <= highest else np.minimum(mask, np.uint8(highest))
