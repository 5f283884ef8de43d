"""Outline images wherever there is room, and bring the masks back."""

from __future__ import annotations

import functools
import itertools
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_lesionseg.cluster.chunks import describe_error, load_cached, run_on_worker, unpacked
from napari_lesionseg.cluster.engine import Engine
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.inference.batches import ImageWork, predict_images
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.images import read_image
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.types import ByteImage, LabelImage, Probability

CHUNK = 8
"""Images in a chunk: enough for a batch of a GPU, few enough that outlines come soon."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to outline: a name of the caller's, and the bytes of its file."""

    key: str
    name: str
    payload: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A mask (H, W), the threshold it was drawn at, and an estimate of how good it is, 0 to 1."""

    mask: LabelImage
    threshold: float
    quality: float | None

    def __reduce__(self) -> tuple[Any, ...]:
        """Compress the mask, which is some hundred times smaller then, for the way through a slow line."""
        packed = zlib.compress(self.mask.tobytes(), 1)
        return _unpack, (packed, self.mask.shape, self.mask.dtype.str, self.threshold, self.quality)


def _unpack(
    packed: bytes, shape: tuple[int, ...], dtype: str, threshold: float, quality: float | None
) -> Outline:
    mask = np.frombuffer(bytearray(zlib.decompress(packed)), dtype).reshape(shape)
    return Outline(mask, threshold, quality)


@dataclass(frozen=True, slots=True, eq=False)
class OutlineResult:
    """What became of an image: an outline, or why there is none or why it took long."""

    key: str
    outline: Outline | None
    error: str = ""


def outline_image(model: Model, image: ByteImage, config: PostprocessConfig) -> Outline:
    """Outline an image (H, W, 3) without prompts."""
    return _draw(model, model.predict(image), config)


def _draw(model: Model, probability: Probability, config: PostprocessConfig) -> Outline:
    threshold = resolve_threshold(None, config, model.card.threshold)
    mask = postprocess(probability, config, threshold)
    return Outline(mask, threshold, quality_estimate(probability, threshold))


def outline_images(
    model: Model, config: PostprocessConfig, images: Iterable[str], read: Callable[[str], ByteImage]
) -> Iterator[OutlineResult]:
    """Outline images in this process; `read` returns the pixels (H, W, 3) of a name."""

    def finish(name: str, kept: None, probability: Probability, message: str) -> OutlineResult:
        del kept
        return OutlineResult(name, _draw(model, probability, config), message)

    def failed(name: str, error: LesionSegError | OSError) -> OutlineResult:
        return OutlineResult(name, None, describe_error(error, Path(name)))

    return predict_images(model, images, ImageWork(lambda name: (read(name), None), finish, failed))


def outline_files(
    engine: Engine, model: Model, config: PostprocessConfig, files: Iterable[ImageFile]
) -> Iterator[OutlineResult]:
    """Outline images with a model in memory wherever chunks run; results come in the order of the files."""
    install_network(engine, model)
    waiting = iter(files)
    chunks = iter(lambda: list(itertools.islice(waiting, CHUNK)), [])
    for results in engine.map(functools.partial(_outline_chunk, config.model_dump_json()), chunks):
        yield from results


def install_network(engine: Engine, model: Model) -> None:
    """Make a model in memory available wherever chunks run, with exactly its weights."""
    with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(checkpoint_bytes(model.network, model.card, half=False))
        engine.install_model(path)


def _outline_chunk(settings: str, model_file: Path, files: Sequence[ImageFile]) -> list[OutlineResult]:
    config, known = PostprocessConfig.model_validate_json(settings), {file.key: file for file in files}

    def read(key: str) -> ByteImage:
        with unpacked({Path(known[key].name): known[key].payload}) as (copy,):
            return read_image(copy)

    def work(keys: Iterable[str]) -> Iterator[OutlineResult]:
        return outline_images(load_cached(model_file, "auto"), config, keys, read)

    def failed(key: str, error: LesionSegError | OSError) -> OutlineResult:
        return OutlineResult(key, None, describe_error(error, Path(known[key].name)))

    return run_on_worker(model_file, "auto", list(known), work, failed)
