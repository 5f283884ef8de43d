"""The dock widget *Measure lesions*, in pixels until a scale is set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image, Labels
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.masks.measurements import write_measurements
from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.instances.layer_links import image_of
from napari_lesionseg.plugin.instances.measuring import MeasurementModel
from napari_lesionseg.plugin.instances.scale_form import ScaleForm
from napari_lesionseg.plugin.layout import DockTabs
from napari_lesionseg.plugin.widgets.forms import MessageLabel, captioned, small, when_gone
from napari_lesionseg.plugin.widgets.instance_table import Column, InstanceTable, number_column
from napari_lesionseg.plugin.widgets.layer_combo import LayerCombo

if TYPE_CHECKING:
    import napari.viewer

    from napari_lesionseg.plugin.instances.pixel_size import KnownScale

_NO_LAYER = "Open or draw an outline first."
_CHANGED = "The lesions changed. Measure them again."
_NO_DIAGNOSIS = "Measurements of outlines, not a diagnosis or a risk."
_NO_SCALE = "No scale is set, so lengths are in pixels. Draw a line along a ruler to get millimeters."


class MeasurementsPanel(QWidget):
    """Measure the lesions of a Labels layer into a table, the layer's features, and a CSV file."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        DockTabs(self)
        DockFocus(self)
        self._viewer = napari_viewer
        self.model = MeasurementModel(napari_viewer)
        self.layers = LayerCombo(napari_viewer, Labels, "no outline is open")
        self.form = ScaleForm(napari_viewer)
        self.measure = QPushButton("Measure")
        self.save = QPushButton("Save as CSV\N{HORIZONTAL ELLIPSIS}")
        self.table = InstanceTable(_columns("px"))
        self.status = MessageLabel()
        self._lay_out()
        self._connect()
        self._on_layer()

    def _lay_out(self) -> None:
        self.measure.setToolTip("Measure every lesion of the layer, in the background")
        self.save.setToolTip("Save the table for a spreadsheet")
        actions = QHBoxLayout()
        actions.addWidget(self.measure, 2)
        actions.addWidget(self.save, 1)
        column = QVBoxLayout(self)
        column.setSpacing(4)
        column.addLayout(captioned(("Lesions of", self.layers.native)))
        column.addWidget(self.form)
        column.addLayout(actions)
        column.addWidget(self.table, 1)
        column.addWidget(self.status)
        column.addWidget(small(QLabel(_NO_DIAGNOSIS)))

    def _connect(self) -> None:
        self.layers.changed.connect(self._on_layer)
        self.model.changed.connect(self._update)
        self.model.failed.connect(self._on_failed)
        self.form.changed.connect(self._on_scale)
        self.form.message.connect(self.status.setText)
        self.measure.clicked.connect(self.start)
        self.save.clicked.connect(self._on_save)
        self.table.chosen.connect(self._on_chosen)
        when_gone(self, self.model.close, self.layers.disconnect_viewer)

    @property
    def image(self) -> Image | None:
        """The image under the lesions."""
        return None if self.layers.layer is None else image_of(self.layers.layer, self._viewer)

    def start(self) -> None:
        """Measure the lesions, in another thread."""
        try:
            known = self.form.known()
        except LesionSegError:
            known = None
        try:
            self.model.start(self.image, None if known is None else known.scale)
        except LesionSegError as error:
            self._on_failed(error)

    def save_to(self, path: Path) -> None:
        """Save the table as CSV."""
        try:
            write_measurements(path, [(self._name(), self.model.rows)])
        except LesionSegError as error:
            show_error(str(error))
        else:
            self.status.setText(f"Saved as {path.name}.")

    def _on_layer(self) -> None:
        self.form.show_image(self.image, None)
        self.model.set_layer(self.layers.layer)

    def _on_scale(self) -> None:
        """Measure again, in the new scale, what was measured before."""
        measured = bool(self.model.rows)
        self.model.clear()
        if measured:
            self.start()

    def _on_failed(self, error: Exception) -> None:
        self.status.setText(str(error))

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(
            self, "Save the measurements", f"{self._name()}.csv", "CSV (*.csv)"
        )
        if path:
            self.save_to(Path(path))

    def _on_chosen(self) -> None:
        layer, selected = self.layers.layer, self.table.selected
        if layer is not None and selected:
            layer.selected_label = selected[0]

    def _name(self) -> str:
        image, layer = self.image, self.layers.layer
        return str(image.name if image is not None else layer.name if layer is not None else "lesions")

    def _update(self) -> None:
        """Update the table, the buttons and the status line."""
        model, known, problem = self.model, None, ""
        self.form.show_image(self.image, None)
        try:
            known = self.form.known()
        except LesionSegError as error:
            problem = str(error)
        self.form.show_image(self.image, known)
        unit = model.rows[0].unit if model.rows else "px" if known is None else "mm"
        self.table.show_rows(model.rows, model.layer, _columns(unit))
        self.measure.setEnabled(model.layer is not None and not model.is_running)
        self.save.setEnabled(bool(model.rows))
        self.status.setText(_summary(model, known, problem))


def _summary(model: MeasurementModel, known: KnownScale | None, problem: str) -> str:
    if model.layer is None:
        return _NO_LAYER
    if model.is_running:
        return "Measuring\N{HORIZONTAL ELLIPSIS}"
    if problem:
        return problem
    if model.is_stale:
        return _CHANGED
    if known is None:
        return _NO_SCALE
    return f"{len(model.rows)} measured, in millimeters." if model.rows else "Lengths will be in millimeters."


def _columns(unit: str) -> Sequence[Column]:
    """Return the columns of the table in a unit."""
    digits = 0 if unit == "px" else 2
    return (
        number_column(f"Area ({unit}²)", "Area covered by its pixels", "area", digits),
        number_column(f"Longest ({unit})", "Longest diameter (Feret)", "longest_diameter", digits),
        number_column(f"Shortest ({unit})", "Shortest diameter (Feret)", "shortest_diameter", digits),
        number_column(f"Perimeter ({unit})", "Length of the outline (Crofton)", "perimeter", digits),
        number_column("Asymmetry", "Fraction that differs when folded; 0 is symmetric", "asymmetry", 2),
        number_column("Border", "Irregularity of the outline; 1 is a circle", "border_irregularity", 2),
        number_column("Colors", "Number of the six colors of the ABCD rule", "colors"),
        Column("Which", "The colors, most common first", lambda row: row.color_names),
        Column(
            "Cut off",
            "Whether it touches the border of the image and may continue outside",
            lambda row: "yes" if row.cut_off else "no",
        ),
    )
