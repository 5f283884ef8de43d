"""Masks written into Labels layers as edits that Ctrl+Z takes back.

napari's undo keeps, for every changed pixel, its indices and its old value. Whole masks are therefore never
assigned: only the pixels that differ are set, with 16-bit indices, which takes a third of the memory that
`numpy.nonzero` alone would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from napari.layers import Labels

Frame: TypeAlias = tuple[int, ...]
"""Leading indices of one frame of a stack; () for a single image."""

_Indices: TypeAlias = tuple[NDArray[np.unsignedinteger[Any]], ...]
_Step: TypeAlias = list[tuple[_Indices, NDArray[Any], Any]]

_STRIP = 64
"""Rows that are compared at once, so that what comes of it stays in the processor's cache."""

MAX_STAGED = 8_000_000
"""Pixel records that the edits of one gesture may pile up before they are reduced to their net change."""


def write_masks(layer: Labels, masks: Mapping[Frame, LabelImage]) -> bool:
    """Make frames of a layer equal to masks, as one undoable edit.

    Parameters
    ----------
    layer : napari.layers.Labels
        The layer; its data must be a NumPy array.
    masks : mapping of Frame to ndarray
        New contents of each frame, (H, W), class indices.

    Returns
    -------
    bool
        False when nothing differs, so that there is nothing to undo.

    Raises
    ------
    MaskError
        If the layer was given other data in the meantime that the masks do not fit.
    """
    changes = [change for frame, mask in masks.items() for change in _changes(layer, frame, mask)]
    if not changes:
        return False
    if not layer.visible:
        # What napari drew of a hidden layer may be out of date: it fails to edit one that was never seen, and
        # writes the contour into the data of one that became a contour while it was hidden.
        layer.set_view_slice()
    with layer.block_history():
        for indices, value in changes[:-1]:
            layer.data_setitem(indices, value, refresh=False)
        layer.data_setitem(*changes[-1])
    return True


def show_mask(layer: Labels, mask: LabelImage) -> bool:
    """Make a layer of one image equal to a mask, leaving nothing in napari's history.

    Many times quicker than `write_masks` where millions of pixels differ.

    Parameters
    ----------
    layer : napari.layers.Labels
        The layer; its data must be a NumPy array.
    mask : ndarray
        (H, W) uint8, class indices.

    Returns
    -------
    bool
        False when nothing differs.

    Raises
    ------
    MaskError
        If the layer was given other data in the meantime that the mask does not fit.
    """
    box = _changed_box(_frame_of(layer, (), mask.shape), mask)
    if box is None:
        return False
    if not layer.visible:
        layer.set_view_slice()  # what napari drew of a hidden layer may be out of date
    layer.data[box] = mask[box]
    _refresh(layer, box)
    layer.events.paint(value=[])
    return True


def _refresh(layer: Labels, box: tuple[slice, slice]) -> None:
    """Draw a part of a layer anew, as napari does after its own edits; it has no public way to."""
    if layer.contour < 1:
        layer._slice.image.view[box] = layer.colormap._data_to_texture(layer.data[box])
    layer._accumulate_updated_slice(box)
    layer._partial_labels_refresh()


class Gesture:
    """Edits that belong together, such as the moves of a slider: one Ctrl+Z takes all of them back.

    Each edit is a step of napari's own history first, so the history is whole at any moment. A step that
    follows directly on the gesture's former one is then joined to it; where something else was drawn since,
    or the former one was undone, it stays a step of its own. `finish` reduces the joined step to its net
    change.

    Parameters
    ----------
    layer : napari.layers.Labels
        The layer that is edited.
    """

    def __init__(self, layer: Labels) -> None:
        self.layer = layer
        self._step: _Step | None = None

    def write(self, masks: Mapping[Frame, LabelImage]) -> bool:
        """Write masks as `write_masks` does, joined to what the gesture wrote before."""
        if not write_masks(self.layer, masks):
            return False
        history = self._history()
        latest: _Step = history[-1] if history else []
        if self._step is not None and len(history) > 1 and history[-2] is self._step:
            self._step.extend(latest)
            history.pop()
        else:
            self._step = latest
        if sum(indices[0].size for indices, _, _ in self._step) > MAX_STAGED:
            _reduce(self.layer.data, self._step)
        return True

    def finish(self) -> None:
        """Reduce the joined step to its net change; the next edit begins a new step."""
        history = self._history()
        if self._step is not None and history and history[-1] is self._step:
            _reduce(self.layer.data, self._step)
            if not self._step:
                history.pop()
        self._step = None

    def _history(self) -> Any:
        # napari offers no way to join two steps. Should the attribute ever go, steps stay apart.
        return getattr(self.layer, "_undo_history", [])


def _changes(layer: Labels, frame: Frame, mask: LabelImage) -> Iterator[tuple[_Indices, int]]:
    """Yield the indices to be set, and to what, one class after the other."""
    data = _frame_of(layer, frame, mask.shape)
    box = _changed_box(data, mask)
    if box is None:
        return
    changed, values = data[box] != mask[box], mask[box]
    places = np.flatnonzero(changed)  # several times quicker than rows and columns at once
    values = values.ravel()[places]
    top, left = box[0].start, box[1].start
    for value in np.flatnonzero(np.bincount(values)):  # unique would sort millions
        rows, cols = np.divmod(places[values == value].astype(np.uint32), np.uint32(box[1].stop - left))
        yield _full_indices(frame, rows + top, cols + left, layer.data.shape), int(value)


def _frame_of(layer: Labels, frame: Frame, shape: tuple[int, ...]) -> NDArray[Any]:
    """Give a frame of a layer, a view, if masks of a shape fit it."""
    data = layer.data
    if not isinstance(data, np.ndarray) or data.ndim != len(frame) + 2 or data.shape[-2:] != shape:
        raise MaskError(
            f"The layer “{layer.name}” no longer has the size of its image; delete it and segment again."
        )
    view: NDArray[Any] = data[frame]
    return view


def same_pixels(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Tell whether two masks are equal, without the large array in between that NumPy would make."""
    return one.shape == other.shape and next(_differing_strips(one, other), None) is None


def _changed_box(one: NDArray[Any], other: NDArray[Any]) -> tuple[slice, slice] | None:
    """Give the rows and columns in which two masks of one shape differ; None where they are equal."""
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
    """Yield the strips of rows in which two masks of one shape differ."""
    strips = (slice(top, top + _STRIP) for top in range(0, len(one), _STRIP))
    return (strip for strip in strips if not _equal(one[strip], other[strip]))


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Compare two strips; bytes eight at a time, which is twice as quick, where that can be done."""
    if (
        all(strip.dtype == np.uint8 and strip.flags.c_contiguous for strip in (one, other))
        and not one.size % 8
    ):
        one, other = one.reshape(-1).view(np.uint64), other.reshape(-1).view(np.uint64)
    return np.array_equal(one, other)


def _full_indices(frame: Frame, rows: NDArray[Any], cols: NDArray[Any], shape: tuple[int, ...]) -> _Indices:
    """Give indices into the whole array, in the smallest type that holds them."""
    kind: type[np.uint16 | np.uint32] = np.uint16 if max(shape) <= np.iinfo(np.uint16).max else np.uint32
    lead = tuple(np.full(rows.size, index, dtype=kind) for index in frame)
    return (*lead, rows.astype(kind), cols.astype(kind))


def _reduce(data: NDArray[Any], step: _Step) -> None:
    """Replace the edits of a step, in place, by one that leads from the same start to the same end."""
    spans = [
        slice(min(int(axis.min()) for axis in axes), max(int(axis.max()) for axis in axes) + 1)
        for axes in zip(*(indices for indices, _, _ in step), strict=True)
    ]
    after = data[tuple(spans)]
    before = after.copy()
    for indices, old, _ in reversed(step):
        before[tuple(axis - span.start for axis, span in zip(indices, spans, strict=True))] = old
    kind = step[0][0][0].dtype
    step.clear()
    for value in np.unique(after[before != after]):
        local = np.nonzero((before != after) & (after == value))
        indices = tuple((axis + span.start).astype(kind) for axis, span in zip(local, spans, strict=True))
        step.append((indices, before[local], value))
