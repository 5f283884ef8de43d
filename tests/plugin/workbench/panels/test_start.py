from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from PIL import Image as PILImage
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QFileDialog

from napari_lesionseg.plugin.workbench.open_study import NewStudy
from napari_lesionseg.plugin.workbench.panels import start as start_panel
from napari_lesionseg.plugin.workbench.panels.start import NewStudyDialog, StartPanel
from napari_lesionseg.study import datasets
from napari_lesionseg.study.layout import STUDY_FOLDER, is_study
from napari_lesionseg.study.state import Status
from napari_lesionseg.types import ByteImage


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Any:
    said: list[str] = []
    monkeypatch.setattr(start_panel, "show_error", said.append)
    return said


@pytest.fixture
def viewer() -> Any:
    return ViewerModel()


@pytest.fixture
def opened() -> Any:
    return []


@pytest.fixture
def panel(qtbot: QtBot, viewer: Any, opened: Any) -> Iterator[Any]:
    made = StartPanel(viewer, lambda: "am", lambda: True)
    qtbot.addWidget(made)
    made.opened.connect(opened.append)
    yield made
    made._close_task()
    for study in opened:
        study.close()


def test_images_of_the_viewer_become_a_study_and_their_layers_go(
    qtbot: QtBot,
    panel: Any,
    viewer: Any,
    opened: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spot: ByteImage,
) -> None:
    mole, other = Image(spot, rgb=True, name="mole"), Labels(np.zeros((40, 60), np.uint8))
    ours = Image(spot, rgb=True, name="of a study")
    viewer.layers.extend([mole, other, ours])
    panel.in_use = (ours,)

    def accept(dialog: NewStudyDialog) -> int:
        dialog.folder.set_path(tmp_path / "new")
        return int(QDialog.DialogCode.Accepted)

    monkeypatch.setattr(NewStudyDialog, "exec", accept)
    panel.new_button.click()
    qtbot.waitUntil(lambda: bool(opened))
    assert [state.name for state in opened[0].state.images.values()] == ["mole"]
    assert list(viewer.layers) == [other, ours]


def test_a_dialog_that_is_left_makes_nothing(
    panel: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NewStudyDialog, "exec", lambda dialog: int(QDialog.DialogCode.Rejected))
    panel.new_button.click()
    assert panel.new_button.isEnabled()
    assert not opened


def test_images_stay_when_no_study_can_be_made(
    qtbot: QtBot, panel: Any, viewer: Any, told: Any, tmp_path: Path, spot: ByteImage
) -> None:
    mole = Image(spot, rgb=True)
    viewer.layers.append(mole)
    (tmp_path / "file.txt").write_text("taken")
    panel.make(NewStudy(tmp_path, "am", images={"mole": spot}), [mole])
    qtbot.waitUntil(lambda: bool(told))
    assert "not empty" in told[0]
    assert mole in viewer.layers
    assert panel.new_button.isEnabled()


def test_nothing_is_opened_while_the_annotator_stays(panel: Any, opened: Any, tmp_path: Path) -> None:
    panel._may_leave = lambda: False
    panel.open_folder(tmp_path)
    assert panel._task is None


def test_reading_shows_progress_and_can_be_canceled(
    qtbot: QtBot,
    panel: Any,
    told: Any,
    opened: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spot: ByteImage,
) -> None:
    for number in range(3):
        image = spot.copy()
        image[0, number] = 9
        PILImage.fromarray(image).save(tmp_path / f"P{number}.png")
    at_work, go_on = threading.Event(), threading.Event()
    real = start_panel.open_folder

    def slowly(folder: Any, annotator: Any, progress: Any, landmarks: str) -> Any:
        def waiting(done: Any, total: Any) -> None:
            progress(done, total)
            at_work.set()
            go_on.wait(20)

        return real(folder, annotator, waiting)

    monkeypatch.setattr(start_panel, "open_folder", slowly)
    panel.open_folder(tmp_path)
    assert not panel.new_button.isEnabled()
    qtbot.waitUntil(at_work.is_set)
    qtbot.waitUntil(lambda: panel.progress.text() == "Reading the images: 1 of 3")
    panel.cancel_button.click()
    go_on.set()
    qtbot.waitUntil(panel.new_button.isEnabled)
    assert not told
    assert not opened
    monkeypatch.setattr(start_panel, "open_folder", real)
    panel.open_folder(tmp_path)
    qtbot.waitUntil(lambda: bool(opened))
    assert len(opened[0].state.images) == 3
    assert is_study(opened[0].folder)


@pytest.mark.parametrize("was_there", [False, True])
def test_no_outline_is_lost_when_the_import_is_canceled(
    qtbot: QtBot, panel: Any, opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    """A new study is not kept without the rest of its outlines; one that was there gets them all."""

    def put(name: str, gray: int) -> None:
        PILImage.new("RGB", (30, 20), (gray, 90, 90)).save(tmp_path / f"{name}.png")
        mask = PILImage.new("L", (30, 20))
        mask.paste(255, (5, 5, 15, 15))
        mask.save(tmp_path / f"{name}_segmentation.png")

    if was_there:
        put("old", 9)
        start_panel.open_folder(tmp_path, "am").close()
    for number in range(3):
        put(f"P{number}", 100 + number)
    at_work, go_on = threading.Event(), threading.Event()
    real = datasets._import_mask

    def wait_for_cancel(study: Any, image: str, record: Any, problems: Any) -> bool:
        at_work.set()
        go_on.wait(20)
        return real(study, image, record, problems)

    monkeypatch.setattr(datasets, "_import_mask", wait_for_cancel)
    panel.show()
    panel.open_folder(tmp_path)
    qtbot.waitUntil(at_work.is_set)
    qtbot.mouseClick(panel.cancel_button, Qt.MouseButton.LeftButton)
    go_on.set()
    qtbot.waitUntil(panel.new_button.isEnabled)
    assert not opened
    assert (tmp_path / STUDY_FOLDER).exists() is was_there
    panel.open_folder(tmp_path)
    qtbot.waitUntil(lambda: bool(opened))
    images = opened[0].state.images.values()
    assert [state.status for state in images] == [Status.CORRECTED] * (3 + was_there)


@pytest.fixture
def photos(tmp_path: Path, spot: Any) -> Path:
    made = tmp_path / "nevi"
    made.mkdir()
    PILImage.fromarray(spot).save(made / "one.png")
    return made


@pytest.fixture
def dialog(qtbot: QtBot) -> Any:
    made = NewStudyDialog("am", {})
    qtbot.addWidget(made)
    return made


def test_with_nothing_given_it_says_what_is_missing(dialog: Any) -> None:
    assert not dialog.make.isEnabled()
    assert "folder that holds the images" in dialog.problem.text()
    assert not dialog.from_viewer.isEnabled()


def test_the_folder_of_the_images_is_enough(dialog: Any, photos: Path) -> None:
    dialog.images.set_path(photos)
    plan = dialog.plan
    assert dialog.make.isEnabled()
    assert (plan.images_folder, plan.folder, plan.annotator) == (photos, photos / STUDY_FOLDER, "am")
    assert (plan.copy, plan.key_file, plan.blinded, plan.classes) == (False, None, False, ("lesion",))


def test_a_folder_of_ones_own_is_not_replaced(dialog: Any, photos: Path, tmp_path: Path) -> None:
    dialog.folder.set_path(tmp_path / "mine")
    dialog.images.set_path(photos)
    assert dialog.plan.folder == tmp_path / "mine"


def test_pseudonyms_need_a_key_outside_and_copies(dialog: Any, photos: Path) -> None:
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


def test_images_of_the_viewer_are_offered_first(qtbot: QtBot, spot: ByteImage, tmp_path: Path) -> None:
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
def test_unusable_input_is_reported(dialog: Any, photos: Path, field: Any, text: Any, word: Any) -> None:
    dialog.images.set_path(photos)
    getattr(dialog, field).setText(text)
    assert not dialog.make.isEnabled()
    assert word in dialog.problem.text()


def test_classes_and_blinding_are_taken_over(dialog: Any, photos: Path) -> None:
    dialog.images.set_path(photos)
    dialog.classes.setText("lesion, ulcer")
    dialog.blinded.setChecked(True)
    assert dialog.plan.classes == ("lesion", "ulcer")
    assert dialog.plan.blinded


def test_browsing_fills_a_path_in(dialog: Any, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *arguments: str(photos))
    dialog.images.button.click()
    assert dialog.plan.images_folder == photos
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *arguments: "")
    dialog.images.button.click()
    assert dialog.plan.images_folder == photos
