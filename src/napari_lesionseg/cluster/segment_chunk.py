"""Segment the files of one chunk, in whatever process it runs."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError, LesionSegError
from napari_lesionseg.inference.batches import BatchPredictor, default_batch_size
from napari_lesionseg.inference.device import DeviceModel
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.inference.predictor import Model, load_model, segment
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import read_image, write_image, write_mask
from napari_lesionseg.io.overlay import draw_outline
from napari_lesionseg.training.resources import available_cores
from napari_lesionseg.types import ByteImage, LabelImage


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """What holds for all files of a run; `settings` is a `PostprocessConfig` as JSON."""

    model_sha256: str
    settings: str
    device: str = "auto"
    overlay: bool = False


@dataclass(frozen=True, slots=True)
class FileTask:
    """One image to segment: where it is, or its bytes where workers do not see the file."""

    source: Path
    folder: Path
    payload: bytes | None = None

    @property
    def mask(self) -> Path:
        """File of the mask."""
        return self.folder / f"{self.source.stem}_segmentation.png"

    @property
    def overlay(self) -> Path:
        """File of the image with its outline."""
        return self.folder / f"{self.source.stem}_overlay.png"


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one image: an error, or the hashes of what was read and written."""

    source: Path
    error: str = ""
    image_sha256: str = ""
    mask_sha256: str = ""
    mask: bytes | None = None
    overlay: bytes = b""
    skipped: bool = False
    message: str = ""
    """What went wrong without stopping it, such as a GPU that is short of memory."""


def segment_chunk(
    job: SegmentJob, model_file: Path, tasks: Sequence[FileTask], batch_size: int | None = None
) -> list[FileResult]:
    """Segment the files of a chunk with a model that is loaded once per process."""
    model = load_cached(model_file, job.device)
    config = PostprocessConfig.model_validate_json(job.settings)
    size = default_batch_size(model) if batch_size is None else batch_size
    if size > 1:
        with _Batches(job, model, config, size) as batches:
            return batches.segment(tasks)
    return [_segment(job, model, config, task) for task in tasks]


def segment_chunk_on_worker(
    job: SegmentJob, model_file: Path, tasks: Sequence[FileTask], batch_size: int | None = None
) -> list[FileResult]:
    """Segment a chunk; a worker that lost its model file fails its own images, and not the run."""
    try:
        load_cached(model_file, job.device)
    except LesionSegError as error:
        return [FileResult(task.source, str(error)) for task in tasks]
    return segment_chunk(job, model_file, tasks, batch_size)


@functools.lru_cache(maxsize=2)
def load_cached(path: Path, device: str) -> Model:
    """Load a model once per process."""
    return load_model(path, device)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """An image (H, W, 3) that was read, and the hash of its file."""

    image: ByteImage
    sha256: str


def _segment(job: SegmentJob, model: Model, config: PostprocessConfig, task: FileTask) -> FileResult:
    try:
        source = _read(task)
        return _write(job, model, task, source, segment(source.image, model=model, postprocess=config))
    except (LesionSegError, OSError) as error:
        return _failed(task, error)


@dataclass(slots=True)
class _Waiting:
    """An image that is ready for the network."""

    place: int
    task: FileTask
    source: _Source
    shape: tuple[int, int]
    expert: DeviceModel
    planes: Tensor  # (1, 3, h, w)


class _Batches:
    """Segments files in batches: threads read and write while the network computes."""

    def __init__(self, job: SegmentJob, model: Model, config: PostprocessConfig, size: int) -> None:
        self._job, self._model, self._config = job, model, config
        self._predictor = BatchPredictor(model, size)
        self._pool = ThreadPoolExecutor(available_cores(), "images")
        self._results: dict[int, FileResult | Future[FileResult]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def segment(self, tasks: Sequence[FileTask]) -> list[FileResult]:
        """Segment files; images that the network sees at the same size share its batches."""
        groups: dict[tuple[object, ...], list[_Waiting]] = {}
        for image in self._read_ahead(tasks):
            key = (image.planes.shape, id(image.expert.network))
            groups.setdefault(key, []).append(image)
            if len(groups[key]) >= self._predictor.size:
                self._predict(groups.pop(key))
        for group in groups.values():
            self._predict(group)
        found = (self._results[place] for place in range(len(tasks)))
        return [result.result() if isinstance(result, Future) else result for result in found]

    def _read_ahead(self, tasks: Sequence[FileTask]) -> Iterator[_Waiting]:
        """Yield the images that can be read, in order, while threads read the next ones."""
        ahead: deque[Future[_Waiting]] = deque()
        remaining = enumerate(tasks)
        for place, task in enumerate(tasks):
            for number, later in itertools.islice(remaining, 2 * self._predictor.size - len(ahead)):
                ahead.append(self._pool.submit(self._prepare, number, later))
            try:
                yield ahead.popleft().result()
            except (LesionSegError, OSError) as error:
                self._results[place] = _failed(task, error)

    def _prepare(self, place: int, task: FileTask) -> _Waiting:
        source = _read(task)
        planes, shape = self._model.network_input(source.image), source.image.shape[:2]
        if not self._job.overlay:  # only its size counts from here on
            source = replace(source, image=source.image[:0])
        return _Waiting(place, task, source, (shape[0], shape[1]), self._predictor.expert_of(planes), planes)

    def _predict(self, images: Sequence[_Waiting]) -> None:
        planes = torch.cat([image.planes for image in images])
        try:
            logits, messages = self._predictor.predict(images[0].expert, planes)
        except LesionSegError as error:
            self._results |= {image.place: _failed(image.task, error) for image in images}
            return
        for image, own, message in zip(images, logits, messages, strict=True):
            self._results[image.place] = self._pool.submit(self._finish, image, own, message)

    def _finish(self, image: _Waiting, logits: NDArray[np.float32], message: str) -> FileResult:
        try:
            level = resolve_threshold(None, self._config, self._model.card.threshold)
            labels = postprocess(Prediction(logits, image.shape).probability(), self._config, level)
            written = _write(self._job, self._model, image.task, image.source, labels)
            return replace(written, message=message)
        except (LesionSegError, OSError) as error:
            return _failed(image.task, error)


def _failed(task: FileTask, error: LesionSegError | OSError) -> FileResult:
    """Return what is wrong with an image, such as a full disk, in one sentence."""
    if isinstance(error, OSError):
        return FileResult(task.source, f"{error.filename or task.source}: {error.strerror}.")
    return FileResult(task.source, str(error))


def _read(task: FileTask) -> _Source:
    """Read the image, or the copy of it that was sent where its file is not seen."""
    if task.payload is None:
        return _Source(read_image(task.source), sha256_file(task.source))
    with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
        copy = Path(folder) / task.source.name
        try:
            copy.write_bytes(task.payload)
            return _Source(read_image(copy), sha256_file(copy))
        except LesionSegError as error:
            raise ImageError(str(error).replace(str(copy), str(task.source))) from error


def _write(job: SegmentJob, model: Model, task: FileTask, source: _Source, labels: LabelImage) -> FileResult:
    """Write the mask; where the worker does not see the folder, return its bytes."""
    if task.payload is not None:
        with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
            copy = FileTask(task.source, Path(folder))
            result = _write(job, model, copy, source, labels)
            overlay = copy.overlay.read_bytes() if job.overlay else b""
            return replace(result, mask=copy.mask.read_bytes(), overlay=overlay)
    write_mask(task.mask, labels, style="binary" if len(model.card.classes) == 2 else "index")
    if job.overlay:
        write_image(task.overlay, draw_outline(source.image, labels))
    return FileResult(task.source, image_sha256=source.sha256, mask_sha256=sha256_file(task.mask))
