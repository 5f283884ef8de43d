"""One press of the Segment button: images read one by one, outlined in a thread, drawn as they arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari.layers import Image
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import check_image, frames_of, image_shape, read_frame
from napari_lesionseg.plugin.segment.outlines import Result, Session
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.types import ByteImage, LabelImage

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import Model


SMALLEST_WORKING_SIZE = 64


@dataclass(frozen=True)
class ModelChoice:
    """Which model is to run where.

    Parameters
    ----------
    name : str or None
        Name in the model store, or path of a model file; None for the default.
    device : str
        "auto", "cpu", "cuda" or "mps".
    working_size : int
        Side in pixels at which the network looks at images; 0 for the model's own.
    """

    name: str | None = None
    device: str = "auto"
    working_size: int = 0


def load(choice: ModelChoice) -> Model:
    """Load a model; to be called in a worker, where the seconds that PyTorch takes to start hurt nobody."""
    from napari_lesionseg.inference.predictor import load_model

    model = load_model(choice.name, device=choice.device)
    if choice.working_size:
        model.card = model.card.model_copy(
            update={"working_size": max(choice.working_size, SMALLEST_WORKING_SIZE)}
        )
    return model


@dataclass(frozen=True, slots=True)
class Drawn:
    """One frame, outlined: the network's answer, the mask made of it, and by which model."""

    prediction: Prediction
    mask: LabelImage
    model: str
    model_threshold: float


def outline_frame(model: Model, image: ByteImage, config: PostprocessConfig) -> Drawn:
    """Outline one image; to be called in a worker.

    Parameters
    ----------
    model : Model
        The network.
    image : ndarray
        (H, W, 3) uint8.
    config : PostprocessConfig
        How the mask is made.

    Returns
    -------
    Drawn
        The answer and the mask, (H, W) uint8.
    """
    prediction = model.encode(image).predict_logits()
    mask = prediction.to_mask(config, resolve_threshold(None, config, model.card.threshold))
    return Drawn(prediction, mask, model.card.name, model.card.threshold)


@dataclass
class _Work:
    """An image in the making."""

    image: Image
    shape: tuple[int, ...]
    waiting: deque[Frame]
    drawn: dict[Frame, Drawn] = field(default_factory=dict)

    def result(self, config: PostprocessConfig) -> Result:
        """All frames together."""
        last = next(reversed(self.drawn.values()))
        return Result(
            predictions={frame: drawn.prediction for frame, drawn in self.drawn.items()},
            masks={frame: drawn.mask for frame, drawn in self.drawn.items()},
            model=last.model,
            model_threshold=last.model_threshold,
            config=config,
        )


class SegmentRun:
    """Outline images one after the other without holding up the viewer.

    Frames are copied one at a time on the main thread, so a long stack takes the memory of one frame. What is
    done when the user cancels stays; the image at work stays as it was.

    Parameters
    ----------
    session : Session
        Where the outlines go.
    images : sequence of napari.layers.Image
        What to outline.
    config : PostprocessConfig
        How the masks are made.

    Attributes
    ----------
    progressed : psygnal.Signal
        Emitted with (frames done, frames in all, name of the image at work).
    finished : psygnal.Signal
        Emitted once with the run, whether all went well, some images failed, or it was cancelled.
    """

    progressed = Signal(int, int, str)
    finished = Signal(object)

    def __init__(self, session: Session, images: Sequence[Image], config: PostprocessConfig) -> None:
        self.done: list[Image] = []
        self.errors: list[LesionSegError] = []
        self.cancelled = False
        self.choice = ModelChoice()
        self.model: Model | None = None
        self.config = config
        self._session = session
        self._frames_done = 0
        self._job: Task[Model] | Task[Drawn] | None = None
        self._queue = deque(work for image in images if (work := self._prepare(image)) is not None)
        self.frames = sum(len(work.waiting) for work in self._queue)

    def start(self, choice: ModelChoice, model: Model | None = None) -> None:
        """Begin; with a model that was loaded before, if it is the one of the choice."""
        self.choice = choice
        if model is not None or not self._queue:
            self._on_loaded(model)
            return
        self.progressed.emit(0, self.frames, "")
        self._job = run_task(
            "loading the model", load, choice, done=self._on_loaded, failed=self._on_load_failed
        )

    def cancel(self) -> None:
        """Stop after the frame at work, which cannot be interrupted."""
        self.cancelled = True

    def abandon(self) -> None:
        """Let nothing come of the run any more, because the window has gone."""
        self.cancelled = True
        self._queue.clear()
        if self._job is not None:
            self._job.close()

    def _prepare(self, image: Image) -> _Work | None:
        try:
            check_image(image)
        except LesionSegError as error:
            self.errors.append(error)
            return None
        return _Work(image, image_shape(image), deque(frames_of(image)))

    def _on_loaded(self, model: Model | None) -> None:
        self.model = model
        self._next()

    def _on_load_failed(self, error: Exception) -> None:
        self._queue.clear()
        self._note(error)
        self.finished.emit(self)

    def _next(self) -> None:
        """Start on the next frame, or end."""
        while self._queue and not self.cancelled:
            work = self._queue[0]
            if not self._session.has(work.image):
                self._leave()
                continue
            self.progressed.emit(self._frames_done, self.frames, work.image.name)
            try:
                self._session.check(work.image, work.shape)
                image = read_frame(work.image, work.waiting[0])
            except LesionSegError as error:
                self._give_up(error)
                continue
            self._job = run_task(
                f"outlining {work.image.name}",
                outline_frame,
                self.model,
                image,
                self.config,
                done=self._on_outlined,
                failed=self._on_failed,
            )
            return
        self._queue.clear()
        self.finished.emit(self)

    def _on_outlined(self, drawn: Drawn) -> None:
        if not self.cancelled:
            work = self._queue[0]
            work.drawn[work.waiting.popleft()] = drawn
            self._frames_done += 1
            if not work.waiting:
                self._complete(self._queue.popleft())
        self._next()

    def _on_failed(self, error: Exception) -> None:
        self._give_up(error)
        self._next()

    def _give_up(self, error: Exception) -> None:
        self._leave()
        self._note(error)

    def _leave(self) -> None:
        """Leave the image at work and count its frames as dealt with."""
        self._frames_done += len(self._queue.popleft().waiting)

    def _complete(self, work: _Work) -> None:
        if not self._session.has(work.image):
            return  # closed by the user, who needs no telling
        try:
            self._session.accept(work.image, work.shape, work.result(self.config))
        except LesionSegError as error:
            self.errors.append(error)
        else:
            self.done.append(work.image)

    def _note(self, error: Exception) -> None:
        """Keep errors with a sentence for the user; of any other napari has shown the traceback."""
        if isinstance(error, LesionSegError):
            self.errors.append(error)
