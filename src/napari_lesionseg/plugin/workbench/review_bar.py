"""The four ways on from an image: back, no lesion, flag, approve."""

from __future__ import annotations

from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QHBoxLayout, QInputDialog, QPushButton, QWidget

from napari_lesionseg.plugin.shortcuts import chosen_key, set_tip, settings_events
from napari_lesionseg.plugin.workbench.session import StudySession

_NO_IMAGE = "Open an image of the study first"


class ReviewBar(QWidget):
    """Buttons for what an annotator says of the image on the screen.

    Parameters
    ----------
    session : StudySession
        The study at work.
    """

    def __init__(self, session: StudySession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.back = QPushButton("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK} Back")
        self.no_lesion = QPushButton("No lesion")
        self.flag = QPushButton("Flag\N{HORIZONTAL ELLIPSIS}")
        self.approve = QPushButton("Approve \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}")
        self.approve.setStyleSheet("font-weight: bold;")
        self._buttons: dict[str, QPushButton] = {}
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for button, action, stretch in (
            (self.back, "back", 2),
            (self.no_lesion, "no lesion", 3),
            (self.flag, "flag", 2),
            (self.approve, "approve", 4),
        ):
            self._buttons[action] = button
            row.addWidget(button, stretch)
        self._bind_keys()
        self._events = settings_events()
        if self._events is not None:
            self._events.connect(self._bind_keys)
        self.back.clicked.connect(session.back)
        self.no_lesion.clicked.connect(session.no_lesion)
        self.flag.clicked.connect(self._on_flag)
        self.approve.clicked.connect(session.approve)
        session.changed.connect(self._update)
        session.opened.connect(self._update)
        self._update()

    def close_session(self) -> None:
        """Let go of the session."""
        self._session.changed.disconnect(self._update)
        self._session.opened.disconnect(self._update)
        if self._events is not None:
            self._events.disconnect(self._bind_keys)
            self._events = None

    def _bind_keys(self) -> None:
        """Take the keys of the preferences, which may have changed."""
        for action, button in self._buttons.items():
            button.setShortcut(QKeySequence(chosen_key(action)))

    def _on_flag(self) -> None:
        note, given = QInputDialog.getText(self, "Flag this image", "What is the matter with it?")
        if given:
            self._session.flag(note.strip())

    def _update(self) -> None:
        shown = self._session.editor is not None
        for button, action, words in (
            (self.no_lesion, "no lesion", "Sign that there is no lesion, and go on"),
            (self.flag, "flag", "Set the image aside with a note, and go on"),
            (self.approve, "approve", "Sign the outline, and go on to the next image"),
        ):
            button.setEnabled(shown)
            set_tip(button, words if shown else _NO_IMAGE, action)
        self.back.setEnabled(self._session.can_go_back)
        set_tip(
            self.back,
            "Go back to the image before" if self._session.can_go_back else "This is the first image",
            "back",
        )
