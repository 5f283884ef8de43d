"""The keys of the plugin's widgets, in one table, and how a key gets to its widget.

Letters alone belong to napari's own tools, and Alt with C, S, T or a menu's letter to its menus.
"""

from __future__ import annotations

from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QAbstractButton, QWidget

KEYS = {
    "picture": "Alt+B",
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
"""Name of what is done, and its key."""


def key_of(action: str) -> str:
    """Give the key of an action as this system writes it."""
    return str(QKeySequence(KEYS[action]).toString(QKeySequence.SequenceFormat.NativeText))


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
