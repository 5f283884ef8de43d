"""Run a model on many images: one after the other on a CPU, several at once on a GPU.

There several images take little longer than one, and threads read and finish others while it computes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.errors import DeviceError, LesionSegError
from napari_lesionseg.inference.device import (
    DeviceModel,
    available_cores,
    describe_device,
    empty_cache,
    is_out_of_memory,
)
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.inference.predictor import TOO_LITTLE_MEMORY, Model, average_quarter_turns
from napari_lesionseg.types import ByteImage, Probability

Task = TypeVar("Task")
Kept = TypeVar("Kept")
Result = TypeVar("Result")

LARGEST_BATCH = 32
READ_AHEAD, OUTSTANDING = 2, 4
"""Batches of images that are read ahead, and that may wait for others of their shape: both need memory."""
BYTES_PER_PIXEL = 4096
"""Memory that a network needs for each pixel it sees; the shipped one needs less than half of it."""
USABLE = 0.5  # share of the free memory: other programs use the GPU as well


class Predicts(Protocol):
    """A model, or whatever else gives probabilities for an image."""

    def predict(self, image: ByteImage) -> Probability:
        """Return the probability of the lesion, (H, W), or of C classes, (C, H, W)."""
        ...


def default_batch_size(model: Predicts) -> int:
    """Return how many images to predict at once: what fits into the memory of an NVIDIA GPU; 1 elsewhere."""
    # On the CPU, batches bring nothing: `benchmarks/scale.py`.
    if not isinstance(model, Model) or model.device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(model.device)
    # What torch keeps for reuse is not free for others, but for the next batch.
    free += torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    fitting = int(USABLE * free / (BYTES_PER_PIXEL * model.card.working_size**2))
    return max(1, min(LARGEST_BATCH, 1 << max(0, fitting.bit_length() - 1)))


@dataclass(frozen=True, slots=True)
class ImageWork(Generic[Task, Kept, Result]):
    """What to do with each of many images besides predicting it; all of it may run in other threads."""

    read: Callable[[Task], tuple[ByteImage, Kept]]
    """Return the image (H, W, 3), and what `finish` needs of the task."""
    finish: Callable[[Task, Kept, Probability, str], Result]
    """Make the result; the text says what went wrong without stopping it, such as a GPU short of memory."""
    failed: Callable[[Task, LesionSegError | OSError], Result]
    """Make the result of an image that cannot be read, predicted or finished."""


def predict_images(
    model: Predicts,
    tasks: Iterable[Task],
    work: ImageWork[Task, Kept, Result],
    batch_size: int | None = None,
) -> Iterator[Result]:
    """Predict many images; yield the results in the order of the tasks, as soon as they are known."""
    size = batch_size or default_batch_size(model)
    if isinstance(model, Model) and size > 1:
        return _Batches(model, work, size).results(tasks)
    return (_predict_alone(model, task, work) for task in tasks)


def _predict_alone(model: Predicts, task: Task, work: ImageWork[Task, Kept, Result]) -> Result:
    try:
        image, kept = work.read(task)
        return work.finish(task, kept, model.predict(image), "")
    except (LesionSegError, OSError) as error:
        return work.failed(task, error)


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Task, Kept, Result]):
    """An image that was read and waits for the network."""

    task: Task
    kept: Kept
    shape: tuple[int, int]
    expert: DeviceModel
    planes: Tensor  # (1, 3, h, w)
    result: Future[Result] | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What the images of a batch have in common."""
        return self.planes.shape, id(self.expert.network)


class _Batches(Generic[Task, Kept, Result]):
    """Predicts images in batches: those that the network sees at the same size share one."""

    def __init__(self, model: Model, work: ImageWork[Task, Kept, Result], size: int) -> None:
        self._model, self._work = model, work
        self._predictor = BatchPredictor(model, size)
        self._groups: dict[tuple[object, ...], list[_Waiting[Task, Kept, Result]]] = {}

    def results(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results in the order of the tasks."""
        order: deque[_Waiting[Task, Kept, Result] | Future[Result]] = deque()
        size = self._predictor.size
        with ThreadPoolExecutor(available_cores(), "images") as self._pool:
            try:
                for read in self._read_ahead(iter(tasks), READ_AHEAD * size):
                    order.append(read)
                    if isinstance(read, _Waiting):
                        self._add(read)
                    while order and (_is_done(order[0]) or len(order) > OUTSTANDING * size):
                        yield self._result(order.popleft())
                yield from map(self._result, order)
            finally:
                self._pool.shutdown(cancel_futures=True)

    def _read_ahead(
        self, tasks: Iterator[Task], ahead: int
    ) -> Iterator[_Waiting[Task, Kept, Result] | Future[Result]]:
        """Yield the images in order, while threads read the next ones."""
        reading: deque[Future[_Waiting[Task, Kept, Result] | Future[Result]]] = deque()
        while True:
            for task in itertools.islice(tasks, ahead - len(reading)):
                reading.append(self._pool.submit(self._read, task))
            if not reading:
                return
            yield reading.popleft().result()

    def _read(self, task: Task) -> _Waiting[Task, Kept, Result] | Future[Result]:
        try:
            image, kept = self._work.read(task)
            planes = self._model.network_input(image)
            expert = self._predictor.expert_of(planes)
            return _Waiting(task, kept, (image.shape[0], image.shape[1]), expert, planes)
        except (LesionSegError, OSError) as error:
            return self._failed(task, error)

    def _failed(self, task: Task, error: LesionSegError | OSError) -> Future[Result]:
        failed: Future[Result] = Future()
        failed.set_result(self._work.failed(task, error))
        return failed

    def _add(self, image: _Waiting[Task, Kept, Result]) -> None:
        group = self._groups.setdefault(image.key, [])
        group.append(image)
        if len(group) >= self._predictor.size:
            self._predict(self._groups.pop(image.key))

    def _result(self, image: _Waiting[Task, Kept, Result] | Future[Result]) -> Result:
        """Wait for a result; an image of a rare shape is predicted though its batch is not full."""
        if isinstance(image, Future):
            return image.result()
        if image.result is None:
            self._predict(self._groups.pop(image.key))
        return cast("Future[Result]", image.result).result()

    def _predict(self, images: list[_Waiting[Task, Kept, Result]]) -> None:
        planes = torch.cat([image.planes for image in images])
        try:
            logits, messages = self._predictor.predict(images[0].expert, planes)
        except LesionSegError as error:
            for image in images:
                image.result = self._failed(image.task, error)
            return
        for image, own, message in zip(images, logits, messages, strict=True):
            image.result = self._pool.submit(self._finish, image, own, message)

    def _finish(
        self, image: _Waiting[Task, Kept, Result], logits: NDArray[np.float32], message: str
    ) -> Result:
        try:
            probability = Prediction(logits, image.shape).probability()
            return self._work.finish(image.task, image.kept, probability, message)
        except (LesionSegError, OSError) as error:
            return self._work.failed(image.task, error)


def _is_done(image: _Waiting[Task, Kept, Result] | Future[Result]) -> bool:
    result = image.result if isinstance(image, _Waiting) else image
    return result is not None and result.done()


class BatchPredictor:
    """Predicts images of one working shape at once, without prompts.

    If a GPU runs out of memory, batches are halved from then on; an image for which even that is too much is
    predicted on the CPU.
    """

    def __init__(self, model: Model, size: int) -> None:
        self._model, self.size = model, size
        self._on_cpu: DeviceModel | None = None

    @torch.inference_mode()  # of this thread: torch keeps the mode per thread
    def expert_of(self, planes: Tensor) -> DeviceModel:
        """Return the part of the model for an image (1, 3, h, w), which all images of a batch share."""
        try:
            return self._model.device_model.for_image(planes)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return self._cpu().for_image(planes)

    def predict(self, expert: DeviceModel, planes: Tensor) -> tuple[NDArray[np.float32], list[str]]:
        """Return the logits (B, C, h, w) of images (B, 3, h, w), and for each what went wrong, or nothing."""
        parts, messages = [], []
        while len(planes):
            part, message = planes[: self.size], ""
            logits = self._attempt(expert, part)
            if logits is None and self.size > 1:
                self.size = max(1, len(part) // 2)
                continue
            if logits is None and expert.device.type != "cpu":
                device = describe_device(expert.device)
                message = f"{device} ran out of memory; this image was outlined on the CPU."
                logits = self._attempt(self._cpu().for_image(part), part)
            if logits is None:
                raise DeviceError(TOO_LITTLE_MEMORY)
            parts.append(logits)
            messages += [message] * len(part)
            planes = planes[len(part) :]
        return np.concatenate(parts), messages

    @torch.inference_mode()
    def _attempt(self, expert: DeviceModel, planes: Tensor) -> NDArray[np.float32] | None:
        """Return the logits of a batch; None if the memory is not enough."""
        card = self._model.card
        try:
            logits = expert.decode(expert.encode(planes), None) / card.temperature
            if card.test_time_augmentation:
                logits = average_quarter_turns(expert, planes, logits, card.temperature)
            return np.asarray(logits.cpu().contiguous().numpy())
        except MemoryError:
            return None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        empty_cache()
        return None

    def _cpu(self) -> DeviceModel:
        if self._on_cpu is None:
            self._on_cpu = self._model.prepare(torch.device("cpu"))
        return self._on_cpu
