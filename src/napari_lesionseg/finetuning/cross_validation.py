"""Cross-validation: one model per fold, and the mean of their weights.

Each model is trained on all images outside its fold, so every image is scored by a model that has not seen
it. The mean of the weights has seen all images and needs no further training: models that start from the same
weights stay close enough for their mean to be as good as each of them, or better
(Wortsman et al. 2022, "Model soups", arXiv:2203.05482).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.splits import SplitItem, assign_parts, group_items, split_folds
from napari_lesionseg.finetuning.domain_shift import ExpertAssignment
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import blend
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.mixture import card_with_experts, count_experts
from napari_lesionseg.training.dataset import Batch, BatchSource, CachedPair
from napari_lesionseg.training.learner import Learner

Weights: TypeAlias = tuple[dict[str, Tensor], ...]
"""Trainable tensors by name, one mapping per fold; on the CPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Images to train on and images to score."""

    learn: tuple[CachedPair, ...]
    held_out: tuple[CachedPair, ...]


NOT_HELD_OUT = -1
"""Fold of an image that is never held out."""
MIN_FOR_SINGLE_SPLIT = 60
"""From this number of images, one part is held out throughout, and a single model is trained."""
MOST_HELD_OUT, SHARE_HELD_OUT = 40, 0.2


def assign_folds(stems: Sequence[str], items: Iterable[SplitItem], folds: int, seed: int) -> list[int]:
    """Assign images to folds, `NOT_HELD_OUT` included; images of one patient stay together."""
    known = {item.stem: item for item in items}
    mine = [known.get(stem, SplitItem(stem)) for stem in stems]
    count = min(folds, len(group_items(mine)[0]))
    if count < 2:
        return [NOT_HELD_OUT] * len(stems)
    if len(stems) >= MIN_FOR_SINGLE_SPLIT:
        share = min(SHARE_HELD_OUT, MOST_HELD_OUT / len(stems))
        part_of = assign_parts(mine, {"train": 1 - share, "val": share}, seed=seed)
        return [0 if part_of[stem] == "val" else NOT_HELD_OUT for stem in stems]
    fold_of = split_folds(mine, count, seed=seed)
    return [fold_of[stem] for stem in stems]


def make_folds(pairs: Sequence[CachedPair], fold_of: Sequence[int]) -> tuple[Fold, ...]:
    """Return the images to train on and to score, fold by fold."""
    return tuple(
        Fold(
            tuple(pair for pair, own in zip(pairs, fold_of, strict=True) if own != fold),
            tuple(pair for pair, own in zip(pairs, fold_of, strict=True) if own == fold),
        )
        for fold in range(max(0, max(fold_of)) + 1)
    )


class Ensemble:
    """One model per fold, trained in turn."""

    def __init__(
        self,
        parent: Model,
        folds: Sequence[Fold],
        config: FineTuneConfig,
        expert_assignment: ExpertAssignment | None = None,
        begin: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._parent, self.folds, self.batch_size = parent, tuple(folds), config.batch_size
        self._expert_assignment, self._begin = expert_assignment or ExpertAssignment(), begin or {}
        self._start = self._expert_assignment.start(parent.network)
        self._sources = [
            BatchSource(fold.learn, config.augment, config.batch_size, _seed_of(config, index))
            for index, fold in enumerate(folds)
        ]
        self._learners = [self._make_learner(config, index) for index in range(len(folds))]
        network = self._learners[0].network
        self._changing = {name for name, p in network.named_parameters() if p.requires_grad}
        if not config.freeze_norm:
            self._changing |= {name for name, b in network.named_buffers() if b.is_floating_point()}

    def __len__(self) -> int:
        return len(self.folds)

    def _make_learner(self, config: FineTuneConfig, index: int) -> Learner:
        network = blend(self._start, self._begin, 1.0)
        frozen = network.early_modules(config.frozen_stages)
        own = config.model_copy(update={"seed": _seed_of(config, index)})
        return Learner(network, self._parent.card, own, self._parent.device, frozen=frozen)

    def batches(self, step: int, size: int) -> tuple[Batch, ...]:
        """Return each fold's batch of a step, at ``size`` pixels a side."""
        return tuple(source.batch(step, size) for source in self._sources)

    def step(self, index: int, batch: Batch, number: int, rate: float) -> float:
        """Train one fold's model on a batch; see `Learner.step`."""
        return self._learners[index].step(batch, number, rate)

    def weights(self) -> Weights:
        """Copy the trainable tensors of each fold's model."""
        return tuple(self._weights_of(learner) for learner in self._learners)

    def _weights_of(self, learner: Learner) -> dict[str, Tensor]:
        state = learner.averaged_network.state_dict()
        return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in self._changing}

    def member(self, index: int, weights: Weights, interpolation: float) -> Model:
        """Return a fold's model, interpolated between the parent's weights and its own."""
        return self._model(weights[index], interpolation, self._parent.card, self.folds[index].learn)

    def mean(self, weights: Weights, interpolation: float, card: ModelCard) -> Model:
        """Return the mean of the folds' models, interpolated between the parent's weights and its own."""
        pairs = {pair.stem: pair for fold in self.folds for pair in (*fold.learn, *fold.held_out)}
        return self._model(self.averaged(weights), interpolation, card, pairs.values())

    def averaged(self, weights: Weights) -> dict[str, Tensor]:
        """Return the mean weights, by name."""
        return {name: torch.stack([own[name] for own in weights]).mean(dim=0) for name in self._changing}

    def _model(
        self,
        weights: Mapping[str, Tensor],
        interpolation: float,
        card: ModelCard,
        pairs: Iterable[CachedPair],
    ) -> Model:
        expert = blend(self._start, weights, interpolation)
        network = self._expert_assignment.join(self._parent.network, expert, (pair.stem for pair in pairs))
        own = card_with_experts(card, count_experts(network))
        return Model(network, own, self._parent.device, precision=self._parent.precision)

    def state_tensors(self) -> dict[str, Tensor]:
        """Copy all state that training changes to the CPU, by name."""
        return {
            f"{index}.{name}": tensor
            for index, learner in enumerate(self._learners)
            for name, tensor in learner.state_tensors().items()
            if self._belongs(name)
        }

    def _belongs(self, name: str) -> bool:
        part, _, rest = name.partition(".")
        return part != "network" or rest in self._changing

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        unchanged = {f"network.{name}": t for name, t in self._start.state_dict().items()}
        for index, learner in enumerate(self._learners):
            prefix = f"{index}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            learner.restore(unchanged | own)


def _seed_of(config: FineTuneConfig, index: int) -> int:
    return config.seed * 1000 + index
