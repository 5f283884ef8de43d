"""One training step: the forward pass, simulated clicks, the optimizer, and the average of the weights."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from napari_lesionseg.config import LearningConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.inference.device import autocast
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.training.dataset import Batch
from napari_lesionseg.training.distributed import ONE_RANK, Ranks
from napari_lesionseg.training.losses import segmentation_loss
from napari_lesionseg.training.simulated_clicks import simulate_guidance

MAX_GRADIENT_NORM = 5.0
Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]
AverageFunction: TypeAlias = Callable[[Tensors, Tensors, Tensor | int], None]


def _import_compiler() -> None:
    """Import PyTorch's compiler, which its optimizers import, too, but in a window without Triton.

    Triton crashes the process if the driver of OpenGL, such as Mesa's, has loaded another LLVM before.
    """
    if "napari" not in sys.modules or "triton" in sys.modules:
        return
    sys.modules["triton"] = None  # type: ignore[assignment]  # as Python says that it cannot be imported
    try:
        importlib.import_module("torch._dynamo")
    finally:
        del sys.modules["triton"]


def rate_at(progress: float, warmup: float) -> float:
    """Return the relative learning rate: a linear rise up to ``warmup``, then a half cosine to zero."""
    if progress < warmup:
        return max(progress, 1e-3 * warmup) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def average_decay(decay: float, step: int) -> float:
    """Return the decay of the moving average after ``step`` steps.

    An average longer than the run would keep mostly the first weights, so it covers at most the last tenth of
    the steps so far (as TensorFlow's ExponentialMovingAverage with ``num_updates``).
    """
    return min(decay, (1 + step) / (10 + step))


def _average(decay: float) -> AverageFunction:
    def update(averages: Tensors, weights: Tensors, steps: Tensor | int) -> None:
        get_ema_multi_avg_fn(average_decay(decay, int(steps)))(averages, weights, steps)

    return update


def boundary_of(card: ModelCard) -> float:
    """Return the logit, after the temperature, from which a pixel is lesion; 0 for several classes.

    Training places the boundary at a probability of 0.5. With the logits shifted by this, it is placed at the
    model's own threshold, which is what an annotator sees.
    """
    return math.log(card.threshold / (1 - card.threshold)) if card.out_channels == 1 else 0.0


class Learner:
    """A network with its optimizer and the average of its weights; it is trained in place, step by step.

    ``frozen`` lists the parts of the network that are not trained. With several ``ranks``, each has a
    learner, and a batch is the images of all of them.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        card: ModelCard,
        config: LearningConfig,
        device: torch.device,
        *,
        frozen: Sequence[nn.Module] = (),
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.network: SegmentationNetwork = network.to(  # type: ignore[call-overload]
            device, memory_format=torch.channels_last
        )
        self._config, self._device, self._frozen, self._ranks = config, device, list(frozen), ranks
        for module in self._frozen:
            module.requires_grad_(False)
        prompted = network.for_prompts()
        if prompted is not None:  # no part of the loss: DistributedDataParallel would wait for its gradients
            prompted.requires_grad_(False)
        if config.encoder_lr == 0:
            for parameter in network.encoder_parameters():
                parameter.requires_grad_(False)
        _import_compiler()
        self._optimizer = torch.optim.AdamW(
            self._parameter_groups(), weight_decay=config.weight_decay, foreach=True
        )
        self._average = (
            AveragedModel(self.network, multi_avg_fn=_average(config.average), use_buffers=True)
            if config.average
            else None
        )
        self._new_norms = [
            (module, module.momentum or 0.1) for module in network.modules() if _is_new_norm(module)
        ]
        self._card, self._boundary = card, boundary_of(card)
        self._mean = torch.tensor(card.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(card.std, device=device).view(1, 3, 1, 1)
        self._forward = ranks.wrap(_ForwardPass(self.network, self._run_network))

    @property
    def averaged_network(self) -> SegmentationNetwork:
        """The network with the moving average of the weights, for evaluation: the one to keep."""
        if self._average is None:
            return self.network.eval()
        return cast("SegmentationNetwork", self._average.module).eval()

    def step(self, batch: Batch, number: int, rate: float) -> float:
        """Train on a batch, at ``rate`` times the peak learning rates; return the loss before the step.

        The simulated clicks depend only on the number of the step and the seed.
        """
        self._set_training()
        for norm, momentum in self._new_norms:
            # New statistics are zeros and ones. A plain average over the first steps replaces them at once;
            # the usual decay would need some fifty steps.
            norm.momentum = max(momentum, 1 / (number + 1))
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak_lr"] * rate
        share, ranks = self._loss(*self._forward(batch, number)), self._ranks
        loss = ranks.total(share.detach())
        if not torch.isfinite(loss):
            raise TrainingError(
                f"Training failed at step {number}: the loss is not finite. Try a lower learning rate."
            )
        self._optimizer.zero_grad(set_to_none=True)
        (share * ranks.count).backward()  # the shares add up, but gradients are averaged over the ranks
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        if self._average:
            self._average.update_parameters(self.network)
        return float(loss)

    def _run_network(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Return the logits (B + guided, C, S, S) of a batch, calibrated, and their labels."""
        labels = batch.labels.to(self._device)  # (B, S, S)
        with autocast(self._device, self._config.precision):
            features = self.network.encode(self._normalize(batch.images))
            features, labels, guidance = self._add_guided(batch, features, labels, number)
            logits = self.network.decode(features, guidance)
        return self._calibrate(logits.float()), labels

    def _normalize(self, images: Tensor) -> Tensor:
        """Return images (B, 3, S, S) of bytes as the network sees them."""
        scaled = (images.to(self._device).float() / 255 - self._mean) / self._std
        return scaled.contiguous(memory_format=torch.channels_last)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the share of this rank in the loss; the shares add up."""
        config = self._config
        return segmentation_loss(
            logits, labels, config.loss, config.label_smoothing, config.class_weights, self._ranks.total
        )

    def _add_guided(
        self, batch: Batch, features: tuple[Tensor, ...], labels: Tensor, number: int
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
        """Add some of the images a second time, with clicks simulated on the current predictions.

        All images are also decoded without clicks: the decoder is cheap, and automatic outlines matter most.
        """
        del batch
        size = int(self._ranks.total(torch.tensor(float(len(labels)))))
        mine = range(self._ranks.index, round(self._config.click_fraction * size), self._ranks.count)
        guided = len(mine)
        if not self.network.guided or not guided:
            return features, labels, None
        again, truth = tuple(f[:guided] for f in features), labels[:guided]
        self.network.eval()
        detached = tuple(f.detach() for f in again)
        clicks = simulate_guidance(
            self.network,
            detached,
            truth,
            self._config.click_rounds,
            [np.random.default_rng((self._config.seed, 2, number, index)) for index in mine],
            threshold=self._card.threshold,
            temperature=self._card.temperature,
        )
        self._set_training()
        joined = tuple(torch.cat(both) for both in zip(features, again, strict=True))
        no_clicks = clicks.new_zeros(len(labels), *clicks.shape[1:])
        return joined, torch.cat([labels, truth]), torch.cat([no_clicks, clicks])

    def _calibrate(self, logits: Tensor) -> Tensor:
        """Return logits that are 0 at the boundary the annotator sees."""
        return logits / self._card.temperature - self._boundary

    def _set_training(self) -> None:
        self.network.train()
        for module in self._frozen:
            module.eval()
        if self._config.freeze_norm:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Group encoder and rest, with and without weight decay; norms and biases are not decayed."""
        encoder = {id(p) for p in self.network.encoder_parameters()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                groups.setdefault((id(parameter) in encoder, parameter.ndim > 1), []).append(parameter)
        made = []
        for (in_encoder, decayed), parameters in sorted(groups.items()):
            rate = self._config.encoder_lr if in_encoder else self._config.decoder_lr
            decay = self._config.weight_decay if decayed else 0.0
            made.append({"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay})
        return made

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def state_tensors(self) -> dict[str, Tensor]:
        """Copy weights, average and optimizer to the CPU, by name."""
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        if self._average:
            tensors |= {f"average.{name}": t for name, t in self._average.state_dict().items()}
        for name, parameter in self._trained().items():
            slots = self._optimizer.state.get(parameter, {})
            tensors |= {f"optimizer.{name}.{slot}": value for slot, value in slots.items()}
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        try:
            self.network.load_state_dict(part("network."))
            if self._average:
                self._average.load_state_dict(part("average."))
        except RuntimeError as error:
            raise TrainingError("The saved training belongs to another network.") from error
        for name, parameter in self._trained().items():
            slots = part(f"optimizer.{name}.")
            if slots:  # AdamW counts its steps on the CPU
                self._optimizer.state[parameter] = {
                    slot: value.cpu() if slot == "step" else value.to(parameter.device)
                    for slot, value in slots.items()
                }


class _ForwardPass(nn.Module):
    """All uses of the weights in a step: DistributedDataParallel, which may wrap it, watches one call."""

    def __init__(
        self, network: SegmentationNetwork, run: Callable[[Batch, int], tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.network, self._run = network, run

    def forward(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Run the network."""
        return self._run(batch, number)


def _is_new_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether a batch normalization has its initial statistics (weight files do not keep the batch count)."""
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
        return False
    return not bool(module.running_mean.any()) and bool((module.running_var == 1).all())
