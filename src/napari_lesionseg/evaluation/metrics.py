"""Agreement between masks: per image, and over many images with confidence intervals.

Every score is computed per image and then averaged, as the ISIC challenges do, so that an image with a small
lesion counts as much as one with a large lesion.

Scores of empty masks (the first four columns as in the scoring of the ISIC challenge):

=======================  ====================  =========================  ===========================
case                     overlap (Dice, ...)   sensitivity, specificity   HD95
=======================  ====================  =========================  ===========================
both masks empty         1                     1, 1                       0
only the predicted empty 0                     0, 1                       diagonal of the image
only the truth empty     0                     1, as counted              diagonal of the image
truth fills the image  as counted            as counted, 1              as measured
=======================  ====================  =========================  ===========================
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from napari_lesionseg.errors import MaskError
from napari_lesionseg.types import IGNORED

FAILURE_LIMIT = 0.65
"""Jaccard below which an outline counts as failed.

It is that of the ISIC 2018 challenge, which chose it in view of how far experts differ (Codella et al., "Skin
lesion analysis toward melanoma detection 2018", arXiv:1902.03368).
"""

_Mask = NDArray[np.number | np.bool_]


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Agreement of one outline with the true one.

    Parameters
    ----------
    dice, jaccard : float
        Overlap in [0, 1].
    thresholded_jaccard : float
        The Jaccard index, but 0 where it is below `FAILURE_LIMIT`.
    failed : bool
        Whether the Jaccard index is below `FAILURE_LIMIT`.
    sensitivity, specificity : float
        Fraction of the lesion, and of the background, that was predicted as such; in [0, 1].
    hd95 : float
        95th percentile of the Hausdorff distance, in pixels; see `hausdorff95`.
    hd95_percent : float
        The same as a percentage of the diagonal of the image.
    """

    dice: float
    jaccard: float
    thresholded_jaccard: float
    failed: bool
    sensitivity: float
    specificity: float
    hd95: float
    hd95_percent: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval.

    Parameters
    ----------
    mean : float
    low, high : float or None
        Bounds of the interval; None for a single image, which has no spread.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over images, with intervals.

    Parameters
    ----------
    images : int
        How many images were scored.
    dice, jaccard, thresholded_jaccard, sensitivity, specificity, hd95, hd95_percent : Estimate
        As in `ImageScores`.
    failure_rate : Estimate
        Share of the images that failed.
    """

    images: int
    dice: Estimate
    jaccard: Estimate
    thresholded_jaccard: Estimate
    failure_rate: Estimate
    sensitivity: Estimate
    specificity: Estimate
    hd95: Estimate
    hd95_percent: Estimate


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Overlap of one class in one image.

    Parameters
    ----------
    name : str
    dice, jaccard : float
        In [0, 1]; both are 1 where the class is in neither mask.
    present : bool
        Whether the class is in either mask. Leave the others out of means, or a rare class looks perfect.
    """

    name: str
    dice: float
    jaccard: float
    present: bool


def score_masks(predicted: _Mask, truth: _Mask) -> ImageScores:
    """Score an outline against the true one; every value above 0 counts as lesion.

    Pixels where the truth is `IGNORED` are left out of all scores.

    Parameters
    ----------
    predicted, truth : ndarray, shape (H, W)

    Raises
    ------
    MaskError
        If the shapes differ or are not those of masks.

    Notes
    -----
    With the counts of true and false positive and negative pixels, Dice = 2 TP / (2 TP + FP + FN),
    Jaccard = TP / (TP + FP + FN), sensitivity = TP / (TP + FN), specificity = TN / (TN + FP).
    """
    _check_shapes(predicted, truth)
    counted = _counted(truth)
    guess, real = counted & (predicted > 0), counted & (truth > 0)
    dice, jaccard = overlap(guess, real)
    found, lesion = _count(guess & real), _count(real)
    wrong, background = _count(guess) - found, _count(counted) - lesion
    distance = hausdorff95(guess, real)
    failed = jaccard < FAILURE_LIMIT
    return ImageScores(
        dice=dice,
        jaccard=jaccard,
        thresholded_jaccard=0.0 if failed else jaccard,
        failed=failed,
        sensitivity=_ratio(found, lesion),
        specificity=_ratio(background - wrong, background),
        hd95=distance,
        hd95_percent=100 * distance / math.hypot(*real.shape),
    )


def score_classes(predicted: _Mask, truth: _Mask, names: Sequence[str]) -> tuple[ClassScores, ...]:
    """Score every class but the background, which is class 0.

    Parameters
    ----------
    predicted, truth : ndarray, shape (H, W)
        Class indices.
    names : sequence of str
        Names of the classes, background first.

    Raises
    ------
    MaskError
        If the shapes differ, or the truth has a class without a name.
    """
    _check_shapes(predicted, truth)
    counted = _counted(truth)
    highest = int(truth.max(initial=0, where=counted))
    if highest >= len(names):
        raise MaskError(f"The mask has a class {highest}, but the model knows {len(names) - 1} classes only.")
    return tuple(
        _score_class(name, counted & (predicted == index), truth == index)
        for index, name in enumerate(names)
        if index > 0
    )


def overlap(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the Dice and Jaccard indices of two boolean masks of one shape; both are 1 if both are empty."""
    both, total = _count(predicted & truth), _count(predicted) + _count(truth)
    return _ratio(2 * both, total), _ratio(both, total - both)


def hausdorff95(predicted: _Mask, truth: _Mask) -> float:
    """Return the 95th percentile of the Hausdorff distance between two masks.

    Parameters
    ----------
    predicted, truth : ndarray, shape (H, W)
        Everything above 0 is inside.

    Returns
    -------
    float
        Pixels. 0 if both masks are empty, the diagonal of the image if one is.

    Notes
    -----
    The 95th percentile of the distances from the border pixels of the one mask to the nearest of the other,
    taken in both directions; the larger counts, as in MONAI (MedPy pools the two directions). A border
    pixel is one with a 4-neighbor outside the mask or the image. Tools differ in all of this: Podobnik and
    Vrtovec, "Understanding implementation pitfalls of distance-based metrics for image segmentation",
    arXiv:2410.02630.
    """
    points, others = _border_pixels(predicted > 0), _border_pixels(truth > 0)
    if len(points) == 0 or len(others) == 0:
        return 0.0 if len(points) == len(others) else math.hypot(*truth.shape)
    there, _ = spatial.KDTree(others).query(points)
    back, _ = spatial.KDTree(points).query(others)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def summarize(
    scores: Sequence[ImageScores], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Summary:
    """Average the scores of many images, with intervals over images.

    Parameters
    ----------
    scores : sequence of ImageScores
        At least one.
    confidence : float
        Coverage of the intervals, in (0, 1).
    resamples : int
        Number of bootstrap samples.
    seed : int
        The same seed gives the same intervals.

    Raises
    ------
    MaskError
        If there are no scores.

    Notes
    -----
    Percentile bootstrap intervals for means. The failure rate has Wilson's interval instead: where no image
    failed, the bootstrap interval would have no width.
    """
    if not scores:
        raise MaskError("There is nothing to average: no image was scored.")
    table = np.array([dataclasses.astuple(score) for score in scores], dtype=np.float64)
    low, high = _intervals(table, confidence, resamples, seed)
    names = [field.name for field in dataclasses.fields(ImageScores)]
    means = table.mean(axis=0).tolist()
    estimates = dict(zip(names, map(Estimate, means, low, high), strict=True))
    del estimates["failed"]
    rate = _failure_rate(sum(score.failed for score in scores), len(scores), confidence)
    return Summary(images=len(scores), failure_rate=rate, **estimates)


def _counted(truth: _Mask) -> NDArray[np.bool_]:
    """Return where the truth is not `IGNORED`."""
    return np.asarray(truth != IGNORED, dtype=np.bool_)


def _check_shapes(predicted: _Mask, truth: _Mask) -> None:
    if predicted.ndim != 2 or predicted.shape != truth.shape:
        raise MaskError(f"An outline of shape {predicted.shape} cannot be scored with one of {truth.shape}.")


def _score_class(name: str, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> ClassScores:
    dice, jaccard = overlap(predicted, truth)
    return ClassScores(name, dice, jaccard, present=bool(predicted.any() or truth.any()))


def _count(mask: NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask))  # a plain int, so that scores hold plain numbers


def _ratio(part: int, whole: int) -> float:
    """Divide; 0 / 0 is 1, since a prediction of nothing where there is nothing is perfect."""
    return part / whole if whole else 1.0


def _border_pixels(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """List the pixels of a mask that have a 4-neighbor outside; shape (N, 2)."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def _failure_rate(failed: int, images: int, confidence: float) -> Estimate:
    from scipy import stats  # slow to import, and the window opens without it

    interval = stats.binomtest(failed, images).proportion_ci(confidence, method="wilson")
    return Estimate(failed / images, float(interval.low), float(interval.high))


def _intervals(
    table: NDArray[np.float64], confidence: float, resamples: int, seed: int
) -> tuple[list[float | None], list[float | None]]:
    """Bounds of the mean of every column; rows, which are images, are drawn as a whole."""
    if len(table) < 2:
        nothing: list[float | None] = [None] * table.shape[1]
        return nothing, nothing
    from scipy import stats  # see above

    result = stats.bootstrap(
        (table,),
        np.mean,
        axis=0,
        n_resamples=resamples,
        batch=100,  # all at once would take gigabytes for thousands of images
        confidence_level=confidence,
        method="percentile",  # BCa is undefined where all images have the same value
        rng=np.random.default_rng(seed),
    )
    return result.confidence_interval.low.tolist(), result.confidence_interval.high.tolist()
