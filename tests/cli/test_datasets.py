"""The commands that bring datasets in and out, on a study of synthetic images."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from napari_lesionseg.cli import main
from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.io.images import read_mask, write_image, write_mask
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.landmarks import current_marks
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Mark

FACTS = {"diagnosis": "nevus", "fitzpatrick_skin_type": "II", "image_type": "clinical: close-up"}


def _by_name(study):
    return {state.name: image for image, state in study.state.images.items()}


def test_export_writes_what_was_approved_and_names_the_rest(study_folder, tmp_path, capsys):
    out = tmp_path / "isic"
    assert main(["export", str(study_folder), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "2 images written" in said.out
    assert "case2" in said.err
    masks = list(out.rglob("*_segmentation.png"))
    assert len(masks) == 2
    assert all(set(np.unique(read_mask(mask))) <= {0, 1} for mask in masks)


def test_export_says_who_drew_each_outline_and_how_much(study_folder, tmp_path):
    main(["export", str(study_folder), "--out", str(tmp_path / "set"), "--set", "pseudonymize=nothing"])
    rows = list(
        csv.DictReader((tmp_path / "set" / "provenance.csv").read_text(encoding="utf-8").splitlines())
    )
    assert {row["annotator"] for row in rows} == {"bo"}
    assert all(0 < float(row["corrected_share"]) < 1 for row in rows)


def test_a_changed_file_is_found_by_verify(study_folder, tmp_path, capsys):
    out = tmp_path / "set"
    main(["export", str(study_folder), "--out", str(out), "--format", "folder"])
    assert main(["verify", str(out)]) == 0
    mask = next(out.rglob("masks/*.png"))
    mask.write_bytes(mask.read_bytes() + b"x")
    capsys.readouterr()
    assert main(["verify", str(out)]) == 1
    assert f"{mask.name}: changed" in capsys.readouterr().err
    (out / "notes.txt").write_text("mine")
    mask.unlink()
    assert main(["verify", str(out)]) == 1
    said = capsys.readouterr()
    assert f"{mask.name}: missing" in said.err
    assert "notes.txt: added since" in said.err
    assert "NOT as they were written" in said.out


def test_what_was_exported_comes_in_again_the_same(study_folder, tmp_path):
    for format_ in ("isic", "coco"):
        out, back = tmp_path / format_, tmp_path / f"{format_}-back"
        main(["export", str(study_folder), "--out", str(out), "--format", format_])
        assert main(["import", str(out), "--out", str(back)]) == 0
        masks = sorted(int(read_mask(path).sum()) for path in back.rglob("*.png") if "mask" in str(path))
        with Study.open(study_folder, "am") as study:
            signed = sorted(
                int(study.read_revision(state.approved).sum())
                for state in study.state.images.values()
                if state.approved is not None
            )
        assert masks == signed


def test_the_study_in_a_folder_of_images_is_what_is_exported(study_folder, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    study_folder.rename(images / STUDY_FOLDER)
    assert main(["export", str(images), "--out", str(tmp_path / "set"), "--names", "nothing"]) == 1
    assert "2 images written" in capsys.readouterr().out
    assert "bo" in (tmp_path / "set" / "provenance.csv").read_text(encoding="utf-8")


def test_why_nothing_can_be_exported_is_said(tmp_path, capsys):
    (tmp_path / "cache").mkdir()
    (tmp_path / "set").mkdir()
    for name in ("a.png", "a_mask.png"):
        write_image(tmp_path / "cache" / name, np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "set" / name).symlink_to(tmp_path / "cache" / name)
    assert main(["export", str(tmp_path / "set"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "a.png" in said
    assert "--follow-links" in said


def test_imported_masks_are_corrected_and_exported(study_folder, tmp_path, capsys):
    out, back = tmp_path / "isic", tmp_path / "back"
    main(["export", str(study_folder), "--out", str(out)])
    assert main(["import", str(out), "--out", str(back), "--annotator", "cy"]) == 0
    assert "a study with 2 outlines to review" in capsys.readouterr().out
    with Study.open(back / STUDY_FOLDER, "cy") as study:
        images = list(study.state.images)
        corrected = study.read_mask(images[0])
        corrected[:5, :5] = 1
        study.approve(images[0], corrected)
        study.approve(images[1])
    assert main(["export", str(back), "--out", str(tmp_path / "again"), "--names", "nothing"]) == 0
    masks = {path.name: read_mask(path) for path in (tmp_path / "again").rglob("*_segmentation.png")}
    before = {path.name: read_mask(path) for path in out.rglob("*_segmentation.png")}
    changed = [name for name, mask in masks.items() if (mask != before[name]).any()]
    assert len(masks) == 2
    assert len(changed) == 1
    assert main(["verify", str(back)]) == 0


def test_a_mask_that_needs_a_look_is_told_once(tmp_path, capsys):
    line = np.zeros((40, 60), np.uint8)
    line[5:35, 5:55] = 1
    line[7:33, 7:53] = 0
    (tmp_path / "set").mkdir()
    write_image(tmp_path / "set" / "a.png", np.zeros((40, 60, 3), np.uint8))
    write_mask(tmp_path / "set" / "a_segmentation.png", line)
    main(["import", str(tmp_path / "set"), "--out", str(tmp_path / "back"), "--annotator", "cy"])
    assert capsys.readouterr().err.count("a line around the lesion") == 1


@pytest.mark.parametrize("format_", ["coco-keypoints", "deeplabcut"])
def test_landmarks_become_a_study_again(tmp_path, capsys, format_):
    skeleton = Skeleton.from_names(["nose", "left_eye", "right_eye"])
    marks = {f"face{n}": (Mark("nose", 10.5 + n, 12.25), Mark("right_eye", 11, 30.125 + n)) for n in range(3)}
    images = {name: synthetic_sample(n, (40, 60)).image for n, name in enumerate(marks)}
    with Study.create(tmp_path / "study", "am", images=images, landmarks=skeleton) as study:
        for image, state in study.state.images.items():
            study.approve(image, marks[state.name])
            StudyFields(study).set(image, FACTS)
    words = ["--format", format_, "--names", "nothing"]
    assert main(["export", str(tmp_path / "study"), "--out", str(tmp_path / "first"), *words]) == 0
    out = tmp_path / "back"
    assert main(["import", str(tmp_path / "first"), "--out", str(out), "--annotator", "cy"]) == 0
    assert "a study with 3 images with landmarks to review" in capsys.readouterr().out
    with Study.open(out / STUDY_FOLDER, "cy") as study:
        assert study.info.landmarks == skeleton
        assert study.problems == ()
        for image, state in study.state.images.items():
            assert state.status is Status.CORRECTED
            assert current_marks(state) == marks[state.name]
            assert StudyFields(study).values(image).items() >= FACTS.items()
            study.approve(image)
    assert main(["export", str(out), "--out", str(tmp_path / "again"), *words]) == 0
    pattern = "*.json" if format_ == "coco-keypoints" else "CollectedData_*.csv"
    first, again = (
        next(path for path in (tmp_path / name).rglob(pattern) if path.parent != tmp_path / name)
        for name in ("first", "again")
    )
    assert first.read_text() == again.read_text()


@pytest.fixture
def photographs(tmp_path):
    """Two DICOM photographs of one patient."""
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    folder = tmp_path / "camera"
    folder.mkdir()
    for seed in range(2):
        dataset = pydicom.Dataset()
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.7"
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(dataset, keyword, pydicom.uid.generate_uid())
        dataset.Modality, dataset.PatientID, dataset.PatientName = "XC", "010160", "SECRET^Jane"
        dataset.set_pixel_data(synthetic_sample(seed, (64, 80)).image, "RGB", 8)
        dataset.save_as(folder / f"photo{seed}.dcm", enforce_file_format=True)
    return folder


def test_photographs_come_as_dicom_and_go_as_dicom(photographs, tmp_path, capsys):
    images, out = tmp_path / "images", tmp_path / "out"
    assert main(["import", str(photographs), "--out", str(images), "--annotator", "am"]) == 0
    with Study.open(images / STUDY_FOLDER, "am") as study:
        for image, state in study.state.images.items():
            assert state.added.patient == "010160"
            study.approve(image, synthetic_sample(int(state.name[-1]), (64, 80)).mask)
    assert main(["export", str(images), "--format", "dicom", "--out", str(out)]) == 2
    assert "name the folder of the originals" in capsys.readouterr().err
    words = ["--format", "dicom", "--originals", str(photographs), "--out", str(out)]
    assert main(["export", str(images), *words]) == 0
    written = list(out.rglob("*.dcm"))
    assert len(written) == 4
    assert not any(b"SECRET" in path.read_bytes() or b"010160" in path.read_bytes() for path in written)


def test_many_entries_with_one_reason_take_one_line(tmp_path, capsys):
    for number in range(12):
        write_image(tmp_path / f"p{number}.png", synthetic_sample(number, (64, 80)).image)
    write_mask(tmp_path / "p0_mask.png", synthetic_sample(0, (64, 80)).mask)
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "set"), "--format", "coco"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lesionseg: p1, p2")
    assert "and 3 more: The image has no outline yet." in line


def test_a_copy_that_is_kept_is_named_but_no_failure(tmp_path, capsys):
    sample = synthetic_sample(1, (64, 80))
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", sample.image)
        write_mask(tmp_path / f"{name}_mask.png", sample.mask)
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "set"), "--shares", "1", "0", "0"]) == 0
    said = capsys.readouterr()
    assert "b: The image is a copy of a" in said.err
    assert "(ISIC; train 2)" in said.out


def test_options_are_settings(study_folder, tmp_path):
    out, key = tmp_path / "set", tmp_path / "key.csv"
    words = ["--format", "coco", "--polygons", "--single-region", "--names", "all", "--seed", "3"]
    main(["export", str(study_folder), "--out", str(out), *words, "--key", str(key)])
    files = sorted((out / "annotations").glob("*.json"))
    annotations = [entry for path in files for entry in json.loads(path.read_text())["annotations"]]
    assert [len(entry["segmentation"]) for entry in annotations] == [1, 1]
    assert isinstance(annotations[0]["segmentation"], list)
    rows = list(csv.DictReader(key.read_text(encoding="utf-8").splitlines()))
    assert {row["old_name"] for row in rows} == {"case0", "case1"}
    assert {row["new_name"] for row in rows} == {"image_00001", "image_00002"}
    assert not any("case" in path.read_text(encoding="utf-8") for path in out.glob("*.csv"))


def test_what_is_no_dataset_is_told(tmp_path, capsys):
    (tmp_path / "file.txt").touch()
    for place, fault in (
        ("none", "none does not exist."),
        ("file.txt", "file.txt is no folder."),
        ("", "only exported datasets can be verified."),
    ):
        assert main(["verify", str(tmp_path / place)]) == 2
        assert capsys.readouterr().err.endswith(f"{fault}\n")
    assert main(["followup", str(tmp_path / "none")]) == 2
    assert "none does not exist" in capsys.readouterr().err


def test_verify_finds_a_damaged_mask_of_a_study(study_folder, capsys):
    assert main(["verify", str(study_folder)]) == 0
    assert "3 images and their masks checked: intact" in capsys.readouterr().out
    mask = next((study_folder / "masks").rglob("*.png"))
    mask.write_bytes(b"torn")
    assert main(["verify", str(study_folder)]) == 1
    said = capsys.readouterr()
    assert mask.name in said.err
    assert "damaged" in said.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--set", "nonsense=1"], "nonsense"),
        (["--set", "unapproved=perhaps"], "unapproved"),
        (["--info", "missing.json"], "missing.json cannot be read"),
        (["--info", "wrong.json"], "color: Extra inputs are not permitted"),
        (["--shares", "1", "-1", "0"], "shares"),
        (["--key", "set/key.csv"], "must not lie inside the dataset"),
        (["--key", "none/key.csv"], "a folder that exists"),
        (["--format", "dicom"], "did not come as DICOM"),
    ],
)
def test_wrong_settings_are_named(study_folder, tmp_path, monkeypatch, capsys, words, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.json").write_text('{"color": "red"}')
    assert main(["export", str(study_folder), "--out", str(tmp_path / "set"), *words]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_folder_that_is_in_use_is_refused(study_folder, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    assert main(["export", str(study_folder), "--out", str(tmp_path / "set")]) == 2
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
    assert "set" in capsys.readouterr().err
