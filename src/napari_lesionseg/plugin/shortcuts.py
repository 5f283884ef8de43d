"""All keys, in one table, and how a key gets to what it does.

Keys of widgets work in the whole window while the widget is shown. Keys of the outline, which are letters
alone, work while its layer is the active one, as napari's own do, which keep theirs: digits, B, E, F, L, M,
P, V, X and Z. Alt with C, S, T or a menu's letter belongs to napari's menus.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app_model.types import KeyCode
from napari.layers import Layer
from napari.settings import get_plugin_settings
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QAbstractButton, QWidget

KEYS = {
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
"""What is done in a widget, and its key."""

OUTLINE_KEYS = {
    "click: belongs": "C",
    "click: does not belong": "N",
    "look into a box": "R",
    "take the last click back": "Backspace",
    "brush": "P",
    "eraser": "E",
    "fill": "F",
    "polygon": "G",
    "smooth": "S",
    "snap to edges": "T",
    "fill holes of the outline": "O",
    "largest part alone": "J",
    "remove part under the mouse": "D",
    "split": "K",
    "merge": "U",
    "back to the model": "Y",
    "no outline": "0",
    "next class": ".",
    "hide while held": "H",
    "show filled while held": "A",
    "move the image while held": "Space",
    "undo": "Ctrl+Z",
    "redo": "Ctrl+Shift+Z",
}
"""What is done to an outline, and its key; the preferences can give it another one."""

VERDICT_KEYS = {
    "back": "Q",
    "approve": "W",
    "no lesion": "F3",
    "flag": "F4",
    "reopen": "F2",
}
"""What an annotator says of an image of a study, and the keys; the preferences can give them others."""

KEYS.update(OUTLINE_KEYS)
KEYS.update(VERDICT_KEYS)

_PLUGIN = "napari-lesionseg"
_NO_KEYS = (None, KeyCode.UNKNOWN, KeyCode.Ctrl, KeyCode.Shift, KeyCode.Alt, KeyCode.Meta)
Handler = Callable[[], Iterator[None] | None]


def setting_of(action: str) -> str:
    """Give the name that an action's key has in the preferences."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in action).split())


def chosen_key(action: str) -> str:
    """Give the key of an action: that of the preferences if it is a key, else that of the table."""
    try:
        text = str(getattr(get_plugin_settings(_PLUGIN).keys, setting_of(action))).strip()
    except (KeyError, AttributeError):
        return KEYS[action]
    return text if is_key(text) else KEYS[action]


def is_key(text: str) -> bool:
    """Tell whether a text names a key, such as "K" or "Ctrl+Shift+K"."""
    try:
        binding = coerce_keybinding(text)
    except (ValueError, TypeError, KeyError):
        return False
    return len(binding.parts) == 1 and binding.parts[0].key not in _NO_KEYS


def key_of(action: str) -> str:
    """Give the key of an action as this system writes it."""
    return str(QKeySequence(chosen_key(action)).toString(QKeySequence.SequenceFormat.NativeText))


class LayerKeys:
    """Keys of one layer, bound until it is closed, and bound anew when the preferences change.

    Where two actions were given one key, the first in the table has it.

    Parameters
    ----------
    layer : napari.layers.Layer
        The keys work while it is the active layer.
    handlers : mapping of str to callable
        What each action does; a generator function goes on after its ``yield`` when the key is let go.
    changed : callable, optional
        Called when keys were bound anew.
    """

    def __init__(
        self, layer: Layer, handlers: Mapping[str, Handler], changed: Callable[[], None] | None = None
    ) -> None:
        self._layer, self._handlers, self._changed = layer, handlers, changed
        self._bound: dict[str, Any] = {}
        self._bind()
        self._events = settings_events()
        if self._events is not None:
            self._events.connect(self._on_settings)

    def close(self) -> None:
        """Give the keys back."""
        self._unbind()
        if self._events is not None:
            self._events.disconnect(self._on_settings)
            self._events = None

    def _bind(self) -> None:
        for action in OUTLINE_KEYS:
            key = chosen_key(action)
            name = str(coerce_keybinding(key))
            if action in self._handlers and name not in self._bound:
                callback = _callback(self._handlers[action])
                self._bound[name] = self._layer.bind_key(key, callback, overwrite=True)

    def _unbind(self) -> None:
        for name, former in self._bound.items():
            self._layer.bind_key(name, former, overwrite=True)
        self._bound.clear()

    def _on_settings(self) -> None:
        self._unbind()
        self._bind()
        if self._changed is not None:
            self._changed()


def _callback(handler: Handler) -> Callable[[Layer], Any]:
    """Make a handler into what napari binds: a function, or a generator function, of the layer."""
    if not inspect.isgeneratorfunction(handler):
        return lambda layer: handler()

    def held(layer: Layer) -> Iterator[None]:
        yield from handler()

    return held


def settings_events() -> Any:
    """Give what tells that keys were changed in the preferences; None where napari has no page for them."""
    try:
        return get_plugin_settings(_PLUGIN).keys.events
    except (KeyError, AttributeError):
        return None


def bind_key(widget: QWidget, action: str) -> None:
    """Let an action's key press a button, or put the focus on any other widget.

    The key works in the whole window while the widget is shown.
    """
    sequence = QKeySequence(KEYS[action])
    if isinstance(widget, QAbstractButton):
        widget.setShortcut(sequence)
    else:
        QShortcut(sequence, widget).activated.connect(widget.setFocus)


def set_tip(widget: QWidget, text: str, action: str) -> None:
    """Give a widget a tooltip that ends with its key."""
    widget.setToolTip(f"{text} ({key_of(action)})")
