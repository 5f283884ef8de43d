"""The commands about the annotators of a study: their fields, and how well they agree."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_lesionseg.cli import main
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.study.events import CarriedMask, Identified, MaskOrigin
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.study import Study

Captured = pytest.CaptureFixture[str]


def describe(folder: Path, annotator: str, *diagnoses: str) -> None:
    with Study.open(folder, annotator) as study:
        fields = StudyFields(study)
        for image_id, diagnosis in zip(study.state.images, diagnoses, strict=False):
            fields.set(image_id, {"diagnosis": diagnosis})


def values_of(folder: Path) -> list[dict[str, Any]]:
    with Study.open(folder, "cy") as study:
        fields = StudyFields(study)
        return [fields.values(image_id) for image_id in study.state.images]


def test_agreement_of_two_annotators_is_printed(study_folder: Path, capsys: Captured) -> None:
    assert main(["agreement", str(study_folder)]) == 0
    said = capsys.readouterr().out
    assert "am and bo" in said
    assert "2" in said


def test_consensus_masks_go_into_a_new_folder(study_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("SimpleITK", reason="needs the extra agreement")
    out = tmp_path / "new" / "consensus"
    assert main(["agreement", str(study_folder), "--consensus", str(out)]) == 0
    assert "2 consensus masks" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["case0_segmentation.png", "case1_segmentation.png"]
    assert all(read_mask(path).any() for path in out.iterdir())


def test_consensus_masks_of_images_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    samples = [synthetic_sample(seed, (64, 80)) for seed in range(3)]
    folder = tmp_path / "study"
    for number, name in enumerate(("left/a", "left/A", "b/../c")):
        with Study.create(folder, "am") if not number else Study.open(folder, "am") as study:
            (image,) = study.add_images(images={name: samples[number].image})
            study.approve(image, samples[number].mask)
        with Study.open(folder, "bo") as study:
            study.approve(image, samples[number].mask)
    assert main(["agreement", str(folder), "--consensus", str(tmp_path / "out")]) == 0
    masks = {path.name: read_mask(path) for path in (tmp_path / "out").iterdir()}
    assert len(masks) == 3
    assert "b_.._c_segmentation.png" in masks
    assert all(any(np.array_equal(mask, sample.mask) for mask in masks.values()) for sample in samples)


def test_images_without_a_consensus_are_named(tmp_path: Path, capsys: Captured) -> None:
    """One has a name that is too long for a mask's, one has a single annotator."""
    sample, folder, out = synthetic_sample(0, (64, 80)), tmp_path / "study", tmp_path / "out"
    names = ("a", "b" * 250, "alone", "\N{LATIN SMALL LETTER O WITH DIAERESIS}", "o\N{COMBINING DIAERESIS}")
    images = {name: np.roll(sample.image, place * 9, axis=1) for place, name in enumerate(names)}
    with Study.create(folder, "am", images=images) as study:
        for image in study.state.images:
            study.approve(image, sample.mask)
    with Study.open(folder, "bo") as study:
        for image, state in study.state.images.items():
            if state.name != "alone":
                study.approve(image, sample.mask)
    assert main(["agreement", str(folder), "--consensus", str(out)]) == 1
    said = capsys.readouterr()
    assert "3 consensus masks written" in said.out
    errors = said.err.splitlines()
    assert len(errors) == 2
    assert any("alone: Fewer than two annotators" in line for line in errors)
    assert any(line.endswith("File name too long.") for line in errors)
    assert len({path.name for path in out.iterdir()}) == 3
    assert not any("\N{COMBINING DIAERESIS}_" in path.name for path in out.iterdir())


def test_a_consensus_replaces_no_masks(study_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    own = tmp_path / "masks" / "case0_segmentation.png"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    assert main(["agreement", str(study_folder), "--consensus", str(own.parent)]) == 2
    assert f"{own.parent} is not empty; choose a new folder" in capsys.readouterr().err
    assert own.read_bytes() == b"mine"


def test_kappa_of_the_annotators_is_printed(study_folder: Path, capsys: Captured) -> None:
    pytest.importorskip("statsmodels", reason="needs the extra agreement")
    describe(study_folder, "am", "nevus", "nevus", "melanoma")
    describe(study_folder, "bo", "nevus", "melanoma", "melanoma")
    assert main(["agreement", str(study_folder)]) == 0
    said = capsys.readouterr().out
    assert "diagnosis" in said
    assert "0.400" in said  # observed 2/3, by chance 4/9
    describe(study_folder, "cy", "nevus", "nevus", "nevus")
    main(["agreement", str(study_folder)])
    assert "all (Fleiss)" in capsys.readouterr().out


def test_a_lesion_is_followed(study_folder: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["followup", str(study_folder)]) == 2
    assert "No lesion has several images" in capsys.readouterr().err
    with Study.open(study_folder, "am") as study:
        for image_id, day in zip(study.state.images, ("2026-02-01", "2026-01-01", "2026-03-01"), strict=True):
            study.record(Identified, image_id, patient="A", lesion="1")
            StudyFields(study).set(image_id, {"taken_on": day, "mm_per_pixel": 0.1})
    out = tmp_path / "followup.csv"
    assert main(["followup", str(study_folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "3 visits of 1 lesions written" in said
    assert "no diagnosis" in said
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert [row["image"] for row in rows] == ["case1", "case0", "case2"]
    assert [row["unit"] for row in rows] == ["mm", "mm", ""]
    change = float(rows[1]["area"]) / float(rows[0]["area"]) - 1
    assert float(rows[1]["area_change"]) == pytest.approx(change, rel=1e-4)


def test_gold_standards_are_mixed_in_and_reported(
    study_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["review", str(study_folder), "--gold", "1"]) == 2
    assert "--expert NAME" in capsys.readouterr().err
    with Study.open(study_folder, "chief", unblind=True) as study:
        image_id = list(study.state.images)[2]
        study.approve(image_id, np.pad(np.ones((20, 20), np.uint8), ((10, 34), (10, 50))))
    assert main(["review", str(study_folder), "--gold", "1", "--expert", "chief"]) == 0
    assert "1 images of chief are gold standards now" in capsys.readouterr().out
    with Study.open(study_folder, "am") as study:
        assert not study.state.images[image_id].status.done
        study.approve(image_id, np.pad(np.ones((20, 20), np.uint8), ((10, 34), (20, 40))))
    out = tmp_path / "gold.csv"
    assert main(["review", str(study_folder), "--out", str(out)]) == 0
    assert "0.500" in capsys.readouterr().out
    (row,) = csv.DictReader(out.read_text(encoding="utf-8").splitlines())
    assert (row["annotator"], row["image"], float(row["dice"])) == ("am", "case2", pytest.approx(0.5))


def test_fields_are_listed_with_their_values(study_folder: Path, capsys: Captured) -> None:
    describe(study_folder, "am", "nevus", "nevus", "halo nevus")
    assert main(["fields", str(study_folder)]) == 0
    said = capsys.readouterr().out
    assert "Fields (dermoscopy)" in said
    assert "nevus 2, halo nevus 1" in said
    assert main(["fields", str(study_folder.parent)]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_another_template_keeps_the_values_that_it_has_no_field_for(
    study_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    describe(study_folder, "am", "nevus")
    template = tmp_path / "fields.json"
    template.write_text('{"name": "sizes", "fields": [{"name": "width", "title": "W", "kind": "number"}]}')
    assert main(["fields", str(study_folder), "--template", str(template)]) == 1
    said = capsys.readouterr()
    assert "Fields (sizes)" in said.out
    assert "The template has no field diagnosis any more" in said.err
    assert values_of(study_folder)[0] == {"diagnosis": "nevus"}
    template.write_text("{}")
    assert main(["fields", str(study_folder), "--template", str(template)]) == 2
    assert "not a template of fields" in capsys.readouterr().err


def test_a_table_fills_in_fields_and_they_are_written(
    study_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    table, out = tmp_path / "metadata.csv", tmp_path / "values.csv"
    table.write_text("image;dx;streaks\ncase0.jpg;mel;P\ncase1.jpg;nv;many\ncase9.jpg;nv;P\n")
    assert main(["fields", str(study_folder), "--import", str(table), "--out", str(out)]) == 1
    assert "“many” is no choice of Streaks" in capsys.readouterr().err
    assert values_of(study_folder) == [
        {"diagnosis": "melanoma", "streaks": "present"},
        {"diagnosis": "nevus", "streaks": "many"},
        {},
    ]
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert [(row["name"], row["diagnosis"], row["streaks"]) for row in rows] == [
        ("case0", "melanoma", "present"),
        ("case1", "nevus", "many"),
        ("case2", "", ""),
    ]
    assert main(["verify", str(study_folder)]) == 0
    table.write_text("image,dx,age,clinic\ncase0.jpg,mel,40,A\ncase1.jpg,nv,,\ncase2.jpg,nv,,\n")
    capsys.readouterr()
    assert main(["fields", str(study_folder), "--import", str(table)]) == 1
    assert "No field is filled in from the columns age, clinic." in capsys.readouterr().err


@pytest.mark.parametrize("convention", ["isic", "coco", "imagefolder", "folder"])
def test_values_survive_the_way_through_a_data_set(
    study_folder: Path, tmp_path: Path, convention: str
) -> None:
    """Exported and imported again, fields have the values that annotators filled in."""
    values = {
        "diagnosis": "melanoma",
        "anatom_site_general": "upper extremity",
        "pigment_network": "atypical",
    }
    private = {"remarks": "Ola Nordmann", "taken_on": "2026-03-01"}
    with Study.open(study_folder, "am") as study:
        StudyFields(study).set(next(iter(study.state.images)), values | private)
    out, again = tmp_path / "set", tmp_path / "again"
    names = ["--names", "nothing"]
    assert main(["export", str(study_folder), "--format", convention, "--out", str(out), *names]) == 1
    told = b"".join(
        path.read_bytes() for path in out.rglob("*.*") if path.is_file() and path.suffix != ".png"
    )
    assert b"Nordmann" not in told
    assert b"2026-03-01" not in told
    sheet = (out / "DATASHEET.md").read_text(encoding="utf-8")
    assert "anatom_site_general: upper extremity 1, not stated 1." in sheet
    main(["import", str(out), "--out", str(again), "--annotator", "am"])
    assert values in values_of(again / "lesionseg-study")


def test_coco_objects_have_the_attributes_of_their_lesion(study_folder: Path, tmp_path: Path) -> None:
    with Study.open(study_folder, "am") as study:
        StudyFields(study).set(next(iter(study.state.images)), {"streaks": "regular"})
    main(["export", str(study_folder), "--format", "coco", "--out", str(tmp_path / "set")])
    files = (tmp_path / "set" / "annotations").glob("*.json")
    objects = [entry for file in files for entry in json.loads(file.read_text())["annotations"]]
    assert [entry["attributes"] for entry in objects if "attributes" in entry] == [{"streaks": "regular"}]


def test_verify_looks_at_fields_and_at_what_outlines_were_made_from(
    study_folder: Path, capsys: Captured
) -> None:
    describe(study_folder, "am", "nevus")
    (study_folder / "fields.json").write_text('{"name": "none", "fields": []}')
    assert main(["verify", str(study_folder)]) == 0  # kept, and no damage
    assert "The template has no field diagnosis any more" in capsys.readouterr().err
    (study_folder / "fields.json").write_text("{")
    assert main(["verify", str(study_folder)]) == 1
    assert "not a template of fields" in capsys.readouterr().err
    (study_folder / "fields.json").unlink()
    with Study.open(study_folder, "am") as study:
        source = CarriedMask(image_id="a" * 64, revision="b" * 16, matrix=(1, 0, 0, 0, 1, 0))
        image_id = list(study.state.images)[2]
        study.record_prediction(image_id, np.ones((64, 80), np.uint8), MaskOrigin(carried=source))
    assert main(["verify", str(study_folder)]) == 1
    assert "made from that of an image that nobody added" in capsys.readouterr().err


def test_a_table_says_which_images_belong_together(
    study_folder: Path, tmp_path: Path, capsys: Captured
) -> None:
    table = tmp_path / "visits.csv"
    rows = ("case0,A,1,2026-01-01", "case1,A,1,2026-02-01", "case2,A,2,2026-03-01")
    table.write_text("\n".join(("image_id,patient_id,lesion_id,date", *rows)))
    assert main(["fields", str(study_folder), "--import", str(table)]) == 0
    assert main(["followup", str(study_folder)]) == 0
    said = capsys.readouterr().out
    assert said.index("case0") < said.index("case1")
    assert "case2" not in said.split("Follow-up")[1]


def test_commands_say_when_there_is_nothing_to_show(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "study"
    Study.create(folder, "am", images={"a": np.zeros((8, 9, 3), np.uint8)}).close()
    for command, said in (
        ("agreement", "No image was decided about or described by two annotators yet."),
        ("review", "Nobody has decided about an image of this study yet."),
        ("followup", "No lesion has several images"),
    ):
        assert main([command, str(folder)]) == 2
        assert said in capsys.readouterr().err
