"""Fine-tuning and outlines on the worker of a cluster, as the window asks for them."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.cluster.dask_engine import DaskEngine
from napari_lesionseg.cluster.engine import ClusterOptions, open_engine
from napari_lesionseg.cluster.finetune import ClusterFineTuning, on_device
from napari_lesionseg.cluster.predict import ImageFile, Outline, outline_files, outline_image
from napari_lesionseg.config import AugmentConfig, FineTuneConfig, PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import ClusterError, TrainingError
from napari_lesionseg.finetuning.comparison import Candidate
from napari_lesionseg.finetuning.run import Progress
from napari_lesionseg.finetuning.schedule import FineTunePlan
from napari_lesionseg.finetuning.session import FineTuning
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.images import read_image, write_image
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.trainer import EpochResult, StepResult

SETTINGS = {"width": 4, "depth": 2}
CONFIG = FineTuneConfig(
    epochs=4,
    rounds=2,
    folds=2,
    precision="float32",
    num_threads=1,
    augment=AugmentConfig(artifacts=0, blur=0),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[DaskEngine]:
    with open_engine(ClusterOptions(workers=1), threads=1) as engine:
        assert isinstance(engine, DaskEngine)
        yield engine


@pytest.fixture
def joined(cluster: DaskEngine) -> ClusterOptions:
    return ClusterOptions(scheduler=cluster.client.scheduler.address)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    network = build_network("unet", 1, **SETTINGS)
    card = ModelCard(name="tiny", arch="unet", arch_settings=SETTINGS, working_size=64)
    return Model(network, card, "cpu", sha256="ab" * 32)


@pytest.fixture
def pairs() -> list[CachedPair]:
    samples = [synthetic_sample(seed, (48, 64)) for seed in range(4)]
    return [CachedPair(f"p{n}", s.image, (s.mask > 0).astype(np.uint8)) for n, s in enumerate(samples)]


def test_a_model_that_learned_on_a_gpu_is_sent_without_it(model: Model) -> None:
    """The laptop that gets it may have none."""
    on_gpu = torch.device("cuda")
    model.device_model = model.device_model._replace(device=on_gpu)
    candidate = Candidate(model, None, True, "better", 1.0, ())
    sent = on_device(candidate, torch.device("cpu"))
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301  as dask does
    assert received.model.device.type == "cpu"
    assert (received.model.card, received.model.sha256) == (model.card, model.sha256)
    assert (received.offered, received.reason) == (True, "better")
    assert received.model.predict(np.zeros((48, 64, 3), np.uint8)).shape == (48, 64)


def test_a_worker_fine_tunes_as_this_computer_does(
    joined: ClusterOptions, model: Model, pairs: list[CachedPair]
) -> None:
    there, here = ClusterFineTuning(joined, model, pairs, CONFIG), FineTuning(model, pairs, CONFIG)
    events, expected = list(there.steps()), list(here.steps())
    assert {FineTunePlan, Progress, StepResult, EpochResult} <= {type(event) for event in events}
    losses = [e.loss for e in events if isinstance(e, StepResult)]
    assert losses == pytest.approx([e.loss for e in expected if isinstance(e, StepResult)], abs=1e-6)
    mine, theirs = here.candidate(), there.candidate()
    assert (mine.offered, mine.interpolation) == (theirs.offered, theirs.interpolation)
    assert theirs.model.card.parent == model.sha256
    assert theirs.model.predict(pairs[0].image).shape == (48, 64)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[DaskEngine]:
    with open_engine(ClusterOptions(workers=2), threads=1) as engine:
        assert isinstance(engine, DaskEngine)
        yield engine


def helpers_of(engine: DaskEngine) -> list[str]:
    """Return the addresses of the workers that train folds for another one."""
    found = engine.client.run(lambda dask_worker: len(dask_worker.state.actors))
    return [address for address, actors in found.items() if actors]


def test_the_folds_are_trained_on_several_workers_with_the_same_result(
    two_workers: DaskEngine, model: Model, pairs: list[CachedPair]
) -> None:
    options = ClusterOptions(scheduler=two_workers.client.scheduler.address)
    there, here = ClusterFineTuning(options, model, pairs, CONFIG), FineTuning(model, pairs, CONFIG)
    events, helpers = [], set()
    for event in there.steps():
        events.append(event)
        helpers |= set(helpers_of(two_workers))
    expected = [event.loss for event in here.steps() if isinstance(event, StepResult)]
    assert len(helpers) == 1
    assert [event.loss for event in events if isinstance(event, StepResult)] == expected
    mine, theirs = (tuning.candidate().model.network.state_dict() for tuning in (here, there))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    deadline = time.monotonic() + 60
    while helpers_of(two_workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not helpers_of(two_workers)


def test_a_worker_that_trains_a_fold_may_die(
    two_workers: DaskEngine, model: Model, pairs: list[CachedPair]
) -> None:
    options = ClusterOptions(scheduler=two_workers.client.scheduler.address)
    there, here = ClusterFineTuning(options, model, pairs, CONFIG), FineTuning(model, pairs, CONFIG)
    events = []
    for event in there.steps():
        events.append(event)
        if sum(isinstance(event, StepResult) for event in events) == 1:
            (helper,) = helpers_of(two_workers)
            os.kill(two_workers.client.run(os.getpid, workers=[helper])[helper], signal.SIGKILL)
    expected = [event.loss for event in here.steps() if isinstance(event, StepResult)]
    assert [event.loss for event in events if isinstance(event, StepResult)] == expected
    mine, theirs = (tuning.candidate().model.network.state_dict() for tuning in (here, there))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_stop_ends_with_a_candidate(joined: ClusterOptions, model: Model, pairs: list[CachedPair]) -> None:
    tuning = ClusterFineTuning(
        joined, model, pairs, CONFIG.model_copy(update={"epochs": 3000, "rounds": 999})
    )
    for event in tuning.steps():
        if isinstance(event, EpochResult):
            tuning.stop()
    assert tuning.candidate().rounds


def test_a_closed_fine_tuning_frees_the_worker(
    cluster: DaskEngine, joined: ClusterOptions, model: Model, pairs: list[CachedPair]
) -> None:
    tuning = ClusterFineTuning(joined, model, pairs, CONFIG.model_copy(update={"epochs": 30000}))
    next(event for event in tuning.steps() if isinstance(event, StepResult))
    tuning.close()
    with pytest.raises(TrainingError, match="Nothing has been learned"):
        tuning.candidate()
    deadline = time.monotonic() + 100
    while any(cluster.client.processing().values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(cluster.client.processing().values())


def test_an_error_of_the_worker_arrives(joined: ClusterOptions, model: Model) -> None:
    bad = [CachedPair("bad", np.zeros((8, 8, 3), np.uint8), np.zeros((9, 9), np.uint8))]
    with pytest.raises(TrainingError, match="no images to learn from"):
        list(ClusterFineTuning(joined, model, bad, CONFIG).steps())


def test_a_scheduler_that_goes_away_is_a_cluster_error(model: Model, pairs: list[CachedPair]) -> None:
    with open_engine(ClusterOptions(workers=1), threads=1) as engine:
        assert isinstance(engine, DaskEngine)
        options = ClusterOptions(scheduler=engine.client.scheduler.address)
        long = CONFIG.model_copy(update={"epochs": 30000})
        events = ClusterFineTuning(options, model, pairs, long).steps()
        next(event for event in events if isinstance(event, StepResult))
        engine.client.cluster.close()
        with pytest.raises(ClusterError, match="lost"):
            list(events)


def test_a_worker_that_always_dies_is_a_cluster_error(model: Model, pairs: list[CachedPair]) -> None:
    with open_engine(ClusterOptions(workers=1), threads=1) as engine:
        assert isinstance(engine, DaskEngine)
        options = ClusterOptions(scheduler=engine.client.scheduler.address)
        long = CONFIG.model_copy(update={"epochs": 30000})

        def kill_at_every_plan() -> None:
            for event in ClusterFineTuning(options, model, pairs, long).steps():
                if isinstance(event, FineTunePlan):
                    os.kill(next(iter(engine.client.run(os.getpid).values())), signal.SIGKILL)

        with pytest.raises(ClusterError, match="died"):
            kill_at_every_plan()


def test_outlines_of_workers_are_those_of_this_computer(
    cluster: DaskEngine, model: Model, tmp_path: Path
) -> None:
    files = []
    for number in range(3):
        path = tmp_path / f"image {number}.png"
        write_image(path, synthetic_sample(number, (48, 64)).image)
        files.append(ImageFile(str(number), path.name, path.read_bytes()))
    files[1] = ImageFile("1", "broken.png", b"no image")
    results = list(outline_files(cluster, model, PostprocessConfig(), files))
    assert [result.key for result in results] == ["0", "1", "2"]
    assert "broken.png" in results[1].error
    here = outline_image(model, read_image(tmp_path / "image 2.png"), PostprocessConfig())
    assert results[2].outline is not None
    np.testing.assert_array_equal(results[2].outline.mask, here.mask)
    assert (results[2].outline.threshold, results[2].outline.quality) == (here.threshold, here.quality)


def test_masks_travel_compressed() -> None:
    """Through a slow line, those of large photos would take longer than the work."""
    mask = np.zeros((3000, 4000), np.uint8)
    mask[800:2000, 1000:3000] = 1
    sent = pickle.dumps(Outline(mask, 0.5, None))
    assert len(sent) < 100_000
    received = pickle.loads(sent)  # noqa: S301  as dask does
    np.testing.assert_array_equal(received.mask, mask)
    assert (received.mask.dtype, received.mask.flags.writeable) == (mask.dtype, True)
    assert (received.threshold, received.quality) == (0.5, None)
