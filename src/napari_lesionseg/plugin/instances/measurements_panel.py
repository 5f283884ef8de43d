"""The dock widget that measures lesions, in pixels until a scale is set. It only wires."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.masks.instances import InstanceMap
from napari_lesionseg.masks.measurements import (
    Measurement,
    Scale,
    measure_instances,
    measurement_columns,
    write_measurements,
)
from napari_lesionseg.plugin.instances import pixel_size
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.napari_layers.links import (
    image_of,
    is_measured,
    put_features,
    read_numbers,
    shown_frame_of,
)
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import captioned, small, status_line, when_gone
from napari_lesionseg.plugin.widgets.instance_table import Column, InstanceTable, number_column
from napari_lesionseg.plugin.widgets.layer_combo import LayerCombo

if TYPE_CHECKING:
    import napari.viewer

RULER_LENGTH = 10.0
"""Millimetres between the marks, until the user says otherwise."""

_NO_LAYER = "Open or draw an outline first."
_CHANGED = "The lesions were changed: measure them again."
_NO_DIAGNOSIS = "Measurements of outlines; no diagnosis and no risk."
_PAUSE_MS = 100


class MeasurementsPanel(QWidget):
    """Measure the lesions of a Labels layer into a table, the layer's features, and a CSV file.

    Every number of the layer is one lesion.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer.

    Attributes
    ----------
    rows : tuple of Measurement
        What was measured last.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.rows: tuple[Measurement, ...] = ()
        self._job: Task[tuple[Measurement, ...]] | None = None
        self._listened: Labels | None = None
        self._measured: InstanceMap | None = None
        self._problem = ""
        self._stale = False
        self.layers = LayerCombo(napari_viewer, Labels, "no outline is open")
        self.scale = QLabel()
        self.draw = QPushButton("Draw along a ruler")
        self.length = QDoubleSpinBox()
        self.set = QPushButton("Set")
        self.dicom = QPushButton("From DICOM\N{HORIZONTAL ELLIPSIS}")
        self.clear = QPushButton("Back to pixels")
        self.measure = QPushButton("Measure")
        self.save = QPushButton("Save as CSV\N{HORIZONTAL ELLIPSIS}")
        self.table = InstanceTable(_columns("px"))
        self.status = status_line()
        self._look_soon = QTimer(self)
        self._describe()
        self._lay_out()
        self._connect()
        self._on_layer()

    # ------------------------------------------------------------------------------------- building

    def _describe(self) -> None:
        self.length.setRange(0.01, 10_000)
        self.length.setDecimals(2)
        self.length.setValue(RULER_LENGTH)
        self.length.setSuffix(" mm")
        self.length.setToolTip("What the ruler says between both ends of the line")
        self.draw.setToolTip("Draw a line in the image from one mark of a ruler to another")
        self.set.setToolTip("Take the scale from the line that was drawn last")
        self.dicom.setToolTip("Take the scale from the DICOM file that the image came from")
        self.clear.setToolTip("Forget the scale: lengths are in pixels again")
        self.measure.setToolTip("Measure every lesion of the layer; the window stays usable meanwhile")
        self.save.setToolTip("Save the table for a spreadsheet")
        self.scale.setStyleSheet("font-weight: bold;")
        self._look_soon.setSingleShot(True)
        self._look_soon.setInterval(_PAUSE_MS)

    def _lay_out(self) -> None:
        grid = captioned(("Lesions of", self.layers.native), ("Scale", self.scale))
        ruler = QHBoxLayout()
        for part in (self.draw, self.length, self.set):
            ruler.addWidget(part)
        others = QHBoxLayout()
        others.addWidget(self.dicom)
        others.addWidget(self.clear)
        grid.addLayout(ruler, 2, 0, 1, 2)
        grid.addLayout(others, 3, 0, 1, 2)
        actions = QHBoxLayout()
        actions.addWidget(self.measure, 2)
        actions.addWidget(self.save, 1)
        column = QVBoxLayout(self)
        column.setSpacing(4)
        column.addLayout(grid)
        column.addLayout(actions)
        column.addWidget(self.table, 1)
        column.addWidget(self.status)
        column.addWidget(small(QLabel(_NO_DIAGNOSIS)))

    def _connect(self) -> None:
        self.layers.changed.connect(self._on_layer)
        self.draw.clicked.connect(self._on_draw)
        self.set.clicked.connect(self._on_set)
        self.dicom.clicked.connect(self._on_dicom)
        self.clear.clicked.connect(self._on_clear)
        self.measure.clicked.connect(self.start)
        self.save.clicked.connect(self._on_save)
        self.table.chosen.connect(self._on_chosen)
        self._look_soon.timeout.connect(self._on_pause)
        when_gone(self, self._let_go, self.layers.disconnect_viewer)

    # ------------------------------------------------------------------------------------ the layer

    @property
    def image(self) -> Image | None:
        """The image under the lesions."""
        return None if self.layers.layer is None else image_of(self.layers.layer, self._viewer)

    def _on_layer(self) -> None:
        self._let_go()
        layer = self._listened = self.layers.layer
        self._problem, self._stale, self.rows, self._measured = "", False, (), None
        if layer is not None:
            for event in _events(layer):
                event.connect(self._on_changed)
        self._show_rows()

    def _let_go(self) -> None:
        """Stop listening and measuring; touches no widget, as Qt's side may be gone."""
        self._stop()
        if self._listened is not None:
            for event in _events(self._listened):
                event.disconnect(self._on_changed)
            self._listened = None

    def _stop(self) -> None:
        if self._job is not None:
            self._job.close()
            self._job = None

    def _on_changed(self) -> None:
        """Notice soon, not in the midst of a stroke, that lesions are no longer what was measured."""
        self._look_soon.start()

    def _on_pause(self) -> None:
        layer = self.layers.layer
        if layer is None or self._measured is None:
            return
        if np.array_equal(read_numbers(layer, shown_frame_of(layer, self._viewer)), self._measured):
            return  # only drawn anew
        self._stop()
        self._forget()
        self._stale = True
        self._show_rows()

    def _forget(self) -> None:
        """Take what was measured out of table and features, since it is no longer true."""
        self.rows, self._measured = (), None
        layer = self.layers.layer
        if layer is not None and any(is_measured(name) for name in layer.features.columns):
            measured = [name for name in layer.features.columns if is_measured(name)]
            layer.features = layer.features.drop(columns=measured)

    # ------------------------------------------------------------------------------------ the scale

    def _on_draw(self) -> None:
        if self.image is not None:
            pixel_size.add_ruler(self._viewer, self.image)
            self._say(
                "Draw the line from one mark of the ruler to another, say how long it is, and press Set."
            )

    def _on_set(self) -> None:
        image, ruler = self.image, pixel_size.find_ruler(self._viewer)
        if image is None:
            return
        if ruler is None:
            self._say("Draw a line along the ruler first.")
            return
        self._take(partial(pixel_size.scale_of_ruler, ruler, image, self.length.value()), "ruler")

    def _on_dicom(self) -> None:
        path, _ = QFileDialog.getOpenFileName(
            self, "DICOM file of the image", "", "DICOM (*.dcm);;All files (*)"
        )
        if path and self.image is not None:
            self._take(partial(pixel_size.scale_of_file, Path(path), self.image), "DICOM file")

    def _take(self, find: Callable[[], Scale], source: str) -> None:
        """Set a scale, and measure anew in it what was measured before."""
        image = self.image
        if image is None:
            return
        try:
            pixel_size.set_scale(image, find(), source)
        except LesionSegError as error:
            self._say(str(error))
            return
        self._measure_again()

    def _on_clear(self) -> None:
        if self.image is not None:
            pixel_size.set_scale(self.image, None)
            self._measure_again()

    def _measure_again(self) -> None:
        measured = bool(self.rows)
        self._stop()
        self._forget()
        self._show_rows()
        if measured:
            self.start()

    def _known_scale(self) -> pixel_size.KnownScale | None:
        try:
            self._problem = ""
            return pixel_size.scale_of(self.image)
        except LesionSegError as error:
            self._problem = str(error)
            return None

    # ---------------------------------------------------------------------------------- measuring

    def start(self) -> None:
        """Measure the lesions, in another thread."""
        layer, image, known = self.layers.layer, self.image, self._known_scale()
        if layer is None or self._job is not None:
            return
        frame = shown_frame_of(layer, self._viewer)
        try:
            ids = read_numbers(layer, frame)
            pixels = None if image is None else read_frame(image, _frame_in(image, frame))
        except LesionSegError as error:
            self._say(str(error))
            return
        self._stale, self._measured = False, ids
        self._job = run_task(
            f"measuring the lesions of {layer.name}",
            measure_instances,
            ids,
            pixels,
            None if known is None else known.scale,
            done=self._on_measured,
            failed=self._on_failed,
        )
        self._update()

    def _on_measured(self, rows: tuple[Measurement, ...]) -> None:
        self._job = None
        layer = self.layers.layer
        if layer is not None:
            measured = self._measured
            self._forget()
            self.rows, self._measured = rows, measured
            put_features(layer, measurement_columns(rows))
        self._show_rows()

    def _on_failed(self, error: Exception) -> None:
        self._job = self._measured = None
        self._update()
        self._say(str(error))

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the measurements", f"{self._name()}.csv", "CSV (*.csv)"
        )
        if path:
            self.save_to(Path(path))

    def save_to(self, path: Path) -> None:
        """Save the table as CSV."""
        try:
            write_measurements(path, [(self._name(), self.rows)])
        except LesionSegError as error:
            show_error(str(error))
        else:
            self._say(f"Saved as {path.name}.")

    def _name(self) -> str:
        image, layer = self.image, self.layers.layer
        return str(image.name if image is not None else layer.name if layer is not None else "lesions")

    # -------------------------------------------------------------------------------- what is shown

    def _on_chosen(self) -> None:
        layer, selected = self.layers.layer, self.table.selected
        if layer is not None and selected:
            layer.selected_label = selected[0]

    def _show_rows(self) -> None:
        unit = self.rows[0].unit if self.rows else "px" if self._known_scale() is None else "mm"
        self.table.show_rows(self.rows, self.layers.layer, _columns(unit))
        self._update()

    def _say(self, text: str) -> None:
        self.status.setText(text)

    def _update(self) -> None:
        known = self._known_scale()
        layer, image = self.layers.layer, self.image
        self.scale.setText("none: pixels" if known is None else _describe_scale(known))
        for button in (self.draw, self.set, self.dicom):
            button.setEnabled(image is not None)
        self.clear.setEnabled(known is not None and known.source != "image")
        self.measure.setEnabled(layer is not None and self._job is None)
        self.save.setEnabled(bool(self.rows))
        self._say(self._summary(known))

    def _summary(self, known: pixel_size.KnownScale | None) -> str:
        if self.layers.layer is None:
            return _NO_LAYER
        if self._job is not None:
            return "Measuring\N{HORIZONTAL ELLIPSIS}"
        if self._problem:
            return self._problem
        if self._stale:
            return _CHANGED
        if known is None:
            return "No scale is set, so lengths are in pixels. Draw a line along a ruler to get millimeters."
        return (
            f"{len(self.rows)} measured, in millimeters." if self.rows else "Lengths will be in millimeters."
        )


def _columns(unit: str) -> Sequence[Column]:
    """Lay out the columns of the table for a unit."""
    digits = 0 if unit == "px" else 2
    return (
        number_column(f"Area ({unit}²)", "Area of its pixels", "area", digits),
        number_column(f"Longest ({unit})", "Longest diameter (Feret)", "longest_diameter", digits),
        number_column(f"Shortest ({unit})", "Shortest diameter (Feret)", "shortest_diameter", digits),
        number_column(f"Perimeter ({unit})", "Length of the outline (Crofton)", "perimeter", digits),
        number_column("Asymmetry", "Share that differs when it is folded: 0 is symmetric", "asymmetry", 2),
        number_column("Border", "Irregularity of the outline: 1 is a disc", "border_irregularity", 2),
        number_column("Colors", "How many of the six colors of the ABCD rule", "colors"),
        Column("Which", "The colors, the commonest first", lambda row: row.color_names),
        Column(
            "Cut off",
            "Whether it touches the border of the image, so that it may go on outside",
            lambda row: "yes" if row.cut_off else "no",
        ),
    )


def _describe_scale(known: pixel_size.KnownScale) -> str:
    return f"{known.scale.millimeters:.4g} mm a pixel ({known.source})"


def _frame_in(image: Image, frame: Frame) -> Frame:
    """Give the frame of an image under a frame of lesions; a single image lies under all of them."""
    lead = image.ndim - 2
    return frame[len(frame) - lead :] if lead else ()


def _events(layer: Labels) -> tuple[Any, ...]:
    return (layer.events.paint, layer.events.set_data, layer.events.data)
