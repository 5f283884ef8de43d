"""``lesionseg export``: write a study, or images with masks, as a data set that other tools accept."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_lesionseg.cli.console import follow
from napari_lesionseg.cli.options import make_settings, parse_changes
from napari_lesionseg.cli.reports import say_problems, say_report
from napari_lesionseg.datasets.export import check_key_place, export_dataset, write_key
from napari_lesionseg.datasets.formats import FORMATS, DatasetInfo, ExportConfig
from napari_lesionseg.datasets.formats.dicom import with_originals
from napari_lesionseg.datasets.import_ import open_dataset
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.datasets.splits import PARTS
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.study.layout import STUDY_FOLDER, is_study
from napari_lesionseg.study.records import study_records
from napari_lesionseg.study.study import Study

EXAMPLE = """examples:
  lesionseg export images/ --out nevi-isic --info about.json
  lesionseg export images/ --format coco --polygons --shares 0.8 0.1 0.1 --out nevi-coco
  lesionseg export images/ --names all --key ../key.csv --single-region --out nevi-shared"""
EXPORTER = "export"  # who opens the study; nothing is signed by it


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    writable = sorted(name for name, found in FORMATS.items() if found.write)
    parser.epilog = EXAMPLE
    parser.add_argument(
        "source",
        type=Path,
        help=f"a study, a folder of images with a study in it ({STUDY_FOLDER}), or a data set",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; must not exist, or be empty"
    )
    parser.add_argument("--format", choices=writable, default="isic", help="default: isic")
    _add_settings(parser)
    parser.add_argument(
        "--info", type=Path, help="JSON file with what the datasheet says: title, license, cameras ..."
    )
    parser.add_argument("--key", type=Path, help="where to keep the old names, outside of the data set")
    parser.add_argument(
        "--originals", type=Path, metavar="DIR", help="for DICOM: the photographs that the images came from"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add what is changed most often, and ``--set`` for the rest; what is not given stays None."""
    parser.add_argument(
        "--names",
        dest="pseudonymize",
        choices=("patients", "all", "nothing"),
        metavar="WHO",
        help="who gets a new name: patients (default), all (images and annotators too), or nothing",
    )
    parser.add_argument(
        "--shares",
        nargs=len(PARTS),
        type=float,
        metavar="SHARE",
        help="shares of train, val and test (default: 0.7 0.1 0.2)",
    )
    parser.add_argument(
        "--seed", type=int, help="another seed deals the patients out differently (default: 0)"
    )
    parser.add_argument(
        "--single-region",
        action="store_true",
        default=None,
        help="keep the largest part of each outline and close its holes",
    )
    parser.add_argument(
        "--polygons", action="store_true", default=None, help="write COCO masks as polygons, not run lengths"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"one of {', '.join(ExportConfig.model_fields)}",
    )


def run(options: argparse.Namespace) -> int:
    """Check and write; 1 if something was left out."""
    config = make_settings(ExportConfig, parse_changes(options.set), options=_given(options))
    info = read_info(options.info)
    if options.key is not None:
        check_key_place(options.key, options.out)
    with open_records(options.source) as (records, problems):
        if options.originals is not None:
            records = with_originals(records, options.originals)
        report = follow(export_dataset(records, options.out, options.format, config=config, info=info))
    if options.key is not None:
        write_key(report, options.key)
    say_problems(problems)
    return max(say_report(report), int(any(problem.left_out for problem in problems)))


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that have an option of their own."""
    shares = None if options.shares is None else dict(zip(PARTS, options.shares, strict=True))
    names = ("pseudonymize", "seed", "single_region", "polygons")
    return {"shares": shares} | {name: getattr(options, name) for name in names}


@contextmanager
def open_records(source: Path) -> Iterator[tuple[Sequence[Record], Sequence[Problem]]]:
    """Open a study or a data set for as long as its records are read; gives what was left out as well."""
    inside = source / STUDY_FOLDER
    if is_study(source) or is_study(inside):
        with Study.open(source if is_study(source) else inside, EXPORTER, unblind=True) as study:
            yield study_records(study), ()
    else:
        with open_dataset(source) as dataset:
            yield dataset.records, dataset.problems


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
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        said = f"{where}: {first['msg']}" if where else first["msg"]
        known = ", ".join(DatasetInfo.model_fields)
        raise DatasetError(f"{path} is wrong ({said}); it may hold {known}.") from error
