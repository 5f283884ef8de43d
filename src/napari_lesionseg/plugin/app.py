"""Opens the viewer with the workbench; the command line finds this through an entry point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import napari

PLUGIN = "napari-lesionseg"
WORKBENCH = "LesionSeg workbench"


def open_viewer(folder: Path | None = None, images: Sequence[Path] = (), masks: Sequence[Path] = ()) -> None:
    """Open the viewer and wait until it is closed.

    Parameters
    ----------
    folder : Path, optional
        A study or a folder of images, opened in the workbench.
    images, masks : sequence of Path
        Images to show, each with its mask.
    """
    make_viewer(folder, images, masks)
    napari.run()


def make_viewer(folder: Path | None, images: Sequence[Path], masks: Sequence[Path]) -> napari.Viewer:
    """Make the window; see `open_viewer`."""
    viewer = napari.Viewer(title="LesionSeg")
    _, workbench = viewer.window.add_plugin_dock_widget(PLUGIN, WORKBENCH)
    if images:
        viewer.open([str(path) for path in (*images, *masks)], plugin=PLUGIN)
        viewer.canvas.grid.enabled = False
    if folder is not None:
        workbench.open_folder(folder)
    return viewer
