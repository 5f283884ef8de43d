"""The whole way of a drag, of which napari leaves out places in a busy window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QCoreApplication, QEvent, QObject, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from skimage.measure import approximate_polygon
from vispy.app.canvas import MouseEvent

from napari_lesionseg.plugin.qt_events import as_mouse

if TYPE_CHECKING:
    from vispy.util.event import EmitterGroup

_NAME = "whole drags"
_COMPRESS = Qt.ApplicationAttribute.AA_CompressHighFrequencyEvents

INTERVAL = 0.01
"""Seconds between the moves of a drag that are handled one by one."""

TOLERANCE = 1.0
"""Screen pixels by which the way that is drawn may miss the way of the mouse."""


def keep_drags_whole(canvas: QOpenGLWidget) -> None:
    """Make drags on napari's canvas follow the mouse, and end where the button is released.

    While the window is busy, Qt joins all moves of the mouse into one; the canvas leaves out moves within
    10 ms of another, and napari handles one every 5 ms. A lasso lost its corners, a stroke its end.
    """
    if canvas.findChild(QObject, _NAME) is None:
        _WholeDrags(canvas)


class _WholeDrags(QObject):
    """Hands the moves of a drag on in time, and the corners of the way that came between them."""

    def __init__(self, canvas: QOpenGLWidget) -> None:
        super().__init__(canvas)
        self.setObjectName(_NAME)
        native: Any = canvas
        self._native, self._events = native, native._vispy_canvas.events
        self._joins_moves = QCoreApplication.testAttribute(_COMPRESS)
        self._last: QMouseEvent | None = None  # the last event that was handed on; None outside of a drag
        self._since = 0.0  # when it was
        self._waiting: list[QMouseEvent] = []
        self._is_sending = False
        canvas.installEventFilter(self)
        self._events.mouse_release.connect(self._move_to_release, position="first")

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Hold back moves that follow too fast, until the next one or the release."""
        if event is not None and event.type() in {QEvent.Type.Enter, QEvent.Type.Leave}:
            # Before the button is pressed, since Qt joins the moves that it finds waiting behind the press.
            # Only here, since Qt joins the changes of a window's size as well.
            is_here = event.type() == QEvent.Type.Enter
            QCoreApplication.setAttribute(_COMPRESS, self._joins_moves and not is_here)
        mouse = None if self._is_sending else as_mouse(event)
        if mouse is None:
            return False
        if mouse.type() == QEvent.Type.MouseButtonPress:
            self._hand_on(mouse)
        elif mouse.type() == QEvent.Type.MouseMove and self._last is not None:
            if perf_counter() - self._since < INTERVAL:
                self._waiting.append(_copy(mouse))
                return True
            self._send_waiting(mouse)
            self._hand_on(mouse)
        elif mouse.type() == QEvent.Type.MouseButtonRelease:
            self._send_waiting(mouse)
            self._last = None
        return False

    def _hand_on(self, event: QMouseEvent) -> None:
        """Let the canvas take an event, however soon it comes."""
        _deliver(self._events)
        self._native._last_time = 0.0
        self._last, self._since = _copy(event), perf_counter()

    def _send_waiting(self, end: QMouseEvent) -> None:
        """Send those of the moves that waited between which the way is straight."""
        waiting, self._waiting = self._waiting, []
        if self._last is None or not waiting:
            return
        way = np.array([_place(event) for event in (self._last, *waiting, end)])
        corners = {tuple(place) for place in approximate_polygon(way, TOLERANCE)[1:-1].tolist()}
        with self._sending():
            for event in waiting:
                if _place(event) in corners:
                    self._hand_on(event)
                    QCoreApplication.sendEvent(self._native, event)
            _deliver(self._events)
        self._native._last_time = 0.0

    @contextmanager
    def _sending(self) -> Iterator[None]:
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False

    def _move_to_release(self, event: MouseEvent) -> None:
        _deliver(self._events)
        last = event.last_event
        if event.press_event is not None and last is not None and tuple(last.pos) != tuple(event.pos):
            self._events.mouse_move(_move_to(event))
            _deliver(self._events)


def _copy(event: QMouseEvent) -> QMouseEvent:
    """Return an event that Qt does not delete."""
    where = event.position(), event.globalPosition()
    return QMouseEvent(event.type(), *where, event.button(), event.buttons(), event.modifiers())


def _place(event: QMouseEvent) -> tuple[float, float]:
    place: QPointF = event.position()
    return place.x(), place.y()


def _deliver(events: EmitterGroup) -> None:
    """Let napari handle the move that waits, if there is one."""
    for callback in events.mouse_move.callbacks:
        if hasattr(callback, "flush"):
            callback.flush()


def _move_to(release: MouseEvent) -> MouseEvent:
    """Return the move to where a button is released."""
    return MouseEvent(
        "mouse_move",
        pos=release.pos,
        buttons=[release.button],
        modifiers=release.modifiers,
        last_event=release.last_event,
        press_event=release.press_event,
    )
