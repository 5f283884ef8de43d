"""Measure a model on images whose true outline is known."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, Self, TypeAlias

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError, MaskError, PairingError
from napari_lesionseg.evaluation.metrics import (
    ClassScores,
    ImageScores,
    Summary,
    score_classes,
    score_masks,
    summarize,
)
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.inference import postprocess as postprocess_module
from napari_lesionseg.inference.batches import ImageWork, predict_images
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.labels import MAX_COLORS
from napari_lesionseg.io.pairing import check_pairs
from napari_lesionseg.masks.plausibility import find_doubt
from napari_lesionseg.types import IGNORED, ByteImage, LabelImage, Pair, Probability

logger = logging.getLogger(__name__)


class Card(Protocol):
    """What the measuring needs to know about a model."""

    @property
    def name(self) -> str:
        """What the model is called."""
        ...

    @property
    def threshold(self) -> float:
        """Probability from which on the model takes a pixel to be lesion, in (0, 1)."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        ...


class Tally(Protocol):
    """An additional score, accumulated image by image."""

    def add(self, measured: Measured) -> None:
        """Add one more image."""
        ...

    def empty(self) -> Self:
        """Return an empty tally of the same type."""
        ...

    def merge(self, other: Self) -> None:
        """Add the tally of other images."""
        ...


class Predictor(Protocol):
    """Whatever gives probabilities for an image: a model, or a method to compare it with."""

    @property
    def card(self) -> Card:
        """What it is."""
        ...

    @property
    def sha256(self) -> str | None:
        """Hash of its file; None for what has no file, such as a network fresh from training."""
        ...

    def predict(self, image: ByteImage) -> Probability:
        """Return the probability of the lesion, (H, W), or of C classes, (C, H, W)."""
        ...


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What was measured on one image.

    Parameters
    ----------
    stem : str
        Name of the image without its suffix.
    scores : ImageScores
        All classes together against the background.
    quality : float
        What the model itself thought of its outline, in [0, 1]; see `quality_estimate`.
    classes : tuple of ClassScores
        One by one, if the model knows more than lesion and background.
    doubt : str
        What is doubtful about the true mask, such as that it may be inverted; "" if nothing is.
    """

    stem: str
    scores: ImageScores
    quality: float
    classes: tuple[ClassScores, ...] = ()
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image that could not be measured, and why."""

    stem: str
    reason: str


Outcome: TypeAlias = ImageResult | FailedImage


@dataclass(frozen=True, slots=True)
class ClassMeans:
    """Mean overlap of one class.

    Parameters
    ----------
    name : str
    images : int
        In how many images the class was drawn or found; the means are over those.
    dice, jaccard : float or None
        In [0, 1]; None if there was no such image.
    """

    name: str
    images: int
    dice: float | None
    jaccard: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured on many images.

    Parameters
    ----------
    model : str
        Name of the model.
    model_sha256 : str or None
        Hash of its file; None if it has none.
    threshold : float
        Probability from which on a pixel was taken to be lesion.
    summary : Summary or None
        Means and intervals; None if no image could be measured.
    classes : tuple of ClassMeans
        Empty for a model of one class.
    images : tuple of ImageResult
    failed_inputs : tuple of FailedImage
    """

    model: str
    model_sha256: str | None
    threshold: float
    summary: Summary | None
    classes: tuple[ClassMeans, ...]
    images: tuple[ImageResult, ...]
    failed_inputs: tuple[FailedImage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values that ``json.dumps`` takes."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One image with all that led to its result.

    Parameters
    ----------
    result : ImageResult
    probability : ndarray, shape (H, W) or (C, H, W), float32
    predicted, truth : ndarray, shape (H, W), uint8
        Class indices.
    """

    result: ImageResult
    probability: Probability
    predicted: LabelImage
    truth: LabelImage


def evaluate(
    model: Predictor,
    pairs: Sequence[Pair],
    *,
    postprocess: PostprocessConfig | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Measure a model on images with true masks.

    Parameters
    ----------
    model : Model
        Or whatever has ``predict(image)``, ``sha256`` and a ``card`` with name, threshold and classes.
    pairs : sequence of Pair
        Images and their masks.
    postprocess : PostprocessConfig, optional
        How masks are cleaned; the default settings if left out.
    threshold : float, optional
        In (0, 1); if left out that of ``postprocess``, and if it has none that of the model.

    Returns
    -------
    Evaluation
        An image that cannot be read or does not fit its mask is listed in it, and the others are measured.

    Raises
    ------
    PairingError
        If there are no pairs.
    """
    outcomes = iter_evaluate(model, pairs, postprocess=postprocess, threshold=threshold)
    return collect(model, outcomes, postprocess=postprocess, threshold=threshold)


def iter_evaluate(
    model: Predictor,
    pairs: Sequence[Pair],
    *,
    postprocess: PostprocessConfig | None = None,
    threshold: float | None = None,
    tallies: Sequence[Tally] = (),
    batch_size: int | None = None,
) -> Iterator[Outcome]:
    """Measure image by image, so that the caller can show progress or stop.

    Parameters
    ----------
    model, pairs, postprocess, threshold
        See `evaluate`.
    tallies : sequence of Tally
        Get every image that could be measured.
    batch_size : int, optional
        Images that a `Model` predicts at once; by default what fits into the memory of a GPU, and 1 on a CPU.

    Yields
    ------
    ImageResult or FailedImage
        In the order of the pairs; `collect` makes an `Evaluation` of them.

    Raises
    ------
    PairingError
        If there are no pairs.
    """
    if not pairs:
        raise PairingError("There are no images with masks to measure the model on.")
    check_pairs(pairs)
    postprocess_module.resolve_threshold(threshold, postprocess or PostprocessConfig(), model.card.threshold)
    work = evaluation_work(model.card, postprocess, threshold, tallies)
    for outcome, parts in predict_images(model, pairs, work, batch_size):
        for total, part in zip(tallies, parts, strict=True):
            total.merge(part)
        yield outcome


Tallied: TypeAlias = tuple[Outcome, tuple[Tally, ...]]
"""What became of an image, and the tallies of it alone, so that sums do not depend on what ran together."""


def evaluation_work(
    card: Card, postprocess: PostprocessConfig | None, threshold: float | None, tallies: Sequence[Tally]
) -> ImageWork[Pair, LabelImage, Tallied]:
    """Return how pairs are read and measured, see `iter_evaluate`."""

    def read(pair: Pair) -> tuple[ByteImage, LabelImage]:
        return _read_pair(pair, card)

    def finish(pair: Pair, truth: LabelImage, probability: Probability, message: str) -> Tallied:
        if message:
            logger.warning("%s: %s", pair.stem, message)
        measured = _measure(pair.stem, truth, probability, card, postprocess, threshold)
        own = tuple(tally.empty() for tally in tallies)
        for tally in own:
            tally.add(measured)
        return measured.result, own

    def failed(pair: Pair, error: LesionSegError | OSError) -> Tallied:
        return FailedImage(pair.stem, str(error)), tuple(tally.empty() for tally in tallies)

    return ImageWork(read, finish, failed)


def measure_pair(
    model: Predictor,
    pair: Pair,
    *,
    postprocess: PostprocessConfig | None = None,
    threshold: float | None = None,
) -> Measured:
    """Measure one image and keep what led to the result.

    Parameters
    ----------
    model, postprocess, threshold
        See `evaluate`.
    pair : Pair
        The image and its mask.

    Raises
    ------
    ImageError, MaskError
        If the image or the mask cannot be read, or they do not fit.
    DeviceError
        If the image is too large for the device's memory.
    """
    image, truth = _read_pair(pair, model.card)
    return _measure(pair.stem, truth, model.predict(image), model.card, postprocess, threshold)


def _read_pair(pair: Pair, card: Card) -> tuple[ByteImage, LabelImage]:
    image = read_image(pair.image)
    truth = read_mask(pair.mask, image.shape[:2])
    _check_classes(pair, truth, card.classes)
    return image, truth


def _measure(
    stem: str,
    truth: LabelImage,
    probability: Probability,
    card: Card,
    postprocess: PostprocessConfig | None,
    threshold: float | None,
) -> Measured:
    config = postprocess or PostprocessConfig()
    level = postprocess_module.resolve_threshold(threshold, config, card.threshold)
    predicted = postprocess_module.postprocess(probability, config, level)
    many = probability.ndim == 3 and len(probability) > 2
    result = ImageResult(
        stem=stem,
        scores=score_masks(predicted, truth),
        quality=quality_estimate(probability, level),
        classes=score_classes(predicted, truth, card.classes) if many else (),
        doubt=find_doubt(truth),
    )
    return Measured(result, probability, predicted, truth)


def _check_classes(pair: Pair, truth: LabelImage, classes: Sequence[str]) -> None:
    """Raise `MaskError` for a class that a model of several classes lacks; others find any class."""
    highest = int(truth.max(initial=0, where=truth != IGNORED))
    if highest >= (len(classes) if len(classes) > 2 else MAX_COLORS):
        raise MaskError(f"{pair.mask} has a class {highest}; the model's classes are {', '.join(classes)}.")


def collect(
    model: Predictor,
    outcomes: Iterable[Outcome],
    *,
    postprocess: PostprocessConfig | None = None,
    threshold: float | None = None,
) -> Evaluation:
    """Sum up what `iter_evaluate` gave.

    Parameters
    ----------
    model, postprocess, threshold
        As they were given to `iter_evaluate`.
    outcomes : iterable of ImageResult or FailedImage
        All of them, or as many as there were until the user stopped.
    """
    outcomes = tuple(outcomes)
    images = tuple(outcome for outcome in outcomes if isinstance(outcome, ImageResult))
    config = postprocess or PostprocessConfig()
    return Evaluation(
        model=model.card.name,
        model_sha256=model.sha256,
        threshold=postprocess_module.resolve_threshold(threshold, config, model.card.threshold),
        summary=summarize([image.scores for image in images]) if images else None,
        classes=_class_means(images),
        images=images,
        failed_inputs=tuple(outcome for outcome in outcomes if isinstance(outcome, FailedImage)),
    )


def _class_means(images: Sequence[ImageResult]) -> tuple[ClassMeans, ...]:
    """Average class by class, over the images that have the class or were said to have it."""
    columns = zip(*(image.classes for image in images), strict=True)
    return tuple(_mean_of_class(column) for column in columns)


def _mean_of_class(column: Sequence[ClassScores]) -> ClassMeans:
    present = [scores for scores in column if scores.present]
    if not present:
        return ClassMeans(column[0].name, 0, None, None)
    dice, jaccard = fmean(s.dice for s in present), fmean(s.jaccard for s in present)
    return ClassMeans(column[0].name, len(present), dice, jaccard)
