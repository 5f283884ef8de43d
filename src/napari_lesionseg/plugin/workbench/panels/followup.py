"""The visits of the lesion on the screen, in order of date: a table, and a curve of what was measured."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pyqtgraph as pg
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from napari_lesionseg.errors import StudyError
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.instances.pixel_size import remove_ruler, scale_of
from napari_lesionseg.plugin.instances.scale_form import ScaleForm
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import keep_narrow, small
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.panels.queue_columns import Thumbnails
from napari_lesionseg.plugin.workbench.panels.visits import VisitsDialog
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.fields import StudyFields, group_of
from napari_lesionseg.study.followup import (
    Visit,
    VisitMeasurement,
    followed_lesions,
    measure_visits,
    visits_with,
    write_followup,
)
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari.components import ViewerModel

_UNKNOWN_LESION = "To follow a lesion, fill in Patient and Lesion in the section Fields (F6)."
_ALONE = "This is the only image of the lesion. Give another image the same Patient and Lesion."
_CAPTION = "Measurements of approved outlines; no diagnosis. Click a row to open the image."
_MIXED = "Some visits have a scale and others none. Draw along a ruler in those to compare the sizes."
_COLUMNS = ("Date", "Area", "Change", "Diam.", "Asym.")
_TIPS = (
    "Date of the image: the field Taken on, else the date in its file",
    "Area of the approved outline, in mm² if the field mm per pixel is filled in",
    "Change of the area since the last visit that was measured in the same unit",
    "Longest diameter, in the same unit",
    "Asymmetry, 0 to 1",
)
_CURVES = {
    "area": "area",
    "longest diameter": "longest_diameter",
    "asymmetry": "asymmetry",
    "contrast": "contrast",
}
_ROWS = 4  # that are visible
_ROUND = 1000  # from which areas are written as whole numbers
_ICON = 28  # pixels of a thumbnail's longer side
CURVE_COLOR = "#56b4e9"


class FollowUpPanel(Panel):
    """Table and curve of the visits of one lesion."""

    title, only_for = "Follow-up", "outlines"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.message = small(QLabel(_UNKNOWN_LESION))
        self.scale = ScaleForm(viewer)
        self.table = QTableWidget(0, len(_COLUMNS))
        self.curve = QComboBox()
        self.compare = QPushButton("Side by side\N{HORIZONTAL ELLIPSIS}")
        self.export = QPushButton("CSV\N{HORIZONTAL ELLIPSIS}")
        self.plot = pg.PlotWidget(axisItems={"bottom": pg.DateAxisItem()}, background=None)
        self._visits: tuple[Visit, ...] = ()
        self._rows: list[VisitMeasurement] = []
        self._task: Task[tuple[tuple[Visit, ...], list[VisitMeasurement]]] | None = None
        self._thumbnails: Thumbnails | None = None
        self._lay_out()
        self.table.cellClicked.connect(self._on_clicked)
        self.curve.currentIndexChanged.connect(self._draw)
        self.compare.clicked.connect(self._on_compare)
        self.export.clicked.connect(self._on_export)
        self.scale.changed.connect(self._show_scale)
        self.scale.was_set.connect(self._on_scale_set)
        self.scale.message.connect(show_info)

    def show_session(self, session: StudySession) -> None:
        """Follow the image on the screen."""
        self._thumbnails = Thumbnails(session.study)
        self._thumbnails.ready.connect(self._fill)
        self.listen(session.opened, self.update_visits)
        self.listen(session.opened, self._on_opened)
        self.listen(session.changed, self.update_visits)
        self.update_visits()

    def close_session(self) -> None:
        """Stop measuring."""
        if self._task is not None:
            self._task.close()
        if self._thumbnails is not None:
            self._thumbnails.close()
        self._task, self._thumbnails, self._visits = None, None, ()

    def update_visits(self, *_: object) -> None:
        """Measure the visits of the lesion on the screen in the background, if any is new or changed."""
        session = self.session
        state = None if session is None else session.state
        if session is None or state is None or self._task is not None or self.isHidden():
            return
        if state.lesion is None:
            self._show((), [])
            return
        key = group_of(state, "lesion")
        images = session.study.state.images.values()
        together = {id(other) for other in images if group_of(other, "lesion") == key}
        if together == {id(visit.state) for visit in self._visits}:
            self._fill()  # another row may be on the screen
        else:
            self._task = run_task(
                "measuring the visits",
                _load,
                session.study,
                state.image_id,
                done=self._on_loaded,
                failed=self._on_failed,
            )

    def _lay_out(self) -> None:
        table = self.table
        table.setHorizontalHeaderLabels(list(_COLUMNS))
        for number, tip in enumerate(_TIPS):
            table.horizontalHeaderItem(number).setToolTip(tip)
        table.setIconSize(QSize(_ICON, _ICON))
        table.setStyleSheet("font-size: 8pt;")  # a dock of 325 pixels is to show all columns
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(_ICON + 4)
        table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        for button in (self.scale.dicom, self.scale.clear):
            button.hide()  # to leave the height to the table; the field can be filled in and cleared
        self.plot.setFixedHeight(110)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.plot.setMenuEnabled(False)
        for name, attribute in _CURVES.items():
            self.curve.addItem(name, attribute)
        keep_narrow(self.curve)
        self.curve.setToolTip("What the curve shows")
        self.compare.setToolTip("Show all images of the lesion with their outlines, in order of date")
        self.export.setToolTip("Write all lesions of the study that have several images as a table")
        self.message.setWordWrap(True)
        row = QHBoxLayout()
        row.addWidget(self.curve, 1)
        row.addWidget(self.compare)
        row.addWidget(self.export)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.message)
        column.addWidget(self.scale)
        column.addWidget(table)
        column.addWidget(self.plot)
        column.addLayout(row)
        self._show((), [])

    def setVisible(self, visible: bool) -> None:  # noqa: N802  Qt's name
        """Measure when the section is unfolded; before, nobody looks."""
        super().setVisible(visible)
        if visible:
            self.update_visits()

    def _on_loaded(self, loaded: tuple[tuple[Visit, ...], list[VisitMeasurement]]) -> None:
        self._task = None
        self._show(*loaded)
        self.update_visits()  # another image may have been opened in the meantime

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.message.setText(str(error))

    def _show(self, visits: tuple[Visit, ...], rows: list[VisitMeasurement]) -> None:
        self._visits, self._rows = visits, rows
        text = _UNKNOWN_LESION if not visits else _ALONE if len(visits) == 1 else _CAPTION
        self.message.setText(_MIXED if len({row.unit for row in rows if row.unit}) > 1 else text)
        for widget in (self.table, self.compare):
            widget.setVisible(len(visits) > 1)
        visible = min(max(len(rows), 2), _ROWS)
        header = self.table.horizontalHeader().sizeHint().height()
        self.table.setFixedHeight(visible * (_ICON + 4) + header + 4)
        self._fill()
        self._draw()

    def _fill(self, *_: object) -> None:
        self.table.setRowCount(len(self._rows))
        for place, (visit, row) in enumerate(zip(self._visits, self._rows, strict=True)):
            for column, text in enumerate(_cells(row)):
                item = QTableWidgetItem(text)
                item.setToolTip(row.image)
                if column == 0 and self._thumbnails is not None:
                    icon = self._thumbnails.of(visit.state)
                    if icon is not None:
                        item.setIcon(icon)
                self.table.setItem(place, column, item)
            if self.session is not None and visit.state.image_id == self.session.image_id:
                self.table.selectRow(place)

    def _draw(self) -> None:
        """Draw a point for each visit with a date, in the unit that most of them have."""
        name = self.curve.currentData(Qt.ItemDataRole.UserRole)
        units = [row.unit for row in self._rows if row.unit]
        unit = max(units, key=units.count, default="")
        has_unit = name in ("area", "longest_diameter")
        points = [
            (_seconds(visit.day), getattr(row, name))
            for visit, row in zip(self._visits, self._rows, strict=True)
            if visit.day is not None and getattr(row, name) is not None
            if row.unit == unit or not has_unit
        ]
        self.plot.clear()
        self.plot.setVisible(len(points) > 1)
        self.curve.setVisible(any(row.unit for row in self._rows))
        self.plot.setLabel("left", f"{unit}²" if name == "area" else unit if has_unit else "")
        if points:
            pen = pg.mkPen(CURVE_COLOR, width=2)
            self.plot.plot(*zip(*points, strict=True), pen=pen, symbol="o", symbolBrush=CURVE_COLOR)
            # From 0, or a change within what two annotators differ by would look like a leap.
            self.plot.setYRange(0, 1.1 * max(value for _, value in points) or 1, padding=0)

    def _on_opened(self, *_: object) -> None:
        remove_ruler(self.viewer)  # the line belongs to the image of before
        self._show_scale()

    def _show_scale(self) -> None:
        editor = None if self.session is None else self.session.editor
        image = None if editor is None else editor.image
        self.scale.show_image(image, scale_of(image))

    def _on_scale_set(self) -> None:
        """Go back to the outline; a line that stays would be over the next image."""
        editor = None if self.session is None else self.session.editor
        remove_ruler(self.viewer)
        if isinstance(editor, MaskEditor):
            self.viewer.layers.selection.active = editor.labels

    def _on_clicked(self, row: int, _: int) -> None:
        if self.session is not None and row < len(self._visits):
            self.session.open_image(self._visits[row].state.image_id)

    def _on_compare(self) -> None:
        if self.session is not None and self._rows:
            VisitsDialog(self.session.study, self._visits, self._rows, self).show()

    def _on_export(self) -> None:
        if self.session is None:
            return
        name, _ = QFileDialog.getSaveFileName(self, "Export the follow-up", "followup.csv", "Tables (*.csv)")
        if name:
            run_task(
                "exporting the follow-up",
                _export,
                self.session.study,
                Path(name),
                done=lambda count: show_info(f"{count} visits were written to {name}."),
                failed=lambda error: show_error(str(error)),
            )


def _load(study: Study, image_id: str) -> tuple[tuple[Visit, ...], list[VisitMeasurement]]:
    """Find and measure the visits of a lesion; runs in another thread."""
    visits = visits_with(study, StudyFields(study), image_id)
    return visits, measure_visits(study, visits) if len(visits) > 1 else [
        VisitMeasurement("", "", visit.state.name, "", "") for visit in visits
    ]


def _export(study: Study, path: Path) -> int:
    """Measure and write all lesions with several images; runs in another thread."""
    lesions = followed_lesions(study, StudyFields(study))
    if not lesions:
        raise StudyError("No lesion has several images yet.")
    rows = [row for visits in lesions for row in measure_visits(study, visits)]
    write_followup(path, rows)
    return len(rows)


def _seconds(day: date) -> float:
    """Return a date as the axis counts it, at noon so that time zones do not shift it."""
    return (day.toordinal() - date(1970, 1, 1).toordinal() + 0.5) * 86_400


def _cells(row: VisitMeasurement) -> tuple[str, ...]:
    """Return what the table shows of a visit; its status where nothing was measured."""
    if row.area is None:
        return row.taken_on or "no date", row.status, "", "", ""
    return (
        row.taken_on or "no date",
        f"{row.area:.3g} {row.unit}²" if row.area < _ROUND else f"{row.area:.0f} {row.unit}²",
        "" if row.area_change is None else f"{row.area_change:+.0%}",
        f"{row.longest_diameter:.3g}",
        f"{row.asymmetry:.2f}",
    )
