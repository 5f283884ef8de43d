"""Calibration: measure it, and choose a model's temperature and threshold on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from napari_lesionseg.errors import MaskError, TrainingError
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.types import IGNORED, LabelImage, Pair, Probability

_Array = NDArray[np.number | np.bool_]
LONG_SIDE = 256  # images are compared at this size: borders move by less than annotators differ
THRESHOLDS = np.round(np.arange(0.20, 0.801, 0.01), 2)
# Of thresholds whose Jaccard differs by no more than this the highest is taken: networks draw wider outlines
# than annotators where a camera is new to them.
INDIFFERENCE = 0.001
SMALLEST = 1e-6  # keeps log odds finite
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The pixels whose probability falls into one interval.

    Parameters
    ----------
    low, high : float
        Bounds of the interval; ``low`` belongs to it, and 1 to the last one.
    pixels : int
    predicted : float
        Mean probability of the lesion; the middle of the interval if it holds no pixels.
    observed : float
        Share of the pixels that belong to the lesion; as ``predicted`` if it holds no pixels.
    """

    low: float
    high: float
    pixels: int
    predicted: float
    observed: float


def reliability_table(
    probabilities: Iterable[Probability], truths: Iterable[_Array], n_bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """Sort all pixels of all images by their probability and compare with the truth.

    Parameters
    ----------
    probabilities : iterable of ndarray, shape (H, W)
        Probability of the lesion. Read one by one, so a generator need not hold them all.
    truths : iterable of ndarray, shape (H, W)
        True masks; everything above 0 is lesion.
    n_bins : int
        Number of intervals of equal width.

    Raises
    ------
    MaskError
        If a mask does not fit its image.
    ValueError
        If there are more images than masks or the other way round.
    """
    sums = np.zeros((3, n_bins))  # pixels, probability, lesion pixels
    for probability, truth in zip(probabilities, truths, strict=True):
        sums += _bin_sums(probability, truth, n_bins)
    return tuple(_bin(index, n_bins, *column) for index, column in enumerate(sums.T))


def calibration_error(table: Iterable[ReliabilityBin]) -> float:
    """Average the gap between predicted and observed over pixels; 0 is best, in [0, 1].

    Parameters
    ----------
    table : iterable of ReliabilityBin
        From `reliability_table`.
    """
    bins = tuple(table)
    pixels = sum(part.pixels for part in bins)
    gaps = sum(part.pixels * abs(part.predicted - part.observed) for part in bins)
    return gaps / pixels if pixels else 0.0


def expected_calibration_error(
    probabilities: Iterable[Probability], truths: Iterable[_Array], n_bins: int = 15
) -> float:
    """Measure how far probabilities are from frequencies, over all pixels of all images.

    Parameters
    ----------
    probabilities, truths, n_bins
        See `reliability_table`.

    Notes
    -----
    Expected calibration error of Naeini et al. (AAAI 2015), of the probability of the lesion. Far from the
    lesion nearly all pixels are right and sure, so the figure is small whatever the outline: compare it on
    alike images only.
    """
    return calibration_error(reliability_table(probabilities, truths, n_bins))


def fit_temperature(
    logits: Iterable[_Array], truths: Iterable[_Array], *, max_pixels: int = 1_000_000, seed: int = 0
) -> float:
    """Find the temperature that makes sigmoid(logit / temperature) fit the truth best.

    Parameters
    ----------
    logits : iterable of ndarray, shape (H, W)
        Logarithmic odds of the lesion.
    truths : iterable of ndarray, shape (H, W)
        True masks; everything above 0 is lesion.
    max_pixels : int
        With more pixels than this a random choice of so many is taken.
    seed : int
        Of that choice.

    Returns
    -------
    float
        Between 0.05 and 20. Above 1 the network was overconfident.

    Raises
    ------
    MaskError
        If a mask does not fit its image, or there are no pixels.

    Notes
    -----
    Least mean cross-entropy, after Guo et al., "On calibration of modern neural networks" (ICML 2017). The
    temperature moves no probability across 0.5.
    """
    scores, lesion = _sample_pixels(logits, truths, max_pixels, seed)

    def cross_entropy(log_temperature: float) -> float:
        scaled = scores / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - lesion * scaled))

    bounds = tuple(np.log(_TEMPERATURES).tolist())
    result = optimize.minimize_scalar(cross_entropy, bounds=bounds, method="bounded")
    return float(np.exp(result.x))


def _check_fit(values: _Array, truth: _Array) -> None:
    if values.shape != truth.shape:
        raise MaskError(f"A mask of shape {truth.shape} does not fit an image of shape {values.shape}.")


def _bin_sums(probability: Probability, truth: _Array, n_bins: int) -> NDArray[np.float64]:
    """Return pixels, summed probability and lesion pixels of every interval, (3, n_bins)."""
    _check_fit(probability, truth)
    values = probability.ravel().astype(np.float64)
    index = np.clip((values * n_bins).astype(np.intp), 0, n_bins - 1)
    weights = (None, values, (truth > 0).ravel())
    return np.stack([np.bincount(index, weight, minlength=n_bins) for weight in weights])


def _bin(index: int, n_bins: int, pixels: float, probability: float, lesion: float) -> ReliabilityBin:
    low, high = index / n_bins, (index + 1) / n_bins
    if not pixels:
        return ReliabilityBin(low, high, 0, (low + high) / 2, (low + high) / 2)
    return ReliabilityBin(low, high, int(pixels), float(probability / pixels), float(lesion / pixels))


def _sample_pixels(
    logits: Iterable[_Array], truths: Iterable[_Array], max_pixels: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logits of a random choice of pixels, and whether each is lesion."""
    pairs = list(zip(logits, truths, strict=True))
    for values, truth in pairs:
        _check_fit(values, truth)
    if not any(values.size for values, _ in pairs):
        raise MaskError("There are no pixels to fit a temperature to.")
    scores = np.concatenate([values.ravel() for values, _ in pairs])
    lesion = np.concatenate([(truth > 0).ravel() for _, truth in pairs])
    if scores.size > max_pixels:
        chosen = np.random.default_rng(seed).choice(scores.size, max_pixels, replace=False)
        scores, lesion = scores[chosen], lesion[chosen]
    return scores.astype(np.float64), lesion.astype(np.float64)


# ---------------------------------------------------------------------------- temperature and threshold


@dataclass(frozen=True, slots=True)
class Tuning:
    """Temperature and threshold chosen on held-out images.

    Parameters
    ----------
    temperature : float
        Divisor of the logits.
    threshold : float
        Probability, after the temperature, above which a pixel belongs to the lesion.
    jaccard : float
        Mean Jaccard at that threshold, before postprocessing, in [0, 1].
    jaccard_at_half : float
        The same at a threshold of 0.5.
    calibration_error, calibration_error_before : float
        Expected calibration error after and before the temperature, in [0, 1].
    """

    temperature: float
    threshold: float
    jaccard: float
    jaccard_at_half: float
    calibration_error: float
    calibration_error_before: float


class _Compared(NamedTuple):
    probability: Probability
    truth: LabelImage


def tune(model: Model, pairs: Sequence[Pair], on_image: Callable[[], None] = lambda: None) -> Tuning:
    """Choose a temperature and a threshold for a model of one class.

    Parameters
    ----------
    model : Model
        The temperature of its card is ignored.
    pairs : sequence of Pair
        Held-out images with masks.
    on_image : callable, optional
        Called after each image, to show progress.

    Raises
    ------
    TrainingError
        If there are no images, or the model knows several classes: the largest probability decides those.
    """
    if not pairs or len(model.card.classes) != 2:
        raise TrainingError("A threshold is chosen for models of one class, on at least one held-out image.")
    compared = list[_Compared]()
    for pair in pairs:
        compared.append(_compare(model, pair))
        on_image()
    truths = [c.truth for c in compared]
    odds = [
        special.logit(np.clip(c.probability, SMALLEST, 1 - SMALLEST)) * model.card.temperature
        for c in compared
    ]
    temperature = fit_temperature(odds, truths)
    tempered = [special.expit(values / temperature).astype(np.float32) for values in odds]
    curve = np.mean([jaccard_curve(p, t, THRESHOLDS) for p, t in zip(tempered, truths, strict=True)], axis=0)
    best = int(np.flatnonzero(curve >= curve.max() - INDIFFERENCE)[-1])
    return Tuning(
        temperature=round(temperature, 4),
        threshold=float(THRESHOLDS[best]),
        jaccard=float(curve[best]),
        jaccard_at_half=float(curve[np.searchsorted(THRESHOLDS, 0.5)]),
        calibration_error=expected_calibration_error(tempered, truths),
        calibration_error_before=expected_calibration_error(
            [special.expit(o).astype(np.float32) for o in odds], truths
        ),
    )


def _compare(model: Model, pair: Pair) -> _Compared:
    """Predict an image, shrunk as its mask is."""
    image = read_image(pair.image)
    truth = read_mask(pair.mask, (image.shape[0], image.shape[1]))
    factor = min(1.0, LONG_SIDE / max(truth.shape))
    shape = (max(1, round(truth.shape[0] * factor)), max(1, round(truth.shape[1] * factor)))
    labels = resize_labels(truth, shape)
    counted = labels != IGNORED
    probability = model.predict(resize_image(image, shape)) * counted
    return _Compared(probability, labels * counted)


def jaccard_curve(
    probability: Probability, truth: LabelImage, thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Measure the Jaccard index of an image at each threshold.

    Parameters
    ----------
    probability : Probability
        Shape (H, W).
    truth : LabelImage
        Shape (H, W); everything above 0 is lesion.
    thresholds : ndarray
        Shape (T,).

    Returns
    -------
    ndarray
        Shape (T,), in [0, 1]; 1 where neither holds a lesion.
    """
    lesion = truth.ravel() > 0
    hits = _count_above(probability.ravel()[lesion], thresholds)
    union = _count_above(probability.ravel(), thresholds) - hits + lesion.sum()
    return np.where(union > 0, hits / np.maximum(union, 1), 1.0)


def _count_above(values: NDArray[np.float32], thresholds: NDArray[np.float64]) -> NDArray[np.intp]:
    return values.size - np.searchsorted(np.sort(values), thresholds.astype(np.float32), side="left")
