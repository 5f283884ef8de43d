"""The single lesions of a Labels layer: every number is one. No widgets in here.

What is said about them stands in the layer's features, so that it is seen under the mouse and saved with the
layer. Lesions are read and edited in another thread, on copies; what is edited is written as one undoable
step of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import CyclicLabelColormap
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import QTimer

from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks import instance_edits
from napari_lesionseg.masks.instances import (
    NARROW_POINT,
    Instance,
    InstanceMap,
    as_columns,
    find_instances,
    list_instances,
)
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame, write_masks
from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS, place_like, show_as
from napari_lesionseg.plugin.napari_layers.links import (
    class_names,
    full_size,
    is_measured,
    link,
    next_number,
    outline_of,
    probability_of,
    put_features,
    read_numbers,
    shown_frame_of,
)
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.types import IGNORED, LabelImage, Probability

if TYPE_CHECKING:
    from napari.components import ViewerModel

PAUSE_MS = 200
"""Time without a change after which lesions are listed anew."""

_PLACES = ("area", "row", "col", "top", "left", "bottom", "right")


# --------------------------------------------------------------------------------------- the lesions


@dataclass(frozen=True, slots=True)
class _View:
    """Copies of what lesions are listed from, for another thread."""

    ids: InstanceMap
    outline: LabelImage | None
    probability: Probability | None
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Listing:
    """What is known of lesions, and whether they cover what their outline does."""

    rows: tuple[Instance, ...]
    follows: bool


@dataclass(frozen=True, slots=True)
class _Edit:
    """Lesions after an edit, and the numbers that came anew or grew."""

    ids: InstanceMap
    touched: tuple[int, ...]


def _list(view: _View) -> _Listing:
    """List lesions; runs in another thread."""
    follows = view.outline is None or np.array_equal(_without_ignored(view.outline) > 0, view.ids > 0)
    return _Listing(list_instances(view.ids, view.outline, view.probability, view.classes), bool(follows))


def _apply(change: Callable[..., InstanceMap], before: InstanceMap) -> _Edit:
    """Edit lesions; runs in another thread."""
    after = change(before)
    numbers = np.unique(after[after != before])
    return _Edit(after, tuple(int(number) for number in numbers if number))


class InstanceModel:
    """The lesions of one layer, listed anew after every change, and edited.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer that shows the layer.
    labels : napari.layers.Labels
        One number, one lesion. Of a stack, the frame that is shown.

    Attributes
    ----------
    rows : tuple of Instance
        What is known of them.
    changed : psygnal.Signal
        Emitted when ``rows`` are new.
    edited : psygnal.Signal
        Emitted with the numbers that an edit left behind, to be selected.
    busy : psygnal.Signal
        Emitted with True while something is worked out, with False when it is done.
    failed : psygnal.Signal
        Emitted with an exception whose text is a sentence for the user.
    """

    changed = Signal()
    edited = Signal(tuple)
    busy = Signal(bool)
    failed = Signal(Exception)

    def __init__(self, viewer: ViewerModel, labels: Labels) -> None:
        self.viewer, self.labels = viewer, labels
        self.rows: tuple[Instance, ...] = ()
        self.follows = True
        """Whether the lesions cover what their outline does; True where there is none."""
        self._frame: Frame = shown_frame_of(labels, viewer)
        self._listing: Task[_Listing] | None = None
        self._editing: Task[_Edit] | None = None
        self._again = self._closed = False
        self._pause = QTimer()
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE_MS)
        self._pause.timeout.connect(self.refresh)
        self._events = [
            labels.events.paint,
            labels.events.set_data,
            labels.events.data,
            viewer.dims.events.current_step,
        ]
        outline = outline_of(labels, viewer)
        if outline is not None:
            self._events += [outline.events.paint, outline.events.set_data]
        for event in self._events:
            event.connect(self._on_changed)
        self.refresh()

    @property
    def frame(self) -> Frame:
        """The frame of a stack that is meant; () for a single image."""
        return self._frame

    @property
    def why_not_edit(self) -> str:
        """Why the lesions cannot be edited; empty when they can."""
        if self.labels.multiscale or not isinstance(self.labels.data, np.ndarray):
            return "This layer is read from the disk part by part and can only be looked at"
        if self._editing is not None:
            return "Wait until the last edit is done"
        return ""

    @property
    def is_busy(self) -> bool:
        """Whether something is being worked out."""
        return self._listing is not None or self._editing is not None

    def row_of(self, number: int) -> Instance | None:
        """Give what is known of one lesion."""
        return next((row for row in self.rows if row.index == number), None)

    def number_at(self, row: float, col: float) -> int:
        """Tell which lesion lies at a place of the frame, 0 for none."""
        height, width = full_size(self.labels).shape[-2:]
        place = (round(row), round(col))
        if not (0 <= place[0] < height and 0 <= place[1] < width):
            return 0
        return max(0, int(np.asarray(full_size(self.labels)[(*self._frame, *place)])))

    def refresh(self) -> None:
        """List the lesions anew, in another thread."""
        self._pause.stop()
        if self._closed or self.labels not in self.viewer.layers:
            return
        if self._listing is not None:
            self._again = True
            return
        self._frame = shown_frame_of(self.labels, self.viewer)
        try:
            view = self._view()
        except MaskError as error:
            self.failed.emit(error)
            return
        title = f"listing the lesions of {self.labels.name}"
        self._listing = run_task(title, _list, view, done=self._on_listed, failed=self._on_not_listed)
        self.busy.emit(True)

    # ---------------------------------------------------------------------------------------- editing

    def merge(self, chosen: Collection[int]) -> None:
        """Make several lesions one, under the lowest of their numbers."""
        self._edit(partial(instance_edits.merge_instances, chosen=chosen), keep=[min(chosen, default=0)])

    def delete(self, chosen: Collection[int]) -> None:
        """Take lesions away."""
        self._edit(partial(instance_edits.delete_instances, chosen=chosen))

    def renumber(self, old: int, new: int) -> None:
        """Give a lesion another number."""
        self._edit(partial(instance_edits.renumber_instance, old=old, new=new), keep=[new])

    def cut_by_line(self, target: int, line: Sequence[tuple[float, float]]) -> None:
        """Cut a lesion along a line of (row, col)."""
        self._edit(partial(instance_edits.split_by_line, target=target, line=line), fresh=True, keep=[target])

    def cut_by_seeds(self, target: int, seeds: Sequence[tuple[float, float]]) -> None:
        """Cut a lesion between points (row, col), one in each part."""
        cut = partial(instance_edits.split_by_seeds, target=target, seeds=seeds)
        self._edit(cut, fresh=True, keep=[target])

    def cut_at_narrow_point(self, target: int) -> None:
        """Cut a lesion where it is narrow."""
        self._edit(partial(instance_edits.split_at_narrow_point, target=target), fresh=True, keep=[target])

    def follow(self) -> None:
        """Take over the corrections of the outline that the lesions were numbered from."""
        outline = outline_of(self.labels, self.viewer)
        if outline is not None:
            mask = _without_ignored(read_numbers(outline, self._frame))
            self._edit(partial(instance_edits.follow_outline, outline=mask), fresh=True)

    def set_class(self, chosen: Collection[int], kind: int) -> None:
        """Give lesions a class, in the outline they were numbered from, as an undoable step of that layer."""
        outline = outline_of(self.labels, self.viewer)
        if outline is None or not chosen:
            return
        ids, mask = full_size(self.labels)[self._frame], read_numbers(outline, self._frame)
        for row in (row for row in self.rows if row.index in chosen):
            place = (slice(row.top, row.bottom), slice(row.left, row.right))
            mask[place][(ids[place] == row.index) & (mask[place] > 0)] = kind
        write_masks(outline, {self._frame: cast("LabelImage", mask)})
        self.refresh()

    def close(self) -> None:
        """Let go of the layer; what is being worked out is dropped."""
        self._closed = True
        # As the program ends, Qt may have taken the timer away already.
        if isalive(self._pause):  # type: ignore[no-untyped-call]
            self._pause.stop()
        for event in self._events:
            event.disconnect(self._on_changed)
        for job in (self._listing, self._editing):
            if job is not None:
                job.close()

    def _edit(
        self, change: Callable[..., InstanceMap], *, fresh: bool = False, keep: Sequence[int] = ()
    ) -> None:
        reason = self.why_not_edit
        if reason:
            self.failed.emit(MaskError(f"{reason}."))
            return
        before = read_numbers(self.labels, self._frame)
        unused = next_number(self.labels, before)
        if fresh:
            change = partial(change, unused=unused)
        self._editing = run_task(
            f"editing the lesions of {self.labels.name}",
            _apply,
            change,
            before,
            done=partial(self._on_edited, before, self._frame, tuple(keep)),
            failed=self._on_not_edited,
        )
        self.busy.emit(True)

    def _on_edited(self, before: InstanceMap, frame: Frame, keep: tuple[int, ...], edit: _Edit) -> None:
        self._editing = None
        if self.labels not in self.viewer.layers:
            self.busy.emit(self.is_busy)
            return
        if not np.array_equal(read_numbers(self.labels, frame), before):
            self._on_not_edited(MaskError("The lesions were changed in the meantime; do it again."))
            return
        write_masks(self.labels, {frame: cast("LabelImage", edit.ids)})
        next_number(self.labels, edit.ids)
        self.refresh()
        self.edited.emit((*keep, *(number for number in edit.touched if number not in keep)))
        self.busy.emit(self.is_busy)

    def _on_not_edited(self, error: Exception) -> None:
        self._editing = None
        self.busy.emit(self.is_busy)
        self.failed.emit(error)

    # ---------------------------------------------------------------------------------------- listing

    def _view(self) -> _View:
        ids = read_numbers(self.labels, self._frame)
        next_number(self.labels, ids)
        outline = outline_of(self.labels, self.viewer)
        mask = None if outline is None else cast("LabelImage", read_numbers(outline, self._frame))
        probability = probability_of(self.labels, self.viewer, self._frame)
        names = class_names(self.labels, self.viewer)
        if probability is not None and (
            probability.shape[-2:] != ids.shape or (probability.ndim == 3 and len(probability) < len(names))
        ):
            probability = None  # of a model that knows other classes
        return _View(ids, mask, probability, names)

    def _on_changed(self) -> None:
        self._pause.start()

    def _on_listed(self, listing: _Listing) -> None:
        self._listing = None
        if self.labels in self.viewer.layers:
            self._forget_measurements(listing.rows)
            self.rows, self.follows = listing.rows, listing.follows
            put_features(self.labels, as_columns(self.rows), tuple(Instance.__dataclass_fields__))
            self.changed.emit()
        if self._again:
            self._again = False
            self.refresh()
        self.busy.emit(self.is_busy)

    def _on_not_listed(self, error: Exception) -> None:
        self._listing, self._again = None, False
        self.busy.emit(self.is_busy)
        self.failed.emit(error)

    def _forget_measurements(self, rows: Sequence[Instance]) -> None:
        """Take measurements out of the features of lesions that are no longer what was measured."""
        known = {row.index: _where(row) for row in self.rows}
        stale = [row.index for row in rows if row.index in known and known[row.index] != _where(row)]
        features = self.labels.features
        measured = [name for name in features.columns if is_measured(name)]
        if stale and measured:
            kept = features.astype(dict.fromkeys(measured, object))
            kept.loc[kept["index"].isin(stale), measured] = np.nan
            self.labels.features = kept


def _where(row: Instance) -> tuple[float, ...]:
    return tuple(getattr(row, name) for name in _PLACES)


def _without_ignored(mask: InstanceMap) -> InstanceMap:
    return np.where(mask == IGNORED, np.zeros((), mask.dtype), mask)


# -------------------------------------------------------------------------------------- numbering


class Numbering:
    """Give the connected parts of a layer numbers, in a new layer above it.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer.
    outline : napari.layers.Labels
        Class indices.
    narrow point : bool
        Cut parts at their narrow points, so that lesions that touch are told apart.
    done : callable
        Called with the new layer.
    failed : callable
        Called with an exception whose text is a sentence for the user.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        outline: Labels,
        narrow_point: bool,
        *,
        done: Callable[[Labels], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._viewer, self._outline, self._done = viewer, outline, done
        self._frame = shown_frame_of(outline, viewer)
        find = partial(find_instances, narrow_point=NARROW_POINT if narrow_point else None)
        mask = read_numbers(outline, self._frame)
        self._job: Task[Any] = run_task(
            f"numbering the lesions of {outline.name}", find, mask, done=self._on_found, failed=failed
        )

    def drop(self) -> None:
        """Let nothing come of it."""
        self._job.close()

    def _on_found(self, ids: InstanceMap) -> None:
        outline = self._outline
        if outline not in self._viewer.layers or full_size(outline).shape[-2:] != ids.shape:
            return
        shape = full_size(outline).shape
        numbers = np.zeros(shape, np.int32)
        numbers[self._frame] = ids
        labels = Labels(numbers, name=_name_of(outline), colormap=instance_colors())
        place_like(labels, cast("Image", outline))
        link(labels, outline)
        self._viewer.layers.insert(self._viewer.layers.index(outline) + 1, labels)
        show_as(labels, filled=False)
        self._done(labels)


def instance_colors() -> CyclicLabelColormap:
    """Colors of single lesions: those of the classes, over and over again."""
    return CyclicLabelColormap(colors=transform_color(["transparent", *CLASS_COLORS]))


def _name_of(outline: Labels) -> str:
    """Name lesions after the image whose outline they are of."""
    return f"{outline.name.removesuffix(' outline')} lesions"
