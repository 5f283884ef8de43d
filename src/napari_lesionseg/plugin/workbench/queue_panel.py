"""The list of a study's images: search, filter, sort, progress."""

from __future__ import annotations

from qtpy.QtCore import QItemSelectionModel, QModelIndex, QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QGridLayout,
    QHeaderView,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QTableView,
    QWidget,
)

from napari_lesionseg.plugin.widgets.forms import keep_narrow
from napari_lesionseg.plugin.workbench.queue_model import AGREE, ANNOTATOR, IMAGE, STATUS, SURE, QueueModel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.plugin.workbench.thumbnails import SIDE
from napari_lesionseg.study.queue import Order, count_images
from napari_lesionseg.study.state import Status

ROWS = 3
"""Rows that can be seen in a low window; a taller one shows more."""

_FILTERS: dict[str, frozenset[Status] | None] = {
    "all": None,
    "to do": frozenset({Status.UNREVIEWED, Status.PREDICTED, Status.CORRECTED}),
    **{status.words: frozenset({status}) for status in Status},
}
_ORDERS = {IMAGE: Order.NAME, STATUS: Order.STATUS, SURE: Order.QUALITY}
_WIDTHS = {STATUS: 90, SURE: 40, AGREE: 46, ANNOTATOR: 48}


class QueuePanel(QWidget):
    """The images of a study; a click on one opens it.

    Parameters
    ----------
    session : StudySession
        The study at work.
    """

    def __init__(self, session: StudySession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.model = QueueModel(session, self)
        self.search = QLineEdit()
        self.filter = QComboBox()
        self.sort = QComboBox()
        self.table = QTableView()
        self.progress = QProgressBar()
        self.outline_all = QPushButton()
        self._describe()
        self._lay_out()
        self.search.textChanged.connect(self._rearrange)
        self.filter.currentIndexChanged.connect(self._rearrange)
        self.sort.currentIndexChanged.connect(self._rearrange)
        self.table.clicked.connect(self._on_clicked)
        self.table.activated.connect(self._on_clicked)
        self.table.horizontalHeader().sectionClicked.connect(self._on_header)
        self.outline_all.clicked.connect(self._on_outline_all)
        session.run.progressed.connect(self._on_progress)
        session.run.finished.connect(self._on_finished)
        session.changed.connect(self._update)
        self._update()

    def close_session(self) -> None:
        """Let go of the session."""
        self._session.changed.disconnect(self._update)
        self._session.run.progressed.disconnect(self._on_progress)
        self._session.run.finished.disconnect(self._on_finished)
        self.model.close()

    def _describe(self) -> None:
        self.search.setPlaceholderText("Search name, note, annotator")
        self.search.setClearButtonEnabled(True)
        self.filter.addItems(list(_FILTERS))
        for order in Order:
            self.sort.addItem(order.value, order)
        keep_narrow(self.filter)
        keep_narrow(self.sort)
        self.search.setToolTip("Show only images in whose name, note, annotator or status these words occur")
        self.filter.setToolTip("Show only images that are this far")
        self.sort.setToolTip("Which image comes next")
        self.progress.setToolTip("Images with a verdict: approved, or without a lesion")

    def _lay_out(self) -> None:
        table = self.table
        table.setModel(self.model)
        table.setIconSize(QSize(SIDE, SIDE))
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(SIDE + 4)
        header = table.horizontalHeader()
        header.setSectionResizeMode(IMAGE, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(min(_WIDTHS.values()))
        for column, width in _WIDTHS.items():
            table.setColumnWidth(column, width)
        header.setHighlightSections(False)
        header.setSectionsClickable(True)
        table.setMinimumHeight(ROWS * (SIDE + 4) + header.sizeHint().height() + 4)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(3)
        grid.addWidget(self.search, 0, 0, 1, 2)
        grid.addWidget(self.filter, 1, 0)
        grid.addWidget(self.sort, 1, 1)
        grid.addWidget(table, 2, 0, 1, 2)
        grid.addWidget(self.progress, 3, 0)
        grid.addWidget(self.outline_all, 3, 1)

    def _rearrange(self) -> None:
        order = self.sort.currentData(Qt.ItemDataRole.UserRole)
        self._session.sort(Order(order), self.search.text(), _FILTERS[self.filter.currentText()])

    def _on_clicked(self, index: QModelIndex) -> None:
        self._session.open_image(self.model.image_at(index.row()))

    def _on_header(self, column: int) -> None:
        """Sort by a column that can be sorted by."""
        if column in _ORDERS:
            self.sort.setCurrentText(_ORDERS[column].value)

    def _on_outline_all(self) -> None:
        if self._session.run.is_active:
            self._session.run.cancel()
        else:
            self._session.outline_all()

    def _on_progress(self, done: int, total: int) -> None:
        self.outline_all.setText(f"Stop outlining ({done} of {total})")
        self.outline_all.setToolTip("Stop after the image at work; what is outlined stays")

    def _on_finished(self, problems: tuple[str, ...]) -> None:
        self._update()
        if problems:
            self._session.failed.emit(f"{len(problems)} images were not outlined. The first: {problems[0]}")

    def _update_run(self, waiting: int) -> None:
        """Say what the button would do, unless it is doing it."""
        if self._session.run.is_active:
            return
        self.outline_all.setText("Segment all unreviewed images")
        self.outline_all.setEnabled(waiting > 0)
        self.outline_all.setToolTip(
            f"Let the model outline the {waiting} images that nobody has looked at, in the background"
            if waiting
            else "Every image was looked at or outlined"
        )

    def _update(self) -> None:
        counts = count_images(self._session.study.state.images.values())
        self.progress.setMaximum(max(1, counts.total))
        self.progress.setValue(counts.done)
        self.progress.setFormat(str(counts))
        self.table.setColumnHidden(AGREE, not self.model.can_agree)
        self._update_run(counts.by_status[Status.UNREVIEWED])
        row = self.model.row_of(self._session.image_id)
        selection = self.table.selectionModel()
        if row < 0:
            selection.clearSelection()
        elif not selection.isRowSelected(row, QModelIndex()):
            index = self.model.index(row, 0)
            flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
            selection.setCurrentIndex(index, flags)
            self.table.scrollTo(index)
