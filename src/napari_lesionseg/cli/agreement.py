"""``lesionseg agreement``: how well the readers of a study agree."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from rich.table import Table

from napari_lesionseg.cli.console import results, say
from napari_lesionseg.io.images import write_mask
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.agreement import find_consensus, measure_agreement
from napari_lesionseg.study.study import Study

EXAMPLE = """example:
  lesionseg agreement my-study/ --consensus consensus/"""
LOOKER = "agreement"  # who opens the study; nothing is signed by it


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("study", type=Path, help="a study that several readers worked in")
    parser.add_argument(
        "--consensus", type=Path, metavar="DIR", help="write the readers' STAPLE consensus here"
    )


def run(options: argparse.Namespace) -> int:
    """Print the mean Dice of every pair of readers."""
    with Study.open(options.study, LOOKER, unblind=True) as study:
        print_agreement(study)
        if options.consensus is not None:
            written = write_consensus(study, options.consensus)
            say(f"{written} consensus outlines written to {options.consensus}")
    return 0


def print_agreement(study: Study) -> None:
    """Print how well each pair of readers agrees.

    Raises
    ------
    StudyError
        If no picture has a verdict of two readers.
    """
    found = measure_agreement(study.verdict_masks(picture) for picture in study.state.pictures)
    if found.mean is None:
        raise StudyError("No picture has a verdict of two readers yet.")
    table = Table("readers", "pictures", "mean Dice", title="Agreement", title_justify="left")
    for (i, first), (j, second) in itertools.combinations(enumerate(found.readers), 2):
        if found.pictures[i, j]:
            table.add_row(f"{first} and {second}", str(found.pictures[i, j]), f"{found.dice[i, j]:.3f}")
    results.print(table)


def write_consensus(study: Study, folder: Path) -> int:
    """Write the consensus of every picture that two readers signed; returns how many."""
    written = 0
    for picture, state in study.state.pictures.items():
        masks = study.verdict_masks(picture)
        if len(masks) > 1:
            write_mask(folder / f"{state.name}_segmentation.png", find_consensus(masks).labels)
            written += 1
    return written
