"""Measurements of the lesions of a layer, valid until the lesions change. No widgets in here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from psygnal import Signal

from napari_lesionseg.masks.instances import InstanceMap
from napari_lesionseg.masks.measurements import Measurement, Scale, measure_instances, measurement_columns
from napari_lesionseg.plugin.instances.layer_links import (
    is_measured,
    put_features,
    read_numbers,
    shown_frame_of,
)
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.tasks import Delay, Task, run_task

if TYPE_CHECKING:
    from napari.components import ViewerModel

PAUSE_MS = 100
"""Time without a change after which changed lesions are looked for, so not in the middle of a stroke."""


class MeasurementModel:
    """The measurements of one layer at a time; also written to the layer's features."""

    changed = Signal()
    failed = Signal(Exception)  # its text is a sentence for the user

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self.layer: Labels | None = None
        self.rows: tuple[Measurement, ...] = ()
        self.is_stale = False
        """Whether there were measurements, and the lesions changed since."""
        self._measured: InstanceMap | None = None
        self._task: Task[tuple[Measurement, ...]] | None = None
        self._pause = Delay(PAUSE_MS, self._check)

    @property
    def is_running(self) -> bool:
        """Whether lesions are being measured."""
        return self._task is not None

    def set_layer(self, layer: Labels | None) -> None:
        """Measure another layer from now on, or none."""
        self.close()
        self.layer, self.rows, self._measured, self.is_stale = layer, (), None, False
        for event in _events(layer):
            event.connect(self._on_changed)
        self.changed.emit()

    def start(self, image: Image | None, scale: Scale | None) -> None:
        """Measure the lesions in another thread; a LesionSegError if layer or image cannot be read."""
        if self.layer is None or self._task is not None:
            return
        frame = shown_frame_of(self.layer, self._viewer)
        ids = read_numbers(self.layer, frame)
        pixels = None if image is None else read_frame(image, _frame_in(image, frame))
        self.is_stale, self._measured = False, ids
        self._task = run_task(
            f"measuring the lesions of {self.layer.name}",
            measure_instances,
            ids,
            pixels,
            scale,
            done=self._on_measured,
            failed=self._on_failed,
        )
        self.changed.emit()

    def clear(self) -> None:
        """Remove the measurements, also from the features."""
        self._cancel()
        self.rows, self._measured = (), None
        if self.layer is not None:
            measured = [name for name in self.layer.features.columns if is_measured(name)]
            if measured:
                self.layer.features = self.layer.features.drop(columns=measured)
        self.changed.emit()

    def close(self) -> None:
        """Stop following the layer, and discard what is being computed."""
        self._cancel()
        self._pause.cancel()
        for event in _events(self.layer):
            event.disconnect(self._on_changed)
        self.layer = None

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.close()
            self._task = None

    def _on_changed(self) -> None:
        self._pause.start()

    def _check(self) -> None:
        if self.layer is None or self._measured is None:
            return
        ids = read_numbers(self.layer, shown_frame_of(self.layer, self._viewer))
        if not np.array_equal(ids, self._measured):  # else it was only drawn again
            self.is_stale = True
            self.clear()

    def _on_measured(self, rows: tuple[Measurement, ...]) -> None:
        measured = self._measured
        self.clear()
        self.rows, self._measured = rows, measured
        if self.layer is not None:
            put_features(self.layer, measurement_columns(rows))
        self.changed.emit()

    def _on_failed(self, error: Exception) -> None:
        self._task = self._measured = None
        self.changed.emit()
        self.failed.emit(error)


def _frame_in(image: Image, frame: Frame) -> Frame:
    """Return the frame of an image under a frame of lesions; a single image lies under all of them."""
    lead = image.ndim - 2
    return frame[len(frame) - lead :] if lead else ()


def _events(layer: Labels | None) -> tuple[Any, ...]:
    return () if layer is None else (layer.events.paint, layer.events.set_data, layer.events.data)
