"""How commands open the viewer without knowing it.

The viewer's package registers a function under an entry point; the command line calls it where napari is
installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from napari_lesionseg.errors import LesionSegError

GROUP = "napari_lesionseg.viewer"


def has_display() -> bool:
    """Tell whether a window can be shown here."""
    if sys.platform in {"win32", "darwin"}:
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def why_no_viewer() -> str:
    """Say why the viewer cannot be opened; empty when it can."""
    if find_spec("napari") is None:
        return 'napari is not installed: pip install "napari-lesionseg[all]"'
    return "" if has_display() else "there is no display"


def open_viewer(folder: Path | None = None, images: Sequence[Path] = (), masks: Sequence[Path] = ()) -> None:
    """Open the viewer with the workbench and wait until it is closed.

    Parameters
    ----------
    folder : Path, optional
        A folder of images or a study, for the workbench.
    images, masks : sequence of Path
        Images to show with their masks.

    Raises
    ------
    LesionSegError
        If the viewer cannot be opened here.
    """
    reason = why_no_viewer()
    if reason:
        raise LesionSegError(f"The viewer cannot be opened, {reason}.")
    entry = next(iter(entry_points(group=GROUP)), None)
    if entry is None:
        raise LesionSegError("The viewer cannot be opened, napari-lesionseg is not installed, only unpacked.")
    entry.load()(folder, images, masks)
