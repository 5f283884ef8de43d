"""The panel of the correction tools: it only connects buttons and keys with the table of tools."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.mouse import BRUSH_PIXELS, BRUSHES, EditMouse
from napari_lesionseg.plugin.editor.tools import SELECTABLE, TOOLS, MouseMode, Tool, ToolContext
from napari_lesionseg.plugin.shortcuts import REVIEW_KEYS, LayerKeys, key_of, set_tip
from napari_lesionseg.plugin.widgets.forms import MessageLabel, small, whole_number_box

if TYPE_CHECKING:
    from napari.components import ViewerModel

POOR = 0.8
"""Estimated quality of an outline below which a gesture is suggested.

On the validation sets, two thirds of the outlines below it have a Jaccard index under 0.75, and three
quarters of all outlines under 0.75 are below it.
"""

_NO_IMAGE = "Open an image first"
_NO_MODEL = "Choose a model first"
_BUTTONS = tuple(tool for tool in TOOLS if tool.button)


class CorrectPanel(QWidget):
    """Buttons and keys to correct one mask; `buttons` are found by the id of their tool."""

    def __init__(
        self, viewer: ViewerModel, editor: MaskEditor | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._context: ToolContext | None = None
        self._keys: list[LayerKeys] = []  # the tools work whichever layer is selected
        self._last_mode: MouseMode | None = None  # kept for the next image
        self._names: tuple[str, ...] = ("lesion",)
        self._suggested = False
        self.buttons = {tool.id: QPushButton(tool.button) for tool in _BUTTONS}
        self.paint = PaintRow()
        self.key_list = KeyList()
        self.status = MessageLabel()
        self._reminder = ""  # the part of the status that says which tool is still selected
        self._lay_out()
        self._connect()
        self.set_classes(self._names)
        self.set_editor(editor)

    @property
    def editor(self) -> MaskEditor | None:
        """The editor of the mask that is corrected."""
        return None if self._context is None else self._context.editor

    @property
    def mouse(self) -> EditMouse | None:
        """The mouse on that mask."""
        return None if self._context is None else self._context.mouse

    def set_editor(self, editor: MaskEditor | None) -> None:
        """Correct the mask of another image, or none."""
        self._detach()
        if editor is not None:
            context = self._context = ToolContext(editor, EditMouse(editor), len(self._names))
            context.mouse.brush.resize(self.paint.brush.value())
            handlers = {tool.id: self._handler(tool, tool.function) for tool in TOOLS}
            targets = (editor.labels, editor.image, editor.viewer)
            self._keys = [LayerKeys(target, handlers, self._update) for target in targets]
            context.mouse.changed.connect(self._update)
            context.mouse.brush.changed.connect(self._update)
            editor.changed.connect(self._on_changed)
            editor.busy.connect(self._on_busy)
            editor.failed.connect(self._on_failed)
            editor.noted.connect(self._on_noted)
            editor.undo_offered.connect(self._update)
            editor.labels.events.mode.connect(self._update)
            editor.labels.events.selected_label.connect(self._update)
            last = self._last_mode
            if last is not None and not _reason_against(
                "outline" if last.mode == "remove" else "model", context
            ):
                context.mouse.start(last.mode, last.positive)
        self._suggested = False
        self._reminder = _still_selected(self._context)
        self.status.setText(self._reminder)
        self._suggest()
        self._update()

    def set_classes(self, names: Sequence[str]) -> None:
        """Offer the classes to paint, without the background; a single one leaves no choice."""
        self._names = tuple(names)
        if self._context is not None:
            self._context.class_count = len(self._names)
        self.paint.set_classes(self._names)
        self._update()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setSpacing(4)
        for _, tools in groupby(sorted(_BUTTONS, key=attrgetter("row")), key=attrgetter("row")):
            line = QHBoxLayout()
            line.setSpacing(4)
            for tool in tools:
                button = self.buttons[tool.id]
                button.setCheckable(isinstance(tool.on_button, SELECTABLE))
                button.setMinimumWidth(40)
                # By the width of its words, which are cut off in large letters if shared by their number.
                line.addWidget(button, button.fontMetrics().horizontalAdvance(tool.button) + 12)
            column.addLayout(line)
        last = QHBoxLayout()
        last.addWidget(self.paint, 1)
        last.addWidget(self.key_list.button)
        column.addLayout(last)
        column.addWidget(self.key_list)
        column.addWidget(self.status)

    def _connect(self) -> None:
        for tool in _BUTTONS:
            handler = self._handler(tool, tool.on_button)
            self.buttons[tool.id].clicked.connect(partial(_without_arguments, handler))
        self.destroyed.connect(partial(_without_arguments, self._detach))

    def _handler(self, tool: Tool, function: Callable[[ToolContext], Any]) -> Callable[[], Any]:
        """Return what a key or button calls: the function, if the tool can be used now."""
        if inspect.isgeneratorfunction(function) and self._context is not None:
            context = self._context

            def hold() -> Iterator[None]:
                _select_outline(context)
                yield from function(context)

            return hold

        def use() -> None:
            reason = _reason_against(tool.needs, self._context)
            if self._context is not None and not reason:
                _select_outline(self._context)
                function(self._context)
            else:
                self.status.setText(reason)
            self._update()

        return use

    def _on_changed(self, kind: str) -> None:
        self.status.clear()
        if kind == "prediction":
            self._suggest()
        self._update()

    def _suggest(self) -> None:
        """Suggest a gesture, once for each image."""
        suggestion = "" if self._suggested or self._context is None else _suggestion(self._context)
        if suggestion:
            self._suggested = True
            self.status.setText(f"{self.status.text()} {suggestion}".strip())

    def _on_busy(self, busy: bool) -> None:
        if busy:
            self.status.setText("Outlining")
        elif self.status.text() == "Outlining":
            self.status.clear()
        self._update()

    def _on_noted(self, text: str) -> None:
        self._update()
        self.status.setText(text)

    def _on_failed(self, error: Exception) -> None:
        self.status.setText(str(error))
        self._update()

    def _update(self) -> None:
        """Update buttons, tooltips and the list of keys."""
        context = self._context
        for tool in _BUTTONS:
            reason = _reason_against(tool.needs, context)
            button = self.buttons[tool.id]
            button.setEnabled(not reason)
            set_tip(button, reason or tool.tooltip, tool.id)
            mode = tool.on_button
            if isinstance(mode, SELECTABLE):
                button.setChecked(context is not None and mode.is_selected(context))
        if self._reminder and self._reminder != _still_selected(context):
            self.status.setText(self.status.text().removeprefix(self._reminder).strip())
            self._reminder = ""
        self.paint.show_context(context)
        self.key_list.setText(_list_of_keys())

    def _detach(self) -> None:
        """Stop listening to the editor; touches no widget, which Qt may have deleted."""
        context, self._context = self._context, None
        if context is None:
            return
        editor, mouse = context.editor, context.mouse
        self._last_mode = None if mouse.mode == "off" else MouseMode(mouse.mode, mouse.positive)
        mouse.changed.disconnect(self._update)
        mouse.brush.changed.disconnect(self._update)
        mouse.close()
        for keys in self._keys:
            keys.close()
        self._keys = []
        editor.changed.disconnect(self._on_changed)
        editor.busy.disconnect(self._on_busy)
        editor.failed.disconnect(self._on_failed)
        editor.noted.disconnect(self._on_noted)
        editor.undo_offered.disconnect(self._update)
        editor.labels.events.mode.disconnect(self._update)
        editor.labels.events.selected_label.disconnect(self._update)


class PaintRow(QWidget):
    """What is painted with: the size of the brush and the class."""

    def __init__(self) -> None:
        super().__init__()
        self._context: ToolContext | None = None
        self.brush = whole_number_box()
        self.brush.setRange(BRUSHES[0], BRUSHES[-1])
        self.brush.setValue(BRUSH_PIXELS)
        self.brush.setSuffix(" px")
        self.caption = QLabel("Class")
        self.classes = QComboBox()
        self.edit_classes = QToolButton()
        self.edit_classes.setText("Classes\N{HORIZONTAL ELLIPSIS}")
        self.edit_classes.setToolTip("Add and rename the classes, and choose their colors")
        self.edit_classes.setVisible(False)  # only studies have classes
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Brush"))
        row.addWidget(self.brush)
        row.addWidget(self.caption)
        row.addWidget(self.classes, 1)
        row.addWidget(self.edit_classes)
        self.brush.valueChanged.connect(self._on_brush)
        self.classes.activated.connect(self._on_class)

    def set_classes(self, names: Sequence[str]) -> None:
        """Offer classes; a single one leaves no choice."""
        with QSignalBlocker(self.classes):
            self.classes.clear()
            self.classes.addItems(list(names))
        for widget in (self.classes, self.caption):
            widget.setVisible(len(names) > 1)

    def show_context(self, context: ToolContext | None) -> None:
        """Show what an outline is painted with."""
        self._context = context
        self.brush.setToolTip(
            f"Diameter of brush and eraser in pixels of the screen ({key_of('smaller_brush')} and "
            f"{key_of('bigger_brush')})"
        )
        self.classes.setEnabled(context is not None)
        set_tip(self.classes, "The class to paint" if context else _NO_IMAGE, "next_class")
        if context is not None:
            active = context.editor.document.active_class
            with QSignalBlocker(self.brush), QSignalBlocker(self.classes):
                self.brush.setValue(context.mouse.brush.pixels)
                self.classes.setCurrentIndex(min(active, self.classes.count()) - 1)

    def _on_brush(self, pixels: int) -> None:
        if self._context is not None:
            self._context.mouse.brush.resize(pixels)

    def _on_class(self, index: int) -> None:
        if self._context is not None:
            self._context.editor.labels.selected_label = index + 1


class KeyList(QLabel):
    """The keys of the tools, which a button shows and hides."""

    def __init__(self) -> None:
        super().__init__()
        small(self).setWordWrap(True)
        self.setVisible(False)
        self.button = QToolButton()
        self.button.setText("Keys")
        self.button.setCheckable(True)
        self.button.setToolTip("List the keys; change them in Preferences > LesionSeg > Keys")
        self.button.setArrowType(Qt.ArrowType.RightArrow)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.toggled.connect(self._on_toggled)

    def _on_toggled(self, shown: bool) -> None:
        self.setVisible(shown)
        self.button.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)


def _select_outline(context: ToolContext) -> None:
    """Make the outline the active layer, since napari's own tools work on that one."""
    editor = context.editor
    if editor.document.layer.usable:
        editor.viewer.layers.selection.active = editor.labels


def _reason_against(need: str, context: ToolContext | None) -> str:
    """Return why a tool cannot be used now; empty if it can."""
    if context is None:
        return _NO_IMAGE
    requests, document = context.editor.requests, context.editor.document
    no_model = requests.model is None
    can_undo = requests.can_undo or context.editor.undo_verdict is not None or bool(document.layer.drawing)
    no_prediction = document.snapshot.initial_prediction is None
    reasons = {
        "model": (no_model, _NO_MODEL),
        "outline": (not document.has_mask, "There is no outline yet"),
        "prediction": (no_model and no_prediction, _NO_MODEL),
        "undo": (not can_undo, "There is nothing to undo"),
        "redo": (not document.can_redo, "There is nothing to redo"),
    }
    missing, reason = reasons.get(need, (False, ""))
    return reason if missing else ""


def _still_selected(context: ToolContext | None) -> str:
    """Return that a tool stayed selected from the last image, and how to stop using it; empty if none did."""
    if context is None:
        return ""
    for tool in TOOLS:
        selected = tool.on_button
        if isinstance(selected, SELECTABLE) and selected.is_selected(context):
            return f"{tool.title} is still selected; press {key_of(tool.id)} to stop."
    return ""


def _suggestion(context: ToolContext) -> str:
    """Return the gesture that helps most if the outline is the model's own and may be poor; else nothing."""
    snapshot = context.editor.snapshot
    prediction = snapshot.initial_prediction
    corrected = snapshot.prediction is not prediction or snapshot.added or snapshot.manual_mask.any()
    if prediction is None or corrected or context.editor.requests.model is None:
        return ""
    if quality_estimate(prediction.low_resolution(), snapshot.threshold) >= POOR:
        return ""
    return f"Poor outline? Press {key_of('lasso')} and draw roughly around the lesion."


def _list_of_keys() -> str:
    """Return the keys of the tools and of the review as running text, which fits a panel of any width."""
    titles = {tool.id: tool.title for tool in TOOLS} | {name: name.capitalize() for name in REVIEW_KEYS}
    entries = (f"<b>{escape(key_of(name))}</b> {escape(title)}" for name, title in titles.items())
    return " &nbsp; ".join(entry.replace(" ", "&nbsp;") for entry in entries)


def _without_arguments(handler: Callable[[], Any], *_: Any) -> None:
    handler()
