"""Listing a folder's entries: images, masks and tables by their names, broken ones set aside."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

from napari_lesionseg.datasets.records import STATUSES, Provenance, Record
from napari_lesionseg.datasets.splits import PARTS, Part
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.archives import read_table, walk
from napari_lesionseg.io.images import image_suffixes
from napari_lesionseg.io.pairing import natural_key

PROVENANCE_NAME = "provenance.csv"
PROVENANCE_COLUMNS = (
    "name", "part", "image", "mask", "status", "annotator", "model", "corrected_share", "time", "empty",
)  # fmt: skip
MAX_FILES_SCANNED = 5000
"""How many files of a folder are looked at to find out what it is."""

_PART_WORDS: tuple[tuple[re.Pattern[str], Part], ...] = (
    (re.compile(r"(?i)(?:^|[^a-z])(?:training|train)(?:[^a-z]|$)"), "train"),
    (re.compile(r"(?i)(?:^|[^a-z])(?:validation|valid|val)(?:[^a-z]|$)"), "val"),
    (re.compile(r"(?i)(?:^|[^a-z])(?:testing|test)(?:[^a-z]|$)"), "test"),
)
_PATIENT_COLUMNS = ("patient_id", "patient")
_LESION_COLUMNS = ("lesion_id", "lesion")
_DIAGNOSIS_COLUMNS = ("diagnosis", "dx", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnostic")
_ONE_HOT = ("melanoma", "seborrheic_keratosis")


def any_file_matches(folder: Path, found: Callable[[Path], bool]) -> bool:
    """Tell whether one of a folder's first files is as asked; cheap even for huge folders.

    Parameters
    ----------
    folder : Path
        The folder.
    found : callable
        The question.

    Returns
    -------
    bool
        Whether there is such a file among the first `MAX_FILES_SCANNED`.
    """
    return any(found(path) for path in islice(walk(folder), MAX_FILES_SCANNED))


def is_image(path: Path) -> bool:
    """Tell by its ending whether a file is an image."""
    return path.suffix.lower() in image_suffixes


def part_of(path: Path, root: Path) -> Part | None:
    """Read the part of the set (train, val, test) off the folders that a file lies in, if they say so."""
    for folder in reversed(path.relative_to(root).parts[:-1]):
        for words, part in _PART_WORDS:
            if words.search(folder):
                return part
    return None


def natural_order(records: Iterable[Record]) -> tuple[Record, ...]:
    """Sort records by name, numbers by their value."""
    return tuple(sorted(records, key=lambda record: natural_key(Path(record.name))))


def read_tables(paths: Iterable[Path], keys: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Merge the rows of several CSV files by a column of names; tables without such a column are left out.

    Parameters
    ----------
    paths : iterable of Path
        The tables; damaged ones are left out.
    keys : tuple of str
        Headers that the column of names may have.

    Returns
    -------
    dict
        Facts by name in lower case, without an ending.
    """
    merged: dict[str, dict[str, str]] = {}
    for path in paths:
        try:
            rows = read_table(path)
        except DatasetError:
            continue
        for row in rows:
            name = next((row[key] for key in keys if row.get(key)), "")
            if name:
                merged.setdefault(name_key(name), {}).update(row)
    return merged


def name_key(name: str) -> str:
    """Return what the names of one image in several places have in common."""
    path = Path(name)
    return (path.stem if is_image(path) else path.name).casefold()


def with_facts(record: Record, row: Mapping[str, str], keys: tuple[str, ...]) -> Record:
    """Return the record with patient, lesion, diagnosis, part and further facts from a row of a table.

    Parameters
    ----------
    record : Record
        As the files show it.
    row : mapping
        Cells by header; may be empty.
    keys : tuple of str
        Headers of the column of names, which is no fact.

    Returns
    -------
    Record
        What the record already says is kept where the row is silent.
    """
    part = row.get("part", "")
    known = {*keys, *_PATIENT_COLUMNS, *_LESION_COLUMNS, "diagnosis", "part"}
    facts = {name: value for name, value in row.items() if value and name not in known}
    return replace(
        record,
        patient=_first(row, _PATIENT_COLUMNS) or record.patient,
        lesion=_first(row, _LESION_COLUMNS) or record.lesion,
        diagnosis=_first(row, _DIAGNOSIS_COLUMNS) or _one_hot(row) or record.diagnosis,
        part=part if part in PARTS else record.part,
        metadata={**record.metadata, **facts},
    )


def _first(row: Mapping[str, str], columns: Iterable[str]) -> str | None:
    return next((row[column] for column in columns if row.get(column)), None)


def _one_hot(row: Mapping[str, str]) -> str | None:
    """Read a diagnosis off columns of 0.0 and 1.0, as the challenge of 2017 gives it."""
    return next((name for name in _ONE_HOT if row.get(name) in ("1", "1.0")), None)


def read_provenance(folder: Path) -> dict[str, Provenance]:
    """Read who drew which mask, as an earlier export wrote it down.

    Parameters
    ----------
    folder : Path
        The data set.

    Returns
    -------
    dict
        Provenance by `name_key`; empty when there is no such table.
    """
    path = folder / PROVENANCE_NAME
    if not path.is_file():
        return {}
    return {name_key(name): _provenance(row) for name, row in read_tables([path], ("name",)).items()}


def _provenance(row: Mapping[str, str]) -> Provenance:
    status = row.get("status", "")
    return Provenance(
        annotator=row.get("annotator", ""),
        model=row.get("model", ""),
        corrected=_share(row.get("corrected_share", "")),
        status=status if status in STATUSES else "unreviewed",
        time=row.get("time", ""),
    )


def _share(text: str) -> float | None:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1 else None
