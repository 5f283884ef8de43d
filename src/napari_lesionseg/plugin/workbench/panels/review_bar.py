"""What is decided about the image on the screen, and whether it is saved."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtGui import QMouseEvent, QShowEvent
from qtpy.QtWidgets import QHBoxLayout, QInputDialog, QPushButton, QSizePolicy, QVBoxLayout

from napari_lesionseg.plugin.shortcuts import WindowKeys, set_tip, settings_events
from napari_lesionseg.plugin.widgets.forms import LINES, MessageLabel, when_gone
from napari_lesionseg.plugin.workbench.image_review import changed_by_another
from napari_lesionseg.plugin.workbench.pace import PaceLabel
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.landmarks import status_words
from napari_lesionseg.study.state import ImageState, Status

if TYPE_CHECKING:
    from napari.components import ViewerModel

_NOT_SHOWN = ". What is on the screen is yours; open the image again to see theirs."
_WITHDRAW = "Withdraw this decision; the outline stays"
_NO_IMAGE = "Open an image of the study first"
_WARNING = "font-size: 9pt; font-weight: bold; color: black; background: #e69f00;"
_ENDS = {
    "previous": "This is the first image of the list.",
    "next": "This is the last image of the list.",
    "next unreviewed": "There is no other unreviewed image in the list.",
}
_OF_LANDMARKS = {
    "no lesion": "There is nothing to mark in this image; go to the next image",
    "flag": "Set the image aside with a note, and go to the next image",
    "approve": "Approve the landmarks, and go to the next image",
}
_TIPS = {
    "no lesion": "Mark that this image shows no lesion, and go to the next image",
    "flag": "Set the image aside with a note, and go to the next image",
    "approve": "Approve the outline, and go to the next image",
}


class ReviewBar(Panel):
    """Buttons to decide about the image on the screen, its decision so far, and the save status."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.decision = MessageLabel()
        self.reopen = QPushButton("Reopen")
        self.back = QPushButton("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK} Back")
        self.no_lesion = VerdictButton("No lesion")
        self.flag = QPushButton("Flag\N{HORIZONTAL ELLIPSIS}")
        self.approve = VerdictButton("Approve \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}")
        self.message = MessageLabel()
        self.save_status = MessageLabel()
        self.pace = PaceLabel()
        self._has_note = False
        self._buttons = {
            "back": self.back,
            "no lesion": self.no_lesion,
            "flag": self.flag,
            "approve": self.approve,
            "reopen": self.reopen,
        }
        self._lay_out()
        for action, button in self._buttons.items():
            button.clicked.connect(partial(self._on_clicked, action))
        handlers = {action: partial(self._on_key, action) for action in self._buttons}
        steps = {action: partial(self._on_step, action) for action in _ENDS}
        self.keys = WindowKeys(self, handlers | steps)
        self._bind_keys()
        when_gone(self, self.keys.close)

    def show_session(self, session: StudySession) -> None:
        """Follow the study."""
        self.listen(session.changed, self._update)
        self.listen(session.opened, self._update)
        self.pace.set_session(session)
        self.listen(session.opened, self.pace.on_opened)
        self.listen(session.verdicts.given, self.pace.on_verdict)
        self.listen(session.changed, self.pace.update_text)
        self.listen(session.verdicts.message, self._on_message)
        self.listen(session.navigation.changed, self._on_rearranged)
        self.listen(session.save_queue.all_saved, self._on_all_saved)
        self.listen(session.save_queue.failed, self._on_not_saved)
        events = settings_events()
        if events is not None:
            self.listen(events, self._bind_keys)
        self._bind_keys()
        self.save_status.setText("")
        verb = "Accept" if session.study.is_reviewer else "Approve"
        self.approve.setText(f"{verb} \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}")
        has_outlines = session.study.info.landmarks is None
        self.no_lesion.setText("No lesion" if has_outlines else "None visible")
        self._update()

    def _lay_out(self) -> None:
        self.approve.setStyleSheet("font-weight: bold;")
        words = QVBoxLayout()  # of which as many are visible as fill two lines
        words.setSpacing(0)
        for label in (self.decision, self.pace, self.message):
            words.addWidget(label)
        self._top = QHBoxLayout()
        self._top.addLayout(words, 1)
        self._top.addWidget(self.save_status)
        # Messages take the width that is left; here, the words would leave none.
        self.save_status.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._top.addWidget(self.reopen)
        bottom = QHBoxLayout()
        for button, stretch in ((self.back, 2), (self.no_lesion, 3), (self.flag, 2), (self.approve, 4)):
            bottom.addWidget(button, stretch)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addLayout(self._top)
        column.addLayout(bottom)
        self._show_words()

    def _bind_keys(self) -> None:
        """Set the keys of the preferences, which may have changed."""
        self.keys.bind()
        set_tip(self.reopen, _WITHDRAW, "reopen")

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Bind the keys in the window that the dock is in now."""
        super().showEvent(event)
        self._bind_keys()

    def _on_key(self, action: str) -> None:
        if self.session is not None and (action != "reopen" or self.reopen.isEnabled()):
            self._on_clicked(action)

    def _on_clicked(self, action: str) -> None:
        review = None if self.session is None else self.session.review
        if self.session is None:
            return
        if action == "back":
            self.session.back()
        elif review is not None and action == "flag":
            note, given = QInputDialog.getText(self, "Flag this image", "Why is it set aside?")
            if given:
                review.flag(note.strip())
        elif action in {"approve", "no lesion"}:
            self.session.verdicts.give("approve" if action == "approve" else "no lesion", self.keys.age)
        else:
            self.session.verdicts.reopen()

    def _on_step(self, action: str) -> None:
        """Go to another image without a decision."""
        session = self.session
        if session is None:
            return
        navigation, here = session.navigation, session.display.expected()
        if action == "next unreviewed":
            image_id = navigation.next_of(here)
        else:
            image_id = navigation.neighbor(here, 1 if action == "next" else -1)
        if image_id is None:
            self._on_message(_ENDS[action])
        else:
            session.open_image(image_id)

    def _on_message(self, text: str) -> None:
        self.message.setText(text)
        self._show_words()

    def _on_rearranged(self) -> None:
        """Take back what was said about the end of the list."""
        self._on_message("")

    def _show_words(self) -> None:
        """Show a message, else what was decided and the pace: always two lines."""
        decided, message = self.decision.text(), self.message.text()
        lines = LINES if self._has_note else 1
        self.decision.set_lines(lines)
        self.pace.set_lines(LINES - lines if decided else LINES)
        self.message.setVisible(bool(message))
        self.decision.setVisible(bool(decided and not message))
        self.pace.setVisible(not message and not (decided and lines == LINES))

    def _update(self) -> None:
        if self.session is None:
            return
        tips = _TIPS if self.session.study.info.landmarks is None else _OF_LANDMARKS
        for action, tip in tips.items():
            expected = self.session.display.expected() is not None  # stays enabled between two images
            self._buttons[action].setEnabled(expected)
            set_tip(self._buttons[action], tip if expected else _NO_IMAGE, action)
        can_go_back = self.session.navigation.before(self.session.image_id) is not None
        self.back.setEnabled(can_go_back)
        set_tip(self.back, "Go to the previous image" if can_go_back else "This is the first image", "back")
        state = self.session.state
        set_aside = (Status.FLAGGED, Status.RETURNED)
        is_decided = state is not None and (state.status.done or state.status in set_aside)
        self.reopen.setEnabled(is_decided)
        set_tip(self.reopen, _WITHDRAW if is_decided else "Nothing is decided about this image yet", "reopen")
        text, self._has_note = "", False
        if state is not None and is_decided:
            review = self.session.review
            is_others = review is not None and changed_by_another(review)
            words = status_words(state.status, self.session.study)
            text = describe_decision(state, words) + _NOT_SHOWN * is_others
            self._has_note = bool(state.note) or is_others
        self.decision.setText(text)
        self._show_words()

    def _on_all_saved(self, all_saved: bool) -> None:
        if self.session is not None and self.session.save_queue.problem and not all_saved:
            return  # the warning stays until everything is on the disk
        self._top.setStretchFactor(self.save_status, 0)
        self.save_status.setStyleSheet("font-size: 9pt;")
        self.save_status.setText("saved" if all_saved else "saving\N{HORIZONTAL ELLIPSIS}")

    def _on_not_saved(self, problem: str) -> None:
        self._top.setStretchFactor(self.save_status, 1)
        self.save_status.setStyleSheet(_WARNING)
        self.save_status.setText(f"Not saved yet. Trying again: {problem}")


class VerdictButton(QPushButton):
    """A button that takes a double click as one click."""

    def mouseDoubleClickEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802  Qt's name
        """Ignore the second click, which is not meant for the next image."""
        if event is not None:
            event.accept()


def describe_decision(state: ImageState, words: str = "") -> str:
    """Describe a decision, such as "approved by am, 2026-11-23 07:05"."""
    when = state.when.astimezone().strftime("%Y-%m-%d %H:%M")
    text = f"{words or state.status.words} by {state.annotator}, {when}"
    return f"{text}: {state.note}" if state.note else text
