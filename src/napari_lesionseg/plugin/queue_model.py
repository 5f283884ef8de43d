"""The queue of a study as a table for Qt's views."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from qtpy.QtGui import QColor

from napari_lesionseg.plugin.study_session import StudySession
from napari_lesionseg.plugin.thumbnails import Thumbnails
from napari_lesionseg.study.fold import PictureState, Status

COLUMNS = ("Picture", "Status", "Sure", "Reader")
PICTURE, STATUS, SURE, READER = range(len(COLUMNS))

# Okabe and Ito (2008): colours that colour-blind people can tell apart, on dark and on light.
STATUS_COLOURS = {
    Status.APPROVED: QColor(0, 158, 115),
    Status.NO_LESION: QColor(0, 158, 115),
    Status.CORRECTED: QColor(86, 180, 233),
    Status.FLAGGED: QColor(230, 159, 0),
}


class QueueModel(QAbstractTableModel):
    """Rows are pictures, in the order of the session's queue.

    Parameters
    ----------
    session : StudySession
        The study at work.
    """

    def __init__(self, session: StudySession, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._rows: list[PictureState] = session.queue
        self._places = {state.picture: row for row, state in enumerate(self._rows)}
        self._thumbnails = Thumbnails(session.study)
        self._thumbnails.ready.connect(self._on_thumbnail)
        session.changed.connect(self.refresh)

    def close(self) -> None:
        """Let go of the session."""
        self._session.changed.disconnect(self.refresh)
        self._thumbnails.close()

    def rowCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Count the pictures."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Count the columns."""
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:  # noqa: N802
        """Give a column's name."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section]
        return None

    def data(self, index: QModelIndex | QPersistentModelIndex, role: int = 0) -> Any:
        """Give what a cell shows."""
        state = self._rows[index.row()]
        column = index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return _text(state, column)
        if role == Qt.ItemDataRole.DecorationRole and column == PICTURE:
            return self._thumbnails.of(state)
        if role == Qt.ItemDataRole.ForegroundRole and column == STATUS:
            return STATUS_COLOURS.get(state.status)
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{state.name}: {state.status.value}" + (f"\n“{state.note}”" if state.note else "")
        return None

    def picture_at(self, row: int) -> str:
        """Give the SHA-256 of the picture in a row."""
        return self._rows[row].picture

    def row_of(self, picture: str | None) -> int:
        """Give the row of a picture, or -1."""
        return self._places.get(picture or "", -1)

    def refresh(self) -> None:
        """Take over the session's queue; rows that stay keep their selection and place."""
        rows = self._session.queue
        if [state.picture for state in rows] == [state.picture for state in self._rows]:
            pairs = enumerate(zip(self._rows, rows, strict=True))
            changed = [row for row, (old, new) in pairs if old is not new]
            self._rows = rows
            if changed:
                self.dataChanged.emit(self.index(changed[0], 0), self.index(changed[-1], len(COLUMNS) - 1))
            return
        self.beginResetModel()
        self._rows = rows
        self._places = {state.picture: row for row, state in enumerate(rows)}
        self.endResetModel()

    def _on_thumbnail(self, picture: str) -> None:
        row = self.row_of(picture)
        if row >= 0:
            cell = self.index(row, PICTURE)
            self.dataChanged.emit(cell, cell, [Qt.ItemDataRole.DecorationRole])


def _text(state: PictureState, column: int) -> str:
    if column == PICTURE:
        return state.name
    if column == STATUS:
        return f"{state.status.value} “{state.note}”" if state.note else state.status.value
    if column == SURE:
        return "" if state.quality is None else f"{state.quality:.2f}"
    return state.reader or ""
