"""What was said of the image on the screen, and the way to take it back."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from napari_lesionseg.plugin.shortcuts import chosen_key, set_tip, settings_events
from napari_lesionseg.plugin.widgets.forms import small
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.state import ImageState, Status


class SavedMasksPanel(QWidget):
    """Says that an image is signed or flagged, by whom and why; hidden for all others.

    Parameters
    ----------
    session : StudySession
        The study at work.
    """

    def __init__(self, session: StudySession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.text = small(QLabel())
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.text.setWordWrap(True)
        self.reopen = QPushButton("Reopen")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.reopen)
        self._events = settings_events()
        if self._events is not None:
            self._events.connect(self._bind_key)
        self.reopen.clicked.connect(session.reopen)
        session.changed.connect(self._update)
        self._bind_key()
        self._update()

    def close_session(self) -> None:
        """Let go of the session."""
        self._session.changed.disconnect(self._update)
        if self._events is not None:
            self._events.disconnect(self._bind_key)
            self._events = None

    def _bind_key(self) -> None:
        """Take the key of the preferences, which may have changed."""
        self.reopen.setShortcut(QKeySequence(chosen_key("reopen")))
        set_tip(self.reopen, "Take this back; the outline stays", "reopen")

    def _update(self) -> None:
        state = self._session.state
        stands = state is not None and (state.status.done or state.status is Status.FLAGGED)
        self.setVisible(stands)
        if state is not None and stands:
            self.text.setText(_standing(state))


def _standing(state: ImageState) -> str:
    """Say what was said of an image: "approved by am, 2026-11-23 07:05"."""
    when = state.when.astimezone().strftime("%Y-%m-%d %H:%M")
    text = f"{state.status.words} by {state.annotator}, {when}"
    return f"{text}: {state.note}" if state.note else text
