"""The end of a drag, which napari leaves out in a busy window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtOpenGLWidgets import QOpenGLWidget
from vispy.app.canvas import MouseEvent

if TYPE_CHECKING:
    from vispy.util.event import EmitterGroup

_KNOWN = "drags end at the release"  # name of a property of the canvas


def end_drags_at_release(canvas: QOpenGLWidget) -> None:
    """Make drags on napari's canvas end where the button is released.

    The canvas leaves out moves of the mouse within 10 ms of another, and napari handles one every 5 ms. A
    fast stroke of the brush lost its end, and in a busy window all but its beginning.
    """
    if canvas.property(_KNOWN):
        return
    canvas.setProperty(_KNOWN, True)
    native: Any = canvas
    events = native._vispy_canvas.events

    def move_to_release(event: MouseEvent) -> None:
        _deliver(events)
        last = event.last_event
        if event.press_event is not None and last is not None and tuple(last.pos) != tuple(event.pos):
            events.mouse_move(_move_to(event))
            _deliver(events)

    events.mouse_release.connect(move_to_release, position="first")


def _deliver(events: EmitterGroup) -> None:
    """Let napari handle the move that waits, if there is one."""
    for callback in events.mouse_move.callbacks:
        if hasattr(callback, "flush"):
            callback.flush()


def _move_to(release: MouseEvent) -> MouseEvent:
    """Return the move to where a button is released."""
    return MouseEvent(
        "mouse_move",
        pos=release.pos,
        buttons=[release.button],
        modifiers=release.modifiers,
        last_event=release.last_event,
        press_event=release.press_event,
    )
