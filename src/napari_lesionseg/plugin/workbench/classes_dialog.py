"""The dialog that edits the classes of a study: their names and colors. It knows no study."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QCheckBox,
    QColorDialog,
    QDialog,
    QDialogButtonBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS
from napari_lesionseg.plugin.widgets.forms import small
from napari_lesionseg.study.events import StudyClass

MOST = 50
"""Classes that the dialog makes; a study may have more."""

_HELP = (
    "Outlines keep their classes by number, so the order stays, and only the last class can be removed, "
    "as long as no outline uses it."
)


class ClassesDialog(QDialog):
    """Name classes, choose their colors, add some, remove the last one.

    Parameters
    ----------
    classes : sequence of StudyClass
        The classes as they are, without the background.

    Attributes
    ----------
    teach : QCheckBox
        Whether the model is to tell the new classes apart, too.
    """

    def __init__(self, classes: Sequence[StudyClass], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Classes of the outlines")
        self.names: list[QLineEdit] = []
        self.colors: list[QPushButton] = []
        self.add = QPushButton("Add a class")
        self.remove = QPushButton("Remove the last one")
        self.teach = QCheckBox("Let the model tell these classes apart")
        self.problem = small(QLabel())
        standard = QDialogButtonBox.StandardButton
        self.answers = QDialogButtonBox(standard.Ok | standard.Cancel)
        self._lay_out()
        for entry in classes:
            self._append(entry.name, entry.color)
        self._connect()
        self._update()

    @property
    def classes(self) -> tuple[StudyClass, ...]:
        """The classes as they are typed; only to be asked when `why_not` is empty."""
        pairs = zip(self.names, self.colors, strict=True)
        return tuple(StudyClass(name=name.text().strip(), color=_color_of(button)) for name, button in pairs)

    @property
    def why_not(self) -> str:
        """Why the classes cannot be like this; empty when they can."""
        names = [name.text().strip() for name in self.names]
        if not all(names):
            return "Give every class a name."
        if "background" in names:
            return "The background is a class of its own; choose another name."
        return "Two classes have the same name." if len(set(names)) < len(names) else ""

    def set_color(self, place: int, color: QColor) -> None:
        """Give a class a color."""
        self.colors[place].setProperty("color", color.name())
        self.colors[place].setStyleSheet(f"background: {color.name()}; border: 1px solid gray;")

    def _lay_out(self) -> None:
        self.add.setToolTip("A further class, which gets the next number")
        self.remove.setToolTip("Take the last class away, if no outline uses it")
        self.teach.setChecked(True)
        self.teach.setToolTip(
            "A copy of the model gets an output for each class; it keeps what it knows, and learns the "
            "rest by Fine-tune"
        )
        self.problem.setWordWrap(True)
        self._grid = QGridLayout()
        self._grid.setColumnStretch(2, 1)
        buttons = QHBoxLayout()
        buttons.addWidget(self.add)
        buttons.addWidget(self.remove)
        help_ = small(QLabel(_HELP))
        help_.setWordWrap(True)
        column = QVBoxLayout(self)
        column.addLayout(self._grid)
        column.addLayout(buttons)
        column.addWidget(help_)
        column.addWidget(self.teach)
        column.addWidget(self.problem)
        column.addWidget(self.answers)

    def _connect(self) -> None:
        self.add.clicked.connect(self._on_add)
        self.remove.clicked.connect(self._on_remove)
        self.answers.accepted.connect(self.accept)
        self.answers.rejected.connect(self.reject)

    def _append(self, name: str, color: str) -> None:
        place = len(self.names)
        field, button = QLineEdit(name), QPushButton()
        field.setMaxLength(255)
        field.setPlaceholderText("name of the class")
        field.textChanged.connect(self._update)
        button.setFixedSize(26, 22)
        button.setToolTip("Choose the color of the outline")
        button.clicked.connect(partial(self._on_color, place))
        self.names.append(field)
        self.colors.append(button)
        self.set_color(place, QColor(color))
        for column, widget in enumerate((QLabel(str(place + 1)), button, field)):
            self._grid.addWidget(widget, place, column)

    def _on_add(self) -> None:
        used = {_color_of(button) for button in self.colors}
        free = [color for color in CLASS_COLORS if color not in used]
        self._append("", free[0] if free else CLASS_COLORS[len(self.names) % len(CLASS_COLORS)])
        self.names[-1].setFocus()
        self._update()

    def _on_remove(self) -> None:
        place = len(self.names) - 1
        for column in range(3):
            item = self._grid.itemAtPosition(place, column)
            widget = None if item is None else item.widget()
            if widget is not None:
                self._grid.removeWidget(widget)
                widget.deleteLater()
        del self.names[place], self.colors[place]
        self._update()

    def _on_color(self, place: int) -> None:
        chosen = QColorDialog.getColor(QColor(_color_of(self.colors[place])), self)
        if chosen.isValid():
            self.set_color(place, chosen)

    def _update(self) -> None:
        self.add.setEnabled(len(self.names) < MOST)
        self.remove.setEnabled(len(self.names) > 1)
        self.problem.setText(self.why_not)
        ok = self.answers.button(QDialogButtonBox.StandardButton.Ok)
        if ok is not None:
            ok.setEnabled(not self.why_not)


def _color_of(button: QPushButton) -> str:
    return str(button.property("color"))
