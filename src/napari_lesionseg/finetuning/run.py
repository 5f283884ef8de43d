"""The course of a fine-tuning: steps of all copies, rounds that measure them, the best so far, its state."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal, TypeAlias

from torch import Tensor

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.checkpoint import FineTuneCheckpoint, SavedRound
from napari_lesionseg.finetuning.comparison import Outlined, outline_pair
from napari_lesionseg.finetuning.cross_validation import Ensemble, Weights
from napari_lesionseg.finetuning.schedule import Costs, Schedule, closing_seconds, shortened
from napari_lesionseg.training.clock import WorkClock
from napari_lesionseg.training.dataset import Batch, prefetch
from napari_lesionseg.training.learner import rate_at
from napari_lesionseg.training.resources import ContentionWatch
from napari_lesionseg.training.trainer import EpochResult, StepResult
from napari_lesionseg.training.validation import ValidationScores

logger = logging.getLogger(__name__)
RECENT_STEPS = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life between the steps: what is being done, and how far it is."""

    stage: Literal["reading", "measuring", "timing", "comparing"]
    done: int
    total: int


Learning: TypeAlias = Generator[Progress | StepResult | EpochResult, None, None]


class TrainingRun:
    """Several copies of a model on their way.

    Parameters
    ----------
    ensemble : Ensemble
        The copies.
    config : FineTuneConfig
        How they learn.
    schedule : Schedule
        Steps and rounds; made shorter on the way if the budget asks for it.
    costs : Costs
        What things took before the start.
    clock : WorkClock
        Runs while work is done.
    size : int
        Side of the training images in pixels.
    earlier : Course, optional
        What was done before, for the count of steps and rounds.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        config: FineTuneConfig,
        schedule: Schedule,
        costs: Costs,
        clock: WorkClock,
        size: int,
        earlier: TrainingRun | None = None,
    ) -> None:
        self._steps_before = earlier.steps_done if earlier else 0
        self._rounds_before = len(earlier.rounds) if earlier else 0
        self.ensemble, self.schedule, self.costs = ensemble, schedule, costs
        self._config, self._clock, self._size = config, clock, size
        self._watch = ContentionWatch(costs.step)
        self.step = 0
        """Steps that each copy has done."""
        self.rounds: list[EpochResult] = []
        self.best: int | None = None
        """Index of the best round."""
        self.best_weights: Weights = ()
        self.best_outlined: tuple[Outlined, ...] = ()
        """The held-out images by the best round's weights, `measured_share` of the way, if known."""
        self._losses: list[float] = []
        self._times: list[float] = []

    def learn(self, stopping: Callable[[], bool], save: Callable[[], None]) -> Learning:
        """Take all steps, or as many as there is time for.

        Parameters
        ----------
        stopping : callable
            Tells whether the annotator wants it to end; what was learned until then is measured.
        save : callable
            Called after every round, before the round is told.
        """
        batches = prefetch(self.ensemble.batches, self.step, self.schedule.steps, lambda step: self._size)
        for number, made in enumerate(batches, self.step):
            if number >= self.schedule.steps:
                break
            yield from self._step_all(made)
            ending = stopping() or self._out_of_time()
            if ending or self.step % self.schedule.per_round == 0 or self.step >= self.schedule.steps:
                yield from self._finish_round(save)
                self.schedule = shortened(
                    self._config, self.schedule, self.step, len(self.ensemble), self.costs_so_far()
                )
            if ending or self._hopeless():
                break

    def _step_all(self, batches: Sequence[Batch]) -> Generator[StepResult, None, None]:
        rate = rate_at(self.step / self.schedule.steps, self._config.warmup)
        for index, batch in enumerate(batches):
            started = time.monotonic()
            loss = self.ensemble.step(index, batch, self.step, rate)
            self._take_note(loss, time.monotonic() - started)
            done = self.steps_done + index + 1
            yield StepResult(done, done / self._steps_in_all, self._clock.seconds, loss)
        self.step += 1

    @property
    def measured_share(self) -> float:
        """Share of the way at which rounds are measured: the largest that is tried."""
        return max(self._config.interpolations)

    @property
    def steps_done(self) -> int:
        """Steps of all copies so far, and those of the course before."""
        return self._steps_before + self.step * len(self.ensemble)

    @property
    def _steps_in_all(self) -> int:
        return self._steps_before + self.schedule.steps * len(self.ensemble) + self.schedule.refit

    def _take_note(self, loss: float, seconds: float) -> None:
        self._losses.append(loss)
        self._times.append(seconds)
        if self._watch.contended(seconds):
            self._watch.yield_cores()

    def costs_so_far(self) -> Costs:
        """Return what things took, as they have turned out."""
        step = median(self._times[-RECENT_STEPS:]) if self._times else self.costs.step
        return Costs(self._clock.seconds, max(step, self.costs.step), self.costs.measuring)

    def _out_of_time(self) -> bool:
        if self._config.max_seconds is None:
            return False
        reserve = self.costs.measuring + closing_seconds(self._config, self.costs)
        reserve += self.schedule.refit * self.costs.step
        return self._clock.seconds + reserve >= self._config.max_seconds

    def _hopeless(self) -> bool:
        """Whether the held-out images have not got better for a while."""
        return self.best is not None and len(self.rounds) - 1 - self.best >= self._config.patience

    # ------------------------------------------------------------------------------------- the rounds

    def _finish_round(self, save: Callable[[], None]) -> Learning:
        weights = self.ensemble.weights()
        outlined = yield from outline_held_out(self.ensemble, weights, self.measured_share, "measuring")
        self.rounds.append(self._describe_round(outlined))
        self._losses.clear()
        if self.best is None or not outlined or _jaccard(self.rounds[-1]) > _jaccard(self.rounds[self.best]):
            self.best, self.best_weights = len(self.rounds) - 1, weights
            self.best_outlined = outlined
        save()
        yield self.rounds[-1]

    def _describe_round(self, outlined: Sequence[Outlined]) -> EpochResult:
        return EpochResult(
            epoch=self._rounds_before + len(self.rounds) + 1,
            epochs=self._rounds_before + max(self.schedule.rounds, len(self.rounds) + 1),
            step=self.steps_done,
            progress=self.steps_done / self._steps_in_all,
            seconds=self._clock.seconds,
            loss=fmean(self._losses),
            size=self._size,
            validation=_summarise(outlined),
        )

    # -------------------------------------------------------------------------------------- its state

    def state(
        self,
        config: FineTuneConfig,
        parent: str,
        model: str,
        images: Sequence[str],
        folds: Sequence[int],
    ) -> FineTuneCheckpoint:
        """Describe how far it is; the weights are `state_tensors`.

        Parameters
        ----------
        config : FineTuneConfig
            What was asked for; how the copies learn follows from that and from the images.
        parent : str
            Hash of the weights it started from.
        model : str
            Name of the model they belong to.
        images : sequence of str
            Hashes of the images.
        folds : sequence of int
            Where each image is held out; see `make_folds`.
        """
        return FineTuneCheckpoint(
            parent=parent,
            model=model,
            images=tuple(images),
            folds=tuple(folds),
            config=config,
            steps=self.schedule.steps,
            per_round=self.schedule.per_round,
            refit_steps=self.schedule.refit,
            batch_size=self.ensemble.batch_size,
            step=self.step,
            seconds=self._clock.seconds,
            step_seconds=self.costs.step,
            measuring_seconds=self.costs.measuring,
            rounds=tuple(SavedRound.of(result) for result in self.rounds),
            best=self.best,
            saved=datetime.datetime.now(datetime.UTC),
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """Copy the weights and optimizers of all copies, and their best weights, by name."""
        best = {
            f"best.{index}.{name}": tensor
            for index, weights in enumerate(self.best_weights)
            for name, tensor in weights.items()
        }
        return self.ensemble.state_tensors() | best

    def restore(self, state: FineTuneCheckpoint, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` and `state_tensors` gave.

        Raises
        ------
        TrainingError
            If it came from another network.
        """
        self.ensemble.restore(tensors)
        self.step, self.best = state.step, state.best
        self.rounds = [saved.result() for saved in state.rounds]
        self.best_weights = tuple(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            for prefix in (f"best.{index}." for index in range(len(self.ensemble)))
        )


def outline_held_out(
    ensemble: Ensemble, weights: Weights, share: float, stage: Literal["measuring", "comparing"]
) -> Generator[Progress, None, tuple[Outlined, ...]]:
    """Outline every held-out image by the copy that does not learn from it.

    Parameters
    ----------
    ensemble : Ensemble
        The copies with their folds.
    weights : Weights
        Of each copy.
    share : float
        How far to go from the old weights to those, 0 to 1.
    stage : {"measuring", "comparing"}
        What to call it.

    Returns
    -------
    tuple of Outlined
        Fold by fold.
    """
    total, outlined = sum(len(fold.held_out) for fold in ensemble.folds), list[Outlined]()
    for index, fold in enumerate(ensemble.folds):
        if not fold.held_out:
            continue
        model = ensemble.member(index, weights, share)
        for pair in fold.held_out:
            outlined.append(outline_pair(model, pair, augment=False))
            yield Progress(stage, len(outlined), total)
    return tuple(outlined)


def _summarise(outlined: Sequence[Outlined]) -> ValidationScores | None:
    if not outlined:
        return None
    scores = [image.scores for image in outlined]
    return ValidationScores(
        fmean(s.dice for s in scores), fmean(s.jaccard for s in scores), fmean(s.failed for s in scores)
    )


def _jaccard(result: EpochResult) -> float:
    return result.validation.jaccard if result.validation else 0.0
