"""Measuring a model in this process and on two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.cluster.engine import IN_PROCESS, ClusterOptions, Engine, open_engine
from napari_lesionseg.cluster.evaluate import EvaluateJob, evaluate_pairs
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.evaluation.evaluate import FailedImage, Outcome
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
