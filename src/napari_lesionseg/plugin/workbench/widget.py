"""The workbench: a study's images, the outline of one of them, and the panels around it. Wiring only."""

from __future__ import annotations

import weakref
from collections.abc import Callable
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
    QLineEdit,
    QMenu,
    QMessageBox,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.layout import DockTabs
from napari_lesionseg.plugin.widgets.forms import small, when_gone
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.export_panel import ExportPanel
from napari_lesionseg.plugin.workbench.fields_panel import FieldsPanel
from napari_lesionseg.plugin.workbench.finetune_panel import FinetunePanel
from napari_lesionseg.plugin.workbench.focus import DockFocus
from napari_lesionseg.plugin.workbench.open_study import default_annotator
from napari_lesionseg.plugin.workbench.panels import ModelPanel, OutlinePanel, Panel
from napari_lesionseg.plugin.workbench.queue_panel import QueuePanel
from napari_lesionseg.plugin.workbench.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.plugin.workbench.start_panel import StartPanel
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    import napari.viewer

    from napari_lesionseg.plugin.editor.editor import MaskEditor

PANELS: tuple[type[Panel], ...] = (
    QueuePanel,
    OutlinePanel,
    CorrectSection,
    FieldsPanel,
    FinetunePanel,
    ExportPanel,
    ModelPanel,
    ReviewBar,
)
"""The panels, from top to bottom."""

POLL_MS = 5000
"""Interval at which other annotators' work is looked for."""

_UNLIMITED = 16_777_215  # Qt's own QWIDGETSIZE_MAX
P = TypeVar("P", bound=Panel)


class Workbench(QWidget):
    """Open a study, correct and approve one outline after the other."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.session: StudySession | None = None
        self.annotator = QLineEdit(default_annotator())
        self.title = QLabel()
        self.menu = QToolButton()
        self.start = StartPanel(napari_viewer, self.annotator.text, self.close_study)
        self.panels = [panel_type(napari_viewer) for panel_type in PANELS]
        self._guard = WindowGuard(self, self.close_study)
        self._poll = QTimer(self)
        self._poll.setInterval(POLL_MS)
        self._poll.timeout.connect(self._on_poll)
        self._lay_out()
        self._make_menu()
        self._focus = DockFocus(self)
        DockTabs(self)
        self._focus.adopt()
        self._show_study()
        self.start.opened.connect(self._on_study)
        when_gone(self, self._close_quietly)

    def panel(self, panel_type: type[P]) -> P:
        """Return one of the panels."""
        return next(panel for panel in self.panels if isinstance(panel, panel_type))

    def open_folder(self, folder: Path) -> None:
        """Open a study, or a folder of images."""
        self.start.open_folder(folder)

    def fold_settings(self) -> None:
        """Fold the settings that most images need no change of, to leave the height to the list."""
        frame = self._frames[self.panels.index(self.panel(OutlinePanel))]
        if isinstance(frame, QCollapsible):
            frame.collapse(animate=False)

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
        self._set_session(None)
        self._show_study()
        return True

    def _lay_out(self) -> None:
        self.title.setStyleSheet("font-weight: bold;")
        self.annotator.setMaximumWidth(90)
        self.annotator.setToolTip("Your name or initials, saved with every outline")
        header = QHBoxLayout()
        header.addWidget(self.title, 1)
        header.addWidget(small(QLabel("Annotator")))
        header.addWidget(self.annotator)
        header.addWidget(self.menu)
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(4, 0, 4, 0)
        column.setSpacing(2)
        column.addWidget(self.start)
        self._frames: list[QWidget] = []
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setFrameShape(QScrollArea.Shape.NoFrame)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(4, 0, 4, 4)
        whole.setSpacing(3)
        whole.addLayout(header)
        whole.addWidget(self._scroll, 1)
        for panel in self.panels:
            frame = _section(panel) if panel.title else panel
            if panel.title:
                column.addWidget(frame)
            else:
                whole.addWidget(frame)
            self._frames.append(frame)
        column.addStretch()
        self._scroll.setWidget(inside)

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
        missing = self.panel(QueuePanel).missing
        entries.addAction(missing.locate.text(), missing.ask)
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
        QTimer.singleShot(0, self._fit_width)
        self._poll.start()
        for problem in study.problems[:3]:
            show_info(str(problem))
        session.begin()

    def _set_session(self, session: StudySession | None) -> None:
        self.session = session
        for panel in self.panels:
            panel.set_session(session)

    def _show_study(self) -> None:
        is_open = self.session is not None
        self.title.setText("LesionSeg" if self.session is None else _study_name(self.session.study.folder))
        self.annotator.setReadOnly(is_open)
        self.start.setVisible(not is_open)
        self.menu.setVisible(is_open)
        for panel, frame in zip(self.panels, self._frames, strict=True):
            frame.setVisible(is_open or not panel.needs_study)
        self._fit_width()

    def _fit_width(self) -> None:
        """Make the dock wide enough for its widest row, since it scrolls vertically only."""
        inside, bar = self._scroll.widget(), self._scroll.verticalScrollBar()
        self._scroll.setMinimumWidth(inside.minimumSizeHint().width() + bar.sizeHint().width())

    def _on_opened(self, editor: MaskEditor | None) -> None:
        if editor is not None:
            self._focus.to_canvas()
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


class WindowGuard(QObject):
    """Keeps the main window open until `may_close` agrees, also if the workbench floats."""

    def __init__(self, widget: QWidget, may_close: Callable[..., bool]) -> None:
        super().__init__(widget)
        self._widget, self._may_close = widget, may_close
        self._window: weakref.ref[QWidget] | None = None

    def watch_window(self) -> None:
        """Watch the window that the widget is in."""
        window = self._widget
        while (parent := window.parentWidget()) is not None:
            window = parent
        if self._window is None or self._window() is not window:
            self._window = weakref.ref(window)
            window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Ignore the closing of the window as long as something is not saved."""
        is_window = self._window is not None and watched is self._window()
        closing = is_window and event is not None and event.type() == QEvent.Type.Close
        if closing and event is not None and not self._may_close(ask=event.spontaneous()):
            event.ignore()
            return True
        return False


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


def _section(panel: Panel) -> QCollapsible:
    """Put a panel into a foldable section."""
    section = QCollapsible(panel.title)
    section.setDuration(0)
    section.layout().setSpacing(3)
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.toggled.connect(partial(_release_height, panel))
    panel.unfold.connect(partial(section.expand, animate=False))
    section.content().hide()  # the empty one that it comes with
    section.setContent(panel)
    section.toggled.connect(panel.setVisible)  # superqt leaves what is folded in the order of the Tab key
    if panel.folded:
        panel.setMaximumHeight(0)
        panel.hide()
    else:
        section.expand(animate=False)
    return section


def _release_height(panel: Panel, unfolded: bool) -> None:
    """Remove the limit that superqt sets to the height that the panel had at first."""
    if unfolded:
        panel.setMaximumHeight(_UNLIMITED)


def _study_name(folder: Path) -> str:
    """Return the name of a study's folder, or of the folder of images that it is in."""
    return folder.parent.name if folder.name in {STUDY_FOLDER, "study"} else folder.name
