"""``lesionseg import``: bring a data set in, as a plain folder that the workbench opens."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_lesionseg.cli.console import follow
from napari_lesionseg.cli.export import say_report
from napari_lesionseg.data.formats import FORMATS
from napari_lesionseg.data.importing import import_dataset

EXAMPLE = """example:
  lesionseg import PH2Dataset.zip --out ph2/"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    readable = sorted(name for name, found in FORMATS.items() if found.read)
    parser.epilog = EXAMPLE
    parser.add_argument("source", type=Path, help="a folder, a COCO file, or a ZIP or TAR archive")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; must not exist, or be empty"
    )
    parser.add_argument("--format", choices=readable, help="default: found out")


def run(options: argparse.Namespace) -> int:
    """Read and write; 1 if entries were left out."""
    return say_report(follow(import_dataset(options.source, options.out, options.format)))
