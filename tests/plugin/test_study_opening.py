from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.errors import LesionSegError, StudyError
from napari_lesionseg.plugin import study_opening
from napari_lesionseg.plugin.study_opening import (
    STUDY_FOLDER,
    default_reader,
    open_folder,
    open_pictures,
    open_samples,
)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"IMD{number}.png")
    return folder


def test_the_readers_name_is_one_that_a_study_takes(monkeypatch):
    monkeypatch.setattr(study_opening.getpass, "getuser", lambda: "anna.møller@hospital")
    assert default_reader() == "annamllerhospital"
    monkeypatch.setattr(study_opening.getpass, "getuser", lambda: "x" * 99)
    assert re.fullmatch("x{1,40}", default_reader())


def test_there_is_a_readers_name_even_without_an_account(monkeypatch):
    def nobody() -> str:
        raise OSError("no account")

    monkeypatch.setattr(study_opening.getpass, "getuser", nobody)
    assert default_reader() == "reader"


def test_a_folder_of_pictures_becomes_a_study_and_stays_one(photos):
    with open_folder(photos, "am") as study:
        assert study.folder == photos / STUDY_FOLDER
        pictures = list(study.state.pictures)
        assert len(pictures) == 3
        study.approve(pictures[0], np.ones((20, 30), np.uint8))
    with open_folder(photos, "am") as study:
        assert list(study.state.pictures) == pictures
        assert study.state.pictures[pictures[0]].approved is not None


def test_pictures_that_were_added_since_are_taken_in(photos):
    open_folder(photos, "am").close()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photos / "IMD9.png")
    with open_folder(photos, "am") as study:
        assert len(study.state.pictures) == 4


def test_a_study_is_opened_as_it_is(make_study):
    folder = make_study(2).folder
    with open_folder(folder, "bo") as study:
        assert len(study.state.pictures) == 2


def test_a_study_is_opened_though_its_pictures_are_gone(photos, tmp_path):
    open_folder(photos, "am").close()
    for picture in photos.glob("*.png"):
        picture.rename(tmp_path / picture.name)
    with open_folder(photos, "am") as study:
        assert len(study.state.pictures) == 3


@pytest.mark.parametrize("reader", ["", "a b", "../x"])
def test_a_readers_name_that_does_not_do_is_told(photos, reader):
    with pytest.raises(StudyError, match="name"):
        open_folder(photos, reader)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(LesionSegError):
        open_folder(tmp_path, "am")
    assert not (tmp_path / STUDY_FOLDER).exists()


def test_samples_and_open_pictures(tmp_path):
    with open_samples("am") as study:
        assert len(study.state.pictures) == 6
    images = {"a": np.zeros((9, 9, 3), np.uint8), "b": np.ones((9, 9, 3), np.uint8)}
    with open_pictures(tmp_path / "new", "am", images) as study:
        assert [state.name for state in study.state.pictures.values()] == ["a", "b"]
