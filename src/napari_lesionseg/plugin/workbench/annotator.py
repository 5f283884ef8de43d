"""The annotator's name: asked for once, remembered in the preferences, and changed in the header."""

from __future__ import annotations

import getpass
import re

from qtpy.QtWidgets import QInputDialog, QLineEdit

from napari_lesionseg.errors import StudyError
from napari_lesionseg.plugin.settings import read_preferences, remember_annotator
from napari_lesionseg.study.study import check_annotator

MAX_ANNOTATOR = 32
_TIP = "Your name or initials, saved with every outline"


class AnnotatorField(QLineEdit):
    """Shows the annotator's name. It is empty until the first study is opened, unless it is remembered."""

    def __init__(self) -> None:
        super().__init__(_valid(read_preferences().annotator))
        self.setMaximumWidth(90)
        self.setPlaceholderText("your name")
        self.setToolTip(_TIP)
        self.editingFinished.connect(self._remember)

    def name(self) -> str:
        """Return the name, which is asked for if it is not known yet; empty if the annotator cancels."""
        if not _valid(self.text()):
            self.ask()
        return _valid(self.text())

    def ask(self) -> bool:
        """Ask for the name, and remember it; return whether one was entered."""
        suggested, problem = self.text().strip() or default_annotator(), ""
        while True:
            question = f"{problem}Your name or initials, saved with every outline:".strip()
            suggested, given = QInputDialog.getText(self, "Annotator", question, text=suggested.strip())
            if not given:
                return False
            try:
                self.setText(check_annotator(suggested.strip()))
            except StudyError as error:
                problem = f"{error}\n"
                continue
            self._remember()
            return True

    def show_open(self, is_open: bool) -> None:
        """Be read-only while a study is open, since its outlines are saved under this name."""
        self.setReadOnly(is_open)
        more = ". To change it, choose Change annotator\N{HORIZONTAL ELLIPSIS} in the menu beside it"
        self.setToolTip(_TIP + more * is_open)

    def _remember(self) -> None:
        if not self.isReadOnly() and _valid(self.text()):
            remember_annotator(_valid(self.text()))


def default_annotator() -> str:
    """Return the name of the user's account, without the letters that a study does not allow."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return re.sub(r"[^A-Za-z0-9_-]", "", name)[:MAX_ANNOTATOR] or "annotator"


def _valid(name: str) -> str:
    """Return a name, or an empty string if a study would not take it."""
    try:
        return check_annotator(name.strip())
    except StudyError:
        return ""
