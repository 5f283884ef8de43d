"""Arguments that several commands share: models, images with masks, and settings as ``--set NAME=VALUE``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from napari_lesionseg.cli.console import print_error
from napari_lesionseg.cluster.engine import ClusterOptions, Engine
from napari_lesionseg.config import Settings, describe_setting
from napari_lesionseg.datasets.facts import find_tables, read_facts
from napari_lesionseg.datasets.records import TURNED, Record, is_turned_alone
from napari_lesionseg.datasets.splits import SplitItem, describe_unknown_patients, hold_out
from napari_lesionseg.errors import LesionSegError, PairingError, SettingsError, TrainingError
from napari_lesionseg.io.atomic import check_writable, follow_link, is_stream
from napari_lesionseg.io.folders import FolderScan, is_dir, is_file
from napari_lesionseg.io.images import unread_pages
from napari_lesionseg.io.pairing import search_pairs
from napari_lesionseg.types import Pair

SettingsType = TypeVar("SettingsType", bound=Settings)
MOST_NAMES = 8
"""How many files that are left out are named."""


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and ``--device``."""
    parser.add_argument(
        "--model", help="name of a model, or a .safetensors file (default: the shipped model)"
    )
    add_device(parser)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``, ``--scheduler`` and ``--scheduler-file``, of which one may be given."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers", type=positive, default=0, metavar="N", help="work in N processes of this computer"
    )
    where.add_argument("--scheduler", metavar="ADDRESS", help="work on the dask cluster at this address")
    where.add_argument(
        "--scheduler-file", type=Path, metavar="FILE", help="work on the dask cluster of this scheduler file"
    )


def cluster_options(options: argparse.Namespace) -> ClusterOptions:
    """Collect what `add_cluster` added."""
    return ClusterOptions(options.workers, options.scheduler, options.scheduler_file)


def install_model(engine: Engine, path: Path) -> None:
    """Make a model available wherever chunks run, and print which workers cannot take part."""
    engine.install_model(path)
    for problem in engine.problems:
        print_error(problem)


def positive(text: str) -> int:
    """Convert text to a whole number above 0, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def probability(text: str) -> float:
    """Convert text to a number between 0 and 1, both excluded, for argparse."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def pixel_count(text: str) -> int:
    """Convert text to a number of pixels, 0 or more, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def score_limit(text: str) -> float:
    """Convert text to a score from 0 to 1, for argparse."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def command_line() -> str:
    """Return the command that is running, as it would be typed."""
    return shlex.join(["lesionseg", *sys.argv[1:]])


def make_folder(folder: Path) -> None:
    """Make the folder for results if it is not there; raise a `LesionSegError` if it cannot be written."""
    try:
        place = follow_link(folder)
        place.mkdir(parents=True, exist_ok=True)
        check_writable(place)
    except OSError as error:
        raise LesionSegError(f"Nothing can be written to the folder {folder}: {error.strerror}.") from error


def check_file(path: Path | None) -> None:
    """Raise a `LesionSegError` if a file cannot be written, before the work begins; pipes and devices can."""
    if path is None or is_stream(path):
        return
    if is_dir(path):
        raise LesionSegError(f"{path} is a folder; give the name of a file.")
    try:
        parent = follow_link(path).absolute().parent
        if not is_dir(parent):
            raise LesionSegError(f"{path} cannot be written: there is no folder {parent}.")
        check_writable(parent)
    except OSError as error:
        raise LesionSegError(f"{path} cannot be written: {error.strerror}.") from error


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add ``--out`` for a model, and ``--overwrite``."""
    parser.add_argument("--out", type=Path, required=True, help="the model to write, FILE.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it is there already")


def check_out(options: argparse.Namespace) -> None:
    """Raise an error if a model cannot be written to ``--out``, before hours of training go by."""
    path: Path = options.out
    if path.suffix != ".safetensors":
        raise TrainingError(f"The name of a model must end in .safetensors; {path.name} does not.")
    if not is_stream(path):
        make_folder(path.absolute().parent)
    check_file(path)
    if is_file(path) and not options.overwrite:
        raise TrainingError(f"{path} already exists; give another name, or replace it with --overwrite.")
    state = state_path(options)
    if is_file(state) and not (options.resume or options.overwrite):
        raise TrainingError(
            f"{state} holds an interrupted training; continue it with --resume, or start again with "
            "--overwrite."
        )


def state_path(options: argparse.Namespace) -> Path:
    """Return the file from which an interrupted training is resumed."""
    out: Path = options.out
    return out.with_suffix(".state.safetensors")


def check_partners(options: argparse.Namespace, partner: str, *names: str) -> None:
    """Raise a `LesionSegError` for options that would be ignored without another one."""
    for name in names:
        if options_value(options, name) and not options_value(options, partner):
            raise LesionSegError(f"{name} needs {partner}.")


def options_value(options: argparse.Namespace, name: str) -> object:
    """Return what was given for an option, such as ``--val-images``."""
    return getattr(options, name.removeprefix("--").replace("-", "_"))


def check_mask_folders(images: Sequence[str], masks: Sequence[str]) -> None:
    """Raise a `PairingError` unless each folder of images has a folder of masks, or none has one."""
    if masks and len(masks) != len(images):
        raise PairingError("Give one folder of masks for each folder of images, in the same order.")


def find_all_pairs(images: Sequence[str], masks: Sequence[str]) -> tuple[list[Pair], int]:
    """Find the pairs of several folders, each with its own folder of masks, or with none.

    Files that are in no pair are named, and so are masks in which white means something else than in most
    others; their number is returned as well.
    """
    from napari_lesionseg.datasets.formats.folder import find_misfits  # other commands need not wait for it

    check_mask_folders(images, masks)
    pairs: list[Pair] = []
    unused: list[str] = []
    for index, folder in enumerate(images):
        found = search_pairs([folder], [masks[index]] if masks else None)
        unused += found.unused()
        odd = dict(find_misfits(pair.mask for pair in found.pairs))
        unused += [f"{path}: {reason}" for path, reason in odd.items()]
        fitting = [pair for pair in found.pairs if pair.mask not in odd]
        pairs += fitting
        files = (path for pair in fitting for path in (pair.image, pair.mask))
        unused += [f"{path}: {unread}" for path in files if (unread := unread_pages(path))]
    if not pairs:
        raise PairingError(f"No image in {', '.join(images)} has a mask. The first reason: {unused[0]}")
    for line in unused[:MOST_NAMES]:
        print_error(line)
    turned = [pair.image.name for pair in pairs if is_turned_alone(pair.image, pair.mask)]
    if turned:  # they are used
        more = f" and {len(turned) - MOST_NAMES} more" if len(turned) > MOST_NAMES else ""
        print_error(f"{', '.join(turned[:MOST_NAMES])}{more}: {TURNED}")
    if len(unused) > MOST_NAMES:
        print_error(f"{len(unused) - MOST_NAMES} more files are left out for such reasons.")
    return pairs, len(unused)


def hold_out_stems(images: Sequence[str], stems: Iterable[str]) -> tuple[frozenset[str], int]:
    """Return which images are held out of training, and how many lines of tables could not be used.

    Patients and lesions, from tables in the folders and from names, stay together. Images of one stem, in
    whatever folder, show one lesion and are one item.
    """
    known = sorted(set(stems))
    scans = [FolderScan(Path(folder)) for folder in images if is_dir(Path(folder))]
    tables = [table for scan in scans for table in find_tables(scan)]
    facts = read_facts(tables, known)
    for problem in facts.problems:
        print_error(f"{problem.name}: {problem.reason}")
    records = [facts.applied(Record(stem, Path(stem))) for stem in known]
    items = [SplitItem(record.name, record.patient, record.lesion) for record in records]
    if unknown := describe_unknown_patients(items):
        print_error(unknown)
    held_out = hold_out(items)
    return held_out, sum(problem.left_out for problem in facts.problems)


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """Convert ``NAME=VALUE`` to settings; a value that is not JSON is a string."""
    return {name: _value(text) for name, _, text in (change.partition("=") for change in changes)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def make_settings(
    kind: type[SettingsType], *layers: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> SettingsType:
    """Join settings, the later ones over the earlier, and those that have an option of their own over all.

    None is a value like any other in a layer; among the options it means that the option was not given.
    """
    joined = {name: value for layer in layers for name, value in layer.items()}
    joined |= {name: value for name, value in (options or {}).items() if value is not None}
    try:
        return kind.model_validate(joined)
    except ValidationError as error:
        raise SettingsError(describe_setting(kind, error)) from error
