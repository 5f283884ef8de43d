"""Cross-validation: one model per fold, and the mean of their weights.

Each model is trained on all images outside its fold, so every image is scored by a model that has not seen
it. The mean of the weights has seen all images and needs no further training: models that start from the same
weights stay close enough for their mean to be as good as each of them, or better
(Wortsman et al. 2022, "Model soups", arXiv:2203.05482).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import torch
from torch import Tensor

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.splits import SplitItem, assign_parts, group_items, split_folds
from napari_lesionseg.finetuning.comparison import ScoredPrediction
from napari_lesionseg.finetuning.domain_shift import ExpertAssignment
from napari_lesionseg.finetuning.fold import Fold, FoldJob, FoldMember, FoldWorkers, Step, join_model
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.training.dataset import CachedPair

Weights: TypeAlias = tuple[dict[str, Tensor], ...]
"""Trainable tensors by name, one mapping per fold; on the CPU."""


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
    """One model per fold: trained in turn here, or at the same time by workers."""

    def __init__(
        self,
        parent: Model,
        folds: Sequence[Fold],
        config: FineTuneConfig,
        expert_assignment: ExpertAssignment | None = None,
        begin: Mapping[str, Tensor] | None = None,
        workers: FoldWorkers | None = None,
    ) -> None:
        self._parent, self.folds, self.batch_size = parent, tuple(folds), config.batch_size
        self._assignment, self._on_workers = expert_assignment or ExpertAssignment(), workers is not None
        jobs = [FoldJob(index, fold, config, self._assignment) for index, fold in enumerate(folds)]
        self._members = [FoldMember(parent, job, workers, begin) for job in jobs]

    def __len__(self) -> int:
        return len(self.folds)

    @property
    def in_parallel(self) -> bool:
        """Whether workers train the models at the same time."""
        return self._on_workers and not self.lost

    @property
    def lost(self) -> int:
        """How many models lost their worker, and are trained here since."""
        return sum(member.is_lost for member in self._members)

    def step(self, step: Step) -> Iterator[float]:
        """Train every model on its batch of a step, and yield the loss of each."""
        for loss, _ in self._each("step", step):
            yield loss

    def _each(self, method: str, *arguments: Any) -> Iterator[Any]:
        """Begin a method of every fold's model, then yield the results, fold by fold."""
        # At most one call waits at each worker: a pause or a cancellation takes effect within a step.
        waiting = [member.call(method, *arguments) for member in self._members]
        for wait in waiting:
            yield wait()

    def weights(self) -> Weights:
        """Copy the trainable tensors of each fold's model."""
        return tuple(self._each("weights"))

    def predict(
        self, interpolation: float, weights: Weights | None = None
    ) -> Iterator[tuple[int, ScoredPrediction]]:
        """Yield the prediction of each held-out image by the model that was not trained on it, with its fold.

        The models are interpolated between the parent's weights and the given ones, or their own.
        """
        members = [member for member in self._members if member.job.fold.held_out]
        judges = [
            member.call("judge", interpolation, weights[member.job.index] if weights else None)
            for member in members
        ]
        for wait in judges:
            wait()
        numbers = zip_longest(*(range(len(member.job.fold.held_out)) for member in members))
        for row in numbers:
            waiting = [
                (member.job, number, member.call("score", number))
                for member, number in zip(members, row, strict=True)
                if number is not None
            ]
            for job, number, wait in waiting:
                labels, scores = wait()
                yield job.index, ScoredPrediction(job.fold.held_out[number], labels, scores)

    def mean(self, weights: Weights, interpolation: float, card: ModelCard) -> Model:
        """Return the mean of the folds' models, interpolated between the parent's weights and its own."""
        pairs = {pair.stem: pair for fold in self.folds for pair in (*fold.learn, *fold.held_out)}
        own = self.averaged(weights)
        return join_model(self._parent, self._assignment, own, interpolation, pairs, card)

    def averaged(self, weights: Weights) -> dict[str, Tensor]:
        """Return the mean weights, by name."""
        names = weights[0] if weights else ()
        return {name: torch.stack([own[name] for own in weights]).mean(dim=0) for name in names}

    def state_tensors(self) -> dict[str, Tensor]:
        """Copy all state that training changes to the CPU, by name."""
        return {
            f"{index}.{name}": tensor
            for index, tensors in enumerate(self._each("state_tensors"))
            for name, tensor in tensors.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        for index, member in enumerate(self._members):
            prefix = f"{index}."
            own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            member.call("restore", own)()
