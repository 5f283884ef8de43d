"""Rows of an Excel sheet, as far as tables of facts need it: text and numbers of the first sheet.

A workbook is a ZIP of XML files (ECMA-376, part 1, section 18). It may come from anywhere, so its size is
checked before it is unpacked, and XML that declares entities is refused.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

from napari_lesionseg.errors import DatasetError

MAX_BYTES = 64 * 1024**2
"""Largest part of a workbook that is read, unpacked."""

_NAME = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_COLUMN = re.compile(r"[A-Z]{1,3}")
_DAMAGED = (
    ElementTree.ParseError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_sheet(path: Path) -> list[list[str]]:
    """Read the first sheet of a workbook.

    Parameters
    ----------
    path : Path
        An ``.xlsx`` file.

    Returns
    -------
    list of list of str
        Rows of cells as text; empty cells are "".

    Raises
    ------
    DatasetError
        When the file is damaged, too large, or no workbook.
    """
    try:
        with zipfile.ZipFile(path) as book:
            sheets = sorted(name for name in book.namelist() if name.startswith("xl/worksheets/sheet"))
            if not sheets:
                raise DatasetError(f"{path} holds no sheet.")
            shared = _shared_strings(book)
            return [_cells(row, shared) for row in _parse(book, sheets[0]).iter(f"{_NAME}row")]
    except _DAMAGED as error:
        raise DatasetError(f"{path} is no workbook that can be read: {error}.") from error


def _parse(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    """Parse one XML part."""
    if book.getinfo(name).file_size > MAX_BYTES:
        raise DatasetError(f"{name} is larger than {MAX_BYTES // 1024**2} MB and is not read.")
    payload = book.read(name)
    if b"<!" in payload:
        raise DatasetError(f"{name} declares entities, which workbooks do not; it is not read.")
    return ElementTree.fromstring(payload)  # noqa: S314 - without declarations there is nothing to expand


def _shared_strings(book: zipfile.ZipFile) -> list[str]:
    """Return the texts that cells refer to by number."""
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    return [_text(item) for item in _parse(book, "xl/sharedStrings.xml").iter(f"{_NAME}si")]


def _text(element: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in element.iter(f"{_NAME}t"))


def _cells(row: ElementTree.Element, shared: list[str]) -> list[str]:
    """Return the cells of one row, each in its column."""
    cells: list[str] = []
    for cell in row.iter(f"{_NAME}c"):
        column = _column_of(cell.get("r", ""), len(cells))
        cells += [""] * (column - len(cells))
        cells.append(_value(cell, shared))
    return cells


def _column_of(reference: str, following: int) -> int:
    """Turn ``"AB12"`` into 27; without a reference a cell follows the one before."""
    match = _COLUMN.match(reference)
    if match is None:
        return following
    column = 0
    for letter in match.group():
        column = column * 26 + ord(letter) - ord("A") + 1
    return column - 1


def _value(cell: ElementTree.Element, shared: list[str]) -> str:
    """Return a cell's text."""
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return _text(cell)
    raw = cell.findtext(f"{_NAME}v", "")
    if kind != "s":
        return raw
    return shared[int(raw)] if 0 <= int(raw) < len(shared) else ""
