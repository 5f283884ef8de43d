"""Measuring a model in this process and on two."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.cluster.chunks import load_cached
from napari_lesionseg.cluster.engine import IN_PROCESS, ClusterOptions, Engine, open_engine
from napari_lesionseg.cluster.evaluate import (
    EvaluateJob,
    PairTask,
    evaluate_chunk_on_worker,
    evaluate_pairs,
)
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.evaluation.evaluate import FailedImage, Outcome, iter_evaluate
from napari_lesionseg.evaluation.instances import InstanceTally
from napari_lesionseg.evaluation.panoptic import PanopticTally
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import Pair

SETTINGS = {"width": 2, "depth": 1}
CLASSES = ("background", "lesion")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    card = ModelCard(name="tiny", arch="unet", arch_settings=SETTINGS, working_size=32)
    save_checkpoint(path, build_network("unet", **SETTINGS), card)
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    made = []
    for number in range(40):
        pair = Pair(f"{number:02}", folder / f"{number:02}.png", folder / f"{number:02}_mask.png")
        Image.fromarray(rng.integers(0, 256, (33, 40, 3), np.uint8)).save(pair.image)
        mask = np.zeros((33, 40), np.uint8)
        mask[5:20, 5 : 10 + number % 20] = 255
        Image.fromarray(mask).save(pair.mask)
        made.append(pair)
    made[7].mask.write_bytes(b"no mask")
    return made


def measure(engine: Engine, model_file: Path, pairs: list[Pair]) -> tuple[list[Outcome], object, object]:
    engine.install_model(model_file)
    instances, panoptic = InstanceTally(CLASSES), PanopticTally(CLASSES)
    config = PostprocessConfig(threshold=0.5, largest_only=False, min_area=1)
    job = EvaluateJob(config.model_dump_json(), "cpu", (instances, panoptic))
    return list(evaluate_pairs(engine, job, pairs)), instances.scores(), panoptic.quality


def test_the_figures_are_the_same_on_workers(
    model_file: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(IN_PROCESS) as engine:
        here = measure(engine, model_file, pairs)
    with open_engine(ClusterOptions(workers=2)) as engine:
        assert measure(engine, model_file, pairs) == here
        monkeypatch.setattr(engine, "sees", lambda path: False)
        assert measure(engine, model_file, pairs) == here
    (failed,) = (outcome for outcome in here[0] if isinstance(outcome, FailedImage))
    assert str(pairs[7].mask) in failed.reason


@pytest.mark.parametrize("batch_size", [3, 64])
def test_the_figures_are_the_same_in_batches(model_file: Path, pairs: list[Pair], batch_size: int) -> None:
    with open_engine(IN_PROCESS) as engine:
        outcomes, instances, panoptic = measure(engine, model_file, pairs)
    tallies = InstanceTally(CLASSES), PanopticTally(CLASSES)
    config = PostprocessConfig(threshold=0.5, largest_only=False, min_area=1)
    model = load_cached(model_file, "cpu")
    together = iter_evaluate(model, pairs, postprocess=config, tallies=tallies, batch_size=batch_size)
    assert list(together) == outcomes
    assert (tallies[0].scores(), tallies[1].quality) == (instances, panoptic)


def test_a_worker_that_lost_the_model_fails_its_own_pairs(pairs: list[Pair], tmp_path: Path) -> None:
    job = EvaluateJob(PostprocessConfig().model_dump_json(), "cpu", (InstanceTally(CLASSES),))
    gone = tmp_path / "gone.safetensors"
    results = evaluate_chunk_on_worker(job, gone, [PairTask(pair) for pair in pairs[:2]])
    assert [outcome.stem for outcome, _ in results] == ["00", "01"]
    assert all(isinstance(outcome, FailedImage) and str(gone) in outcome.reason for outcome, _ in results)


def test_a_worker_without_room_for_a_copy_fails_its_own_pair(
    model_file: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def fail(path: Path, data: bytes) -> int:
        if path.name == pairs[1].mask.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    payloads = [(pair.image.read_bytes(), pair.mask.read_bytes()) for pair in pairs[:3]]
    tasks = [PairTask(pair, payload) for pair, payload in zip(pairs[:3], payloads, strict=True)]
    job = EvaluateJob(PostprocessConfig().model_dump_json(), "cpu")
    outcomes = [outcome for outcome, _ in evaluate_chunk_on_worker(job, model_file, tasks)]
    assert [isinstance(outcome, FailedImage) for outcome in outcomes] == [False, True, False]
    assert f"{pairs[1].mask}: a worker has no room for it: No space left on device." in outcomes[1].reason
