"""The single lesions of a Labels layer: each number is one. No widgets in here.

The table of lesions is also written to the layer's features, so that napari shows it under the mouse and
saves it with the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import CyclicLabelColormap
from napari.utils.colormaps.standardize_color import transform_color
from psygnal import Signal

from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks.instances import (
    NARROW_POINT,
    Instance,
    InstanceMap,
    as_columns,
    find_instances,
    list_instances,
)
from napari_lesionseg.plugin.instances.layer_links import (
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
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS, place_like, show_as
from napari_lesionseg.plugin.napari_layers.overlays import draw_on_screen
from napari_lesionseg.plugin.tasks import Delay, Task, run_task
from napari_lesionseg.types import IGNORED, LabelImage, Probability

if TYPE_CHECKING:
    from napari.components import ViewerModel

PAUSE_MS = 200
"""Time without a change after which lesions are listed again."""

_GEOMETRY = ("area", "row", "col", "top", "left", "bottom", "right")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Copies of what lesions are listed from, for another thread."""

    ids: InstanceMap
    outline: LabelImage | None
    probability: Probability | None
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Listing:
    rows: tuple[Instance, ...]
    in_sync: bool


def _list(snapshot: _Snapshot) -> _Listing:
    """List lesions; runs in another thread."""
    ids, outline = snapshot.ids, snapshot.outline
    in_sync = outline is None or np.array_equal(without_ignored(outline) > 0, ids > 0)
    rows = list_instances(ids, outline, snapshot.probability, snapshot.classes)
    return _Listing(rows, bool(in_sync))


class InstanceModel:
    """The lesions of one layer, listed again after every change; of a stack, those of the shown frame."""

    changed = Signal()  # `rows` are new
    busy = Signal(bool)
    failed = Signal(Exception)  # its text is a sentence for the user

    def __init__(self, viewer: ViewerModel, labels: Labels) -> None:
        self.viewer, self.labels = viewer, labels
        self.rows: tuple[Instance, ...] = ()
        self.in_sync = True
        """Whether the lesions cover the same pixels as their outline; True where there is none."""
        self.frame: Frame = shown_frame_of(labels, viewer)
        self._task: Task[_Listing] | None = None
        self._again = self._closed = False
        self._pause = Delay(PAUSE_MS, self.refresh)
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
    def is_listing(self) -> bool:
        """Whether the lesions are being listed."""
        return self._task is not None

    @property
    def is_waiting(self) -> bool:
        """Whether the lesions changed and will be listed after the pause."""
        return self._pause.is_running

    def row_of(self, number: int) -> Instance | None:
        """Return the row of one lesion."""
        return next((row for row in self.rows if row.index == number), None)

    def number_at(self, row: float, col: float) -> int:
        """Return the number of the lesion at a position in the frame, 0 for none."""
        height, width = full_size(self.labels).shape[-2:]
        position = (round(row), round(col))
        if not (0 <= position[0] < height and 0 <= position[1] < width):
            return 0
        return max(0, int(np.asarray(full_size(self.labels)[(*self.frame, *position)])))

    def refresh(self) -> None:
        """List the lesions again, in another thread."""
        self._pause.cancel()
        if self._closed or self.labels not in self.viewer.layers:
            return
        if self._task is not None:
            self._again = True
            return
        self.frame = shown_frame_of(self.labels, self.viewer)
        try:
            snapshot = self._take_snapshot()
        except MaskError as error:
            self.failed.emit(error)
            return
        title = f"listing the lesions of {self.labels.name}"
        self._task = run_task(title, _list, snapshot, done=self._on_listed, failed=self._on_failed)
        self.busy.emit(True)

    def close(self) -> None:
        """Stop following the layer."""
        self._closed = True
        self._pause.cancel()
        for event in self._events:
            event.disconnect(self._on_changed)
        if self._task is not None:
            self._task.close()

    def _take_snapshot(self) -> _Snapshot:
        ids = read_numbers(self.labels, self.frame)
        next_number(self.labels, ids)
        outline = outline_of(self.labels, self.viewer)
        mask = None if outline is None else cast("LabelImage", read_numbers(outline, self.frame))
        probability = probability_of(self.labels, self.viewer, self.frame)
        names = class_names(self.labels, self.viewer)
        if probability is not None and (
            probability.shape[-2:] != ids.shape or (probability.ndim == 3 and len(probability) < len(names))
        ):
            probability = None  # of a model that knows other classes
        return _Snapshot(ids, mask, probability, names)

    def _on_changed(self) -> None:
        self._pause.start()

    def _on_listed(self, listing: _Listing) -> None:
        self._task = None
        if self.labels in self.viewer.layers:
            self._remove_stale_measurements(listing.rows)
            self.rows, self.in_sync = listing.rows, listing.in_sync
            put_features(self.labels, as_columns(self.rows), tuple(Instance.__dataclass_fields__))
            self.changed.emit()
        if self._again:
            self._again = False
            self.refresh()
        self.busy.emit(self.is_listing)

    def _on_failed(self, error: Exception) -> None:
        self._task, self._again = None, False
        self.busy.emit(False)
        self.failed.emit(error)

    def _remove_stale_measurements(self, rows: Sequence[Instance]) -> None:
        """Remove the measurements of changed lesions from the features."""
        known = {row.index: _geometry(row) for row in self.rows}
        stale = [row.index for row in rows if row.index in known and known[row.index] != _geometry(row)]
        features = self.labels.features
        measured = [name for name in features.columns if is_measured(name)]
        if stale and measured:
            kept = features.astype(dict.fromkeys(measured, object))
            kept.loc[kept["index"].isin(stale), measured] = np.nan
            self.labels.features = kept


def _geometry(row: Instance) -> tuple[float, ...]:
    return tuple(getattr(row, name) for name in _GEOMETRY)


def without_ignored(mask: InstanceMap) -> InstanceMap:
    """Replace ignored pixels of an outline by background."""
    return np.where(mask == IGNORED, np.zeros((), mask.dtype), mask)


def number_parts(
    viewer: ViewerModel,
    outline: Labels,
    *,
    at_narrow_points: bool,
    done: Callable[[Labels | None], None],
    failed: Callable[[Exception], None],
) -> Task[InstanceMap]:
    """Add a layer above an outline in which its connected parts are numbered.

    `done` is called with the new layer, or None if the outline was removed or resized in the meantime.
    """
    frame = shown_frame_of(outline, viewer)
    find = partial(find_instances, narrow_point=NARROW_POINT if at_narrow_points else None)

    def add_layer(ids: InstanceMap) -> None:
        shape = full_size(outline).shape
        if outline not in viewer.layers or shape[-2:] != ids.shape:
            done(None)
            return
        numbers = np.zeros(shape, np.int32)
        numbers[frame] = ids
        name = f"{outline.name.removesuffix(' outline')} lesions"
        labels = Labels(numbers, name=name, colormap=instance_colors())
        draw_on_screen(labels)
        place_like(labels, cast("Image", outline))
        link(labels, outline)
        viewer.layers.insert(viewer.layers.index(outline) + 1, labels)
        show_as(labels, filled=False)
        done(labels)

    mask = read_numbers(outline, frame)
    title = f"numbering the lesions of {outline.name}"
    task: Task[Any] = run_task(title, find, mask, done=add_layer, failed=failed)
    return task


def instance_colors() -> CyclicLabelColormap:
    """Return the colors of lesions: those of the classes, repeated."""
    return CyclicLabelColormap(colors=transform_color(["transparent", *CLASS_COLORS]))
