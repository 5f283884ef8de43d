"""The training loop: one for training from scratch, from pretrained weights, and for fine-tuning.

A run is reproducible and can be interrupted anywhere: batches and simulated clicks depend on the seed and the
step alone, and the state on disk holds weights, average, optimiser and position.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_lesionseg.config import TrainConfig
from napari_lesionseg.data.batches import Batch, BatchSource, CachedPair
from napari_lesionseg.files import write_atomically
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.models.blocks import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.engine.device import autocast, choose_device
from napari_lesionseg.engine.losses import segmentation_loss
from napari_lesionseg.engine.simulation import simulate_guidance
from napari_lesionseg.engine.validation import ValidationScores, validate

SAVE_EVERY_SECONDS = 120.0
STATE_KEY = "lesionseg_training"
MAX_GRADIENT_NORM = 5.0


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one pass over the pictures gave."""

    epoch: int
    """Passes done, from 1."""
    epochs: int
    """Passes asked for."""
    step: int
    """Steps done since the beginning of the run."""
    progress: float
    """Share of the run that is done, 0 to 1."""
    seconds: float
    """Time since the beginning of the run, earlier sittings included."""
    loss: float
    """Mean training loss of the pass."""
    size: int
    """Side of the training pictures in pixels."""
    validation: ValidationScores | None
    """Scores on the held-out pictures, by the averaged weights; None without held-out pictures."""


class Trainer:
    """Trains a network, one pass at a time.

    Parameters
    ----------
    network : SegmentationNetwork
        Trained in place.
    card : ModelCard
        Working size and normalisation.
    pairs : sequence of CachedPair
        Pictures to learn from.
    held_out : sequence of CachedPair
        Pictures to measure on after each pass; may be empty.
    config : TrainConfig
        Everything else.
    device : str
        See `choose_device`.
    state_path : Path, optional
        Where the state is kept, every two minutes and after every pass.

    Raises
    ------
    TrainingError
        If there is nothing to learn from.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        card: ModelCard,
        pairs: Sequence[CachedPair],
        held_out: Sequence[CachedPair],
        config: TrainConfig,
        *,
        device: str = "auto",
        state_path: Path | None = None,
    ) -> None:
        if not pairs:
            raise TrainingError("There are no pictures with masks to learn from.")
        self._device = choose_device(device)
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._card, self._held_out, self._config = card, held_out, config
        self._source = BatchSource(pairs, config.augment, config.batch_size, config.seed)
        self._state_path, self._saved_at = state_path, 0.0
        self._frozen = network.early_modules(config.frozen_stages) if config.pretrained else []
        for module in self._frozen:
            module.requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._parameter_groups(), weight_decay=config.weight_decay, foreach=True
        )
        self._average = AveragedModel(
            self._network, multi_avg_fn=get_ema_multi_avg_fn(config.average), use_buffers=True
        )
        self._mean = torch.tensor(card.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(card.std, device=self._device).view(1, 3, 1, 1)
        self._step, self._seconds, self._loss_sum = 0, 0.0, 0.0

    # ------------------------------------------------------------------------------------------- the loop

    def run(self) -> Iterator[EpochResult]:
        """Train until the last pass, or until the budget in seconds is spent, yielding after every pass."""
        total, per_pass = self._config.epochs * self._source.steps_per_pass, self._source.steps_per_pass
        sitting, before = time.monotonic(), self._seconds
        self._saved_at = sitting
        self._set_training()
        for batch in self._source.prefetch(self._step, total, self._size_of):
            self._loss_sum += self._train_step(batch)
            self._step += 1
            self._seconds = before + time.monotonic() - sitting
            done = self.progress >= 1
            if self._step % per_pass == 0 or done:
                yield self._finish_pass(batch.images.shape[-1])
                self._set_training()
            elif time.monotonic() - self._saved_at > SAVE_EVERY_SECONDS:
                self.save_state()
            if done:
                return

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0 to 1, by steps or by seconds, whichever is further."""
        config = self._config
        by_steps = self._step / (config.epochs * self._source.steps_per_pass)
        by_time = self._seconds / config.max_seconds if config.max_seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def averaged_network(self) -> SegmentationNetwork:
        """The network with the moving average of the weights: the one to keep."""
        network: SegmentationNetwork = self._average.module if self._config.average else self._network
        return network.eval()

    def _finish_pass(self, size: int) -> EpochResult:
        steps = (
            self._step
            - (math.ceil(self._step / self._source.steps_per_pass) - 1) * self._source.steps_per_pass
        )
        loss, self._loss_sum = self._loss_sum / steps, 0.0
        scores = (
            validate(self.averaged_network, self._card, self._held_out, self._device)
            if self._held_out
            else None
        )
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

    def _train_step(self, batch: Batch) -> float:
        images, labels = batch.images.to(self._device), batch.labels.to(self._device)
        images = ((images.float() / 255 - self._mean) / self._std).contiguous(
            memory_format=torch.channels_last
        )
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak_lr"] * self._schedule()
        rng = np.random.default_rng((self._config.seed, 2, self._step))
        with autocast(self._device, self._config.precision):
            features = self._network.encode(images)
            guidance = self._guidance(features, labels, rng)
            logits = self._network.decode(features, guidance)
        loss = segmentation_loss(logits, labels, self._config.loss, self._config.label_smoothing)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"Training failed at step {self._step}: the loss is not finite; try a lower learning rate."
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), MAX_GRADIENT_NORM)
        self._optimiser.step()
        self._average.update_parameters(self._network)
        return float(loss.detach())

    def _guidance(
        self, features: tuple[Tensor, ...], labels: Tensor, rng: np.random.Generator
    ) -> Tensor | None:
        """Simulate clicks for a share of the pictures, by the network as it is; the others get none."""
        guided = round(self._config.guidance_share * len(labels))
        if not self._network.guided or not guided:
            return None
        self._network.eval()
        guidance = simulate_guidance(
            self._network,
            tuple(f[:guided].detach() for f in features),
            labels[:guided],
            self._config.click_rounds,
            rng,
        )
        self._set_training()
        return torch.cat([guidance, guidance.new_zeros(len(labels) - guided, *guidance.shape[1:])])

    def _set_training(self) -> None:
        self._network.train()
        for module in self._frozen:
            module.eval()
        if self._config.freeze_norm:
            for module in self._network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    # --------------------------------------------------------------------------------------- the schedule

    def _schedule(self) -> float:
        """Share of the peak learning rate: a linear rise, then half a cosine down to nothing."""
        progress, warmup = self.progress, self._config.warmup
        if progress < warmup:
            return max(progress, 1e-3 * warmup) / warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    def _size_of(self, step: int) -> int:
        steps = self._config.epochs * self._source.steps_per_pass
        progress = max(step / steps, self.progress)
        return [size for start, size in self._config.sizes if start <= progress][-1]

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Encoder and the rest, each with and without weight decay; norms and biases are not decayed."""
        encoder = {id(p) for p in self._network.encoder_parameters()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self._network.parameters():
            if parameter.requires_grad:
                groups.setdefault((id(parameter) in encoder, parameter.ndim > 1), []).append(parameter)
        made = []
        for (in_encoder, decayed), parameters in sorted(groups.items()):
            rate = self._config.encoder_lr if in_encoder else self._config.decoder_lr
            decay = self._config.weight_decay if decayed else 0.0
            made.append({"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay})
        return made

    # ------------------------------------------------------------------------------------ state on disk

    def save_state(self) -> None:
        """Write the state atomically, if a place for it was given.

        Raises
        ------
        TrainingError
            If the place cannot be written; training can go on.
        """
        self._saved_at = time.monotonic()
        if self._state_path is None:
            return
        position = {
            "step": self._step,
            "seconds": self._seconds,
            "loss_sum": self._loss_sum,
            "config": self._config.model_dump(mode="json"),
        }
        payload = save(self._state_tensors(), metadata={STATE_KEY: json.dumps(position)})
        try:
            write_atomically(self._state_path, payload)
        except OSError as error:
            raise TrainingError(
                f"The state of the training cannot be saved to {self._state_path}: {error.strerror}."
            ) from error

    def load_state(self, path: Path) -> None:
        """Continue where the state at ``path`` left off.

        Raises
        ------
        TrainingError
            If the state is missing, damaged, or of a run with other settings.
        """
        try:
            with safe_open(path, framework="pt", device=str(self._device)) as file:
                position = json.loads((file.metadata() or {})[STATE_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise TrainingError(f"{path} holds no state of a training that could be continued.") from error
        if position["config"] != self._config.model_dump(mode="json"):
            raise TrainingError(
                f"{path} belongs to a training with other settings; use the same ones to continue."
            )
        self._restore(tensors)
        self._step, self._seconds = position["step"], position["seconds"]
        self._loss_sum = position["loss_sum"]

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._network.named_parameters() if p.requires_grad}

    def _state_tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": t for name, t in self._network.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self._average.state_dict().items()}
        for name, parameter in self._trained().items():
            slots = self._optimiser.state.get(parameter, {})
            tensors |= {f"optimiser.{name}.{slot}": value for slot, value in slots.items()}
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        try:
            self._network.load_state_dict(part("network."))
            self._average.load_state_dict(part("average."))
        except RuntimeError as error:
            raise TrainingError("The saved training belongs to another network.") from error
        for name, parameter in self._trained().items():
            slots = part(f"optimiser.{name}.")
            if slots:
                self._optimiser.state[parameter] = slots
