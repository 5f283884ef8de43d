"""The task behind the Segment button: images are read one by one and drawn as they are predicted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari.layers import Image
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import check_image, frames_of, image_shape, read_frame
from napari_lesionseg.plugin.segment.outlines import ImageEditors, Result
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.types import ByteImage

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import Model


MIN_WORKING_SIZE = 64


@dataclass(frozen=True)
class ModelChoice:
    """Which model to run on which device."""

    name: str | None = None  # in the model store, or the path of a model file; None: the default
    device: str = "auto"  # "cpu", "cuda" or "mps"
    working_size: int = 0  # pixels; 0: the model's own


def load(choice: ModelChoice) -> Model:
    """Load a model; runs in another thread, since PyTorch takes seconds to start."""
    from napari_lesionseg.inference.predictor import load_model

    model = load_model(choice.name, device=choice.device)
    if choice.working_size:
        model.card = model.card.model_copy(
            update={"working_size": max(choice.working_size, MIN_WORKING_SIZE)}
        )
    return model


def predict_frame(model: Model, image: ByteImage) -> Prediction:
    """Predict one image; runs in another thread."""
    return model.encode(image).predict_logits()


@dataclass
class _ImageWork:
    """An image with frames that still wait for their predictions."""

    image: Image
    shape: tuple[int, ...]
    waiting: deque[Frame]
    predictions: dict[Frame, Prediction] = field(default_factory=dict)


class SegmentTask:
    """Segments images one after the other in another thread.

    Frames are copied one at a time on the main thread, so a long stack takes the memory of one frame. After
    `cancel`, images that are done stay, and the current one is not changed. `progressed` is emitted with
    (frames done, frames in all, name of the current image), `finished` once with the task.
    """

    progressed = Signal(int, int, str)
    finished = Signal(object)

    def __init__(self, editors: ImageEditors, images: Sequence[Image], config: PostprocessConfig) -> None:
        self.done: list[Image] = []
        self.errors: list[LesionSegError] = []
        self.cancelled = False
        self.choice = ModelChoice()
        self.model: Model | None = None
        self.config = config
        self._editors = editors
        self._frames_done = 0
        self._task: Task[Model] | Task[Prediction] | None = None
        self._queue = deque(work for image in images if (work := self._prepare(image)) is not None)
        self.frames = sum(len(work.waiting) for work in self._queue)

    def start(self, choice: ModelChoice, model: Model | None = None) -> None:
        """Start, with the model of the choice if it is loaded already."""
        self.choice = choice
        if model is not None or not self._queue:
            self._on_loaded(model)
            return
        self.progressed.emit(0, self.frames, "")
        self._task = run_task(
            "loading the model", load, choice, done=self._on_loaded, failed=self._on_load_failed
        )

    def cancel(self) -> None:
        """Stop after the current frame, which cannot be interrupted."""
        self.cancelled = True

    def close(self) -> None:
        """Cancel, and emit nothing more."""
        self.cancelled = True
        self._queue.clear()
        if self._task is not None:
            self._task.close()

    def _prepare(self, image: Image) -> _ImageWork | None:
        try:
            check_image(image)
        except LesionSegError as error:
            self.errors.append(error)
            return None
        return _ImageWork(image, image_shape(image), deque(frames_of(image)))

    def _on_loaded(self, model: Model | None) -> None:
        self.model = model
        self._next()

    def _on_load_failed(self, error: Exception) -> None:
        self._queue.clear()
        self._keep(error)
        self.finished.emit(self)

    def _next(self) -> None:
        """Start the next frame, or finish."""
        while self._queue and not self.cancelled:
            work = self._queue[0]
            if not self._has(work.image):
                self._remove_current()
                continue
            self.progressed.emit(self._frames_done, self.frames, work.image.name)
            try:
                self._editors.check(work.image, work.shape)
                image = read_frame(work.image, work.waiting[0])
            except LesionSegError as error:
                self._skip(error)
                continue
            self._task = run_task(
                f"outlining {work.image.name}",
                predict_frame,
                self.model,
                image,
                done=self._on_predicted,
                failed=self._on_failed,
            )
            return
        self._queue.clear()
        self.finished.emit(self)

    def _on_predicted(self, prediction: Prediction) -> None:
        if not self.cancelled:
            work = self._queue[0]
            work.predictions[work.waiting.popleft()] = prediction
            self._frames_done += 1
            if not work.waiting:
                self._complete(self._queue.popleft())
        self._next()

    def _on_failed(self, error: Exception) -> None:
        self._skip(error)
        self._next()

    def _skip(self, error: Exception) -> None:
        self._remove_current()
        self._keep(error)

    def _has(self, image: Image) -> bool:
        return image in self._editors.images()

    def _remove_current(self) -> None:
        """Remove the current image, and count its frames as done."""
        self._frames_done += len(self._queue.popleft().waiting)

    def _complete(self, work: _ImageWork) -> None:
        if not self._has(work.image):
            return  # the user closed it, and needs no message
        try:
            result = Result(work.predictions, self.model, self.config)
            self._editors.accept(work.image, work.shape, result)
        except LesionSegError as error:
            self.errors.append(error)
        else:
            self.done.append(work.image)

    def _keep(self, error: Exception) -> None:
        """Keep errors meant for the user; napari has shown the traceback of any other."""
        if isinstance(error, LesionSegError):
            self.errors.append(error)
