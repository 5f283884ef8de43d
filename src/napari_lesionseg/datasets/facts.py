"""What tables beside images say of them: patient, lesion, diagnosis, part, and anything else.

One reader for every source. Columns are known by their names in any letter case, images by their names with
or without ending. What cannot be used is a `Problem`, never dropped without a word.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.datasets.splits import Part, SplitItem, bare_number
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan
from napari_lesionseg.io.images import image_suffixes
from napari_lesionseg.io.tables import TABLE_SUFFIXES, UNREAD_TABLES, read_header, read_tables

NAME_COLUMNS = (
    "name", "isic_id", "image_id", "img_id", "image", "image_name", "file_name", "image_file", "image_path",
    "file_path", "path", "file", "img", "img_name", "image_file_name", "md5hash", "ddi_file",
)  # fmt: skip
"""Columns that may hold an image's name; that which names most images is taken."""

PATIENT_COLUMNS = (
    "patient_id", "patient", "subject_id", "subject", "patient_number", "patient_no", "patient_nr",
    "patient_code", "patient_key", "pat_id", "pid", "participant_id", "participant", "person_id", "mrn",
)  # fmt: skip
LESION_COLUMNS = ("lesion_id", "lesion", "lesion_number", "lesion_no", "lesion_nr")
PART_COLUMNS = ("part", "split", "subset")
DIAGNOSIS_COLUMNS = ("diagnosis", "dx", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnostic")

IMAGE_KEYS = {
    "id", "file_name", "width", "height", "facts", "license", "date_captured", "flickr_url", "coco_url",
    "url", "path", "dataset_id", "category_ids", "deleted", "num_annotations", "milliseconds",
    "regenerate_thumbnail",
}  # fmt: skip
"""Keys of COCO's images that say nothing of patients, as its tools and editors write them."""

_OWN_TABLES = {
    "provenance.csv",
    "classes.csv",
    "labelmap.txt",
    "ph2_dataset.txt",
    "ph2_dataset.xlsx",
    "ph2_dataset.ods",
}
UNKNOWN = {
    "", "na", "n/a", "n.a.", "<na>", "#n/a", "nan", "nat", "none", "null", "nil", "?", "unknown", "missing",
    "not available", "anonymous",
    "anonymized", "anonymised", "-", "--", ".", "#ref!", "#value!", "#name?", "#null!", "#num!", "#div/0!",
}  # fmt: skip
"""What tables say, in lower case, where a value is not known."""

_PARTS: Mapping[str, Part] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "holdout": "test",
}  # fmt: skip
ONE_HOT = ("melanoma", "seborrheic_keratosis")
_PAD_UFES = re.compile(r"PAT_(?P<patient>\d+)_(?P<lesion>\d+)_\d+", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\W_]+")
_SPACES = re.compile(r"\s+")
_SHORTENED = re.compile(r"\d(?:[.,]\d+)?E\+\d+", re.IGNORECASE)
# Points and run lengths, as VIA, Label Studio and many competitions write them into cells.
_OUTLINE = re.compile(
    r'"(?:all_points_x|points|rle|counts|cx)"|\[\[?-?\d[\d.]*(?:, ?-?\d[\d.]*){5}|\d+(?: \d+){5}'
)
_IMAGE_ENDINGS = image_suffixes | {".dcm"}
_HEADERS = 3  # first rows that may be headers
_SEVERAL = 5  # names that are listed of images with contradicting rows


@dataclass(slots=True)
class Facts:
    """Rows of tables by `name_key`, and what could not be used of the tables."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def applied(self, record: Record) -> Record:
        """Return the record with the facts of its row."""
        return with_facts(record, self.rows.get(name_key(record.name), {}) if self.rows else {})

    def split_items(self) -> list[SplitItem]:
        """Return patient, lesion and diagnosis of every row, as splits need them."""
        return [
            SplitItem(name, _known(row, "patient_id"), _known(row, "lesion_id"), _diagnosis(row))
            for name, row in self.rows.items()
        ]


def name_key(name: str) -> str:
    """Return what the names of one image in several places have in common: no folder, ending or case."""
    # Strings, not paths: 10 000 images are asked for several times.
    plain = unicodedata.normalize("NFC", name.replace("\\", "/")).rstrip("/").rsplit("/", 1)[-1]
    stem, suffix = os.path.splitext(plain)  # noqa: PTH122
    return (stem if suffix.lower() in _IMAGE_ENDINGS else plain).casefold()


def find_tables(scan: FolderScan) -> list[Path]:
    """List the tables below a folder, without those that other modules read."""
    found = scan.with_suffix(*TABLE_SUFFIXES, *UNREAD_TABLES, "")
    return [
        path for path in found if (path.suffix or _is_bare(path)) and path.name.lower() not in _OWN_TABLES
    ]


def _is_bare(path: Path) -> bool:
    """Whether a file without an ending is a table by its name, such as HAM10000_metadata."""
    return path.name.lower().endswith("metadata")


def read_facts(tables: Iterable[Path], names: Collection[str]) -> Facts:
    """Read the tables of a dataset.

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
        or name none of the images, tables that lack some images and name others that are not there, and
        images of which two rows say different things.
    """
    facts = Facts()
    tables = list(tables)
    if not tables:
        return facts
    known = _Names(names)
    contradicting: dict[str, list[str]] = {}
    unused: dict[str, int] = {}  # rows
    for path, title, table in _read_all(tables, facts.problems):
        rows = [_with_usual_columns(row) for row in table]
        named = _named_rows(rows, known)
        if named is None:
            if path.suffix.lower() != ".txt":
                facts.problems.append(Problem(title, _no_names(rows)))
            continue
        unused[title] = len(rows) - len(named)
        facts.problems += _mismatches(title, rows, named, known)
        _merge(facts, named, contradicting)
    if known.met:
        text = f"Several images have the name {_list_names(sorted(known.met))}; their rows are not used."
        facts.problems.append(Problem("tables", text))
    for column, images in contradicting.items():
        text = f"Rows say different things of {_list_names(images)}; the first is taken."
        facts.problems.append(Problem(column, text))
    lacking = sorted(known.keys - facts.rows.keys())
    for title, count in unused.items():
        if lacking and count and facts.rows:  # the table of a larger dataset is none to complain of
            rows_are = "1 row names" if count == 1 else f"{count} rows name"
            verb = "is" if len(lacking) == 1 else "are"
            reason = f"{rows_are} no image, and {_list_names(lacking)} {verb} in no table."
            facts.problems.append(Problem(title, reason))
    return facts


def _read_all(
    paths: Iterable[Path], problems: list[Problem]
) -> Iterator[tuple[Path, str, list[dict[str, str]]]]:
    """Yield the tables of files with their names, and list those that cannot be read."""
    for path in paths:
        for title, rows in read_tables(path).items():
            if not isinstance(rows, DatasetError):
                yield path, title, rows
            elif path.suffix.lower() != ".txt" or _may_name_images(path):
                problems.append(Problem(title, str(rows)))


def _may_name_images(path: Path) -> bool:
    """Whether a text file that cannot be read as a table is one by its header, and no note."""
    try:
        return any(_SEPARATORS.sub("", header) in _NAME_HEADERS for header in read_header(path))
    except DatasetError:
        return True


def _merge(
    facts: Facts, named: Iterable[tuple[str, dict[str, str]]], contradicting: dict[str, list[str]]
) -> None:
    """Add rows to what is known; of values that differ, the first is kept, and the image is noted."""
    for key, row in named:
        before = facts.rows.get(key, {})
        for column in row.keys() & before.keys():
            if row[column] != before[column]:
                contradicting.setdefault(column, []).append(key)
        facts.rows[key] = row | before


class _Names:
    """The names of the images of a dataset, as the cells of tables may spell them."""

    def __init__(self, names: Collection[str]) -> None:
        count = Counter(map(name_key, names))
        self.keys = {key for key, number in count.items() if number == 1}
        self._ambiguous = count.keys() - self.keys
        self.met = set[str]()  # names that cells hold and several images have
        numbers: dict[str, list[str]] = {}
        for key in self.keys:
            if number := bare_number(key):
                numbers.setdefault(number, []).append(key)
        self._numbers = {number: keys[0] for number, keys in numbers.items() if len(keys) == 1}

    def find(self, cell: str) -> str | None:
        """Return the `name_key` of the image that a cell names."""
        key = name_key(cell)
        if key in self.keys:
            return key
        if key in self._ambiguous:
            self.met.add(key)
        return self._numbers.get(bare_number(key) or "")


def _with_usual_columns(row: Mapping[str, str]) -> dict[str, str]:
    """Return a row with the usual headers for names, patients, lesions and parts; imageId is image_id.

    Of several columns for one of them, the others keep their headers, but for those of images' names.
    """
    usual: dict[str, str] = {}
    for header, cell in row.items():
        column = _COLUMNS.get(_SEPARATORS.sub("", header), header)
        if column == header or (column not in row and column not in usual):
            usual[column] = cell
        elif column not in NAME_COLUMNS:
            usual.setdefault(header, cell)
    return usual


def _named_rows(rows: Sequence[dict[str, str]], known: _Names) -> list[tuple[str, dict[str, str]]] | None:
    """Return what the rows of known images say, by the column that names most of them; None without one."""
    columns = [column for column in NAME_COLUMNS if rows and column in rows[0]]
    if not columns:
        return None
    found = {column: [known.find(row[column]) for row in rows] for column in columns}
    best = max(columns, key=lambda column: sum(key is not None for key in found[column]))
    return [
        (key, {header: cell for header, cell in row.items() if cell and header != best})
        for key, row in zip(found[best], rows, strict=True)
        if key is not None
    ]


def _mismatches(
    title: str,
    rows: Sequence[dict[str, str]],
    named: Sequence[tuple[str, dict[str, str]]],
    known: _Names,
) -> Iterator[Problem]:
    """Say that a table names no image, or holds what cannot be used or may be wrong."""
    if not named:
        columns = ", ".join(column for column in NAME_COLUMNS if column in rows[0])
        yield Problem(title, f"No row of the table names an image (column {columns}).")
    if any(_is_header(row, known) for row in rows[:_HEADERS]):
        yield Problem(title, "The table has a second line with the names of columns; keep that one alone.")
    for column in ("patient_id", "lesion_id"):
        if column in rows[0] and not any(row.get(column) for row in rows):
            reason = f"The column {column} is empty; a spreadsheet may have saved formulas without values."
            yield Problem(title, reason)
        shortened = next((row[column] for row in rows if _SHORTENED.fullmatch(row.get(column, ""))), None)
        if shortened:
            yield Problem(title, f"A spreadsheet has shortened numbers of {column}, such as {shortened}.")
    outlines = {column for _, row in named for column, cell in row.items() if _OUTLINE.search(cell)}
    if outlines:
        reason = (
            f"The outlines in the column {_list_names(sorted(outlines))} are not used; save them as masks."
        )
        yield Problem(title, reason)
    words = {row["part"] for _, row in named if not _is_part(row.get("part", ""))}
    if words:
        yield Problem(title, f"The parts {_list_names(sorted(words))} are none of train, val and test.")


def _is_header(row: Mapping[str, str], known: _Names) -> bool:
    """Whether a row holds other names of columns than those above it; files may repeat their own."""
    cells = {header: _usual(cell.casefold()) for header, cell in row.items() if cell}
    names = {cells[column] for column in NAME_COLUMNS if column in cells} & {*NAME_COLUMNS}
    return bool(names - known.keys) and any(_usual(header) != cell for header, cell in cells.items())


def _usual(header: str) -> str:
    plain = _SEPARATORS.sub("", header)
    return _COLUMNS.get(plain, plain)


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SEVERAL} more" if len(names) > _SEVERAL else ""
    return ", ".join(names[:_SEVERAL]) + more


def _is_part(word: str) -> bool:
    return word.casefold() in {*_PARTS, *UNKNOWN}


def _no_names(rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        return "The table has no rows."
    return f"The table has no column with the names of images ({', '.join(NAME_COLUMNS)})."


_COLUMNS = {
    _SEPARATORS.sub("", alias): aliases[0]
    for aliases in (PATIENT_COLUMNS, LESION_COLUMNS, PART_COLUMNS)
    for alias in aliases
} | {_SEPARATORS.sub("", name): name for name in (*NAME_COLUMNS, *DIAGNOSIS_COLUMNS)}
_NAME_HEADERS = {_SEPARATORS.sub("", name) for name in NAME_COLUMNS}


def agreed_attributes(attributes: Iterable[Any]) -> dict[str, str]:
    """Return as text the attributes (by name, as CVAT writes them) that the objects of an image agree on."""
    found: dict[str, set[str]] = {}
    for named in attributes:
        for name, value in named.items() if isinstance(named, dict) else ():
            if isinstance(value, bool | int | float | str) and str(value):
                found.setdefault(str(name).casefold().replace(" ", "_"), set()).add(str(value))
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def further_facts(entry: Mapping[str, Any]) -> dict[str, str]:
    """Return as a row what an entry of a COCO file says of its image in other keys than `IMAGE_KEYS`."""
    listed = (entry, *(entry[key] for key in ("attributes", "extra", "metadata") if key in entry))
    found = {
        _SPACES.sub("_", str(name).casefold()): str(value)
        for named in listed
        if isinstance(named, dict)
        for name, value in named.items()
        if name not in IMAGE_KEYS and isinstance(value, int | float | str) and str(value)
    }
    return _with_usual_columns(found)


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
    if not row and not pad:
        return record
    patient = _known(row, "patient_id") or (pad["patient"] if pad else record.patient)
    if pad and patient:  # the table of PAD-UFES-20 has PAT_355 where others have 355
        patient = re.sub("^PAT_", "", patient, flags=re.IGNORECASE)
    fixed = {*NAME_COLUMNS, "mask_file_name", "patient_id", "lesion_id", "diagnosis", "part"}
    return replace(
        record,
        patient=patient,
        lesion=_known(row, "lesion_id") or (pad["lesion"] if pad else record.lesion),
        diagnosis=_diagnosis(row) or record.diagnosis,
        part=_PARTS.get(row.get("part", "").casefold(), record.part),
        metadata={
            **record.metadata,
            **{name: value for name, value in row.items() if value and name not in fixed},
        },
    )


def _known(row: Mapping[str, str], column: str) -> str | None:
    """Return the value of a column, if it is known."""
    value = row.get(column, "")
    return None if value.casefold() in UNKNOWN else value


def _diagnosis(row: Mapping[str, str]) -> str | None:
    """Return the diagnosis; the challenge of 2017 has a column of 0.0 and 1.0 for each."""
    told = (_known(row, column) for column in DIAGNOSIS_COLUMNS)
    one_hot = (name for name in ONE_HOT if row.get(name) in ("1", "1.0"))
    return next((diagnosis for diagnosis in told if diagnosis), None) or next(one_hot, None)
