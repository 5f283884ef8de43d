"""The workbench: a study's images, the outline of one of them, and the panels around it. Wiring only."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QLabel,
    QMenu,
    QMessageBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.layout import DockTabs, outermost
from napari_lesionseg.plugin.settings import open_images_without_asking
from napari_lesionseg.plugin.tasks import call_soon
from napari_lesionseg.plugin.widgets.forms import NameLabel, small, when_gone
from napari_lesionseg.plugin.workbench.annotator import AnnotatorField
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.frames import FrameWatch
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel, OutlinePanel, Panel
from napari_lesionseg.plugin.workbench.panels.compute import ComputePanel
from napari_lesionseg.plugin.workbench.panels.export import ExportPanel
from napari_lesionseg.plugin.workbench.panels.fields import FieldsPanel
from napari_lesionseg.plugin.workbench.panels.finetune import FinetunePanel
from napari_lesionseg.plugin.workbench.panels.followup import FollowUpPanel
from napari_lesionseg.plugin.workbench.panels.landmarks import LandmarkPanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.panels.reviewer import ReviewerPanel
from napari_lesionseg.plugin.workbench.panels.sections import Notice, Sections
from napari_lesionseg.plugin.workbench.panels.start import StartPanel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.layout import study_name
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    import napari.viewer

    from napari_lesionseg.plugin.editor.editor import MaskEditor
    from napari_lesionseg.study.event_log import StudyProblem

_TOLD = 3
"""Problems of a study that are told one by one; more are listed."""

_LISTED = 12

PANELS: tuple[type[Panel], ...] = (
    QueuePanel,
    OutlinePanel,
    CorrectSection,
    LandmarkPanel,
    FieldsPanel,
    FollowUpPanel,
    FinetunePanel,
    ReviewerPanel,
    ExportPanel,
    ModelPanel,
    ComputePanel,
    ReviewBar,
)
"""The panels, from top to bottom."""

POLL_MS = 5000
"""Interval at which other annotators' work is looked for."""

P = TypeVar("P", bound=Panel)


class Workbench(QWidget):
    """Open a study, correct and approve one outline after the other."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        open_images_without_asking()
        self._viewer = napari_viewer
        self.session: StudySession | None = None
        self.annotator = AnnotatorField()
        self.title = NameLabel()
        self.menu = QToolButton()
        self.start = StartPanel(napari_viewer, self.annotator.name, self.close_study)
        self.panels = [panel_type(napari_viewer) for panel_type in PANELS]
        self.notice = Notice()
        self.sections = Sections(self.start, self.notice)
        self._guard = WindowGuard(
            self, lambda ask: None if self.session is None else self.close_study(ask=ask)
        )
        self._poll = QTimer(self)
        self._poll.setInterval(POLL_MS)
        self._poll.timeout.connect(self._on_poll)
        self._lay_out()
        self._make_menu()
        self._focus = DockFocus(self)
        self._frames = FrameWatch(self)
        DockTabs(self)
        self._show_study()
        self.start.opened.connect(self._on_study)
        self.panel(ReviewerPanel).requested.connect(self.start.open_folder)
        when_gone(self, self._close_quietly, self._focus.release_layers)

    def panel(self, panel_type: type[P]) -> P:
        """Return one of the panels."""
        return next(panel for panel in self.panels if isinstance(panel, panel_type))

    def open_folder(self, folder: Path, *, reviewer: bool = False, landmarks: str = "") -> None:
        """Open a study, or a folder of images, which becomes one; a reviewer sees the work of all."""
        self.start.open_folder(folder, self.annotator.name() if reviewer else "", landmarks=landmarks)

    def fold_settings(self) -> None:
        """Fold the settings that most images need no change of, to leave the height to the list."""
        self.sections.fold(self.panel(OutlinePanel))

    def change_annotator(self) -> None:
        """Ask for another annotator, and open the study again for that one."""
        session = self.session
        if session is None or not self.close_study():
            return
        self.annotator.ask()
        self.open_folder(session.study.folder, reviewer=session.study.is_reviewer)

    def close_study(self, *, ask: bool = True) -> bool:
        """Close the study that is open; False when the annotator chose to stay.

        Always asks when something cannot be saved, and with `ask` also before work is interrupted.
        """
        session = self.session
        if session is None:
            return True
        if ask and session.interruptible and not _confirm_interruption(self, session.interruptible):
            return False
        problem = session.close()
        if problem and not _confirm_loss(self, problem):
            return False
        if problem:
            session.close(discard=True)
        self._poll.stop()
        self.notice.hide()
        self._set_session(None)
        self._show_study()
        return True

    def _lay_out(self) -> None:
        self.title.setStyleSheet("font-weight: bold;")
        header = QHBoxLayout()
        header.addWidget(self.title, 1)
        header.addWidget(small(QLabel("Annotator")))
        header.addWidget(self.annotator)
        header.addWidget(self.menu)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(4, 0, 4, 4)
        whole.setSpacing(3)
        whole.addLayout(header)
        whole.addWidget(self.sections, 1)
        for panel in self.panels:
            panel.notice.connect(partial(self.notice.show_text, panel))
            if panel.title:
                panel.unfold.connect(partial(self.sections.reveal, panel))
                self.sections.add(panel)
            else:
                whole.addWidget(panel)

    def _make_menu(self) -> None:
        self.menu.setText("\N{MIDLINE HORIZONTAL ELLIPSIS}")
        self.menu.setToolTip("Make, open or close a study")
        self.menu.setStyleSheet(
            "QToolButton { min-width: 20px; } QToolButton::menu-indicator { image: none; }"
        )
        self.menu.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        entries = QMenu(self.menu)
        entries.addAction(self.start.new_button.text(), self.start.ask_for_new)
        entries.addAction(self.start.open_button.text(), self.start.ask_for_folder)
        entries.addAction(self.start.import_button.text(), self.start.ask_for_import)
        missing = self.panel(QueuePanel).missing
        entries.addAction(missing.locate.text(), missing.ask)
        entries.addAction("Change annotator\N{HORIZONTAL ELLIPSIS}", self.change_annotator)
        entries.addAction("Close study", self.close_study)
        self.menu.setMenu(entries)

    def _on_study(self, study: Study) -> None:
        self._guard.watch_window()
        self.annotator.setText(study.annotator)
        session = StudySession(self._viewer, study, PostprocessConfig())
        session.failed.connect(show_error)
        session.opened.connect(self._on_opened)
        self._set_session(session)
        self._show_study()
        call_soon(self.sections, self.sections.fit_width)
        self._poll.start()
        if len(study.problems) > _TOLD:
            _list_problems(self, study.problems)
        else:
            for problem in study.problems:
                show_info(str(problem))
        session.begin()

    def _set_session(self, session: StudySession | None) -> None:
        self.session = session
        for panel in self.panels:
            suits = session is not None and panel.suits(session.study)
            panel.set_session(session if suits else None)

    def _show_study(self) -> None:
        is_open = self.session is not None
        self.title.setText("LesionSeg" if self.session is None else study_name(self.session.study.folder))
        self.annotator.show_open(is_open)
        if is_open:
            self.start.hide()
            self._focus.include_layers()
        else:
            self._focus.release_layers()
        self.menu.setVisible(is_open)
        for panel in self.panels:
            suits = self.session is None or panel.suits(self.session.study)
            available = suits and (is_open or not panel.needs_study)
            if panel.title:
                self.sections.set_available(panel, available)
            else:
                panel.setVisible(available)
        # Only now: beside the panels of a study it would make the window grow.
        self.start.setVisible(not is_open)
        self.sections.fit_width()

    def _on_opened(self, editor: MaskEditor | None) -> None:
        if editor is not None and self.session is not None:
            self._focus.to_canvas()
            verdicts = self.session.verdicts
            self._frames.wait_for(verdicts.is_loaded, verdicts.guard.note_image)
        self.start.in_use = () if editor is None else (editor.image,)

    def _on_poll(self) -> None:
        if self.session is not None:
            self.session.poller.poll()

    def _close_quietly(self) -> None:
        """Save and stop after the dock was removed; touches no widget, since Qt's side is gone."""
        session = self.session
        if session is not None:
            for panel in self.panels:
                panel.set_session(None)
            for signal in (session.opened, session.changed, session.failed, session.model_changed):
                signal.disconnect()
            save_later(session)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Find the window, which may be another one after docking."""
        super().showEvent(event)
        self._guard.watch_window()
        self._frames.find_canvas()


class WindowGuard(QObject):
    """Keeps the main window open until `may_close` agrees, also if the workbench floats.

    `may_close` returns None if there was nothing to close. Else the window is closed without a question of
    napari's own: everything is saved, and the annotator was asked already.
    """

    def __init__(self, widget: QWidget, may_close: Callable[[bool], bool | None]) -> None:
        super().__init__(widget)
        self._widget, self._may_close = widget, may_close
        self._window: weakref.ref[QWidget] | None = None

    def watch_window(self) -> None:
        """Watch the window that the widget is in."""
        window = outermost(self._widget)
        if self._window is None or self._window() is not window:
            self._window = weakref.ref(window)
            window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Ignore the closing of the window as long as something is not saved."""
        window = None if self._window is None else self._window()
        closing = watched is window and event is not None and event.type() == QEvent.Type.Close
        if not closing or window is None or event is None:
            return False
        closed = self._may_close(event.spontaneous())
        if closed is None or (closed and not event.spontaneous()):
            return False
        event.ignore()
        if closed:
            call_soon(window, window.close)  # napari asks only when the window manager closes the window
        return True


class UnsavedSession(QObject):
    """A session whose dock was removed, and that is kept until everything is saved."""

    def __init__(self, session: StudySession) -> None:
        super().__init__(QApplication.instance())
        self.setObjectName("unsaved study")
        self._session = session
        session.save_queue.all_saved.connect(self._on_all_saved)

    def _on_all_saved(self, all_saved: bool) -> None:
        if all_saved:
            self._session.save_queue.all_saved.disconnect(self._on_all_saved)
            self._session.close(discard=True)
            self.setParent(None)
            self.deleteLater()


def save_later(session: StudySession) -> None:
    """Close a session; while something cannot be saved, keep trying."""
    problem = session.close()
    if problem:
        UnsavedSession(session)
        show_error(f"Not saved yet. LesionSeg keeps trying until napari is closed: {problem}")


def _list_problems(parent: QWidget, problems: Sequence[StudyProblem]) -> None:
    """Show what was left out or needs a look, to be read at leisure."""
    lines = [str(problem) for problem in problems]
    text = f"{len(lines)} files or images were left out or need a look:"
    box = QMessageBox(QMessageBox.Icon.Information, "Left out or to check", text, parent=parent)
    more = [f"and {len(lines) - _LISTED} more: press Show Details"] if len(lines) > _LISTED else []
    box.setInformativeText("\n".join([*lines[:_LISTED], *more]))
    if more:
        box.setDetailedText("\n".join(lines))
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.show()  # beside the window: whoever knows it already goes on


def _confirm_loss(parent: QWidget, problem: str) -> bool:
    answer = QMessageBox.warning(
        parent,
        "Unsaved changes",
        f"{problem}\n\nClose anyway? Unsaved changes will be lost.",
        QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
        QMessageBox.StandardButton.No,
    )
    return bool(answer == QMessageBox.StandardButton.Yes)


def _confirm_interruption(parent: QWidget, what: str) -> bool:
    answer = QMessageBox.question(
        parent,
        "Close the study?",
        f"{what}\n\nClose anyway?",
        QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
        QMessageBox.StandardButton.No,
    )
    return bool(answer == QMessageBox.StandardButton.Yes)


def _close_if_open(workbench: weakref.ref[Workbench], ask: bool) -> bool | None:
    """Close the study that is open; None if there is none."""
    bench = workbench()
    return None if bench is None or bench.session is None else bench.close_study(ask=ask)
