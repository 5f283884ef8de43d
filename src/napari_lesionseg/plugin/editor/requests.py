"""Requests that take time: in order, one at a time, in another thread, on plain values.

Clicks and scribbles made while the network works wait and are sent together. Results of what was undone,
replaced or closed in the meantime are discarded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError, ModelNotFoundError
from napari_lesionseg.plugin.editor import compose
from napari_lesionseg.plugin.editor.document import MaskDocument
from napari_lesionseg.plugin.editor.undo_history import Snapshot
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.types import NO_PROMPTS, ByteImage, LabelImage, Prompts, Stroke

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import EncodedImage, Model
    from napari_lesionseg.plugin.editor.tools import MaskEdit

NO_MODEL = "Choose a model first: clicks and boxes need one, the other tools do not."


@dataclass(frozen=True, slots=True)
class _Request:
    """Something to be done in another thread; "edit" does not need the network."""

    kind: Literal["predict", "stroke", "area", "redraw", "remove_stroke", "edit"]
    depth: int  # of the undo history when it was submitted
    strokes: tuple[Stroke, ...] = ()  # to be added
    area: Prompts = NO_PROMPTS  # a box or a lasso
    adds: bool = False  # what is found there to the outline; else it replaces the outline
    config: PostprocessConfig | None = None
    edit: MaskEdit | None = None

    @property
    def needs_prediction(self) -> bool:
        """Whether it builds on the prediction that the mask came from."""
        return self.kind not in {"predict", "edit"} and (self.kind != "area" or self.adds)


def predict(
    model: Model, image: EncodedImage | ByteImage, prompts: Prompts, before: Snapshot | None
) -> tuple[Prediction, EncodedImage]:
    """Predict the whole image, encoded for the next time, from the mask `before`; runs in another thread."""
    encoded = model.encode(image) if isinstance(image, np.ndarray) else image
    previous = None if before is None else compose.previous_probability(before)
    return encoded.predict_logits(prompts, previous), encoded


def own_threshold(model: Model | None) -> float:
    """Return the threshold of a model's card."""
    return model.card.threshold if model is not None else 0.5


class RequestQueue:
    """The requests that wait, and those in progress."""

    busy = Signal(bool)

    def __init__(self) -> None:
        self.waiting: deque[_Request] = deque()
        self._in_progress: tuple[_Request, ...] = ()
        self._task: Task[Any] | None = None
        self._was_busy = False

    @property
    def is_busy(self) -> bool:
        """Whether a request is in progress."""
        return self._task is not None

    @property
    def prompts(self) -> Prompts:
        """What has no prediction yet: all strokes, and the last box or lasso."""
        requests = (*self._in_progress, *self.waiting)
        strokes = tuple(stroke for request in requests for stroke in request.strokes)
        areas = [request.area for request in requests if request.area.has_area]
        return replace(areas[-1] if areas else NO_PROMPTS, strokes=strokes)

    @property
    def _last(self) -> _Request | None:
        """The request that was made last, if any has no result yet."""
        return [None, *self._in_progress, *self.waiting][-1]

    def __bool__(self) -> bool:
        return self._last is not None

    def take_strokes(self, first: _Request) -> tuple[_Request, ...]:
        """Take the strokes that directly follow a request, to be sent together."""
        taken = [first]
        while self.waiting and self.waiting[0].kind == "stroke":
            taken.append(self.waiting.popleft())
        return tuple(taken)

    def start(
        self,
        requests: tuple[_Request, ...],
        title: str,
        function: Callable[[], Any],
        *,
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Run a function for requests in another thread; then `done` or `failed` is called."""
        self._in_progress = requests
        self._task = run_task(title, function, done=partial(self._on_done, done), failed=failed)

    def put_back(self) -> None:
        """Let what is in progress wait again, to be sent once more."""
        if self._task is not None:
            self._task.close()
        self.waiting.extendleft(reversed(self._in_progress))
        self._task, self._in_progress = None, ()

    def cancel_last(self, depth: int) -> bool:
        """Cancel the last request, unless a step was recorded since; return whether there was one.

        Strokes that were sent together with it wait to be sent again.
        """
        last = self._last
        if last is None or last.depth < depth:
            return False
        if not self.waiting:
            self.put_back()
        self.waiting.pop()
        return True

    def rebase(self, before: int, after: int) -> None:
        """Put what waits above the step that an earlier request has just recorded: it is undone first."""
        rebased = (replace(one, depth=after) if one.depth == before else one for one in self.waiting)
        self.waiting = deque(rebased)

    def cancel_last_stroke(self) -> bool:
        """Cancel the last request if it is a stroke; return whether it was."""
        return self._last is not None and self._last.kind == "stroke" and self.cancel_last(0)

    def cancel(self) -> None:
        """Cancel all requests."""
        if self._task is not None:
            self._task.close()
        self._task, self._in_progress = None, ()
        self.waiting.clear()
        self.report_busy()

    def report_busy(self) -> None:
        """Emit `busy` if it has changed."""
        if self.is_busy != self._was_busy:
            self._was_busy = self.is_busy
            self.busy.emit(self.is_busy)

    def _on_done(self, done: Callable[[Any], None], result: Any) -> None:
        self._task, self._in_progress = None, ()
        done(result)


class PredictionRequests:
    """Sends requests about the image being edited, and applies their results to its document."""

    failed = Signal(Exception)
    noted = Signal(str)

    def __init__(self, document: MaskDocument, image: Image, model: Model | None) -> None:
        self.document, self.image, self.model = document, image, model
        self.encoded: EncodedImage | None = None
        self.queue = RequestQueue()
        self.holding = False  # whether prompts are collected before the network runs

    @property
    def can_undo(self) -> bool:
        """Whether a request can be cancelled, or a step undone."""
        return bool(self.queue) or self.document.can_undo

    @property
    def config(self) -> PostprocessConfig:
        """The current settings, or those that wait for a prediction."""
        waiting = [request.config for request in self.queue.waiting if request.config is not None]
        return waiting[-1] if waiting else self.document.snapshot.config

    def set_model(self, model: Model | None) -> None:
        """Use another model from now on; the mask stays."""
        if model is not self.model:
            self.queue.cancel()
            self.model, self.encoded = model, None

    def hold(self, holding: bool) -> None:
        """Collect prompts from now on, or run the network with those that were collected."""
        self.holding = holding
        self.start_next()

    def discard_encoding(self) -> None:
        """Encode the image again for the next prediction."""
        self.encoded = None

    def submit(self, kind: Any, strokes: tuple[Stroke, ...] = (), **details: Any) -> None:
        """Add a request; the keyword arguments are the fields of `_Request`."""
        if self.model is None and kind != "edit":
            self.failed.emit(ModelNotFoundError(NO_MODEL))
            return
        self.queue.waiting.append(_Request(kind, self.document.history.depth, strokes, **details))
        self.start_next()
        self._show_pending()

    def cancel(self) -> None:
        """Cancel everything."""
        self.queue.cancel()
        self.document.pending = NO_PROMPTS

    def cancel_last(self, *, stroke: bool = False) -> bool:
        """Cancel the last request, unless a step was recorded since, or only if it is a stroke.

        Return whether there was one.
        """
        queue = self.queue
        cancelled = queue.cancel_last_stroke() if stroke else queue.cancel_last(self.document.history.depth)
        if cancelled:
            self.start_next()
            self._show_pending()
        return cancelled

    def predict(
        self,
        requests: tuple[_Request, ...],
        prompts: Prompts,
        apply: Callable[[Prediction], None],
        before: Snapshot | None = None,
    ) -> None:
        """Predict the whole image for requests, and apply the prediction."""
        if self.model is None:
            raise ModelNotFoundError(NO_MODEL)
        image = read_frame(self.image, ()) if self.encoded is None else self.encoded

        def remember(result: tuple[Prediction, EncodedImage]) -> None:
            prediction, self.encoded = result
            apply(prediction)

        self.run(requests, partial(predict, self.model, image, prompts, before), remember)

    def run(
        self, requests: tuple[_Request, ...], function: Callable[[], Any], apply: Callable[[Any], None]
    ) -> None:
        """Run a function for requests, and apply its result."""
        done = partial(self._on_done, apply)
        self.queue.start(
            requests, f"outlining {self.image.name}", function, done=done, failed=self._on_failed
        )

    def start_next(self) -> None:
        """Start the next request, if none is in progress."""
        queue = self.queue
        while not queue.is_busy and queue.waiting and self.document.layer.usable and not self.holding:
            now = self.document.snapshot
            try:
                if queue.waiting[0].needs_prediction and now.prediction is None and now.mask.any():
                    # The mask was restored: which of its pixels differ from the model's prediction?
                    self.predict((), replace(now.area, strokes=now.strokes), partial(_learn_prediction, self))
                else:
                    request = queue.waiting.popleft()
                    _STARTERS[request.kind](self, request)
            except LesionSegError as error:
                self._on_failed(error)
        queue.report_busy()

    def _on_done(self, apply: Callable[[Any], None], result: Any) -> None:
        if not self.document.layer.usable:
            self.cancel()
            return
        self.document.record_painting()
        self.document.pending = self.queue.prompts
        depth = self.document.history.depth
        apply(result)
        self.queue.rebase(depth, self.document.history.depth)
        self._show_pending()
        self.start_next()

    def _on_failed(self, error: Exception) -> None:
        self.cancel()
        if self.document.layer.usable:
            self._show_pending()
        self.failed.emit(error)

    def _show_pending(self) -> None:
        self.document.show_pending(self.queue.prompts)


def _learn_prediction(requests: PredictionRequests, prediction: Prediction) -> None:
    document = requests.document
    document.history.amend(
        compose.with_prediction(document.snapshot, prediction, own_threshold(requests.model))
    )


def _start_prediction(requests: PredictionRequests, request: _Request) -> None:
    document, before = requests.document, requests.document.snapshot

    def apply(prediction: Prediction) -> None:
        document.draw_prediction(prediction, before, own_threshold(requests.model))

    requests.predict((request,), NO_PROMPTS, apply)


def _start_strokes(requests: PredictionRequests, first: _Request) -> None:
    """Predict with a stroke and those that directly follow it."""
    document, now = requests.document, requests.document.snapshot
    taken = requests.queue.take_strokes(first)
    strokes = tuple(stroke for request in taken for stroke in request.strokes)

    def apply(prediction: Prediction) -> None:
        document.redraw(compose.with_strokes(document.snapshot, strokes, prediction), "click")

    requests.predict(taken, replace(now.area, strokes=(*now.strokes, *strokes)), apply, before=now)


def _start_area(requests: PredictionRequests, request: _Request) -> None:
    """Predict what a box or lasso encloses, with the strokes that directly follow it."""
    document = requests.document
    taken = (request,) if request.adds else requests.queue.take_strokes(request)
    strokes = tuple(stroke for more in taken[1:] for stroke in more.strokes)

    def apply(found: Prediction) -> None:
        now = document.snapshot
        if request.adds:
            then = replace(now, added=(*now.added, found))
        else:
            then = compose.with_area(now, found, strokes)
        document.redraw(then, "lasso" if request.area.lasso else "box")

    requests.predict(taken, replace(request.area, strokes=strokes), apply)


def _start_removing_stroke(requests: PredictionRequests, request: _Request) -> None:
    document = requests.document
    if not document.snapshot.strokes:
        return

    def apply(prediction: Prediction) -> None:
        if document.snapshot.strokes:
            then = compose.without_last_stroke(document.snapshot)
            then = replace(then, predictions=(*then.predictions[:-1], prediction))
            document.redraw(then, "click")

    rest = compose.without_last_stroke(document.snapshot)
    requests.predict((request,), replace(rest.area, strokes=rest.strokes), apply)


def _start_edit(requests: PredictionRequests, request: _Request) -> None:
    document, edit, before = requests.document, request.edit, requests.document.snapshot
    if edit is None:
        return

    def apply(mask: LabelImage) -> None:
        if not document.apply_mask(mask, before, manual=not edit.reshapes):
            requests.noted.emit(edit.no_effect)

    image = read_frame(requests.image, ()) if edit.uses_image else None
    requests.run((request,), partial(edit.run, before.mask, document.active_class, image), apply)


def _redraw(requests: PredictionRequests, request: _Request) -> None:
    if request.config is not None:
        then = replace(requests.document.snapshot, config=request.config)
        requests.document.redraw(then, "threshold", merge=True)


_STARTERS: Mapping[str, Callable[[PredictionRequests, _Request], None]] = {
    "predict": _start_prediction,
    "stroke": _start_strokes,
    "area": _start_area,
    "remove_stroke": _start_removing_stroke,
    "edit": _start_edit,
    "redraw": _redraw,
}
