from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot
from qtpy import PYQT6
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QFocusEvent, QKeyEvent, QMouseEvent
from qtpy.QtWidgets import QWidget

from napari_lesionseg.plugin import qt_events
from napari_lesionseg.plugin.qt_events import as_focus, as_key, as_mouse
from napari_lesionseg.plugin.shortcuts import WindowKeys

EVENT_BYTES = 88
MEMORY = ctypes.create_string_buffer(256)
KEY = QKeyEvent(QEvent.Type.ShortcutOverride, Qt.Key.Key_W, Qt.KeyboardModifier.NoModifier, "w")
PRESS = QMouseEvent(
    QEvent.Type.MouseButtonPress,
    QPointF(3, 4),
    QPointF(3, 4),
    Qt.MouseButton.LeftButton,
    Qt.MouseButton.LeftButton,
    Qt.KeyboardModifier.NoModifier,
)
FOCUS = QFocusEvent(QEvent.Type.FocusIn, Qt.FocusReason.TabFocusReason)


def taken_for(earlier: QEvent, event: QEvent) -> QEvent:
    """Return what PyQt takes an event for that comes where an earlier one was, as on the stack of Qt."""
    if not PYQT6:
        pytest.skip("PyQt alone takes the object of an earlier event")
    from qtpy import sip

    ctypes.memmove(MEMORY, sip.unwrapinstance(earlier), EVENT_BYTES)
    known = sip.wrapinstance(ctypes.addressof(MEMORY), QEvent)
    ctypes.memmove(MEMORY, sip.unwrapinstance(event), EVENT_BYTES)
    found: QEvent = sip.wrapinstance(ctypes.addressof(MEMORY), QEvent)
    assert found is known
    assert type(found) is type(earlier)
    return found


def test_no_event_is_told_by_its_class() -> None:
    """Event filters that did so lost keys."""
    by_class = re.compile(r"isinstance\(\w+, \(?Q\w*Event\b")
    sources = (path for path in Path(qt_events.__file__).parent.rglob("*.py") if path.name != "qt_events.py")
    asking = [path.name for path in sources if by_class.search(path.read_text("utf-8"))]
    assert asking == []


def test_events_are_what_their_type_says() -> None:
    assert (as_key(KEY), as_mouse(PRESS), as_focus(FOCUS)) == (KEY, PRESS, FOCUS)
    assert as_key(PRESS) is as_mouse(KEY) is as_focus(KEY) is as_key(None) is as_mouse(None) is None


def test_a_key_that_comes_as_an_earlier_click_is_a_key() -> None:
    stale = taken_for(PRESS, KEY)
    key = as_key(stale)
    assert key is not None
    assert key.text() == "w"
    assert as_mouse(stale) is None


def test_a_click_that_comes_as_an_earlier_key_is_a_click() -> None:
    stale = taken_for(KEY, PRESS)
    mouse = as_mouse(stale)
    assert mouse is not None
    assert mouse.position() == QPointF(3, 4)
    assert as_key(stale) is None


def test_a_key_after_a_held_one_counts_however_it_comes(qtbot: QtBot) -> None:
    """It was taken for the held one, and did nothing."""
    widget = QWidget()
    qtbot.addWidget(widget)
    keys = WindowKeys(widget, {})
    held = QKeyEvent(
        QEvent.Type.ShortcutOverride, Qt.Key.Key_W, Qt.KeyboardModifier.NoModifier, "w", autorep=True
    )
    keys.eventFilter(None, held)
    assert keys._is_repeat
    keys.eventFilter(None, taken_for(PRESS, KEY))
    assert not keys._is_repeat
