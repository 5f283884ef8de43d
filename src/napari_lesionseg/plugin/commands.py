"""What the command line and napari's menus call to open the workbench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import napari

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

    `opening` is how the folder is opened, see `Workbench.open_folder`.
    """
    make_viewer(folder, images, masks, annotator, **opening)
    napari.run()


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
