"""``lesionseg import``: bring a data set in, as a plain folder that the workbench opens."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_lesionseg.cli.console import follow, progress_bar, say
from napari_lesionseg.cli.reports import say_report
from napari_lesionseg.datasets.formats import FORMATS
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.study.datasets import study_of_dataset
from napari_lesionseg.study.layout import STUDY_FOLDER

EXAMPLE = """examples:
  lesionseg import PH2Dataset.zip --out ph2/
  lesionseg import ISIC2018/ --out isic/ --annotator am"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    readable = sorted(name for name, found in FORMATS.items() if found.read)
    parser.epilog = EXAMPLE
    parser.add_argument("source", type=Path, help="a folder, a COCO file, or a ZIP or TAR archive")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; must not exist, or be empty"
    )
    parser.add_argument("--format", choices=readable, help="default: found out")
    parser.add_argument(
        "--annotator",
        help=f"make a study of it too, in {STUDY_FOLDER}, in which this annotator signs the outlines",
    )


def run(options: argparse.Namespace) -> int:
    """Read and write; 1 if entries were left out."""
    report = follow(import_dataset(options.source, options.out, options.format))
    result = say_report(report)
    if options.annotator is not None:
        say_study(options.out, options.annotator)
    return result


def say_study(folder: Path, annotator: str) -> None:
    """Make a study of what was imported."""
    dataset = read_dataset(folder)
    with progress_bar("Making the study", len(dataset.records)) as (progress, task):
        taken = study_of_dataset(
            folder / STUDY_FOLDER,
            annotator,
            dataset,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    say(f"{folder / STUDY_FOLDER} is a study with {taken} outlines to look at: lesionseg {folder}")
