"""The dock widget for single lesions: a table of them, and what can be done to them. It only wires."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from napari.utils.notifications import show_error
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.instances.model import InstanceModel, Numbering
from napari_lesionseg.plugin.instances.mouse import CutTool, longest_inside
from napari_lesionseg.plugin.napari_layers.links import class_names, is_outline, outline_of
from napari_lesionseg.plugin.napari_layers.overlays import InstanceOverlay, add_overlay, remove_overlay
from napari_lesionseg.plugin.widgets.forms import keep_narrow, status_line, when_gone
from napari_lesionseg.plugin.widgets.instance_table import Column, InstanceTable, figure
from napari_lesionseg.plugin.widgets.layer_combo import LayerCombo
from napari_lesionseg.types import Box

if TYPE_CHECKING:
    import napari.viewer

    from napari_lesionseg.masks.instances import Instance

COLUMNS = (
    Column("Class", "Class of most of its pixels", lambda row: row.class_name),
    figure("Area", "Pixels", "area"),
    figure("Sure", "Mean probability that the network gave its pixels", "confidence", 2),
    Column("Center", "Row and column", lambda row: row.row, lambda row: f"{row.row:.0f}, {row.col:.0f}"),
    Column("Rows", "Where it begins and ends", lambda row: row.top, lambda row: _span(row.top, row.bottom)),
    Column(
        "Columns", "Where it begins and ends", lambda row: row.left, lambda row: _span(row.left, row.right)
    ),
)

INSTANCE_KEYS = {"cut": "K", "cut at the narrow point": "Shift+K", "join": "U", "delete": "D"}
"""Keys on the layer of the lesions while it is the active one."""

_NO_LAYER = "Open or draw an outline first."
_IS_OUTLINE = "This outline does not tell lesions apart yet: number them."
_CUT_HELP = "Click once in each part, or draw a line across. Esc ends."


class InstancesPanel(QWidget):
    """See the lesions of a Labels layer one by one; cut, join, renumber and delete them.

    Works on any Labels layer in which every lesion has a number of its own. The parts of an outline, which
    holds classes, are given numbers in a new layer first.

    Parameters
    ----------
    napari_viewer : napari.viewer.Viewer
        The viewer.

    Attributes
    ----------
    lesions : InstanceModel or None
        What is listed.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.lesions: InstanceModel | None = None
        self.tool: CutTool | None = None
        self._overlay: InstanceOverlay | None = None
        self._awaited: tuple[int, ...] = ()
        self._telling = False
        self._numbering: Numbering | None = None
        self.layers = LayerCombo(napari_viewer, Labels, "no outline is open")
        self.number = QPushButton("Number the lesions")
        self.narrow_point = QCheckBox("cut at narrow points")
        self.follow = QPushButton("Take over the outline's corrections")
        self.table = InstanceTable(COLUMNS)
        self.kind = QComboBox()
        self.buttons = {
            "cut": QPushButton("Cut"),
            "cut at the narrow point": QPushButton("At the narrow point"),
            "join": QPushButton("Join"),
            "delete": QPushButton("Delete"),
            "undo": QPushButton("Undo"),
            "redo": QPushButton("Redo"),
        }
        self.status = status_line()
        self._describe()
        self._lay_out()
        self._connect()
        self._on_layer()

    # ------------------------------------------------------------------------------------- building

    def _describe(self) -> None:
        self.number.setToolTip("Give every connected part a number, in a new layer above the outline")
        self.narrow_point.setToolTip("Also tell lesions apart that touch each other, where they are narrow")
        self.follow.setToolTip("Bring the lesions up to date with their outline; numbers and cuts stay")
        self.table.setToolTip(
            "Select a row to see its lesion, or click on a lesion. A double click goes there; "
            "a number can be typed over (F2)"
        )
        self.kind.setToolTip("Class of the selected lesions; written into their outline")
        keep_narrow(self.kind)
        self.buttons["cut"].setCheckable(True)

    def _lay_out(self) -> None:
        top = QHBoxLayout()
        top.addWidget(QLabel("Lesions of"))
        top.addWidget(self.layers.native, 1)
        start = QHBoxLayout()
        start.addWidget(self.number, 1)
        start.addWidget(self.narrow_point)
        kinds = QHBoxLayout()
        self._kind_caption = QLabel("Class")
        kinds.addWidget(self._kind_caption)
        kinds.addWidget(self.kind, 1)
        actions = QGridLayout()
        actions.setSpacing(4)
        for place, button in enumerate(self.buttons.values()):
            actions.addWidget(button, place // 4, place % 4)
        column = QVBoxLayout(self)
        column.setSpacing(4)
        for part in (top, start):
            column.addLayout(part)
        column.addWidget(self.follow)
        column.addWidget(self.table, 1)
        column.addLayout(kinds)
        column.addLayout(actions)
        column.addWidget(self.status)

    def _connect(self) -> None:
        self.layers.changed.connect(self._on_layer)
        self.number.clicked.connect(self._on_number)
        self.follow.clicked.connect(self._on_follow)
        self.table.chosen.connect(self._on_chosen)
        self.table.wanted.connect(self.go_to)
        self.table.lesions.renumbered.connect(self._on_renumbered)
        self.kind.activated.connect(self._on_kind)
        for action, button in self.buttons.items():
            button.clicked.connect(partial(_plainly, self._handlers()[action]))
        for key, action in (
            (QKeySequence.StandardKey.Delete, "delete"),
            (QKeySequence.StandardKey.Undo, "undo"),
            (QKeySequence.StandardKey.Redo, "redo"),
        ):
            shortcut = QShortcut(QKeySequence(key), self.table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(self._handlers()[action])
        QShortcut(QKeySequence(Qt.Key.Key_Escape), self).activated.connect(self._stop_cutting)
        when_gone(self, self._let_go, self.layers.disconnect_viewer)

    def _handlers(self) -> dict[str, Callable[[], None]]:
        return {
            "cut": self._on_cut,
            "cut at the narrow point": self._on_narrow_point,
            "join": self._on_join,
            "delete": self._on_delete,
            "undo": self._on_undo,
            "redo": self._on_redo,
        }

    # ---------------------------------------------------------------------------------- the layer

    def _on_layer(self) -> None:
        """List the lesions of another layer."""
        self._let_go()
        layer = self.layers.layer
        self.table.show_rows((), None)
        if layer is not None and not is_outline(layer, self._viewer):
            self._take(layer)
        self._update()

    def _take(self, layer: Labels) -> None:
        self.lesions = InstanceModel(self._viewer, layer)
        self.lesions.changed.connect(self._on_rows)
        self.lesions.edited.connect(self._on_edited)
        self.lesions.busy.connect(self._on_busy)
        self.lesions.failed.connect(self._on_failed)
        layer.events.selected_label.connect(self._on_selected_label)
        self._overlay = add_overlay(layer, InstanceOverlay)
        self.tool = CutTool(layer)
        self.tool.picked.connect(self._on_picked)
        self.tool.lined.connect(self._on_lined)
        self.tool.seeded.connect(self._on_seeded)
        self.tool.drawn.connect(self._overlay.show_path)
        self.tool.changed.connect(self._update)
        for action, key in INSTANCE_KEYS.items():
            layer.bind_key(key, partial(_plainly, self._handlers()[action]), overwrite=True)
        layer.bind_key("Escape", partial(_plainly, self._stop_cutting), overwrite=True)

    def _on_number(self) -> None:
        layer = self.layers.layer
        if layer is None:
            return
        self._say("Numbering the lesions\N{HORIZONTAL ELLIPSIS}")
        self.number.setEnabled(False)
        try:
            self._numbering = Numbering(
                self._viewer,
                layer,
                self.narrow_point.isChecked(),
                done=self._on_numbered,
                failed=self._on_not_numbered,
            )
        except LesionSegError as error:
            self._on_not_numbered(error)

    def _on_numbered(self, layer: Labels) -> None:
        self._numbering = None
        self._say("")
        self._viewer.layers.selection.active = layer
        self.layers.choose(layer)
        self._update()

    def _on_not_numbered(self, error: Exception) -> None:
        self._numbering = None
        self._on_failed(error)

    def _on_follow(self) -> None:
        if self.lesions is not None:
            self.lesions.follow()

    def _let_go(self) -> None:
        """Stop listening to a layer; touches no widget, as Qt's side may be gone."""
        if self._numbering is not None:
            self._numbering.drop()
        lesions, tool, overlay = self.lesions, self.tool, self._overlay
        self.lesions = self.tool = self._overlay = self._numbering = None
        if lesions is None or tool is None or overlay is None:
            return
        lesions.labels.events.selected_label.disconnect(self._on_selected_label)
        for signal in (lesions.changed, lesions.edited, lesions.busy, lesions.failed):
            signal.disconnect()
        for signal in (tool.picked, tool.lined, tool.seeded, tool.drawn, tool.changed):
            signal.disconnect()
        lesions.close()
        tool.close()
        remove_overlay(lesions.labels, overlay)
        for key in (*INSTANCE_KEYS.values(), "Escape"):
            lesions.labels.bind_key(key, None, overwrite=True)

    # -------------------------------------------------------------------------------- what is done

    def _on_cut(self) -> None:
        if self.tool is None or self.lesions is None:
            return
        self._viewer.layers.selection.active = self.lesions.labels
        if self.tool.cutting:
            self.tool.stop()
        else:
            self.tool.start()

    def _stop_cutting(self) -> None:
        if self.tool is not None:
            self.tool.stop()

    def _on_lined(self, path: list[tuple[float, float]]) -> None:
        if self.lesions is None:
            return
        target = longest_inside(path, self.lesions.number_at)
        if target:
            self.lesions.cut_by_line(target, path)
        else:
            self._say("The line crosses no lesion; draw it from border to border of one.")
        if self._overlay is not None:
            self._overlay.show_path(())

    def _on_seeded(self, seeds: list[tuple[float, float]]) -> None:
        if self.lesions is None:
            return
        found = {self.lesions.number_at(*seed) for seed in seeds}
        if len(found) == 1 and 0 not in found:
            self.lesions.cut_by_seeds(found.pop(), seeds)
        else:
            self._say("Set both clicks inside one lesion, one in each part.")

    def _on_narrow_point(self) -> None:
        if self.lesions is not None and len(self.table.selected) == 1:
            self.lesions.cut_at_narrow_point(self.table.selected[0])

    def _on_join(self) -> None:
        if self.lesions is not None and len(self.table.selected) > 1:
            self.lesions.merge(self.table.selected)

    def _on_delete(self) -> None:
        if self.lesions is not None and self.table.selected:
            self.lesions.delete(self.table.selected)

    def _on_renumbered(self, old: int, new: int) -> None:
        if self.lesions is not None:
            self.lesions.renumber(old, new)

    def _on_kind(self, place: int) -> None:
        if self.lesions is not None:
            self.lesions.set_class(self.table.selected, place + 1)

    def _on_undo(self) -> None:
        if self.lesions is not None:
            self.lesions.labels.undo()

    def _on_redo(self) -> None:
        if self.lesions is not None:
            self.lesions.labels.redo()

    def go_to(self, index: int) -> None:
        """Bring a lesion into view."""
        row = None if self.lesions is None else self.lesions.row_of(index)
        if row is None or self.lesions is None:
            return
        place = self.lesions.labels.data_to_world((*self.lesions.frame, row.row, row.col))
        self._viewer.scene.camera.center = (0, *place[-2:])

    # -------------------------------------------------------------------------------- what is shown

    def _on_rows(self) -> None:
        if self.lesions is not None:
            self.table.show_rows(self.lesions.rows, self.lesions.labels)
            if self._awaited:
                self.table.select(self._awaited)
                self._awaited = ()
            self._on_chosen()

    def _on_edited(self, numbers: tuple[int, ...]) -> None:
        self._awaited = numbers

    def _on_busy(self, busy: bool) -> None:
        self._update()

    def _on_failed(self, error: Exception) -> None:
        self._update()
        self._say(str(error))
        if not isinstance(error, LesionSegError):
            show_error(str(error))

    def _on_chosen(self) -> None:
        """Show in the image what was selected in the table."""
        selected = self.table.selected
        if self.lesions is not None and selected:
            self._telling = True
            self.lesions.labels.selected_label = selected[0]
            self._telling = False
        self._show_boxes()
        self._update()

    def _on_picked(self, row: float, col: float, more: bool) -> None:
        """Select in the table what was clicked on in the image."""
        found = self.lesions.number_at(row, col) if self.lesions is not None else 0
        if found:
            kept = set(self.table.selected) if more else set()
            self._select(kept ^ {found})

    def _on_selected_label(self) -> None:
        if self.lesions is not None and not self._telling:
            self._select([self.lesions.labels.selected_label])

    def _select(self, numbers: Any) -> None:
        self.table.select(numbers)
        self._on_chosen()

    def _show_boxes(self) -> None:
        if self._overlay is None or self.lesions is None:
            return
        rows = [row for index in self.table.selected if (row := self.lesions.row_of(index)) is not None]
        self._overlay.show_boxes(Box(row.top, row.left, row.bottom, row.right) for row in rows)

    def _say(self, text: str) -> None:
        self.status.setText(text)

    def _update(self) -> None:
        """Bring buttons, tooltips and the status line up to date."""
        layer, lesions = self.layers.layer, self.lesions
        self.number.setEnabled(layer is not None and self._numbering is None)
        self.number.setVisible(lesions is None or outline_of(lesions.labels, self._viewer) is None)
        self.narrow_point.setVisible(self.number.isVisibleTo(self))
        self.follow.setVisible(lesions is not None and not lesions.follows)
        self.table.lesions.editable = lesions is not None and not lesions.why_not_edit
        self.buttons["cut"].setChecked(self.tool is not None and self.tool.cutting)
        for action, button in self.buttons.items():
            reason = self._why_not(action)
            button.setEnabled(not reason)
            key = INSTANCE_KEYS.get(action) or {"undo": "Ctrl+Z", "redo": "Ctrl+Shift+Z"}[action]
            button.setToolTip(f"{reason or _TIPS[action]} ({key})")
        self._update_kinds()
        self._say(self._summary())

    def _update_kinds(self) -> None:
        lesions = self.lesions
        linked = lesions is not None and outline_of(lesions.labels, self._viewer) is not None
        names = class_names(lesions.labels, self._viewer)[1:] if lesions is not None and linked else ()
        for widget in (self.kind, self._kind_caption):
            widget.setVisible(len(names) > 1)
        self.kind.setEnabled(bool(self.table.selected))
        with QSignalBlocker(self.kind):
            self.kind.clear()
            self.kind.addItems(names)
            rows = [lesions.row_of(index) for index in self.table.selected] if lesions is not None else []
            kinds = {row.class_index for row in rows if row is not None}
            self.kind.setCurrentIndex(kinds.pop() - 1 if len(kinds) == 1 else -1)

    def _summary(self) -> str:
        if self._numbering is not None:
            return "Numbering the lesions\N{HORIZONTAL ELLIPSIS}"
        if self.layers.layer is None:
            return _NO_LAYER
        if self.lesions is None:
            return _IS_OUTLINE
        if self.tool is not None and self.tool.cutting:
            return _CUT_HELP
        if self.lesions.is_busy and not self.lesions.rows:
            return "Looking for lesions\N{HORIZONTAL ELLIPSIS}"
        return _count(self.lesions.rows, len(self.table.selected))

    def _why_not(self, action: str) -> str:
        """Say why something cannot be done now; empty when it can."""
        if self.lesions is None:
            return "Number the lesions first" if self.layers.layer is not None else "Open an outline first"
        if self.lesions.why_not_edit:
            return self.lesions.why_not_edit
        if not self.lesions.rows and action not in {"undo", "redo"}:
            return "There are no lesions"
        chosen = len(self.table.selected)
        if action == "join" and chosen < 2:
            return "Select two lesions or more, with Ctrl or Shift held"
        if action == "cut at the narrow point" and chosen != 1:
            return "Select one lesion first"
        return "Select a lesion first" if action == "delete" and not chosen else ""


_TIPS = {
    "cut": "Cut a lesion in two: click once in each part, or draw a line across",
    "cut at the narrow point": "Cut the selected lesion where it is narrow",
    "join": "Make the selected lesions one, under the lowest number",
    "delete": "Take the selected lesions away",
    "undo": "Take back the last step on this layer",
    "redo": "Bring back the step that was taken back last",
}


def _span(first: int, end: int) -> str:
    return f"{first}\N{EN DASH}{end - 1}"


def _count(rows: tuple[Instance, ...], chosen: int) -> str:
    lesions = "1 lesion" if len(rows) == 1 else f"{len(rows) or 'No'} lesions"
    return f"{lesions}, {chosen} selected." if chosen else f"{lesions}."


def _plainly(handler: Callable[[], None], *_: Any) -> None:
    handler()
