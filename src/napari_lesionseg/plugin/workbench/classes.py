"""The classes of a study: shown on its outlines, offered for painting, and edited in a dialog."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_error, show_info
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

from napari_lesionseg.plugin.editor.panel import CorrectPanel
from napari_lesionseg.plugin.napari_layers.layers import CLASS_COLORS, CLASSES, outline_colors
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import small
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.study.events import StudyClass
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.predictor import Model
    from napari_lesionseg.plugin.editor.editor import MaskEditor
    from napari_lesionseg.plugin.workbench.session import StudySession

BACKGROUND = "background"

MAX_CLASSES = 50
"""Classes that the dialog makes; a study may have more."""

_HELP = (
    "Outlines store their classes by number. Therefore the order is fixed, and only the last class can be "
    "removed, as long as no outline uses it."
)


class CorrectSection(Panel):
    """The tools to correct the outline on the screen, and the classes of the study to paint with."""

    title, folded, only_for = "Correct", False, "outlines"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.tools = CorrectPanel(viewer)
        self.task: Task[str] | None = None
        """The change of classes that is running."""
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.tools)
        within = self.tools.layout()
        if within is not None:
            within.setContentsMargins(0, 0, 0, 0)
        self.tools.paint.edit_classes.clicked.connect(self.ask)

    def show_session(self, session: StudySession) -> None:
        """Correct the outlines of a study, in its classes."""
        self.listen(session.opened, self._on_opened)
        self.tools.paint.edit_classes.setVisible(True)
        self.tools.paint.edit_classes.setEnabled(True)
        self._show_classes(session)

    def close_session(self) -> None:
        """Stop changing classes."""
        if self.task is not None:
            self.task.close()
        self.task = None

    def ask(self) -> None:
        """Open the dialog, and apply what was edited."""
        if self.session is None:
            return
        dialog = ClassesDialog(self.session.study.info.classes, self.tools.window())
        if dialog.exec() and dialog.classes:
            self.apply(dialog.classes, adapt_model=dialog.adapt_model.isChecked())
        dialog.deleteLater()

    def apply(self, classes: Sequence[StudyClass], *, adapt_model: bool) -> None:
        """Change the classes of the study, and perhaps make a copy of the model for them."""
        if self.session is None:
            return
        self.tools.paint.edit_classes.setEnabled(False)
        self.task = run_task(
            "changing the classes",
            change_classes,
            self.session.study,
            tuple(classes),
            self.session.model if adapt_model else None,
            done=self._on_changed,
            failed=self._on_failed,
        )

    def _on_opened(self, editor: MaskEditor | None) -> None:
        self.tools.set_editor(editor)
        if editor is not None and self.session is not None:
            show_classes(editor.labels, self.session.study.info.classes)

    def _show_classes(self, session: StudySession) -> None:
        classes = session.study.info.classes
        self.tools.set_classes([entry.name for entry in classes])
        if session.editor is not None:
            show_classes(session.editor.labels, classes)

    def _on_changed(self, model: str) -> None:
        self._end()
        if model and self.session is not None:
            self.session.model_added.emit(model, True)
            show_info(f"“{model}” is used from now on. Fine-tune it to train the new classes.")

    def _on_failed(self, error: Exception) -> None:
        self._end()
        show_error(str(error))

    def _end(self) -> None:
        self.task = None
        self.tools.paint.edit_classes.setEnabled(True)
        if self.session is not None:
            self._show_classes(self.session)  # also after an error: the study may have them already


def show_classes(labels: Labels, classes: Sequence[StudyClass]) -> None:
    """Show an outline in the colors of its classes, and note their names in its metadata."""
    labels.metadata[CLASSES] = (BACKGROUND, *(entry.name for entry in classes))
    if len(classes) == 1:
        labels.colormap = outline_colors()  # the blue that is seen best on skin
    else:
        colors: dict[int | None, Any] = {place: entry.color for place, entry in enumerate(classes, start=1)}
        labels.colormap = DirectLabelColormap(color_dict={None: "white", 0: "transparent"} | colors)


def change_classes(study: Study, classes: Sequence[StudyClass], model: Model | None) -> str:
    """Set the classes of a study; return the name of a copy of the model that fits them, or an empty string.

    Runs in another thread.
    """
    study.set_classes(classes)
    if model is None or model.card.classes[1:] == tuple(entry.name for entry in classes):
        return ""
    return save_fitted_model(model, classes)


def save_fitted_model(model: Model, classes: Sequence[StudyClass]) -> str:
    """Save a copy of a model with an output for each class, and return its name in the model store."""
    from napari_lesionseg.models.checkpoint import checkpoint_bytes
    from napari_lesionseg.models.class_head import fit_classes
    from napari_lesionseg.models.store import ModelStore

    names = (model.card.classes[0], *(entry.name for entry in classes))
    network, card = fit_classes(model.network, model.card, names)
    count = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    name = f"{model.card.name.split(' for ')[0]} for {count}"
    card = card.model_copy(update={"name": name, "parent": model.sha256})
    return ModelStore().add(checkpoint_bytes(network, card), name).stem


class ClassesDialog(QDialog):
    """Name classes, choose their colors, add some, remove the last one."""

    def __init__(self, classes: Sequence[StudyClass], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Classes of the study")
        self.names: list[QLineEdit] = []
        self.colors: list[QPushButton] = []
        self.add = QPushButton("Add class")
        self.remove = QPushButton("Remove last class")
        self.adapt_model = QCheckBox("Adapt the model to these classes")
        self.problem = small(QLabel())
        standard = QDialogButtonBox.StandardButton
        self.buttons = QDialogButtonBox(standard.Ok | standard.Cancel)
        self._lay_out()
        for entry in classes:
            self._append(entry.name, entry.color)
        self._connect()
        self._update()

    @property
    def classes(self) -> tuple[StudyClass, ...]:
        """The classes as they were entered; only valid when `problem_text` is empty."""
        pairs = zip(self.names, self.colors, strict=True)
        return tuple(StudyClass(name=name.text().strip(), color=_color_of(button)) for name, button in pairs)

    @property
    def problem_text(self) -> str:
        """Why the classes cannot be saved; empty when they can."""
        names = [name.text().strip() for name in self.names]
        if not all(names):
            return "Give every class a name."
        if "background" in names:
            return "“background” is reserved. Choose another name."
        return "Two classes have the same name." if len(set(names)) < len(names) else ""

    def set_color(self, place: int, color: QColor) -> None:
        """Set the color of a class."""
        self.colors[place].setProperty("color", color.name())
        self.colors[place].setStyleSheet(f"background: {color.name()}; border: 1px solid gray;")

    def _lay_out(self) -> None:
        self.add.setToolTip("Add a class with the next number")
        self.remove.setToolTip("Remove the last class if no outline uses it")
        self.adapt_model.setChecked(True)
        self.adapt_model.setToolTip(
            "Make a copy of the model that has these classes. New classes are trained by fine-tuning. "
            "The old model stays in the list"
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
        column.addWidget(self.adapt_model)
        column.addWidget(self.problem)
        column.addWidget(self.buttons)

    def _connect(self) -> None:
        self.add.clicked.connect(self._on_add)
        self.remove.clicked.connect(self._on_remove)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)

    def _append(self, name: str, color: str) -> None:
        place = len(self.names)
        field, button = QLineEdit(name), QPushButton()
        field.setMaxLength(255)
        field.setPlaceholderText("Class name")
        field.textChanged.connect(self._update)
        button.setFixedSize(26, 22)
        button.setToolTip("Choose the outline color")
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
        self.add.setEnabled(len(self.names) < MAX_CLASSES)
        self.remove.setEnabled(len(self.names) > 1)
        self.problem.setText(self.problem_text)
        ok = self.buttons.button(QDialogButtonBox.StandardButton.Ok)
        if ok is not None:
            ok.setEnabled(not self.problem_text)


def _color_of(button: QPushButton) -> str:
    return str(button.property("color"))
