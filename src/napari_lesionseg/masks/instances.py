"""Several lesions in an image, each with a number of its own that stays while outlines are corrected.

An instance map is an array of integers, shape (H, W): 0 is background, every other value one lesion. Classes
are kept beside it, in a mask of class indices. Every function here gives a new array and leaves its arguments
alone, so that a viewer can undo it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import relabel_sequential, watershed

from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks.components import connected_components
from napari_lesionseg.types import IGNORED, Probability

InstanceMap: TypeAlias = NDArray[np.integer[Any]]
"""Shape (H, W), 0 = background, every other value one lesion."""

NARROW_POINT = 0.7
"""Lesions are separated where the narrow point is narrower than this fraction of the thinner one."""

SMALLEST_RADIUS = 3.0
"""Pixels; what is thinner than this has no center of its own, so that a ragged border makes no lesions."""

SMALLEST_SHARE = 0.3
"""A lesion thinner than this share of the one it touches is taken for a bump of it."""

_EIGHT = np.ones((3, 3), dtype=bool)
_MOST_PIXELS = 1_000_000  # larger regions are subsampled to limit the time to half a second
_MANY = 100_000  # numbers above this are made dense before parts are listed one by one
_Region: TypeAlias = tuple[slice, slice]


# ------------------------------------------------------------------------------------------ finding them


def find_instances(
    labels: NDArray[np.generic],
    *,
    narrow_point: float | None = None,
    previous: InstanceMap | None = None,
    unused: int | None = None,
) -> NDArray[np.int32]:
    """Return the lesions of class indices (H, W), numbered: the connected parts of each class.

    With ``narrow_point`` lesions that touch are cut apart, see `split_touching`. That is off by default:
    where lesions seldom touch it cuts ragged predictions instead. With ``previous``, see `keep_numbers`.
    """
    parts = connected_components(np.where(labels == IGNORED, 0, labels))
    if narrow_point is not None:
        parts = split_touching(parts, narrow_point)
    return parts if previous is None else keep_numbers(previous, parts, unused)


def split_touching(parts: InstanceMap, narrow_point: float = NARROW_POINT) -> NDArray[np.int32]:
    """Cut parts at their narrow points, by the watershed of the distance to their border.

    The seeds are the regional maxima of the distance d after it was rebuilt by dilation from
    ``narrow_point`` * d below it (Vincent 1993, "Morphological grayscale reconstruction in image
    analysis"): extended maxima whose height grows with the depth.
    """
    pieces = np.zeros(parts.shape, np.int32)
    regions = list(each_instance(parts))
    step = max(1, math.ceil(math.sqrt(sum(own.size for _, _, own in regions) / _MOST_PIXELS)))
    count = 0
    for _, region, own in regions:
        cut, found = _cut(own, narrow_point, step)
        pieces[region][own] = cut[own] + count
        count += found
    return pieces


def keep_numbers(previous: InstanceMap, parts: InstanceMap, unused: int | None = None) -> NDArray[np.int32]:
    """Return new parts with the numbers of the old ones that they lie on.

    Where a lesion fell apart, the piece with most of the old pixels keeps its number; where lesions were
    joined, the whole has the number of the one it has most pixels of. New lesions get no number below
    ``unused``: pass it where the number of a deleted lesion must never come back.
    """
    _check_shape(parts, previous.shape)
    names = _matches(previous, parts)
    following = max(highest(previous) + 1, unused or 0)
    result = np.zeros(parts.shape, np.int32)
    for value, region, own in each_instance(parts):
        if value not in names:
            names[value] = following
            following += 1
        result[region][own] = names[value]
    return result


def _matches(previous: InstanceMap, parts: InstanceMap) -> dict[int, int]:
    """Map new numbers to old ones, one to one, the largest overlap first."""
    shared = (previous > 0) & (parts > 0)
    base = highest(previous) + 1
    keys, sizes = np.unique(parts[shared].astype(np.int64) * base + previous[shared], return_counts=True)
    names: dict[int, int] = {}
    taken: set[int] = set()
    for place in np.argsort(-sizes, kind="stable"):
        new, old = divmod(int(keys[place]), base)
        if new not in names and old not in taken:
            names[new] = old
            taken.add(old)
    return names


@dataclass(frozen=True, slots=True)
class Instance:
    """One lesion of an image; all lengths in pixels."""

    index: int
    area: int
    row: float
    col: float
    top: int
    left: int
    bottom: int
    right: int
    class_index: int
    class_name: str
    confidence: float | None


def list_instances(
    ids: InstanceMap,
    labels: NDArray[np.generic] | None = None,
    probability: Probability | None = None,
    classes: Sequence[str] = ("background", "lesion"),
) -> tuple[Instance, ...]:
    """Describe every lesion of an image."""
    if labels is not None:
        _check_shape(labels, ids.shape)
    if probability is not None:
        _check_shape(probability, ids.shape)
    return tuple(
        _describe(value, region, own, labels, probability, classes)
        for value, region, own in each_instance(ids)
    )


def _describe(
    value: int,
    region: _Region,
    own: NDArray[np.bool_],
    labels: NDArray[np.generic] | None,
    probability: Probability | None,
    classes: Sequence[str],
) -> Instance:
    rows, cols = np.nonzero(own)
    class_index = 1 if labels is None else _majority(labels[region][own])
    confidence = None
    if probability is not None:
        plane = probability if probability.ndim == 2 else probability[class_index]
        confidence = float(plane[region][own].mean(dtype=np.float64))
    return Instance(
        index=value,
        area=len(rows),
        row=float(rows.mean() + region[0].start),
        col=float(cols.mean() + region[1].start),
        top=region[0].start,
        left=region[1].start,
        bottom=region[0].stop,
        right=region[1].stop,
        class_index=class_index,
        class_name=classes[class_index] if class_index < len(classes) else f"class {class_index}",
        confidence=confidence,
    )


def _majority(values: NDArray[Any]) -> int:
    """Return the commonest class; the background only where there is nothing else."""
    counts = np.bincount(values.astype(np.int64), minlength=2)
    counts[IGNORED:] = 0
    return int(counts[1:].argmax() + 1) if counts[1:].any() else 0


def as_columns(rows: Sequence[Any]) -> dict[str, NDArray[Any]]:
    """Turn frozen records into columns, as the features of a Labels layer want them."""
    if not rows:
        return {}
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(rows[0])}
    return {
        name: np.array([np.nan if value is None else value for value in values])
        for name, values in columns.items()
    }


def each_instance(ids: InstanceMap) -> Iterator[tuple[int, _Region, NDArray[np.bool_]]]:
    """Yield number, bounding box and pixels within the box of each lesion, by number."""
    values: Mapping[int, int] | None = None
    if highest(ids) > _MANY:
        ids, _, inverse = relabel_sequential(ids)
        values = {place: int(inverse[place]) for place in range(1, highest(ids) + 1)}
    for place, region in enumerate(ndimage.find_objects(ids.astype(np.int32, copy=False)), 1):
        if region is not None:
            yield place if values is None else values[place], region, ids[region] == place


def highest(ids: InstanceMap) -> int:
    """Return the highest number in use, 0 if there is none."""
    return int(ids.max(initial=0))


def depth_inside(own: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of every pixel to the outside, which begins beyond the bounding box."""
    padded = ndimage.distance_transform_edt(np.pad(own, 1))
    return np.asarray(padded[1:-1, 1:-1], dtype=np.float64)


def _cut(own: NDArray[np.bool_], narrow_point: float, step: int) -> tuple[NDArray[np.int32], int]:
    """Return the pieces of one part, numbered from 1, and their count, from every ``step``-th pixel."""
    coarse = own[::step, ::step]
    depth = step * depth_inside(coarse)
    seeds, found = _seeds(depth, narrow_point)
    if found < 2:
        return own.astype(np.int32), 1
    pieces = flood(depth, seeds, coarse)
    if step > 1:
        pieces = _nearest_piece(pieces).repeat(step, 0).repeat(step, 1)[: own.shape[0], : own.shape[1]]
    return pieces, found


def _seeds(depth: NDArray[np.float64], narrow_point: float) -> tuple[NDArray[np.int32], int]:
    """Mark the centers of a part with numbers from 1, and count them."""
    floor = max(SMALLEST_RADIUS, SMALLEST_SHARE * float(depth.max(initial=0)))
    filled = np.maximum(depth, floor) * (depth > 0)
    rebuilt = reconstruction(filled * narrow_point, filled)
    centers = local_maxima(rebuilt, connectivity=2)
    seeds = connected_components(centers > 0)
    return seeds, highest(seeds)


def flood(
    depth: NDArray[np.float64], seeds: NDArray[np.integer[Any]], own: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Divide a region among seeds; what no seed reaches goes to the nearest piece."""
    # Never with watershed_line: on plateaus, which distances are full of, it takes forever and all memory.
    pieces = watershed(-depth, seeds, mask=own, connectivity=_EIGHT)
    if (pieces[own] == 0).any():
        pieces = np.where(own, _nearest_piece(pieces), 0)
    return np.asarray(pieces, dtype=np.int32)


def _nearest_piece(pieces: NDArray[np.int32]) -> NDArray[np.int32]:
    nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
    return np.asarray(pieces[tuple(nearest)])


def _check_shape(array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape[-2:] != shape:
        raise MaskError(f"The lesions are of shape {shape}, but what belongs to them of {array.shape}.")
