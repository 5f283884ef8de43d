"""What the forms of the panels share: widgets generated from settings, captions and the status line."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, TypeVar

from magicgui.widgets import create_widget
from magicgui.widgets.bases import ValueWidget
from psygnal import Signal
from pydantic.fields import FieldInfo
from qtpy.QtCore import QEvent, QLocale, QObject, QRect, QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent, QResizeEvent, QValidator
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QPlainTextEdit,
    QSizePolicy,
    QSpinBox,
    QWidget,
)

from napari_lesionseg.config import Settings

S = TypeVar("S", bound=Settings)
_LARGEST = 1_000_000
"""Upper bound of numbers whose setting has none; spin boxes need one."""

LINES = 2
"""Lines that a message has room for, unless a panel needs more."""

_LEAST_LETTERS = 8
_SMALL = "font-size: 9pt;"
_MESSAGE = f"{_SMALL} min-height: 0; margin: 0; padding: 0; border: none;"  # so that two lines are twice one


class SettingsForm(Generic[S]):
    """Widgets for some fields of a settings model, from their titles, descriptions and bounds.

    A field may narrow what the form offers by ``json_schema_extra={"form": {...}}``: options of magicgui,
    ``value`` to begin with, ``unit``, which is added to the caption, and ``decimals`` of a number.
    """

    changed = Signal()

    def __init__(self, model: type[S], names: Sequence[str]) -> None:
        self._model = model
        self.widgets = {name: _widget_for(model.model_fields[name]) for name in names}
        for widget in self.widgets.values():
            widget.changed.connect(self._on_changed)

    def settings(self, **others: Any) -> S:
        """Return the settings as they stand; `others` are the fields that the form does not show."""
        return self._model(**{name: widget.value for name, widget in self.widgets.items()}, **others)

    def show(self, settings: S) -> None:
        """Show settings without emitting `changed`."""
        with ExitStack() as stack:
            for name, widget in self.widgets.items():
                stack.enter_context(widget.changed.blocked())
                widget.value = getattr(settings, name)

    def native(self, name: str) -> Any:
        """Return the Qt widget of a field."""
        return self.widgets[name].native

    def add_to(self, grid: QGridLayout, row: int) -> int:
        """Add the widgets to the rows of a form, each with its caption; return the first free row."""
        for name in self.widgets:
            native = self.native(name)
            if not isinstance(native, QCheckBox):  # which carries its own caption
                grid.addWidget(QLabel(self.widgets[name].label), row, 0)
            grid.addWidget(native, row, 1)
            row += 1
        return row

    def _on_changed(self, value: object) -> None:
        self.changed.emit()


def settings_form(model: type[S], *names: str) -> SettingsForm[S]:
    """Make a form for some fields of a settings model, all of them by default."""
    return SettingsForm(model, names or tuple(model.model_fields))


def _widget_for(field: FieldInfo) -> ValueWidget[Any]:
    extra = field.json_schema_extra
    hints: Any = dict(extra)["form"] if isinstance(extra, dict) else {}
    options = _bounds(field) | {"tooltip": field.description} | hints
    unit, decimals = options.pop("unit", ""), options.pop("decimals", None)
    caption = f"{field.title} ({unit})" if unit else field.title
    value = options.pop("value", field.default)
    if "choices" in options:
        options["choices"] = [tuple(choice) for choice in options["choices"]]
    widget = create_widget(value=value, annotation=field.annotation, label=caption, options=options)
    if isinstance(widget.native, QAbstractSpinBox):
        read_plainly(widget.native)
    if isinstance(widget.native, QComboBox):
        keep_narrow(widget.native)
    if isinstance(widget.native, QDoubleSpinBox) and decimals is not None:
        widget.native.setDecimals(decimals)
        widget.native.setSuffix(f" {unit}")
    assert isinstance(widget, ValueWidget)  # noqa: S101 - create_widget's return type is wider
    return widget


def _bounds(field: FieldInfo) -> dict[str, Any]:
    """Return magicgui's options for the bounds of a number; nothing for other fields."""
    if field.annotation not in (int, float):
        return {}
    options: dict[str, Any] = {"max": _LARGEST}
    for limit in field.metadata:  # of the package annotated-types
        if hasattr(limit, "ge"):
            options["min"] = limit.ge
        if hasattr(limit, "le"):
            options["max"] = limit.le
    return options


class IgnoreWheel(QObject):
    """Leaves the wheel to the scroll area around a widget, which would else change its value unseen."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Pass the wheel on unless the widget was clicked or tabbed into."""
        if event is None or event.type() != QEvent.Type.Wheel:
            return False
        if isinstance(watched, QWidget) and watched.hasFocus():
            return False
        event.ignore()
        return True


def ignore_wheel(widget: QWidget) -> None:
    """Let the wheel scroll past a widget that does not have the focus."""
    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # else the wheel would give it the focus
    widget.installEventFilter(IgnoreWheel(widget))


class DecimalBox(QDoubleSpinBox):
    """A spin box that reads "1.5" and "1,5" as one and a half, whatever the language of the system."""

    def __init__(self) -> None:
        super().__init__()
        read_plainly(self)
        ignore_wheel(self)


def read_plainly(box: QAbstractSpinBox) -> None:
    """Make a spin box use a decimal point and no separators of thousands in every language.

    A comma that is typed or pasted becomes a point.
    """
    plain = QLocale(QLocale.Language.C)
    plain.setNumberOptions(
        QLocale.NumberOption.OmitGroupSeparator | QLocale.NumberOption.RejectGroupSeparator
    )
    box.setLocale(plain)
    if isinstance(box, QDoubleSpinBox):
        box.lineEdit().setValidator(_PointForComma(box))


class _PointForComma(QValidator):
    """Checks the text of a spin box while it is typed, with a point for each comma."""

    def __init__(self, box: QDoubleSpinBox) -> None:
        super().__init__(box)
        self._box = box

    def validate(self, text: str | None, position: int) -> Any:
        """Let the spin box check the text."""
        return self._box.validate((text or "").replace(",", "."), position)


def whole_number_box() -> QSpinBox:
    """Make a spin box that reads numbers the same in every language."""
    box = QSpinBox()
    read_plainly(box)
    return box


class NameLabel(QLabel):
    """A name that is cut in the middle where there is no room for it; its tooltip holds all of it."""

    def setText(self, text: str | None) -> None:  # noqa: N802  Qt's name
        """Show a name."""
        super().setText(text)
        self.setToolTip(text or "")

    def minimumSizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the room for some letters."""
        return QSize(
            _LEAST_LETTERS * self.fontMetrics().averageCharWidth(), super().minimumSizeHint().height()
        )

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802  Qt's name
        """Draw as much of the name as there is room for."""
        text = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideMiddle, self.width())
        QPainter(self).drawText(self.rect(), self.alignment(), text)


class MessageLabel(QLabel):
    """A message that always takes the same height, so that nothing around it moves under the mouse.

    What does not fit is cut off with an ellipsis; the tooltip holds all of it, after `tip`.
    """

    def __init__(self, lines: int = LINES, tip: str = "") -> None:
        super().__init__()
        self._lines, self._whole, self._tip = lines, "", tip
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setToolTip(tip)
        self.setStyleSheet(_MESSAGE)

    def set_lines(self, lines: int) -> None:
        """Take the height of another number of lines."""
        self._lines = lines
        self.updateGeometry()
        self._fit()

    def text(self) -> str:
        """Return the whole message."""
        return self._whole

    def setText(self, text: str | None) -> None:  # noqa: N802  Qt's name
        """Show a message; an empty text takes the last one back."""
        self._whole = text or ""
        self._fit()

    def clear(self) -> None:
        """Take the message back."""
        self.setText("")

    def sizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the room for the lines, whatever the message."""
        margins, letter = self.contentsMargins(), self.fontMetrics()
        height = self._lines * letter.lineSpacing() + margins.top() + margins.bottom()
        return QSize(_LEAST_LETTERS * letter.averageCharWidth(), height)

    def minimumSizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the same: a long word does not widen the form."""
        return self.sizeHint()

    def hasHeightForWidth(self) -> bool:  # noqa: N802  Qt's name
        """Keep the height, though words wrap."""
        return False

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802  Qt's name
        """Fit the message again."""
        super().resizeEvent(event)
        self._fit()

    def changeEvent(self, event: QEvent | None) -> None:  # noqa: N802  Qt's name
        """Fit the message again when the letters change."""
        super().changeEvent(event)
        if event is not None and event.type() in (QEvent.Type.FontChange, QEvent.Type.StyleChange):
            self.updateGeometry()
            self._fit()

    def _fit(self) -> None:
        fitting = self._whole
        if not self._has_room_for(fitting):
            # The first length that has no room; shorter ones have.
            place = bisect(
                range(len(fitting)), False, key=lambda length: not self._has_room_for(_cut(fitting, length))
            )
            fitting = _cut(fitting, max(0, place - 1))
        self.setToolTip(self._tip if fitting == self._whole else f"{self._tip}\n{self._whole}".strip())
        super().setText(fitting)

    def _has_room_for(self, text: str) -> bool:
        room = QRect(0, 0, max(1, self.contentsRect().width()), 1)
        needed = self.fontMetrics().boundingRect(room, Qt.TextFlag.TextWordWrap, text)
        lines = self._lines * self.fontMetrics().lineSpacing()
        return bool(needed.width() <= room.width() and needed.height() <= lines)


class ReportBox(QPlainTextEdit):
    """Some lines of text that scroll, can be selected, and always take the same height."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._lines = lines
        self.setReadOnly(True)
        self.setFrameShape(QPlainTextEdit.Shape.NoFrame)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setStyleSheet(_SMALL)
        self.setTabChangesFocus(True)

    def text(self) -> str:
        """Return the text."""
        return str(self.toPlainText())

    def setText(self, text: str) -> None:  # noqa: N802  like a label's
        """Show a text from its beginning."""
        self.setPlainText(text)

    def sizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the room for the lines, whatever the text."""
        letter, margin = self.fontMetrics(), 2 * round(self.document().documentMargin())
        return QSize(_LEAST_LETTERS * letter.averageCharWidth(), self._lines * letter.lineSpacing() + margin)

    def minimumSizeHint(self) -> QSize:  # noqa: N802  Qt's name
        """Return the same."""
        return self.sizeHint()


def _cut(text: str, length: int) -> str:
    return f"{text[:length].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def keep_place(*widgets: QWidget) -> None:
    """Let widgets keep their place while they are hidden, so that those below do not move."""
    for widget in widgets:
        policy = widget.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        widget.setSizePolicy(policy)


def small(label: QLabel) -> QLabel:
    """Make the text of a label smaller, for captions."""
    label.setStyleSheet(_SMALL)
    return label


def keep_narrow(box: QComboBox) -> None:
    """Keep long names from widening a list: they are cut off with an ellipsis."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)


def captioned(*rows: tuple[str, QWidget]) -> QGridLayout:
    """Make a form of captions and widgets; the widgets take the width that is left."""
    grid = QGridLayout()
    grid.setColumnStretch(1, 1)
    for row, (caption, part) in enumerate(rows):
        grid.addWidget(QLabel(caption), row, 0)
        grid.addWidget(part, row, 1)
    return grid


def when_gone(widget: QWidget, *callbacks: Callable[[], None]) -> None:
    """Call functions after a widget's Qt side has gone, methods of the widget among them."""
    # Not the methods themselves: Qt would have disconnected them before the signal is sent.
    widget.destroyed.connect(partial(_call_all, callbacks))


def _call_all(callbacks: tuple[Callable[[], None], ...], *_: Any) -> None:
    for callback in callbacks:
        callback()
