"""What the network is asked about one image: in order, one question at a time, in another thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError
from napari_lesionseg.plugin.editor import compose
from napari_lesionseg.plugin.editor.prediction_cache import AnyAnswer
from napari_lesionseg.plugin.editor.undo_history import Find, Snapshot
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.types import Box, ByteImage, Click

if TYPE_CHECKING:
    from napari_lesionseg.inference.predictor import EncodedImage, Model


@dataclass(frozen=True, slots=True)
class Request:
    """Something that takes its time.

    Parameters
    ----------
    kind : {"prediction", "click", "box", "redraw", "retract", "tool"}
        What it is; "tool" does without the network.
    depth : int
        How many steps could be undone when it was wished for.
    clicks : tuple of Click
        Clicks that it adds.
    box : Box, optional
        Where to look.
    config : PostprocessConfig, optional
        Settings to draw with.
    tool : str
        Name of a tool.
    """

    kind: Literal["prediction", "click", "box", "redraw", "retract", "tool"]
    depth: int
    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    config: PostprocessConfig | None = None
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What the network is asked about the whole image, as plain values for another thread.

    Parameters
    ----------
    model : Model or None
        The network.
    encoded : EncodedImage or None
        The image as the network keeps it; None: it has not seen it.
    image : ndarray or None
        (H, W, 3) uint8, where it has not.
    clicks : tuple of Click
        What the answer must agree with.
    before : Snapshot, optional
        The outline before the last click.
    """

    model: Model | None
    encoded: EncodedImage | None
    image: ByteImage | None
    clicks: tuple[Click, ...] = ()
    before: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the network said, and the image as it keeps it for the next question."""

    answer: AnyAnswer
    encoded: EncodedImage


def ask(question: Question) -> Reply:
    """Ask the network about the whole image; runs in another thread."""
    encoded = question.encoded
    if encoded is None:
        if question.model is None or question.image is None:
            raise ImageError("The image or the model is gone; open it again.")
        encoded = question.model.encode(question.image)
    previous = compose.previous_probability(question.before) if question.before is not None else None
    return Reply(encoded.answer(question.clicks, previous), encoded)


def look(model: Model, part: ByteImage, whole: EncodedImage | None, box: Box, window: Box) -> Find:
    """Ask the network about a part of an image; runs in another thread."""
    return Find(box, window, model.encode(part, whole).answer())


class RequestQueue:
    """The wishes that wait, and those that the network is at work on.

    Attributes
    ----------
    waiting : deque of Wish
        In the order they came.
    busy : psygnal.Signal
        Emitted with True when the network begins to work, and with False when it has finished.
    """

    busy = Signal(bool)

    def __init__(self) -> None:
        self.waiting: deque[Request] = deque()
        self._under_way: tuple[Request, ...] = ()
        self._job: Task[Any] | None = None
        self._was_busy = False

    @property
    def is_busy(self) -> bool:
        """Whether the network is at work."""
        return self._job is not None

    @property
    def clicks(self) -> list[Click]:
        """The clicks that have no answer yet."""
        return [click for request in (*self._under_way, *self.waiting) for click in request.clicks]

    @property
    def config(self) -> PostprocessConfig | None:
        """The settings that were wished for last, if any wait."""
        wanted = [request.config for request in self.waiting if request.config is not None]
        return wanted[-1] if wanted else None

    def __bool__(self) -> bool:
        return bool(self.waiting or self._under_way)

    def take_clicks(self, first: Request) -> tuple[Request, ...]:
        """Take the clicks that follow one directly, to be asked together with it."""
        pending_requests = [first]
        while self.waiting and self.waiting[0].kind == "click":
            pending_requests.append(self.waiting.popleft())
        return tuple(pending_requests)

    def send(
        self,
        pending_requests: tuple[Request, ...],
        title: str,
        function: Callable[..., Any],
        *arguments: Any,
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Let another thread work for wishes; `done` or `failed` is called when it has finished."""
        self._under_way = pending_requests
        self._job = run_task(title, function, *arguments, done=partial(self._on_done, done), failed=failed)

    def forget_last(self, depth: int) -> bool:
        """Take back what was wished for last, if no step was made since; tell whether there was anything."""
        if self.waiting and self.waiting[-1].depth >= depth:
            self.waiting.pop()
        elif self._under_way and not self.waiting and self._under_way[-1].depth >= depth:
            self.drop()
        else:
            return False
        return True

    def forget_click(self) -> bool:
        """Take the last click back if it has no answer yet; tell whether there was one."""
        if self.waiting and self.waiting[-1].kind == "click":
            self.waiting.pop()
        elif not self.waiting and self._under_way and self._under_way[-1].kind == "click":
            self.drop()
        else:
            return False
        return True

    def drop(self) -> None:
        """Let nothing come of any wish."""
        if self._job is not None:
            self._job.close()
        self._job, self._under_way = None, ()
        self.waiting.clear()
        self.tell()

    def tell(self) -> None:
        """Say whether the network is at work, if that has changed."""
        if self.is_busy != self._was_busy:
            self._was_busy = self.is_busy
            self.busy.emit(self.is_busy)

    def _on_done(self, done: Callable[[Any], None], reply: Any) -> None:
        self._job, self._under_way = None, ()
        done(reply)
