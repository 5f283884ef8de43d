"""How far annotators agree, and what they would have drawn together."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.errors import StudyError
from napari_lesionseg.types import LabelImage

_ITERATIONS = 200


@dataclass(frozen=True, slots=True)
class Agreement:
    """Mean Dice of every pair of annotators.

    Parameters
    ----------
    annotators : tuple of str
        In the order of rows and columns.
    dice : ndarray
        (N, N) float64, symmetric; NaN where two annotators share no image.
    images : ndarray
        (N, N) int64, number of images that two annotators share.
    """

    annotators: tuple[str, ...]
    dice: NDArray[np.float64]
    images: NDArray[np.int64]

    @property
    def mean(self) -> float | None:
        """Mean over the pairs of different annotators that share images; None when there are none."""
        upper = self.dice[np.triu_indices(len(self.annotators), 1)]
        upper = upper[~np.isnan(upper)]
        return float(upper.mean()) if len(upper) else None


@dataclass(frozen=True, slots=True)
class Consensus:
    """What several annotators would have drawn together.

    Parameters
    ----------
    labels : ndarray
        (H, W) uint8, 1 where the class is more likely than not.
    probability : ndarray
        (H, W) float32.
    sensitivity, specificity : mapping of str to float
        How each annotator compares with the consensus.
    """

    labels: LabelImage
    probability: NDArray[np.float32]
    sensitivity: Mapping[str, float]
    specificity: Mapping[str, float]


def dice(first: LabelImage, second: LabelImage, label: int | None = None) -> float:
    """Dice coefficient, 2 |A and B| / (|A| + |B|), of two outlines.

    Parameters
    ----------
    first, second : ndarray
        (H, W) uint8, of one shape.
    label : int, optional
        The class that is compared; None: anything but background.

    Returns
    -------
    float
        1 when both are empty.

    Raises
    ------
    StudyError
        When the shapes differ.
    """
    if first.shape != second.shape:
        raise StudyError(f"Outlines of shapes {first.shape} and {second.shape} cannot be compared.")
    a, b = _is(first, label), _is(second, label)
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def measure_agreement(masks: Iterable[Mapping[str, LabelImage]], label: int | None = None) -> Agreement:
    """Compare every pair of annotators over all images they share.

    Parameters
    ----------
    masks : iterable of mappings
        For each image, the annotators' outlines, as `Study.verdict_masks` gives them; read one by one.
    label : int, optional
        The class that is compared; None: anything but background.

    Returns
    -------
    Agreement

    Raises
    ------
    StudyError
        When outlines of one image differ in shape.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for by_annotator in masks:
        names = sorted(by_annotator)
        for place, first in enumerate(names):
            for second in names[place:]:
                value = dice(by_annotator[first], by_annotator[second], label)
                found.setdefault((first, second), []).append(value)
    annotators = tuple(sorted({annotator for pair in found for annotator in pair}))
    means = np.full((len(annotators),) * 2, np.nan)
    counts = np.zeros((len(annotators),) * 2, np.int64)
    for (first, second), values in found.items():
        i, j = annotators.index(first), annotators.index(second)
        means[i, j] = means[j, i] = np.mean(values)
        counts[i, j] = counts[j, i] = len(values)
    return Agreement(annotators, means, counts)


def find_consensus(masks: Mapping[str, LabelImage], label: int = 1) -> Consensus:
    """Estimate the outline behind several annotators' outlines with STAPLE.

    Annotators are weighed by how well they agree with the estimate: Warfield, Zou and Wells, "Simultaneous
    truth and performance level estimation (STAPLE)", IEEE Transactions on Medical Imaging 23 (2004), as
    SimpleITK has it.

    Parameters
    ----------
    masks : mapping of str to ndarray
        (H, W) uint8 by annotator, at least two, of one shape.
    label : int
        The class.

    Returns
    -------
    Consensus

    Raises
    ------
    StudyError
        When there are fewer than two annotators, shapes differ, or SimpleITK is not installed.
    """
    if len(masks) < 2:
        raise StudyError("A consensus needs the outlines of at least two annotators.")
    if len({labels.shape for labels in masks.values()}) > 1:
        raise StudyError("The annotators' outlines differ in shape; they belong to different images.")
    planes = {annotator: _is(labels, label) for annotator, labels in masks.items()}
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
        raise StudyError(
            "A consensus needs SimpleITK; install it with: pip install 'napari-lesionseg[agreement]'"
        ) from error


def _is(labels: LabelImage, label: int | None) -> NDArray[np.bool_]:
    return np.asarray(labels > 0 if label is None else labels == label)
