"""``lesionseg verify``: check that a data set is as it was written."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_lesionseg.cli.console import follow, say
from napari_lesionseg.cli.reports import say_problems
from napari_lesionseg.datasets.manifest import verify
from napari_lesionseg.datasets.records import Problem

EXAMPLE = """example:
  lesionseg verify my-dataset/"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("folder", type=Path, help="a data set written by lesionseg")


def run(options: argparse.Namespace) -> int:
    """Hash every file; 1 if one is missing or was changed."""
    found = follow(verify(options.folder))
    told = (("missing", found.missing), ("changed", found.changed), ("added since", found.added))
    say_problems(Problem(name, what) for what, names in told for name in names)
    say(f"{found.checked} files checked: {'intact' if found.intact else 'NOT as they were written'}")
    return 0 if found.intact else 1
