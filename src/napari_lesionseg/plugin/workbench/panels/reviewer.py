"""Reviewing the work of others: what waits, returning an image with a note, and gold standards."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyqtgraph as pg
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QHeaderView,
    QInputDialog,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import MessageLabel
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.review import (
    AnnotatorSummary,
    KnownDice,
    is_to_review,
    mark_gold,
    mix_in_gold,
    return_image,
    summarize_reviews,
    verdict_to_review,
    withdraw_gold,
)
from napari_lesionseg.study.state import Status

if TYPE_CHECKING:
    from napari.components import ViewerModel

_COLUMNS = ("Who", "Wait", "Accept", "Edit", "Return", "Gold")
_TIPS = (
    "The annotator; the colors are those of the curves",
    "Decided images that wait for a reviewer, without gold standards",
    "Approved by a reviewer as they were",
    "Approved by a reviewer after changes",
    "Returned, and not decided again yet",
    "Mean Dice against the gold standard, and number of images",
)
_INVITATION = "Accept, edit or return outlines of other annotators."


class ReviewerPanel(Panel):
    """What a reviewer needs besides the buttons of the review bar."""

    requested = Signal(Path, str)

    title = "Review"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.message = MessageLabel()
        self.message.setText(_INVITATION)
        self.begin = QPushButton("Review others' outlines\N{HORIZONTAL ELLIPSIS}")
        self.give_back = QPushButton("Return\N{HORIZONTAL ELLIPSIS}")
        self.gold = QPushButton("Gold standard")
        self.mix_in = QPushButton("Mix in\N{HORIZONTAL ELLIPSIS}")
        self.table = QTableWidget(0, len(_COLUMNS))
        self.plot = pg.PlotWidget(axisItems={"bottom": pg.DateAxisItem()}, background=None)
        self._task: Task[list[AnnotatorSummary]] | None = None
        self._is_stale = False
        self._known: KnownDice = {}
        self._lay_out()
        self.begin.clicked.connect(self._on_begin)
        self.give_back.clicked.connect(self._on_return)
        self.gold.clicked.connect(self._on_gold)
        self.mix_in.clicked.connect(self._on_mix_in)

    def show_session(self, session: StudySession) -> None:
        """Follow the study; a reviewer's section is unfolded."""
        self.listen(session.changed, self._update)
        self.listen(session.opened, self._update)
        self._known = {}
        if session.study.is_reviewer:
            self.unfold.emit()
        self._update()

    def close_session(self) -> None:
        """Stop comparing."""
        if self._task is not None:
            self._task.close()
        self._task = None

    def _lay_out(self) -> None:
        self.begin.setToolTip("Open this study as a reviewer, who sees the work of all annotators")
        self.mix_in.setToolTip("Mix images that you approved into the others' queues, as gold standards")
        self.gold.setCheckable(True)
        table = self.table
        table.setHorizontalHeaderLabels(list(_COLUMNS))
        for number, tip in enumerate(_TIPS):
            table.horizontalHeaderItem(number).setToolTip(tip)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        table.verticalHeader().hide()
        table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        table.setFixedHeight(110)
        self.plot.setFixedHeight(100)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.plot.setMenuEnabled(False)
        self.plot.setYRange(0, 1)
        self.plot.setLabel("left", "agreement")
        self.plot.setToolTip("Agreement of each annotator with the gold standard over time (mean Dice index)")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(3)
        grid.addWidget(self.message, 0, 0, 1, 3)
        grid.addWidget(self.begin, 1, 0, 1, 3)
        for place, button in enumerate((self.give_back, self.gold, self.mix_in)):
            grid.addWidget(button, 2, place)
        grid.addWidget(table, 3, 0, 1, 3)
        grid.addWidget(self.plot, 4, 0, 1, 3)

    def _on_begin(self) -> None:
        if self.session is None:
            return
        name, given = QInputDialog.getText(
            self, "Review", "Your name or initials as the reviewer:", text=self.session.study.annotator
        )
        if given and name.strip():
            self.requested.emit(self.session.study.folder, name.strip())

    def _on_return(self) -> None:
        session = self.session
        if session is None or session.review is None:
            return
        note, given = QInputDialog.getText(self, "Return this image", "What should be changed?")
        if given:
            image_id = session.review.image_id
            session.review.save()
            save = partial(return_image, session.study, image_id, note.strip())
            session.save_queue.put(save, image_id, decides=True)
            session.next()

    def _on_gold(self, checked: bool) -> None:
        session = self.session
        if session is not None and session.image_id is not None:
            change = mark_gold if checked else withdraw_gold
            session.save_queue.put(partial(change, session.study, session.image_id), session.image_id)

    def _on_mix_in(self) -> None:
        if self.session is None:
            return
        text = "How many of the images that you approved, and nobody else decided about?"
        count, given = QInputDialog.getInt(self, "Gold standards", text, 10, 1, 1000)
        if given:
            run_task(
                "mixing in gold standards",
                mix_in_gold,
                self.session.study,
                count,
                done=lambda marked: show_info(f"{len(marked)} images are gold standards now."),
                failed=lambda error: show_error(str(error)),
            )

    def _update(self, *_: object) -> None:
        session = self.session
        if session is None:
            return
        is_reviewer, state = session.study.is_reviewer, session.state
        self.begin.setVisible(not is_reviewer)
        own: tuple[QWidget, ...] = (self.give_back, self.gold, self.mix_in, self.table, self.plot)
        for widget in own:
            widget.setVisible(is_reviewer)
        if not is_reviewer:
            self.message.setText(_INVITATION)
            return
        reviewer = session.study.annotator
        images = session.study.state.images.values()
        waiting = sum(is_to_review(one, reviewer) for one in images)
        returned = sum(one.status is Status.RETURNED for one in images)
        verdict = None if state is None else verdict_to_review(state, reviewer)
        shown = "" if verdict is None else f" This outline is by {verdict.annotator}."
        self.message.setText(f"{waiting} to review, {returned} returned.{shown}")
        others = [] if state is None else [name for name in state.verdicts if name != reviewer]
        self.give_back.setEnabled(bool(others))
        self.give_back.setToolTip(
            "Return this image to its annotator, with a note"
            if others
            else "Nobody else has decided about it"
        )
        has_own = state is not None and reviewer in state.verdicts
        self.gold.setEnabled(has_own)
        self.gold.setChecked(state is not None and state.gold is not None)
        self.gold.setToolTip(
            "Measure others by your outline of this image, which looks to them like any that is to be done"
            if has_own
            else "Approve the outline first"
        )
        self._compare()

    def _compare(self) -> None:
        """Count and compare in the background, and once more if something changes in the meantime."""
        self._is_stale = self._task is not None
        if self.session is not None and self._task is None:
            self._task = run_task(
                "comparing the annotators",
                summarize_reviews,
                self.session.study,
                self._known,
                done=self._show,
                failed=self._on_failed,
            )

    def _show(self, summaries: list[AnnotatorSummary]) -> None:
        self._task = None
        if self._is_stale:
            self._compare()
        self.table.setRowCount(len(summaries))
        self.plot.clear()
        for row, found in enumerate(summaries):
            gold = "" if found.gold_dice is None else f"{found.gold_dice:.2f} ({len(found.gold)})"
            numbers = (found.waiting, found.accepted, found.edited, found.returned)
            for column, text in enumerate((found.annotator, *map(str, numbers), gold)):
                self.table.setItem(row, column, QTableWidgetItem(text))
            if found.gold:
                color = CLASS_COLORS[row % len(CLASS_COLORS)]
                times = [score.time.timestamp() for score in found.gold]
                scores = [score.dice for score in found.gold]
                self.table.item(row, 0).setForeground(QColor(color))
                self.plot.plot(times, scores, pen=pg.mkPen(color, width=2), symbol="o", symbolBrush=color)
        has_gold = any(found.gold for found in summaries)
        self.plot.setVisible(has_gold and self.session is not None and self.session.study.is_reviewer)

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.message.setText(str(error))
