"""JSON files and tables from strangers: bounded in size, and every fault named in one `DatasetError`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.workbooks import WORKBOOK_SUFFIXES, read_sheets

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".jsonl", *WORKBOOK_SUFFIXES)
"""Endings of the tables that are read, in lower case."""

UNREAD_TABLES = (".xls", ".xlsb", ".fods", ".numbers", ".parquet", ".feather")
"""Endings of tables that are named, since nobody else says that they are not read."""

MAX_JSON_BYTES = 2 * 1024**3
MAX_TABLE_BYTES = 256 * 1024**2
_HEAD = 200
_TITLES = 3
_SPACES = re.compile(r"\s+")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_COMMENTS = re.compile(r"(?:[ \r\n\ufeff]|#[^\n,;\t|:]*(?:\n|\Z))*")  # a line with delimiters is the header
_SEP_LINE = re.compile(r"sep=(.)[^\n]*\n")  # Excel's own hint
_QUOTED = re.compile(r'"[^"]*"')
# What letters of Macs, DOS and other alphabets become when they are read as Western Windows text.
_GARBLED = re.compile(
    r"[a-z][\u0160\u0152\u017d\u0178\u0192]"
    r"|[^\W\d_][\u201a\u201c-\u201e\u2020-\u2022\u02c6\u2030\u2039\u203a\u02dc"
    r"\xa1-\xa8\xac\xaf\xb1\xbc-\xbf][^\W\d_]"
    r"|[\xc0-\xd6\xd8-\xf6\xf8-\xff]{4}"
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

    A line of a file of JSON lines is a row; lists and objects in it stay JSON.
    Headers come in lower case, with `_` for spaces. Workbooks, and text with any delimiter and encoding that
    spreadsheets write, are read; the first line that is not blank, and no title, is the header.
    """
    for rows in read_tables(path, delimiter).values():
        if isinstance(rows, DatasetError):
            raise rows
        return rows
    return []


def read_tables(path: Path, delimiter: str | None = None) -> dict[str, list[dict[str, str]] | DatasetError]:
    """Return the rows of a table, or of each visible sheet of a workbook, by name; or why it is not read."""
    suffix = path.suffix.lower()
    try:
        if suffix in UNREAD_TABLES:
            raise DatasetError(f"{path} is a table of a kind that is not read; save it as CSV, XLSX or ODS.")
        if suffix == ".jsonl":
            lines = _text(path, MAX_TABLE_BYTES).splitlines()
            return {path.name: [dict(_json_cells(line, path)) for line in lines if line]}
        if suffix not in WORKBOOK_SUFFIXES:
            return {path.name: _rows(read_cells(path, delimiter), str(path))}
        sheets = read_sheets(path)
    except DatasetError as error:
        return {path.name: error}
    found: dict[str, list[dict[str, str]] | DatasetError] = {}
    for title, cells in sheets.items():
        name = path.name if len(sheets) == 1 else f"{path.name}, sheet {title}"
        try:
            found[name] = _rows(cells, str(path) if len(sheets) == 1 else f"the sheet {title} of {path}")
        except DatasetError as error:
            found[name] = error
    return found


def _rows(table: list[list[str]], where: str) -> list[dict[str, str]]:
    """Return the rows of a table whose first line that is not blank is the header."""
    cells = [[cell.strip().strip(_INVISIBLE) for cell in row] for row in table]
    filled = [row for row in cells if any(row)]
    if not where.lower().endswith(".txt"):  # which may be notes
        filled = _without_titles(filled)
    if not filled:
        return []
    header = list(map(_header, filled[0]))
    if len({name for name in header if name}) != sum(map(bool, header)):
        raise DatasetError(f"Two columns of {where} have the same name.")
    for number, row in enumerate(filled[1:], 2):
        if any(row[len(header) :]):  # which of its cells belongs to which column is not known
            raise DatasetError(
                f"Row {number} of {where} has more cells than the header; "
                "quote the cells that hold the delimiter."
            )
    # A first column without a name numbers the rows; others may hold facts.
    for place in range(1, len(header)):
        if not header[place] and any(len(row) > place and row[place] for row in filled):
            header[place] = f"column_{place + 1}"
    padding = [""] * len(header)
    return [
        {name: cell for name, cell in zip(header, [*row, *padding], strict=False) if name}
        for row in filled[1:]
    ]


def _without_titles(rows: list[list[str]]) -> list[list[str]]:
    """Leave out a few rows of several words in the first cell alone, above a header of several cells."""
    count = sum(1 for _ in takewhile(_is_title, rows[:_TITLES]))
    return rows[count:] if count < len(rows) and sum(map(bool, rows[count])) > 1 else rows


def _is_title(row: list[str]) -> bool:
    return len(row[0].split()) > 1 and not any(row[1:])


def read_header(path: Path) -> list[str]:
    """Return the first line of a text table, as `read_table` has its headers."""
    filled = (row for row in read_cells(path, None) if any(map(str.strip, row)))
    return [_header(cell) for cell in next(filled, [])]


def _header(cell: str) -> str:
    return _SPACES.sub("_", cell.strip().strip(_INVISIBLE).casefold().lstrip("# "))


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
        elif cell:  # lists and objects, such as boxes
            yield _SPACES.sub("_", name.casefold()), json.dumps(cell)


def read_cells(path: Path, delimiter: str | None) -> list[list[str]]:
    """Return the cells of a text table, header included; None: the first line shows the delimiter."""
    text = _COMMENTS.sub("", _text(path, MAX_TABLE_BYTES), count=1)
    named = _SEP_LINE.match(text)
    if named:
        delimiter, text = named[1], text[named.end() :].lstrip("\r\n ")
    delimiter = delimiter or _find_delimiter(text)
    try:
        cells = _parse(text, delimiter)
    except csv.Error as error:
        raise DatasetError(f"{path} is not a readable table: {error}.") from error
    if any("\n" in cell for row in cells for cell in row):
        try:
            _parse(text, delimiter, strict=True)
        except csv.Error as error:  # rows may have become part of a cell
            raise DatasetError(f"{path} has a quotation mark without its partner: {error}.") from error
    return cells


def _parse(text: str, delimiter: str, *, strict: bool = False) -> list[list[str]]:
    stream = io.StringIO(text.rstrip(), newline="")
    return list(csv.reader(stream, delimiter=delimiter, skipinitialspace=True, strict=strict))


def _find_delimiter(text: str) -> str:
    """Return what separates the names in the header: the candidate that occurs most often, else spaces."""
    header = _QUOTED.sub("", text).partition("\n")[0].strip(" \r")
    found = max(",;\t|", key=header.count)
    return found if found in header or " " not in header else " "


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
        pass
    try:
        text = payload.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    if not text or _GARBLED.search(text):
        raise DatasetError(f"The letters of {path} are in no encoding that is read; save it as UTF-8.")
    return text
