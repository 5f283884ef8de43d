"""Verdicts about the image on the screen, carried out once the annotator can have seen the outline."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from napari.layers import Image, Labels, Points
from psygnal import Signal

from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor
from napari_lesionseg.plugin.tasks import Delay
from napari_lesionseg.plugin.workbench.landmark_review import LandmarkReview
from napari_lesionseg.plugin.workbench.verdict_guard import Screen, VerdictGuard

if TYPE_CHECKING:
    from napari_lesionseg.plugin.workbench.autosave import SaveQueue
    from napari_lesionseg.plugin.workbench.image_review import ImageReview
    from napari_lesionseg.plugin.workbench.session import Navigation
    from napari_lesionseg.plugin.workbench.viewer_layers import ImageDisplay

Verdict: TypeAlias = Literal["approve", "no lesion"]
AnyReview: TypeAlias = "ImageReview | LandmarkReview"

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
        self._watched: MaskEditor | LandmarkEditor | None = None
        self._recheck = Delay(_RECHECK_MS, self._check)
        display.opened.connect(self._on_opened)

    @property
    def is_waiting(self) -> bool:
        """Whether a verdict waits."""
        return self._waiting is not None

    def give(self, verdict: Verdict, age: float = 0.0) -> None:
        """Give a verdict about the image on the screen, by a key that was pressed some seconds ago.

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
        steps = can_undo(review) and not (after == image_id and self._is_last_step)
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
            self.message.emit("This was the last image. Every image is reviewed.")
            return
        answer = self.guard.check(_screen(review), self._pressed)
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
        self._watch(None if review is None else review.editor)
        self.guard.note_image()
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

    def _offer_undo(self) -> None:
        review = self._display.review
        if review is not None:
            came_from = self._given and self._given[-1][1] == review.image_id
            review.editor.undo_verdict = self.undo if came_from else None

    def _watch(self, editor: MaskEditor | LandmarkEditor | None) -> None:
        """Note whatever changes what is seen of an outline."""
        if self._watched is not None:
            self._watched.changed.disconnect(self._on_changed)
            self._watched.failed.disconnect(self._on_failed)
            for layer in (_drawn(self._watched), self._watched.image):
                layer.events.visible.disconnect(self._on_appearance)
                layer.events.opacity.disconnect(self._on_appearance)
        self._watched = editor
        if editor is not None:
            editor.changed.connect(self._on_changed)
            editor.failed.connect(self._on_failed)
            for layer in (_drawn(editor), editor.image):
                layer.events.visible.connect(self._on_appearance)
                layer.events.opacity.connect(self._on_appearance)

    def _on_changed(self, what: str) -> None:
        self.guard.note_outline()
        self._is_last_step = False
        if what in {"undo", "redo"}:
            self.cancel()

    def _on_failed(self, error: Exception) -> None:
        self.cancel()  # the outline is not the one that the annotator waited for

    def _on_appearance(self) -> None:
        self.guard.note_outline()


_NAMES = {"approve": "Approve", "no lesion": "No lesion"}
_UNFINISHED = {
    "": "",
    "polygon": "Finish the polygon first: double-click, or press Esc to discard it.",
    "stroke": "Release the mouse button first.",
}


def _drawn(editor: MaskEditor | LandmarkEditor) -> Labels | Points:
    """Return the layer that the verdict is about."""
    return editor.points if isinstance(editor, LandmarkEditor) else editor.labels


def can_undo(review: AnyReview) -> bool:
    """Whether the annotator has done anything since the image was opened."""
    editor = review.editor
    return editor.history.depth > 0 if isinstance(editor, LandmarkEditor) else editor.requests.can_undo


def _screen(review: AnyReview | None) -> Screen:
    if review is None:
        return Screen()
    if isinstance(review, LandmarkReview):
        return Screen(review.image_id, _why_hidden(review.editor), computing=review.is_computing)
    editor = review.editor
    return Screen(
        review.image_id, _why_hidden(editor), _unfinished(editor), computing=bool(editor.requests.queue)
    )


def _why_hidden(editor: MaskEditor | LandmarkEditor) -> str:
    """Return why what is to be decided about cannot be seen; empty if it can."""
    drawn, image, viewer = _drawn(editor), editor.image, editor.viewer
    layers = list(viewer.layers)
    what = "outline" if isinstance(drawn, Labels) else "layer of landmarks"
    if drawn not in layers or image not in layers:
        return f"The {what} or its image was closed. Open the image again."
    if isinstance(editor, MaskEditor) and not editor.document.layer.usable:
        return "The outline or its image was changed. Open the image again."
    above = layers[layers.index(image) + 1 :]
    if not image.visible or math.isclose(image.opacity, 0):
        return "The image is hidden. Show it first."
    is_partly_hidden = isinstance(drawn, Labels) and drawn.show_selected_label
    if not drawn.visible or math.isclose(drawn.opacity, 0) or is_partly_hidden:
        return f"The {what} is hidden. Show it first."
    if drawn not in above or any(_covers(layer) for layer in above):
        return f"Another layer covers the {what}. Hide that layer first."
    return "" if viewer.dims.ndisplay == 2 else "Return to the 2D view first."


def _covers(layer: object) -> bool:
    return isinstance(layer, Image) and layer.visible and layer.opacity > 0


def _unfinished(editor: MaskEditor) -> str:
    """Return what the annotator has begun to draw; empty if nothing."""
    if editor.requests.holding and editor.requests.queue:
        return "Outline what you collected first: choose Hold again."
    return _UNFINISHED[editor.document.layer.drawing]
