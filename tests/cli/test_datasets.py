"""The commands that bring data sets in and out, on a study of synthetic pictures."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from napari_lesionseg.cli import main
from napari_lesionseg.data.io import read_mask
from napari_lesionseg.data.synthetic import synthetic_sample
from napari_lesionseg.study.study import Study


@pytest.fixture
def study_folder(tmp_path):
    """A study in which two readers signed two pictures, and one picture is left open."""
    samples = {f"case{seed}": synthetic_sample(seed, (64, 80)) for seed in range(3)}
    images = {name: sample.image for name, sample in samples.items()}
    folder = tmp_path / "study"
    with Study.create(folder, "am", images=images) as study:
        for name, picture in _by_name(study).items():
            if name != "case2":
                study.record_prediction(picture, np.zeros((64, 80), np.uint8))
                study.approve(picture, samples[name].mask)
    with Study.open(folder, "bo") as study:
        for name, picture in _by_name(study).items():
            if name != "case2":
                study.approve(picture, np.roll(samples[name].mask, 2, axis=1))
    return folder


def _by_name(study):
    return {state.name: picture for picture, state in study.state.pictures.items()}


def test_export_takes_what_was_signed_and_names_what_was_not(study_folder, tmp_path, capsys):
    out = tmp_path / "isic"
    assert main(["export", str(study_folder), "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert "2 pictures written" in said.out
    assert "case2" in said.err
    masks = list(out.rglob("*_segmentation.png"))
    assert len(masks) == 2
    assert all(set(np.unique(read_mask(mask))) <= {0, 1} for mask in masks)


def test_export_says_who_drew_each_outline_and_how_much(study_folder, tmp_path):
    main(["export", str(study_folder), "--out", str(tmp_path / "set"), "--set", "pseudonymise=nothing"])
    rows = list(
        csv.DictReader((tmp_path / "set" / "provenance.csv").read_text(encoding="utf-8").splitlines())
    )
    assert {row["reader"] for row in rows} == {"bo"}
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


def test_what_was_exported_comes_in_again_the_same(study_folder, tmp_path):
    for format_ in ("isic", "coco"):
        out, back = tmp_path / format_, tmp_path / f"{format_}-back"
        main(["export", str(study_folder), "--out", str(out), "--format", format_])
        assert main(["import", str(out), "--out", str(back)]) == 0
        masks = sorted(int(read_mask(path).sum()) for path in back.rglob("*.png") if "mask" in str(path))
        with Study.open(study_folder, "am") as study:
            signed = sorted(
                int(study.read_revision(state.approved).sum())
                for state in study.state.pictures.values()
                if state.approved is not None
            )
        assert masks == signed


def test_agreement_of_two_readers_is_printed(study_folder, capsys):
    assert main(["agreement", str(study_folder)]) == 0
    said = capsys.readouterr().out
    assert "am and bo" in said
    assert "2" in said


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--set", "nonsense=1"], "nonsense"),
        (["--set", "unapproved=perhaps"], "unapproved"),
        (["--info", "missing.json"], "missing.json"),
    ],
)
def test_wrong_settings_are_named(study_folder, tmp_path, capsys, words, part):
    assert main(["export", str(study_folder), "--out", str(tmp_path / "set"), *words]) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_folder_that_is_in_use_is_refused(study_folder, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    assert main(["export", str(study_folder), "--out", str(tmp_path / "set")]) == 2
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
    assert "set" in capsys.readouterr().err
