"""What the forms of the panels share: widgets generated from settings, captions and the status line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, TypeVar

from magicgui.widgets import create_widget
from magicgui.widgets.bases import ValueWidget
from psygnal import Signal
from pydantic.fields import FieldInfo
from qtpy.QtCore import QEvent, QLocale, QObject, QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QSpinBox,
    QWidget,
)

from napari_lesionseg.config import Settings

S = TypeVar("S", bound=Settings)
_LARGEST = 1_000_000
"""Upper bound of numbers whose setting has none; spin boxes need one."""

_LEAST_LETTERS = 8


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

    def validate(self, text: str | None, pos: int) -> Any:
        """Check a text while it is typed; a comma becomes a point."""
        return super().validate((text or "").replace(",", "."), pos)

    def valueFromText(self, text: str | None) -> float:  # noqa: N802  Qt's name
        """Return the number that a text stands for."""
        return float(super().valueFromText((text or "").replace(",", ".")))


def read_plainly(box: QAbstractSpinBox) -> None:
    """Make a spin box use a decimal point and no separators of thousands in every language."""
    plain = QLocale(QLocale.Language.C)
    plain.setNumberOptions(
        QLocale.NumberOption.OmitGroupSeparator | QLocale.NumberOption.RejectGroupSeparator
    )
    box.setLocale(plain)


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


def small(label: QLabel) -> QLabel:
    """Make the text of a label smaller, for captions."""
    label.setStyleSheet("font-size: 9pt;")
    return label


def keep_narrow(box: QComboBox) -> None:
    """Keep long names from widening a list: they are cut off with an ellipsis."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)


def status_line() -> QLabel:
    """Make a label of two lines, so that the form does not jump when the text grows."""
    label = small(QLabel())
    label.setWordWrap(True)
    label.setMinimumHeight(2 * label.fontMetrics().lineSpacing())
    return label


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
