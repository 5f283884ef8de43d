"""``lesionseg agreement``: how well the annotators of a study agree."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from rich.table import Table

from napari_lesionseg.cli.console import results, say
from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.images import write_mask
from napari_lesionseg.study.agreement import find_consensus, measure_agreement
from napari_lesionseg.study.study import Study

EXAMPLE = """example:
  lesionseg agreement my-study/ --consensus consensus/"""
LOOKER = "agreement"  # who opens the study; nothing is signed by it


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("study", type=Path, help="a study that several annotators worked in")
    parser.add_argument(
        "--consensus", type=Path, metavar="DIR", help="write the annotators' STAPLE consensus here"
    )


def run(options: argparse.Namespace) -> int:
    """Print the mean Dice of every pair of annotators."""
    with Study.open(options.study, LOOKER, unblind=True) as study:
        print_agreement(study)
        if options.consensus is not None:
            written = write_consensus(study, options.consensus)
            say(f"{written} consensus outlines written to {options.consensus}")
    return 0


def print_agreement(study: Study) -> None:
    """Print how well each pair of annotators agrees.

    Raises
    ------
    StudyError
        If no image has a verdict of two annotators.
    """
    found = measure_agreement(study.verdict_masks(image) for image in study.state.images)
    if found.mean is None:
        raise StudyError("No image has a verdict of two annotators yet.")
    table = Table("annotators", "images", "mean Dice", title="Agreement", title_justify="left")
    for (i, first), (j, second) in itertools.combinations(enumerate(found.annotators), 2):
        if found.images[i, j]:
            table.add_row(f"{first} and {second}", str(found.images[i, j]), f"{found.dice[i, j]:.3f}")
    results.print(table)


def write_consensus(study: Study, folder: Path) -> int:
    """Write the consensus of every image that two annotators signed; returns how many."""
    written = 0
    for image, state in study.state.images.items():
        masks = study.verdict_masks(image)
        if len(masks) > 1:
            write_mask(folder / f"{state.name}_segmentation.png", find_consensus(masks).labels)
            written += 1
    return written
