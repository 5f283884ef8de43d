"""Corrections of single lesions: merge, cut, renumber, delete; each gives a new instance map."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import draw

from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks.components import bounding_box, connected_components
from napari_lesionseg.masks.instances import (
    NARROW_POINT,
    InstanceMap,
    depth_inside,
    each_instance,
    flood,
    highest,
    split_touching,
)

_CROSS = ndimage.generate_binary_structure(2, 1)
_Point: TypeAlias = tuple[float, float]
_Region: TypeAlias = tuple[slice, slice]


def merge_instances(ids: InstanceMap, chosen: Collection[int]) -> InstanceMap:
    """Merge several lesions under the lowest of their numbers; they need not touch."""
    _check_present(ids, chosen)
    if len(set(chosen)) < 2:
        raise MaskError("Choose at least two lesions to merge.")
    merged = ids.copy()
    merged[np.isin(ids, list(chosen))] = min(chosen)
    return merged


def split_by_line(
    ids: InstanceMap, target: int, line: Sequence[_Point], unused: int | None = None
) -> InstanceMap:
    """Cut a lesion along a line of (row, col); the largest piece keeps the number.

    The line may begin and end outside the lesion. New pieces get no number below ``unused`` or in use.
    """
    region, own = _instance(ids, target)
    cut = _draw(line, region) & own
    before, pieces = connected_components(own), connected_components(own & ~cut)
    if highest(pieces) <= highest(before):
        raise MaskError(f"The line does not cut lesion {target} in two; draw it from border to border.")
    nearest = ndimage.distance_transform_edt(pieces == 0, return_distances=False, return_indices=True)
    return _write_pieces(ids, region, np.where(own, pieces[tuple(nearest)], 0), before, target, unused)


def split_by_seeds(
    ids: InstanceMap, target: int, seeds: Sequence[_Point], unused: int | None = None
) -> InstanceMap:
    """Cut a lesion between (row, col) points in its parts, by the watershed of the distance to its border."""
    region, own = _instance(ids, target)
    markers = np.zeros(own.shape, np.int32)
    count = 0
    for row, col in seeds:
        place = (round(row) - region[0].start, round(col) - region[1].start)
        inside = 0 <= place[0] < own.shape[0] and 0 <= place[1] < own.shape[1] and own[place]
        if inside and not markers[place]:
            count += 1
            markers[place] = count
    if count < 2:
        raise MaskError(f"Set at least two points inside lesion {target} to cut it between them.")
    pieces = flood(depth_inside(own), markers, own)
    return _number_pieces(ids, region, own, pieces, [target, *_fresh(ids, count - 1, unused)])


def split_at_narrow_point(
    ids: InstanceMap, target: int, narrow_point: float = NARROW_POINT, unused: int | None = None
) -> InstanceMap:
    """Cut a lesion where it is narrow, as `split_touching` does; the largest piece keeps the number."""
    region, own = _instance(ids, target)
    parts = connected_components(own)
    pieces = split_touching(parts, narrow_point)
    if pieces.max() < 2:
        raise MaskError(f"Lesion {target} has no narrow point; cut it by a line.")
    return _write_pieces(ids, region, pieces, np.ones_like(parts), target, unused)


def renumber_instance(ids: InstanceMap, old: int, new: int) -> InstanceMap:
    """Return the map with another number for a lesion."""
    _check_present(ids, [old])
    if new == old:
        return ids.copy()
    _check_number(ids, new)
    if (ids == new).any():
        raise MaskError(f"Number {new} is taken; merge the lesions or choose another number.")
    return np.where(ids == old, np.asarray(new, ids.dtype), ids)


def delete_instances(ids: InstanceMap, chosen: Collection[int]) -> InstanceMap:
    """Take lesions out of the map."""
    _check_present(ids, chosen)
    kept = ids.copy()
    kept[np.isin(ids, list(chosen))] = 0
    return kept


def follow_outline(
    ids: InstanceMap, outline: NDArray[np.number[Any] | np.bool_], unused: int | None = None
) -> InstanceMap:
    """Return the lesions of a corrected outline, with their numbers, cuts and mergers.

    Added pixels go to the nearest lesion that they touch; parts that touch none become new lesions. Where a
    lesion fell apart, its largest piece keeps the number. New lesions get no number below ``unused``.
    """
    if outline.shape != ids.shape:
        raise MaskError(f"The lesions are of shape {ids.shape}, but the outline of {outline.shape}.")
    wanted = outline > 0
    kept = _without_crumbs(ids, np.where(wanted, ids, np.zeros((), ids.dtype)), unused)
    unused = max(highest(kept) + 1, unused or 0)
    parts = connected_components(wanted)
    count = highest(parts)
    known = np.zeros(count + 1, dtype=bool)
    known[parts[kept > 0]] = True
    new = [part for part in range(1, count + 1) if not known[part]]
    names = np.zeros(count + 1, ids.dtype)
    names[new] = _fresh(ids, len(new), unused) if new else []
    kept = np.where(known[parts], kept, names[parts])
    for part, region in enumerate(ndimage.find_objects(parts), 1):
        own = parts[region] == part
        if (kept[region][own] == 0).any():
            kept[region][own] = _nearest(np.where(own, kept[region], 0))[own]
    return kept


def _without_crumbs(ids: InstanceMap, kept: InstanceMap, unused: int | None) -> InstanceMap:
    """Return the map with new numbers for what fell off lesions; pieces apart before stay together."""
    changed = kept.copy()
    for value, region, own in each_instance(ids):
        before, after = connected_components(own), connected_components(own & (kept[region] == value))
        pieces: dict[int, list[NDArray[np.bool_]]] = {}
        for piece in range(1, highest(after) + 1):
            place = after == piece
            pieces.setdefault(int(before[place][0]), []).append(place)
        for group in pieces.values():
            for crumb in sorted(group, key=np.count_nonzero)[:-1]:
                changed[region][crumb] = _fresh(changed, 1, max(highest(ids) + 1, unused or 0))[0]
    return changed


def _nearest(ids: InstanceMap) -> InstanceMap:
    """Return the number of the nearest lesion for every pixel."""
    places = ndimage.distance_transform_edt(ids == 0, return_distances=False, return_indices=True)
    nearest: InstanceMap = ids[tuple(places)]
    return nearest


def _draw(line: Sequence[_Point], region: _Region) -> NDArray[np.bool_]:
    """Draw a line through its corners, thick enough that nothing slips through diagonally."""
    shape = (region[0].stop - region[0].start, region[1].stop - region[1].start)
    canvas = np.zeros((shape[0] + 2, shape[1] + 2), dtype=bool)
    corners = [(round(row) - region[0].start + 1, round(col) - region[1].start + 1) for row, col in line]
    for start, stop in pairwise(corners):
        rows, cols = draw.line(*start, *stop)
        inside = (rows >= 0) & (rows < canvas.shape[0]) & (cols >= 0) & (cols < canvas.shape[1])
        canvas[rows[inside], cols[inside]] = True
    return np.asarray(ndimage.binary_dilation(canvas, _CROSS)[1:-1, 1:-1])


def _write_pieces(
    ids: InstanceMap,
    region: _Region,
    pieces: NDArray[np.integer[Any]],
    before: NDArray[np.integer[Any]],
    target: int,
    unused: int | None,
) -> InstanceMap:
    """Write pieces into the map: the largest of each connected part of ``before`` keeps the old number."""
    keep = set()
    for part in range(1, int(before.max()) + 1):
        sizes = np.bincount(pieces[(before == part) & (pieces > 0)])
        keep.add(int(sizes.argmax()))
    new = [piece for piece in range(1, int(pieces.max()) + 1) if piece not in keep]
    numbers = dict(zip(new, _fresh(ids, len(new), unused), strict=True))
    names = [numbers.get(piece, target) for piece in range(1, int(pieces.max()) + 1)]
    return _number_pieces(ids, region, pieces > 0, pieces, names)


def _number_pieces(
    ids: InstanceMap,
    region: _Region,
    own: NDArray[np.bool_],
    pieces: NDArray[np.integer[Any]],
    names: Sequence[int],
) -> InstanceMap:
    changed = ids.copy()
    changed[region][own] = np.array([0, *names], ids.dtype)[pieces[own]]
    return changed


def _fresh(ids: InstanceMap, count: int, unused: int | None) -> range:
    """Choose numbers for new pieces."""
    first = max(highest(ids) + 1, unused or 0)
    _check_number(ids, first + count - 1)
    return range(first, first + count)


def _instance(ids: InstanceMap, target: int) -> tuple[_Region, NDArray[np.bool_]]:
    """Bounding box of one lesion, and its pixels in there."""
    own = (ids == target) & (ids > 0)
    region = bounding_box(own)
    if region is None:
        raise MaskError(f"There is no lesion {target} in this image.")
    return region, own[region]


def _check_present(ids: InstanceMap, chosen: Collection[int]) -> None:
    for target in chosen:
        if target <= 0 or not (ids == target).any():
            raise MaskError(f"There is no lesion {target} in this image.")


def _check_number(ids: InstanceMap, number: int) -> None:
    most = int(np.iinfo(ids.dtype).max)
    if not 0 < number <= most:
        raise MaskError(f"Number {number} is not possible here; lesions are numbered 1 to {most}.")
