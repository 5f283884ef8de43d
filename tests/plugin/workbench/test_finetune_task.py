"""Fine-tuning behind the window, with the real engine and a tiny network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.finetuning.schedule import FineTunePlan
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import FOLDER_VARIABLE, ModelStore
from napari_lesionseg.plugin.workbench.finetune_task import (
    FineTuneTask,
    read_training_image,
    training_images_of,
)
from napari_lesionseg.plugin.workbench.panels.finetune import FinetunePanel, ParentModel
from napari_lesionseg.study.study import Study
from napari_lesionseg.training.trainer import EpochResult, StepResult

TINY = {"width": 4, "depth": 2}
WAIT = 60_000


@pytest.fixture(autouse=True)
def usual_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a thread of low priority would hardly get a turn."""
    monkeypatch.setattr("napari_lesionseg.training.resources.BACKGROUND_NICENESS", 0)
    monkeypatch.setattr("os.fsync", lambda file: None)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Any]:
    samples = {f"case{seed}": synthetic_sample(seed, (48, 64)) for seed in range(4)}
    with Study.create(tmp_path / "study", "am", images={n: s.image for n, s in samples.items()}) as study:
        for image, state in study.state.images.items():
            if state.name == "case2":
                study.no_lesion(image)
            elif state.name != "case3":
                study.approve(image, samples[state.name].mask)
        yield study


@pytest.fixture
def model() -> Any:
    network = build_network("unet", 1, **TINY)
    return Model(network, ModelCard(name="tiny", arch="unet", arch_settings=TINY, working_size=64), "cpu")


@pytest.fixture
def make_run(qtbot: QtBot, study: Any, model: Any, tmp_path: Path) -> Iterator[Any]:
    runs = []

    def make(seconds: Any = 2.0) -> Any:
        run = FineTuneTask(study, model, FineTuneConfig(max_seconds=seconds), tmp_path / "state.safetensors")
        run.events = []
        run.progressed.connect(run.events.append)
        run.results, run.errors = [], []
        run.finished.connect(run.results.append)
        run.failed.connect(run.errors.append)
        run.start()
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()


def test_only_reviewed_images_are_trained_on_and_no_lesion_counts(study: Study) -> None:
    states = {state.name: state for state in training_images_of(study)}
    assert set(states) == {"case0", "case1", "case2"}
    assert not read_training_image(study, states["case2"]).labels.any()
    assert read_training_image(study, states["case0"]).labels.any()


def test_a_run_tells_its_plan_its_steps_and_its_rounds_and_ends_with_a_candidate(
    qtbot: QtBot, make_run: Any, model: Any
) -> None:
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    run = make_run()
    qtbot.waitUntil(lambda: bool(run.results), timeout=WAIT)
    kinds = {type(event) for event in run.events}
    assert {FineTunePlan, StepResult, EpochResult} <= kinds
    assert run.results[0].model.card.training["data"]["pairs"] == 3
    assert all((before[name] == tensor).all() for name, tensor in model.network.state_dict().items())


def test_while_it_is_paused_nothing_happens(qtbot: QtBot, make_run: Any) -> None:
    run = make_run(seconds=30.0)
    qtbot.waitUntil(lambda: any(isinstance(event, StepResult) for event in run.events), timeout=WAIT)
    run.pause()
    qtbot.wait(500)  # the step in hand ends
    count = len(run.events)
    qtbot.wait(300)
    assert len(run.events) == count
    run.resume()
    qtbot.waitUntil(lambda: len(run.events) > count, timeout=WAIT)


def test_stopping_keeps_the_best_so_far(qtbot: QtBot, make_run: Any) -> None:
    run = make_run(seconds=600.0)
    qtbot.waitUntil(lambda: any(isinstance(event, EpochResult) for event in run.events), timeout=WAIT)
    run.stop()
    qtbot.waitUntil(lambda: bool(run.results), timeout=WAIT)
    assert run.results[0].rounds


def test_a_canceled_run_fails(qtbot: QtBot, make_run: Any) -> None:
    run = make_run(seconds=600.0)
    qtbot.waitUntil(lambda: any(isinstance(event, StepResult) for event in run.events), timeout=WAIT)
    run.cancel()
    qtbot.waitUntil(lambda: bool(run.errors), timeout=WAIT)
    assert isinstance(run.errors[0], CancelledError)


@pytest.fixture
def panel(
    qtbot: QtBot,
    make_napari_viewer: Any,
    study: Any,
    model: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    from napari_lesionseg.config import PostprocessConfig
    from napari_lesionseg.plugin.workbench.session import StudySession

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    viewer = make_napari_viewer()
    session = StudySession(viewer, study, PostprocessConfig())
    session.set_model(model)
    panel = FinetunePanel(viewer)
    panel.set_session(session)
    qtbot.addWidget(panel)
    panel.controls.seconds.setMinimum(1)
    panel.controls.seconds.setValue(2)
    yield panel
    panel.set_session(None)
    session.close(discard=True)


def test_the_panel_trains_and_keeps_the_model_under_a_new_name(qtbot: QtBot, panel: Any) -> None:
    assert panel.training_images.text().startswith("3 images to train on: 3 by am")
    panel.controls.start.click()
    assert not panel.controls.start.isEnabled()
    assert panel.controls.pause.isEnabled()
    qtbot.waitUntil(lambda: panel.candidate is not None, timeout=WAIT)
    assert panel.report.figures.text().startswith("The new model is no better.")
    assert panel.report.use.isEnabled() == panel.candidate.offered
    panel.report.keep.click()
    panel.controls.start.click()
    qtbot.waitUntil(lambda: panel.candidate is not None, timeout=WAIT)
    panel.report.keep.click()
    names = {entry.name for entry in ModelStore().list() if not entry.shipped}
    assert len(names) == 2


def test_a_result_that_would_move_the_tools_waits_until_it_is_asked_for(qtbot: QtBot, panel: Any) -> None:
    panel.show()
    qtbot.waitExposed(panel)
    qtbot.mouseClick(panel.controls.start, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: bool(panel.progress.plan.text()), timeout=WAIT)
    height = panel.sizeHint().height()
    qtbot.waitUntil(lambda: panel.candidate is not None, timeout=WAIT)
    assert abs(panel.sizeHint().height() - height) <= 2  # rows of other buttons differ by a pixel
    assert not panel.report.isVisible()
    qtbot.mouseClick(panel.progress.result, Qt.MouseButton.LeftButton)
    assert panel.report.isVisible()
    assert not panel.progress.result.isVisible()


def test_the_notice_leads_to_the_result(qtbot: QtBot, panel: Any) -> None:
    panel.show()
    qtbot.mouseClick(panel.controls.start, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: panel.candidate is not None, timeout=WAIT)
    panel.unfold.emit()
    assert panel.report.isVisible()


def test_a_discarded_model_is_nowhere(qtbot: QtBot, panel: Any) -> None:
    panel.controls.start.click()
    qtbot.waitUntil(lambda: panel.candidate is not None, timeout=WAIT)
    panel.report.discard.click()
    assert panel.candidate is None
    assert all(entry.shipped for entry in ModelStore().list())


def test_only_a_fine_tuned_model_offers_the_way_back(qtbot: QtBot, model: Any) -> None:
    button = ParentModel()
    qtbot.addWidget(button)
    model.card = model.card.model_copy(update={"parent": "0" * 64})
    button.update_for(model, idle=True)
    assert not button.isVisible()  # as the shipped model, whose parent nobody has
    model.card = model.card.model_copy(update={"training": {"parent_name": "old"}})
    button.update_for(model, idle=True)
    assert button.isVisible()
    assert button.text() == "Back to old"


def test_closing_during_training_emits_nothing(qtbot: QtBot, panel: Any) -> None:
    panel.controls.seconds.setValue(600)
    panel.controls.start.click()
    run = panel.task
    assert not panel.parent_model.isVisibleTo(panel)
    qtbot.waitUntil(
        lambda: panel.progress.bar.value() > 0 or panel.progress.bar.format() != "%p%", timeout=WAIT
    )
    panel.set_session(None)
    assert run.is_cancelled
    assert panel.candidate is None
