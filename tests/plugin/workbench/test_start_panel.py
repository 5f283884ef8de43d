from __future__ import annotations

import threading

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from PIL import Image as PILImage
from qtpy.QtWidgets import QDialog

from napari_lesionseg.plugin.workbench import start_panel
from napari_lesionseg.plugin.workbench.open_study import NewStudy
from napari_lesionseg.plugin.workbench.start_panel import NewStudyDialog, StartPanel
from napari_lesionseg.study.layout import is_study


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture
def told(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(start_panel, "show_error", said.append)
    return said


@pytest.fixture
def viewer():
    return ViewerModel()


@pytest.fixture
def opened():
    return []


@pytest.fixture
def panel(qtbot, viewer, opened):
    made = StartPanel(viewer, lambda: "am", lambda: True)
    qtbot.addWidget(made)
    made.opened.connect(opened.append)
    yield made
    made._close_task()
    for study in opened:
        study.close()


def test_images_of_the_viewer_become_a_study_and_their_layers_go(
    qtbot, panel, viewer, opened, tmp_path, monkeypatch, spot
):
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


def test_a_dialog_that_is_left_makes_nothing(panel, opened, monkeypatch):
    monkeypatch.setattr(NewStudyDialog, "exec", lambda dialog: int(QDialog.DialogCode.Rejected))
    panel.new_button.click()
    assert panel.new_button.isEnabled()
    assert not opened


def test_images_stay_when_no_study_can_be_made(qtbot, panel, viewer, told, tmp_path, spot):
    mole = Image(spot, rgb=True)
    viewer.layers.append(mole)
    (tmp_path / "file.txt").write_text("taken")
    panel.make(NewStudy(tmp_path, "am", images={"mole": spot}), [mole])
    qtbot.waitUntil(lambda: bool(told))
    assert "not empty" in told[0]
    assert mole in viewer.layers
    assert panel.new_button.isEnabled()


def test_nothing_is_opened_while_the_annotator_stays(panel, opened, tmp_path):
    panel._may_leave = lambda: False
    panel.open_folder(tmp_path)
    assert panel._task is None


def test_reading_shows_progress_and_can_be_canceled(qtbot, panel, told, opened, tmp_path, monkeypatch, spot):
    for number in range(3):
        image = spot.copy()
        image[0, number] = 9
        PILImage.fromarray(image).save(tmp_path / f"P{number}.png")
    at_work, go_on = threading.Event(), threading.Event()
    real = start_panel.open_folder

    def slowly(folder, annotator, progress):
        def waiting(done, total):
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
