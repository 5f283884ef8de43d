"""Panoptic images: every pixel has one class and, where the class is one of things, one number.

Things are counted, such as lesions or people; stuff is not, such as skin or hair. The quality of such
images is measured as in Kirillov et al., "Panoptic segmentation", CVPR 2019, arXiv:1801.00868.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.evaluation.evaluate import Measured
from napari_lesionseg.evaluation.instances import MatchCounts
from napari_lesionseg.masks.instances import InstanceMap, each_instance, find_instances, highest
from napari_lesionseg.types import IGNORED, LabelImage

_Areas = dict[int, int]
_Shared = dict[tuple[int, int], int]


@dataclass(frozen=True, slots=True, eq=False)
class PanopticMap:
    """Classes and numbers of things of every pixel of an image.

    Parameters
    ----------
    classes : LabelImage
        Class indices, shape (H, W), background first; 255 is ignored.
    ids : ndarray of int32, shape (H, W)
        Numbers of things; 0 where the class is stuff.
    """

    classes: LabelImage
    ids: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PanopticQuality:
    """Panoptic quality of one or more images; several can be added with ``+``.

    Parameters
    ----------
    classes : tuple of MatchCounts
        The segments of each class, background first: found if of the same class with a Jaccard index above
        0.5. Their ``quality`` is the panoptic quality, ``f1`` the recognition quality and ``mean_jaccard``
        the segmentation quality.
    things : frozenset of int
        Which of them are things.
    """

    classes: tuple[MatchCounts, ...]
    things: frozenset[int]

    def __add__(self, other: PanopticQuality) -> PanopticQuality:
        if len(self.classes) != len(other.classes) or self.things != other.things:
            raise MaskError("Panoptic qualities of different classes cannot be added.")
        pairs = zip(self.classes, other.classes, strict=True)
        return PanopticQuality(tuple(one + two for one, two in pairs), self.things)

    @property
    def quality(self) -> float:
        """Mean quality of the classes that were drawn or found, in [0, 1]; 1 if there were none."""
        return self._mean(range(len(self.classes)))

    @property
    def quality_of_things(self) -> float:
        """The same of things alone."""
        return self._mean(self.things)

    @property
    def quality_of_stuff(self) -> float:
        """The same of stuff alone."""
        return self._mean(set(range(len(self.classes))) - self.things)

    def _mean(self, indices: Collection[int]) -> float:
        present = [self.classes[index] for index in indices if self.classes[index].present]
        return fmean(part.quality for part in present) if present else 1.0


def make_panoptic(labels: LabelImage, ids: InstanceMap, things: Collection[int]) -> PanopticMap:
    """Combine classes and lesions, so that every pixel has one class and every thing one number.

    Parameters
    ----------
    labels : LabelImage
        Class indices, shape (H, W), background first; 255 is ignored.
    ids : InstanceMap
        Lesions, shape (H, W).
    things : collection of int
        Indices of the classes that are things.

    Returns
    -------
    PanopticMap
        A lesion that covers several things has the class of most of its pixels. Pixels of a thing without a
        number become additional lesions, numbered after the others. Numbers on stuff are left out.

    Raises
    ------
    MaskError
        If the shapes differ.
    """
    if labels.shape != ids.shape:
        raise MaskError(f"Lesions of shape {ids.shape} do not belong to classes of {labels.shape}.")
    classes = labels.copy()
    is_thing = np.isin(labels, list(things))
    numbers = np.where(is_thing, ids, 0).astype(np.int32)
    for _, region, own in each_instance(numbers):
        classes[region][own] = np.bincount(labels[region][own]).argmax()
    nameless = is_thing & (numbers == 0)
    extra = find_instances(np.where(nameless, labels, 0))
    numbers[nameless] = extra[nameless] + highest(numbers)
    return PanopticMap(classes, numbers)


def panoptic_quality(
    predicted: PanopticMap, truth: PanopticMap, n_classes: int, things: Collection[int]
) -> PanopticQuality:
    """Measure the panoptic quality of one image; add up those of several.

    Parameters
    ----------
    predicted, truth : PanopticMap
        Of the same shape.
    n_classes : int
        Number of classes, background included.
    things : collection of int
        Indices of the classes that are things; every other class has at most one segment in an image.

    Raises
    ------
    MaskError
        If the shapes differ.

    Notes
    -----
    Pixels that count for nothing in the truth are left out of unions, and found segments that lie on them for
    the most part are not held against the prediction, as in the reference implementation (panopticapi).
    """
    if predicted.classes.shape != truth.classes.shape:
        shapes = f"{predicted.classes.shape} and {truth.classes.shape}"
        raise MaskError(f"Panoptic images of different shapes, {shapes}, cannot be compared.")
    base = max(highest(predicted.ids), highest(truth.ids)) + 1
    found, real = _segments(predicted, things, base), _segments(truth, things, base)
    found_areas, real_areas, shared = _areas(found), _areas(real), _shared_areas(found, real)
    ignored = {guess: shared.get((guess, IGNORED * base), 0) for guess in found_areas}
    counts = [MatchCounts()] * (IGNORED + 1)
    paired: set[tuple[str, int]] = set()
    for (guess, true), both in shared.items():
        if not guess // base == true // base != IGNORED:
            continue
        jaccard = both / (found_areas[guess] - ignored[guess] + real_areas[true] - both)
        if jaccard > 0.5:
            counts[guess // base] += MatchCounts(matched=1, jaccard_sum=jaccard)
            paired |= {("found", guess), ("real", true)}
    for guess, area in found_areas.items():
        if ("found", guess) not in paired and ignored[guess] <= area / 2:
            counts[guess // base] += MatchCounts(extra=1)
    for true in real_areas:
        if ("real", true) not in paired:
            counts[true // base] += MatchCounts(missed=1)
    return PanopticQuality(tuple(counts[:n_classes]), frozenset(things))


class PanopticTally:
    """Panoptic quality, summed over images as they are evaluated; see `iter_evaluate`."""

    def __init__(self, classes: Sequence[str], stuff: Collection[str] = ()) -> None:
        unknown = sorted(set(stuff) - set(classes))
        if unknown:
            raise MaskError(f"There is no class '{unknown[0]}'; the classes are {', '.join(classes)}.")
        self._classes, self._stuff = tuple(classes), tuple(stuff)
        self._single = len(classes) == 2
        self._things = frozenset(i for i, name in enumerate(classes) if i and name not in stuff)
        self._n_classes = len(classes)
        self.quality = PanopticQuality((MatchCounts(),) * len(classes), self._things)

    def empty(self) -> PanopticTally:
        """Return a tally of the same classes that counted nothing yet."""
        return PanopticTally(self._classes, self._stuff)

    def merge(self, other: PanopticTally) -> None:
        """Add what another tally counted in other images."""
        self.quality += other.quality

    def add(self, measured: Measured) -> None:
        """Add one more image, in which things are the connected parts of their classes."""
        labels = measured.truth
        if self._single:
            labels = np.where(labels == IGNORED, labels, (labels > 0).view(np.uint8))
        nothing = np.zeros(labels.shape, np.int32)
        predicted, truth = (
            make_panoptic(classes, nothing, self._things) for classes in (measured.predicted, labels)
        )
        self.quality += panoptic_quality(predicted, truth, self._n_classes, self._things)


def _segments(image: PanopticMap, things: Collection[int], base: int) -> NDArray[np.int64]:
    """Return a number for every segment: that of its class times ``base``, plus that of the thing."""
    classes = image.classes.astype(np.int64)
    return classes * base + np.where(np.isin(classes, list(things)), image.ids, 0)


def _areas(segments: NDArray[np.int64]) -> _Areas:
    values, sizes = np.unique(segments, return_counts=True)
    return dict(zip(values.tolist(), sizes.tolist(), strict=True))


def _shared_areas(found: NDArray[np.int64], real: NDArray[np.int64]) -> _Shared:
    """Count the pixels that two segments have in common, for all pairs that have any."""
    base = int(real.max(initial=0)) + 1
    values, sizes = np.unique(found * base + real, return_counts=True)
    pairs: list[Any] = [divmod(value, base) for value in values.tolist()]
    return dict(zip(pairs, sizes.tolist(), strict=True))
