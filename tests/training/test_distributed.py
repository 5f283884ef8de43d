"""Training on two processes that torchrun starts, with gloo on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from napari_lesionseg.errors import TrainingError
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.distributed import OneRank
from napari_lesionseg.training.trainer import TrainConfig, Trainer

SCRIPT = Path(__file__).with_name("ddp_run.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = 20
pytestmark = pytest.mark.timeout(1800)  # every process loads torch first


def train(folder: Path, ranks: int, steps: int = STEPS) -> dict[str, Any]:
    """Train up to a step, from the state in the folder if there is one; return the losses and scores."""
    out = folder / "losses.json"
    start = TORCHRUN if ranks > 1 else [sys.executable]
    subprocess.run([*start, SCRIPT, out, folder / "state.safetensors", str(steps)], check=True, timeout=800)
    result: dict[str, Any] = json.loads(out.read_text())
    return result


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process learns."""
    return train(tmp_path_factory.mktemp("alone"), 1)


def test_two_ranks_learn_what_one_does(alone: dict[str, Any], tmp_path: Path) -> None:
    """Batches of five images: the ranks have parts of different sizes, and count different pixels."""
    together = train(tmp_path, 2)
    assert len(together["losses"]) == STEPS
    assert together["losses"] == pytest.approx(alone["losses"], abs=1e-4)
    assert together["scores"] == pytest.approx(alone["scores"], abs=1e-3)


def test_a_training_continues_with_another_number_of_ranks(alone: dict[str, Any], tmp_path: Path) -> None:
    losses = {}
    for ranks, steps in ((1, 3), (2, 6), (1, 8)):
        losses |= train(tmp_path, ranks, steps)["losses"]
    assert losses == pytest.approx({step: alone["losses"][step] for step in losses}, abs=1e-4)
    assert len(losses) == 8


def write_folder(folder: Path) -> list[str]:
    """Write images with masks, and return the command line that trains on them."""
    images, masks, rng = folder / "images", folder / "masks", np.random.default_rng(0)
    images.mkdir()
    masks.mkdir()
    for number in range(8):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 : 20 + number, 10:30] = 1
        write_image(images / f"{number}.png", rng.integers(0, 255, (40, 48, 3)).astype(np.uint8))
        write_mask(masks / f"{number}.png", mask)
    words = ["-m", "napari_lesionseg", "train", str(images), "--masks", str(masks), "--device", "cpu"]
    words += ["--out", str(folder / "net.safetensors"), "--arch", "unet", "--epochs", "40"]
    return [*words, "--set", 'arch_settings={"width": 4, "depth": 2}', "--set", "sizes=[[0, 32]]"]


def test_a_killed_rank_ends_all_with_one_message_and_a_state_that_resumes(tmp_path: Path) -> None:
    command, state = write_folder(tmp_path), tmp_path / "net.state.safetensors"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*TORCHRUN, *command], stdout=log, stderr=log)
        deadline = time.monotonic() + 600
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        ranks = psutil.Process(process.pid).children()
        ranks[1].kill()
        assert process.wait(timeout=300) != 0
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("lesionseg:")]
    assert len(said) == 1
    assert "--resume" in said[0]
    psutil.wait_procs(ranks, timeout=200)
    done = subprocess.run([sys.executable, *command, "--resume"], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0
    assert "pass 1/40" not in done.stdout
    assert done.stdout.count("pass 40/40") == 1
    assert load_checkpoint(tmp_path / "net.safetensors").card.training["data"]["pairs"] > 0


def test_an_error_of_all_ranks_is_reported_once(tmp_path: Path) -> None:
    command = [*TORCHRUN, *write_folder(tmp_path), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode != 0
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("lesionseg:"))
    assert "can be resumed" in said
    (reported,) = (line for line in done.stderr.splitlines() if "traceback : " in line and "resumed" in line)
    assert reported.partition("traceback : ")[2] == said.removeprefix("lesionseg: ")


class ManyRanks(OneRank):
    """The first of many."""

    count = 64


def test_more_ranks_than_images_in_a_batch_are_refused() -> None:
    pair = CachedPair("one", np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8))
    network, card = build_network("unet", width=2, depth=1), ModelCard(working_size=32)
    with pytest.raises(TrainingError, match="64 processes"):
        Trainer(network, card, [pair], [], TrainConfig(), device=torch.device("cpu"), ranks=ManyRanks())
