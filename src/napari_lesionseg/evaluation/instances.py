"""How well single lesions are found: matched one to one, counted, and ranked by confidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from napari_lesionseg.errors import MaskError
from napari_lesionseg.evaluation.evaluate import Measured
from napari_lesionseg.masks.instances import InstanceMap, find_instances, highest, list_instances
from napari_lesionseg.types import IGNORED

COCO_THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
"""Overlaps at which COCO takes a lesion for found, 0.50 to 0.95."""

_RECALLS = np.linspace(0, 1, 101)  # at which COCO reads the precision


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """How the lesions of two maps overlap.

    Parameters
    ----------
    predicted, truth : ndarray of int
        Their numbers, ascending; shapes (P,) and (T,).
    jaccard : ndarray of float, shape (P, T)
        Jaccard index of every pair, in [0, 1].
    """

    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    jaccard: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MatchCounts:
    """Lesions found and missed; counts of several images can be added with ``+``.

    Parameters
    ----------
    matched : int
        Lesions found, one to one.
    extra : int
        Found where there is none.
    missed : int
        There, but not found.
    jaccard_sum : float
        Sum of the Jaccard indices of the matched ones.
    """

    matched: int = 0
    extra: int = 0
    missed: int = 0
    jaccard_sum: float = 0.0

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return MatchCounts(
            self.matched + other.matched,
            self.extra + other.extra,
            self.missed + other.missed,
            self.jaccard_sum + other.jaccard_sum,
        )

    @property
    def present(self) -> bool:
        """Whether there is anything to count."""
        return bool(self.matched or self.extra or self.missed)

    @property
    def precision(self) -> float:
        """Share of the found lesions that are there, in [0, 1]; 1 if none was found."""
        return _ratio(self.matched, self.matched + self.extra)

    @property
    def recall(self) -> float:
        """Share of the lesions that were found, in [0, 1]; 1 if there are none."""
        return _ratio(self.matched, self.matched + self.missed)

    @property
    def f1(self) -> float:
        """2 matched / (2 matched + extra + missed), in [0, 1]; 1 if there is nothing at all."""
        return _ratio(2 * self.matched, 2 * self.matched + self.extra + self.missed)

    @property
    def mean_jaccard(self) -> float:
        """Mean Jaccard index of the matched lesions, in [0, 1]; 1 if there are none."""
        return _ratio(self.jaccard_sum, self.matched)

    @property
    def quality(self) -> float:
        """How well lesions are found times how well they fit, in [0, 1]: ``f1`` times ``mean_jaccard``."""
        return self.f1 * self.mean_jaccard


@dataclass(frozen=True, slots=True)
class InstanceScores:
    """How well the lesions of many images were found.

    Parameters
    ----------
    lesions : int
        True lesions.
    precision, recall, f1, mean_jaccard : float
        See `MatchCounts`.
    average_precision, average_precision_50 : float or None
        COCO's AP and AP50, see `average_precision`; None if there are no lesions.
    """

    lesions: int
    precision: float
    recall: float
    f1: float
    mean_jaccard: float
    average_precision: float | None
    average_precision_50: float | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """The lesions found in one image, with confidences, and the true ones.

    Parameters
    ----------
    predicted, truth : InstanceMap
        Of the same shape.
    confidences : mapping of int to float
        Of every number in ``predicted``.
    """

    predicted: InstanceMap
    confidences: Mapping[int, float]
    truth: InstanceMap


@dataclass(frozen=True, slots=True)
class AveragePrecision:
    """Average precision as COCO defines it.

    Parameters
    ----------
    mean : float
        Mean over all thresholds, in [0, 1]; COCO's "AP".
    thresholds : tuple of float
        The overlaps.
    values : tuple of float
        Average precision at each of them.
    """

    mean: float
    thresholds: tuple[float, ...]
    values: tuple[float, ...]


def overlaps(predicted: InstanceMap, truth: InstanceMap) -> Overlaps:
    """Measure the Jaccard index of every pair of lesions of two maps.

    Raises
    ------
    MaskError
        If the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise MaskError(f"Lesions of shape {predicted.shape} cannot be compared with those of {truth.shape}.")
    found, found_areas = np.unique(predicted[predicted > 0], return_counts=True)
    real, real_areas = np.unique(truth[truth > 0], return_counts=True)
    shared = (predicted > 0) & (truth > 0)
    base = highest(truth) + 1
    keys, sizes = np.unique(predicted[shared].astype(np.int64) * base + truth[shared], return_counts=True)
    both = np.zeros((len(found), len(real)))
    both[np.searchsorted(found, keys // base), np.searchsorted(real, keys % base)] = sizes
    union = found_areas[:, None] + real_areas[None] - both
    return Overlaps(found.astype(np.int64), real.astype(np.int64), both / union)


def match_instances(overlap: Overlaps, threshold: float = 0.5) -> dict[int, int]:
    """Pair lesions one to one so that as many as possible overlap by the threshold, and then most overall.

    Parameters
    ----------
    overlap : Overlaps
        Of two maps.
    threshold : float
        Least Jaccard index of a pair, in (0, 1].

    Returns
    -------
    dict of int to int
        Numbers of the true lesions by those of the found ones. Above 0.5 there is only one way to pair them.
    """
    enough = overlap.jaccard >= threshold
    # each pair beyond the threshold is worth more than all overlap that could be lost for it
    worth = np.where(enough, len(overlap.truth) + 1 + overlap.jaccard, 0)
    rows, cols = linear_sum_assignment(worth, maximize=True)
    return {
        int(overlap.predicted[row]): int(overlap.truth[col])
        for row, col in zip(rows, cols, strict=True)
        if enough[row, col]
    }


def count_matches(predicted: InstanceMap, truth: InstanceMap, threshold: float = 0.5) -> MatchCounts:
    """Count the lesions of one image that were found and missed.

    Parameters
    ----------
    predicted, truth : InstanceMap
        Of the same shape.
    threshold : float
        Least Jaccard index of a lesion that counts as found, in (0, 1].

    Raises
    ------
    MaskError
        If the shapes differ.
    """
    overlap = overlaps(predicted, truth)
    pairs = match_instances(overlap, threshold)
    total = sum(
        float(overlap.jaccard[overlap.predicted == found, overlap.truth == real].item())
        for found, real in pairs.items()
    )
    matched = len(pairs)
    return MatchCounts(matched, len(overlap.predicted) - matched, len(overlap.truth) - matched, total)


def average_precision(
    images: Iterable[Ranked], thresholds: Sequence[float] = COCO_THRESHOLDS
) -> AveragePrecision | None:
    """Measure how well confidence tells found lesions from false ones, over all images together.

    Parameters
    ----------
    images : iterable of Ranked
        All images; they are iterated over once.
    thresholds : sequence of float
        Least Jaccard indices of a lesion that counts as found.

    Returns
    -------
    AveragePrecision or None
        None if there is no true lesion in any image.

    Raises
    ------
    MaskError
        If the shapes of two maps differ.

    Notes
    -----
    COCO's definition (Lin et al. 2014, arXiv:1405.0312, as in ``pycocotools``): in every image, found
    lesions choose in the order of their confidence the true lesion that overlaps most of those left. Over all
    images, the precision is made to fall with the recall, and averaged over 101 recalls. There is no limit
    of 100 lesions an image.
    """
    return _average([_hits(image, thresholds) for image in images], thresholds)


class InstanceTally:
    """Lesions found and missed, summed over images as they are evaluated; see `iter_evaluate`.

    A lesion is a connected part of a class. It is found, whatever its class, at a Jaccard index of 0.5.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = tuple(classes)
        self._single = len(classes) == 2
        self._counts = MatchCounts()
        self._hits: list[_Hits] = []

    def empty(self) -> InstanceTally:
        """Return a tally of the same classes that counted nothing yet."""
        return InstanceTally(self._classes)

    def merge(self, other: InstanceTally) -> None:
        """Add what another tally counted in other images."""
        self._counts += other._counts
        self._hits += other._hits

    def add(self, measured: Measured) -> None:
        """Count the lesions of one more image."""
        labels = (measured.truth > 0) & (measured.truth != IGNORED) if self._single else measured.truth
        predicted, truth = find_instances(measured.predicted), find_instances(labels)
        rows = list_instances(predicted, measured.predicted, measured.probability)
        confidences = {row.index: row.confidence or 0.0 for row in rows}
        self._counts += count_matches(predicted, truth)
        self._hits.append(_hits(Ranked(predicted, confidences, truth), COCO_THRESHOLDS))

    def scores(self) -> InstanceScores:
        """Return the scores over all images so far."""
        average = _average(self._hits, COCO_THRESHOLDS)
        return InstanceScores(
            lesions=self._counts.matched + self._counts.missed,
            precision=self._counts.precision,
            recall=self._counts.recall,
            f1=self._counts.f1,
            mean_jaccard=self._counts.mean_jaccard,
            average_precision=average.mean if average else None,
            average_precision_50=average.values[0] if average else None,
        )


class _Hits(NamedTuple):
    """What the average precision needs to know of an image."""

    confidence: NDArray[np.float64]  # (P,), falling
    found: NDArray[np.bool_]  # (thresholds, P)
    lesions: int


def _hits(image: Ranked, thresholds: Sequence[float]) -> _Hits:
    overlap = overlaps(image.predicted, image.truth)
    confidence = np.array([image.confidences[int(number)] for number in overlap.predicted])
    order = np.argsort(-confidence, kind="stable")
    found = np.array([_choose(overlap.jaccard[order], level) for level in thresholds])
    return _Hits(confidence[order], found, len(overlap.truth))


def _average(images: Sequence[_Hits], thresholds: Sequence[float]) -> AveragePrecision | None:
    total = sum(image.lesions for image in images)
    if not total:
        return None
    order = np.argsort(-np.concatenate([image.confidence for image in images]), kind="stable")
    found = np.concatenate([image.found for image in images], axis=1)[:, order]
    values = tuple(_area(row, total) for row in found)
    return AveragePrecision(float(np.mean(values)), tuple(thresholds), values)


def _choose(jaccard: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """Match found lesions, the most confident first, to true ones; (P,), whether each got one."""
    free = jaccard.copy()
    hits = np.zeros(len(free), dtype=bool)
    for row in range(len(free) if free.size else 0):
        best = int(free[row].argmax())
        if free[row, best] >= threshold:
            hits[row] = True
            free[:, best] = -1
    return hits


def _area(hits: NDArray[np.bool_], total: int) -> float:
    """Average the precision over recalls, where ``hits`` are in the order of falling confidence."""
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / total, _RECALLS, side="left")
    return float(np.append(falling, 0)[places].mean())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def add_counts(counts: Iterable[MatchCounts]) -> MatchCounts:
    """Add up the counts of several images."""
    return sum(counts, MatchCounts())
