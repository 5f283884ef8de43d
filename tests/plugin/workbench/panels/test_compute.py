"""Correct here, segment and fine-tune on a cluster, and go on here when it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QThreadPool
from tests.fakes import QUICK_FINE_TUNING
from tests.plugin.canvas_mouse import correct_and_approve

from napari_lesionseg.cluster.dask_engine import DaskEngine
from napari_lesionseg.cluster.engine import IN_PROCESS, ClusterOptions, open_engine
from napari_lesionseg.cluster.predict import outline_image
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import FOLDER_VARIABLE, ModelStore
from napari_lesionseg.plugin.workbench import image_review
from napari_lesionseg.plugin.workbench.panels import finetune as finetune_panel
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel, OutlinePanel
from napari_lesionseg.plugin.workbench.panels.compute import CLUSTER, HERE, ComputePanel
from napari_lesionseg.plugin.workbench.panels.finetune import FinetunePanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.state import Status

TINY = {"width": 4, "depth": 2}
QUICK = QUICK_FINE_TUNING.model_copy(update={"epochs": 30, "rounds": 2})
NOBODY = "tcp://127.0.0.1:9"
WAIT = 120_000


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with open_engine(ClusterOptions(workers=1), threads=1) as engine:
        assert isinstance(engine, DaskEngine)
        yield engine.client.scheduler.address


@pytest.fixture
def bench(
    qtbot: QtBot, make_napari_viewer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    monkeypatch.setattr("napari_lesionseg.training.resources.BACKGROUND_NICENESS", 0)
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(image_review, "PAUSE_MS", 5)
    monkeypatch.setattr(finetune_panel.FinetuneControls, "config", QUICK)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    card = ModelCard(name="start", arch="unet", arch_settings=TINY, working_size=64)
    ModelStore().add(checkpoint_bytes(build_network("unet", 1, **TINY), card), "start")
    monkeypatch.setattr(
        "napari_lesionseg.plugin.segment.task.load", lambda choice: load_model(choice.name or "start", "cpu")
    )
    (tmp_path / "nevi").mkdir()
    for number in range(6):
        image = np.full((48, 64, 3), 230, np.uint8)
        image[10:30, 12 + number : 37 + number] = 40
        Image.fromarray(image).save(tmp_path / "nevi" / f"P{number + 1}.png")
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1300, 850)  # so that it need not grow: Mesa crashes when drawing then
    made = Workbench(viewer)
    viewer.window.add_dock_widget(made, name="LesionSeg", area="right")
    made.annotator.setText("am")
    made.panel(OutlinePanel).form.min_area.setValue(0)
    qtbot.waitUntil(lambda: made.panel(ModelPanel).models.loaded is not None, timeout=WAIT)
    made.open_folder(tmp_path / "nevi")
    qtbot.waitUntil(lambda: made.session is not None and made.session.editor is not None, timeout=WAIT)
    yield made
    made.close_study(ask=False)


def choose(bench: Any, address: str) -> Any:
    panel = bench.panel(ComputePanel)
    panel.where.setCurrentText(CLUSTER)
    panel.address.setText(address)
    return panel


def approve_some(qtbot: QtBot, bench: Any, count: int) -> None:
    for _ in range(count):
        correct_and_approve(qtbot, bench, WAIT)
    qtbot.waitUntil(lambda: bench.session.save_queue.unsaved == 0, timeout=WAIT)


def predicted(bench: Any) -> int:
    states = bench.session.study.state.images.values()
    return sum(state.status is Status.PREDICTED for state in states)


def segment_all(qtbot: QtBot, bench: Any) -> None:
    bench.panel(QueuePanel).predict_all.click()
    qtbot.waitUntil(lambda: not bench.session.batch.is_active, timeout=WAIT)
    qtbot.waitUntil(lambda: bench.session.save_queue.unsaved == 0, timeout=WAIT)


def test_correct_fine_tune_on_the_cluster_and_adopt(
    qtbot: QtBot, bench: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_here(*args: object, **settings: object) -> None:
        raise AssertionError("this was to run on the cluster")

    monkeypatch.setattr("napari_lesionseg.finetuning.session.FineTuning._work", not_here)
    panel = choose(bench, address)
    panel.test.click()
    qtbot.waitUntil(lambda: panel.test.isEnabled(), timeout=WAIT)
    assert panel.status.text() == "Connected: dask cluster of 1 worker, 1 thread."
    approve_some(qtbot, bench, 4)
    finetuning = bench.panel(FinetunePanel)
    finetuning.controls.start.click()
    qtbot.waitUntil(lambda: finetuning.task is None, timeout=WAIT)
    candidate = finetuning.candidate
    assert candidate is not None, finetuning.message.text()
    assert candidate.rounds
    before = bench.session.model.sha256
    finetuning._on_accept(True)
    qtbot.waitUntil(lambda: bench.session.model.sha256 != before, timeout=WAIT)
    assert bench.session.model.card.parent == before


def test_all_images_are_segmented_on_the_cluster_as_they_would_be_here(
    qtbot: QtBot, bench: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmented = []
    monkeypatch.setattr(
        "napari_lesionseg.plugin.workbench.predictions.predict_images", lambda *job: segmented.append(job)
    )
    choose(bench, address)
    segment_all(qtbot, bench)
    assert predicted(bench) == 6
    assert not segmented
    study, model = bench.session.study, bench.session.model
    for state in study.state.images.values():
        assert state.current.model == model.sha256
        here = outline_image(model, study.read_image(state.image_id), bench.session.display.config)
        np.testing.assert_array_equal(study.read_mask(state.image_id), here.mask)


def test_a_cluster_that_does_not_answer_is_a_message_and_the_work_goes_on_here(
    qtbot: QtBot, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_lesionseg.cluster.clients.CONNECT_SECONDS", 1)
    messages: list[str] = []
    bench.session.failed.disconnect()
    bench.session.failed.connect(messages.append)
    monkeypatch.setattr(finetune_panel, "show_info", messages.append)
    panel = choose(bench, NOBODY)
    panel.test.click()
    qtbot.waitUntil(lambda: "No dask scheduler answers" in panel.status.text(), timeout=WAIT)
    segment_all(qtbot, bench)
    assert predicted(bench) == 6
    assert "segmented on this computer" in messages[0]
    approve_some(qtbot, bench, 3)
    finetuning = bench.panel(FinetunePanel)
    finetuning.controls.start.click()
    qtbot.waitUntil(lambda: finetuning.task is None, timeout=WAIT)
    assert finetuning.candidate is not None
    assert "fine-tuned on this computer" in messages[1]
    assert "fine-tuned on this computer" in finetuning.message.text()


def wait_for_event(name: str) -> None:
    from distributed import Event

    Event(name).wait()  # type: ignore[no-untyped-call]


@pytest.fixture
def busy_cluster() -> Iterator[str]:
    """The address of a cluster whose only worker does not get round to anything."""
    with open_engine(ClusterOptions(workers=1), threads=1) as engine:
        assert isinstance(engine, DaskEngine)
        work = engine.client.submit(wait_for_event, "go on")
        yield engine.client.scheduler.address
        work.cancel()


def test_work_that_the_cluster_does_not_do_can_be_canceled(
    qtbot: QtBot, bench: Any, busy_cluster: str
) -> None:
    pool = QThreadPool.globalInstance()
    assert pool is not None
    choose(bench, busy_cluster)
    queue = bench.panel(QueuePanel)
    queue.predict_all.click()
    qtbot.waitUntil(lambda: queue.predict_all.text().startswith("Stop (0 of"), timeout=WAIT)
    queue.predict_all.click()
    assert not bench.session.batch.is_active
    qtbot.waitUntil(lambda: pool.activeThreadCount() == 0, timeout=WAIT)
    approve_some(qtbot, bench, 3)
    finetuning = bench.panel(FinetunePanel)
    finetuning.controls.start.click()
    qtbot.waitUntil(lambda: finetuning.task is not None, timeout=WAIT)
    finetuning.controls.cancel.click()
    qtbot.waitUntil(lambda: finetuning.task is None, timeout=WAIT)
    assert finetuning.message.text() == "The fine-tuning was canceled. The model is unchanged."
    qtbot.waitUntil(lambda: pool.activeThreadCount() == 0, timeout=WAIT)


def test_the_address_is_remembered_and_the_cluster_is_not_chosen_by_itself(
    qtbot: QtBot, make_napari_viewer: Any
) -> None:
    viewer = make_napari_viewer()
    first = ComputePanel(viewer)
    qtbot.addWidget(first)
    first.where.setCurrentText(CLUSTER)
    first.address.setText(f" {NOBODY} ")
    first.address.editingFinished.emit()
    second = ComputePanel(viewer)
    qtbot.addWidget(second)
    assert second.address.text() == NOBODY
    assert second.compute is IN_PROCESS
    second.where.setCurrentText(CLUSTER)
    assert second.compute == ClusterOptions(scheduler=NOBODY)


def test_without_an_address_everything_stays_here(bench: Any) -> None:
    assert bench.session.compute is IN_PROCESS
    panel = choose(bench, "")
    assert bench.session.compute is IN_PROCESS
    assert not panel.test.isEnabled()
    choose(bench, NOBODY)
    assert bench.session.compute == ClusterOptions(scheduler=NOBODY)
    panel.where.setCurrentText(HERE)
    assert bench.session.compute is IN_PROCESS
