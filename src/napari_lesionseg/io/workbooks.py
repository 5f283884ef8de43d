"""Workbooks of Excel and LibreOffice from strangers: the cells of their sheets as text, bounded in size."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import python_calamine
from python_calamine import SheetVisibleEnum

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.archives import ZIP_ERRORS
from napari_lesionseg.io.ods import read_ods

WORKBOOK_SUFFIXES = (".xlsx", ".xlsm", ".ods")
"""Endings of the workbooks that are read, in lower case."""

MAX_SHEET_BYTES = 64 * 1024**2
"""Largest workbook that is read, unpacked."""

MAX_CELLS = 5_000_000
# All references of cells and rows: calamine takes memory for the whole rectangle that they span.
_REFERENCE = re.compile(rb"""\br\s*=\s*["']([A-Za-z]*)(\d*)["']""")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def read_sheet(path: Path) -> list[list[str]]:
    """Return the rows of a workbook's first sheet of several rows as text; empty cells are ""."""
    return next(iter(read_sheets(path).values()), [])


def read_sheets(path: Path) -> dict[str, list[list[str]]]:
    """Return the rows of a workbook's sheets of several rows by title, without those that are hidden.

    All cells that are merged into one hold its value.
    """
    try:
        _check_password(path)
        found = _ods_sheets(path) if path.suffix.lower() == ".ods" else _excel_sheets(path)
    except (*ZIP_ERRORS, python_calamine.CalamineError) as error:
        raise DatasetError(f"{path} is not a readable workbook: {error}.") from error
    return {title: rows for title, rows in found.items() if sum(map(any, rows)) > 1}


def _ods_sheets(path: Path) -> dict[str, list[list[str]]]:
    with zipfile.ZipFile(path) as book:
        if b"encryption-data" in _unpack(book, "META-INF/manifest.xml", path):
            raise DatasetError(f"{path} is protected by a password; save it without.")
        sheets = read_ods(_unpack(book, "content.xml", path), MAX_CELLS)
    for sheet in sheets:
        _fill_merged(sheet.rows, sheet.merged)
    shown = [sheet for sheet in sheets if not sheet.hidden] or sheets
    return {sheet.title: sheet.rows for sheet in shown}


def _unpack(book: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Return one file of an archive, if it does not take too much memory."""
    with book.open(name) as stream:
        payload = stream.read(MAX_SHEET_BYTES + 1)
    if len(payload) > MAX_SHEET_BYTES:
        raise DatasetError(f"{path} is larger than {MAX_SHEET_BYTES // 1024**2} MB and is not read.")
    return payload


def _excel_sheets(path: Path) -> dict[str, list[list[str]]]:
    book = python_calamine.CalamineWorkbook.from_filelike(_bounded_copy(path))
    return {sheet.name: _sheet_cells(book, sheet.name) for sheet in _visible(book.sheets_metadata)}


def _visible(sheets: Iterable[Any]) -> list[Any]:
    """Leave out hidden sheets, which hold what somebody put away, unless there are no others."""
    sheets = list(sheets)
    return [sheet for sheet in sheets if sheet.visible == SheetVisibleEnum.Visible] or sheets


def _sheet_cells(book: python_calamine.CalamineWorkbook, title: str) -> list[list[str]]:
    sheet = book.get_sheet_by_name(title)
    rows = [[_cell_text(cell) for cell in row] for row in sheet.to_python(skip_empty_area=False)]
    merged = getattr(sheet, "merged_cell_ranges", None) or ()
    _fill_merged(rows, [(top, bottom, left) for (top, left), (bottom, right) in merged if left == right])
    return rows


def _fill_merged(rows: list[list[str]], merged: list[tuple[int, int, int]]) -> None:
    """Give all cells merged in one column its value; what spans several columns is a heading."""
    filled = [  # others lie beside the table
        (top, min(bottom, len(rows)), column)
        for top, bottom, column in merged
        if top < len(rows) and column < len(rows[top])
    ]
    if sum(bottom - top for top, bottom, _ in filled) > MAX_CELLS:
        raise ValueError("merged cells overlap")
    for top, bottom, column in filled:
        for row in rows[top + 1 : bottom + 1]:
            row += [""] * (column + 1 - len(row))
            row[column] = rows[top][column]


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


def _check_password(path: Path) -> None:
    """Say why a workbook is no ZIP archive; encrypted ones are files like those of old versions."""
    with path.open("rb") as stream:
        if stream.read(len(_OLE)) == _OLE:
            reason = "is protected by a password, or of an old version; save it as XLSX without a password."
            raise DatasetError(f"{path} {reason}")


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
