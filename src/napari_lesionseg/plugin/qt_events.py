"""Qt's events in event filters, as what they are.

PyQt hands over the Python object of an earlier event if the new one has the same address and anything still
holds that object. So a key can come as a `QMouseEvent`; only `QEvent.type` tells what an event is.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from qtpy import PYQT6
from qtpy.QtCore import QEvent
from qtpy.QtGui import QFocusEvent, QKeyEvent, QMouseEvent

_KEYS = frozenset({QEvent.Type.KeyPress, QEvent.Type.KeyRelease, QEvent.Type.ShortcutOverride})
_MOUSE = frozenset(
    {
        QEvent.Type.MouseButtonPress,
        QEvent.Type.MouseButtonRelease,
        QEvent.Type.MouseButtonDblClick,
        QEvent.Type.MouseMove,
    }
)
_FOCUS = frozenset({QEvent.Type.FocusIn, QEvent.Type.FocusOut, QEvent.Type.FocusAboutToChange})

E = TypeVar("E", bound=QEvent)


def as_key(event: QEvent | None) -> QKeyEvent | None:
    """Return an event of the keyboard, or None for any other."""
    return _as(event, QKeyEvent) if event is not None and event.type() in _KEYS else None


def as_mouse(event: QEvent | None) -> QMouseEvent | None:
    """Return an event of the mouse, or None for any other."""
    return _as(event, QMouseEvent) if event is not None and event.type() in _MOUSE else None


def as_focus(event: QEvent | None) -> QFocusEvent | None:
    """Return an event of the focus, or None for any other."""
    return _as(event, QFocusEvent) if event is not None and event.type() in _FOCUS else None


def _as(event: QEvent, kind: type[E]) -> E | None:
    if isinstance(event, kind):
        return event
    if not PYQT6:
        return None
    from qtpy import sip

    untyped: Any = sip
    return cast("E", untyped.wrapinstance(untyped.unwrapinstance(event), kind))
