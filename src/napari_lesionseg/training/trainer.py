"""The training loop, for training from scratch or from pretrained weights.

A run is reproducible and can be interrupted anywhere: batches and simulated clicks depend on the seed and the
step alone, and the checkpoint holds weights, average, optimizer and position.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from napari_lesionseg.config import LearningConfig, TrainConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.evaluation.keypoints import LandmarkScores
from napari_lesionseg.evaluation.metrics import FAILURE_LIMIT, overlap
from napari_lesionseg.inference.device import choose_device
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.training.dataset import BatchSource, CachedPair
from napari_lesionseg.training.distributed import ONE_RANK, Ranks
from napari_lesionseg.training.learner import Learner, rate_at
from napari_lesionseg.training.resources import ThreadLimit, WorkClock
from napari_lesionseg.types import IGNORED

SAVE_EVERY_SECONDS = 120.0
ENOUGH_STEPS, SMALLEST_BATCH = 200, 4  # many small steps learn more than few large ones
STATE_KEY = "lesionseg_training"


@dataclass(frozen=True, slots=True)
class ValidationScores:
    """Mean scores of the foreground over the held-out images, each in [0, 1]."""

    dice: float
    jaccard: float
    failures: float
    """Fraction of the images with a Jaccard index below `FAILURE_LIMIT`."""


def validate(
    network: SegmentationNetwork,
    card: ModelCard,
    pairs: Sequence[CachedPair],
    device: torch.device,
    ranks: Ranks = ONE_RANK,
) -> ValidationScores:
    """Score the predictions at a threshold of 0.5, without postprocessing; each rank scores its part."""
    model, scores = Model(network, card, device), np.zeros((len(pairs), 2))  # Dice and Jaccard
    for index in range(ranks.index, len(pairs), ranks.count):
        scores[index] = _score(model, pairs[index])
    scores = ranks.collect(scores)
    dice, jaccard = scores.mean(axis=0).tolist()
    return ValidationScores(dice, jaccard, float((scores[:, 1] < FAILURE_LIMIT).mean()))


def _score(model: Model, pair: CachedPair) -> tuple[float, float]:
    probability = model.predict(pair.image, augment=False)
    foreground = probability if probability.ndim == 2 else 1 - probability[0]
    counted = pair.labels != IGNORED
    return overlap((foreground >= 0.5) & counted, (pair.labels > 0) & counted)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of one step."""

    step: int
    """Steps since the start of the run."""
    progress: float
    """Fraction of the run that is done, 0 to 1."""
    seconds: float
    """Working time since the start of the run, without pauses and interruptions."""
    loss: float
    """Training loss of the step."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """Result of one pass over the images."""

    epoch: int
    """Number of this pass, from 1."""
    epochs: int
    """Planned passes."""
    step: int
    """Steps since the start of the run."""
    progress: float
    """Fraction of the run that is done, 0 to 1."""
    seconds: float
    """Working time since the start of the run, without pauses and interruptions."""
    loss: float
    """Mean training loss of the pass."""
    size: int
    """Side of the training images in pixels."""
    validation: ValidationScores | None = None
    """Scores of the averaged weights on the held-out images; None without held-out images."""
    landmarks: LandmarkScores | None = None
    """The same for landmarks."""


class Trainer:
    """Training of a network, one pass over the images at a time."""

    one_process = ""
    """Why several processes cannot train it together; empty: they can."""

    def __init__(
        self,
        network: SegmentationNetwork,
        card: ModelCard,
        pairs: Sequence[CachedPair],
        held_out: Sequence[CachedPair],
        config: TrainConfig,
        *,
        device: str | torch.device = "auto",
        state_path: Path | None = None,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        if not pairs:
            raise TrainingError("There are no images with masks to learn from.")
        if ranks.count > 1 and self.one_process:
            raise TrainingError(self.one_process)
        check_classes(card, pairs, config)
        self._device = choose_device(device)
        self._card, self._held_out, self._config, self._ranks = card, held_out, config, ranks
        self._source, self._learner = self._new_source(pairs), self._new_learner(network)
        self._state_path, self._saved_at = state_path, 0.0
        self._step, self._seconds, self._loss_sum = 0, 0.0, 0.0
        self._clock = WorkClock()

    # ------------------------------------------------------------------------------------------- the loop

    def run(self) -> Iterator[EpochResult]:
        """Train to the last pass or the end of the time budget, and yield after every pass."""
        return (result for result in self.steps() if isinstance(result, EpochResult))

    def steps(self) -> Iterator[StepResult | EpochResult]:
        """Train as `run` does, yielding after every step as well.

        To pause, wait before the next step; to stop, leave the iteration.
        """
        threads = ThreadLimit(self._config.num_threads)
        with contextlib.closing(self._work()) as work:
            while True:
                with self._clock, threads:
                    result = next(work, None)
                if result is None:
                    return
                yield result

    def _work(self) -> Generator[StepResult | EpochResult]:
        total, per_pass = self._config.epochs * self._source.steps_per_pass, self._source.steps_per_pass
        self._saved_at = time.monotonic()
        for batch in self._source.prefetch(self._step, total, self._size_of):
            loss = self._learner.step(
                batch, self._step, rate_at(self.progress + 0.5 / total, self._config.warmup)
            )
            self._loss_sum += loss
            self._step += 1
            self._seconds = self._ranks.decided(self._clock.seconds)  # or the ranks would end at other steps
            done = self.progress >= 1
            yield StepResult(self._step, self.progress, self._seconds, loss)
            if self._step % per_pass == 0 or done:
                yield self._finish_pass(batch.images.shape[-1])
            elif time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
                self.save_state()
            if done:
                return

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, 0 to 1, in steps or seconds, whichever is further."""
        config = self._config
        by_steps = self._step / (config.epochs * self._source.steps_per_pass)
        by_time = self._seconds / config.max_seconds if config.max_seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def averaged_network(self) -> SegmentationNetwork:
        """The network with the moving average of the weights: the one to keep."""
        return self._learner.averaged_network

    def _new_source(self, pairs: Sequence[CachedPair]) -> BatchSource:
        config, ranks = self._config, self._ranks
        batch = fit_batch_size(config, len(pairs))
        if batch < ranks.count:
            raise TrainingError(
                f"A batch of {batch} images cannot be shared by {ranks.count} processes: start fewer, or set "
                "a larger batch_size or more passes."
            )
        return BatchSource(pairs, config.augment, batch, config.seed, part=ranks.index, parts=ranks.count)

    def _new_learner(self, network: SegmentationNetwork) -> Learner:
        frozen = network.early_modules(self._config.frozen_stages) if self._config.pretrained else ()
        return Learner(network, self._card, self._config, self._device, frozen=frozen, ranks=self._ranks)

    def _score(self) -> ValidationScores | None:
        return validate(self.averaged_network, self._card, self._held_out, self._device, self._ranks)

    def _finish_pass(self, size: int) -> EpochResult:
        steps = (
            self._step
            - (math.ceil(self._step / self._source.steps_per_pass) - 1) * self._source.steps_per_pass
        )
        loss, self._loss_sum = self._loss_sum / steps, 0.0
        scores = self._score() if self._held_out else None
        self.save_state()
        return EpochResult(
            epoch=math.ceil(self._step / self._source.steps_per_pass),
            epochs=self._config.epochs,
            step=self._step,
            progress=self.progress,
            seconds=self._seconds,
            loss=loss,
            size=size,
            validation=scores,
        )

    # --------------------------------------------------------------------------------------- the schedule

    def _size_of(self, step: int) -> int:
        steps = self._config.epochs * self._source.steps_per_pass
        return self._config.size_at(max(step / steps, self.progress))

    # ------------------------------------------------------------------------------------ state on disk

    def save_state(self) -> None:
        """Write the checkpoint atomically, if a path was given; the first rank alone does."""
        self._saved_at = time.monotonic()
        if self._state_path is None or not self._ranks.is_first:
            return
        position = {
            "step": self._step,
            "seconds": self._seconds,
            "loss_sum": self._loss_sum,
            "config": self._config.model_dump(mode="json"),
        }
        payload = save(self._learner.state_tensors(), metadata={STATE_KEY: json.dumps(position)})
        try:
            write_atomically(self._state_path, payload)
        except OSError as error:
            raise TrainingError(
                f"The checkpoint cannot be saved to {self._state_path}: {error.strerror}."
            ) from error

    def load_state(self, path: Path) -> None:
        """Continue from the checkpoint at ``path``."""
        data = self._ranks.share(_read_or_empty(path) if self._ranks.is_first else b"")
        if not data:
            raise TrainingError(f"There is no training at {path} that can be resumed.")
        try:
            position, tensors = json.loads(_metadata(data)[STATE_KEY]), load(data)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"{path} is not a training that can be resumed.") from error
        if _read_config(position) != self._config:
            raise TrainingError(
                f"{path} belongs to a training with other settings. Use the same ones to resume."
            )
        self._learner.restore(tensors)
        self._step, self._seconds = position["step"], position["seconds"]
        self._loss_sum, self._clock = position["loss_sum"], WorkClock(position["seconds"])


def fit_batch_size(config: TrainConfig, images: int) -> int:
    """Return the batch size: smaller than configured if the run would have too few steps to learn."""
    return min(config.batch_size, max(SMALLEST_BATCH, config.epochs * images // ENOUGH_STEPS))


def _read_or_empty(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _metadata(data: bytes) -> dict[str, str]:
    """Read the metadata of a safetensors file: JSON after eight bytes that hold its length."""
    metadata: dict[str, str] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return metadata


def _read_config(position: dict[str, Any]) -> TrainConfig | None:
    """Read the settings of a checkpoint; None if this version cannot read them."""
    try:
        return TrainConfig.model_validate(position["config"])
    except ValidationError:
        return None


def check_classes(card: ModelCard, pairs: Sequence[CachedPair], config: LearningConfig) -> None:
    """Raise a TrainingError if masks or class weights do not fit the classes of the card."""
    if card.landmarks is not None:  # no classes, and no masks
        return
    weights = config.class_weights
    if weights is not None and (len(weights) != len(card.classes) or not any(weights)):
        names = ", ".join(card.classes)
        raise TrainingError(f"There must be {len(card.classes)} class weights, one for each of {names}.")
    for pair in pairs:
        highest = int(pair.labels.max(initial=0, where=pair.labels != IGNORED))
        if highest >= len(card.classes):
            raise TrainingError(
                f"The mask of {pair.stem} has a class {highest}, which has no name; "
                f"the classes are {', '.join(card.classes)}."
            )
