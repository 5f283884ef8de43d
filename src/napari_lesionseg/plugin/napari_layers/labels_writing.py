"""Write masks into Labels layers, as edits that Ctrl+Z takes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.types import LabelImage

Frame: TypeAlias = tuple[int, ...]
"""Leading indices of one frame of a stack; () for a single image."""

_Indices: TypeAlias = tuple[NDArray[np.unsignedinteger[Any]], ...]


_STRIP = 64
"""Rows that are compared at once, so that the temporary arrays stay in the processor's cache."""


def write_masks(layer: Labels, masks: Mapping[Frame, LabelImage]) -> bool:
    """Make frames of a layer equal to masks, as one undoable edit; False if nothing differs."""
    # napari's undo keeps the indices and the old value of every changed pixel. Only pixels that differ are
    # set, with 16-bit indices, which takes a third of the memory that numpy.nonzero's indices would.
    changes = [change for frame, mask in masks.items() for change in _changes(layer, frame, mask)]
    if not changes:
        return False
    _refresh_hidden(layer)
    with layer.block_history():
        for indices, value in changes[:-1]:
            layer.data_setitem(indices, value, refresh=False)
        layer.data_setitem(*changes[-1])
    return True


def show_mask(layer: Labels, mask: LabelImage) -> bool:
    """Make a layer equal to a mask (..., H, W), outside of napari's history; False if nothing differs."""
    # Many times faster than `write_masks` where millions of pixels differ.
    if mask.ndim > 2:
        return _show_stack(layer, mask)
    box = _changed_box(_frame_of(layer, (), mask.shape), mask)
    if box is None:
        return False
    _refresh_hidden(layer)
    layer.data[box] = mask[box]
    _refresh(layer, box)
    layer.events.paint(value=[])
    return True


def _show_stack(layer: Labels, mask: LabelImage) -> bool:
    frames = [
        frame
        for frame in np.ndindex(mask.shape[:-2])
        if not same_pixels(_frame_of(layer, frame, mask.shape[-2:]), mask[frame])
    ]
    for frame in frames:
        layer.data[frame] = mask[frame]
    if frames:
        layer.refresh()
        layer.events.paint(value=[])
    return bool(frames)


def same_pixels(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two masks are equal, compared without a large temporary array."""
    return one.shape == other.shape and next(_differing_strips(one, other), None) is None


def _refresh_hidden(layer: Labels) -> None:
    """Redraw a hidden layer before it is edited."""
    # napari fails to edit a layer that was never drawn, and writes the contour into the data of a layer that
    # was switched to a contour while it was hidden.
    if not layer.visible:
        layer.set_view_slice()


def _refresh(layer: Labels, box: tuple[slice, slice]) -> None:
    """Redraw a part of a layer, as napari does after its own edits."""
    if layer.contour < 1:
        layer._slice.image.view[box] = layer.colormap._data_to_texture(layer.data[box])
    layer._accumulate_updated_slice(box)
    layer._partial_labels_refresh()


def _changes(layer: Labels, frame: Frame, mask: LabelImage) -> Iterator[tuple[_Indices, int]]:
    """Yield the indices to set, and the new value, class by class."""
    data = _frame_of(layer, frame, mask.shape)
    box = _changed_box(data, mask)
    if box is None:
        return
    changed, values = data[box] != mask[box], mask[box]
    places = np.flatnonzero(changed)  # several times faster than np.nonzero
    values = values.ravel()[places]
    top, left = box[0].start, box[1].start
    for value in np.flatnonzero(np.bincount(values)):  # np.unique would sort millions
        rows, cols = np.divmod(places[values == value].astype(np.uint32), np.uint32(box[1].stop - left))
        yield _full_indices(frame, rows + top, cols + left, layer.data.shape), int(value)


def _frame_of(layer: Labels, frame: Frame, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a view of one frame; a MaskError if masks of a shape do not fit it."""
    data = layer.data
    if not isinstance(data, np.ndarray) or data.ndim != len(frame) + 2 or data.shape[-2:] != shape:
        raise MaskError(
            f"The layer “{layer.name}” no longer has the size of its image; delete it and segment again."
        )
    view: NDArray[Any] = data[frame]
    return view


def _changed_box(one: NDArray[Any], other: NDArray[Any]) -> tuple[slice, slice] | None:
    """Return the rows and columns in which two masks of one shape differ, None where they are equal."""
    cols, rows = np.zeros(one.shape[1], bool), []
    for strip in _differing_strips(one, other):
        differs = one[strip] != other[strip]
        cols |= differs.any(axis=0)
        rows.append(strip.start + np.flatnonzero(differs.any(axis=1)))
    if not rows:
        return None
    places = np.flatnonzero(cols)
    return slice(int(rows[0][0]), int(rows[-1][-1]) + 1), slice(int(places[0]), int(places[-1]) + 1)


def _differing_strips(one: NDArray[Any], other: NDArray[Any]) -> Iterator[slice]:
    strips = (slice(top, top + _STRIP) for top in range(0, len(one), _STRIP))
    return (strip for strip in strips if not _equal(one[strip], other[strip]))


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    # Eight bytes at a time where possible, which is twice as fast.
    if (
        all(strip.dtype == np.uint8 and strip.flags.c_contiguous for strip in (one, other))
        and not one.size % 8
    ):
        one, other = one.reshape(-1).view(np.uint64), other.reshape(-1).view(np.uint64)
    return np.array_equal(one, other)


def _full_indices(frame: Frame, rows: NDArray[Any], cols: NDArray[Any], shape: tuple[int, ...]) -> _Indices:
    """Return indices into the whole array, in the smallest type that holds them."""
    kind: type[np.uint16 | np.uint32] = np.uint16 if max(shape) <= np.iinfo(np.uint16).max else np.uint32
    lead = tuple(np.full(rows.size, index, dtype=kind) for index in frame)
    return (*lead, rows.astype(kind), cols.astype(kind))
