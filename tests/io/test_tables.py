from __future__ import annotations

import os
from pathlib import Path

import openpyxl
import pytest

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import tables
from napari_lesionseg.io.tables import read_json, read_table, read_tables, write_table


def test_damaged_json_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    for text in ("", "{", "[" * 100_000, "1" * 10_000, "\ufeff{]"):
        path.write_text(text)
        with pytest.raises(DatasetError, match="not a readable JSON"):
            read_json(path)
    path.write_text('\ufeff{"a": 1}')
    assert read_json(path) == {"a": 1}
    monkeypatch.setattr(tables, "MAX_JSON_BYTES", 3)
    with pytest.raises(DatasetError, match="larger"):
        read_json(path)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_tables_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfName, Age at visit ,\r\n a ,5,x,,\r\n\r\nb\r\n"two\nlines",7\r\n')
    assert read_table(path) == [
        {"name": "a", "age_at_visit": "5", "column_3": "x"},
        {"name": "b", "age_at_visit": "", "column_3": ""},
        {"name": "two\nlines", "age_at_visit": "7", "column_3": ""},
    ]
    path.write_text("name\n" + '"' + "x" * 200_000)
    with pytest.raises(DatasetError, match="not a readable table"):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name,age,patient\na,4,5,P1\nb,3,2,P2\n", "Row 2 of .* has more cells than the header"),
        ('name,patient,size\na,P1,x\nb,P2,"6\nc,P3,7\n', "quotation mark without its partner"),
        ('name,patient,note\na,P1,"big\nb,P2,x\nc,P3,"small"\n', "quotation mark without its partner"),
    ],
)
def test_cells_in_the_wrong_column_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=reason):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ('name;"a, b, c, d"\np;1\n', {"name": "p", "a,_b,_c,_d": "1"}),
        (",name\n0,p\n", {"name": "p"}),
        ("name\u200b,x\np\ufeff,1\n", {"name": "p", "x": "1"}),
        ('name,size\np,5"\n', {"name": "p", "size": '5"'}),
        ("Moles of 2026,\nour clinic,\nname,size\np,5\n", {"name": "p", "size": "5"}),
        ('name,size\np,"big" one\n', {"name": "p", "size": "big one"}),
    ],
)
def test_odd_but_clear_tables_are_read(tmp_path: Path, text: str, cells: dict[str, str]) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    assert read_table(path) == [cells]


@pytest.mark.parametrize(
    ("letters", "encoding"),
    [
        ("n\xe6vus", "mac-roman"),
        ("Stra\xdfe", "mac-roman"),
        ("Gar\xe7on", "mac-roman"),
        ("N\xe4vus", "cp850"),
        ("\u0418\u0432\u0430\u043d\u043e\u0432", "cp1251"),
        ("\u03c3\u03c0\u03af\u03bb\u03bf\u03c2", "cp1253"),
    ],
)
def test_letters_of_unknown_encodings_are_refused(tmp_path: Path, letters: str, encoding: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(f"name,note\na,{letters}\n".encode(encoding))
    with pytest.raises(DatasetError, match="save it as UTF-8"):
        read_table(path)


@pytest.mark.parametrize(
    "letters", ["N\xe4vus \u2013 5 \xb5m", "l\u2019\xe9t\xe9", "Bl\xe5b\xe6r\xf8", "DermLite\xae"]
)
def test_western_letters_of_windows_are_read(tmp_path: Path, letters: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(f"name,note\na,{letters}\n".encode("cp1252"))
    assert read_table(path) == [{"name": "a", "note": letters}]


def test_json_lines_are_a_table(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    lines = ('{"File Name": " a.png ", "age": 55, "site": null}', "", '{"file_name": "b.png", "box": [1, 2]}')
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_table(path) == [{"file_name": "a.png", "age": "55"}, {"file_name": "b.png", "box": "[1, 2]"}]
    for broken in ("{", "[1]", "[" * 100_000):
        path.write_text(broken)
        with pytest.raises(DatasetError, match=r"metadata\.jsonl"):
            read_table(path)


def test_written_tables_are_read_back(tmp_path: Path) -> None:
    rows = [{"name": 'a "quoted", one', "note": "æøå"}, {"name": "b"}]
    write_table(tmp_path / "x.csv", rows, ("name", "note"))
    assert read_table(tmp_path / "x.csv") == [rows[0], {"name": "b", "note": ""}]
    assert b"\r" not in (tmp_path / "x.csv").read_bytes()


def test_the_first_sheet_that_is_a_table_is_read(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["About these images"])
    table = book.create_sheet("Images")
    for row in (["name", "patient_id"], ["a.png", "P1"]):
        table.append(row)
    book.save(tmp_path / "x.xlsx")
    assert read_table(tmp_path / "x.xlsx") == [{"name": "a.png", "patient_id": "P1"}]


def test_every_visible_sheet_is_a_table(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title, book.active.sheet_state = "old", "hidden"
    sheets = {
        "images": (["patient", "name"], ["P1", "a"], [None, "b"], ["P2", "c"]),
        "ages": (["patient", "age"], ["P1", 40]),
        "codes": (["x", "x"], [1, 2]),
    }
    for title, rows in {"old": (["name"], ["a"]), **sheets}.items():
        sheet = book[title] if title in book else book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book["images"].merge_cells("A2:A3")
    book.active = 1
    book.save(tmp_path / "x.xlsx")
    found = read_tables(tmp_path / "x.xlsx")
    assert list(found) == ["x.xlsx, sheet images", "x.xlsx, sheet ages", "x.xlsx, sheet codes"]
    images, ages, codes = found.values()
    assert [row["patient"] for row in images] == ["P1", "P1", "P2"]
    assert ages == [{"patient": "P1", "age": "40"}]
    assert "Two columns of the sheet codes" in str(codes)


def test_a_table_is_written_whole_whatever_its_letters(tmp_path: Path) -> None:
    name = os.fsdecode(b"bl\xe5.png")
    write_table(tmp_path / "key.csv", [{"old": name, "new": "a"}, {"old": "b", "new": "c"}], ("old", "new"))
    assert [row["old"] for row in read_table(tmp_path / "key.csv")] == [r"bl\udce5.png", "b"]
