"""All keys, and how a key is bound to what it does.

Keys of widgets work in the whole window while the widget is visible. Keys of the correction tools, most of
them single letters, work while their layer is active, as napari's own do; napari keeps digits, B, E, F, L, M,
P, V, X and Z. Alt with C, S, T or the letter of a menu belongs to napari's menus.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from app_model.types import KeyCode
from napari.components import ViewerModel
from napari.layers import Layer
from napari.settings import get_plugin_settings
from napari.utils.key_bindings import coerce_keybinding
from napari.utils.shortcuts import default_shortcuts
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject
from qtpy.QtGui import QInputEvent, QKeySequence, QMouseEvent, QShortcut
from qtpy.QtWidgets import QAbstractButton, QWidget

from napari_lesionseg.plugin.editor.tools import TOOLS
from napari_lesionseg.plugin.layout import FOLD_KEY, outermost
from napari_lesionseg.plugin.qt_events import as_key, as_mouse

WIDGET_KEYS: Mapping[str, str] = {
    "image": "Alt+B",
    "model": "Alt+M",
    "device": "Alt+D",
    "threshold": "Alt+R",
    "own threshold": "Alt+E",
    "smallest part": "Alt+A",
    "fill holes": "Alt+O",
    "largest part": "Alt+G",
    "show outline": "Alt+U",
    "show filled": "Alt+I",
    "segment": "Ctrl+Return",
    "cancel": "Ctrl+.",
}
"""Keys of the widgets; they cannot be changed."""

TOOL_KEYS: Mapping[str, str] = {tool.id: tool.key for tool in TOOLS}
"""Default keys of the correction tools; the preferences can change them."""

REVIEW_KEYS: Mapping[str, str] = {
    "back": "Q",
    "approve": "W",
    "no lesion": "F3",
    "flag": "F4",
    "reopen": "F2",
    "fields": "F6",
    "previous": "F7",
    "next": "F8",
    "next unreviewed": "Shift+F8",
}
"""Default keys of the review of a study; the preferences can change them."""

REVIEW_TIPS: Mapping[str, str] = {
    "back": "Go back to the image that was shown before",
    "approve": "Approve the outline, and go to the next unreviewed image",
    "no lesion": "Mark that the image shows no lesion, and go to the next unreviewed image",
    "flag": "Set the image aside with a note, and go to the next unreviewed image",
    "reopen": "Withdraw the decision about the image",
    "fields": "Fill in the fields of the image",
    "previous": "Go to the previous image of the list, without a decision",
    "next": "Go to the next image of the list, without a decision",
    "next unreviewed": "Go to the next unreviewed image, without a decision",
}

LANDMARK_KEYS: Mapping[str, str] = {
    "undo landmark": "Ctrl+Z",
    "redo landmark": "Ctrl+Shift+Z",
    "occluded": "H",
    "next person": "N",
    "next landmark": ".",
    "previous landmark": ",",
}
"""Keys of the landmarks of an image; they cannot be changed."""

LANDMARK_TIPS: Mapping[str, str] = {
    "undo landmark": "Undo the last change of the landmarks",
    "redo landmark": "Redo what was undone",
    "occluded": "Mark the selected landmarks, or else the last one, as hidden or as visible",
    "next person": "Mark another person in the same image",
    "next landmark": "Skip to the next landmark; a click on one that is marked moves it",
    "previous landmark": "Go back to the landmark before",
}

WINDOW_KEYS: Mapping[str, tuple[str, str]] = {
    "layer list": (FOLD_KEY, "Show or fold away napari's layer list and controls, in LesionSeg's own window"),
    "dock focus": ("Tab", "Go to the next button or field; Enter or Esc leads back to the image"),
}
"""Keys of the window that cannot be changed, and what they do."""

NAPARI_ACTIONS: Mapping[str, str] = {
    "reset_view": "Show the whole image",
    "complete_polygon": "Finish the polygon",
    "reset_polygon": "Discard the polygon",
    "toggle_selected_visibility": "Hide and show the selected layer",
    "activate_labels_erase_mode": "Erase",
    "activate_labels_paint_mode": "Paint",
    "activate_labels_polygon_mode": "Draw a polygon",
    "activate_labels_fill_mode": "Fill a connected area",
    "activate_labels_picker_mode": "Pick the class under the pointer",
    "activate_labels_pan_zoom_mode": "Move the image with the mouse",
}
"""napari's own actions that are useful while correcting."""

KEYS: Mapping[str, str] = {**WIDGET_KEYS, **TOOL_KEYS, **REVIEW_KEYS, **LANDMARK_KEYS}

LONGEST_WAY_MS = 60_000
"""Time that a key can have waited on a busy computer."""

REPEAT_MS = 20
"""Time after the release of a key within which nobody presses it again."""

_PLUGIN = "napari-lesionseg"
_NO_KEYS = (None, KeyCode.UNKNOWN, KeyCode.Ctrl, KeyCode.Shift, KeyCode.Alt, KeyCode.Meta)
Handler = Callable[[], Iterator[None] | None]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A row of the table of all keys."""

    group: str
    title: str
    key: str
    tip: str = ""


def all_keys() -> Iterator[KeyRow]:
    """Yield every key, group by group, with its default."""
    for tool in TOOLS:
        yield KeyRow("Correction tools", tool.title, tool.key, tool.tooltip)
    for name, key in REVIEW_KEYS.items():
        yield KeyRow("Review", name.capitalize(), key, REVIEW_TIPS[name])
    for name, key in LANDMARK_KEYS.items():
        yield KeyRow("Landmarks", name.capitalize(), key, LANDMARK_TIPS[name])
    for name, (key, tip) in WINDOW_KEYS.items():
        yield KeyRow("Window", name.capitalize(), key, tip)
    for name, key in WIDGET_KEYS.items():
        yield KeyRow("Widgets", name.capitalize(), key)
    for name, tip in NAPARI_ACTIONS.items():
        key = str(default_shortcuts[f"napari:{name}"][0])
        yield KeyRow("napari", name.replace("_", " ").capitalize(), key, tip)


def setting_of(action: str) -> str:
    """Return the name of an action's key in the preferences."""
    return action.replace(" ", "_")


def chosen_key(action: str) -> str:
    """Return the key of an action: that of the preferences if it is a key, else the default."""
    try:
        text = str(getattr(get_plugin_settings(_PLUGIN).keys, setting_of(action))).strip()
    except (KeyError, AttributeError):
        return KEYS[action]
    return text if is_key(text) else KEYS[action]


def is_key(text: str) -> bool:
    """Whether a text names a key, such as "K" or "Ctrl+Shift+K"."""
    try:
        binding = coerce_keybinding(text)
    except (ValueError, TypeError, KeyError):
        return False
    return len(binding.parts) == 1 and binding.parts[0].key not in _NO_KEYS


def key_of(action: str) -> str:
    """Return the key of an action as this system writes it."""
    return str(QKeySequence(chosen_key(action)).toString(QKeySequence.SequenceFormat.NativeText))


class LayerKeys:
    """Keys of a layer, or of the viewer, bound until closed, and again when the preferences change.

    If two tools have the same key, the first in the table gets it. A handler that is a generator function
    continues after its ``yield`` when the key is released.
    """

    def __init__(
        self,
        layer: Layer | ViewerModel,
        handlers: Mapping[str, Handler],
        changed: Callable[[], None] | None = None,
    ) -> None:
        self._layer, self._handlers, self._changed = layer, handlers, changed
        self._bound: dict[str, Any] = {}
        self._bind()
        self._events = settings_events()
        if self._events is not None:
            self._events.connect(self._on_settings)

    def close(self) -> None:
        """Return the keys to what they were bound to before."""
        self._unbind()
        if self._events is not None:
            self._events.disconnect(self._on_settings)
            self._events = None

    def _bind(self) -> None:
        for action in KEYS:
            key = chosen_key(action)
            name = str(coerce_keybinding(key))
            if action in self._handlers and name not in self._bound:
                callback = _callback(self._handlers[action])
                former = self._layer.bind_key(key, callback, overwrite=True)
                self._bound[name] = callback, former

    def _unbind(self) -> None:
        for name, (bound, former) in self._bound.items():
            if self._layer.keymap.get(coerce_keybinding(name)) is bound:
                self._layer.bind_key(name, former, overwrite=True)
        self._bound.clear()

    def _on_settings(self) -> None:
        self._unbind()
        self._bind()
        if self._changed is not None:
            self._changed()


class _Lag:
    """How long events have waited; their clock starts at an unknown time."""

    def __init__(self) -> None:
        self._quickest = math.inf  # shortest way of an event to here in milliseconds, with the unknown start

    def of(self, event: QInputEvent) -> float:
        """Return for how many seconds an event has waited, compared with the quickest so far."""
        way = 1000 * time.monotonic() - event.timestamp()
        if way < self._quickest or way > self._quickest + LONGEST_WAY_MS:
            self._quickest = way  # the latter if the clock of the events has started again
        return (way - self._quickest) / 1000


class WindowKeys(QObject):
    """Keys of a widget's actions that work in the whole window, also when the widget's dock floats.

    A key that is held counts once. While the computer is busy, a key or a click may wait before it is
    handled: `age`.
    """

    def __init__(self, widget: QWidget, handlers: Mapping[str, Callable[[], object]]) -> None:
        super().__init__(widget)
        self._widget, self._handlers = widget, handlers
        self._shortcuts: list[QShortcut] = []
        self._released: dict[int, int] = {}  # when each key was released last, in milliseconds
        self._is_repeat = False  # whether the key that was pressed last is only held
        self._key_lag, self._mouse_lag = _Lag(), _Lag()
        self._button_since = 0.0  # when a mouse button was pressed last
        self.age = 0.0  # seconds since the key or mouse button was pressed that is being handled

    def bind(self) -> None:
        """Bind the keys, or bind them again after the preferences or the window have changed."""
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts.clear()
        window = outermost(self._widget)
        for place in (window, self._widget.window()):  # a floating dock has a window of its own
            if place is not None and (handle := place.windowHandle()) is not None:
                handle.installEventFilter(self)
        for action, handler in self._handlers.items():  # Qt passes keys of a floating dock on to its window
            shortcut = QShortcut(QKeySequence(chosen_key(action)), window)
            shortcut.setAutoRepeat(False)
            shortcut.activated.connect(partial(self._on_activated, handler))
            self._shortcuts.append(shortcut)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Note whether a key is pressed, or only held, and when a key or mouse button was pressed."""
        mouse, key = as_mouse(event), as_key(event)
        if mouse is not None:
            self._note_mouse(mouse)
        # X reports a held key as released and pressed again, at the same time. While the computer is busy, Qt
        # sees one without the other, and takes it for another press.
        if key is not None:
            waited = self._key_lag.of(key)
            if key.type() == QEvent.Type.KeyRelease:
                self._released[key.key()] = key.timestamp()
            elif key.type() == QEvent.Type.ShortcutOverride:
                since = key.timestamp() - self._released.get(key.key(), -REPEAT_MS)
                self._is_repeat = key.isAutoRepeat() or 0 <= since < REPEAT_MS
                self.age = waited
        return False

    def _note_mouse(self, event: QMouseEvent) -> None:
        now, waited = time.monotonic(), self._mouse_lag.of(event)
        if event.type() in {QEvent.Type.MouseButtonPress, QEvent.Type.MouseButtonDblClick}:
            self._button_since = now - waited
        # A button of the window is clicked as soon as the mouse button is released.
        self.age = now - self._button_since if event.type() == QEvent.Type.MouseButtonRelease else 0.0

    def _on_activated(self, handler: Callable[[], object]) -> None:
        if not self._is_repeat:
            handler()
        self.age = 0.0

    def close(self) -> None:
        """Release the keys."""
        for shortcut in self._shortcuts:
            if isalive(shortcut):  # type: ignore[no-untyped-call]
                shortcut.setEnabled(False)
                shortcut.deleteLater()
        self._shortcuts.clear()

    def key(self, action: str) -> str:
        """Return the key that is bound to an action; empty if none is."""
        places = [place for place, name in enumerate(self._handlers) if name == action]
        return self._shortcuts[places[0]].key().toString() if self._shortcuts else ""


def _callback(handler: Handler) -> Callable[[Any], Any]:
    """Convert a handler to what napari binds: a function, or generator function, of the layer."""
    if not inspect.isgeneratorfunction(handler):
        return lambda target: handler()

    def held(target: Layer | ViewerModel) -> Iterator[None]:
        yield from handler()

    return held


def settings_events() -> Any:
    """Return the events of the keys in the preferences; None if napari has no page for them."""
    try:
        return get_plugin_settings(_PLUGIN).keys.events
    except (KeyError, AttributeError):
        return None


def bind_key(widget: QWidget, action: str) -> None:
    """Bind an action's key in the whole window: it clicks a button, and focuses any other widget."""
    sequence = QKeySequence(KEYS[action])
    if isinstance(widget, QAbstractButton):
        widget.setShortcut(sequence)
    else:
        QShortcut(sequence, widget).activated.connect(widget.setFocus)


def set_tip(widget: QWidget, text: str, action: str) -> None:
    """Set a tooltip that ends with the key of an action."""
    widget.setToolTip(f"{text} ({key_of(action)})")
