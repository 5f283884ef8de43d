"""JSON files and tables from strangers: bounded in size, and every fault named in one `DatasetError`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import python_calamine

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.atomic import write_atomically

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".xlsx", ".xlsm", ".jsonl")
"""Endings of the tables that are read, in lower case."""

UNREAD_TABLES = (".xls", ".xlsb", ".ods", ".numbers", ".parquet", ".feather")
"""Endings of tables that are named, since nobody else says that they are not read."""

MAX_JSON_BYTES = 2 * 1024**3
MAX_TABLE_BYTES = 256 * 1024**2
MAX_SHEET_BYTES = 64 * 1024**2
"""Largest workbook that is read, unpacked."""

MAX_CELLS = 5_000_000
# All references of cells and rows: calamine takes memory for the whole rectangle that they span.
_REFERENCE = re.compile(rb"""\br\s*=\s*["']([A-Za-z]*)(\d*)["']""")
_HEAD = 200
_SPACES = re.compile(r"\s+")
_COMMENTS = re.compile(r"(?:[ \r\n\ufeff]|#[^\n,;\t|:]*(?:\n|\Z))*")  # a line with delimiters is the header
_SEP_LINE = re.compile(r"sep=(.)[^\n]*\n")  # Excel's own hint
_DAMAGED = (
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    python_calamine.CalamineError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_json(path: Path) -> Any:
    """Return what a JSON file (UTF-8, at most `MAX_JSON_BYTES`) holds."""
    text = _text(path, MAX_JSON_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not a readable JSON file: {error}.") from error


def read_table(path: Path, delimiter: str | None = None) -> list[dict[str, str]]:
    """Return the rows of a table, header to cell; missing cells are "", empty rows are left out.

    A line of a file of JSON lines is a row, without what is neither text nor number in it.
    Headers come in lower case, with `_` for spaces. Workbooks, and text with any delimiter and encoding that
    spreadsheets write, are read; the first line that is not blank is the header.
    """
    suffix = path.suffix.lower()
    if suffix in UNREAD_TABLES:
        raise DatasetError(f"{path} is a table of a kind that is not read; save it as CSV or XLSX.")
    if suffix == ".jsonl":
        return [dict(_json_cells(line, path)) for line in _text(path, MAX_TABLE_BYTES).splitlines() if line]
    rows = read_sheet(path) if suffix in (".xlsx", ".xlsm") else read_cells(path, delimiter)
    cells = [[cell.strip() for cell in row] for row in rows]
    filled = [row for row in cells if any(row)]
    if not filled:
        return []
    header = [_SPACES.sub("_", name.casefold().lstrip("# ")) for name in filled[0]]
    if len({name for name in header if name}) != sum(map(bool, header)):
        raise DatasetError(f"Two columns of {path} have the same name.")
    padding = [""] * len(header)
    return [
        {name: cell for name, cell in zip(header, [*row, *padding], strict=False) if name}
        for row in filled[1:]
    ]


def _json_cells(line: str, path: Path) -> Iterator[tuple[str, str]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not a readable file of JSON lines: {error}.") from error
    if not isinstance(row, dict):
        raise DatasetError(f"{path} is not a table: a line of it is no JSON object.")
    for name, cell in row.items():
        if isinstance(cell, str | int | float):
            yield _SPACES.sub("_", name.casefold()), str(cell).strip()


def read_cells(path: Path, delimiter: str | None) -> list[list[str]]:
    """Return the cells of a text table, header included; None: the first line shows the delimiter."""
    text = _COMMENTS.sub("", _text(path, MAX_TABLE_BYTES), count=1)
    named = _SEP_LINE.match(text)
    if named:
        delimiter, text = named[1], text[named.end() :].lstrip("\r\n ")
    delimiter = delimiter or _find_delimiter(text)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise DatasetError(f"{path} is not a readable table: {error}.") from error


def _find_delimiter(text: str) -> str:
    """Return what separates the names in the header: the candidate that occurs most often, else spaces."""
    header = text.partition("\n")[0].strip(" \r")
    found = max(",;\t|", key=header.count)
    return found if found in header or " " not in header else " "


def read_sheet(path: Path) -> list[list[str]]:
    """Return the rows of the first sheet of a workbook (.xlsx) as text; empty cells are ""."""
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(_bounded_copy(path))
        rows = book.get_sheet_by_index(0).to_python(skip_empty_area=False)
        return [[_cell_text(cell) for cell in row] for row in rows]
    except _DAMAGED as error:
        raise DatasetError(f"{path} is not a readable workbook: {error}.") from error


def _cell_text(cell: Any) -> str:
    """Return a cell as it is shown: whole numbers, which sheets keep as floats, have no decimals."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def _bounded_copy(path: Path) -> io.BytesIO:
    """Return a workbook unpacked into memory; what is damaged or would take too much of it is an error.

    calamine trusts the sizes that a file claims, and Rust ends the whole process when memory runs out.
    """
    copied = io.BytesIO()
    left = MAX_SHEET_BYTES
    with zipfile.ZipFile(path) as book, zipfile.ZipFile(copied, "w") as copy:
        for entry in book.infolist():
            with book.open(entry) as stream:
                payload = stream.read(left + 1)
            left -= len(payload)
            if left < 0:
                raise DatasetError(f"{path} is larger than {MAX_SHEET_BYTES // 1024**2} MB and is not read.")
            if entry.filename.lower().startswith("xl/worksheets/"):
                _check_span(payload, path)
            copy.writestr(entry.filename, payload)
    copied.seek(0)
    return copied


def _check_span(sheet: bytes, path: Path) -> None:
    rows = columns = 1
    for letters, digits in set(_REFERENCE.findall(sheet)):
        columns = max(columns, _column_number(letters[:4]))
        rows = max(rows, int(digits[:8] or 0))
    if rows * columns > MAX_CELLS:
        raise DatasetError(f"{path} spans {rows} rows and {columns} columns, more than are read.")


def _column_number(letters: bytes) -> int:
    """Return 28 for AB."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + letter - ord("A") + 1
    return number


def write_table(path: Path, rows: Iterable[dict[str, str]], columns: Iterable[str]) -> None:
    """Write a CSV file with a header line, whole or not at all; cells that a row lacks stay empty.

    Letters that no encoding has, as in the names of files from other systems, are written as their codes.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, stream.getvalue().encode("utf-8", errors="backslashreplace"))


def _text(path: Path, limit: int) -> str:
    """Return a text file's contents: UTF-8 or UTF-16 by its mark, else UTF-8, else what Windows writes."""
    try:
        if path.stat().st_size > limit:
            raise DatasetError(f"{path} is larger than {limit // 1024**2} MB and is not read.")
        payload = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    if payload.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return payload.decode("utf-16", errors="replace")
    if b"\0" in payload[:_HEAD]:  # no mark, but every other byte of Western letters is 0
        return payload.decode("utf-16-be" if payload[:1] == b"\0" else "utf-16-le", errors="replace")
    try:
        return payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        return payload.decode("cp1252", errors="replace")
