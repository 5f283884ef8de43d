from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.finetuning.checkpoint import (
    FineTuneCheckpoint,
    find_checkpoint,
    read_finetune_checkpoint,
    write_finetune_checkpoint,
)

STATE = FineTuneCheckpoint(
    parent="ab" * 32,
    model="lesionseg",
    images=("cd" * 32,),
    folds=(-1,),
    config=FineTuneConfig(),
    steps=10,
    per_round=2,
    batch_size=8,
    step=4,
    seconds=3.5,
    step_seconds=0.5,
    measuring_seconds=0.1,
    rounds=(),
    best=None,
    saved=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
)
TENSORS = {
    "weights": torch.arange(6.0).reshape(2, 3),
    "not in a row": torch.arange(6.0).reshape(2, 3).T,
    "half": torch.ones(3, dtype=torch.float16),
    "count": torch.tensor(7),
    "step": torch.tensor(3.0),
    "nothing": torch.zeros(0, 4),
}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_finetune_checkpoint(path, STATE, TENSORS)
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert all(read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_state_and_tensors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_finetune_checkpoint(path, STATE, TENSORS)
    state, tensors = read_finetune_checkpoint(path)
    assert state == STATE == find_checkpoint(path)
    assert torch.equal(tensors["weights"], TENSORS["weights"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_torn_file_is_none(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.safetensors"
    write_finetune_checkpoint(path, STATE, TENSORS)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(share * len(whole))])
    assert find_checkpoint(path) is None
    with pytest.raises(TrainingError):
        read_finetune_checkpoint(path)
