"""Where the keys go: to the canvas, except while something is typed into a field of the dock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDockWidget,
    QLineEdit,
    QPlainTextEdit,
    QScrollArea,
    QSlider,
    QTextEdit,
    QWidget,
)

from napari_lesionseg.plugin.layout import canvas_of, layer_docks
from napari_lesionseg.plugin.qt_events import as_focus, as_key
from napari_lesionseg.plugin.tasks import call_soon

_TYPED_INTO = (QLineEdit, QAbstractSpinBox, QPlainTextEdit, QTextEdit)
_LEAVE = (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Escape)
_NO_COMMAND = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ShiftModifier
_FORMER = "focus before"  # name of the property that holds a widget's own policy
_FOLLOWED = (QEvent.Type.KeyPress, QEvent.Type.ShortcutOverride)


class DockFocus(QObject):
    """Keeps the keyboard focus of a dock where the annotator works.

    The mouse never moves the focus to a button, slider, list or table; the Tab key does. Whatever has the
    focus gives it back at Enter or Esc, and what letters mean nothing to passes them on to the canvas.
    Widgets that are added to the dock later follow the same rules.
    """

    def __init__(self, dock: QWidget) -> None:
        super().__init__(dock)
        self._dock = dock
        self._layers: list[QDockWidget] = []
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._adopt_all)
        self._adopt_all()

    def include_layers(self) -> None:
        """Follow the rules in napari's layer list and controls as well."""
        self._layers = layer_docks(self._dock)
        self._adopt_all()

    def release_layers(self) -> None:
        """Let napari's layer list and controls take the focus as before, also after the dock has gone."""
        for widget in _widgets_in(dock for dock in self._layers if isalive(dock)):  # type: ignore[no-untyped-call]
            _restore(widget)
            if isalive(self):  # type: ignore[no-untyped-call]
                widget.removeEventFilter(self)
        self._layers = []

    def to_canvas(self) -> None:
        """Move the focus to the canvas, unless another window is active."""
        canvas = canvas_of(self._dock)
        if canvas is not None and QApplication.activeWindow() in (None, canvas.window(), self._dock.window()):
            canvas.setFocus()

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Pass keys that are not for a field on to the canvas, and notice what is added to the dock."""
        if event is None:
            return False
        if event.type() == QEvent.Type.ChildAdded:
            self._soon.start()  # what is added is not finished yet
        elif (focus := as_focus(event)) is not None:
            is_list = focus.gotFocus() and isinstance(watched, QAbstractItemView)
            if is_list and focus.reason() == Qt.FocusReason.OtherFocusReason:
                call_soon(self, self.to_canvas)  # a name in a list was edited
        elif (key := as_key(event)) is not None and key.type() in _FOLLOWED:
            return self._on_key(watched, key)
        return False

    def _on_key(self, watched: QObject | None, event: QKeyEvent) -> bool:
        pressed = event.type() == QEvent.Type.KeyPress
        if event.key() in _LEAVE:
            if pressed and not _edits_a_list(watched):
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

    def _adopt_all(self) -> None:
        """Apply the rules to all widgets that do not follow them yet."""
        for widget in _widgets_in((self._dock, *self._layers)):
            if widget.property(_FORMER) is None:
                self._adopt(widget)

    def _adopt(self, widget: QWidget) -> None:
        former = widget.focusPolicy()
        widget.setProperty(_FORMER, former.value)
        widget.installEventFilter(self)
        is_reached = former & Qt.FocusPolicy.TabFocus and not isinstance(widget, QScrollArea)
        if not _is_typed_into(widget) and widget.focusProxy() is None:  # Qt sets that of the proxy instead
            widget.setFocusPolicy(Qt.FocusPolicy.TabFocus if is_reached else Qt.FocusPolicy.NoFocus)


def _widgets_in(docks: Iterable[QWidget]) -> Iterator[QWidget]:
    """Yield docks and what is in them, without their dialogs and lists that drop down."""
    for dock in docks:
        window = dock.window()
        yield from (widget for widget in (dock, *dock.findChildren(QWidget)) if widget.window() is window)


def _restore(widget: QWidget) -> None:
    """Let a widget take the focus as it did before."""
    former = widget.property(_FORMER)
    if former is not None:
        widget.setProperty(_FORMER, None)
        if widget.focusProxy() is None:
            widget.setFocusPolicy(Qt.FocusPolicy(former))


def _is_typed_into(widget: QWidget) -> bool:
    return isinstance(widget, _TYPED_INTO) or (isinstance(widget, QComboBox) and widget.isEditable())


def _edits_a_list(watched: QObject | None) -> bool:
    """Whether a field edits an entry of a list or table, which takes the focus back afterwards."""
    viewport = watched.parent() if isinstance(watched, QLineEdit) else None
    return viewport is not None and isinstance(viewport.parent(), QAbstractItemView)


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
