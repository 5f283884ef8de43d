"""What the command line and napari's menus call to open the workbench."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import napari
from qtpy.QtWidgets import QApplication

from napari_lesionseg.plugin.about import add_about
from napari_lesionseg.plugin.layout import ImageFirst

if TYPE_CHECKING:
    from qtpy.QtWidgets import QDockWidget

    from napari_lesionseg.plugin.workbench.widget import Workbench

PLUGIN = "napari-lesionseg"
WORKBENCH = "LesionSeg workbench"


def open_viewer(
    folder: Path | None = None,
    images: Sequence[Path] = (),
    masks: Sequence[Path] = (),
    annotator: str | None = None,
    **opening: Any,
) -> None:
    """Open a folder in the workbench, or images with their masks, and wait until the viewer is closed.

    `opening` is how the folder is opened, see `Workbench.open_folder`. Ctrl+C and signals that end programs
    close the window, which saves everything, and raise `KeyboardInterrupt` then.
    """
    with _quit_on_signals() as received:
        make_viewer(folder, images, masks, annotator, **opening)
        if not received:
            napari.run()
        viewer = napari.current_viewer()
        if received and viewer is not None:
            viewer.close()
    if received:
        raise KeyboardInterrupt(received[0])


@contextlib.contextmanager
def _quit_on_signals() -> Iterator[list[int]]:
    """Leave the event loop on signals that end programs, and list those that came."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # Raised here, an error would be shown in the window and forgotten. `quit` would delete the window.
        QApplication.exit()

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # napari handles the first by leaving the loop, too
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    kept = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in kept:
        signal.signal(number, leave)
    try:
        yield received
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def make_viewer(
    folder: Path | None,
    images: Sequence[Path],
    masks: Sequence[Path],
    annotator: str | None = None,
    **opening: Any,
) -> napari.Viewer:
    """Make the window; see `open_viewer`."""
    viewer = napari.Viewer(title="LesionSeg")
    dock, workbench = _dock_workbench(viewer)
    ImageFirst(viewer, dock)
    add_about(viewer)
    workbench.fold_settings()
    if annotator is not None:
        workbench.annotator.setText(annotator)
    elif opening.get("reviewer"):
        workbench.annotator.clear()  # to ask: the name that is remembered is that of the annotator
    if images:
        viewer.open([str(path) for path in (*images, *masks)], plugin=PLUGIN)
        viewer.canvas.grid.enabled = False
    if folder is not None:
        workbench.open_folder(folder, **opening)
    return viewer


def open_workbench(viewer: napari.Viewer) -> Workbench:
    """Open the workbench in a viewer's window, or return the one that is open."""
    return _dock_workbench(viewer)[1]


def _dock_workbench(viewer: napari.Viewer) -> tuple[QDockWidget, Workbench]:
    dock, workbench = viewer.window.add_plugin_dock_widget(PLUGIN, WORKBENCH)
    return dock, cast("Workbench", workbench)


def new_study(viewer: napari.Viewer) -> None:
    """Ask for the settings of a new study, and open it in the workbench."""
    open_workbench(viewer).start.ask_for_new()
