from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.facts import read_facts
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import read_dataset

ROWS = [["name", "patient_id", "diagnosis"], *([f"p{i}", f"P{i // 4}", "nevus"] for i in range(12))]
PATIENTS = [f"P{i // 4}" for i in range(12)]


def text(separator: str = ",", rows: list[list[str]] = ROWS) -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


def workbook(path: Path) -> None:
    book = openpyxl.Workbook()
    for row in ROWS:
        book.active.append(row)
    book.save(path)


WITH_NAMES = [["name", "image", *ROWS[0][1:]], *(["A. B.", *row] for row in ROWS[1:])]
PATHS = [["image_path", *ROWS[0][1:]], *([f"D:\\x\\{row[0]}.png", *row[1:]] for row in ROWS[1:])]
CAMEL = [["imageId", "PatientID", "Diagnosis"], *ROWS[1:]]
WAYS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "comma": ("metadata.csv", lambda path: path.write_text(text())),
    "semicolon": ("metadata.csv", lambda path: path.write_text(text(";"))),
    "tab": ("facts.tsv", lambda path: path.write_text(text("\t"))),
    "text": ("facts.txt", lambda path: path.write_text(text("\t"))),
    "hint": ("x.tab", lambda path: path.write_text("sep=|\n" + text("|"))),
    "utf-8": ("x.csv", lambda path: path.write_bytes(codecs.BOM_UTF8 + text().encode())),
    "utf-16": ("x.csv", lambda path: path.write_bytes(text("\t").encode("utf-16"))),
    "windows": ("x.csv", lambda path: path.write_bytes(text().replace("nevus", "n\xe6vus").encode("cp1252"))),
    "capitals": ("x.CSV", lambda path: path.write_text(text().replace("patient_id,", "Patient ID,"))),
    "blank lines": ("x.csv", lambda path: path.write_text("\n \n" + text() + "\n,,\n")),
    "endings": ("x.csv", lambda path: path.write_text(text().replace("p1,", "images/p1.PNG,"))),
    "image id": ("x.csv", lambda path: path.write_text(text().replace("name", "img_id"))),
    "workbook": ("x.xlsx", workbook),
    "utf-16 without mark": ("x.csv", lambda path: path.write_bytes(text().encode("utf-16-le"))),
    "comment": ("x.csv", lambda path: path.write_text("# from the clinic\n" + text())),
    "header as comment": ("x.csv", lambda path: path.write_text("# " + text())),
    "paths": ("x.csv", lambda path: path.write_text(text(rows=PATHS))),
    "hash": ("x.csv", lambda path: path.write_text(text().replace("name", "md5hash", 1))),
    "camel case": ("x.csv", lambda path: path.write_text(text(rows=CAMEL))),
    "pid": ("x.csv", lambda path: path.write_text(text().replace("patient_id", "PID"))),
    "participant": ("x.csv", lambda path: path.write_text(text().replace("patient_id", "Participant ID"))),
    "no ending": ("HAM10000_metadata", lambda path: path.write_text(text())),
    "spaces": ("x.txt", lambda path: path.write_text(text(" "))),
    "people's names": ("x.csv", lambda path: path.write_text(text(rows=WITH_NAMES))),
}  # fmt: skip


@pytest.fixture(params=["images only", "ISIC", "plain"])
def images(kit, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Twelve images of three patients, without masks, or with masks in two layouts."""
    ending = {"images only": None, "ISIC": "_segmentation", "plain": ""}[request.param]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(12):
        Image.fromarray(kit.image(i)).save(tmp_path / "images" / f"p{i}.png")
        if ending is not None:
            Image.fromarray(kit.labels(i) * 255).save(tmp_path / "masks" / f"p{i}{ending}.png")
    if ending is None:
        (tmp_path / "masks").rmdir()
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
def test_patients_are_read_from_any_table(images: Path, way: str) -> None:
    name, write = WAYS[way]
    write(images / name)
    dataset = read_dataset(images)
    assert dataset.problems == ()
    assert [record.patient for record in dataset.records] == PATIENTS
    assert all(record.diagnosis in ("nevus", "nævus") for record in dataset.records)


def test_no_patient_is_in_two_parts(kit, images: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (images / "metadata.csv").write_text(text(";"))
    records = [record for record in read_dataset(images).records if record.mask is not None]
    if not records:
        return
    out = tmp_path_factory.mktemp("export") / "out"
    kit.last(export_dataset(records, out, "folder", config=ExportConfig(pseudonymize="nothing")))
    parts = {(record.patient, record.part) for record in read_dataset(out).records}
    assert {patient for patient, _ in parts} == {"P0", "P1", "P2"}
    assert len(parts) == 3


@pytest.mark.parametrize("cell", ["NA", "nan", "None", "?", "", "n/a", "NULL"])
def test_words_for_unknown_are_no_patient(images: Path, cell: str) -> None:
    (images / "x.csv").write_text(f"name,patient,part\np1,{cell},Validation\np2,P7,TEST\n")
    records = read_dataset(images).records
    assert [record.patient for record in records[:4]] == [None, None, "P7", None]
    assert [record.part for record in records[:4]] == [None, "val", "test", None]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("a,b\n1,2\n", "no column with the names"),
        ("name,patient_id\nq1,P0\n", "No row of the table names an image"),
        ("name,patient_id\n", "no rows"),
        ("name,patient_id,sex\np1,,m\np2,,f\n", "patient_id is empty"),
        ("", "no rows"),
        ("name,sex,Sex\np1,m,f\n", "same name"),
        ("name\n" + '"' + "x" * 200_000, "not a readable table"),
        ("name,patient\np1,A\np1,B\n", "Rows say different things of p1"),
        (
            "name,patient\np1,A\npl2,B\n",
            "1 row names no image, and p0, p10, p11, p2, p3 and 6 more are in no",
        ),
        ("name,part\np1,fold 3\n", "The parts fold 3 are none of train, val and test"),
        ("name,age,patient\np1,4,5,A\n", "more cells than the header"),
        ("name,patient\np1,1.23E+11\n", r"shortened numbers of patient_id, such as 1.23E+11"),
        ('name,shape\np1,"{""name"":""polygon"",""all_points_x"":[1,2]}"\n', "outlines in the column shape"),
        ("name,pixels\np1,1 3 10 5 20 5\n", "outlines in the column pixels"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(images: Path, table: str, reason: str) -> None:
    (images / "metadata.csv").write_text(table)
    problems = read_dataset(images).problems
    assert len(problems) == 1
    assert problems[0].left_out
    assert reason in problems[0].reason


@pytest.mark.parametrize(
    "value", ["#REF!", "Not available", "NA", "nan", "None", "?", "", "-", "<NA>", "#N/A", "Unknown"]
)
def test_what_is_unknown_joins_no_images(images: Path, value: str) -> None:
    (images / "metadata.csv").write_text(f"name,patient,lesion,diagnosis\np1,{value},{value},{value}\n")
    record = read_dataset(images).records[1]
    assert (record.patient, record.lesion, record.diagnosis) == (None, None, None)


def test_numbers_that_a_spreadsheet_changed_are_the_names(kit, tmp_path: Path) -> None:
    for name in ("007", "010", "8"):
        Image.fromarray(kit.image(int(name))).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.csv").write_text("image,patient\n7,A\n10.0,A\n008,B\n")
    dataset = read_dataset(tmp_path)
    assert dataset.problems == ()
    assert {record.name: record.patient for record in dataset.records} == {"007": "A", "010": "A", "8": "B"}


@pytest.mark.parametrize("name", ["metadata.xls", "Patients.FODS", "t.parquet"])
def test_a_table_of_another_kind_is_named(images: Path, name: str) -> None:
    (images / name).write_bytes(b"\xd0\xcf\x11\xe0")
    (problem,) = read_dataset(images).problems
    assert problem.name == name
    assert "save it as CSV" in problem.reason


def test_the_table_of_a_larger_data_set_is_no_problem(images: Path) -> None:
    (images / "metadata.csv").write_text(text() + "p99,P99,nevus\n")
    assert read_dataset(images).problems == ()


def test_notes_are_no_tables(images: Path) -> None:
    (images / "README.txt").write_text("Images of nevi, taken in 2026.\n")
    assert read_dataset(images).problems == ()


def test_a_second_line_of_headers_is_named(images: Path) -> None:
    rows = "".join(f"p{i},A,5\n" for i in range(12))
    (images / "metadata.csv").write_text("image,clinic,\nname,patient,age\n" + rows)
    (problem,) = read_dataset(images).problems
    assert "a second line with the names of columns" in problem.reason


def test_repeated_headers_are_no_problem(images: Path) -> None:
    halves = [ROWS[0], *ROWS[1:6], ROWS[0], *ROWS[6:]]
    (images / "metadata.csv").write_text(text(rows=halves))
    dataset = read_dataset(images)
    assert dataset.problems == ()
    assert [record.patient for record in dataset.records] == PATIENTS


def test_of_two_columns_of_a_kind_none_is_dropped(images: Path) -> None:
    (images / "metadata.csv").write_text("name,subject,patient_id,mrn\np1,S,A,M\n")
    record = read_dataset(images).records[1]
    assert (record.patient, dict(record.metadata)) == ("A", {"subject": "S", "mrn": "M"})


def test_all_sheets_of_a_workbook_are_read(images: Path) -> None:
    book = openpyxl.Workbook()
    for title, rows in (("sites", [["name", "site"], ["p1", "arm"]]), ("patients", ROWS)):
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    codes = book.create_sheet("codes")
    for row in (["code", "meaning"], [1, "nevus"]):
        codes.append(row)
    book.save(images / "x.xlsx")
    dataset = read_dataset(images)
    assert [record.patient for record in dataset.records] == PATIENTS
    assert dataset.records[1].metadata["site"] == "arm"
    assert [problem.name for problem in dataset.problems] == ["x.xlsx, sheet codes"]


def test_rows_of_a_name_that_several_images_have_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("file,patient\nleft/1.png,A\n2.png,B\n")
    facts = read_facts([tmp_path / "x.csv"], ["1", "1", "2"])
    assert list(facts.rows) == ["2"]
    assert ["Several images have the name 1" in problem.reason for problem in facts.problems] == [True]


@pytest.mark.parametrize(
    ("text", "problems"),
    [("Images of nevi, by us.\nTaken, cropped, resized, saved\n", 0), ("image patient\np1.png A B\n", 1)],
)
def test_text_that_is_no_table_is_a_note_unless_it_names_images(
    images: Path, text: str, problems: int
) -> None:
    (images / "README.txt").write_text(text)
    assert len(read_dataset(images).problems) == problems


def test_several_tables_complete_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image_id,lesion_id,dx\nISIC_1,HAM_1,mel\nISIC_9,HAM_2,nv\n")
    (tmp_path / "b.csv").write_text("isic_id,patient_id\nisic_1.jpg,IP_1\n")
    facts = read_facts([tmp_path / "a.csv", tmp_path / "b.csv"], ["ISIC_1"])
    assert facts.problems == []
    assert facts.rows == {"isic_1": {"lesion_id": "HAM_1", "dx": "mel", "patient_id": "IP_1"}}
    assert [(item.patient, item.lesion, item.stratify_by) for item in facts.split_items()] == [
        ("IP_1", "HAM_1", "mel")
    ]


def test_names_of_pad_ufes_and_its_table_mean_the_same_patient(kit, tmp_path: Path) -> None:
    for number in (1, 2):
        Image.fromarray(kit.image(number)).save(tmp_path / f"PAT_355_732_{number}.png")
    (tmp_path / "metadata.csv").write_text("patient_id,lesion_id,img_id\nPAT_355,732,PAT_355_732_1.png\n")
    assert {(record.patient, record.lesion) for record in read_dataset(tmp_path).records} == {("355", "732")}
