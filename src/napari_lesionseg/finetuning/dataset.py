"""The corrected images that a model is to learn from: read, checked against its classes, and identified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from napari_lesionseg.errors import LesionSegError, MaskError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.training.dataset import CachedPair, read_pair, shrink_pair
from napari_lesionseg.types import IGNORED, LabelImage, Pair

MARGIN = 1.25  # images are kept this much larger than the network sees them, for zooming in


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPair:
    """An image that can be learned from."""

    pair: CachedPair
    sha256: str


@dataclass(frozen=True, slots=True)
class SkippedPair:
    """An image that cannot be learned from, and why."""

    stem: str
    reason: str


def read_training_pairs(
    pairs: Sequence[Pair | CachedPair], card: ModelCard, size: int
) -> Iterator[TrainingPair | SkippedPair]:
    """Read images with their masks, one by one."""
    for pair in pairs:
        try:
            yield _read(pair, card, round(size * MARGIN))
        except LesionSegError as error:
            yield SkippedPair(pair.stem, str(error))
        except OSError as error:
            yield SkippedPair(pair.stem, f"{pair.stem} cannot be read: {error.strerror}.")


def _read(pair: Pair | CachedPair, card: ModelCard, side: int) -> TrainingPair:
    if isinstance(pair, Pair):
        digest = hashlib.sha256((sha256_file(pair.image) + sha256_file(pair.mask)).encode()).hexdigest()
        cached = read_pair(pair, side)
    else:
        _check_arrays(pair)
        digest, cached = _hash_arrays(pair), shrink_pair(*pair, side)
    return TrainingPair(cached._replace(labels=fit_labels(cached.labels, card, pair.stem)), digest)


def _check_arrays(pair: CachedPair) -> None:
    image, labels = pair.image, pair.labels
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise MaskError(f"{pair.stem} is no image of bytes with the shape (height, width, 3).")
    if labels.dtype != np.uint8 or labels.shape != image.shape[:2]:
        raise MaskError(
            f"The mask of {pair.stem} is of shape {labels.shape}, its image of {image.shape[:2]}."
        )


def _hash_arrays(pair: CachedPair) -> str:
    digest = hashlib.sha256(str(pair.image.shape).encode())
    digest.update(np.ascontiguousarray(pair.image).data)
    digest.update(np.ascontiguousarray(pair.labels).data)
    return digest.hexdigest()


def fit_labels(labels: LabelImage, card: ModelCard, stem: str) -> LabelImage:
    """Bring class indices to those of a model."""
    counted = labels != IGNORED
    if len(card.classes) == 2:
        return np.where(counted, labels > 0, IGNORED).astype(np.uint8)
    highest = int(labels.max(initial=0, where=counted))
    if highest >= len(card.classes):
        raise MaskError(
            f"The mask of {stem} has a class {highest}, but the model knows {len(card.classes) - 1} only."
        )
    return labels
