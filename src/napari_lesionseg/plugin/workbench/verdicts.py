"""Verdicts about the image on the screen, carried out once the annotator can have seen the outline."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from psygnal import Signal

from napari_lesionseg.plugin.tasks import Delay
from napari_lesionseg.plugin.workbench.verdict_guard import Screen, VerdictGuard

if TYPE_CHECKING:
    from napari_lesionseg.plugin.workbench.autosave import SaveQueue
    from napari_lesionseg.plugin.workbench.session import Navigation
    from napari_lesionseg.plugin.workbench.viewer_layers import AnyReview, ImageDisplay

Verdict: TypeAlias = Literal["approve", "no lesion"]

_RECHECK_MS = 20
"""Interval at which a verdict that waits is checked again."""


class Verdicts:
    """Carries out a verdict at once, or as soon as it counts, or reports why it does not.

    `message` is emitted with what the annotator should know; an empty text takes the last one back.
    """

    message = Signal(str)
    given = Signal(str)
    """Emitted with the ID of an image that was decided about."""

    def __init__(self, display: ImageDisplay, navigation: Navigation, save_queue: SaveQueue) -> None:
        self._display, self._navigation, self._save_queue = display, navigation, save_queue
        self.guard = VerdictGuard()
        self._given: list[tuple[str, str | None]] = []  # the image, and the one that was shown after it
        self._is_last_step = False  # whether a verdict about the image on the screen is the last step
        self._note = ""  # to be shown with the next image
        self._waiting: Verdict | None = None
        self._pressed = 0.0  # when the verdict that waits was given
        self._watched: AnyReview | None = None
        self._recheck = Delay(_RECHECK_MS, self._check)
        display.opened.connect(self._on_opened)

    @property
    def is_waiting(self) -> bool:
        """Whether a verdict waits."""
        return self._waiting is not None

    def is_loaded(self) -> bool:
        """Whether napari can draw the image that was opened, and what is over it."""
        review = self._display.review
        return review is not None and review.drawn.loaded and review.editor.image.loaded

    def give(self, verdict: Verdict, age: float = 0.0) -> None:
        """Give a verdict about the image on the screen, by a key or mouse button pressed seconds ago.

        Another one that waits is replaced.
        """
        self._waiting, self._pressed = verdict, self.guard.time_before(age)
        self._check()

    def cancel(self) -> None:
        """Cancel a verdict that waits."""
        if self._waiting is not None:
            self._waiting = None
            self._recheck.cancel()
            self.message.emit("")

    def undo(self) -> bool:
        """Take back the verdict that led to this image, if it is the last step; return whether it was."""
        review = self._display.review
        if not self._given or review is None:
            return False
        image_id, after = self._given[-1]
        steps = review.can_undo and not (after == image_id and self._is_last_step)
        if after != review.image_id or steps:
            return False
        problem = self._save_queue.flush()
        if problem:
            self.message.emit(f"The decision is not saved yet. Try again later: {problem}")
            return True
        self._given.pop()
        self._is_last_step = False
        self._save_queue.save_reopen(image_id)
        self._save_queue.flush()
        if image_id != review.image_id:
            self._navigation.go_back_from(review.image_id)
        self._note = "The decision was undone."
        self._display.open(image_id)
        return True

    def reopen(self) -> None:
        """Withdraw the verdict about the image on the screen, however long ago it was given."""
        review = self._display.review
        if review is not None:
            self._given = [given for given in self._given if given[0] != review.image_id]
            self._is_last_step = False
            self.message.emit("")
            review.reopen()
            self._offer_undo()

    def close(self) -> None:
        """Carry out nothing any more."""
        self.cancel()
        self._watch(None)

    def _check(self) -> None:
        verdict, review = self._waiting, self._display.review
        if verdict is None:
            return
        if review is not None and self._is_last_step and self._given[-1] == (review.image_id,) * 2:
            self._waiting = None
            self.message.emit(_describe_last(self._navigation.hidden))
            return
        answer = self.guard.check(Screen() if review is None else review.screen(), self._pressed)
        if answer.wait:
            self.message.emit(f"{_NAMES[verdict]} waits until the outline is ready.")
            self._recheck.start()
            return
        self._waiting = None
        self.message.emit(answer.reason)
        if answer.counts and review is not None:
            (review.approve if verdict == "approve" else review.no_lesion)()

    def _on_opened(self, review: AnyReview | None) -> None:
        self.cancel()
        self._watch(review)
        if review is not None:
            self.message.emit(self._note or review.hint)
            self._note = ""
            review.decided.connect(partial(self._on_decided, review.image_id))
            self._offer_undo()

    def _on_decided(self, image_id: str) -> None:
        """Note a verdict; the session has opened the next image already."""
        self._given.append((image_id, self._display.expected()))
        self._is_last_step = True
        self._offer_undo()
        self.given.emit(image_id)
        if self._given[-1] == (image_id, image_id):  # it stays, for there is no other
            self.message.emit(_describe_last(self._navigation.hidden))

    def _offer_undo(self) -> None:
        review = self._display.review
        if review is not None:
            came_from = self._given and self._given[-1][1] == review.image_id
            review.editor.undo_verdict = self.undo if came_from else None
            review.editor.undo_offered.emit()

    def _watch(self, review: AnyReview | None) -> None:
        """Note whatever changes what is seen of an outline."""
        if self._watched is not None:
            editor = self._watched.editor
            editor.changed.disconnect(self._on_changed)
            editor.failed.disconnect(self._on_failed)
            for layer in (self._watched.drawn, editor.image):
                layer.events.visible.disconnect(self.guard.note_outline)
                layer.events.opacity.disconnect(self.guard.note_outline)
        self._watched = review
        if review is not None:
            review.editor.changed.connect(self._on_changed)
            review.editor.failed.connect(self._on_failed)
            for layer in (review.drawn, review.editor.image):
                layer.events.visible.connect(self.guard.note_outline)
                layer.events.opacity.connect(self.guard.note_outline)

    def _on_changed(self, what: str) -> None:
        self.guard.note_outline()
        self._is_last_step = False
        if what in {"undo", "redo"}:
            self.cancel()

    def _on_failed(self, error: Exception) -> None:
        self.cancel()  # the outline is not the one that the annotator waited for


_NAMES = {"approve": "Approve", "no lesion": "No lesion"}


def _describe_last(hidden: int) -> str:
    """Say that no image follows, and how many the search or the filter hides."""
    if not hidden:
        return "This was the last image. Every image is reviewed."
    images = "1 unreviewed image" if hidden == 1 else f"{hidden} unreviewed images"
    return f"This was the last image of the list. The search or filter hides {images}."
