from __future__ import annotations

import contextlib
import datetime
import io
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import workbooks
from napari_lesionseg.io.tables import read_table, read_tables
from napari_lesionseg.io.workbooks import read_sheet

OFFICE, TABLE, STYLE, TEXT = (
    f"urn:oasis:names:tc:opendocument:xmlns:{name}:1.0" for name in ("office", "table", "style", "text")
)
MANIFEST = '<manifest:manifest><manifest:file-entry manifest:full-path="/"/></manifest:manifest>'
EMPTY = '<table:table-cell table:number-columns-repeated="16380"/>'


def workbook(*rows: list[object]) -> bytes:
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    for row in rows or (["Name", None, 2], ["IMD003", "X", 2.5]):
        book.active.append(row)
    book.save(buffer)
    return buffer.getvalue()


def with_part(payload: bytes, name: str, part: bytes) -> bytes:
    """Replace one part of a workbook."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(payload)) as book,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as changed,
    ):
        for other in book.namelist():
            changed.writestr(other, part if other == name else book.read(other))
    return buffer.getvalue()


SHEET = "xl/worksheets/sheet1.xml"


def test_cells_of_a_sheet_are_text_in_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(workbook(["Name", None, 2], [None, True, datetime.date(2026, 1, 2)], [2.5, "æ", 7.0]))
    assert read_sheet(path) == [["Name", "", "2"], ["", "True", "2026-01-02"], ["2.5", "æ", "7"]]


def test_large_workbooks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(with_part(workbook(), SHEET, b" " * 2_000_000))
    monkeypatch.setattr(workbooks, "MAX_SHEET_BYTES", 1_000_000)
    with pytest.raises(DatasetError, match="larger"):
        read_sheet(path)


@pytest.mark.parametrize("reference", [b'r="XFD1048576"', b"r = 'A4000000000'", b'r="ZZZZ9999"'])
def test_far_cells_take_no_memory(tmp_path: Path, reference: bytes) -> None:
    path = tmp_path / "x.xlsx"
    with zipfile.ZipFile(io.BytesIO(workbook())) as book:
        sheet = book.read(SHEET).replace(b'r="C2"', reference)
    path.write_bytes(with_part(workbook(), SHEET, sheet))
    with pytest.raises(DatasetError, match="rows"):
        read_sheet(path)


@pytest.mark.parametrize(
    "payload", [b"", b"PK", with_part(workbook(), "xl/workbook.xml", b"<a>"), b"x" * 200]
)
def test_damaged_workbooks_give_one_sentence(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "x.xlsx"
    path.write_bytes(payload)
    with pytest.raises(DatasetError, match="workbook"):
        read_sheet(path)


@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=8))
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


def cell(value: object = None, more: str = "") -> str:
    """Return a cell as LibreOffice writes it."""
    if value is None:
        return f"<table:table-cell {more}/>"
    kind = {bool: "boolean", float: "float", datetime.date: "date"}.get(type(value), "string")
    name = {"boolean": "boolean-value", "date": "date-value"}.get(kind, "value")
    held = "" if kind == "string" else f'office:{name}="{str(value).lower()}"'
    text = f"<text:p>{value}</text:p></table:table-cell>"
    return f'<table:table-cell office:value-type="{kind}" {held} {more}>{text}'


def row(*cells: str, repeated: int = 1) -> str:
    return f'<table:table-row table:number-rows-repeated="{repeated}">\n{" ".join(cells)}</table:table-row>'


def ods(*rows: str, **others: str) -> bytes:
    """Return a LibreOffice workbook with a visible sheet, and others of which `old` is hidden."""
    style = (
        '<style:style style:name="hidden" style:family="table">'
        '<style:table-properties table:display="false"/></style:style>'
    )
    sheets = "".join(
        f'<table:table table:name="{title}" table:style-name="{"hidden" if title == "old" else ""}">{sheet}'
        "</table:table>"
        for title, sheet in {"images": "".join(rows), **others}.items()
    )
    content = (
        f'<office:document-content xmlns:office="{OFFICE}" xmlns:table="{TABLE}" xmlns:style="{STYLE}" '
        f'xmlns:text="{TEXT}">'
        f"<office:automatic-styles>{style}</office:automatic-styles>"
        f"<office:body><office:spreadsheet>{sheets}</office:spreadsheet></office:body></office:document-content>"
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        book.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        book.writestr("content.xml", content)
        book.writestr("META-INF/manifest.xml", MANIFEST)
    return buffer.getvalue()


TALL = 'table:number-rows-spanned="2" table:number-columns-spanned="1"'
WIDE = 'table:number-rows-spanned="2" table:number-columns-spanned="2"'
COVERED = "<table:covered-table-cell/>"


def test_an_ods_is_read_like_an_xlsx(tmp_path: Path) -> None:
    path = tmp_path / "x.ods"
    rows = (
        row(cell(None), cell("study of 2026", WIDE), COVERED, cell("age"), EMPTY),
        row(cell("Name"), cell("patient"), cell("date"), cell("age"), EMPTY),
        row(cell("007"), cell("P1", TALL), cell(datetime.date(2026, 1, 2)), cell(40.0), EMPTY),
        row(cell("b"), COVERED, cell(True), cell(2.5), cell(None, TALL)),
        row(EMPTY, repeated=1_048_572),
    )
    path.write_bytes(ods(*rows[1:], old=row(cell("name")) + row(cell("a"))))
    assert read_tables(path) == {
        "x.ods": [
            {"name": "007", "patient": "P1", "date": "2026-01-02", "age": "40"},
            {"name": "b", "patient": "P1", "date": "True", "age": "2.5"},
        ]
    }
    path.write_bytes(ods(*rows))
    assert read_sheet(path)[0] == ["", "study of 2026", "", "age"]  # a heading is no value
    assert read_sheet(path)[2:] == [["007", "P1", "2026-01-02", "40"], ["b", "P1", "True", "2.5"]]


def test_every_visible_sheet_of_an_ods_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "x.ods"
    lower = row() + row(cell("name")) + row(cell("a", TALL)) + row(cell("b"))
    path.write_bytes(ods(row(cell("x")) + row(cell("1")), ages=lower))
    found = read_tables(path)
    assert list(found) == ["x.ods, sheet images", "x.ods, sheet ages"]
    assert found["x.ods, sheet ages"] == [{"name": "a"}, {"name": "a"}]


@pytest.mark.parametrize(
    "sheet",
    [
        row(cell("a", 'table:number-columns-repeated="16384"'), repeated=1_048_576),
        row(cell("a"), repeated=2_000_000_000),
        row(cell(None, 'table:number-columns-repeated="2000000000"'), cell("b")),
    ],
)
def test_repeated_cells_of_an_ods_take_no_memory(tmp_path: Path, sheet: str) -> None:
    (tmp_path / "x.ods").write_bytes(ods(sheet))
    with pytest.raises(DatasetError, match="more cells"):
        read_sheet(tmp_path / "x.ods")


@pytest.mark.parametrize(
    "content",
    [
        b"<table:table><table:table-row table:number-rows-repeated='many'/></table:table>",
        b"<table:table><table:table-row><table:table-cell><table:table/></table:table-cell></table:table-row>",
        b'<table:table "' * 1000,
        b"encrypted",
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
        f'<office:x xmlns:office="{OFFICE}" xmlns:table="{TABLE}"><table:table><table:table-row/>'.encode(),
    ],
)
def test_damaged_ods_give_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ods").write_bytes(with_part(ods(), "content.xml", content))
    with pytest.raises(DatasetError, match="not a readable workbook"):
        read_sheet(tmp_path / "x.ods")


def test_a_password_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    encrypted = MANIFEST.replace("/></", "><manifest:encryption-data/></manifest:file-entry></").encode()
    (tmp_path / "x.ods").write_bytes(with_part(ods(), "META-INF/manifest.xml", encrypted))
    for name in ("x.xlsx", "x.ods"):
        with pytest.raises(DatasetError, match="password"):
            read_sheet(tmp_path / name)


def test_merged_cells_beside_the_table_do_not_refuse_it(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cells in (["name", "patient"], ["a", "P1"], ["b", "P2"]):
        book.active.append(cells)
    book.active.merge_cells("F2:F9")
    book.active.merge_cells("A20:A22")
    book.save(tmp_path / "x.xlsx")
    assert [cells["patient"] for cells in read_table(tmp_path / "x.xlsx")] == ["P1", "P2"]
