"""What tables beside images say of them: patient, lesion, diagnosis, part, and anything else.

One reader for every source. Columns are known by their names in any letter case, images by their names with
or without ending. What cannot be used is a `Problem`, never dropped without a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.datasets.splits import Part, SplitItem
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import walk
from napari_lesionseg.io.images import image_suffixes
from napari_lesionseg.io.tables import TABLE_SUFFIXES, read_table

NAME_COLUMNS = ("name", "isic_id", "image_id", "img_id", "image", "image_name", "file_name", "filename")
"""Columns that may hold an image's name; the first that a table has is taken."""

PATIENT_COLUMNS = ("patient_id", "patient")
LESION_COLUMNS = ("lesion_id", "lesion")
DIAGNOSIS_COLUMNS = ("diagnosis", "dx", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnostic")

_OWN_TABLES = {"provenance.csv", "classes.csv", "labelmap.txt", "ph2_dataset.txt", "ph2_dataset.xlsx"}
_UNKNOWN = {"", "na", "n/a", "nan", "none", "null", "?", "unknown"}
_PARTS: Mapping[str, Part] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_ONE_HOT = ("melanoma", "seborrheic_keratosis")
_PAD_UFES = re.compile(r"PAT_(?P<patient>\d+)_(?P<lesion>\d+)_\d+", re.IGNORECASE)
_SEVERAL = 5  # names that are listed of images with contradicting rows


@dataclass(slots=True)
class Facts:
    """Rows of tables by `name_key`, and what could not be used of the tables."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def applied(self, record: Record) -> Record:
        """Return the record with the facts of its row."""
        return with_facts(record, self.rows.get(name_key(record.name), {}))

    def split_items(self) -> list[SplitItem]:
        """Return patient, lesion and diagnosis of every row, as splits need them."""
        return [
            SplitItem(name, _first(row, PATIENT_COLUMNS), _first(row, LESION_COLUMNS), _diagnosis(row))
            for name, row in self.rows.items()
        ]


def name_key(name: str) -> str:
    """Return what the names of one image in several places have in common: no folder, ending or case."""
    plain = unicodedata.normalize("NFC", name.replace("\\", "/"))
    path = PurePosixPath(plain)
    return (path.stem if path.suffix.lower() in {*image_suffixes, ".dcm"} else path.name).casefold()


def find_tables(folder: Path) -> list[Path]:
    """List the tables below a folder, without those that other modules read."""
    return [
        path
        for path in walk(folder)
        if path.suffix.lower() in TABLE_SUFFIXES and path.name.lower() not in _OWN_TABLES
    ]


def read_facts(tables: Iterable[Path], names: Collection[str]) -> Facts:
    """Read the tables of a data set.

    Parameters
    ----------
    tables : iterable of Path
        Files that `read_table` reads. Text files (.txt) without a column of names are notes, not tables.
    names : collection of str
        Names of the images.

    Returns
    -------
    Facts
        The rows of these images. Among the problems are tables that cannot be read, have no column of names,
        or name none of the images, and images of which two rows say different things.
    """
    facts = Facts()
    known = {name_key(name) for name in names}
    contradicting: dict[str, list[str]] = {}
    for path in tables:
        try:
            rows = read_table(path)
        except DatasetError as error:
            facts.problems.append(Problem(path.name, str(error)))
            continue
        column = next((name for name in NAME_COLUMNS if rows and name in rows[0]), None)
        if column is None:
            if path.suffix.lower() != ".txt":
                facts.problems.append(Problem(path.name, _no_names(rows)))
            continue
        used = [row for row in rows if name_key(row[column]) in known]
        if not used:
            facts.problems.append(
                Problem(path.name, f"No row of the table names an image (column {column}).")
            )
        for row in used:
            fresh = {key: value for key, value in row.items() if value and key != column}
            merged = facts.rows.setdefault(name_key(row[column]), {})
            for key in fresh.keys() & merged.keys():
                if fresh[key] != merged[key]:
                    contradicting.setdefault(key, []).append(row[column])
            facts.rows[name_key(row[column])] = fresh | merged
    for key, images in contradicting.items():
        more = f" and {len(images) - _SEVERAL} more" if len(images) > _SEVERAL else ""
        text = f"Rows say different things of {', '.join(images[:_SEVERAL])}{more}; the first is taken."
        facts.problems.append(Problem(key, text))
    return facts


def _no_names(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "The table has no rows."
    return f"The table has no column with the names of images ({', '.join(NAME_COLUMNS)})."


def with_facts(record: Record, row: Mapping[str, str]) -> Record:
    """Return the record with patient, lesion, diagnosis, part and further facts from a row of a table.

    Parameters
    ----------
    record : Record
        As the files show it.
    row : mapping
        Cells by header in lower case; may be empty.

    Returns
    -------
    Record
        What the record already says is kept where the row is silent. Names such as ``PAT_355_732_102``
        (PAD-UFES-20) give patient and lesion by themselves.
    """
    pad = _PAD_UFES.fullmatch(record.name)
    patient = _first(row, PATIENT_COLUMNS) or (pad["patient"] if pad else record.patient)
    if pad and patient:  # the table of PAD-UFES-20 has PAT_355 where others have 355
        patient = re.sub("^PAT_", "", patient, flags=re.IGNORECASE)
    fixed = {*NAME_COLUMNS, *PATIENT_COLUMNS, *LESION_COLUMNS, "diagnosis", "part"}
    return replace(
        record,
        patient=patient,
        lesion=_first(row, LESION_COLUMNS) or (pad["lesion"] if pad else record.lesion),
        diagnosis=_diagnosis(row) or record.diagnosis,
        part=_PARTS.get(row.get("part", "").casefold(), record.part),
        metadata={
            **record.metadata,
            **{name: value for name, value in row.items() if value and name not in fixed},
        },
    )


def _first(row: Mapping[str, str], columns: Iterable[str]) -> str | None:
    """Return the first value that is known."""
    values = (row.get(column, "") for column in columns)
    return next((value for value in values if value.casefold() not in _UNKNOWN), None)


def _diagnosis(row: Mapping[str, str]) -> str | None:
    """Return the diagnosis; the challenge of 2017 has a column of 0.0 and 1.0 for each."""
    one_hot = (name for name in _ONE_HOT if row.get(name) in ("1", "1.0"))
    return _first(row, DIAGNOSIS_COLUMNS) or next(one_hot, None)
