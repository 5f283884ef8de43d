from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import spreadsheet
from napari_lesionseg.io.spreadsheet import read_sheet

NAMESPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
SHARED = f"<sst {NAMESPACE}><si><t>Name</t></si><si><r><t>IMD</t></r><r><t>003</t></r></si></sst>"
SHEET = (
    f"<worksheet {NAMESPACE}><sheetData>"
    '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1"><v>2</v></c></row>'
    '<row r="2"><c t="s"><v>1</v></c><c t="inlineStr"><is><t>X</t></is></c>'
    '<c r="D2" t="s"><v>99</v></c></row>'
    '<row r="3"/></sheetData></worksheet>'
)


def workbook(sheet: str = SHEET, shared: str | None = SHARED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", sheet)
        if shared is not None:
            book.writestr("xl/sharedStrings.xml", shared)
    return buffer.getvalue()


def test_cells_stand_in_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(workbook())
    assert read_sheet(path) == [["Name", "", "2"], ["IMD003", "X", "", ""], []]


def test_a_workbook_without_shared_texts_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(workbook(shared=None))
    assert read_sheet(path)[0] == ["", "", "2"]


def test_expanding_entities_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(workbook('<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>'))
    with pytest.raises(DatasetError, match="entities"):
        read_sheet(path)


def test_huge_sheets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(workbook())
    monkeypatch.setattr(spreadsheet, "MAX_BYTES", 10)
    with pytest.raises(DatasetError, match="larger"):
        read_sheet(path)


@pytest.mark.parametrize("payload", [b"", b"PK", workbook("<a>"), workbook("<a/>", "<b>"), b"x" * 200])
def test_damaged_workbooks_give_one_sentence(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(payload)
    with pytest.raises(DatasetError):
        read_sheet(path)


def test_a_far_column_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(workbook(SHEET.replace('r="C1"', 'r="ZZZZZZ1"')))
    assert len(read_sheet(path)[0]) <= 26**3 + 26**2 + 26


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8))
def test_flipped_bytes_give_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    payload = bytearray(workbook())
    for place, value in flips:
        payload[place % len(payload)] = value
    path = tmp_path_factory.getbasetemp() / "flipped.xlsx"
    path.write_bytes(payload)
    with contextlib.suppress(DatasetError):
        assert isinstance(read_sheet(path), list)
