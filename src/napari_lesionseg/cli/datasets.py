"""``lesionseg export``, ``import`` and ``verify``: studies and datasets."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from napari_lesionseg.cli.console import (
    print_error,
    print_result,
    progress_bar,
    run_with_progress,
)
from napari_lesionseg.cli.options import (
    check_file,
    check_partners,
    make_settings,
    options_value,
    parse_changes,
)
from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.export import (
    ExportReport,
    check_destination,
    check_key_place,
    export_dataset,
    write_key,
)
from napari_lesionseg.datasets.eyes import Locate, black_out_eyes, known_people
from napari_lesionseg.datasets.formats import FORMATS, DatasetInfo, ExportConfig
from napari_lesionseg.datasets.formats.dicom import with_originals
from napari_lesionseg.datasets.import_ import (
    file_problems,
    import_dataset,
    open_dataset,
    read_dataset,
)
from napari_lesionseg.datasets.landmarks import read_landmarks
from napari_lesionseg.datasets.manifest import verify
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.datasets.splits import PARTS, WHOLE
from napari_lesionseg.errors import DatasetError, StudyError
from napari_lesionseg.study.datasets import field_problems, study_from_dataset, study_records
from napari_lesionseg.study.landmarks import approved_landmarks, landmark_records
from napari_lesionseg.study.layout import READ_ONLY, STUDY_FOLDER, find_study
from napari_lesionseg.study.study import Study, find_damage
from napari_lesionseg.types import ByteImage, Landmarks

EXPORT_EXAMPLE = """examples:
  lesionseg export images/ --out nevi-isic --info about.json
  lesionseg export images/ --format coco --polygons --shares 0.8 0.1 0.1 --out nevi-coco
  lesionseg export joints/ --format deeplabcut --out joints-dlc
  lesionseg export images/ --names all --key ../key.csv --single-region --out nevi-shared"""
IMPORT_EXAMPLE = """examples:
  lesionseg import PH2Dataset.zip --out ph2/
  lesionseg import ISIC2018/ --out isic/ --annotator am"""
VERIFY_EXAMPLE = """example:
  lesionseg verify my-dataset/"""
MIN_EYE_SCORE = 0.3
"""Score from which an eye counts as found."""
MOST_NAMES = 8  # that are listed where many entries have the same problem


def configure_export(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    writable = sorted(name for name, found in FORMATS.items() if found.write)
    parser.epilog = EXPORT_EXAMPLE
    parser.add_argument(
        "source",
        type=Path,
        help=f"a study, a folder of images with a study in it ({STUDY_FOLDER}), or a dataset",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; must not exist, or be empty"
    )
    parser.add_argument(
        "--format", choices=writable, help="default: isic, or coco-keypoints for a study of landmarks"
    )
    _add_settings(parser)
    _add_follow_links(parser)
    parser.add_argument(
        "--info", type=Path, help="JSON file with what the datasheet says: title, license, cameras ..."
    )
    parser.add_argument("--key", type=Path, help="where to keep the old names, outside of the dataset")
    parser.add_argument(
        "--black-out-eyes",
        action="store_true",
        help="cover the eyes of faces; images in which they are not found are left out",
    )
    parser.add_argument("--landmark-model", metavar="MODEL", help="a landmark model that finds the eyes")
    parser.add_argument(
        "--landmarks",
        type=Path,
        metavar="FILE",
        help="where the eyes are: a study of landmarks, COCO keypoints or a DeepLabCut table",
    )
    parser.add_argument(
        "--originals", type=Path, metavar="DIR", help="for DICOM: the photographs that the images came from"
    )


def _add_follow_links(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--follow-links",
        type=Path,
        metavar="ROOT",
        help="follow links out of the dataset into this folder, such as a cache; others are named",
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
        help="shares of train, val and test (default: 0.7 0.1 0.2; landmarks are not split)",
    )
    parser.add_argument("--seed", type=int, help="seed of the random split (default: 0)")
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


def run_export(options: argparse.Namespace) -> int:
    """Check and write; 1 if something was left out."""
    check_destination(options.out)
    if options.key is not None:
        check_key_place(options.key, options.out)
        check_file(options.key)
    check_partners(options, "--black-out-eyes", "--landmark-model", "--landmarks")
    check_format(options, "--polygons", "coco")
    check_format(options, "--originals", "dicom")
    given = _given(options)
    info = read_info(options.info)
    with open_records(options.source, options.follow_links) as (records, problems):
        if options.originals is not None:
            records = with_originals(records, options.originals)
        if options.black_out_eyes:
            records, hidden = cover_eyes(options, records)
            problems = (*problems, *hidden)
        has_landmarks = any(record.skeleton is not None for record in records)
        if has_landmarks and given["shares"] is None:
            given["shares"] = WHOLE
        config = make_settings(ExportConfig, parse_changes(options.set), options=given)
        print_problems(problems)  # first, since they may be why nothing can be exported
        name = options.format or ("coco-keypoints" if has_landmarks else "isic")
        keep_names = None if options.key is None else partial(write_key, path=options.key)
        report = run_with_progress(
            export_dataset(records, options.out, name, config=config, info=info, keep_names=keep_names)
        )
    return max(print_report(report), int(any(problem.left_out for problem in problems)))


def check_format(options: argparse.Namespace, name: str, needed: str) -> None:
    """Raise a `DatasetError` for an option that other formats would ignore."""
    if options_value(options, name) and options.format != needed:
        raise DatasetError(f"{name} needs --format {needed}.")


def cover_eyes(options: argparse.Namespace, records: Sequence[Record]) -> tuple[list[Record], list[Problem]]:
    """Return the records with their eyes covered, and those that are left out."""
    if (options.landmark_model is None) == (options.landmarks is None):
        raise DatasetError("--black-out-eyes needs either --landmark-model or --landmarks.")
    if options.landmarks is not None:
        place = find_study(options.landmarks)
        if place is None:
            known = read_landmarks(options.landmarks)
        else:
            with Study.open(place, READ_ONLY, unblind=True) as study:
                known = approved_landmarks(study)
        skeleton, locate = known.skeleton, known_people(known)
    else:
        skeleton, locate = _found_by(options.landmark_model)
    covered: list[Record] = []
    left_out: list[Problem] = []
    with progress_bar("Covering eyes", len(records)) as (progress, task):
        for item in black_out_eyes(records, skeleton, locate):
            covered.append(item) if isinstance(item, Record) else left_out.append(item)
            progress.advance(task)
    if not covered:
        print_problems(left_out)
        raise DatasetError("The eyes were found in no image; nothing is written.")
    return covered, left_out


def _found_by(name: str) -> tuple[Skeleton, Locate]:
    """Return the landmarks of a model, and what finds people with it."""
    from napari_lesionseg.inference.landmarks import keep_certain, load_landmark_model  # PyTorch is slow

    model = load_landmark_model(name)

    def locate(record: Record, image: ByteImage) -> list[Landmarks] | None:
        people = [keep_certain(person, MIN_EYE_SCORE) for person in model.predict(image)]
        return people or None  # a model that sees nobody may have missed somebody

    return model.skeleton, locate


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that have an option of their own."""
    shares = None if options.shares is None else dict(zip(PARTS, options.shares, strict=True))
    names = ("pseudonymize", "seed", "single_region", "polygons")
    return {"shares": shares} | {name: getattr(options, name) for name in names}


@contextmanager
def open_records(
    source: Path, follow_links: Path | None = None
) -> Iterator[tuple[Sequence[Record], Sequence[Problem]]]:
    """Open a study or a dataset while its records are read; yield them with what was left out."""
    place = find_study(source)
    if place is not None:
        if follow_links is not None:
            raise DatasetError("--follow-links is for datasets; a study knows where its images are.")
        with Study.open(place, READ_ONLY, unblind=True) as study:
            if study.info.landmarks is None:
                yield study_records(study), field_problems(study)
            else:
                records, unused = landmark_records(study)
                yield records, (*field_problems(study), *unused)
    else:
        with open_dataset(source, follow_links=follow_links) as dataset:
            yield dataset.records, (*dataset.problems, *file_problems(dataset))


def read_info(path: Path | None) -> DatasetInfo:
    """Read the JSON file that the datasheet is made from."""
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


def configure_import(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    readable = sorted(name for name, found in FORMATS.items() if found.read)
    parser.epilog = IMPORT_EXAMPLE
    parser.add_argument("source", type=Path, help="a folder, a COCO file, or a ZIP or TAR archive")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; must not exist, or be empty"
    )
    parser.add_argument(
        "--format", choices=readable, help="set this if the format is not detected (default: detected)"
    )
    _add_follow_links(parser)
    parser.add_argument(
        "--annotator",
        help=f"also make a study, in {STUDY_FOLDER}, with the masks or landmarks to review",
    )


def run_import(options: argparse.Namespace) -> int:
    """Read and write; 1 if entries were left out."""
    check_destination(options.out)
    report = run_with_progress(
        import_dataset(options.source, options.out, options.format, follow_links=options.follow_links)
    )
    result = print_report(report)
    if options.annotator is not None:
        return max(result, make_study(options.out, options.annotator, report.problems))
    return result


def make_study(folder: Path, annotator: str, told: Collection[Problem]) -> int:
    """Make a study of what was imported; 1 if something of it is not in the study.

    Problems that were told before are not told again.
    """
    dataset = read_dataset(folder)
    with progress_bar("Making the study", len(dataset.records)) as (progress, task):
        taken, problems = study_from_dataset(
            folder / STUDY_FOLDER,
            annotator,
            dataset,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    kind = "outlines" if dataset.records[0].skeleton is None else "images with landmarks"
    print_problems(problem for problem in problems if problem not in told)
    print_result(f"{folder / STUDY_FOLDER} is a study with {taken} {kind} to review: lesionseg {folder}")
    return int(any(problem.left_out for problem in problems))


def print_report(report: ExportReport) -> int:
    """Print what was written and what was left out; 1 if something was."""
    print_problems(report.problems)
    parts = ", ".join(f"{part} {count}" for part, count in report.parts.items())
    left_out = f"; {report.left_out} left out" if report.left_out else ""
    title = FORMATS[report.format].title
    print_result(f"{report.written} images written to {report.folder} ({title}; {parts}){left_out}")
    return 1 if report.left_out else 0


def print_problems(problems: Iterable[Problem]) -> None:
    """Print one line for each reason, so that thousands of one kind do not hide the others."""
    names: dict[str, list[str]] = {}
    for problem in problems:
        names.setdefault(problem.reason, []).append(problem.name)
    for reason, found in names.items():
        more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
        print_error(f"{', '.join(found[:MOST_NAMES])}{more}: {reason}")


def configure_verify(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = VERIFY_EXAMPLE
    parser.add_argument("folder", type=Path, help="a dataset written by lesionseg, or a study")


def run_verify(options: argparse.Namespace) -> int:
    """Hash every file; 1 if one is missing or was changed."""
    if (place := find_study(options.folder)) is not None:
        return check_study(place)
    found = run_with_progress(verify(options.folder))
    reasons = (("missing", found.missing), ("changed", found.changed), ("added since", found.added))
    print_problems(Problem(name, reason) for reason, names in reasons for name in names)
    state = "intact" if found.intact else "NOT as they were written"
    print_result(f"{found.checked} files checked: {state}")
    return 0 if found.intact else 1


def check_study(folder: Path) -> int:
    """Read every image and mask of a study; 1 if one is missing or damaged."""
    with Study.open(folder, READ_ONLY, unblind=True) as study:
        total = len(study.state.images)
        with progress_bar("Checking", total) as (progress, task):
            found = find_damage(study, lambda done, _: progress.update(task, completed=done))
        problems = [str(problem) for problem in (*study.problems, *found)]
        try:
            print_problems(field_problems(study))  # they are kept, and no damage
        except StudyError as error:
            problems.append(str(error))
        for problem in problems:
            print_error(problem)
    print_result(f"{total} images and their masks checked: {'damaged' if problems else 'intact'}")
    return 1 if problems else 0
