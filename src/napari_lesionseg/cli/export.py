"""``lesionseg export``: write a study, or pictures with masks, as a data set that other tools accept."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from napari_lesionseg.cli.console import follow, say, say_error
from napari_lesionseg.cli.settings import make_settings, parse_changes
from napari_lesionseg.data.exporting import ExportReport, export_dataset, write_key
from napari_lesionseg.data.formats import FORMATS, DatasetInfo, ExportConfig
from napari_lesionseg.data.importing import open_dataset
from napari_lesionseg.data.records import Record
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.study.folder import is_study
from napari_lesionseg.study.records import study_records
from napari_lesionseg.study.study import Study

EXAMPLE = """example:
  lesionseg export my-study/ --format isic --out my-dataset/ --set pseudonymise=all --key ../key.csv"""
EXPORTER = "export"  # who opens the study; nothing is signed by it


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    writable = sorted(name for name, found in FORMATS.items() if found.write)
    parser.epilog = EXAMPLE
    parser.add_argument("source", type=Path, help="a study, or a data set of any known format")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; must not exist, or be empty"
    )
    parser.add_argument("--format", choices=writable, default="isic", help="default: isic")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"one of {', '.join(ExportConfig.model_fields)}",
    )
    parser.add_argument(
        "--info", type=Path, help="JSON file with what the datasheet says: title, licence, cameras ..."
    )
    parser.add_argument("--key", type=Path, help="where to keep the old names, outside of the data set")


def run(options: argparse.Namespace) -> int:
    """Check and write; 1 if something was left out."""
    config = make_settings(ExportConfig, parse_changes(options.set))
    info = read_info(options.info)
    with open_records(options.source) as records:
        report = follow(export_dataset(records, options.out, options.format, config=config, info=info))
    if options.key is not None:
        write_key(report, options.key)
    return say_report(report)


def say_report(report: ExportReport) -> int:
    """Say what was written and what was left out; 1 if something was."""
    for problem in report.problems:
        say_error(f"{problem.name}: {problem.reason}")
    parts = ", ".join(f"{count} {part}" for part, count in report.parts.items())
    say(f"{report.written} pictures written to {report.folder} as {report.format} ({parts})")
    return 1 if report.problems else 0


@contextmanager
def open_records(source: Path) -> Iterator[Sequence[Record]]:
    """Open a study or a data set for as long as its records are read."""
    if is_study(source):
        with Study.open(source, EXPORTER, unblind=True) as study:
            yield study_records(study)
    else:
        with open_dataset(source) as dataset:
            for problem in dataset.problems:
                say_error(f"{problem.name}: {problem.reason}")
            yield dataset.records


def read_info(path: Path | None) -> DatasetInfo:
    """Read what the datasheet says.

    Raises
    ------
    DatasetError
        If the file cannot be read or holds something else.
    """
    if path is None:
        return DatasetInfo()
    try:
        return DatasetInfo.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DatasetError(
            f"{path} does not say what belongs into a datasheet: {str(error).splitlines()[0]}."
        ) from error
