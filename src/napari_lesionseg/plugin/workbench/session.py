"""A study at work in a viewer: which image is open, what comes next, what others did. No widgets in here.

There is one image in the viewer at a time. Its decision is saved while the next image is already shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_lesionseg.cluster.engine import IN_PROCESS
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.workbench.autosave import SaveQueue
from napari_lesionseg.plugin.workbench.field_edits import FieldEdits, StudyScale
from napari_lesionseg.plugin.workbench.image_review import Review, changed_by_another
from napari_lesionseg.plugin.workbench.predictions import AnyModel, BatchPrediction
from napari_lesionseg.plugin.workbench.verdicts import Verdicts
from napari_lesionseg.plugin.workbench.viewer_layers import AnyReview, ImageDisplay
from napari_lesionseg.study.queue import Order, ValuesOf, arrange, is_to_do, next_image
from napari_lesionseg.study.review import is_to_review
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.plugin.editor.editor import MaskEditor
    from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor


class StudySession:
    """One annotator at work on a study, which is closed with the session."""

    opened = Signal(object)
    changed = Signal()
    failed = Signal(str)
    model_changed = Signal()
    model_added = Signal(str, bool)

    def __init__(self, viewer: ViewerModel, study: Study, config: PostprocessConfig) -> None:
        self.study = study
        self.interruptible = ""
        self.compute = IN_PROCESS
        """Where all images are segmented and models are fine-tuned; the image on the screen stays here."""
        self.save_queue = SaveQueue(study)
        self.save_queue.saved.connect(self.changed.emit)
        self.fields = FieldEdits(study, self.save_queue)
        self._scale = StudyScale(self.fields)
        self._scale.failed.connect(self.failed.emit)
        self.changed.connect(self._scale.update)
        is_wanted = partial(is_to_review, reviewer=study.annotator) if study.is_reviewer else is_to_do
        self.navigation = Navigation(study, self.save_queue, self.fields.values, is_wanted)
        self.display = ImageDisplay(viewer, study, self.save_queue, self.navigation.ahead_of, config)
        self.display.opened.connect(self._on_opened)
        self.display.failed.connect(self.failed.emit)
        self.verdicts = Verdicts(self.display, self.navigation, self.save_queue)
        self.navigation.changed.connect(self.display.prefetch)
        self.navigation.changed.connect(self.changed.emit)
        self.poller = StudyPoller(study, self.display)
        self.poller.found.connect(self.changed.emit)
        self.poller.failed.connect(self.failed.emit)
        self.batch = BatchPrediction(study, self.save_queue, self.display.expected)
        self.batch.failed.connect(self.failed.emit)

    @property
    def review(self) -> AnyReview | None:
        """The image on the screen."""
        return self.display.review

    @property
    def editor(self) -> MaskEditor | LandmarkEditor | None:
        """The editor of the image on the screen."""
        return None if self.review is None else self.review.editor

    @property
    def image_id(self) -> str | None:
        """The ID (SHA-256) of the image on the screen."""
        return None if self.review is None else self.review.image_id

    @property
    def state(self) -> ImageState | None:
        """What the study knows of the image on the screen."""
        return None if self.review is None else self.review.state

    @property
    def model(self) -> AnyModel | None:
        """The model that segments, or finds landmarks."""
        return self.display.model

    def begin(self) -> None:
        """Open what a reviewer returned, or else the image that was open the last time, or the next one."""
        session = self.study.session
        known = self.study.state.images
        first = self.navigation.next_of(None)
        is_urgent = first is not None and known[first].status is Status.RETURNED
        if first is not None and (is_urgent or self.study.is_reviewer):
            self.open_image(first)
        elif session is not None and session.image_id is not None and session.image_id in known:
            self.display.open(session.image_id, session.view)
        elif not self.next() and known:
            self.open_image(next(iter(known)))

    def open_image(self, image_id: str) -> None:
        """Show an image of the study, and its outline, as soon as it is read."""
        if image_id != self.image_id and image_id in self.study.state.images:
            if self.image_id is not None:
                self.navigation.note_left(self.image_id)
            self.display.open(image_id)

    def next(self) -> bool:
        """Open the next image to be reviewed; False when there is none."""
        image_id = self.navigation.next_of(self.image_id)
        if image_id is not None:
            self.open_image(image_id)
        return image_id is not None

    def back(self) -> bool:
        """Open the image that was shown before; False when there was none."""
        image_id, left = self.navigation.before(self.image_id), self.image_id
        if image_id is None:
            return False
        self.open_image(image_id)
        self.navigation.go_back_from(left)
        return True

    def set_model(self, model: AnyModel | None) -> None:
        """Use another model; outlines that an annotator changed or approved stay as they are.

        What the former model predicted and nobody touched is predicted again in the background.
        """
        before = self.model
        self.batch.cancel()
        self.display.set_model(model)
        if before is not None and model is not None and before.sha256 != model.sha256:
            images = [state.image_id for state in self.navigation.queue]
            self.batch.start(images, model, self.display.config, refresh=True, compute=self.compute)
        self.model_changed.emit()

    def predict_all(self) -> None:
        """Segment every unreviewed image in the background."""
        if self.model is None:
            self.failed.emit("Choose or train a model first, or wait until it is loaded.")
        elif not self.batch.is_active:
            images = [state.image_id for state in self.navigation.queue]
            self.batch.start(images, self.model, self.display.config, compute=self.compute)

    def close(self, *, discard: bool = False) -> str:
        """Save everything and leave the study; with `discard`, lose what cannot be saved.

        Returns why something could not be saved, and stays open then; else an empty string.
        """
        if not discard:
            self.fields.closing.emit()
            self.display.save()
            problem = self.save_queue.flush()
            if problem:
                return problem
        self.verdicts.close()
        self.poller.close()
        self.batch.cancel()
        self.save_queue.close()
        self._scale.follow(None)
        self.display.close()
        self.study.close()
        return ""

    def _on_opened(self, review: AnyReview | None) -> None:
        self.verdicts.guard.note_opening()  # first: a busy window paints the image while it is told of it
        self._scale.follow(review)
        if review is not None:
            review.decided.connect(self._on_decided)
            # psygnal would call a bare `emit` once, to count its arguments.
            review.failed.connect(lambda text: self.failed.emit(text))
        self.opened.emit(self.editor)
        self.changed.emit()

    def _on_decided(self) -> None:
        """Show the next image while the decision is being saved."""
        if not self.next():
            self.changed.emit()


class Navigation:
    """The queue of a study, and the annotator's way through it."""

    changed = Signal()

    def __init__(
        self,
        study: Study,
        save_queue: SaveQueue,
        values_of: ValuesOf,
        is_wanted: Callable[[ImageState], bool] = is_to_do,
    ) -> None:
        self._study, self._save_queue, self._values_of = study, save_queue, values_of
        self._is_wanted = is_wanted
        self._visited: list[str] = []
        self._order, self._search = Order.NAME, ""
        self._statuses: frozenset[Status] | None = None

    @property
    def queue(self) -> list[ImageState]:
        """The images as they are filtered and sorted."""
        images = self._study.state.images.values()
        return arrange(
            images, self._order, search=self._search, statuses=self._statuses, values_of=self._values_of
        )

    @property
    def hidden(self) -> int:
        """How many unreviewed images the search or the filter hides."""
        shown = {state.image_id for state in self.queue} | self._save_queue.decided
        others = (state for state in self._study.state.images.values() if state.image_id not in shown)
        return sum(map(self._is_wanted, others))

    def sort(self, order: Order, search: str = "", statuses: Collection[Status] | None = None) -> None:
        """Choose which images the queue shows, and in which order."""
        self._order, self._search = order, search
        self._statuses = None if statuses is None else frozenset(statuses)
        self.changed.emit()

    def next_of(self, image_id: str | None, skip: Collection[str] = ()) -> str | None:
        """Return the next image to be reviewed after one; None when there is none."""
        away = self._save_queue.decided | set(skip)
        waiting = [state for state in self.queue if state.image_id == image_id or state.image_id not in away]
        state = next_image(waiting, image_id, self._is_wanted)
        return None if state is None else state.image_id

    def neighbor(self, image_id: str | None, step: int) -> str | None:
        """Return the image that is some steps further in the queue; None at its ends."""
        images = [state.image_id for state in self.queue]
        place = images.index(image_id) + step if image_id in images else 0
        return images[place] if 0 <= place < len(images) else None

    def ahead_of(self, image_id: str, count: int) -> list[str]:
        """Return the images that will probably be opened after one."""
        ahead: list[str] = []
        current: str | None = image_id
        while len(ahead) < count:
            current = self.next_of(current, skip=(image_id, *ahead))
            if current is None:
                break
            ahead.append(current)
        return ahead

    def note_left(self, image_id: str) -> None:
        """Note that an image was on the screen, to come back to it."""
        self._visited.append(image_id)

    def before(self, image_id: str | None) -> str | None:
        """Return the image that was on the screen before this one; None when there was none."""
        return next((left for left in reversed(self._visited) if left != image_id), None)

    def go_back_from(self, image_id: str | None) -> None:
        """Remove the last step of the way, since the annotator goes it back."""
        left = [place for place, name in enumerate(self._visited) if name != image_id]
        del self._visited[left[-1] if left else 0 :]


class StudyPoller:
    """Reads in another thread what other annotators saved, and shows it if it is about the open image."""

    found = Signal()
    failed = Signal(str)

    def __init__(self, study: Study, display: ImageDisplay) -> None:
        self._study, self._display = study, display
        self._task: Task[frozenset[str]] | None = None
        self._reported = ""

    @property
    def is_busy(self) -> bool:
        """Whether the disk is being read."""
        return self._task is not None

    def poll(self) -> None:
        """Read what is new, unless that is being done."""
        if self._task is None:
            self._task = run_task(
                "reading other annotators' work",
                self._study.refresh,
                done=self._on_done,
                failed=self._on_failed,
            )

    def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.close()

    def _on_done(self, images: frozenset[str]) -> None:
        self._task, self._reported = None, ""
        if images:
            self.show_changes()

    def show_changes(self) -> None:
        """Show what was read, in the open image if the annotator has not begun to work on it."""
        review = self._display.review
        if review is not None and changed_by_another(review) and not _is_worked_on(review):
            self._display.open(review.image_id)
        self.found.emit()

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        if str(error) != self._reported:
            self._reported = str(error)
            self.failed.emit(str(error))


def _is_worked_on(review: Review) -> bool:
    """Whether the annotator has done anything that would be lost from the screen."""
    return review.can_undo or bool(review.screen().unfinished)
