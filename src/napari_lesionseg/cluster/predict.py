"""Outline images wherever there is room, and bring the masks back."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_lesionseg.cluster.engine import Engine
from napari_lesionseg.cluster.segment_chunk import load_cached
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.images import read_image
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.types import ByteImage, LabelImage


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


@dataclass(frozen=True, slots=True, eq=False)
class OutlineResult:
    """What became of an image: an outline, or why there is none."""

    key: str
    outline: Outline | None
    error: str = ""


def outline_image(model: Model, image: ByteImage, config: PostprocessConfig) -> Outline:
    """Outline an image (H, W, 3) without prompts."""
    probability = model.predict(image)
    threshold = resolve_threshold(None, config, model.card.threshold)
    mask = postprocess(probability, config, threshold)
    return Outline(mask, threshold, quality_estimate(probability, threshold))


def outline_images(
    engine: Engine, model: Model, config: PostprocessConfig, files: Iterable[ImageFile]
) -> Iterator[OutlineResult]:
    """Outline images with a model in memory; results come in the order of the files."""
    install_network(engine, model)
    return engine.map(functools.partial(_outline_file, config.model_dump_json()), files)


def install_network(engine: Engine, model: Model) -> None:
    """Make a model in memory available wherever chunks run, with exactly its weights."""
    with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(checkpoint_bytes(model.network, model.card, half=False))
        engine.install_model(path)


def _outline_file(settings: str, model_file: Path, file: ImageFile) -> OutlineResult:
    model, config = load_cached(model_file, "auto"), PostprocessConfig.model_validate_json(settings)
    try:
        with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
            path = Path(folder) / file.name
            path.write_bytes(file.payload)
            return OutlineResult(file.key, outline_image(model, read_image(path), config))
    except LesionSegError as error:
        return OutlineResult(file.key, None, str(error))
    except OSError as error:
        return OutlineResult(file.key, None, f"{file.name}: {error.strerror}.")
