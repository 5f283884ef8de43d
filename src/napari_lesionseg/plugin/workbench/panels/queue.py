"""The list of a study's images: search, filter, sort, progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import (
    QAbstractTableModel,
    QItemSelectionModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    QSize,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QMouseEvent, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import MessageLabel, keep_narrow
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.panels.queue_columns import SIDE, AgreementColumn, Thumbnails
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.landmarks import status_words
from napari_lesionseg.study.queue import TO_DO, Order, count_images
from napari_lesionseg.study.state import ImageState, Status

if TYPE_CHECKING:
    from napari.components import ViewerModel

ROWS = 2
"""Rows that are visible in a low window; a taller one shows more."""

COLUMNS = ("Image", "Status", "Quality", "Agreem.", "Annotator")  # short, to leave room for names
IMAGE, STATUS, QUALITY, AGREE, ANNOTATOR = range(len(COLUMNS))

TIPS = {
    IMAGE: "Click to sort by name",
    STATUS: "Review status. Click to sort by status",
    QUALITY: "Estimated quality of the outline, 0 to 1. Click to put the lowest first",
    AGREE: "Agreement: how much several annotators' approved outlines overlap, 0 to 1 (mean Dice index)",
    ANNOTATOR: "Who changed the image last",
}
_BLINDED = "In this study, annotators do not see each other's outlines"

# Okabe and Ito (2008): colors that color-blind people can tell apart, on dark and on light.
STATUS_COLORS = {
    Status.APPROVED: QColor(0, 158, 115),
    Status.NO_LESION: QColor(0, 158, 115),
    Status.CORRECTED: QColor(86, 180, 233),
    Status.FLAGGED: QColor(230, 159, 0),
    Status.RETURNED: QColor(230, 159, 0),
}

_FILTERS: dict[str, frozenset[Status] | None] = {
    "all": None,
    "to do": TO_DO,
    **{status.words: frozenset({status}) for status in Status},
}
_ORDERS = {IMAGE: Order.NAME, STATUS: Order.STATUS, QUALITY: Order.QUALITY}
_WIDTHS = {STATUS: 82, QUALITY: 52, AGREE: 54, ANNOTATOR: 64}


class ImageTable(QTableView):
    """The images of a study, one a row: a drag over rows selects nothing, and a double click is one click."""

    released = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setIconSize(QSize(SIDE, SIDE))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)  # the end of a file's name tells most
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(SIDE + 4)
        header = self.horizontalHeader()
        header.setMinimumSectionSize(min(_WIDTHS.values()))
        header.setHighlightSections(False)
        header.setSectionsClickable(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)  # shrinks first
        self.setMinimumHeight(ROWS * (SIDE + 4) + header.sizeHint().height() + 4)

    def show_model(self, model: QueueModel) -> None:
        """List other images, in columns whose widths Qt knows only once there is a model."""
        self.setModel(model)
        self.horizontalHeader().setSectionResizeMode(IMAGE, QHeaderView.ResizeMode.Stretch)
        for column, width in _WIDTHS.items():
            self.setColumnWidth(column, width)

    def select_row(self, row: int) -> None:
        """Select a row and scroll to it, or select none if it is negative."""
        selection = self.selectionModel()
        if row < 0:
            selection.clearSelection()
        elif not selection.isRowSelected(row, QModelIndex()):
            index = self.model().index(row, 0)
            flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
            selection.setCurrentIndex(index, flags)
            self.scrollTo(index)

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802  Qt's name
        """Ignore a drag, which would mark an image that is not on the screen."""
        if event is not None and event.buttons() == Qt.MouseButton.NoButton:
            super().mouseMoveEvent(event)

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802  Qt's name
        """Ignore the second click: the list may have moved under the mouse."""
        if event is not None:
            event.accept()

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802  Qt's name
        """Announce the release, also where no row was clicked."""
        super().mouseReleaseEvent(event)
        self.released.emit()


class QueuePanel(Panel):
    """The images of a study; a click on one opens it."""

    title, folded, grows = "Images", False, True

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.model: QueueModel | None = None
        self.search = QLineEdit()
        self.filter = QComboBox()
        self.sort = QComboBox()
        self.table = ImageTable()
        self.progress = QProgressBar()
        self.predict_all = QPushButton()
        self.missing = MissingImages()
        self.listed = ListArea(self.table)
        self.listed.add_notice(self.missing)
        self._describe()
        self._lay_out()
        self.search.textChanged.connect(self._rearrange)
        self.filter.currentIndexChanged.connect(self._rearrange)
        self.sort.currentIndexChanged.connect(self._rearrange)
        self.table.clicked.connect(self._on_clicked)
        self.table.released.connect(self._select_shown)
        self.table.activated.connect(self._on_clicked)
        self.table.horizontalHeader().sectionClicked.connect(self._on_header)
        self.predict_all.clicked.connect(self._on_predict_all)

    def show_session(self, session: StudySession) -> None:
        """List the images of a study."""
        former, self.model = self.model, QueueModel(session, self)
        self.table.show_model(self.model)
        if former is not None:
            former.deleteLater()
        self.listen(session.batch.progressed, self._on_progress)
        self.listen(session.batch.finished, self._on_finished)
        self.listen(session.changed, self._update)
        self.missing.check(session)
        for place, status in enumerate(Status, len(_FILTERS) - len(Status)):
            self.filter.setItemText(place, status_words(status, session.study))
        self._rearrange()
        self._update()

    def add_notice(self, notice: QWidget) -> None:
        """Show a notice below the list."""
        self.listed.add_notice(notice)

    def close_session(self) -> None:
        """Stop making thumbnails."""
        if self.model is not None:
            self.model.close()
        self.missing.cancel()

    def _describe(self) -> None:
        self.search.setPlaceholderText("Search by name, note or annotator")
        self.search.setClearButtonEnabled(True)
        self.filter.addItems(list(_FILTERS))
        for order in Order:
            self.sort.addItem(order.value, order)
        keep_narrow(self.filter)
        keep_narrow(self.sort)
        self.search.setToolTip(
            "Show only images with these words in name, note, annotator, status or a field, or with a value, "
            "such as diagnosis=nevus; diagnosis= finds those without one"
        )
        self.filter.setToolTip("Show only images with this status")
        self.sort.setToolTip("Order of the images")
        self.progress.setToolTip("Images that are done: approved, or without a lesion")

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(3)
        grid.addWidget(self.search, 0, 0, 1, 2)
        grid.addWidget(self.filter, 1, 0)
        grid.addWidget(self.sort, 1, 1)
        grid.addWidget(self.listed, 2, 0, 1, 2)
        last = QHBoxLayout()
        last.addWidget(self.progress, 1)
        last.addWidget(self.predict_all)
        grid.addLayout(last, 3, 0, 1, 2)

    def _rearrange(self) -> None:
        if self.session is not None:
            order = Order(self.sort.currentData(Qt.ItemDataRole.UserRole))
            statuses = list(_FILTERS.values())[self.filter.currentIndex()]
            self.session.navigation.sort(order, self.search.text(), statuses)

    def _on_clicked(self, index: QModelIndex) -> None:
        if self.session is not None and self.model is not None:
            self.session.open_image(self.model.image_at(index.row()))

    def _on_header(self, column: int) -> None:
        """Sort by a column that can be sorted by."""
        if column in _ORDERS:
            self.sort.setCurrentText(_ORDERS[column].value)

    def _on_predict_all(self) -> None:
        if self.session is not None and self.session.batch.is_active:
            self.session.batch.cancel()
        elif self.session is not None:
            self.session.predict_all()

    def _on_progress(self, done: int, total: int) -> None:
        self.predict_all.setText(f"Stop ({done} of {total})")
        self.predict_all.setToolTip("Stop segmenting. Finished outlines are kept")

    def _on_finished(self, problems: tuple[str, ...]) -> None:
        self._update()
        if problems and self.session is not None:
            count = "1 image" if len(problems) == 1 else f"{len(problems)} images"
            self.session.failed.emit(f"{count} could not be segmented. First error: {problems[0]}")

    def _update_predict_all(self, unreviewed: int) -> None:
        has_outlines = self.session is None or self.session.study.info.landmarks is None
        self.predict_all.setText("Segment all" if has_outlines else "Find in all")
        self.predict_all.setEnabled(unreviewed > 0)
        count = "1 unreviewed image" if unreviewed == 1 else f"{unreviewed} unreviewed images"
        what = "Outline" if has_outlines else "Find the landmarks in"
        self.predict_all.setToolTip(
            f"{what} the {count} with the model, in the background"
            if unreviewed
            else "Every image was reviewed or predicted"
        )

    def _update(self) -> None:
        if self.session is None or self.model is None:
            return
        counts = count_images(self.session.study.state.images.values())
        self.progress.setMaximum(max(1, counts.total))
        self.progress.setValue(counts.done)
        text = counts.describe(partial(status_words, study=self.session.study))
        self.progress.setFormat(text)
        self.progress.setToolTip(text)  # cut where the letters are large
        can_agree, is_shared = self.model.can_agree, self.model.is_shared
        self.table.setColumnHidden(AGREE, not can_agree)
        self.table.setColumnHidden(ANNOTATOR, not is_shared)
        # With all five columns no room is left for the names of the images.
        self.table.setColumnHidden(QUALITY, can_agree and is_shared)
        if not self.session.batch.is_active:
            self._update_predict_all(counts.by_status[Status.UNREVIEWED])
        self._select_shown()

    def _select_shown(self) -> None:
        """Select the row of the image on the screen."""
        if self.session is not None and self.model is not None:
            self.table.select_row(self.model.row_of(self.session.display.expected()))


class ListArea(QWidget):
    """The list and notices below it, which take height from it alone, so that no button moves."""

    def __init__(self, table: ImageTable) -> None:
        super().__init__()
        self._table, self._column = table, QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(3)
        self._column.addWidget(table, 1)
        self.setSizePolicy(table.sizePolicy())
        self.setMinimumHeight(table.minimumHeight())
        table.setMinimumHeight(0)

    def add_notice(self, notice: QWidget) -> None:
        """Show a notice below the list."""
        self._column.addWidget(notice)

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802  Qt's name
        """Keep the image on the screen in view when something below takes some of the height."""
        super().resizeEvent(event)
        self._table.scrollTo(self._table.currentIndex())

    def sizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the least size, whatever is visible."""
        return QSize(0, self.minimumHeight())


class MissingImages(QWidget):
    """Reports images that were moved, and asks for the folder they are in now; hidden when there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.text = MessageLabel()
        self.locate = QPushButton("Locate images\N{HORIZONTAL ELLIPSIS}")
        self.locate.setToolTip("Choose the folder that holds the images of this study now")
        self._session: StudySession | None = None
        self._task: Task[tuple[str, ...]] | None = None
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.locate)
        self.locate.clicked.connect(self.ask)
        self.hide()

    def check(self, session: StudySession) -> None:
        """Look in the background for images that are missing."""
        self.hide()
        self._run(session, "looking for the images", session.study.missing_images)

    def ask(self) -> None:
        """Ask for the folder of the images."""
        folder = QFileDialog.getExistingDirectory(self, "Folder that holds the images now")
        if folder:
            self.set_folder(Path(folder))

    def set_folder(self, folder: Path) -> None:
        """Take the images from another folder."""
        session = self._session
        if session is not None:
            self._run(session, "locating the images", lambda: _relocate(session, folder))

    def cancel(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.close()
        self._task = self._session = None

    def _run(self, session: StudySession, title: str, function: Callable[[], tuple[str, ...]]) -> None:
        self.cancel()
        self._session = session
        self._task = run_task(title, function, done=self._on_checked, failed=self._on_failed)

    def _on_checked(self, missing: tuple[str, ...]) -> None:
        count = "1 image is" if len(missing) == 1 else f"{len(missing)} images are"
        self.text.setText(f"{count} missing. Were they moved?")
        self.setVisible(bool(missing))
        if self._session is not None:
            self._session.changed.emit()

    def _on_failed(self, error: Exception) -> None:
        show_error(str(error))


def _relocate(session: StudySession, folder: Path) -> tuple[str, ...]:
    session.study.set_images_folder(folder)
    return session.study.missing_images()


class QueueModel(QAbstractTableModel):
    """The queue of a study as a table for Qt's views; rows are images."""

    def __init__(self, session: StudySession, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self._rows: list[ImageState] = session.navigation.queue
        self._places = {state.image_id: row for row, state in enumerate(self._rows)}
        self._shared = _shared_names(session.study.state.images.values())
        self._thumbnails = Thumbnails(session.study)
        self._thumbnails.ready.connect(self._on_thumbnail)
        self._agreement_column = AgreementColumn(session.study)
        self._agreement_column.ready.connect(self._on_agreement)
        session.changed.connect(self.refresh)

    def close(self) -> None:
        """Stop following the session."""
        self._session.changed.disconnect(self.refresh)
        self._thumbnails.close()
        self._agreement_column.close()

    @property
    def is_shared(self) -> bool:
        """Whether several people work on the study; else the column of annotators says nothing."""
        study = self._session.study
        return len({study.annotator, *(s.annotator for s in study.state.images.values() if s.annotator)}) > 1

    @property
    def can_agree(self) -> bool:
        """Whether the study holds the work of several annotators, or may hold it while they are blinded."""
        study = self._session.study
        return study.blinded or any(len(state.verdicts) > 1 for state in study.state.images.values())

    def rowCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Return the number of images."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008, N802
        """Return the number of columns."""
        return 0 if parent.isValid() else len(COLUMNS)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> Any:  # noqa: N802
        """Return a column's name and tooltip."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return COLUMNS[section]
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.ToolTipRole:
            return TIPS[section]
        return None

    def data(self, index: QModelIndex | QPersistentModelIndex, role: int = 0) -> Any:
        """Return what a cell shows."""
        state = self._rows[index.row()]
        column = index.column()
        words = status_words(state.status, self._session.study)
        if role == Qt.ItemDataRole.DisplayRole and column == IMAGE:
            return _name_of(state, self._shared)
        if role == Qt.ItemDataRole.DisplayRole:
            return self._agreement_of(state) if column == AGREE else _text(state, column, words)
        if role == Qt.ItemDataRole.DecorationRole and column == IMAGE:
            return self._thumbnails.of(state)
        if role == Qt.ItemDataRole.ForegroundRole and column == STATUS:
            return STATUS_COLORS.get(state.status)
        if role == Qt.ItemDataRole.ToolTipRole:
            is_blinded = column == AGREE and self._session.study.blinded
            return _BLINDED if is_blinded else _tip(_name_of(state, self._shared), words, state.note)
        return None

    def image_at(self, row: int) -> str:
        """Return the ID of the image in a row."""
        return self._rows[row].image_id

    def row_of(self, image_id: str | None) -> int:
        """Return the row of an image, or -1."""
        return self._places.get(image_id or "", -1)

    def refresh(self) -> None:
        """Show the session's queue; rows that stay keep their selection and place."""
        rows = self._session.navigation.queue
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
        self._shared = _shared_names(self._session.study.state.images.values())
        self.endResetModel()

    def _agreement_of(self, state: ImageState) -> str:
        if self._session.study.blinded:
            return "-"
        value = self._agreement_column.of(state)
        return "" if value is None else f"{value:.2f}"

    def _on_thumbnail(self, image_id: str) -> None:
        self._emit_changed(image_id, IMAGE, Qt.ItemDataRole.DecorationRole)

    def _on_agreement(self, image_id: str) -> None:
        self._emit_changed(image_id, AGREE, Qt.ItemDataRole.DisplayRole)

    def _emit_changed(self, image_id: str, column: int, role: Qt.ItemDataRole) -> None:
        row = self.row_of(image_id)
        if row >= 0:
            cell = self.index(row, column)
            self.dataChanged.emit(cell, cell, [role])


def _shared_names(images: Iterable[ImageState]) -> frozenset[str]:
    """Return the names that several images have, such as those of IMD1.jpg and IMD1.png."""
    return frozenset(name for name, count in Counter(state.name for state in images).items() if count > 1)


def _name_of(state: ImageState, shared: frozenset[str]) -> str:
    """Return the name of an image, or its file where several have one name."""
    return state.added.path if state.name in shared and not state.added.own else state.name


def _tip(name: str, words: str, note: str | None) -> str:
    return f"{name}: {words}" + (f"\n“{note}”" if note else "")


def _text(state: ImageState, column: int, words: str) -> str:
    if column == STATUS:
        return f"{words} “{state.note}”" if state.note else words
    if column == QUALITY:
        return "" if state.quality is None else f"{state.quality:.2f}"
    return state.annotator or ""
