from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_lesionseg.cli.main import main
from napari_lesionseg.cli.options import find_all_pairs
from napari_lesionseg.datasets.export import export_dataset, write_key
from napari_lesionseg.datasets.export_checks import Step
from napari_lesionseg.datasets.formats import FORMATS, ExportConfig, recognize
from napari_lesionseg.datasets.import_ import import_dataset, open_dataset, read_dataset
from napari_lesionseg.datasets.manifest import MANIFEST_NAME
from napari_lesionseg.datasets.records import Provenance
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io import folders
from napari_lesionseg.io.folders import FolderScan
from napari_lesionseg.io.images import write_image
from napari_lesionseg.io.tables import read_table
from napari_lesionseg.study.datasets import study_from_dataset

READABLE = ["coco", "folder", "isic"]


@pytest.fixture
def exported(kit, records, tmp_path: Path) -> Path:
    for name in READABLE:
        kit.last(export_dataset(records, tmp_path / name, name, config=ExportConfig(pseudonymize="nothing")))
    return tmp_path


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("manifest", [True, False])
def test_formats_are_recognized(exported: Path, name: str, manifest: bool) -> None:
    if not manifest:
        (exported / name / MANIFEST_NAME).unlink()
    found = recognize(FolderScan(exported / name))
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", READABLE)
def test_a_dataset_is_listed_once(exported: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each format that it may be, which took a third of the time."""
    (exported / name / MANIFEST_NAME).unlink()
    listed: list[Path] = []
    before = folders._listed
    monkeypatch.setattr(folders, "_listed", lambda folder: (listed.append(folder), before(folder))[1])
    read_dataset(exported / name)
    assert len(listed) == len(set(listed)) > 1


def test_a_damaged_manifest_does_not_hide_the_images(exported: Path) -> None:
    (exported / "isic" / MANIFEST_NAME).write_text("{")
    assert len(read_dataset(exported / "isic").records) == 10


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_archives_are_opened_and_imported(kit, exported: Path, kind: str) -> None:
    expected = kit.digests(read_dataset(exported / "isic"))
    archive = Path(shutil.make_archive(str(exported / "packed"), kind, exported, "isic"))
    with open_dataset(archive) as dataset:
        assert kit.digests(dataset) == expected
        place = dataset.records[0].image
    assert not place.exists()
    steps = list(import_dataset(archive, exported / "in"))
    assert steps[0].stage == "unpacking"
    assert kit.digests(read_dataset(exported / "in")) == expected


def test_everything_known_comes_in(kit, records, exported: Path) -> None:
    report = kit.last(import_dataset(exported / "coco", exported / "in"))
    before = {record.name: record for record in read_dataset(exported / "coco").records}
    after = {record.name: record for record in read_dataset(exported / "in").records}
    assert report.parts == {"train": 6, "val": 2, "test": 2}
    for record in records:
        old, new = before[record.name], after[record.name]
        assert new.patient == old.patient == record.patient
        assert new.diagnosis == old.diagnosis == record.diagnosis
        assert new.provenance == old.provenance == record.provenance
        assert new.part == old.part


def test_broken_entries_are_listed_and_skipped(kit, exported: Path) -> None:
    inputs = sorted((exported / "isic").glob("Task1-2_*_Input/*"))
    inputs[0].write_bytes(inputs[0].read_bytes()[:200])
    masks = sorted((exported / "isic").glob("Task1_*_GroundTruth/*"))
    shutil.copy(inputs[1], masks[-1])
    inputs[2].unlink()
    report = kit.last(import_dataset(exported / "isic", exported / "in"))
    assert report.written == 7
    names = {problem.name for problem in report.problems}
    lost = f"{inputs[2].stem}_segmentation.png"
    assert names == {inputs[0].stem, masks[-1].stem.removesuffix("_segmentation"), lost}
    assert report.left_out == 3


def test_an_import_says_that_it_assigned_out_nothing(kit, exported: Path) -> None:
    config = ExportConfig(pseudonymize="nothing")
    kit.last(
        export_dataset(read_dataset(exported / "folder").records, exported / "split", "coco", config=config)
    )
    kit.last(import_dataset(exported / "folder", exported / "in"))
    assert "Images were split by patient" in (exported / "split/DATASHEET.md").read_text()
    assert "Parts are as they came." in (exported / "in/DATASHEET.md").read_text()


def test_a_leak_in_what_comes_in_is_named_but_kept(kit, exported: Path) -> None:
    table = exported / "folder/metadata.csv"
    lines = table.read_text().splitlines()
    first = lines[1].split(",")
    first[-1] = "val" if first[-1] != "val" else "test"
    table.write_text("\n".join([lines[0], ",".join(first), *lines[2:]]))
    report = kit.last(import_dataset(exported / "folder", exported / "in"))
    assert [(problem.name, problem.left_out) for problem in report.problems] == [("parts", False)]
    assert report.written == 10


def test_a_coco_file_can_be_named_itself(kit, exported: Path) -> None:
    assert len(read_dataset(exported / "coco").records) == 10
    named = read_dataset(exported / "coco/annotations/instances_train.json").records
    assert [record.part for record in named] == ["train"] * 6
    (exported / "coco/annotations/instances_train.json").rename(exported / "coco/annotations/train.json")
    assert len(read_dataset(exported / "coco/annotations/train.json").records) == 6
    assert len(read_dataset(exported / "coco").records) == 10


def test_a_data_set_of_which_nothing_can_be_read_is_refused_with_the_reason(exported: Path) -> None:
    shutil.rmtree(exported / "coco/images")
    with pytest.raises(DatasetError, match=r"No image of it can be read\. case_\d\d\.png: .* not there"):
        list(import_dataset(exported / "coco", exported / "in"))


def test_what_is_no_data_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(DatasetError):
            read_dataset(source)
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(DatasetError, match="damaged"), open_dataset(tmp_path / "x.zip"):
        pass
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"files": [], "format": "nnunet"}))
    monkeypatch.setitem(FORMATS, "nnunet", replace(FORMATS["nnunet"], read=None))
    with pytest.raises(DatasetError, match="nnU-Net, a format that is written, not read"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DatasetError, match="neither a folder nor"):
        read_dataset(tmp_path / MANIFEST_NAME.replace("json", "zip").replace("manifest", "x"))


def test_stopping_an_import_leaves_nothing_behind(exported: Path) -> None:
    before = sorted(exported.iterdir())
    work = import_dataset(exported / "isic", exported / "in")
    for step in work:
        if isinstance(step, Step) and step.stage == "writing":
            break
    work.close()
    assert sorted(exported.iterdir()) == before


ODD_NAMES = [
    b"a:b", b"back\\slash", b"x" * 245, "\u75c5".encode() * 80, b"bl\xe5", b"[1]", b"-n", b"a\nb", b"p0",
]  # fmt: skip


def test_any_name_that_the_file_system_allows_is_handled(kit, tmp_path: Path) -> None:
    for seed, name in enumerate(ODD_NAMES):
        path = tmp_path / "set" / os.fsdecode(name + b".png")
        path.parent.mkdir(exist_ok=True)
        write_image(tmp_path / "x.png", kit.image(seed))
        (tmp_path / "x.png").rename(path)
    dataset = read_dataset(tmp_path / "set")
    assert dataset.problems == ()
    labeled = [replace(record, mask=kit.labels(2), provenance=Provenance()) for record in dataset.records]
    assert len(labeled) == len(ODD_NAMES)
    for convention in ("folder", "isic", "coco", "nnunet", "imagefolder"):
        config = ExportConfig(pseudonymize="all")
        report = kit.last(export_dataset(labeled, tmp_path / convention, convention, config=config))
        assert report.written == len(ODD_NAMES)
        write_key(report.names, tmp_path / f"{convention}.csv")
        assert len(read_table(tmp_path / f"{convention}.csv")) == len(ODD_NAMES)
    kept = ExportConfig(pseudonymize="nothing")
    assert kit.last(export_dataset(labeled, tmp_path / "kept", "isic", config=kept)).written == len(ODD_NAMES)
    assert kit.last(import_dataset(tmp_path / "set", tmp_path / "in")).written == len(ODD_NAMES)


@pytest.mark.parametrize(
    "name",
    [
        "a.json",
        "a.xml",
        "a.txt",
        "extra.dcm",
        "deeper/b.png",
        "masks.zip",
        "annotations.geojson",
        "b.nii.gz",
        "a.svg",
        "b.mp4",
        "b.png.part",
        "b.png.lnk",
        "scan",
    ],
)
def test_what_may_hold_data_and_is_not_used_is_named(kit, tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images" / "a.png", kit.image(1))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" if name == "scan" else b"{}")
    for ignored in (
        "README.md",
        "Thumbs.db",
        "LICENSE",
        "images/a_overlay.png",
        "~$x.xlsx",
        "images/a.png.dvc",
    ):
        (tmp_path / ignored).write_bytes(b"words")
    (problem,) = read_dataset(tmp_path, "folder").problems
    assert (problem.name, problem.left_out) == (name, True)
    assert "not used" in problem.reason


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("images/b.png.dvc", "dvc pull"), ("images/.b.png.icloud", "iCloud"), ("images.dvc", "dvc pull")],
)
def test_placeholders_of_what_is_not_there_are_named(kit, tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / "photos").mkdir()
    write_image(tmp_path / "photos" / "a.png", kit.image(1))
    place = tmp_path / name.replace("images/", "photos/")
    place.write_bytes(b"outs:\n- md5: 0\n")
    (problem,) = read_dataset(tmp_path / "photos" if "/" in name else tmp_path).problems
    assert problem.name == place.name
    assert "is not there" in problem.reason
    assert remedy in problem.reason


def test_images_that_a_coco_file_lacks_are_named(kit, tmp_path: Path, records) -> None:
    kit.last(export_dataset(records, tmp_path / "set", "coco", config=ExportConfig(pseudonymize="nothing")))
    for name in ("more.png", "more2.png"):
        write_image(tmp_path / "set" / "images" / "train" / name, kit.image(99))
    problems = read_dataset(tmp_path / "set").problems
    assert [problem.name for problem in problems] == ["images/train/*.png (2 files)"]


def test_further_pages_of_images_and_masks_are_named(kit, tmp_path: Path, capsys) -> None:
    frames = [Image.new("RGB", (60, 40), color) for color in ("red", "green", "blue")]
    source = tmp_path / "set"
    source.mkdir()
    frames[0].save(source / "a.gif", save_all=True, append_images=frames[1:])
    masks = [Image.new("L", (60, 40), value) for value in (0, 255)]
    frames[0].save(source / "b.png")
    masks[0].save(source / "b_mask.tif", save_all=True, append_images=masks[1:])
    frames[0].save(source / "c.png")
    drawn = np.zeros((2, 40, 60), np.uint8)
    drawn[0, 10:20, 10:20] = 255
    tifffile.imwrite(source / "c_mask.tif", drawn, photometric="minisblack")
    *_, report = import_dataset(source, tmp_path / "out")
    named = {problem.name: problem.reason for problem in report.problems if "further page" in problem.reason}
    assert sorted(named) == ["a.gif", "b_mask.tif", "c_mask.tif"]
    assert report.left_out >= 2
    Image.fromarray(kit.image(1)).resize((60, 40)).save(source / "c.png")
    _, told = study_from_dataset(tmp_path / "study", "am", read_dataset(source))
    assert [item.name for item in told if "further page" in item.reason] == ["c_mask.tif"]
    assert main(["export", str(source), "--out", str(tmp_path / "again"), "--set", "unapproved=include"]) == 1
    said = capsys.readouterr().err
    assert all(name in said for name in named)


@pytest.mark.parametrize(
    ("orientation", "turned", "named"), [(3, False, ["a"]), (3, True, []), (1, False, [])]
)
def test_an_image_that_is_turned_without_its_mask_is_named(
    kit, tmp_path: Path, capsys, orientation: int, turned: bool, named: list[str]
) -> None:
    """A mask that was drawn on the pixels as they are stored has the same size, and is upside down."""
    source = tmp_path / "set"
    source.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(kit.image(1)).save(source / "a.jpg", exif=exif)
    Image.fromarray(kit.labels(1) * 255).save(source / "a_mask.png", **({"exif": exif} if turned else {}))
    *_, report = import_dataset(source, tmp_path / "out")
    assert [problem.name for problem in report.problems if "EXIF" in problem.reason] == named
    assert (report.written, report.left_out) == (1, 0)
    capsys.readouterr()
    find_all_pairs([str(source)], [])
    assert ("EXIF" in capsys.readouterr().err) == bool(named)
