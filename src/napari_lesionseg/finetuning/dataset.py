"""The corrected images that a model learns from: read, checked against its classes, assigned to folds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import LesionSegError, MaskError, TrainingError
from napari_lesionseg.finetuning.checkpoint import FineTuneCheckpoint
from napari_lesionseg.finetuning.cross_validation import NOT_HELD_OUT, assign_folds, make_folds
from napari_lesionseg.finetuning.fold import Fold
from napari_lesionseg.inference.predictor import Model
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
    """Hash of the image and its mask, by which a checkpoint finds them again without storing names."""
    description: NDArray[np.float32] | None = None
    """See `SegmentationNetwork.describe`; None if the model cannot describe images."""


@dataclass(frozen=True, slots=True)
class SkippedPair:
    """An image that cannot be learned from, and why."""

    stem: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """The images of a fine-tuning, and the fold that each of them is held out in."""

    pairs: tuple[TrainingPair, ...]
    fold_of: tuple[int, ...]

    @property
    def images(self) -> tuple[CachedPair, ...]:
        """The images with their masks."""
        return tuple(pair.pair for pair in self.pairs)

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hash of every image with its mask."""
        return tuple(pair.sha256 for pair in self.pairs)

    @property
    def descriptions(self) -> dict[str, NDArray[np.float32]]:
        """The model's descriptions of the images, by name."""
        return {pair.pair.stem: pair.description for pair in self.pairs if pair.description is not None}

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The images to train on and to score, fold by fold."""
        return make_folds(self.images, self.fold_of)


def read_training_pairs(
    pairs: Sequence[Pair | CachedPair], model: Model, size: int
) -> Iterator[TrainingPair | SkippedPair]:
    """Read images with their masks, one by one."""
    for pair in pairs:
        try:
            cached, digest = _read(pair, model.card, round(size * MARGIN))
        except LesionSegError as error:
            yield SkippedPair(pair.stem, str(error))
        except OSError as error:
            yield SkippedPair(pair.stem, f"{pair.stem} cannot be read: {error.strerror}.")
        else:
            yield TrainingPair(cached, digest, model.describe(cached.image))


def split_pairs(
    pairs: Sequence[TrainingPair],
    held_out: Iterable[str],
    items: Iterable[SplitItem],
    config: FineTuneConfig,
    skipped: Sequence[SkippedPair] = (),
) -> TrainingSet:
    """Hold out the given names or, if there are none, assign all images to folds."""
    stems, always = [pair.pair.stem for pair in pairs], set(held_out)
    if set(stems) <= always:
        reason = skipped[0].reason if skipped else "None was given."
        raise TrainingError(f"There are no images to learn from. {reason}")
    if always:
        fold_of = [0 if stem in always else NOT_HELD_OUT for stem in stems]
    else:
        fold_of = assign_folds(stems, items, config.folds, config.seed)
    return TrainingSet(tuple(pairs), tuple(fold_of))


def restore_training_set(pairs: Sequence[TrainingPair], state: FineTuneCheckpoint) -> TrainingSet:
    """Return the images of a checkpoint, in its order and with its folds."""
    known = {pair.sha256: pair for pair in pairs}
    missing = sum(digest not in known for digest in state.images)
    if missing:
        raise TrainingError(
            f"{missing} of the {len(state.images)} images of the interrupted fine-tuning are missing or were "
            "changed since. Start again."
        )
    return TrainingSet(tuple(known[digest] for digest in state.images), state.folds)


def _read(pair: Pair | CachedPair, card: ModelCard, side: int) -> tuple[CachedPair, str]:
    if isinstance(pair, Pair):
        digest = hashlib.sha256((sha256_file(pair.image) + sha256_file(pair.mask)).encode()).hexdigest()
        cached = read_pair(pair, side)
    else:
        _check_arrays(pair)
        digest, cached = _hash_arrays(pair), shrink_pair(*pair, side)
    return cached._replace(labels=fit_labels(cached.labels, card, pair.stem)), digest


def _check_arrays(pair: CachedPair) -> None:
    image, labels = pair.image, pair.labels
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise MaskError(f"{pair.stem} is not an 8-bit image of shape (height, width, 3).")
    if labels.dtype != np.uint8 or labels.shape != image.shape[:2]:
        raise MaskError(f"The mask of {pair.stem} has the shape {labels.shape}, its image {image.shape[:2]}.")


def _hash_arrays(pair: CachedPair) -> str:
    digest = hashlib.sha256(str(pair.image.shape).encode())
    digest.update(np.ascontiguousarray(pair.image).data)
    digest.update(np.ascontiguousarray(pair.labels).data)
    return digest.hexdigest()


def fit_labels(labels: LabelImage, card: ModelCard, stem: str) -> LabelImage:
    """Convert class indices to those of a model."""
    counted = labels != IGNORED
    if len(card.classes) == 2:
        # A model with one lesion class learns from masks of any number of classes.
        return np.where(counted, labels > 0, IGNORED).astype(np.uint8)
    highest = int(labels.max(initial=0, where=counted))
    if highest >= len(card.classes):
        raise MaskError(
            f"The mask of {stem} has a class {highest}; the highest class of the model is "
            f"{len(card.classes) - 1}."
        )
    return labels
