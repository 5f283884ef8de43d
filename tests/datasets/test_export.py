from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.architecture_page import run_example

from napari_lesionseg.datasets import export
from napari_lesionseg.datasets.export import check_key_place, export_dataset, write_key
from napari_lesionseg.datasets.export_checks import Step
from napari_lesionseg.datasets.formats import FORMATS, DatasetInfo, ExportConfig, get_format
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.manifest import verify
from napari_lesionseg.datasets.records import Provenance
from napari_lesionseg.datasets.splits import leaks
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.images import read_mask

KEEP = ExportConfig(pseudonymize="nothing")
WRITTEN = sorted(
    name for name, found in FORMATS.items() if found.write and not found.landmarks and name != "dicom"
)


@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_is_written_whole(kit, records, tmp_path: Path, name: str) -> None:
    info = DatasetInfo(title="Nævi 2026", license="CC-BY-4.0", creators=("A. Annotator",), cameras="DermLite")
    steps = list(export_dataset(records, tmp_path / "out", name, info=info))
    report = steps[-1]
    assert report.written == 10
    assert set(report.parts) == {"train", "val", "test"}
    assert [step.stage for step in steps[:-1] if isinstance(step, Step)][:20] == ["checking"] * 10 + [
        "writing"
    ] * 10
    assert {"DATASHEET.md", "croissant.json", "provenance.csv", "manifest.json"} <= set(
        kit.files(tmp_path / "out")
    )
    checked = kit.last(verify(tmp_path / "out"))
    assert checked.intact
    assert checked.added == ()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_format_on_the_architecture_page_works(kit, records, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(FORMATS, "plain", run_example("FORMATS =", tmp_path)["FORMATS"][0])
    kit.last(export_dataset(records, tmp_path / "out", "plain", config=KEEP))
    assert np.array_equal(read_mask(tmp_path / "out/masks/case_03.png"), records[3].mask)


@pytest.mark.parametrize("name", WRITTEN)
def test_patients_are_in_one_part_only(kit, records, tmp_path: Path, name: str) -> None:
    records[9] = replace(records[9], image=records[0].image, patient=None)
    kit.last(export_dataset(records, tmp_path / "out", name, config=KEEP))
    lines = (tmp_path / "out/provenance.csv").read_text().splitlines()[1:]
    parts = {line.split(",")[0]: line.split(",")[1] for line in lines}
    items = [record.split_item() for record in records]
    assert leaks(items, parts, duplicates=[("case_00", "case_09")]) == []
    assert len(set(parts.values())) == 3


@pytest.mark.parametrize("kept", [False, True])
def test_images_without_a_patient_are_named_when_others_have_one(
    kit, records, tmp_path: Path, kept: bool
) -> None:
    records[3:5] = [replace(record, patient=None, lesion=None) for record in records[3:5]]
    parts = {record.name: "test" if number < 3 else "train" for number, record in enumerate(records)}
    report = kit.last(
        export_dataset(records, tmp_path / "out", "isic", config=KEEP, parts=parts if kept else None)
    )
    said = [problem.reason for problem in report.problems if problem.name == "patients"]
    assert len(said) == (0 if kept else 1)
    assert all("2 of 10 images, such as case_03, have no patient" in reason for reason in said)


def test_the_same_seed_gives_the_same_parts(kit, records, tmp_path: Path) -> None:
    def parts(folder: str, seed: int) -> str:
        kit.last(
            export_dataset(
                records, tmp_path / folder, "isic", config=ExportConfig(seed=seed, pseudonymize="nothing")
            )
        )
        return (tmp_path / folder / "provenance.csv").read_text()

    assert parts("a", 0) == parts("b", 0) != parts("c", 1)


def test_given_parts_are_kept_and_leaks_refused(kit, records, tmp_path: Path) -> None:
    parts = {record.name: "test" if record.patient == "P3" else "train" for record in records}
    report = kit.last(export_dataset(records, tmp_path / "out", "isic", parts=parts))
    assert report.parts == {"train": 8, "test": 2}
    with pytest.raises(DatasetError, match="case_06, case_07"):
        kit.last(export_dataset(records, tmp_path / "x", "isic", parts={**parts, "case_06": "val"}))
    own = [replace(record, part=parts[record.name]) for record in records]
    assert kit.last(export_dataset(own, tmp_path / "own", "isic")).parts == {"train": 8, "test": 2}
    free = ExportConfig(keep_parts=False)
    assert len(kit.last(export_dataset(own, tmp_path / "free", "isic", config=free)).parts) == 3


def test_images_leave_without_metadata(kit, records, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET"
    sources = []
    for seed, options in enumerate(({"quality": 90}, {"quality": 90}, {})):
        path = tmp_path / f"photo{seed}.{'jpg' if options else 'png'}"
        exif[0x0112] = 6 if seed == 1 else 1
        Image.fromarray(kit.image(seed)).save(path, exif=exif, comment="SECRET", **options)
        sources.append(path)
    turned = np.rot90(kit.labels(1), -1)
    made = [kit.record(seed, image=path) for seed, path in enumerate(sources)]
    made[1] = replace(made[1], mask=turned)
    for name in WRITTEN:
        kit.last(export_dataset(made, tmp_path / name, name, config=KEEP))
        for path in (tmp_path / name).rglob("*"):
            assert not path.is_file() or b"SECRET" not in path.read_bytes()
        images = [path for path in (tmp_path / name).rglob("case_0*") if path.suffix in (".jpg", ".png")]
        assert images
        for path in images:
            with Image.open(path) as opened:
                assert not opened.getexif()
    written = {record.name: record.load().image for record in read_dataset(tmp_path / "isic").records}
    for record in made:
        assert np.array_equal(written[record.name], record.load().image)
    kinds = Counter(path.suffix for path in (tmp_path / "isic").rglob("Task1-2*/*"))
    assert kinds == {".jpg": 1, ".png": 2}


def test_jpeg_throughout_when_asked_for(kit, records, tmp_path: Path) -> None:
    kit.last(export_dataset(records, tmp_path / "out", "isic", config=ExportConfig(images="jpg")))
    assert {path.suffix for path in (tmp_path / "out").rglob("Task1-2*/*")} == {".jpg"}


def test_new_names_leave_no_trace_of_the_old(kit, tmp_path: Path) -> None:
    records = [
        kit.record(
            seed,
            name=f"doe_jane_{seed}",
            patient="Doe Jane",
            lesion="arm",
            metadata={"comment": "Doe"},
            provenance=Provenance(annotator="Smith"),
        )
        for seed in range(4)
    ]
    for name in WRITTEN:
        report = kit.last(
            export_dataset(records, tmp_path / name, name, config=ExportConfig(pseudonymize="all"))
        )
        for path in (tmp_path / name).rglob("*"):
            text = path.name + (path.read_bytes().decode("latin-1") if path.is_file() else "")
            assert not any(word in text.lower() for word in ("doe", "jane", "smith", "arm"))
        assert set(report.names) == {record.name for record in records}


def test_the_key_stays_outside(kit, records, tmp_path: Path) -> None:
    report = kit.last(
        export_dataset(records, tmp_path / "out", "isic", config=ExportConfig(pseudonymize="all"))
    )
    key = tmp_path / "key.csv"
    write_key(report.names, key)
    lines = key.read_text().splitlines()
    assert lines[0] == "old_name,new_name"
    assert lines[1] == f"case_00,{report.names['case_00']}"
    with pytest.raises(DatasetError, match="inside"):
        check_key_place(tmp_path / "out/key.csv", report.folder)
    with pytest.raises(DatasetError, match="a folder that exists"):
        check_key_place(tmp_path / "none/key.csv", report.folder)
    with pytest.raises(DatasetError, match=r"key\.csv already exists"):
        check_key_place(key, report.folder)


def test_without_its_key_there_is_no_dataset(kit, records, tmp_path: Path) -> None:
    kept: list[Mapping[str, str]] = []

    def fail(names: Mapping[str, str]) -> None:
        kept.append(names)
        raise DatasetError("The key cannot be written.")

    with pytest.raises(DatasetError, match="The key cannot be written"):
        kit.last(export_dataset(records, tmp_path / "out", "isic", keep_names=fail))
    assert set(kept[0]) == {record.name for record in records}
    assert list(tmp_path.iterdir()) == []


def test_a_taken_destination_is_left_alone(kit, records, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="already exists"):
        kit.last(export_dataset(records, tmp_path / "out", "isic"))
    with pytest.raises(DatasetError, match="does not exist"):
        kit.last(export_dataset(records, tmp_path / "none/out", "isic"))
    assert kit.files(tmp_path) == ["out/mine.txt"]


def test_an_empty_destination_is_filled(kit, records, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert kit.last(export_dataset(records, tmp_path / "out", "folder")).written == 10


@pytest.mark.parametrize("stage", ["checking", "writing", "hashing"])
def test_stopping_leaves_nothing_behind(records, tmp_path: Path, stage: str) -> None:
    work = export_dataset(records, tmp_path / "out", "isic")
    for step in work:
        if step.stage == stage:
            break
    work.close()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_exports_left_is_swept_when_it_is_old(kit, records, tmp_path: Path) -> None:
    for name in (".out.12-0123456789ab.tmp", ".out.13-0123456789ab.tmp", ".other.12-0123456789ab.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
        if "12-" in name:
            os.utime(tmp_path / name, (0, 0))
    kit.last(export_dataset(records, tmp_path / "out", "folder"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".other.12-0123456789ab.tmp", ".out.13-0123456789ab.tmp", "out"]


def test_a_full_disk_leaves_nothing_behind(
    kit, records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "write_provenance", full)
    with pytest.raises(DatasetError, match="No space left"):
        kit.last(export_dataset(records, tmp_path / "out", "isic"))
    assert list(tmp_path.iterdir()) == []


def test_formats_that_are_only_read_say_so(kit, records, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="read, not written"):
        kit.last(export_dataset(records, tmp_path / "out", "ph2"))
    with pytest.raises(DatasetError, match="choose one of"):
        get_format("voc")


def test_what_was_left_out_is_reported(kit, records, tmp_path: Path) -> None:
    records[3] = replace(records[3], provenance=Provenance(status="flagged"))
    report = kit.last(export_dataset(records, tmp_path / "out", "isic"))
    assert report.written == 9
    assert [problem.name for problem in report.problems] == ["case_03"]
    assert "case_03" not in (tmp_path / "out/DATASHEET.md").read_text()


def test_provenance_is_written_and_read_back(kit, records, tmp_path: Path) -> None:
    for name in ("isic", "folder", "coco"):
        kit.last(export_dataset(records, tmp_path / name, name, config=KEEP))
        found = {record.name: record.provenance for record in read_dataset(tmp_path / name).records}
        assert found == {record.name: record.provenance for record in records}


def test_datasheet_and_croissant_say_what_is_known(kit, records, tmp_path: Path) -> None:
    info = DatasetInfo(
        title="Nevi", license="CC0-1.0", cameras="DermLite DL4", known_gaps="Few dark skin tones"
    )
    kit.last(export_dataset(records, tmp_path / "out", "isic", info=info))
    sheet = (tmp_path / "out/DATASHEET.md").read_text()
    for words in ("DermLite DL4", "Few dark skin tones", "CC0-1.0", "am 10", "lesionseg-1 10", "12.50 %",
                  "melanoma 4", "Patients known: 5", "2026-01-02"):  # fmt: skip
        assert words in sheet
    croissant = json.loads((tmp_path / "out/croissant.json").read_text())
    assert croissant["license"] == "CC0-1.0"
    assert croissant["rai:dataLimitations"] == "Few dark skin tones"
    sets = {found["includes"] for found in croissant["distribution"] if found["@type"] == "cr:FileSet"}
    assert "Task1_Training_GroundTruth/*_segmentation.png" in sets
    written = {path for pattern in sets for path in (tmp_path / "out").glob(pattern)}
    assert len(written) == 20
