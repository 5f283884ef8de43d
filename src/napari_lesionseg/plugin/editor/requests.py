"""The conversation with the network about the image being corrected: what is asked, what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_lesionseg.errors import LesionSegError, ModelNotFoundError
from napari_lesionseg.plugin.editor import compose
from napari_lesionseg.plugin.editor.document import MaskDocument
from napari_lesionseg.plugin.editor.request_queue import Question, Reply, Request, RequestQueue, ask, look
from napari_lesionseg.plugin.editor.tools import RESHAPING, apply_to_mask
from napari_lesionseg.plugin.editor.undo_history import Find, Snapshot
from napari_lesionseg.types import Click, LabelImage

if TYPE_CHECKING:
    from napari_lesionseg.inference.predictor import EncodedImage, Model

NO_MODEL = "Choose a model first; without one the brushes and tools work, clicks and boxes do not."


class Conversation:
    """Asks the network in another thread, one question at a time, and draws its answers.

    Tools that take their time wait in the same line, so that everything comes in the order it was done.

    Parameters
    ----------
    correction : Correction
        What the answers are drawn into.
    title : callable
        Names the image.
    model : Model or None
        The network.

    Attributes
    ----------
    encoded : EncodedImage or None
        The image as the network keeps it; None: it has not seen it.
    errands : Errands
        What waits, and what is under way.
    failed : psygnal.Signal
        Emitted with the exception when something could not be done.
    """

    failed = Signal(Exception)

    def __init__(self, correction: MaskDocument, title: Callable[[], str], model: Model | None) -> None:
        self._correction, self._title, self._model = correction, title, model
        self.encoded: EncodedImage | None = None
        self.requests = RequestQueue()
        correction.unanswered = lambda: self.requests.clicks

    @property
    def model(self) -> Model | None:
        """The network that is asked."""
        return self._model

    @model.setter
    def model(self, model: Model | None) -> None:
        self.requests.drop()
        self._model, self.encoded = model, None

    @property
    def level(self) -> float:
        """The threshold of the model's own."""
        return self._model.card.threshold if self._model is not None else 0.5

    def want(self, kind: Any, clicks: tuple[Click, ...] = (), **more: Any) -> None:
        """Wish for something; see `Request`."""
        if self._model is None and kind != "tool":
            self.failed.emit(ModelNotFoundError(NO_MODEL))
            return
        self.requests.waiting.append(Request(kind, self._correction.history.depth, clicks, **more))
        self._go_on()
        self._correction.show_clicks()

    def forget_last(self) -> bool:
        """Take back what was asked last, if nothing else was done since; tell whether there was anything."""
        forgotten = self.requests.forget_last(self._correction.history.depth)
        if forgotten:
            self._correction.show_clicks()
        return forgotten

    def forget_click(self) -> bool:
        """Take back the last click if it has no answer yet; tell whether there was one."""
        forgotten = self.requests.forget_click()
        if forgotten:
            self._correction.show_clicks()
        return forgotten

    @property
    def _now(self) -> Snapshot:
        return self._correction.now

    def _go_on(self) -> None:
        """Ask the next question, if the network is free and there is one."""
        while not self.requests.is_busy and self.requests.waiting and self._correction.layer.usable:
            try:
                self._start()
            except LesionSegError as error:
                self._on_failed(error)
        self.requests.tell()

    def _start(self) -> None:
        waiting = self.requests.waiting
        whole = waiting[0].kind in {"prediction", "tool"}
        if not whole and self._now.answer is None and self._now.mask.any():
            # A restored outline: what of it is the network's is learnt first.
            self._send((), ask, self._question(self._now.clicks), done=self._on_learnt)
            return
        request = waiting.popleft()
        if request.kind == "prediction":
            self._send((request,), ask, self._question(()), done=partial(self._on_predicted, self._now))
        elif request.kind == "click":
            self._start_clicks(request)
        elif request.kind == "box":
            self._start_box(request)
        elif request.kind == "retract":
            self._start_retract(request)
        elif request.kind == "tool":
            self._start_tool(request)
        elif request.config is not None:
            self._correction.redraw(replace(self._now, config=request.config), "threshold", merge=True)

    def _start_clicks(self, first: Request) -> None:
        """Ask about a click, together with those that follow it directly."""
        pending_requests = self.requests.take_clicks(first)
        groups = [request.clicks for request in pending_requests]
        clicks = (*self._now.clicks, *(click for group in groups for click in group))
        question = self._question(clicks, self._now)
        self._send(pending_requests, ask, question, done=partial(self._on_clicked, groups))

    def _start_box(self, request: Request) -> None:
        box = request.box
        if box is None:
            return
        window = compose.with_margin(box, (self._now.mask.shape[0], self._now.mask.shape[1]))
        part = self._correction.read_image()[window.top : window.bottom, window.left : window.right].copy()
        self._send((request,), look, self._model, part, self.encoded, box, window, done=self._on_found)

    def _start_retract(self, request: Request) -> None:
        if not self._now.groups:
            return
        remaining = compose.without_last_click(self._now).clicks
        self._send((request,), ask, self._question(remaining), done=self._on_retracted)

    def _start_tool(self, request: Request) -> None:
        now, correction = self._now, self._correction
        image = correction.read_image() if request.tool == "snap" else None
        arguments = (request.tool, now.mask, correction.active_class, lambda: image)
        self._send((request,), apply_to_mask, *arguments, done=partial(self._on_tool, request.tool, now))

    def _question(self, clicks: tuple[Click, ...], before: Snapshot | None = None) -> Question:
        image = self._correction.read_image() if self.encoded is None else None
        return Question(self._model, self.encoded, image, clicks, before)

    def _send(
        self,
        pending_requests: tuple[Request, ...],
        function: Any,
        *arguments: Any,
        done: Callable[[Any], None],
    ) -> None:
        self.requests.send(
            pending_requests,
            f"outlining {self._title()}",
            function,
            *arguments,
            done=partial(self._on_reply, done),
            failed=self._on_failed,
        )

    def _on_reply(self, done: Callable[[Any], None], reply: Any) -> None:
        if not self._correction.layer.usable:
            self.requests.drop()
            return
        self._correction.take_notice()
        if isinstance(reply, Reply):
            self.encoded = reply.encoded
        done(reply)
        self._go_on()

    def _on_failed(self, error: Exception) -> None:
        self.requests.drop()
        if self._correction.layer.usable:
            self._correction.show_clicks()
        self.failed.emit(error)

    def _on_learnt(self, reply: Reply) -> None:
        self._correction.history.amend(compose.learnt(self._now, reply.answer, self.level))

    def _on_predicted(self, asked_at: Snapshot, reply: Reply) -> None:
        self._correction.draw_prediction(reply.answer, asked_at, level=self.level)

    def _on_clicked(self, groups: list[tuple[Click, ...]], reply: Reply) -> None:
        self._correction.redraw(compose.with_clicks(self._now, groups, reply.answer), "click")

    def _on_retracted(self, reply: Reply) -> None:
        if not self._now.groups:
            return
        then = compose.without_last_click(self._now)
        self._correction.redraw(replace(then, answers=(*then.answers[:-1], reply.answer)), "click")

    def _on_found(self, find: Find) -> None:
        self._correction.redraw(replace(self._now, finds=(*self._now.finds, find)), "box")

    def _on_tool(self, name: str, asked_at: Snapshot, mask: LabelImage) -> None:
        self._correction.reshape(mask, asked_at, by_hand=name not in RESHAPING)
