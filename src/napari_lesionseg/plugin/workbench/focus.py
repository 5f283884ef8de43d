"""Where the keys go: to the canvas, except while something is typed into a field of the dock."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QMainWindow,
    QPlainTextEdit,
    QScrollArea,
    QSlider,
    QTextEdit,
    QWidget,
)

_TYPED_INTO = (QLineEdit, QAbstractSpinBox, QPlainTextEdit, QTextEdit)
_LEAVE = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Escape)
_NO_COMMAND = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ShiftModifier


class DockFocus(QObject):
    """Keeps the keyboard focus of a dock where the annotator works.

    The mouse never moves the focus to a button, slider, list or table; the Tab key does. Whatever has the
    focus gives it back at Enter or Esc, and what letters mean nothing to passes them on to the canvas.
    """

    def __init__(self, dock: QWidget) -> None:
        super().__init__(dock)
        self._dock = dock

    def adopt(self) -> None:
        """Apply the rules to all widgets that the dock has now."""
        for widget in self._dock.findChildren(QWidget):
            if isinstance(widget, QScrollArea):
                widget.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            elif widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
                if not isinstance(widget, _TYPED_INTO):
                    widget.setFocusPolicy(Qt.FocusPolicy.TabFocus)
                widget.installEventFilter(self)
            if isinstance(widget, QComboBox):
                widget.activated.connect(self.to_canvas)

    def to_canvas(self, *_: object) -> None:
        """Move the focus to the canvas, unless another window is active."""
        canvas = canvas_of(self._dock)
        if canvas is not None and QApplication.activeWindow() in (None, canvas.window(), self._dock.window()):
            canvas.setFocus()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Pass keys that are not for a field on to the canvas."""
        if not isinstance(event, QKeyEvent) or event.type() == QEvent.Type.KeyRelease:
            return False
        pressed = event.type() == QEvent.Type.KeyPress
        if event.key() in _LEAVE:
            if pressed:
                self.to_canvas()
            return False  # the field takes the key as well
        canvas = canvas_of(self._dock)
        if canvas is None or not _is_letter(event):
            return False
        if not _is_number_field(watched) and not _passes_letters(watched, canvas):
            return False
        if pressed:
            canvas.setFocus()
            QApplication.postEvent(
                canvas, QKeyEvent(event.type(), event.key(), event.modifiers(), event.text())
            )
            return True
        event.ignore()
        return True


def canvas_of(widget: QWidget) -> QWidget | None:
    """Return the canvas of the window that a widget is in."""
    outermost = widget
    while (parent := outermost.parentWidget()) is not None:
        outermost = parent
    center = outermost.centralWidget() if isinstance(outermost, QMainWindow) else None
    return None if center is None else center.findChild(QOpenGLWidget)


def _is_number_field(watched: QObject | None) -> bool:
    return isinstance(watched, QAbstractSpinBox) or isinstance(
        watched.parent() if watched is not None else None, QAbstractSpinBox
    )


def _passes_letters(watched: QObject | None, canvas: QWidget) -> bool:
    """Whether letters mean nothing to a widget; lists look for the entry that begins with one."""
    # Qt passes the keys of a floating dock on to its window itself.
    return isinstance(watched, QAbstractButton | QSlider) and watched.window() is canvas.window()


def _is_letter(event: QKeyEvent) -> bool:
    is_letter = Qt.Key.Key_A <= event.key() <= Qt.Key.Key_Z
    return is_letter and event.modifiers() in _NO_COMMAND
