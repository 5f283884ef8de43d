"""The dock widget *Single lesions*: a table of lesions, and buttons for what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.instances.actions import INSTANCE_KEYS, InstanceActions
from napari_lesionseg.plugin.instances.layer_links import class_names, is_outline, outline_of
from napari_lesionseg.plugin.instances.model import number_parts
from napari_lesionseg.plugin.layout import DockTabs
from napari_lesionseg.plugin.widgets.forms import MessageLabel, keep_narrow, when_gone
from napari_lesionseg.plugin.widgets.instance_table import Column, InstanceTable, number_column
from napari_lesionseg.plugin.widgets.layer_combo import LayerCombo

if TYPE_CHECKING:
    import napari.viewer

    from napari_lesionseg.plugin.tasks import Task

COLUMNS = (
    Column("Class", "Class of most of its pixels", lambda row: row.class_name),
    number_column("Area", "Number of pixels", "area"),
    number_column("Certainty", "Mean predicted probability of its pixels", "confidence", 2),
    Column("Center", "Row and column", lambda row: row.row, lambda row: f"{row.row:.0f}, {row.col:.0f}"),
    Column("Rows", "First and last row", lambda row: row.top, lambda row: _span(row.top, row.bottom)),
    Column("Columns", "First and last column", lambda row: row.left, lambda row: _span(row.left, row.right)),
)

ACTIONS = {
    "cut": ("Cut", "Cut a lesion in two: click once in each part, or draw a line across"),
    "cut at narrow point": ("Cut at narrow point", "Cut the selected lesion at its narrowest point"),
    "join": ("Join", "Join the selected lesions under the lowest number"),
    "delete": ("Delete", "Delete the selected lesions"),
    "undo": ("Undo", "Undo the last step on this layer"),
    "redo": ("Redo", "Redo the last undone step"),
}
"""Button and tooltip of each action."""

_KEYS = {**INSTANCE_KEYS, "undo": "Ctrl+Z", "redo": "Ctrl+Shift+Z"}
_NO_LAYER = "Open or draw an outline first."
_IS_OUTLINE = "The lesions of this outline have no numbers yet. Press Number the lesions."
_CUT_HELP = "Click once in each part, or draw a line across. Esc to stop."
_NUMBERING = "Numbering the lesions\N{HORIZONTAL ELLIPSIS}"


class NumberingBar(QWidget):
    """A button that numbers the parts of an outline in a new layer."""

    numbered = Signal(object)  # the new layer, or None
    failed = Signal(object)

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._outline: Labels | None = None
        self._task: Task[Any] | None = None
        self.button = QPushButton("Number the lesions")
        self.button.setToolTip("Number every connected part, in a new layer above the outline")
        self.narrow_point = QCheckBox("cut at narrow points")
        self.narrow_point.setToolTip("Also separate lesions that touch, where they are narrow")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.button, 1)
        row.addWidget(self.narrow_point)
        self.button.clicked.connect(self._on_clicked)

    @property
    def is_running(self) -> bool:
        """Whether lesions are being numbered."""
        return self._task is not None

    def set_outline(self, outline: Labels | None) -> None:
        """Choose the outline whose lesions are numbered, or none."""
        self.close_task()
        self._outline = outline
        self.button.setEnabled(outline is not None)

    def close_task(self) -> None:
        """Discard what is being computed; touches no widget, as Qt's side may be gone."""
        if self._task is not None:
            self._task.close()
            self._task = None

    def _on_clicked(self) -> None:
        if self._outline is None or self._task is not None:
            return
        self.button.setEnabled(False)
        try:
            self._task = number_parts(
                self._viewer,
                self._outline,
                at_narrow_points=self.narrow_point.isChecked(),
                done=self._on_done,
                failed=self._on_failed,
            )
        except LesionSegError as error:
            self._on_failed(error)

    def _on_done(self, labels: Labels | None) -> None:
        self._task = None
        self.button.setEnabled(True)
        self.numbered.emit(labels)

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.button.setEnabled(True)
        self.failed.emit(error)


class InstancesPanel(QWidget):
    """List the lesions of a Labels layer; cut, join, renumber and delete them.

    Works on any Labels layer in which each lesion has its own number. The parts of an outline, which holds
    classes, are numbered in a new layer first.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        DockTabs(self)
        DockFocus(self)
        self._viewer = napari_viewer
        self.current: InstanceActions | None = None  # None while no layer of lesions is chosen
        self._awaited: tuple[int, ...] = ()  # what to select once an edit is listed
        self._selecting = False
        self.layers = LayerCombo(napari_viewer, Labels, "no outline is open")
        self.numbering = NumberingBar(napari_viewer)
        self.follow = QPushButton("Update from outline")
        self.table = InstanceTable(COLUMNS)
        self.classes = QComboBox()
        self.buttons = {action: QPushButton(text) for action, (text, _) in ACTIONS.items()}
        self.status = MessageLabel()
        self._lay_out()
        self._connect()
        self._on_layer()

    def _lay_out(self) -> None:
        self.follow.setToolTip("Update the lesions from their outline; numbers and cuts are kept")
        self.table.setToolTip(
            "Select a row to see its lesion, or click a lesion. "
            "Double-click a row to center its lesion; click a selected number again to change it"
        )
        self.classes.setToolTip("Class of the selected lesions; also changed in their outline")
        keep_narrow(self.classes)
        self.buttons["cut"].setCheckable(True)
        top = QHBoxLayout()
        top.addWidget(QLabel("Lesions of"))
        top.addWidget(self.layers.native, 1)
        self._class_row = QWidget()
        classes = QHBoxLayout(self._class_row)
        classes.setContentsMargins(0, 0, 0, 0)
        classes.addWidget(QLabel("Class"))
        classes.addWidget(self.classes, 1)
        actions = QGridLayout()
        actions.setSpacing(4)
        for place, button in enumerate(self.buttons.values()):
            actions.addWidget(button, place // 4, place % 4)
        column = QVBoxLayout(self)
        column.setSpacing(4)
        column.addLayout(top)
        self._numbering_row = QStackedWidget()  # one row, so that the table does not move when a button goes
        for widget in (self.numbering, self.follow, QWidget()):
            self._numbering_row.addWidget(widget)
        self._numbering_row.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        column.addWidget(self._numbering_row)
        column.addWidget(self.table, 1)
        column.addWidget(self._class_row)
        column.addLayout(actions)
        column.addWidget(self.status)

    def _connect(self) -> None:
        self.layers.changed.connect(self._on_layer)
        self.numbering.numbered.connect(self._on_numbered)
        self.numbering.failed.connect(self._on_failed)
        self.numbering.button.clicked.connect(self._update)
        self.table.chosen.connect(self._on_chosen)
        self.table.double_clicked.connect(self.go_to)
        self.follow.clicked.connect(self._when_open(lambda actions, *_: actions.editor.follow_outline()))
        self.table.lesions.renumbered.connect(
            self._when_open(lambda actions, old, new: actions.editor.renumber(old, new))
        )
        self.classes.activated.connect(
            self._when_open(lambda actions, index: actions.editor.set_class(actions.selected, index + 1))
        )
        for action, button in self.buttons.items():
            button.clicked.connect(self._when_open(lambda actions, *_, action=action: actions.run(action)))
        for key, action in (
            (QKeySequence.StandardKey.Delete, "delete"),
            (QKeySequence.StandardKey.Undo, "undo"),
            (QKeySequence.StandardKey.Redo, "redo"),
        ):
            shortcut = QShortcut(QKeySequence(key), self.table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(self._when_open(lambda actions, action=action: actions.run(action)))
        escape = QShortcut(QKeySequence(Qt.Key.Key_Escape), self)
        escape.activated.connect(self._when_open(lambda actions: actions.tool.stop()))
        when_gone(self, self._close_layer, self.numbering.close_task, self.layers.disconnect_viewer)

    def _when_open(self, function: Callable[..., None]) -> Callable[..., None]:
        """Return a slot that calls a function of the actions while a layer of lesions is chosen.

        PyQt calls a slot of any arguments with whether a button is checked, PySide without.
        """

        def slot(*arguments: Any) -> None:
            if self.current is not None:
                function(self.current, *arguments)

        return slot

    def _on_layer(self) -> None:
        self._close_layer()
        layer = self.layers.layer
        self.table.show_rows((), None)
        self.numbering.set_outline(layer)
        if layer is not None and not is_outline(layer, self._viewer):
            self.current = actions = InstanceActions(self._viewer, layer)
            actions.changed.connect(self._update)
            actions.message.connect(lambda text: self.status.setText(text))
            actions.model.changed.connect(self._on_rows)
            actions.editor.edited.connect(self._on_edited)
            actions.model.failed.connect(self._on_failed)
            actions.editor.failed.connect(self._on_failed)
            actions.tool.picked.connect(self._on_picked)
            layer.events.selected_label.connect(self._on_selected_label)
        self._update()

    def _close_layer(self) -> None:
        """Stop following a layer; touches no widget, as Qt's side may be gone."""
        actions, self.current = self.current, None
        if actions is not None:
            actions.labels.events.selected_label.disconnect(self._on_selected_label)
            actions.close()

    def _on_numbered(self, labels: Labels | None) -> None:
        if labels is not None:
            self._viewer.layers.selection.active = labels
            self.layers.choose(labels)
        self._update()

    def go_to(self, number: int) -> None:
        """Center the view on a lesion."""
        model = None if self.current is None else self.current.model
        row = None if model is None else model.row_of(number)
        if model is not None and row is not None:
            center = model.labels.data_to_world((*model.frame, row.row, row.col))
            self._viewer.scene.camera.center = (0, *center[-2:])

    def _on_rows(self) -> None:
        if self.current is not None:
            self.table.show_rows(self.current.model.rows, self.current.labels)
            if self._awaited:
                self.table.select(self._awaited)
                self._awaited = ()
            self._on_chosen()

    def _on_edited(self, numbers: tuple[int, ...]) -> None:
        self._awaited = numbers

    def _on_failed(self, error: Exception) -> None:
        self._update()
        self.status.setText(str(error))
        if not isinstance(error, LesionSegError):
            show_error(str(error))

    def _on_chosen(self) -> None:
        """Show in the image what is selected in the table."""
        selected = self.table.selected
        if self.current is not None:
            self.current.select(selected)
            if selected:
                self._selecting = True
                self.current.labels.selected_label = selected[0]
                self._selecting = False
        self._update()

    def _on_picked(self, row: float, col: float, more: bool) -> None:
        """Select in the table the lesion that was clicked in the image."""
        found = 0 if self.current is None else self.current.model.number_at(row, col)
        if found:
            kept = set(self.table.selected) if more else set()
            self.table.select(kept ^ {found})
            self._on_chosen()

    def _on_selected_label(self) -> None:
        if self.current is not None and not self._selecting:
            self.table.select([self.current.labels.selected_label])
            self._on_chosen()

    def _update(self) -> None:
        """Update buttons, tooltips and the status line."""
        actions = self.current
        linked = actions is not None and outline_of(actions.labels, self._viewer) is not None
        out_of_date = actions is not None and not actions.model.in_sync
        self._numbering_row.setCurrentIndex(0 if not linked else 1 if out_of_date else 2)
        self.table.lesions.editable = actions is not None and not actions.editor.why_not
        self.buttons["cut"].setChecked(actions is not None and actions.tool.cutting)
        no_lesions = "Number the lesions first" if self.layers.layer is not None else "Open an outline first"
        for action, button in self.buttons.items():
            reason = no_lesions if actions is None else actions.why_not(action)
            button.setEnabled(not reason)
            button.setToolTip(f"{reason or ACTIONS[action][1]} ({_KEYS[action]})")
        names = class_names(actions.labels, self._viewer)[1:] if actions is not None and linked else ()
        self._class_row.setVisible(len(names) > 1)
        _show_class(self.classes, names, actions)
        self.status.setText(_IS_OUTLINE if actions is None else _summary(actions))
        if self.layers.layer is None:
            self.status.setText(_NO_LAYER)
        elif self.numbering.is_running:
            self.status.setText(_NUMBERING)


def _show_class(box: QComboBox, names: tuple[str, ...], actions: InstanceActions | None) -> None:
    """List the classes, and choose that of the selected lesions if they share one."""
    selected = () if actions is None else actions.selected
    rows = [] if actions is None else [actions.model.row_of(number) for number in selected]
    classes = {row.class_index for row in rows if row is not None}
    box.clear()  # `activated`, unlike `currentIndexChanged`, is for the user's choices only
    box.addItems(names)
    box.setCurrentIndex(classes.pop() - 1 if len(classes) == 1 else -1)
    box.setEnabled(bool(selected))


def _summary(actions: InstanceActions) -> str:
    if actions.tool.cutting:
        return _CUT_HELP
    rows, selected = actions.model.rows, len(actions.selected)
    if actions.is_busy and not rows:
        return "Listing the lesions\N{HORIZONTAL ELLIPSIS}"
    lesions = "1 lesion" if len(rows) == 1 else f"{len(rows) or 'No'} lesions"
    return f"{lesions}, {selected} selected." if selected else f"{lesions}."


def _span(first: int, end: int) -> str:
    return f"{first}\N{EN DASH}{end - 1}"
