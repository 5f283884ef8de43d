"""An annotator corrects, fine-tunes, keeps painting and decides, all in the workbench."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QMessageBox
from tests.fakes import QUICK_FINE_TUNING
from tests.plugin.canvas_mouse import LEFT, CanvasMouse, correct_and_approve

from napari_lesionseg.finetuning.checkpoint import find_checkpoint
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import FOLDER_VARIABLE, ModelStore
from napari_lesionseg.plugin.workbench import image_review
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.finetune_task import checkpoint_path_of
from napari_lesionseg.plugin.workbench.panels import finetune as finetune_panel
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel, OutlinePanel
from napari_lesionseg.plugin.workbench.panels.finetune import FinetunePanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.state import Status
from napari_lesionseg.training.trainer import EpochResult, StepResult

TINY = {"width": 4, "depth": 2}
QUICK = QUICK_FINE_TUNING
SLOW = QUICK.model_copy(update={"epochs": 4000, "rounds": 1000})
IMAGES, CORRECTED = 11, 8
WAIT = 60_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_lesionseg.training.resources.BACKGROUND_NICENESS", 0)
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(image_review, "PAUSE_MS", 5)
    monkeypatch.setattr(finetune_panel.FinetuneControls, "config", QUICK)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model to start from, which knows nothing, in the user's list."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    torch.manual_seed(0)  # from some weights, the few steps of a test learn nothing
    network = build_network("unet", 1, **TINY)
    card = ModelCard(name="start", arch="unet", arch_settings=TINY, working_size=64)
    path = ModelStore().add(checkpoint_bytes(network, card), "start")
    monkeypatch.setattr(
        "napari_lesionseg.plugin.segment.task.load", lambda choice: load_model(choice.name or "start", "cpu")
    )
    return load_model(path, "cpu")


@pytest.fixture
def bench(qtbot: QtBot, make_napari_viewer: Any, start: Any, tmp_path: Path) -> Any:
    folder = tmp_path / "nevi"
    folder.mkdir()
    for number in range(IMAGES):
        image = np.full((48, 64, 3), 230, np.uint8)
        image[10:30, 12 + number : 37 + number] = 40
        Image.fromarray(image).save(folder / f"P{number + 1}.png")
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1300, 850)  # so that it need not grow: Mesa crashes when drawing then
    made = Workbench(viewer)
    viewer.window.add_dock_widget(made, name="LesionSeg", area="right")
    made.annotator.setText("am")
    made.panel(OutlinePanel).form.min_area.setValue(0)
    qtbot.waitUntil(lambda: made.panel(ModelPanel).models.loaded is not None, timeout=WAIT)
    made.open_folder(folder)
    qtbot.waitUntil(lambda: made.session is not None and made.session.editor is not None, timeout=WAIT)
    return made


def masks_of(bench: Any, status: Any) -> Any:
    study = bench.session.study
    states = [state for state in study.state.images.values() if state.status is status]
    return {state.name: (state.current.revision, study.read_mask(state.image_id)) for state in states}


def same_masks(one: Any, other: Any) -> Any:
    return one.keys() == other.keys() and all(
        one[name][0] == other[name][0] and np.array_equal(one[name][1], other[name][1]) for name in one
    )


def all_saved(qtbot: QtBot, bench: Any) -> None:
    qtbot.waitUntil(lambda: bench.session.save_queue.unsaved == 0, timeout=WAIT)


class Listener(QObject):
    """Notes what a learning tells."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.events = []
        run.progressed.connect(self.events.append)

    def count(self, kind: Any) -> Any:
        return sum(isinstance(event, kind) for event in self.events)


def wait_until_quiet(qtbot: QtBot, told: Listener) -> None:
    """Wait until a training that was paused reports nothing more: the step in hand has ended."""
    end, count = time.monotonic() + WAIT / 1000, -1
    while len(told.events) != count:
        assert time.monotonic() < end, "it goes on"
        count = len(told.events)
        qtbot.wait(300)


def paint(qtbot: QtBot, bench: Any, place: tuple[int, int], value: int) -> None:
    """Paint or erase a dot at a row and column, by button and mouse."""
    button = bench.panel(CorrectSection).tools.buttons["brush" if value else "eraser"]
    if not button.isChecked():  # a click on the tool in use puts it away
        qtbot.mouseClick(button, LEFT)
    CanvasMouse(bench._viewer, qtbot).click(place)


def test_from_corrections_to_a_new_model_and_back(qtbot: QtBot, bench: Any, start: Any) -> None:
    panel, session = bench.panel(FinetunePanel), bench.session
    assert not panel.controls.start.isEnabled()
    for _ in range(CORRECTED):
        correct_and_approve(qtbot, bench, WAIT)
    all_saved(qtbot, bench)
    bench.panel(QueuePanel).predict_all.click()
    qtbot.waitUntil(lambda: len(masks_of(bench, Status.PREDICTED)) == IMAGES - CORRECTED, timeout=WAIT)
    approved = masks_of(bench, Status.APPROVED)
    assert panel.training_images.text().splitlines() == [
        "8 images to train on: 8 by am",
        "Tested on every image, by models that have not seen it",
    ]

    panel.controls.start.click()
    told = Listener(panel.task)
    qtbot.waitUntil(lambda: told.count(StepResult) > 2, timeout=WAIT)
    labels = session.editor.labels
    other = 1 - int(labels.data[40, 60])
    paint(qtbot, bench, (40, 60), other)  # the annotator continues
    panel.controls.pause.click()
    assert panel.controls.pause.text() == "Continue"
    wait_until_quiet(qtbot, told)
    all_saved(qtbot, bench)
    assert session.state.status is Status.CORRECTED
    painted = session.study.read_mask(session.image_id)
    assert painted[40, 60] == other
    panel.controls.pause.click()
    qtbot.waitUntil(lambda: panel.candidate is not None, timeout=WAIT)
    rounds = [event.epoch for event in told.events if isinstance(event, EpochResult)]
    assert rounds == [1, 2, 3, 4][: len(rounds)]  # none is lost or repeated; training may stop early
    assert len(rounds) > 1

    comparison = panel.candidate.comparison
    assert panel.candidate.offered
    assert panel.report.images() == [change.stem for change in comparison.most_changed(3)]
    assert "interval" in panel.report.figures.toolTip()
    assert bench.notice.text.text().startswith("Fine-tuning has ended. The new model ")
    assert not bench.notice.isHidden()
    bench.notice.show_panel.click()
    assert bench.notice.isHidden()
    assert not panel.isHidden()
    assert panel.report.name.text() == f"start {date.today().isoformat()}"
    panel.report.name.setText("our clinic")
    panel.report.use.click()
    qtbot.waitUntil(lambda: session.model is not None and session.model.sha256 != start.sha256, timeout=WAIT)
    new = session.model
    assert new.card.parent == start.sha256
    assert bench.panel(ModelPanel).models.choice.name == "our clinic"
    qtbot.waitUntil(lambda: by_model(bench, Status.PREDICTED) == {new.sha256}, timeout=WAIT)
    all_saved(qtbot, bench)
    assert same_masks(masks_of(bench, Status.APPROVED), approved)
    assert np.array_equal(session.study.read_mask(session.image_id), painted)

    panel.parent_model.click()
    qtbot.waitUntil(lambda: session.model.sha256 == start.sha256, timeout=WAIT)
    qtbot.waitUntil(lambda: by_model(bench, Status.PREDICTED) == {start.sha256}, timeout=WAIT)
    assert same_masks(masks_of(bench, Status.APPROVED), approved)
    assert {entry.name for entry in ModelStore().list() if not entry.shipped} == {"start", "our clinic"}


def by_model(bench: Any, status: Any) -> Any:
    states = bench.session.study.state.images.values()
    return {state.current.model for state in states if state.status is status}


def test_training_continues_after_the_study_was_closed(
    qtbot: QtBot, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        correct_and_approve(qtbot, bench, WAIT)
    all_saved(qtbot, bench)
    folder = bench.session.study.folder
    monkeypatch.setattr(finetune_panel.FinetuneControls, "config", SLOW)
    bench.panel(FinetunePanel).controls.start.click()
    run = bench.panel(FinetunePanel).task
    state_path = checkpoint_path_of(bench.session.study)
    qtbot.waitUntil(lambda: find_checkpoint(state_path) is not None, timeout=WAIT)

    asked = []
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(
        QMessageBox, "question", lambda *words: asked.append(words[2]) or answers[len(asked) - 1]
    )
    assert not bench.close_study()
    assert bench.panel(FinetunePanel).task is run
    assert bench.close_study()
    assert len(asked) == 2
    assert run.wait()
    left = find_checkpoint(state_path)

    bench.open_folder(folder)
    qtbot.waitUntil(lambda: bench.session is not None and bench.session.editor is not None, timeout=WAIT)
    panel = bench.panel(FinetunePanel)
    assert not panel.checkpoint.isHidden()
    assert "start" in panel.checkpoint.text.text()
    assert bench.notice.text.text() == panel.checkpoint.text.text()
    assert not bench.notice.isHidden()
    panel.checkpoint.resume.click()
    told = Listener(panel.task)
    qtbot.waitUntil(lambda: told.count(EpochResult) > 0, timeout=WAIT)
    first = next(event for event in told.events if isinstance(event, EpochResult))
    assert first.epoch == len(left.rounds) + 1
    panel.controls.stop.click()
    qtbot.waitUntil(lambda: panel.candidate is not None, timeout=WAIT)
    assert panel.candidate.rounds[: len(left.rounds)] == tuple(saved.result() for saved in left.rounds)
    panel.report.discard.click()
    assert find_checkpoint(state_path) is None


def test_a_canceled_run_leaves_nothing(qtbot: QtBot, bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        correct_and_approve(qtbot, bench, WAIT)
    all_saved(qtbot, bench)
    monkeypatch.setattr(finetune_panel.FinetuneControls, "config", SLOW)
    panel, state_path = bench.panel(FinetunePanel), checkpoint_path_of(bench.session.study)
    panel.controls.start.click()
    qtbot.waitUntil(lambda: find_checkpoint(state_path) is not None, timeout=WAIT)
    panel.controls.cancel.click()
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert "canceled" in panel.message.text()
    assert panel.candidate is None
    assert find_checkpoint(state_path) is None
    assert panel.controls.start.isEnabled()
