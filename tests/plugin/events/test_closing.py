"""Closing the window: it asks once about what would be interrupted, and napari does not ask again."""

from __future__ import annotations

from typing import Any

import pytest
from napari._qt import qt_main_window
from qtpy.QtCore import QEvent, QObject
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QMessageBox


class ClosedByUser(QCloseEvent):
    """What the window manager sends."""

    def spontaneous(self) -> bool:
        return True


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that are asked; napari's own are refused."""
    questions: list[str] = []

    def question(parent: Any, title: str, text: str, *buttons: Any) -> Any:
        questions.append(text)
        return QMessageBox.StandardButton.Yes

    class Refusing:
        def __init__(self, *arguments: Any, **more: Any) -> None:
            questions.append("napari")

        def exec_(self) -> int:
            return 0

    monkeypatch.setattr(QMessageBox, "question", question)
    monkeypatch.setattr(qt_main_window, "ConfirmCloseDialog", Refusing)
    return questions


@pytest.mark.parametrize("interruptible", ["", "The model is still being fine-tuned."])
def test_the_window_asks_once_and_closes(window: Any, asked: list[str], interruptible: str) -> None:
    session, main = window.session, window.main
    session.interruptible = interruptible
    closed = []

    class Watch(QObject):
        def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
            if event is not None and event.type() == QEvent.Type.Close and not event.spontaneous():
                closed.append(1)
                event.ignore()
                return True  # the fixture closes the viewer
            return False

    event = ClosedByUser()
    assert window.bench._guard.eventFilter(main, event)
    assert window.bench.session is None
    watch = Watch()
    main.installEventFilter(watch)
    window.qtbot.waitUntil(lambda: bool(closed))
    main.removeEventFilter(watch)
    assert asked == ([f"{interruptible}\n\nClose anyway?"] if interruptible else [])


def test_the_window_stays_open_when_the_annotator_stays(window: Any, monkeypatch: Any) -> None:
    window.session.interruptible = "The model is still being fine-tuned."
    monkeypatch.setattr(QMessageBox, "question", lambda *what: QMessageBox.StandardButton.No)
    event = ClosedByUser()
    assert window.bench._guard.eventFilter(window.main, event)
    assert not event.isAccepted()
    assert window.session is not None
