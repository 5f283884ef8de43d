"""A study at work in a viewer: which image is open, what is saved, what comes next. No widgets in here.

There is one image in the viewer at a time, with its outline. Whatever happens to the outline is saved a
moment later, in another thread; a verdict is saved at once, while the next image is already shown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError, StudyError
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.napari_layers.labels_writing import same_pixels
from napari_lesionseg.plugin.workbench.batch_prediction import StudyRun
from napari_lesionseg.plugin.workbench.navigation import Navigation
from napari_lesionseg.plugin.workbench.prefetch import AHEAD, Prefetcher, Prepared
from napari_lesionseg.plugin.workbench.save_queue import Quality, SaveQueue, UnsavedMask
from napari_lesionseg.plugin.workbench.study_poller import StudyPoller
from napari_lesionseg.plugin.workbench.viewer_layers import ViewerLayers
from napari_lesionseg.study.events import Predicted, Provenance
from napari_lesionseg.study.queue import Order
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Click, LabelImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import Model

PAUSE_MS = 400
"""Time without a change after which the outline is saved."""


class StudySession:
    """One annotator at work on a study.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Where images are shown.
    study : Study
        The study; it is closed with the session.
    config : PostprocessConfig
        How masks are made of the network's answers.

    Attributes
    ----------
    opened : psygnal.Signal
        Emitted with the `MaskEditor` of an image that is shown now, or None.
    changed : psygnal.Signal
        Emitted when the study's state or the order of the queue changed.
    saved : psygnal.Signal
        Emitted with True when all is on the disk, with False while something is not.
    not_saved : psygnal.Signal
        Emitted with a sentence when something could not be saved; it is tried again.
    failed : psygnal.Signal
        Emitted with a sentence for the user.
    model_changed : psygnal.Signal
        Emitted when there is another network.
    """

    opened = Signal(object)
    changed = Signal()
    saved = Signal(bool)
    not_saved = Signal(str)
    failed = Signal(str)
    model_changed = Signal()

    def __init__(self, viewer: ViewerModel, study: Study, config: PostprocessConfig) -> None:
        self.study = study
        self.editor: MaskEditor | None = None
        self._config = config
        self._model: Model | None = None
        self._image_id: str | None = None
        self._awaited: str | None = None
        self._dirty = self._by_annotator = self._is_no_lesion = False
        self._hidden: UnsavedMask | None = None
        self.save_queue = SaveQueue(study)
        self.save_queue.saved.connect(self._on_saved)
        self.save_queue.failed.connect(self._on_not_saved)
        self._pause = QTimer()
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE_MS)
        self._pause.timeout.connect(self._save_mask)
        self.navigation = Navigation(study, lambda: self.save_queue.signed)
        self.study_poller = StudyPoller(study)
        self.study_poller.came.connect(self.changed.emit)
        self.study_poller.failed.connect(self.failed.emit)
        self._viewer_layers = ViewerLayers(viewer)
        self._viewer_layers.losing.connect(self._on_losing)
        self.run = StudyRun(study, self.save_queue, lambda: self._image_id or self._awaited)
        self._prefetcher = Prefetcher(study)
        self._prefetcher.ready.connect(self._on_ready)
        self._prefetcher.failed.connect(self._on_unreadable)

    # ------------------------------------------------------------------------------------ the queue

    @property
    def queue(self) -> list[ImageState]:
        """The images as they are filtered and sorted."""
        return self.navigation.queue

    def sort(self, order: Order, search: str = "", statuses: Collection[Status] | None = None) -> None:
        """Choose which images the queue shows, and in which order."""
        self.navigation.sort(order, search, statuses)
        if self._image_id is not None:
            self._prefetcher.want(self.navigation.ahead_of(self._image_id, AHEAD))
        self.changed.emit()

    @property
    def image_id(self) -> str | None:
        """SHA-256 of the image on the screen."""
        return self._image_id

    @property
    def state(self) -> ImageState | None:
        """How far the image on the screen is, as far as it is saved."""
        return self.study.state.images.get(self._image_id or "")

    # --------------------------------------------------------------------------------------- moving

    def begin(self) -> None:
        """Go to where the annotator was the last time, or else to the first image without a verdict."""
        session = self.study.session
        known = self.study.state.images
        if session is not None and session.image_id is not None and session.image_id in known:
            self.open_image(session.image_id)
        elif not self.next() and known:
            self.open_image(next(iter(known)))

    def open_image(self, image_id: str) -> None:
        """Show an image of the study, and its outline, as soon as it can be read."""
        if image_id == self._image_id or image_id not in self.study.state.images:
            return
        made = self._prefetcher.take(self.study.state.images[image_id])
        self._leave()
        self._awaited = image_id
        ahead = self.navigation.ahead_of(image_id, AHEAD)
        if made is not None:
            self._show(made)
            self._prefetcher.want(ahead)
        else:
            self._viewer_layers.hide()
            self._prefetcher.want([image_id, *ahead])

    def next(self) -> bool:
        """Go to the next image without a verdict; False when there is none."""
        image_id = self.navigation.next_of(self._image_id)
        if image_id is not None:
            self.open_image(image_id)
        return image_id is not None

    def back(self) -> bool:
        """Go to the image that was shown before; False when there was none."""
        image_id, left = self.navigation.before(self._image_id), self._image_id
        if image_id is None:
            return False
        self.open_image(image_id)
        self.navigation.go_back_from(left)
        return True

    @property
    def is_ahead(self) -> bool:
        """Whether the images that come next are ready, or there are none."""
        return not self._prefetcher.is_busy

    @property
    def can_go_back(self) -> bool:
        """Whether another image was shown before."""
        return self.navigation.before(self._image_id) is not None

    # ------------------------------------------------------------------------------------- verdicts

    def approve(self) -> None:
        """Sign the outline on the screen, and go to the next image."""
        editor, image_id = self.editor, self._image_id
        if editor is None or image_id is None:
            return
        mask = self._mask_of(editor)
        if not mask.any():
            self.failed.emit("The outline is empty; draw one, or choose No lesion.")
            return
        self._save_mask()
        self._by_annotator = True
        self.save_queue.approve(image_id, mask, self._provenance(editor), _quality_of(editor))
        self._go_on()

    def no_lesion(self) -> None:
        """Sign that the image on the screen shows no lesion, and go to the next one."""
        state = self.state
        if state is not None and self.editor is not None:
            self._save_mask()
            hidden = self._hidden or UnsavedMask(
                self._mask_of(self.editor), self.editor.snapshot.clicks, self._by_annotator
            )
            self.save_queue.no_lesion(state.image_id, state.shape)
            self.editor.restore(np.zeros(state.shape, np.uint8))
            self._note_saved()
            self._hidden, self._is_no_lesion = hidden, True
            self._go_on()

    def flag(self, note: str) -> None:
        """Set the image on the screen aside with a note, and go to the next one."""
        if self._image_id is not None:
            self._save_mask()
            self._bring_back()
            self.save_queue.flag(self._image_id, note)
            self._go_on()

    def reopen(self) -> None:
        """Take the verdict about the image on the screen back; its outline stays."""
        if self._image_id is not None:
            self._save_mask()
            self._bring_back()
            self.save_queue.reopen(self._image_id)
            self.saved.emit(False)

    def _bring_back(self) -> None:
        """Show the outline again that "no lesion" hid, since that is taken back; it is saved already."""
        if not self._is_no_lesion or self.editor is None:
            return
        try:
            hidden = self._hidden or self._hidden_on_disk()
        except StudyError as error:
            self.failed.emit(str(error))
            return
        self.editor.restore(hidden.mask, hidden.clicks)
        self._by_annotator = hidden.by_annotator
        self._note_saved()

    def _hidden_on_disk(self) -> UnsavedMask:
        """Give the outline that a saved "no lesion" hides."""
        state = self.state
        if state is None or state.current is None:
            shape = (0, 0) if state is None else state.shape
            return UnsavedMask(np.zeros(shape, np.uint8), (), by_annotator=False)
        clicks = tuple(state.current.as_clicks())
        return UnsavedMask(
            self.study.read_revision(state.current), clicks, not isinstance(state.current, Predicted)
        )

    def _go_on(self) -> None:
        """Show the next image while the verdict is being saved."""
        self.saved.emit(False)
        if not self.next():
            self.changed.emit()

    # ------------------------------------------------------------------------------ model, settings

    @property
    def model(self) -> Model | None:
        """The network that outlines."""
        return self._model

    def set_model(self, model: Model | None) -> None:
        """Take another network; outlines that an annotator changed or signed stay as they are.

        What the network before it predicted and nobody touched is predicted anew, in the background.
        """
        before, self._model = self._model, model
        self.run.cancel()
        self._prefetcher.set_model(model)
        if self.editor is not None:
            self.editor.requests.set_model(model)
            if model is not None and not self._by_annotator and not self._is_drawn_by(model):
                self.editor.predict()
        if before is not None and model is not None and before.sha256 != model.sha256:
            self.run.start([state.image_id for state in self.queue], model, self._config, refresh=True)
        self.model_changed.emit()

    def outline_all(self) -> None:
        """Let the network outline every image that nobody has looked at, in the background."""
        if self._model is None:
            self.failed.emit("Choose a model first; it is still being loaded, or could not be.")
        elif not self.run.is_active:
            self.run.start([state.image_id for state in self.queue], self._model, self._config)

    def set_config(self, config: PostprocessConfig) -> None:
        """Draw this and all later outlines with other settings."""
        self._config = config
        if self.editor is not None:
            self.editor.set_config(config)

    # --------------------------------------------------------------------------------------- saving

    @property
    def unsaved(self) -> int:
        """How many changes are not on the disk yet."""
        return self.save_queue.pending + int(self._dirty)

    def save_now(self) -> str:
        """Save all that waits.

        Returns
        -------
        str
            Why something could not be saved; empty when all is on the disk.
        """
        self._save_mask()
        return self.save_queue.flush()

    def close(self) -> str:
        """Save everything and leave the study, taking its image out of the viewer.

        Returns
        -------
        str
            Why something could not be saved; the session stays open then. Empty when all is well.
        """
        self._remember_place()
        problem = self.save_now()
        if not problem:
            self.abandon()
        return problem

    def abandon(self) -> None:
        """Leave the study without saving what waits."""
        self._pause.stop()
        self._prefetcher.close()
        self.study_poller.close()
        self.run.cancel()
        self.save_queue.close()
        self._dirty = False
        self._close_editor()
        self._viewer_layers.close()
        self.study.close()

    def _save_mask(self) -> None:
        """Let the outline on the screen be saved, if it changed."""
        if not self._dirty or self.editor is None or self._image_id is None:
            return
        self._note_saved()
        save = self.save_queue.correction if self._by_annotator else self.save_queue.prediction
        save(
            self._image_id,
            self._mask_of(self.editor),
            self._provenance(self.editor),
            _quality_of(self.editor),
        )
        self.saved.emit(False)

    def _mask_of(self, editor: MaskEditor) -> LabelImage:
        """Give the outline in the classes of the study; labels beyond count as the last one."""
        mask, highest = editor.snapshot.mask, len(self.study.info.classes)
        return mask if mask.max(initial=0) <= highest else np.minimum(mask, np.uint8(highest))

    def _provenance(self, editor: MaskEditor) -> Provenance:
        return Provenance(
            model=None if editor.requests.model is None else editor.requests.model.sha256,
            threshold=editor.snapshot.threshold,
            clicks=editor.snapshot.clicks,
            label=min(editor.document.active_class, len(self.study.info.classes)),
        )

    def _remember_place(self) -> None:
        view = self._viewer_layers.view
        if view is not None and self._image_id is not None:
            self.save_queue.place(self._image_id, view)

    def _on_saved(self) -> None:
        if not self.save_queue.pending:
            self.saved.emit(not self._dirty)
        self.changed.emit()

    def _on_not_saved(self, problem: str) -> None:
        self.saved.emit(False)
        self.not_saved.emit(problem)

    # -------------------------------------------------------------------------------------- showing

    def _leave(self) -> None:
        """Save what is on the screen and take it away."""
        self._save_mask()
        if self._image_id is not None:
            self.navigation.note_left(self._image_id)
        self._close_editor()
        self._image_id = self._awaited = None

    def _show(self, made: Prepared) -> None:
        viewer = self._viewer_layers.viewer
        if viewer is None:
            return
        state = self.study.state.images[made.image_id]
        self._awaited, self._image_id = None, made.image_id
        image_id, labels = self._viewer_layers.show(viewer, made.image, state.name)
        self.editor = MaskEditor(viewer, image_id, labels, config=self._config, model=self._model)
        self._fill(self.editor, made, state)
        self._hidden, self._is_no_lesion = None, state.status is Status.NO_LESION
        self.editor.changed.connect(self._on_edited)
        self.editor.failed.connect(self._on_editor_failed)
        self._viewer_layers.look(self._view_left_at(made.image_id))
        self._remember_place()
        self.opened.emit(self.editor)
        self.changed.emit()

    def _fill(self, editor: MaskEditor, made: Prepared, state: ImageState) -> None:
        """Draw what was saved, or is about to be, or else what the network says."""
        draft = self.save_queue.draft(made.image_id)
        mask = made.mask if draft is None else draft.mask
        self._by_annotator = _is_annotators(state) if draft is None else draft.by_annotator
        if mask is not None and (self._by_annotator or made.prediction is None):
            editor.restore(mask, _clicks_of(state) if draft is None else draft.clicks)
        if made.prediction is not None:
            editor.set_prediction(made.prediction, made.encoded, draw=not self._by_annotator)
            if not self._by_annotator and (mask is None or not same_pixels(mask, editor.snapshot.mask)):
                self._touch()
                self._save_mask()

    def _on_edited(self, what: str) -> None:
        self._hidden, self._is_no_lesion = None, False
        if what != "prediction":
            self._by_annotator = True
        if what in {"undo", "redo"} and self.editor is not None:
            self._config = self.editor.requests.config
        self._touch()
        if not self._by_annotator:
            self._save_mask()  # at once, so that the prediction is kept whatever the hand does next

    def _touch(self) -> None:
        """Note that the outline differs from what is saved; it is saved when nothing happens for a moment."""
        self._dirty = True
        self.saved.emit(False)
        self._pause.start()

    def _note_saved(self) -> None:
        self._dirty = False
        self._pause.stop()

    def _on_editor_failed(self, error: Exception) -> None:
        self.failed.emit(str(error))

    def _on_ready(self, made: Prepared) -> None:
        if made.image_id == self._awaited:
            taken = self._prefetcher.take(self.study.state.images[made.image_id])
            if taken is not None:
                self._show(taken)

    def _on_unreadable(self, image_id: str, error: Exception) -> None:
        if image_id == self._awaited:
            self._awaited = None
            self.failed.emit(str(error) if isinstance(error, LesionSegError) else repr(error))
            self.changed.emit()

    def _view_left_at(self, image_id: str) -> Mapping[str, Any] | None:
        """Give where the viewer looked when the study was left at this image the last time."""
        session = self.study.session
        here = session is not None and session.image_id == image_id and not self.navigation.has_begun
        return session.view if here and session is not None else None

    def _close_editor(self) -> None:
        if self.editor is not None:
            self.editor.close()
            self.editor = None
            self.opened.emit(None)

    def _on_losing(self) -> None:
        """Save and close the image when the user deletes one of its layers."""
        self._save_mask()
        self._remember_place()
        self._close_editor()
        self._image_id = None
        self.changed.emit()

    def _is_drawn_by(self, model: Model) -> bool:
        """Whether the outline on the screen is this network's already."""
        state = self.state
        return state is not None and state.current is not None and state.current.model == model.sha256


def _is_annotators(state: ImageState) -> bool:
    """Whether an annotator changed or signed what is to be shown."""
    drawn = state.current is not None and not isinstance(state.current, Predicted)
    return drawn or state.status is Status.NO_LESION


def _quality_of(editor: MaskEditor) -> Quality | None:
    """Give what estimates the quality of the outline; what lies beyond the answer's part hardly counts."""
    prediction = editor.snapshot.prediction
    return None if prediction is None else partial(_estimate, prediction, editor.snapshot.threshold)


def _estimate(prediction: Prediction, threshold: float) -> float:
    return quality_estimate(prediction.low_resolution(), threshold)


def _clicks_of(state: ImageState) -> tuple[Click, ...]:
    """Give the clicks that belong to what is to be shown."""
    if state.current is None or state.status is Status.NO_LESION:
        return ()
    return tuple(state.current.as_clicks())
