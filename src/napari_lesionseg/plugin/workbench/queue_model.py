"""The queue of a study as a table for Qt's views."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt
from qtpy.QtGui import QColor

from napari_lesionseg.plugin.workbench.agreement_column import AgreementColumn
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.plugin.workbench.thumbnails import Thumbnails
from napari_lesionseg.study.state import ImageState, Status

COLUMNS = ("Image", "Status", "Sure", "Agree", "Annotator")
IMAGE, STATUS, SURE, AGREE, ANNOTATOR = range(len(COLUMNS))

TIPS = {
    IMAGE: "Click to sort by name",
    STATUS: "How far the image is. Click to sort by it",
    SURE: "How good the outline is likely to be, 0 to 1. Click to put the least sure first",
    AGREE: "How well the annotators' signed outlines agree: mean Dice of all pairs, 0 to 1",
    ANNOTATOR: "Who did the last thing",
}
_BLINDED = "Annotators do not see each other's outlines in this study"

# Okabe and Ito (2008): colors that color-blind people can tell apart, on dark and on light.
STATUS_COLORS = {
    Status.APPROVED: QColor(0, 158, 115),
    Status.NO_LESION: QColor(0, 158, 115),
    Status.CORRECTED: QColor(86, 180, 233),
    Status.FLAGGED: QColor(230, 159, 0),
}


class QueueModel(QAbstractTableModel):
    """Rows are images, in the order of the session's queue.

    Parameters
    ----------
    session : StudySession
        The study at work.
    """

    def __init__(self, session: StudySession, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._rows: list[ImageState] = session.queue
        self._places = {state.image_id: row for row, state in enumerate(self._rows)}
        self._thumbnails = Thumbnails(session.study)
        self._thumbnails.ready.connect(self._on_thumbnail)
        self._agreement_column = AgreementColumn(session.study)
        self._agreement_column.ready.connect(self._on_agreement)
        session.changed.connect(self.refresh)

    def close(self) -> None:
        """Let go of the session."""
        self._session.changed.disconnect(self.refresh)
        self._thumbnails.close()
        self._agreement_column.close()

    @property
    def can_agree(self) -> bool:
        """Whether the study holds the work of several annotators, or may hold it while they are blinded."""
        study = self._session.study
        return study.blinded or any(len(state.verdicts) > 1 for state in study.state.images.values())

    def rowCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Count the images."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Count the columns."""
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:  # noqa: N802
        """Give a column's name, and what it says."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section]
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.ToolTipRole:
            return TIPS[section]
        return None

    def data(self, index: QModelIndex | QPersistentModelIndex, role: int = 0) -> Any:
        """Give what a cell shows."""
        state = self._rows[index.row()]
        column = index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self._agreement_of(state) if column == AGREE else _text(state, column)
        if role == Qt.ItemDataRole.DecorationRole and column == IMAGE:
            return self._thumbnails.of(state)
        if role == Qt.ItemDataRole.ForegroundRole and column == STATUS:
            return STATUS_COLORS.get(state.status)
        if role == Qt.ItemDataRole.ToolTipRole:
            return _BLINDED if column == AGREE and self._session.study.blinded else _tip(state)
        return None

    def image_at(self, row: int) -> str:
        """Give the SHA-256 of the image in a row."""
        return self._rows[row].image_id

    def row_of(self, image_id: str | None) -> int:
        """Give the row of an image, or -1."""
        return self._places.get(image_id or "", -1)

    def refresh(self) -> None:
        """Take over the session's queue; rows that stay keep their selection and place."""
        rows = self._session.queue
        if [state.image_id for state in rows] == [state.image_id for state in self._rows]:
            pairs = enumerate(zip(self._rows, rows, strict=True))
            changed = [row for row, (old, new) in pairs if old is not new]
            self._rows = rows
            if changed:
                self.dataChanged.emit(self.index(changed[0], 0), self.index(changed[-1], len(COLUMNS) - 1))
            return
        self.beginResetModel()
        self._rows = rows
        self._places = {state.image_id: row for row, state in enumerate(rows)}
        self.endResetModel()

    def _agreement_of(self, state: ImageState) -> str:
        if self._session.study.blinded:
            return "-"
        value = self._agreement_column.of(state)
        return "" if value is None else f"{value:.2f}"

    def _on_thumbnail(self, image_id: str) -> None:
        self._tell_of(image_id, IMAGE, Qt.ItemDataRole.DecorationRole)

    def _on_agreement(self, image_id: str) -> None:
        self._tell_of(image_id, AGREE, Qt.ItemDataRole.DisplayRole)

    def _tell_of(self, image_id: str, column: int, role: Qt.ItemDataRole) -> None:
        row = self.row_of(image_id)
        if row >= 0:
            cell = self.index(row, column)
            self.dataChanged.emit(cell, cell, [role])


def _tip(state: ImageState) -> str:
    return f"{state.name}: {state.status.words}" + (f"\n“{state.note}”" if state.note else "")


def _text(state: ImageState, column: int) -> str:
    if column == IMAGE:
        return state.name
    if column == STATUS:
        return f"{state.status.words} “{state.note}”" if state.note else state.status.words
    if column == SURE:
        return "" if state.quality is None else f"{state.quality:.2f}"
    return state.annotator or ""
