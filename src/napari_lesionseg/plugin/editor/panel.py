"""The panel for correcting an outline: buttons for what the keys and the mouse can do. It only wires."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
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

from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.mouse import ClickTool, Mode
from napari_lesionseg.plugin.napari_layers.layers import show_as
from napari_lesionseg.plugin.shortcuts import OUTLINE_KEYS, LayerKeys, key_of, set_tip
from napari_lesionseg.plugin.widgets.postprocess_form import small

if TYPE_CHECKING:
    from napari.components import ViewerModel

_NO_IMAGE = "Open an image first"
_NO_MODEL = "Choose a model first"
_NO_OUTLINE = "Nothing is outlined yet"

_MODES = {"brush": "paint", "eraser": "erase", "fill": "fill", "polygon": "polygon"}
_TOOLS = {
    "smooth": "smooth",
    "snap to edges": "snap",
    "fill holes of the outline": "fill_holes",
    "largest part alone": "largest_part",
    "split": "split",
    "merge": "merge",
    "back to the model": "back_to_prediction",
    "no outline": "clear",
}
_ROWS: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (
        ("click: belongs", "+ click", "Click or draw on what belongs; the right button says the opposite"),
        ("click: does not belong", "\N{MINUS SIGN} click", "Click or draw on what does not belong"),
        ("look into a box", "Box", "Draw a box: the network looks there closely and adds what it finds"),
    ),
    (
        ("brush", "Brush", "Paint what belongs to the lesion"),
        ("eraser", "Eraser", "Wipe off what does not"),
        ("fill", "Fill", "Fill an area of one kind"),
        ("polygon", "Polygon", "Draw around an area, corner by corner; a double click ends it"),
    ),
    (
        ("smooth", "Smooth", "Round off the outline"),
        ("snap to edges", "Snap", "Move the outline to the edges of the image nearby"),
        ("fill holes of the outline", "Fill holes", "Close the holes inside the outline"),
        ("largest part alone", "Largest", "Keep the largest part alone"),
    ),
    (
        ("split", "Split", "Cut apart, at the narrow point, what are two lesions"),
        ("merge", "Merge", "Join to the largest part the one that lies nearest to it"),
        ("remove part under the mouse", "Remove", "Take a part away: click on it, or point at it and press"),
        ("no outline", "Clear", "Take the whole outline away"),
    ),
    (
        ("back to the model", "Back to the model", "Go back to the outline that the model drew by itself"),
        ("undo", "Undo", "Take the last step back, whatever it was"),
        ("redo", "Redo", "Bring the step back that was taken back last"),
    ),
)
_TAKEN = (
    "click: belongs",
    "click: does not belong",
    "look into a box",
    "remove part under the mouse",
    *_MODES,
)
_NEEDS_MODEL = frozenset({"click: belongs", "click: does not belong", "look into a box"})
_NEEDS_OUTLINE = frozenset(
    {"smooth", "snap to edges", "fill holes of the outline", "largest part alone", "split", "merge"}
    | {"remove part under the mouse", "no outline"}
)


class CorrectPanel(QWidget):
    """Buttons, and keys, for correcting one outline.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer that shows the outline.
    editor : OutlineEditor, optional
        What is corrected; see `set_editor`.

    Attributes
    ----------
    tool : ClickTool or None
        The mouse on the outline.
    buttons : dict of str to QPushButton
        By the action's name in `napari_lesionseg.plugin.shortcuts.OUTLINE_KEYS`.
    """

    def __init__(
        self, viewer: ViewerModel, editor: MaskEditor | None = None, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._editor: MaskEditor | None = None
        self.tool: ClickTool | None = None
        self._taken: tuple[Mode, bool] = "off", True
        self._keys: LayerKeys | None = None
        self._names: tuple[str, ...] = ("lesion",)
        self.buttons: dict[str, QPushButton] = {}
        self.classes = QComboBox()
        self.edit_classes = QToolButton()
        self.show_keys = QToolButton()
        self.key_list = small(QLabel())
        self.status = small(QLabel())
        self._handlers = self._make_handlers()
        self._lay_out()
        self._connect()
        self.set_classes(self._names)
        self.set_editor(editor)

    @property
    def editor(self) -> MaskEditor | None:
        """What is corrected."""
        return self._editor

    def set_editor(self, editor: MaskEditor | None) -> None:
        """Correct another image, or none."""
        self._let_go()
        self._editor = editor
        if editor is not None:
            self.tool = ClickTool(editor)
            self._keys = LayerKeys(editor.labels, self._handlers, self._update)
            self.tool.changed.connect(self._update)
            editor.changed.connect(self._on_changed)
            editor.busy.connect(self._on_busy)
            editor.failed.connect(self._on_failed)
            editor.labels.events.mode.connect(self._update)
            editor.labels.events.selected_label.connect(self._update)
            if self._taken[0] != "off" and not self._why_not_mode(self._taken[0]):
                self.tool.start(*self._taken)  # as in the image before
        self.status.clear()
        self._update()

    def set_classes(self, names: Sequence[str]) -> None:
        """Offer classes to paint, without the background; with one alone there is nothing to choose."""
        self._names = tuple(names)
        with QSignalBlocker(self.classes):
            self.classes.clear()
            self.classes.addItems(list(self._names))
        for widget in (self.classes, self._class_caption):
            widget.setVisible(len(self._names) > 1)
        self._update()

    def _make_handlers(self) -> dict[str, Callable[[], Any]]:
        modes = {action: partial(self._take_mode, mode) for action, mode in _MODES.items()}
        tools = {action: partial(self._apply, tool) for action, tool in _TOOLS.items()}
        return {
            **modes,
            **tools,
            "click: belongs": partial(self._take, "click", True),
            "click: does not belong": partial(self._take, "click", False),
            "look into a box": partial(self._take, "box", True),
            "take the last click back": self._take_click_back,
            "remove part under the mouse": self._remove_under_mouse,
            "next class": self._next_class,
            "hide while held": self._hide,
            "show filled while held": self._fill,
            "move the image while held": self._move_image,
            "undo": self._undo,
            "redo": self._redo,
        }

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setSpacing(4)
        for row in _ROWS:
            line = QHBoxLayout()
            line.setSpacing(4)
            for action, text, _ in row:
                button = QPushButton(text)
                button.setCheckable(action in _TAKEN)
                button.setMinimumWidth(40)
                self.buttons[action] = button
                line.addWidget(button, len(text) + 4)
            column.addLayout(line)
        self._class_caption = QLabel("Class")
        classes = QHBoxLayout()
        classes.addWidget(self._class_caption)
        classes.addWidget(self.classes, 1)
        self.edit_classes.setText("Classes\N{HORIZONTAL ELLIPSIS}")
        self.edit_classes.setToolTip("Name the classes of the outlines, choose their colors, add some")
        self.edit_classes.setVisible(False)  # they are those of a study
        classes.addWidget(self.edit_classes)
        self.show_keys.setText("Keys")
        self.show_keys.setCheckable(True)
        self.show_keys.setToolTip("List the keys; they can be changed in Preferences > LesionSeg > Keys")
        self.show_keys.setArrowType(Qt.ArrowType.RightArrow)
        self.show_keys.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        classes.addWidget(self.show_keys)
        column.addLayout(classes)
        self.key_list.setVisible(False)
        self.key_list.setWordWrap(True)
        self.status.setWordWrap(True)
        column.addWidget(self.key_list)
        column.addWidget(self.status)

    def _connect(self) -> None:
        for action, button in self.buttons.items():
            handler = self._handlers[action]
            if action == "remove part under the mouse":
                handler = partial(self._take, "remove", True)
            button.clicked.connect(partial(_without_arguments, handler))
        self.classes.activated.connect(self._on_class)
        self.show_keys.toggled.connect(self._on_show_keys)
        self.destroyed.connect(partial(_call_all, [self._let_go]))

    # What the keys and buttons do

    def _take(self, mode: Any, positive: bool) -> None:
        """Let the mouse do something, or nothing any more if it does so already."""
        if self.tool is None or self._editor is None or self._why_not_mode(mode):
            self._update()
            return
        self._viewer.layers.selection.active = self._editor.labels
        taken = self.tool.mode == mode and self.tool.positive == positive
        self.tool.start("off" if taken else mode, positive)

    def _take_mode(self, mode: str) -> None:
        """Take one of napari's own tools, or leave it."""
        if self._editor is None:
            return
        labels = self._editor.labels
        if self.tool is not None:
            self.tool.start("off")
        self._viewer.layers.selection.active = labels
        labels.mode = "pan_zoom" if str(labels.mode) == mode else mode
        self._update()

    def _apply(self, tool: str) -> None:
        if self._editor is not None:
            self._editor.apply_tool(tool)

    def _take_click_back(self) -> None:
        if self._editor is not None:
            self._editor.remove_last_click()

    def _remove_under_mouse(self) -> None:
        if self._editor is not None:
            row, col = self._editor.labels.world_to_data(self._viewer.cursor.position)[-2:]
            self._editor.apply_tool("remove_part", float(row), float(col))

    def _next_class(self) -> None:
        if self._editor is not None:
            self._editor.active_class = self._editor.active_class % len(self._names) + 1

    def _undo(self) -> None:
        if self._editor is not None:
            self._editor.undo()

    def _redo(self) -> None:
        if self._editor is not None:
            self._editor.redo()

    def _hide(self) -> Iterator[None]:
        if self._editor is not None:
            labels, opacity = self._editor.labels, self._editor.labels.opacity
            labels.opacity = 0  # a layer made invisible could not be drawn into afterwards
            yield
            labels.opacity = opacity

    def _fill(self) -> Iterator[None]:
        if self._editor is not None:
            labels = self._editor.labels
            contour, opacity = labels.contour, labels.opacity
            show_as(labels, filled=True)
            yield
            labels.contour, labels.opacity = contour, opacity

    def _move_image(self) -> Iterator[None]:
        if self._editor is None or self.tool is None:
            return
        tool, labels = self.tool, self._editor.labels
        mode = str(labels.mode)
        tool.panning = True
        labels.mode = "pan_zoom"
        yield
        tool.panning = False
        labels.mode = mode

    # What is shown

    def _on_class(self, index: int) -> None:
        if self._editor is not None:
            self._editor.active_class = index + 1

    def _on_show_keys(self, shown: bool) -> None:
        self.key_list.setVisible(shown)
        self.show_keys.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)

    def _on_changed(self, kind: str) -> None:
        self.status.clear()
        self._update()

    def _on_busy(self, busy: bool) -> None:
        if busy:
            self.status.setText("Outlining")
        elif self.status.text() == "Outlining":
            self.status.clear()
        self._update()

    def _on_failed(self, error: Exception) -> None:
        self.status.setText(str(error))
        self._update()

    def _why_not_mode(self, mode: str) -> str:
        action = {"click": "click: belongs", "box": "look into a box"}.get(
            mode, "remove part under the mouse"
        )
        return self._why_not(action)

    def _why_not(self, action: str) -> str:
        """Say why something cannot be done now; empty when it can."""
        editor = self._editor
        if editor is None:
            return _NO_IMAGE
        if action in _NEEDS_MODEL and editor.model is None:
            return _NO_MODEL
        if action in _NEEDS_OUTLINE and not editor.has_outline:
            return _NO_OUTLINE
        if action == "back to the model" and editor.model is None and not editor.has_prediction:
            return _NO_MODEL
        if action == "undo" and not editor.can_undo:
            return "There is nothing to take back"
        if action == "redo" and not editor.can_redo:
            return "There is nothing to bring back"
        return ""

    def _update(self) -> None:
        """Bring buttons, tooltips and the list of keys up to date."""
        for row in _ROWS:
            for action, _, tip in row:
                reason = self._why_not(action)
                button = self.buttons[action]
                button.setEnabled(not reason)
                set_tip(button, reason or tip, action)
                if action in _TAKEN:
                    button.setChecked(self._is_taken(action))
        self.classes.setEnabled(self._editor is not None)
        set_tip(self.classes, "The class that is painted next" if self._editor else _NO_IMAGE, "next class")
        if self._editor is not None:
            with QSignalBlocker(self.classes):
                self.classes.setCurrentIndex(min(self._editor.active_class, len(self._names)) - 1)
        self.key_list.setText(_list_of_keys())

    def _is_taken(self, action: str) -> bool:
        if self._editor is None or self.tool is None:
            return False
        if action in _MODES:
            return self.tool.mode == "off" and str(self._editor.labels.mode) == _MODES[action]
        mode = {"look into a box": "box", "remove part under the mouse": "remove"}.get(action, "click")
        if mode == "click" and self.tool.positive != (action == "click: belongs"):
            return False
        return self.tool.mode == mode

    def _let_go(self) -> None:
        """Stop listening to the editor; touches no widget, as Qt's side may be gone."""
        editor, self._editor = self._editor, None
        if editor is None:
            return
        if self.tool is not None:
            self._taken = self.tool.mode, self.tool.positive
            self.tool.changed.disconnect(self._update)
            self.tool.close()
        if self._keys is not None:
            self._keys.close()
        self.tool = self._keys = None
        editor.changed.disconnect(self._on_changed)
        editor.busy.disconnect(self._on_busy)
        editor.failed.disconnect(self._on_failed)
        editor.labels.events.mode.disconnect(self._update)
        editor.labels.events.selected_label.disconnect(self._update)


def _list_of_keys() -> str:
    """Write all keys of the outline as running text, which fits a panel of any width."""
    entries = (f"<b>{escape(key_of(action))}</b> {escape(action)}" for action in OUTLINE_KEYS)
    return " &nbsp; ".join(entry.replace(" ", "&nbsp;") for entry in entries)


def _without_arguments(handler: Callable[[], Any], *_: Any) -> None:
    handler()


def _call_all(callbacks: list[Callable[[], None]], *_: Any) -> None:
    for callback in callbacks:
        callback()
