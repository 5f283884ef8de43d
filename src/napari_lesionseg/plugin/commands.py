"""What napari's menus call."""

from __future__ import annotations

from typing import Any

from napari.viewer import Viewer

from napari_lesionseg.plugin.app import PLUGIN, WORKBENCH


def open_workbench(viewer: Viewer) -> Any:
    """Open the workbench in a viewer's window, or give the one that is open.

    Returns
    -------
    Workbench
    """
    _, workbench = viewer.window.add_plugin_dock_widget(PLUGIN, WORKBENCH)
    return workbench


def new_study(viewer: Viewer) -> None:
    """Ask what a new study is to be, and open it in the workbench."""
    open_workbench(viewer).start.ask_for_new()
