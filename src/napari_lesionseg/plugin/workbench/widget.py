"""The workbench: a study's images, the outline of one of them, and the way on. Wiring only."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QMessageBox,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_lesionseg.plugin.editor.panel import CorrectPanel
from napari_lesionseg.plugin.segment import task
from napari_lesionseg.plugin.segment.task import ModelChoice
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import small
from napari_lesionseg.plugin.widgets.model_picker import ModelPicker
from napari_lesionseg.plugin.widgets.postprocess_form import PostprocessForm
from napari_lesionseg.plugin.workbench.classes import ClassEditing
from napari_lesionseg.plugin.workbench.export_panel import ExportPanel
from napari_lesionseg.plugin.workbench.finetune_panel import LearnPanel
from napari_lesionseg.plugin.workbench.open_study import default_annotator
from napari_lesionseg.plugin.workbench.queue_panel import QueuePanel
from napari_lesionseg.plugin.workbench.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.saved_masks_panel import SavedMasksPanel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.plugin.workbench.start_panel import StartPanel
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    import napari.viewer

    from napari_lesionseg.inference.predictor import Model
    from napari_lesionseg.plugin.editor.editor import MaskEditor

_UNLIMITED = 16_777_215  # Qt's own QWIDGETSIZE_MAX

_NO_ARROW = "QToolButton { min-width: 20px; } QToolButton::menu-indicator { image: none; }"

POLL_MS = 5000
"""How often other annotators' work is looked for."""


class Workbench(QWidget):
    """Open a study, correct outline after outline, approve.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer that shows the images.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session: StudySession | None = None
        self.queue: QueuePanel | None = None
        self.verdict: ReviewBar | None = None
        self.standing: SavedMasksPanel | None = None
        self.learn: LearnPanel | None = None
        self.export: ExportPanel | None = None
        self.models = ModelPicker(self)
        self.controls = PostprocessForm(self)
        self.correct = CorrectPanel(napari_viewer)
        self.class_editing = ClassEditing(self.correct, self.models)
        self.annotator = QLineEdit(default_annotator())
        self.title = QLabel()
        self.sign = small(QLabel())
        self.sign.setWordWrap(True)
        self.menu = QToolButton()
        self.start = StartPanel(napari_viewer, self.annotator.text, self.close_study)
        self._model_job: Task[Any] | None = None
        self._poll = QTimer(self)
        self._poll.setInterval(POLL_MS)
        self._window: Callable[[], QWidget | None] = _nothing
        self._redraw_soon = QTimer(self)
        self._redraw_soon.setSingleShot(True)
        self._describe()
        self._lay_out()
        self._connect()
        self._load_model()

    # ------------------------------------------------------------------------------------- building

    def _describe(self) -> None:
        self.title.setStyleSheet("font-weight: bold;")
        self.annotator.setMaximumWidth(90)
        self.annotator.setToolTip("Your name or initials: every outline is signed with it")
        self.menu.setText("\N{MIDLINE HORIZONTAL ELLIPSIS}")
        self.menu.setToolTip("Make, open or close a study")
        self.menu.setStyleSheet(
            "QToolButton { min-width: 20px; } QToolButton::menu-indicator { image: none; }"
        )
        self.menu.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        entries = QMenu(self.menu)
        entries.addAction(self.start.new_button.text(), self.start.ask_for_new)
        entries.addAction(self.start.open_button.text(), self.start.ask_for_folder)
        entries.addAction("Close the study", self.close_study)
        self.menu.setMenu(entries)

    def _lay_out(self) -> None:
        header = QHBoxLayout()
        header.addWidget(self.title, 1)
        header.addWidget(small(QLabel("Annotator")))
        header.addWidget(self.annotator)
        header.addWidget(self.menu)
        self._queue_section = _section("Images")
        self._outline_section = _section("Outline", _form(self.controls))
        self._correct_section = _section("Correct", self.correct)
        self._learn_section = _section("Learn", folded=True)
        self._export_section = _section("Export", folded=True)
        self._model_section = _section("Model", _form(self.models), folded=True)
        self._verdict_place = QVBoxLayout()
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(4, 0, 4, 0)
        column.setSpacing(2)
        self.sections = column
        column.addWidget(self.start)
        for section in (
            self._queue_section,
            self._outline_section,
            self._correct_section,
            self._learn_section,
            self._export_section,
            self._model_section,
        ):
            column.addWidget(section)
        column.addStretch()
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        scroll.setWidget(inside)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(4, 0, 4, 4)
        whole.setSpacing(3)
        whole.addLayout(header)
        whole.addWidget(scroll, 1)
        whole.addLayout(self._verdict_place)
        whole.addWidget(self.sign)
        self._scroll = scroll
        self._show_study()

    def _connect(self) -> None:
        self.start.opened.connect(self._on_study)
        self.models.model.currentIndexChanged.connect(self._load_model)
        self.models.device.currentIndexChanged.connect(self._load_model)
        self.controls.changed.connect(self._redraw_soon.start)
        self.controls.settled.connect(self._on_settled)
        self._redraw_soon.timeout.connect(self._on_config)
        self._poll.timeout.connect(self._on_poll)
        self.destroyed.connect(partial(_tear_down, self.__dict__))

    # -------------------------------------------------------------------------------------- studies

    def open_folder(self, folder: Path) -> None:
        """Open a study, or a folder of images."""
        self.start.open_folder(folder)

    def close_study(self, *, ask: bool = True) -> bool:
        """Leave the study that is open; asks when something cannot be saved.

        Parameters
        ----------
        ask : bool
            Whether to ask as well when a model is learning, which can be continued the next time.

        Returns
        -------
        bool
            False when the annotator chose to stay.
        """
        if self.session is None:
            return True
        if ask and self.learn is not None and not self.learn.may_close():
            return False
        problem = self.session.close()
        if problem and not self._asks_to_leave(problem):
            return False
        if problem:
            self.session.abandon()
        self._forget_session()
        return True

    def _on_study(self, study: Study) -> None:
        self._watch_window()
        self.annotator.setText(study.annotator)
        self.session = session = StudySession(self._viewer, study, self.controls.config)
        session.opened.connect(self._on_opened)
        session.saved.connect(self._on_saved)
        session.not_saved.connect(self._on_not_saved)
        session.failed.connect(show_error)
        self.queue, self.verdict = QueuePanel(session), ReviewBar(session)
        self.standing = SavedMasksPanel(session)
        _fill(self._queue_section, self.queue)
        self._verdict_place.addWidget(self.standing)
        self._verdict_place.addWidget(self.verdict)
        self.learn = LearnPanel(session)
        self.learn.added.connect(self.models.offer)
        self.learn.chosen.connect(self.models.choose)
        _fill(self._learn_section, self.learn)
        if self.learn.offers_to_continue:
            self._learn_section.expand(animate=False)
        self.export = ExportPanel(session)
        _fill(self._export_section, self.export)
        self.class_editing.begin(session)
        session.set_model(self.models.loaded)
        self._show_study()
        QTimer.singleShot(0, self._fit_width)
        self._poll.start()
        for problem in study.problems[:3]:
            show_info(str(problem))
        session.begin()

    def _forget_session(self) -> None:
        self._poll.stop()
        self.correct.set_editor(None)
        self.class_editing.end()
        for panel in (self.queue, self.verdict, self.standing, self.learn, self.export):
            if panel is not None:
                panel.close_session()
                panel.setParent(None)
                panel.deleteLater()
        self.session = self.queue = self.verdict = None
        self.standing = self.learn = self.export = None
        _fill(self._queue_section, QWidget())
        _fill(self._learn_section, QWidget())
        _fill(self._export_section, QWidget())
        self._show_study()

    def _show_study(self) -> None:
        open_ = self.session is not None
        self.title.setText(
            _study_name(self.session.study.folder) if self.session is not None else "LesionSeg"
        )
        self.annotator.setReadOnly(open_)
        self.start.setVisible(not open_)
        self.menu.setVisible(open_)
        for section in (
            self._queue_section,
            self._outline_section,
            self._correct_section,
            self._learn_section,
            self._export_section,
        ):
            section.setVisible(open_)
        self.sign.setText("")
        self._fit_width()

    def _fit_width(self) -> None:
        """Make the dock wide enough for its widest row, since it scrolls up and down only."""
        inside, bar = self._scroll.widget(), self._scroll.verticalScrollBar()
        self._scroll.setMinimumWidth(inside.minimumSizeHint().width() + bar.sizeHint().width())

    # ---------------------------------------------------------------------------------------- slots

    def _on_opened(self, editor: MaskEditor | None) -> None:
        self.correct.set_editor(editor)
        self.start.in_use = () if editor is None else (editor.image,)
        if editor is not None:
            self.controls.set_config(editor.requests.config, self.models.threshold)
            editor.changed.connect(self._on_edited)

    def _on_edited(self, what: str) -> None:
        if (
            what in {"undo", "redo", "restored"}
            and self.session is not None
            and self.session.editor is not None
        ):
            self.controls.set_config(self.session.editor.requests.config, self.models.threshold)

    def _on_config(self) -> None:
        if self.session is not None:
            self.session.set_config(self.controls.config)

    def _on_settled(self) -> None:
        """Draw the last move of the slider, which may still be waiting."""
        if self.session is not None:
            self._redraw_soon.stop()
            self.session.set_config(self.controls.config)

    def _on_saved(self, all_saved: bool) -> None:
        if self.session is not None and self.session.save_queue.problem and not all_saved:
            return  # the loud sign stays until everything is on the disk
        self.sign.setStyleSheet("font-size: 9pt;")
        self.sign.setText("saved" if all_saved else "\N{HORIZONTAL ELLIPSIS}")

    def _on_not_saved(self, problem: str) -> None:
        self.sign.setStyleSheet("font-weight: bold; color: black; background: #e69f00; padding: 4px;")
        self.sign.setText(f"Not saved yet, it is tried again: {problem}")

    def _on_poll(self) -> None:
        if self.session is not None:
            self.session.study_poller.look()

    def _load_model(self) -> None:
        if self._model_job is not None:
            self._model_job.close()
        choice = self.models.choice
        self._model_job = run_task(
            "loading the model",
            task.load,
            choice,
            done=partial(self._on_model, choice),
            failed=self._on_no_model,
        )

    def _on_model(self, choice: ModelChoice, model: Model) -> None:
        self._model_job = None
        self.models.remember(choice, model)
        self.controls.set_config(self.controls.config, self.models.threshold)
        if self.session is not None:
            self.session.set_model(model)

    def _on_no_model(self, error: Exception) -> None:
        self._model_job = None
        show_error(str(error))

    # -------------------------------------------------------------------------------------- closing

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Find the window, which may be another one after docking."""
        super().showEvent(event)
        self._watch_window()

    def _watch_window(self) -> None:
        """Watch the main window, also from a dock that floats, so that it does not close on unsaved work."""
        window: QWidget = self
        while (parent := window.parentWidget()) is not None:
            window = parent
        if self._window() is not window:
            self._window = weakref.ref(window)
            window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Let the window close only when everything is saved, or the annotator says so."""
        closing = watched is self._window() and event is not None and event.type() == QEvent.Type.Close
        if closing and event is not None and not self.close_study(ask=event.spontaneous()):
            event.ignore()
            return True
        return False

    def _asks_to_leave(self, problem: str) -> bool:
        answer = QMessageBox.warning(
            self,
            "Not everything is saved",
            f"{problem}\n\nLeave all the same? What is not saved will be lost.",
            QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
            QMessageBox.StandardButton.No,
        )
        return bool(answer == QMessageBox.StandardButton.Yes)


def _section(title: str, content: QWidget | None = None, *, folded: bool = False) -> QCollapsible:
    section = QCollapsible(title)
    section.setDuration(0)
    section.layout().setSpacing(3)
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.toggled.connect(partial(_let_grow, section))
    section.content().hide()  # the empty one that it comes with
    if not folded:
        section.expand(animate=False)
    if content is not None:
        _fill(section, content)
    return section


def _fill(section: QCollapsible, content: QWidget) -> None:
    """Put a panel into a section, which stays folded if it is."""
    section.setContent(content)
    if not section.isExpanded():
        content.setMaximumHeight(0)


def _let_grow(section: QCollapsible, unfolded: bool) -> None:
    """Let the panel be as high as it wants to be; superqt holds it at the height that it had at first."""
    if unfolded:
        section.content().setMaximumHeight(_UNLIMITED)


def _form(part: PostprocessForm | ModelPicker) -> QWidget:
    """Lay the rows of a part out as a form."""
    form = QWidget()
    grid = QGridLayout(form)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setColumnStretch(1, 1)
    part.add_to(grid, 0)
    return form


def _study_name(folder: Path) -> str:
    """Name a study by its folder, or by the folder of images that it lies in."""
    return folder.parent.name if folder.name in {STUDY_FOLDER, "study"} else folder.name


def _tear_down(parts: dict[str, Any]) -> None:
    """Save and stop; Qt's side of the widget is gone."""
    parts["models"].drop()
    parts["start"].drop()
    if parts["_model_job"] is not None:
        parts["_model_job"].close()
    session: StudySession | None = parts["session"]
    if session is None:
        return
    parts["queue"].model.close()
    parts["learn"].abandon()
    own = (session.opened, session.changed, session.saved, session.not_saved, session.failed)
    for signal in (*own, session.model_changed, session.run.progressed, session.run.finished):
        signal.disconnect()  # all that listened were parts of the widget
    _leave_behind(session)


def _nothing() -> None:
    """Stand for a window that is not there."""


_left_behind: set[StudySession] = set()


def _leave_behind(session: StudySession) -> None:
    """Close a session whose widget has gone; while it cannot save, it goes on trying."""
    problem = session.close()
    if problem:
        _left_behind.add(session)
        session.saved.connect(partial(_end, session))
        show_error(f"Not saved yet, it is tried again as long as this window is open: {problem}")


def _end(session: StudySession, all_saved: bool) -> None:
    if all_saved and session in _left_behind:
        _left_behind.discard(session)
        session.abandon()
