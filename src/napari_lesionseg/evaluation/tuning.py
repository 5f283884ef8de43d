"""Temperature and threshold of a model, chosen on held-out images and written into its card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from napari_lesionseg.errors import TrainingError
from napari_lesionseg.evaluation.calibration import expected_calibration_error, fit_temperature
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.types import LabelImage, Pair, Probability

LONG_SIDE = 256  # images are compared at this size: borders move by less than annotators differ
THRESHOLDS = np.round(np.arange(0.20, 0.801, 0.01), 2)
INDIFFERENCE = 0.001
"""Of thresholds whose Jaccard differs by no more than this the highest is taken: networks draw wider than
annotators where a camera is new to them."""
SMALLEST = 1e-6  # keeps logarithmic odds finite


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found on the held-out images.

    Parameters
    ----------
    temperature : float
        Divisor of the logits.
    threshold : float
        Probability, after the temperature, above which a pixel belongs to the lesion.
    jaccard : float
        Mean Jaccard at that threshold, before any tidying up, in [0, 1].
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


def tune(model: Model, pairs: Sequence[Pair]) -> Tuning:
    """Choose a temperature and a threshold for a model of one class.

    Parameters
    ----------
    model : Model
        Its card's temperature is left out of account.
    pairs : sequence of Pair
        Held-out images with masks.

    Raises
    ------
    TrainingError
        If there are no images, or the model knows several classes: the largest probability decides those.
    """
    if not pairs or len(model.card.classes) != 2:
        raise TrainingError("A threshold is chosen for models of one class, on at least one held-out image.")
    compared = list(_compare(model, pairs))
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


def _compare(model: Model, pairs: Sequence[Pair]) -> Iterator[_Compared]:
    """Predict every image and shrink both answer and truth."""
    for pair in pairs:
        image = read_image(pair.image)
        truth = read_mask(pair.mask, (image.shape[0], image.shape[1]))
        factor = min(1.0, LONG_SIDE / max(truth.shape))
        shape = (max(1, round(truth.shape[0] * factor)), max(1, round(truth.shape[1] * factor)))
        yield _Compared(model.predict(resize_image(image, shape)), resize_labels(truth, shape))


def jaccard_curve(
    probability: Probability, truth: LabelImage, thresholds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Jaccard of an image at each threshold.

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
