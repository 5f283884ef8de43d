from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import StudyError
from napari_lesionseg.plugin.workbench import autosave, predictions
from napari_lesionseg.plugin.workbench.autosave import SaveQueue
from napari_lesionseg.plugin.workbench.predictions import BatchPrediction, Prefetcher, prepare
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study


@pytest.fixture
def study(make_study: Any) -> Any:
    return make_study(4)


@pytest.fixture
def ids(study: Any) -> list[str]:
    return list(study.state.images)


@pytest.fixture
def prefetcher(qtbot: QtBot, study: Any) -> Iterator[Any]:
    made = Prefetcher(study)
    yield made
    made.close()


def state(study: Any, image_id: Any) -> Any:
    return study.state.images[image_id]


def test_an_image_is_prepared_with_its_outline_and_the_networks_answer(
    study: Study, ids: list[str], network: Any
) -> None:
    made = prepare(study, ids[0], network)
    assert made.image.shape == (40, 60, 3)
    assert made.mask is None
    assert made.prediction.shape == (40, 60)
    assert made.encoded is not None


def test_without_a_model_the_image_is_prepared_alone(study: Study, ids: list[str]) -> None:
    study.save_correction(ids[0], np.ones((40, 60), np.uint8))
    made = prepare(study, ids[0], None)
    assert made.prediction is None
    assert made.mask.all()


def test_images_are_prepared_in_order(qtbot: QtBot, prefetcher: Any, ids: list[str]) -> None:
    ready = []
    prefetcher.ready.connect(lambda made: ready.append(made.image_id))
    prefetcher.prefetch(ids[2:0:-1])
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert ready == ids[2:0:-1]


def test_an_image_is_taken_once_and_not_prepared_again(
    qtbot: QtBot, prefetcher: Any, study: Study, ids: list[str], network: Any
) -> None:
    prefetcher.set_model(network)
    ready = []
    prefetcher.ready.connect(lambda made: ready.append(prefetcher.take(state(study, made.image_id))))
    prefetcher.prefetch(ids[:2])
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert [made.image_id for made in ready] == ids[:2]
    assert prefetcher.take(state(study, ids[0])) is None
    assert len(network.seen) == 2


def test_an_image_that_changed_is_read_again(
    qtbot: QtBot, prefetcher: Any, study: Study, ids: list[str]
) -> None:
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.prefetch(ids[:1])
    qtbot.waitUntil(lambda: len(ready) == 1)
    study.save_correction(ids[0], np.ones((40, 60), np.uint8))
    assert prefetcher.take(state(study, ids[0])) is None
    prefetcher.prefetch(ids[:1])
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert prefetcher.take(state(study, ids[0])).mask.all()


def test_images_that_are_no_longer_wanted_are_dropped(
    qtbot: QtBot, prefetcher: Any, study: Study, ids: list[str]
) -> None:
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.prefetch(ids[:2])
    qtbot.waitUntil(lambda: len(ready) == 2)
    prefetcher.prefetch(ids[2:])
    assert prefetcher.take(state(study, ids[0])) is None
    qtbot.waitUntil(lambda: len(ready) == 4)


def test_the_work_of_a_former_model_is_dropped(
    qtbot: QtBot, prefetcher: Any, ids: list[str], network: Any
) -> None:
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.set_model(network)
    network.gate.clear()
    prefetcher.prefetch(ids[:1])
    assert network.started.wait(10)
    other = type(network)()
    prefetcher.set_model(other)
    network.gate.set()
    qtbot.waitUntil(lambda: len(ready) == 1)
    assert ready[0].encoded.model is other


def test_work_goes_on_when_its_image_is_still_the_next(
    qtbot: QtBot, prefetcher: Any, ids: list[str], network: Any
) -> None:
    ready = []
    prefetcher.ready.connect(lambda made: ready.append(made.image_id))
    prefetcher.set_model(network)
    network.gate.clear()
    prefetcher.prefetch(ids[:2])
    assert network.started.wait(10)
    prefetcher.prefetch([ids[0], ids[3]])
    network.gate.set()
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert ready == [ids[0], ids[3]]
    assert len(network.seen) == 2


def test_an_image_that_cannot_be_read_is_reported_and_skipped(
    qtbot: QtBot, prefetcher: Any, study: Study, ids: list[str]
) -> None:
    study.image_path(ids[0]).unlink()
    failed, ready = [], []
    prefetcher.failed.connect(lambda image_id, error: failed.append((image_id, error)))
    prefetcher.ready.connect(lambda made: ready.append(made.image_id))
    prefetcher.prefetch(ids[:2])
    qtbot.waitUntil(lambda: ready == [ids[1]])
    assert failed[0][0] == ids[0]
    assert isinstance(failed[0][1], StudyError)


def test_a_closed_prefetcher_emits_nothing(
    qtbot: QtBot, prefetcher: Any, ids: list[str], network: Any
) -> None:
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.set_model(network)
    network.gate.clear()
    prefetcher.prefetch(ids)
    assert network.started.wait(10)
    prefetcher.close()
    network.gate.set()
    other = Prefetcher(prefetcher._study)
    other.ready.connect(lambda made: ready.append("other"))
    other.prefetch(ids[:1])
    qtbot.waitUntil(lambda: bool(ready))
    assert ready == ["other"]


CONFIG = PostprocessConfig(min_area=0)


class Bench:
    def __init__(self, study: Any) -> None:
        self.study = study
        self.ids = list(study.state.images)
        self.save_queue = SaveQueue(study)
        self.on_screen = None
        self.batch = BatchPrediction(study, self.save_queue, lambda: self.on_screen)
        self.steps, self.ends = [], []
        self.batch.progressed.connect(lambda done, total: self.steps.append((done, total)))
        self.batch.finished.connect(self.ends.append)

    def statuses(self) -> list[Status]:
        return [state.status for state in self.study.state.images.values()]


@pytest.fixture
def bench(qtbot: QtBot, make_study: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(autosave, "RETRY_MS", 20)
    made = Bench(make_study(5))
    yield made
    made.batch.cancel()
    made.save_queue.close()


def test_every_unreviewed_image_is_saved_as_predicted(qtbot: QtBot, bench: Any, network: Any) -> None:
    bench.study.flag(bench.ids[1])
    bench.on_screen = bench.ids[3]
    bench.batch.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: bench.ends == [()])
    predicted, untouched = Status.PREDICTED, Status.UNREVIEWED
    assert bench.statuses() == [predicted, Status.FLAGGED, predicted, untouched, predicted]
    assert bench.steps[-1] == (3, 3)
    outline = bench.study.state.images[bench.ids[0]].current
    assert (outline.model, outline.threshold) == (network.sha256, pytest.approx(0.6))
    assert outline.quality is not None
    assert not bench.batch.is_active


def test_a_gpu_predicts_several_images_of_a_study_at_once(
    qtbot: QtBot, bench: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, together = predictions.predict_images, []

    def record(study: Any, images: Any, *settings: Any) -> Any:
        together.append(list(images))
        return predict(study, images, *settings)

    monkeypatch.setattr("napari_lesionseg.inference.batches.default_batch_size", lambda model: 3)
    monkeypatch.setattr(predictions, "predict_images", record)
    bench.study.image_path(bench.ids[2]).unlink()
    bench.batch.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: bool(bench.ends))
    assert together == [bench.ids[:3], bench.ids[3:]]
    assert bench.statuses().count(Status.PREDICTED) == 4
    assert len(bench.ends[0]) == 1
    assert bench.steps[-1] == (5, 5)


def test_a_canceled_batch_keeps_what_is_done(qtbot: QtBot, bench: Any, network: Any) -> None:
    bench.batch.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: Status.PREDICTED in bench.statuses())
    bench.batch.cancel()
    assert len(bench.ends) == 1
    qtbot.waitUntil(lambda: bench.save_queue.pending == 0)
    assert Status.UNREVIEWED in bench.statuses()
    bench.batch.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: len(bench.ends) == 2)
    assert set(bench.statuses()) == {Status.PREDICTED}


def test_what_the_annotator_changed_in_the_meantime_stays(qtbot: QtBot, bench: Any, network: Any) -> None:
    network.gate.clear()
    bench.batch.start(bench.ids, network, CONFIG)
    assert network.started.wait(10)
    mine = np.ones((40, 60), np.uint8)
    bench.study.save_correction(bench.ids[0], mine)
    network.gate.set()
    qtbot.waitUntil(lambda: bool(bench.ends))
    state = bench.study.state.images[bench.ids[0]]
    assert state.status is Status.CORRECTED
    assert state.predicted is None


def test_an_image_that_cannot_be_read_is_reported_at_the_end_of_the_batch(
    qtbot: QtBot, bench: Any, network: Any
) -> None:
    bench.study.image_path(bench.ids[2]).unlink()
    bench.batch.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: bool(bench.ends))
    assert len(bench.ends[0]) == 1
    assert "P3" in bench.ends[0][0]
    assert bench.statuses().count(Status.PREDICTED) == 4


def test_a_full_disk_halts_the_batch_until_there_is_room(
    qtbot: QtBot, bench: Any, network: Any, trouble: Any
) -> None:
    trouble.on = True
    bench.batch.start(bench.ids, network, CONFIG)
    qtbot.waitUntil(lambda: bool(bench.save_queue.problem))
    assert len(network.seen) == 1
    trouble.on = False
    qtbot.waitUntil(lambda: bench.ends == [()])
    assert set(bench.statuses()) == {Status.PREDICTED}
