"""The table of the visits of a lesion."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_lesionseg.plugin.workbench.panels.queue_columns import Thumbnails
from napari_lesionseg.study.followup import Visit, VisitMeasurement
from napari_lesionseg.study.study import Study

_COLUMNS = ("Date", "Area", "Change", "Diam.", "Asym.")
_TIPS = (
    "Date of the image: the field Taken on, else the date in its file",
    "Area of the approved outline, in mm² if the field mm per pixel is filled in",
    "Change of the area since the last visit that was measured in the same unit",
    "Longest diameter, in the same unit",
    "Asymmetry, 0 to 1",
)
_ROWS = 4  # that are visible
_ROUND = 1000  # from which areas are written as whole numbers
_ICON = 28  # pixels of a thumbnail's longer side


class VisitTable(QTableWidget):
    """A row for each visit: a small image, the date, and what was measured."""

    def __init__(self) -> None:
        super().__init__(0, len(_COLUMNS))
        self.visits: Sequence[Visit] = ()
        self.rows: Sequence[VisitMeasurement] = ()
        self._thumbnails: Thumbnails | None = None
        self.setHorizontalHeaderLabels(list(_COLUMNS))
        for number, tip in enumerate(_TIPS):
            self.horizontalHeaderItem(number).setToolTip(tip)
        self.setIconSize(QSize(_ICON, _ICON))
        self.setStyleSheet("font-size: 8pt;")  # a dock of 325 pixels is to show all columns
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_ICON + 4)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def show_study(self, study: Study) -> None:
        """Take the small images from a study."""
        self._thumbnails = Thumbnails(study)
        self._thumbnails.ready.connect(self._show_icons)

    def close_study(self) -> None:
        """Stop making small images, and forget the visits."""
        if self._thumbnails is not None:
            self._thumbnails.close()
        self._thumbnails, self.visits, self.rows = None, (), ()

    def show_visits(self, visits: Sequence[Visit], rows: Sequence[VisitMeasurement]) -> None:
        """Show visits and what was measured at each of them."""
        self.visits, self.rows = visits, rows
        self.setRowCount(len(rows))
        for place, row in enumerate(rows):
            for column, text in enumerate(_cells(row)):
                item = QTableWidgetItem(text)
                item.setToolTip(row.image)
                self.setItem(place, column, item)
        self._show_icons()
        header = self.horizontalHeader().sizeHint().height()
        self.setFixedHeight(min(max(len(rows), 2), _ROWS) * (_ICON + 4) + header + 4)

    def select(self, image_id: str | None) -> None:
        """Select the visit whose image is on the screen."""
        for place, visit in enumerate(self.visits):
            if visit.state.image_id == image_id:
                self.selectRow(place)

    def _show_icons(self, *_: object) -> None:
        if self._thumbnails is None:
            return
        for place, visit in enumerate(self.visits):
            icon = self._thumbnails.of(visit.state)
            if icon is not None:
                self.item(place, 0).setIcon(icon)


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
