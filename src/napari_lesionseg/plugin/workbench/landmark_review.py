"""The review of an image's landmarks, which are saved as outlines are."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, cast

from napari_lesionseg.plugin.editor.undo_history import UndoHistory
from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor, Marks
from napari_lesionseg.plugin.landmarks.task import find_marks
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.workbench.autosave import MaskKind, SaveQueue
from napari_lesionseg.plugin.workbench.image_review import Review, is_by_annotator, why_hidden
from napari_lesionseg.plugin.workbench.predictions import AnyModel, Prepared
from napari_lesionseg.plugin.workbench.verdict_guard import Screen
from napari_lesionseg.study.events import MaskOrigin
from napari_lesionseg.study.landmarks import current_marks
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import NOTHING_MARKED, Study
from napari_lesionseg.types import Mark

if TYPE_CHECKING:
    from napari_lesionseg.inference.landmarks import LandmarkModel


class LandmarkReview(Review):
    """The review of an image's landmarks."""

    nothing_to_approve = NOTHING_MARKED

    def __init__(self, study: Study, save_queue: SaveQueue, editor: LandmarkEditor, image_id: str) -> None:
        super().__init__(study, save_queue, image_id, editor.points)
        self.editor = editor
        self._is_nothing = self.state.status is Status.NO_LESION
        self._hidden: UndoHistory[Marks] | None = None
        self._model: LandmarkModel | None = None
        self._task: Task[tuple[Mark, ...]] | None = None

    @property
    def history(self) -> UndoHistory[Marks]:
        """The undo history, to go on with when the image is opened again."""
        return self._hidden or self.editor.history

    @property
    def can_undo(self) -> bool:
        """Whether the annotator has done anything since the image was opened."""
        return self.editor.history.depth > 0

    @property
    def _is_empty(self) -> bool:
        return not self.editor.marks

    def screen(self) -> Screen:
        """Return whether the landmarks can be seen, and whether a model is looking for them."""
        editor = self.editor
        hidden = why_hidden(editor.viewer, editor.image, editor.points, "layer of landmarks")
        return Screen(self.image_id, hidden, computing=self._task is not None)

    def show(
        self, prepared: Prepared, model: LandmarkModel | None, history: UndoHistory[Marks] | None = None
    ) -> None:
        """Show what was saved, or waits to be saved, or else what the model found.

        A `history` of these very landmarks goes on.
        """
        self._model = model
        state, unsaved = self.state, self._save_queue.unsaved_mask(self.image_id)
        marks = current_marks(state) if unsaved is None else unsaved.marks
        decided = self._is_nothing or is_by_annotator(state)
        self._by_annotator = decided if unsaved is None else unsaved.by_annotator
        is_new = not self._by_annotator and prepared.found is not None and prepared.found != marks
        marks = prepared.found if is_new and prepared.found is not None else marks
        known = history is not None and history.current.marks == marks
        self.editor.restore(history if known and history is not None else UndoHistory(Marks(marks)))
        self.editor.changed.connect(self._on_edited)
        if is_new:
            self._set_dirty(True)
            self.save()

    def no_lesion(self) -> None:
        """Decide that there is nothing to mark in the image."""
        self.save()
        hidden = self._hidden if self._is_nothing else self.editor.history
        self._save_queue.save_no_lesion(self.image_id, self.state.shape)
        self.editor.restore(UndoHistory(Marks()))
        self._set_dirty(False)
        self._hidden, self._is_nothing = hidden, True
        self.decided.emit()

    def close(self) -> None:
        """Save the landmarks and close their editor."""
        self.save()
        self._save_soon.cancel()
        self._close_task()
        self.editor.close()

    def _use_model(self, model: AnyModel | None, *, predict: bool) -> None:
        self._model = cast("LandmarkModel | None", model)
        if predict and self._model is not None:
            self._close_task()
            image = read_frame(self.editor.image, ())
            self._task = run_task(
                "finding landmarks",
                find_marks,
                self._model,
                image,
                done=self._on_found,
                failed=self._on_failed,
            )

    def _put(self, kind: MaskKind) -> None:
        marks = self.editor.marks
        untouched = not self._by_annotator or any(mark.score < 1 for mark in marks)
        origin = MaskOrigin(
            model=self._model.sha256 if self._model is not None and untouched else None,
            quality=fmean(mark.score for mark in marks) if any(mark.score < 1 for mark in marks) else None,
        )
        self._save_queue.save_mask(kind, self.image_id, marks, origin)

    def _show_hidden(self) -> None:
        """Show the landmarks again that the decision hid; they are saved already."""
        if self._is_nothing:
            current = self.state.current
            saved = UndoHistory(Marks(() if current is None else current.as_marks()))
            self.editor.restore(self._hidden or saved)
            self._by_annotator = is_by_annotator(self.state)
            self._hidden, self._is_nothing = None, False
            self._set_dirty(False)

    def _on_edited(self, what: str) -> None:
        if what in {"restored", "chosen"}:
            return
        self._hidden, self._is_nothing = None, False
        if what != "prediction":
            self._close_task()
            self._by_annotator = True
        self._set_dirty(True)
        if not self._by_annotator:
            self.save()

    def _on_found(self, marks: tuple[Mark, ...]) -> None:
        self._task = None
        if not self._by_annotator:
            self.editor.put(marks, "prediction")

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.failed.emit(str(error))

    def _close_task(self) -> None:
        if self._task is not None:
            self._task.close()
        self._task = None
