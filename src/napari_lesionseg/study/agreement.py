"""Agreement between annotators, and their consensus."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.errors import StudyError, how_to_install
from napari_lesionseg.evaluation.keypoints import similarity
from napari_lesionseg.study.events import MaskEvent
from napari_lesionseg.study.landmarks import people_in
from napari_lesionseg.study.state import Verdict
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import LabelImage, Landmarks

_ITERATIONS = 200

Work: TypeAlias = LabelImage | tuple[Landmarks, ...]
"""What an annotator decided on: a mask (H, W), or the people of an image."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Mean similarity of every pair of annotators, who are in the order of rows and columns."""

    annotators: tuple[str, ...]
    similarity: NDArray[np.float64]  # (N, N), symmetric; NaN where two annotators share no image
    images: NDArray[np.int64]  # (N, N), number of images that two annotators share

    @property
    def mean(self) -> float | None:
        """Mean over the pairs of different annotators that share images; None when there are none."""
        upper = self.similarity[np.triu_indices(len(self.annotators), 1)]
        upper = upper[~np.isnan(upper)]
        return float(upper.mean()) if len(upper) else None


@dataclass(frozen=True, slots=True)
class Consensus:
    """The consensus of several annotators, and how each of them compares with it."""

    labels: LabelImage  # (H, W), 1 where the class is more likely than not
    probability: NDArray[np.float32]  # (H, W)
    sensitivity: Mapping[str, float]
    specificity: Mapping[str, float]


def read_verdicts(study: Study, image_id: str) -> dict[str, Work]:
    """Read the mask (H, W), or the people, of each annotator's verdict, by name, as far as it may be seen.

    "No lesion" is all background, or nobody. Reviews are no verdicts: who reviews has seen the other's mask.
    """
    return {
        annotator: read_verdict(study, verdict)
        for annotator, verdict in sorted(study.state.images[image_id].verdicts.items())
        if verdict.review_of is None
    }


def read_verdict(study: Study, verdict: Verdict | MaskEvent) -> Work:
    """Read the mask (H, W) of a verdict, or its people; "no lesion" is all background, or nobody."""
    mask_event = verdict if isinstance(verdict, MaskEvent) else None
    if study.info.landmarks is not None:
        return people_in(study, mask_event)
    if mask_event is not None:
        return study.read_revision(mask_event)
    return np.zeros(study.state.images[verdict.image_id].shape, np.uint8)


def compare(first: Work, second: Work, label: int | None = None) -> float:
    """Return how similar the work of two annotators is, 0 to 1: Dice of masks, OKS of people."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return dice(first, second, label)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return similarity(first, second)
    raise StudyError("Outlines and landmarks cannot be compared.")


def dice(first: LabelImage, second: LabelImage, label: int | None = None) -> float:
    """Return the Dice coefficient, 2 |A and B| / (|A| + |B|), of a class (None: all); 1 if both are empty."""
    if first.shape != second.shape:
        raise StudyError(f"Outlines of shapes {first.shape} and {second.shape} cannot be compared.")
    a, b = _is(first, label), _is(second, label)
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def measure_agreement(works: Iterable[Mapping[str, Work]], label: int | None = None) -> Agreement:
    """Compare every pair of annotators over all images they share, given as `read_verdicts`."""
    found: dict[tuple[str, str], list[float]] = {}
    for by_annotator in works:
        names = sorted(by_annotator)
        for place, first in enumerate(names):
            for second in names[place:]:
                value = compare(by_annotator[first], by_annotator[second], label)
                found.setdefault((first, second), []).append(value)
    annotators = tuple(sorted({annotator for pair in found for annotator in pair}))
    means = np.full((len(annotators),) * 2, np.nan)
    counts = np.zeros((len(annotators),) * 2, np.int64)
    for (first, second), values in found.items():
        i, j = annotators.index(first), annotators.index(second)
        means[i, j] = means[j, i] = np.mean(values)
        counts[i, j] = counts[j, i] = len(values)
    return Agreement(annotators, means, counts)


@dataclass(frozen=True, slots=True)
class FieldAgreement:
    """How well annotators agree on the value of a field, beyond chance: 1 is full agreement, 0 is chance."""

    field: str
    images: int  # that at least two annotators filled in
    cohen: Mapping[tuple[str, str], tuple[int, float]]  # by pair: images of both, and Cohen's kappa
    fleiss: float | None  # over the images that all annotators filled in; None where there are none


def measure_field_agreement(field: str, ratings: Sequence[Mapping[str, str]]) -> FieldAgreement | None:
    """Compare what annotators filled in, given as values by annotator for each image or lesion.

    J. Cohen, "A coefficient of agreement for nominal scales" (1960); J. L. Fleiss, "Measuring nominal scale
    agreement among many raters" (1971), as statsmodels has them. Kappa is NaN where everybody always fills
    in the same value, since chance alone would explain that. None: no image was filled in by two annotators.
    """
    shared = [rating for rating in ratings if len(rating) > 1]
    if not shared:
        return None
    annotators = sorted({annotator for rating in shared for annotator in rating})
    cohen: dict[tuple[str, str], tuple[int, float]] = {}
    for pair in itertools.combinations(annotators, 2):
        both = [[rating[name] for name in pair] for rating in shared if set(pair) <= rating.keys()]
        if both:
            cohen[pair] = len(both), _kappa(both)
    complete = [[rating[name] for name in annotators] for rating in shared if len(rating) == len(annotators)]
    fleiss = _kappa(complete, fleiss=True) if complete else None
    return FieldAgreement(field, len(shared), cohen, fleiss)


def _kappa(ratings: Sequence[Sequence[str]], *, fleiss: bool = False) -> float:
    """Return Cohen's or Fleiss' kappa of one row of values for each image."""
    inter_rater = _inter_rater()
    values = {value: number for number, value in enumerate(sorted({v for row in ratings for v in row}))}
    if len(values) < 2:
        return math.nan
    table = np.array([[values[value] for value in row] for row in ratings])
    if fleiss:
        return float(inter_rater.fleiss_kappa(inter_rater.aggregate_raters(table, len(values))[0]))
    counts = inter_rater.to_table(table, len(values))[0]
    return float(inter_rater.cohens_kappa(counts, return_results=False))


def _inter_rater() -> Any:
    """Import statsmodels, which is large and only needed here."""
    try:
        return importlib.import_module("statsmodels.stats.inter_rater")
    except ImportError as error:
        raise StudyError(
            f"The agreement on fields needs statsmodels: {how_to_install('agreement')}."
        ) from error


def find_consensus(masks: Mapping[str, Work], label: int = 1) -> Consensus:
    """Estimate the consensus of at least two annotators' masks (H, W) with STAPLE.

    Annotators are weighed by how well they agree with the estimate: Warfield, Zou and Wells, "Simultaneous
    truth and performance level estimation (STAPLE)", IEEE Transactions on Medical Imaging 23 (2004), as
    SimpleITK has it.
    """
    if len(masks) < 2:
        raise StudyError("A consensus needs the outlines of at least two annotators.")
    drawn = {name: labels for name, labels in masks.items() if isinstance(labels, np.ndarray)}
    if len(drawn) < len(masks):
        raise StudyError("There is a consensus of outlines only, and none of landmarks.")
    if len({labels.shape for labels in drawn.values()}) > 1:
        raise StudyError("The annotators' outlines differ in shape; they belong to different images.")
    planes = {annotator: _is(labels, label) for annotator, labels in drawn.items()}
    first = next(iter(planes.values()))
    if all(np.array_equal(plane, first) for plane in planes.values()):
        # STAPLE divides by zero when nobody, or everybody, marks anything.
        ones = dict.fromkeys(planes, 1.0)
        return Consensus(first.astype(np.uint8), first.astype(np.float32), ones, ones)
    return _staple(planes)


def _staple(planes: Mapping[str, NDArray[np.bool_]]) -> Consensus:
    """Run SimpleITK's STAPLE filter."""
    sitk = _simpleitk()
    staple = sitk.STAPLEImageFilter()
    staple.SetForegroundValue(1)
    staple.SetMaximumIterations(_ITERATIONS)
    images = [sitk.GetImageFromArray(plane.astype(np.uint8)) for plane in planes.values()]
    probability = sitk.GetArrayFromImage(staple.Execute(images)).astype(np.float32)
    return Consensus(
        labels=(probability > 0.5).astype(np.uint8),
        probability=probability,
        sensitivity=dict(zip(planes, staple.GetSensitivity(), strict=True)),
        specificity=dict(zip(planes, staple.GetSpecificity(), strict=True)),
    )


def _simpleitk() -> Any:
    """Import SimpleITK, which is large and only needed here."""
    try:
        return importlib.import_module("SimpleITK")
    except ImportError as error:
        raise StudyError(f"A consensus needs SimpleITK: {how_to_install('agreement')}.") from error


def _is(labels: LabelImage, label: int | None) -> NDArray[np.bool_]:
    return np.asarray(labels > 0 if label is None else labels == label)
