"""Copies of one model that learn from different images and become one model again.

Each copy learns from all images but those of its fold, so that every image can be measured by a copy that
has not seen it. The mean of the copies' weights has learned from all of them, and costs no further training:
copies that start from the same weights stay close enough for their mean to be as good as they are, or better
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
"""What training may change, by name, of each copy; on the processor."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """What one copy learns from, and what it is measured on."""

    learn: tuple[CachedPair, ...]
    held_out: tuple[CachedPair, ...]


NOT_HELD_OUT = -1
"""Fold of an image that is never held out."""
MIN_FOR_SINGLE_SPLIT = 60
"""From so many images on, one part of them is held out for good, and there is one copy to train."""
MOST_HELD_OUT, SHARE_HELD_OUT = 40, 0.2


def assign_folds(stems: Sequence[str], items: Iterable[SplitItem], folds: int, seed: int) -> list[int]:
    """Deal images into folds; images of one patient stay together.

    Parameters
    ----------
    stems : sequence of str
        Names of the images, all different.
    items : iterable of SplitItem
        What is known of their patients; images that are not among them stand alone.
    folds : int
        How many; fewer where there are fewer patients.
    seed : int
        Same seed, same folds.

    Returns
    -------
    list of int
        Fold of each image, or `NOT_HELD_OUT`: for all if they are of one patient, for most if they are many.
    """
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
    """Say for each fold what is learned from and what is held out.

    Parameters
    ----------
    pairs : sequence of CachedPair
    fold_of : sequence of int
        Fold in which each is held out, or `NOT_HELD_OUT`.
    """
    return tuple(
        Fold(
            tuple(pair for pair, own in zip(pairs, fold_of, strict=True) if own != fold),
            tuple(pair for pair, own in zip(pairs, fold_of, strict=True) if own == fold),
        )
        for fold in range(max(0, max(fold_of)) + 1)
    )


class Ensemble:
    """Copies of a model, one for each fold, trained side by side.

    Parameters
    ----------
    parent : Model
        Stays as it is.
    folds : sequence of Fold
        What each copy learns from.
    config : FineTuneConfig
        How they learn.
    speciality : Speciality, optional
        Which of the parent's weights learn; the whole of it if left out.
    begin : mapping of str to Tensor, optional
        Weights that the copies begin with, in place of the parent's.
    """

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
        """Make what each copy learns from in a step, at ``size`` pixels a side."""
        return tuple(source.batch(step, size) for source in self._sources)

    def step(self, index: int, batch: Batch, number: int, rate: float) -> float:
        """Let one copy learn from a batch; see `Learner.step`."""
        return self._learners[index].step(batch, number, rate)

    # ------------------------------------------------------------------------------- weights and models

    def weights(self) -> Weights:
        """Copy what training has made of each copy's weights."""
        return tuple(self._weights_of(learner) for learner in self._learners)

    def _weights_of(self, learner: Learner) -> dict[str, Tensor]:
        state = learner.averaged_network.state_dict()
        return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in self._changing}

    def member(self, index: int, weights: Weights, share: float) -> Model:
        """Return a copy's model, ``share`` of the way from the parent's weights to its own."""
        return self._model(weights[index], share, self._parent.card, self.folds[index].learn)

    def mean(self, weights: Weights, share: float, card: ModelCard) -> Model:
        """Return the model with the mean of the copies' weights, ``share`` of the way from the parent's."""
        pairs = {pair.stem: pair for fold in self.folds for pair in (*fold.learn, *fold.held_out)}
        return self._model(self.averaged(weights), share, card, pairs.values())

    def averaged(self, weights: Weights) -> dict[str, Tensor]:
        """Return the mean of the copies' weights, by name."""
        return {name: torch.stack([own[name] for own in weights]).mean(dim=0) for name in self._changing}

    def _model(
        self, weights: Mapping[str, Tensor], share: float, card: ModelCard, pairs: Iterable[CachedPair]
    ) -> Model:
        expert = blend(self._start, weights, share)
        network = self._expert_assignment.join(self._parent.network, expert, (pair.stem for pair in pairs))
        own = card_with_experts(card, count_experts(network))
        return Model(network, own, self._parent.device, precision=self._parent.precision)

    # ---------------------------------------------------------------------------------------- its state

    def state_tensors(self) -> dict[str, Tensor]:
        """Copy what training changes to the processor's memory, by name."""
        return {
            f"{index}.{name}": tensor
            for index, learner in enumerate(self._learners)
            for name, tensor in learner.state_tensors().items()
            if self._belongs(name)
        }

    def _belongs(self, name: str) -> bool:
        kind, _, rest = name.partition(".")
        return kind != "network" or rest in self._changing

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state_tensors` gave.

        Raises
        ------
        TrainingError
            If it came from another network.
        """
        unchanged = {f"network.{name}": t for name, t in self._start.state_dict().items()}
        for index, learner in enumerate(self._learners):
            prefix = f"{index}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            learner.restore(unchanged | own)


def _seed_of(config: FineTuneConfig, index: int) -> int:
    return config.seed * 1000 + index
