"""Segment the files of one chunk, in whatever process it runs; its masks are written where the run began."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_lesionseg.cluster.chunks import describe_error, load_cached, run_on_worker, unpacked
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.inference.batches import ImageWork, predict_images
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import encode_image, encode_mask, read_image, write_image
from napari_lesionseg.io.overlay import draw_outline
from napari_lesionseg.types import ByteImage, LabelImage, Probability


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
) -> Iterator[FileResult]:
    """Segment the files of a chunk, and yield the results as soon as they are known."""
    model = load_cached(model_file, job.device)
    return predict_images(model, tasks, _file_work(job, model), batch_size)


def segment_chunk_on_worker(
    job: SegmentJob, model_file: Path, tasks: Sequence[FileTask], batch_size: int | None = None
) -> list[FileResult]:
    """Segment a chunk; a worker that lost its model file fails its own images, and not the run."""
    work = functools.partial(segment_chunk, job, model_file, batch_size=batch_size)
    return run_on_worker(model_file, job.device, tasks, work, _failed)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """What is needed of an image (H, W, 3) that was read: its pixels, if they are drawn, and its hash."""

    image: ByteImage | None
    sha256: str


def _file_work(job: SegmentJob, model: Model) -> ImageWork[FileTask, _Source, FileResult]:
    config = PostprocessConfig.model_validate_json(job.settings)
    level = resolve_threshold(None, config, model.card.threshold)

    def read(task: FileTask) -> tuple[ByteImage, _Source]:
        image, sha256 = _read(task)
        return image, _Source(image if job.overlay else None, sha256)

    def finish(task: FileTask, source: _Source, probability: Probability, message: str) -> FileResult:
        written = _write(model, task, source, postprocess(probability, config, level))
        return replace(written, message=message)

    return ImageWork(read, finish, _failed)


def _failed(task: FileTask, error: LesionSegError | OSError) -> FileResult:
    return FileResult(task.source, describe_error(error, task.source))


def _read(task: FileTask) -> tuple[ByteImage, str]:
    """Read the image and the hash of its file, or of the copy that was sent where the file is not seen."""
    if task.payload is None:
        return read_image(task.source), sha256_file(task.source)
    with unpacked({task.source: task.payload}) as (copy,):
        return read_image(copy), sha256_file(copy)


def _write(model: Model, task: FileTask, source: _Source, labels: LabelImage) -> FileResult:
    """Encode the mask, and write the overlay; where the worker does not see the folder, return its bytes."""
    mask = encode_mask(labels, style="binary" if len(model.card.classes) == 2 else "index")
    overlay = b""
    if source.image is not None:
        drawn = draw_outline(source.image, labels)
        if task.payload is None:
            write_image(task.overlay, drawn)
        else:
            overlay = encode_image(drawn)
    mask_sha256 = hashlib.sha256(mask).hexdigest()
    return FileResult(
        task.source, image_sha256=source.sha256, mask_sha256=mask_sha256, mask=mask, overlay=overlay
    )
