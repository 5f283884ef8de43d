from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QApplication, QDockWidget, QInputDialog, QMessageBox

from napari_lesionseg.errors import ModelNotFoundError
from napari_lesionseg.plugin.workbench import autosave, image_review, widget
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.panels import base as panels
from napari_lesionseg.plugin.workbench.panels import start as start_panel
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel, OutlinePanel
from napari_lesionseg.plugin.workbench.panels.fields import FieldsPanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.panels.reviewer import ReviewerPanel
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Click


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_review, "PAUSE_MS", 5)
    monkeypatch.setattr(autosave, "RETRY_MS", 20)
    monkeypatch.setattr("os.fsync", lambda file: None)  # tested with the study; takes seconds on a busy disk


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    made = tmp_path / "nevi"
    made.mkdir()
    for number in range(4):
        image = np.full((40, 60, 3), 230, np.uint8)
        image[10:30, 20:45] = 40 + number
        Image.fromarray(image).save(made / f"P{number + 1}.png")
    return made


@pytest.fixture
def bench(qtbot: QtBot, make_napari_viewer: Any, network: Any) -> Workbench:
    viewer = make_napari_viewer()
    made = Workbench(viewer)
    viewer.window.add_dock_widget(made, name="LesionSeg", area="right")
    made.annotator.setText("am")
    made.panel(OutlinePanel).form.min_area.setValue(0)
    qtbot.waitUntil(lambda: made.panel(ModelPanel).models.loaded is not None, timeout=15000)
    return made


@pytest.fixture
def open_bench(qtbot: QtBot, bench: Workbench, folder: Any) -> Workbench:
    bench.open_folder(folder)
    shown(qtbot, bench, "P1")
    qtbot.waitUntil(lambda: bench.session.editor.snapshot.mask.any())
    return bench


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the annotator says when asked whether to leave unsaved work, and what she was told."""
    said = {"answer": QMessageBox.StandardButton.No, "asked": []}

    def warning(parent: Any, title: Any, text: Any, *buttons: Any) -> Any:
        said["asked"].append(text)
        return said["answer"]

    monkeypatch.setattr(QMessageBox, "warning", warning)
    return said


def shown(qtbot: QtBot, bench: Workbench, *names: Any) -> None:
    qtbot.waitUntil(
        lambda: (
            bench.session is not None
            and bench.session.editor is not None
            and (not names or bench.session.state.name in names)
        ),
        timeout=30_000,
    )


def saved(qtbot: QtBot, bench: Workbench) -> None:
    qtbot.waitUntil(lambda: bench.session.save_queue.unsaved == 0)


def paint(bench: Workbench) -> None:
    bench.session.editor.labels.paint((2, 2), 1)


def test_many_notes_about_a_folder_are_listed(qtbot: QtBot, bench: Workbench, folder: Any) -> None:
    for number in range(4):
        (folder / f"P{number + 1}_segmentation.png").write_bytes(b"broken")
    bench.open_folder(folder)
    shown(qtbot, bench, "P1")
    (box,) = bench.findChildren(QMessageBox)
    assert box.text().startswith("4 files or images")
    assert len(box.informativeText().splitlines()) == 4
    box.accept()


def test_without_a_study_it_offers_ways_to_begin(bench: Workbench) -> None:
    assert bench.title.text() == "LesionSeg"
    for button in (bench.start.new_button, bench.start.open_button, bench.start.samples_button):
        assert button.isVisibleTo(bench)
    assert bench.close_study()


def test_a_folder_is_opened_and_its_first_image_outlined(qtbot: QtBot, open_bench: Workbench) -> None:
    assert open_bench.title.text() == "nevi"
    assert open_bench.panel(QueuePanel).model.rowCount() == 4
    saved(qtbot, open_bench)
    assert open_bench.panel(ReviewBar).save_status.text() == "saved"
    assert open_bench.session.state.status is Status.PREDICTED
    assert open_bench.panel(CorrectSection).tools.editor is open_bench.session.editor
    assert not open_bench.start.open_button.isVisibleTo(open_bench)


def test_approve_by_button_goes_to_the_next_image(qtbot: QtBot, open_bench: Workbench) -> None:
    first = open_bench.session.image_id
    open_bench.panel(ReviewBar).approve.click()
    shown(qtbot, open_bench, "P2")
    saved(qtbot, open_bench)
    assert open_bench.session.study.state.images[first].status is Status.APPROVED
    open_bench.panel(ReviewBar).back.click()
    shown(qtbot, open_bench, "P1")


def test_a_click_in_the_table_opens_an_image(qtbot: QtBot, open_bench: Workbench) -> None:
    table = open_bench.panel(QueuePanel).table
    place = table.visualRect(open_bench.panel(QueuePanel).model.index(2, 0)).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(place.x(), place.y()))
    shown(qtbot, open_bench, "P3")
    assert table.selectionModel().selectedRows()[0].row() == 2


def test_the_threshold_redraws_and_undo_takes_the_slider_back(qtbot: QtBot, open_bench: Workbench) -> None:
    area = open_bench.session.editor.snapshot.mask.sum()
    open_bench.panel(OutlinePanel).form.threshold.slider.setValue(95)
    qtbot.waitUntil(lambda: open_bench.session.editor.snapshot.mask.sum() > area)
    open_bench.session.editor.undo()
    assert open_bench.panel(OutlinePanel).form.threshold.threshold is None


def test_a_missing_folder_is_reported(
    qtbot: QtBot, bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(start_panel, "show_error", told.append)
    bench.open_folder(tmp_path / "nowhere")
    qtbot.waitUntil(lambda: bool(told))
    assert bench.session is None
    assert bench.start.open_button.isEnabled()


def test_a_model_that_cannot_be_loaded_is_reported(
    qtbot: QtBot, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(panels, "show_error", told.append)

    def load(choice: Any) -> None:
        raise ModelNotFoundError("there is none")

    monkeypatch.setattr(panels.task, "load", load)
    bench.panel(ModelPanel).load()
    qtbot.waitUntil(lambda: told == ["there is none"])


def test_the_sample_images_open(qtbot: QtBot, bench: Workbench) -> None:
    bench.start.samples_button.click()
    shown(qtbot, bench)
    assert bench.panel(QueuePanel).model.rowCount() == 6


def test_the_menu_leads_from_one_study_to_the_next(
    qtbot: QtBot, open_bench: Workbench, make_study: Any
) -> None:
    other = make_study(2)
    other.close()
    assert open_bench.menu.isVisibleTo(open_bench)
    paint(open_bench)
    study, image_id = open_bench.session.study, open_bench.session.image_id
    open_bench.open_folder(other.folder)
    shown(qtbot, open_bench)
    qtbot.waitUntil(lambda: open_bench.session.study.folder == other.folder)
    with Study.open(study.folder, "am") as left:
        assert left.read_mask(image_id)[2, 2] == 1
    close = open_bench.menu.menu().actions()[-1]
    close.trigger()
    assert open_bench.session is None
    assert not open_bench._viewer.layers
    assert open_bench.start.new_button.isVisibleTo(open_bench)


def test_of_two_studies_asked_for_the_later_one_opens(
    qtbot: QtBot, bench: Workbench, folder: Path, make_study: Any
) -> None:
    other = make_study(2)
    other.close()
    bench.open_folder(folder)
    bench.open_folder(other.folder)
    shown(qtbot, bench)
    assert bench.panel(QueuePanel).model.rowCount() == 2


def test_failing_to_save_is_loud_until_it_works(qtbot: QtBot, open_bench: Workbench, trouble: Any) -> None:
    saved(qtbot, open_bench)
    trouble.on = True
    paint(open_bench)
    qtbot.waitUntil(lambda: "the disk is full" in open_bench.panel(ReviewBar).save_status.text())
    paint(open_bench)
    open_bench.panel(ReviewBar).approve.click()
    shown(qtbot, open_bench, "P2")
    assert "the disk is full" in open_bench.panel(ReviewBar).save_status.text()
    assert "bold" in open_bench.panel(ReviewBar).save_status.styleSheet()
    trouble.on = False
    saved(qtbot, open_bench)
    assert open_bench.panel(ReviewBar).save_status.text() == "saved"
    assert "bold" not in open_bench.panel(ReviewBar).save_status.styleSheet()


def test_the_window_asks_before_it_closes_on_unsaved_work(
    qtbot: QtBot, open_bench: Workbench, trouble: Any, answer: Any
) -> None:
    saved(qtbot, open_bench)
    window = open_bench._viewer.window._qt_window
    trouble.on = True
    paint(open_bench)
    mask = open_bench.session.editor.snapshot.mask
    window.close()
    assert "the disk is full" in answer["asked"][0]
    assert open_bench.session is not None
    assert np.array_equal(open_bench.session.editor.snapshot.mask, mask)
    answer["answer"] = QMessageBox.StandardButton.Yes
    window.close()
    assert open_bench.session is None
    trouble.on = False
    assert len(answer["asked"]) == 2


def test_closing_the_window_saves_everything(
    qtbot: QtBot, open_bench: Workbench, folder: Path, answer: Any
) -> None:
    paint(open_bench)
    image_id, mask = open_bench.session.image_id, open_bench.session.editor.snapshot.mask
    open_bench._viewer.window._qt_window.close()
    assert not answer["asked"]
    assert open_bench.session is None
    with Study.open(folder / STUDY_FOLDER, "am") as study:
        assert np.array_equal(study.read_mask(image_id), mask)
        assert study.session.image_id == image_id


def test_closing_the_viewer_while_the_network_works(
    qtbot: QtBot, open_bench: Workbench, folder: Path, network: Any, answer: Any
) -> None:
    saved(qtbot, open_bench)
    network.gate.clear()
    network.started.clear()
    open_bench.session.editor.add_stroke(Click(2, 2))
    paint(open_bench)
    image_id = open_bench.session.image_id
    open_bench._viewer.close()
    network.gate.set()
    assert not answer["asked"]
    with Study.open(folder / STUDY_FOLDER, "am") as study:
        assert study.read_mask(image_id)[2, 2] == 1


def test_closing_while_the_study_is_being_opened(qtbot: QtBot, bench: Workbench, folder: Path) -> None:
    bench.open_folder(folder)
    bench._viewer.close()
    assert bench.session is None


def test_a_removed_dock_saves_and_leaves_nothing(qtbot: QtBot, open_bench: Workbench, folder: Path) -> None:
    paint(open_bench)
    image_id, viewer = open_bench.session.image_id, open_bench._viewer
    open_bench.setParent(None)
    open_bench.deleteLater()
    QApplication.sendPostedEvents(open_bench, QEvent.Type.DeferredDelete)
    gc.collect()
    assert not viewer.layers
    with Study.open(folder / STUDY_FOLDER, "am") as study:
        assert study.read_mask(image_id)[2, 2] == 1


def test_a_removed_dock_goes_on_saving(
    qtbot: QtBot, open_bench: Workbench, folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: Any
) -> None:
    saved(qtbot, open_bench)
    told = []
    monkeypatch.setattr(widget, "show_error", told.append)
    image_id = open_bench.session.image_id
    trouble.on = True
    paint(open_bench)
    open_bench.setParent(None)
    open_bench.deleteLater()
    QApplication.sendPostedEvents(open_bench, QEvent.Type.DeferredDelete)
    assert "the disk is full" in told[0]
    assert QApplication.instance().findChild(widget.UnsavedSession) is not None
    trouble.on = False
    qtbot.waitUntil(lambda: QApplication.instance().findChild(widget.UnsavedSession) is None)
    with Study.open(folder / STUDY_FOLDER, "am") as study:
        assert study.read_mask(image_id)[2, 2] == 1


def test_a_floating_dock_does_not_hide_the_window_that_closes(
    qtbot: QtBot, open_bench: Workbench, folder: Path
) -> None:
    dock = open_bench.parentWidget()
    while not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    dock.setFloating(True)
    paint(open_bench)
    image_id = open_bench.session.image_id
    open_bench._viewer.close()
    assert open_bench.session is None
    with Study.open(folder / STUDY_FOLDER, "am") as study:
        assert study.read_mask(image_id)[2, 2] == 1


def test_a_study_is_opened_again_for_review(
    qtbot: QtBot, open_bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_bench.session
    open_bench.panel(ReviewBar).approve.click()
    shown(qtbot, open_bench, "P2")
    qtbot.waitUntil(lambda: before.save_queue.unsaved == 0)
    monkeypatch.setattr(QInputDialog, "getText", lambda *args, **named: ("chief", True))
    open_bench.panel(ReviewerPanel).begin.click()
    qtbot.waitUntil(lambda: open_bench.session not in (None, before), timeout=15000)
    shown(qtbot, open_bench, "P1")
    assert open_bench.session.study.is_reviewer
    assert open_bench.annotator.text() == "chief"
    assert open_bench.panel(ReviewBar).approve.text().startswith("Accept")
    assert "This outline is by am" in open_bench.panel(ReviewerPanel).message.text()


def test_the_key_of_the_fields_unfolds_them(qtbot: QtBot, open_bench: Workbench) -> None:
    panel, window = open_bench.panel(FieldsPanel), open_bench.window()
    assert panel.isHidden()
    keys = [key for key in window.findChildren(QShortcut) if key.key() == QKeySequence("F6")]
    assert len(keys) == 1
    keys[0].activated.emit()
    assert not panel.isHidden()
