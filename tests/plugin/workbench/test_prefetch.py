from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.errors import StudyError
from napari_lesionseg.plugin.workbench.prefetch import Prefetcher, prepare


@pytest.fixture
def study(make_study):
    return make_study(4)


@pytest.fixture
def ids(study) -> list[str]:
    return list(study.state.images)


@pytest.fixture
def prefetcher(qtbot, study):
    made = Prefetcher(study)
    yield made
    made.close()


def state(study, image_id):
    return study.state.images[image_id]


def test_an_image_is_prepared_with_its_outline_and_the_networks_answer(study, ids, network):
    made = prepare(study, ids[0], network)
    assert made.image.shape == (40, 60, 3)
    assert made.mask is None
    assert made.prediction.shape == (40, 60)
    assert made.encoded is not None


def test_without_a_model_there_is_the_image_alone(study, ids):
    study.save_correction(ids[0], np.ones((40, 60), np.uint8))
    made = prepare(study, ids[0], None)
    assert made.prediction is None
    assert made.mask.all()


def test_images_come_in_the_order_they_are_wanted(qtbot, prefetcher, ids):
    ready = []
    prefetcher.ready.connect(lambda made: ready.append(made.image_id))
    prefetcher.want(ids[2:0:-1])
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert ready == ids[2:0:-1]


def test_an_image_is_taken_once_and_not_made_again(qtbot, prefetcher, study, ids, network):
    prefetcher.set_model(network)
    ready = []
    prefetcher.ready.connect(lambda made: ready.append(prefetcher.take(state(study, made.image_id))))
    prefetcher.want(ids[:2])
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert [made.image_id for made in ready] == ids[:2]
    assert prefetcher.take(state(study, ids[0])) is None
    assert len(network.seen) == 2


def test_what_changed_since_is_not_given_but_read_again(qtbot, prefetcher, study, ids):
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.want(ids[:1])
    qtbot.waitUntil(lambda: len(ready) == 1)
    study.save_correction(ids[0], np.ones((40, 60), np.uint8))
    assert prefetcher.take(state(study, ids[0])) is None
    prefetcher.want(ids[:1])
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert prefetcher.take(state(study, ids[0])).mask.all()


def test_what_is_wanted_no_more_is_forgotten(qtbot, prefetcher, study, ids):
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.want(ids[:2])
    qtbot.waitUntil(lambda: len(ready) == 2)
    prefetcher.want(ids[2:])
    assert prefetcher.take(state(study, ids[0])) is None
    qtbot.waitUntil(lambda: len(ready) == 4)


def test_nothing_comes_of_a_former_models_work(qtbot, prefetcher, ids, network):
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.set_model(network)
    network.gate.clear()
    prefetcher.want(ids[:1])
    assert network.started.wait(10)
    other = type(network)()
    prefetcher.set_model(other)
    network.gate.set()
    qtbot.waitUntil(lambda: len(ready) == 1)
    assert ready[0].encoded.model is other


def test_what_is_being_made_goes_on_when_it_is_still_the_next(qtbot, prefetcher, ids, network):
    ready = []
    prefetcher.ready.connect(lambda made: ready.append(made.image_id))
    prefetcher.set_model(network)
    network.gate.clear()
    prefetcher.want(ids[:2])
    assert network.started.wait(10)
    prefetcher.want([ids[0], ids[3]])
    network.gate.set()
    qtbot.waitUntil(lambda: len(ready) == 2)
    assert ready == [ids[0], ids[3]]
    assert len(network.seen) == 2


def test_what_cannot_be_read_is_told_and_left_out(qtbot, prefetcher, study, ids):
    study.image_path(ids[0]).unlink()
    failed, ready = [], []
    prefetcher.failed.connect(lambda image_id, error: failed.append((image_id, error)))
    prefetcher.ready.connect(lambda made: ready.append(made.image_id))
    prefetcher.want(ids[:2])
    qtbot.waitUntil(lambda: ready == [ids[1]])
    assert failed[0][0] == ids[0]
    assert isinstance(failed[0][1], StudyError)


def test_after_closing_nothing_comes(qtbot, prefetcher, ids, network):
    ready = []
    prefetcher.ready.connect(ready.append)
    prefetcher.set_model(network)
    network.gate.clear()
    prefetcher.want(ids)
    assert network.started.wait(10)
    prefetcher.close()
    network.gate.set()
    other = Prefetcher(prefetcher._study)
    other.ready.connect(lambda made: ready.append("other"))
    other.want(ids[:1])
    qtbot.waitUntil(lambda: bool(ready))
    assert ready == ["other"]
