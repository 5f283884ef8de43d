"""The curve of what was measured at the visits of a lesion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pyqtgraph as pg
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox

from napari_lesionseg.plugin.widgets.forms import keep_narrow
from napari_lesionseg.study.followup import Visit, VisitMeasurement

_MEASURES = {
    "area": "area",
    "longest diameter": "longest_diameter",
    "asymmetry": "asymmetry",
    "contrast": "contrast",
}
_HEIGHT = 110
CURVE_COLOR = "#56b4e9"


class VisitCurve(pg.PlotWidget):
    """A plot with a point for each visit; `choice`, placed by the panel, says what it shows."""

    def __init__(self) -> None:
        super().__init__(axisItems={"bottom": pg.DateAxisItem()}, background=None)
        self._visits: Sequence[Visit] = ()
        self._rows: Sequence[VisitMeasurement] = ()
        self.setFixedHeight(_HEIGHT)
        self.setMouseEnabled(x=False, y=False)
        self.hideButtons()
        self.setMenuEnabled(False)
        self.choice = QComboBox()
        for name, attribute in _MEASURES.items():
            self.choice.addItem(name, attribute)
        keep_narrow(self.choice)
        self.choice.setToolTip("What the curve shows")
        self.choice.currentIndexChanged.connect(self._draw)

    def show_visits(self, visits: Sequence[Visit], rows: Sequence[VisitMeasurement]) -> None:
        """Draw visits and what was measured at each of them."""
        self._visits, self._rows = visits, rows
        self._draw()

    def _draw(self) -> None:
        """Draw a point for each visit with a date, in the unit that most of them have."""
        name = self.choice.currentData(Qt.ItemDataRole.UserRole)
        units = [row.unit for row in self._rows if row.unit]
        unit = max(units, key=units.count, default="")
        has_unit = name in ("area", "longest_diameter")
        points = [
            (_seconds(visit.day), getattr(row, name))
            for visit, row in zip(self._visits, self._rows, strict=True)
            if visit.day is not None and getattr(row, name) is not None
            if row.unit == unit or not has_unit
        ]
        self.clear()
        self.setVisible(len(points) > 1)
        self.choice.setVisible(any(row.unit for row in self._rows))
        self.setLabel("left", f"{unit}²" if name == "area" else unit if has_unit else "")
        if points:
            pen = pg.mkPen(CURVE_COLOR, width=2)
            self.plot(*zip(*points, strict=True), pen=pen, symbol="o", symbolBrush=CURVE_COLOR)
            # From 0, or a change within what two annotators differ by would look like a leap.
            self.setYRange(0, 1.1 * max(value for _, value in points) or 1, padding=0)


def _seconds(day: date) -> float:
    """Return a date as the axis counts it, at noon so that time zones do not shift it."""
    return (day.toordinal() - date(1970, 1, 1).toordinal() + 0.5) * 86_400
