"""DICOM: dermoscopic photographs in, cleaned photographs with segmentation objects out.

A photograph's pixels are encoded again, and only the header elements listed here are kept; names, numbers,
dates, addresses and private elements go, and unique identifiers are replaced (PS3.15, annex E, basic
profile). The outlines become a Segmentation object (PS3.3, A.51) that refers to the cleaned photograph: one
segment for each object.

Needs the packages pydicom and highdicom (``pip install "napari-lesionseg[dicom]"``).
"""

from __future__ import annotations

import functools
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from napari_lesionseg.datasets.facts import UNKNOWN, find_tables, name_key, read_facts
from napari_lesionseg.datasets.formats.base import (
    MAX_FILES_SCANNED,
    Format,
    Placed,
    Plan,
    part_of,
    read_provenance,
)
from napari_lesionseg.datasets.formats.dicom_files import (
    Header,
    clean_photograph,
    read_header,
    read_photograph,
    read_segments,
    segmentation,
)
from napari_lesionseg.datasets.records import (
    LESION_CLASSES,
    NOT_OUTLINED,
    Dataset,
    InstanceImage,
    Problem,
    Provenance,
    Record,
    natural_order,
)
from napari_lesionseg.errors import DatasetError, ImageError
from napari_lesionseg.io.folders import FolderScan
from napari_lesionseg.types import LabelImage

SUFFIXES = (".dcm", ".dicom")
"""Endings of DICOM files; those without any, or with a number, are known by their first bytes."""


def recognizes(scan: FolderScan) -> bool:
    """Tell whether a folder holds DICOM files."""
    return any(map(_is_dicom, _candidates(scan)[:MAX_FILES_SCANNED]))


def _candidates(scan: FolderScan) -> list[Path]:
    """List the files with an ending that DICOM files have: scanners number them, or give them none."""
    numbers = (suffix for suffix in scan.suffixes if suffix[1:].isdecimal())
    return scan.with_suffix(*SUFFIXES, "", *numbers)


def _is_dicom(path: Path) -> bool:
    """Tell by its ending, or by its first bytes where it has none, whether a file is DICOM."""
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.name.upper() == "DICOMDIR":  # the index of a disc, which holds no image
        return False
    return (not path.suffix or path.suffix[1:].isdecimal()) and _has_preamble(path)


def _name(path: Path) -> str:
    """Return a file's name without its ending; a number is part of the name."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def _has_preamble(path: Path) -> bool:
    """Tell whether the four letters that every DICOM file has are where they belong."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read(scan: FolderScan) -> Dataset:
    """List the photographs of a folder, and the segmentations that belong to them.

    Parameters
    ----------
    scan : FolderScan
        Files ending in .dcm or .dicom, or without an ending.

    Returns
    -------
    Dataset
        Records; without a mask where there is no segmentation.

    Raises
    ------
    DatasetError
        When there is no photograph, or the packages are missing.
    """
    folder = scan.root
    photographs: list[tuple[Path, Header]] = []
    candidates: dict[str, list[_Outlines]] = {}
    problems: list[Problem] = []
    files = list(filter(_is_dicom, _candidates(scan)))
    for path in files:
        try:
            header = read_header(path)
        except ImageError as error:
            problems.append(Problem(path.name, str(error)))
            continue
        if header.photograph:
            candidates.setdefault(header.photograph, []).append(_Outlines(path, header.classes))
        else:
            photographs.append((path, header))
    if not photographs:
        reason = next((f" The first reason: {problem.reason}" for problem in problems), "")
        raise DatasetError(f"{folder} holds no DICOM photographs.{reason}")
    segmentations = _only_ones(candidates, {header.uid for _, header in photographs}, problems)
    provenance = read_provenance(folder)
    classes = _classes(segmentations.values())
    tables = find_tables(scan)
    facts = read_facts(tables, [_name(path) for path, _ in photographs])
    records = [
        facts.applied(
            replace(
                _record(path, header, segmentations.get(header.uid), classes, provenance),
                part=part_of(path, folder),
            )
        )
        for path, header in photographs
    ]
    used = frozenset([*files, *tables])
    return Dataset("dicom", natural_order(records), (*problems, *facts.problems), used)


class _Outlines(NamedTuple):
    """A segmentation, and the names of its segments, background first."""

    path: Path
    classes: tuple[str, ...]


def _only_ones(
    candidates: Mapping[str, Sequence[_Outlines]], photographs: Collection[str], problems: list[Problem]
) -> dict[str, _Outlines]:
    """Return the segmentation of each photograph that has exactly one; name the others."""
    only: dict[str, _Outlines] = {}
    for uid, found in candidates.items():
        names = ", ".join(outlines.path.name for outlines in found)
        if uid not in photographs:
            problems.append(Problem(names, "The photograph that it belongs to is not there."))
        elif len(found) > 1:
            problems.append(Problem(names, "A photograph has several segmentations; none is used."))
        else:
            only[uid] = found[0]
    return only


def _classes(found: Iterable[_Outlines]) -> tuple[str, ...]:
    """Name the classes of all segmentations, each of which names its own: the lesion first."""
    names = dict.fromkeys(name for outlines in found for name in outlines.classes[1:])
    return ("background", *sorted(names, key=lambda name: name != "lesion")) if names else LESION_CLASSES


def _record(
    path: Path,
    header: Header,
    outlines: _Outlines | None,
    classes: tuple[str, ...],
    provenance: Mapping[str, Provenance],
) -> Record:
    name = _name(path)
    sex = {"F": "female", "M": "male"}.get(header.sex)
    known = provenance.get(name_key(name), Provenance() if outlines else NOT_OUTLINED)
    mask = functools.partial(_labels, outlines.path, classes) if outlines else None
    if mask is None and known.status == "no lesion":  # a segmentation has one segment at least
        mask = functools.partial(_no_lesion, path)
    return Record(
        name,
        functools.partial(read_photograph, path),
        mask,
        instances=functools.partial(_instances, outlines.path, classes) if outlines else None,
        classes=classes,
        patient=None if header.patient.strip().casefold() in UNKNOWN else header.patient.strip(),
        metadata={"sex": sex} if sex else {},
        provenance=known,
        origin=path,
    )


def _no_lesion(photograph: Path) -> LabelImage:
    return np.zeros(read_photograph(photograph).shape[:2], np.uint8)


def _labels(path: Path, classes: tuple[str, ...]) -> LabelImage:
    return read_segments(path, classes)[0]


def _instances(path: Path, classes: tuple[str, ...]) -> InstanceImage:
    return read_segments(path, classes)[1]


def with_originals(records: Iterable[Record], folder: Path) -> list[Record]:
    """Tell records which DICOM files their images came from, by their names.

    Parameters
    ----------
    records : iterable of Record
        Such as those of a study whose images were imported from DICOM.
    folder : Path
        The DICOM files.

    Returns
    -------
    list of Record
        In the same order; a record without a file of its name stays as it is.

    Raises
    ------
    DatasetError
        When there is no photograph in the folder, or several have the name of a record.
    """
    records, found = list(records), read(FolderScan(folder)).records
    count = Counter(origin.name for origin in found)
    several = next((record.name for record in records if count[record.name] > 1), None)
    if several is not None:
        raise DatasetError(f"Several photographs in {folder} are called {several}; rename all but one.")
    origins = {origin.name: origin for origin in found}
    return [
        replace(
            record, origin=origins[record.name].origin, patient=record.patient or origins[record.name].patient
        )
        if record.name in origins
        else record
        for record in records
    ]


def write(plan: Plan) -> Iterator[Placed]:
    """Write a cleaned photograph and a segmentation for each record, in a folder for each part.

    Parameters
    ----------
    plan : Plan
        What to write; every record must have come as DICOM.

    Yields
    ------
    Placed
        After each record.

    Raises
    ------
    DatasetError
        When a record did not come as DICOM, or the packages are missing.
    """
    salt = secrets.token_hex(16)
    for record in plan.records:
        folder = plan.folder / (record.part or "train")
        folder.mkdir(exist_ok=True)
        pixels = plan.load(record)
        photograph = clean_photograph(record, pixels.image, salt)
        target = folder / f"{record.name}.dcm"
        photograph.save_as(target, enforce_file_format=True)
        mask = ""
        if pixels.labels.any():
            path = folder / f"{record.name}_segmentation.dcm"
            segmentation(photograph, pixels, record).save_as(path)
            mask = path.relative_to(plan.folder).as_posix()
        yield Placed(record.name, target.relative_to(plan.folder).as_posix(), mask)


FORMATS = (Format("dicom", "DICOM SEG", recognizes, read, write, origin="DICOM"),)
