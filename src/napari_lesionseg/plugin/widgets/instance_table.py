"""Tables of lesions for Qt's views: rows are lesions, columns what is known of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from napari.layers import Labels
from qtpy.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QSortFilterProxyModel,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

_Index = QModelIndex | QPersistentModelIndex
_SWATCH = 12


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    tip: str
    value: Callable[[Any], Any]
    text: Callable[[Any], str] | None = None


def number_column(title: str, tip: str, name: str, digits: int = 0) -> Column:
    """Make a column of numbers with so many digits behind the point, with thin spaces between thousands."""

    def write(row: Any) -> str:
        value = getattr(row, name)
        if value is None or math.isnan(value):
            return "\N{EN DASH}"
        return f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")

    return Column(title, tip, lambda row: getattr(row, name), write)


class InstanceTableModel(QAbstractTableModel):
    """Rows are records with an ``index``, the lesion's number, which stands in the first column."""

    renumbered = Signal(int, int)

    def __init__(self, columns: Sequence[Column], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._columns = [Column("No.", "Number of the lesion", lambda row: row.index), *columns]
        self._rows: Sequence[Any] = ()
        self._labels: Labels | None = None
        self.editable = False

    @property
    def numbers(self) -> list[int]:
        """The lesions' numbers, row by row."""
        return [row.index for row in self._rows]

    def show(self, rows: Sequence[Any], labels: Labels | None, columns: Sequence[Column] = ()) -> None:
        """Show other rows, in the colors of a layer; and other columns, where some are given."""
        self.beginResetModel()
        self._rows, self._labels = rows, labels
        if columns:
            self._columns[1:] = columns
        self.endResetModel()

    def rowCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008, N802
        """Count the lesions."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: _Index = QModelIndex()) -> int:  # noqa: B008, N802
        """Count the columns."""
        return 0 if parent.isValid() else len(self._columns)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:  # noqa: N802
        """Return the heading of a column, or its tooltip."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        column = self._columns[section]
        return {Qt.ItemDataRole.DisplayRole: column.title, Qt.ItemDataRole.ToolTipRole: column.tip}.get(
            Qt.ItemDataRole(role)
        )

    def data(self, index: _Index, role: int = 0) -> Any:
        """Return what a cell shows."""
        column, row = self._columns[index.column()], self._rows[index.row()]
        value = column.value(row)
        if role == Qt.ItemDataRole.DisplayRole:
            return str(value) if column.text is None else column.text(row)
        if role == Qt.ItemDataRole.EditRole:
            return "" if value is None else value
        if role == Qt.ItemDataRole.TextAlignmentRole and not isinstance(value, str):
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.DecorationRole and index.column() == 0:
            return self._swatch(row.index)
        return None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        """Allow numbers to be edited, where lesions can be edited."""
        known = super().flags(index)
        return known | Qt.ItemFlag.ItemIsEditable if self.editable and index.column() == 0 else known

    def setData(self, index: _Index, value: Any, role: int = 0) -> bool:  # noqa: N802
        """Announce a typed number; it is shown once the lesion has it."""
        if role != Qt.ItemDataRole.EditRole or index.column() != 0:
            return False
        old = self._rows[index.row()].index
        if int(value) != old:
            self.renumbered.emit(old, int(value))
        return False

    def _swatch(self, number: int) -> QPixmap | None:
        """Paint a square in the color that the lesion has in the layer."""
        if self._labels is None:
            return None
        color = self._labels.get_color(number)
        swatch = QPixmap(_SWATCH, _SWATCH)
        swatch.fill(
            QColor.fromRgbF(*(float(part) for part in color)) if color is not None else QColor(0, 0, 0, 0)
        )
        return swatch


class InstanceTable(QTableView):
    """A table of lesions that can be sorted, and selected row by row."""

    chosen = Signal()
    double_clicked = Signal(int)

    def __init__(self, columns: Sequence[Column], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.lesions = InstanceTableModel(columns, self)
        self._sorted = QSortFilterProxyModel(self)
        self._sorted.setSourceModel(self.lesions)
        self._sorted.setSortRole(Qt.ItemDataRole.EditRole)
        self._quiet = False
        self.setModel(self._sorted)
        self.setSortingEnabled(True)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.EditKeyPressed | QAbstractItemView.EditTrigger.SelectedClicked
        )
        self.setWordWrap(False)
        rows, heads = self.verticalHeader(), self.horizontalHeader()
        rows.setVisible(False)
        rows.setDefaultSectionSize(self.fontMetrics().height() + 6)
        heads.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        heads.setStretchLastSection(True)
        self.setMinimumHeight(6 * rows.defaultSectionSize())
        self.selectionModel().selectionChanged.connect(self._on_selection)
        self.doubleClicked.connect(self._on_double_click)

    @property
    def selected(self) -> tuple[int, ...]:
        """Numbers of the selected lesions, ascending."""
        numbers = self.lesions.numbers
        rows = [self._sorted.mapToSource(index).row() for index in self.selectionModel().selectedRows()]
        return tuple(sorted(numbers[row] for row in rows))

    def show_rows(self, rows: Sequence[Any], labels: Labels | None, columns: Sequence[Column] = ()) -> None:
        """Show other rows; lesions that are still there stay selected."""
        selected = self.selected
        self._quiet = True
        self.lesions.show(rows, labels, columns)
        self._quiet = False
        self.select(selected)
        if self.selected != selected:
            self.chosen.emit()

    def select(self, numbers: Collection[int]) -> None:
        """Select lesions without telling so."""
        known, selection = self.lesions.numbers, QItemSelection()
        for place in (known.index(number) for number in numbers if number in known):
            index = self._sorted.mapFromSource(self.lesions.index(place, 0))
            selection.select(index, index)
        self._quiet = True
        how = QItemSelectionModel.SelectionFlag
        self.selectionModel().select(selection, how.ClearAndSelect | how.Rows)
        if selection.indexes():
            self.scrollTo(selection.indexes()[0])
        self._quiet = False

    def _on_selection(self) -> None:
        if not self._quiet:
            self.chosen.emit()

    def _on_double_click(self, index: QModelIndex) -> None:
        if index.column() != 0 or not self.lesions.editable:
            self.double_clicked.emit(self.lesions.numbers[self._sorted.mapToSource(index).row()])
