from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from qtpy.QtWidgets import QFileDialog

from napari_lesionseg.plugin.workbench.start_panel import NewStudyDialog
from napari_lesionseg.study.layout import STUDY_FOLDER


@pytest.fixture
def photos(tmp_path, spot) -> Path:
    made = tmp_path / "nevi"
    made.mkdir()
    Image.fromarray(spot).save(made / "one.png")
    return made


@pytest.fixture
def dialog(qtbot):
    made = NewStudyDialog("am", {})
    qtbot.addWidget(made)
    return made


def test_with_nothing_given_it_says_what_is_missing(dialog):
    assert not dialog.make.isEnabled()
    assert "folder that holds the images" in dialog.problem.text()
    assert not dialog.from_viewer.isEnabled()


def test_the_folder_of_the_images_is_enough(dialog, photos):
    dialog.images.set_path(photos)
    plan = dialog.plan
    assert dialog.make.isEnabled()
    assert (plan.images_folder, plan.folder, plan.annotator) == (photos, photos / STUDY_FOLDER, "am")
    assert (plan.copy, plan.key_file, plan.blinded, plan.classes) == (False, None, False, ("lesion",))


def test_a_folder_of_ones_own_is_not_replaced(dialog, photos, tmp_path):
    dialog.folder.set_path(tmp_path / "mine")
    dialog.images.set_path(photos)
    assert dialog.plan.folder == tmp_path / "mine"


def test_pseudonyms_need_a_key_outside_and_copies(dialog, photos):
    dialog.images.set_path(photos)
    dialog.pseudonyms.setChecked(True)
    assert dialog.copy.isChecked()
    assert not dialog.copy.isEnabled()
    assert dialog.plan.key_file == photos.parent / "nevi-key.csv"
    dialog.key_file.set_path(photos / STUDY_FOLDER / "key.csv")
    assert not dialog.make.isEnabled()
    assert "key" in dialog.problem.text()
    dialog.pseudonyms.setChecked(False)
    assert dialog.make.isEnabled()
    assert dialog.copy.isEnabled()
    assert not dialog.plan.copy


def test_images_of_the_viewer_are_offered_first(qtbot, spot, tmp_path):
    dialog = NewStudyDialog("am", {"mole": spot})
    qtbot.addWidget(dialog)
    dialog.folder.set_path(tmp_path / "new")
    assert list(dialog.plan.images) == ["mole"]
    assert dialog.plan.images_folder is None
    assert dialog.plan.copy
    assert dialog.make.isEnabled()
    dialog.from_folder.setChecked(True)
    assert dialog.plan.images == {}
    assert not dialog.make.isEnabled()


@pytest.mark.parametrize(
    ("field", "text", "word"),
    [("annotator", "a b", "name"), ("classes", " , ", "lesion"), ("classes", "nevus, nevus", "same name")],
)
def test_unusable_input_is_reported(dialog, photos, field, text, word):
    dialog.images.set_path(photos)
    getattr(dialog, field).setText(text)
    assert not dialog.make.isEnabled()
    assert word in dialog.problem.text()


def test_classes_and_blinding_are_taken_over(dialog, photos):
    dialog.images.set_path(photos)
    dialog.classes.setText("lesion, ulcer")
    dialog.blinded.setChecked(True)
    assert dialog.plan.classes == ("lesion", "ulcer")
    assert dialog.plan.blinded


def test_browsing_fills_a_path_in(dialog, photos, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *arguments: str(photos))
    dialog.images.button.click()
    assert dialog.plan.images_folder == photos
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *arguments: "")
    dialog.images.button.click()
    assert dialog.plan.images_folder == photos
