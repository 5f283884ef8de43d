"""Real mouse and key events on napari's canvas, and on the workbench beside it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent, QWheelEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.widget import Workbench

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

    def click(self, place: ArrayLike, button: Qt.MouseButton = LEFT) -> None:
        self._qtbot.mouseMove(self.canvas, self._at(place))
        self._qtbot.mouseClick(self.canvas, button, PLAIN, self._at(place))

    def drag(self, start: ArrayLike, *places: ArrayLike) -> None:
        self._qtbot.mouseMove(self.canvas, self._at(start))
        self._qtbot.mousePress(self.canvas, LEFT, PLAIN, self._at(start))
        for begin, end in itertools.pairwise((start, *places)):
            for share in (0.5, 1.0):
                self._move(np.asarray(begin) + share * (np.asarray(end) - np.asarray(begin)))
        self._qtbot.mouseRelease(self.canvas, LEFT, PLAIN, self._at(places[-1]))

    def drag_fast(self, *places: ArrayLike) -> None:
        """Drag without a pause, as moves come in a busy window; the button is released at the last place."""
        none = Qt.MouseButton.NoButton
        moves = [QEvent.Type.MouseMove] * (len(places) - 1)
        kinds = (QEvent.Type.MouseButtonPress, *moves, QEvent.Type.MouseButtonRelease)
        for kind, place in zip(kinds, (*places, places[-1]), strict=True):
            button = none if kind == QEvent.Type.MouseMove else LEFT
            held = none if kind == QEvent.Type.MouseButtonRelease else LEFT
            self._send(kind, place, button, held)

    def _send(
        self, kind: QEvent.Type, place: ArrayLike, button: Qt.MouseButton, held: Qt.MouseButton
    ) -> None:
        here = self._at(place)
        where = QPointF(here), QPointF(self.canvas.mapToGlobal(here))
        QApplication.sendEvent(self.canvas, QMouseEvent(kind, *where, button, held, PLAIN))

    def _move(self, place: np.ndarray) -> None:
        for _ in range(200):  # vispy drops moves that come too fast
            if self._noticed(place):
                return
            self._qtbot.wait(50)
        raise TimeoutError("The canvas never noticed the mouse.")

    def _noticed(self, place: np.ndarray) -> bool:
        """Move the held mouse, and return whether the viewer noticed."""
        self._send(QEvent.Type.MouseMove, place, Qt.MouseButton.NoButton, LEFT)
        return np.allclose(self._viewer.cursor.position[-2:], place, atol=0.7)

    def press(self, key: Any, modifier: Any = PLAIN) -> None:
        self._qtbot.keyClick(self.canvas, key, modifier)


def turn_wheel(widget: QWidget, place: QPoint | None = None, delta: int = -120) -> None:
    """Turn the wheel by a step over a widget, towards the user or, with a positive delta, away."""
    at = QPointF(place or widget.rect().center())
    event = QWheelEvent(
        at,
        QPointF(widget.mapToGlobal(at)),
        QPoint(),
        QPoint(0, delta),
        Qt.MouseButton.NoButton,
        PLAIN,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)


DARK = 100
"""Brightness below which a pixel of the drawn images belongs to the lesion."""


def paint_dark(qtbot: Any, bench: Workbench) -> None:
    """Clear the outline on the screen, and paint over the dark rectangle with one stroke of the brush."""
    editor, tools = bench.session.editor, bench.panel(CorrectSection).tools
    dark = editor.image.data[..., 0] < DARK
    rows, cols = np.nonzero(dark)
    width = (rows.max() - rows.min() + 1) / 2  # of the brush, which goes there and back
    if tools.buttons["clear"].isEnabled():
        qtbot.mouseClick(tools.buttons["clear"], LEFT)
    _type(qtbot, tools.paint.brush, round(width * bench._viewer.scene.camera.zoom))
    if not tools.buttons["brush"].isChecked():
        qtbot.mouseClick(tools.buttons["brush"], LEFT)
    top, bottom = rows.min() + width / 2 - 0.5, rows.max() - width / 2 + 0.5
    left, right = cols.min() + width / 2 - 0.5, cols.max() - width / 2 + 0.5
    CanvasMouse(bench._viewer, qtbot).drag((top, left), (top, right), (bottom, right), (bottom, left))
    painted = editor.labels.data > 0
    assert (painted & dark).sum() > 0.8 * (painted | dark).sum()


def correct_and_approve(qtbot: Any, bench: Workbench, timeout: int) -> None:
    """Paint what is dark on the image that is shown, sign it, and wait for the next image."""
    session = bench.session
    image = session.image_id
    paint_dark(qtbot, bench)
    qtbot.mouseClick(bench.panel(ReviewBar).approve, LEFT)
    qtbot.waitUntil(lambda: session.editor is not None and session.image_id != image, timeout=timeout)


def _type(qtbot: Any, box: Any, number: int) -> None:
    """Type a number into a field, and leave it."""
    qtbot.mouseClick(box.lineEdit(), LEFT)
    qtbot.keyClick(box, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClicks(box, str(number))
    qtbot.keyClick(box, Qt.Key.Key_Return)
    assert box.value() == number
