"""The checkpoint of a fine-tuning: one safetensors file, written atomically."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from napari_lesionseg.config import FineTuneConfig, Settings
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.training.trainer import EpochResult, ValidationScores

STATE_KEY = "lesionseg_fine_tuning"
REFIT = "refit."
"""Prefix of the tensors of the model that is trained on all images."""
DTYPES = {torch.float16: "F16", torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
ALIGNMENT = 8


class SavedScores(Settings):
    """Scores on the held-out images; see `ValidationScores`."""

    dice: float
    jaccard: float
    failures: float


class SavedRound(Settings):
    """One point of the curve; see `EpochResult`."""

    epoch: int
    epochs: int
    step: int
    progress: float
    seconds: float
    loss: float
    size: int
    validation: SavedScores | None

    @classmethod
    def of(cls, result: EpochResult) -> SavedRound:
        """Convert an `EpochResult`."""
        known = {
            name: value for name, value in dataclasses.asdict(result).items() if name in cls.model_fields
        }
        return cls.model_validate(known)  # fine-tuning has no scores of landmarks

    def result(self) -> EpochResult:
        """Convert back to an `EpochResult`."""
        scores = ValidationScores(**self.validation.model_dump()) if self.validation else None
        return EpochResult(**self.model_dump(exclude={"validation"}), validation=scores)


class FineTuneCheckpoint(Settings):
    """The state of a fine-tuning, without its weights."""

    parent: str = Field(description="Hash of the weights it started from.")
    model: str = Field("", description="Name of the model it started from.")
    images: tuple[str, ...] = Field(description="Hashes of the images with their masks, in their order.")
    folds: tuple[int, ...] = Field(description="The fold that each image is held out in; -1: in none.")
    config: FineTuneConfig
    steps: int = Field(ge=1, description="Total steps of each fold's model.")
    per_round: int = Field(ge=1, description="Steps between two points of the curve.")
    refit_steps: int = Field(0, ge=0, description="Planned steps on all images, which follow.")
    batch_size: int = Field(ge=1, description="Images per step.")
    step: int = Field(ge=0, description="Steps done.")
    seconds: float = Field(ge=0, description="Working time so far, without pauses.")
    step_seconds: float = Field(ge=0, description="Seconds per step when it was planned.")
    alone_seconds: float = Field(0.0, ge=0, description="The same of a model that is trained alone.")
    measuring_seconds: float = Field(ge=0, description="Seconds to score all held-out images once.")
    rounds: tuple[SavedRound, ...]
    best: int | None = Field(description="Index of the best round.")
    saved: datetime.datetime
    refit: FineTuneCheckpoint | None = Field(
        None, description="State of the run on all images, if it has started."
    )

    @property
    def progress(self) -> float:
        """Fraction of the steps done, 0 to 1."""
        models = max([0, *self.folds]) + 1
        done = self.step * models + (self.refit.step if self.refit else 0)
        return done / (self.steps * models + self.refit_steps)


def write_finetune_checkpoint(path: Path, state: FineTuneCheckpoint, tensors: Mapping[str, Tensor]) -> None:
    """Write the state atomically."""
    write_atomically(path, _pack(tensors, {STATE_KEY: state.model_dump_json()}))


def _pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> memoryview:
    """Pack tensors on the CPU in the safetensors format, one by one."""
    # The library holds the GIL until all of them, well above 100 MB, are written: the window would freeze.
    # So does filling that much memory with zeros, hence `np.empty`.
    header: dict[str, Any] = {"__metadata__": metadata}
    ends = list(accumulate((tensor.nbytes for tensor in tensors.values()), initial=0))
    for (name, tensor), (start, end) in zip(tensors.items(), pairwise(ends), strict=True):
        about = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        header[name] = about
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    start_of_data = 8 + len(text)
    packed = np.empty(start_of_data + ends[-1], np.uint8)
    packed[:start_of_data] = np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8)
    data = packed[start_of_data:]
    for tensor, (start, end) in zip(tensors.values(), pairwise(ends), strict=True):
        data[start:end] = tensor.contiguous().numpy().reshape(-1).view(np.uint8)
    return packed.data


def find_checkpoint(path: Path) -> FineTuneCheckpoint | None:
    """Return the checkpoint of a fine-tuning that can be resumed; None if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return _parse(file.metadata())
    except (OSError, SafetensorError, TrainingError):
        return None


def read_finetune_checkpoint(path: Path) -> tuple[FineTuneCheckpoint, dict[str, Tensor]]:
    """Read the state with all its weights, to the CPU."""
    try:
        with safe_open(path, framework="pt") as file:
            state = _parse(file.metadata())
            return state, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
    except FileNotFoundError as error:
        raise TrainingError(f"There is no fine-tuning at {path} that can be resumed.") from error
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} is not a fine-tuning that can be resumed.") from error


def read_matching_checkpoint(
    path: Path | None, model: Model, config: FineTuneConfig
) -> tuple[FineTuneCheckpoint, dict[str, Tensor]]:
    """Read a checkpoint that was started from this model with these settings."""
    if path is None:
        raise TrainingError("To resume a fine-tuning, give the path where its state is.")
    state, tensors = read_finetune_checkpoint(path)
    if state.parent != hash_weights(model.network):
        which = f"from “{state.model}”" if state.model != model.card.name else "from another model"
        raise TrainingError(f"The interrupted fine-tuning started {which}. Choose that one, or start again.")
    if state.config != config:
        raise TrainingError(
            "The interrupted fine-tuning has other settings. Use the same ones, or start again."
        )
    return state, tensors


def hash_weights(network: nn.Module) -> str:
    """Hash a network's weights in memory; the model's file may have been replaced since it was read."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()


def _parse(metadata: dict[str, str] | None) -> FineTuneCheckpoint:
    try:
        fields: Any = json.loads((metadata or {})[STATE_KEY])
        return FineTuneCheckpoint.model_validate(fields)
    except (KeyError, ValueError, ValidationError, RecursionError) as error:
        raise TrainingError(
            "The saved fine-tuning is damaged or from another version. Start again."
        ) from error
