"""Real mouse and key events on napari's canvas."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

LEFT, PLAIN = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier


class CanvasMouse:
    """The mouse on the canvas of a viewer; places are rows and columns of the image."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self._viewer, self._qtbot = viewer, qtbot
        self.canvas = viewer.window._qt_viewer.canvas.native

    def _at(self, place: ArrayLike) -> QPoint:
        camera = self._viewer.scene.camera
        row, col = (np.asarray(place) - np.array(camera.center[-2:])) * camera.zoom
        return QPoint(round(self.canvas.width() / 2 + col), round(self.canvas.height() / 2 + row))

    def click(self, place: ArrayLike) -> None:
        self._qtbot.mouseMove(self.canvas, self._at(place))
        self._qtbot.mouseClick(self.canvas, LEFT, PLAIN, self._at(place))

    def drag(self, start: ArrayLike, end: ArrayLike) -> None:
        self._qtbot.mouseMove(self.canvas, self._at(start))
        self._qtbot.mousePress(self.canvas, LEFT, PLAIN, self._at(start))
        for share in (0.5, 1.0):
            place = np.asarray(start) + share * (np.asarray(end) - np.asarray(start))
            for _ in range(200):  # vispy drops moves that come too fast
                if self._noticed(place):
                    break
                self._qtbot.wait(50)
            else:
                raise TimeoutError("The canvas never noticed the mouse.")
        self._qtbot.mouseRelease(self.canvas, LEFT, PLAIN, self._at(end))

    def _noticed(self, place: np.ndarray) -> bool:
        """Move the held mouse, and return whether the viewer noticed."""
        here = self._at(place)
        where = QPointF(here), QPointF(self.canvas.mapToGlobal(here))
        move = QMouseEvent(QEvent.Type.MouseMove, *where, Qt.MouseButton.NoButton, LEFT, PLAIN)
        QApplication.sendEvent(self.canvas, move)
        return np.allclose(self._viewer.cursor.position[-2:], place, atol=0.7)

    def press(self, key: Any, modifier: Any = PLAIN) -> None:
        self._qtbot.keyClick(self.canvas, key, modifier)
