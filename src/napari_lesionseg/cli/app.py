"""``lesionseg [app] [FOLDER]``: open the viewer with the workbench."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_lesionseg.cli.viewer import open_viewer
from napari_lesionseg.errors import LesionSegError

EXAMPLE = """example:
  lesionseg app images/"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("folder", nargs="?", type=Path, help="a folder of images or a study")


def run(options: argparse.Namespace) -> int:
    """Open the viewer."""
    if options.folder is not None and not options.folder.is_dir():
        raise LesionSegError(
            f"There is no command or folder '{options.folder}'; `lesionseg --help` lists the commands."
        )
    open_viewer(options.folder)
    return 0
