"""Training runs of a fine-tuning: the folds' models, then one model on all images."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Literal, TypeAlias

from torch import Tensor

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.checkpoint import REFIT, FineTuneCheckpoint, SavedRound
from napari_lesionseg.finetuning.comparison import ScoredPrediction, predict_pair
from napari_lesionseg.finetuning.cross_validation import Ensemble, Fold, Weights
from napari_lesionseg.finetuning.domain_shift import ExpertAssignment
from napari_lesionseg.finetuning.schedule import (
    Costs,
    Schedule,
    closing_seconds,
    fit_batch,
    make_schedule,
    refit_steps,
    shortened,
)
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.dataset import Batch, CachedPair, prefetch
from napari_lesionseg.training.learner import rate_at
from napari_lesionseg.training.resources import ContentionWatch, WorkClock
from napari_lesionseg.training.trainer import EpochResult, StepResult, ValidationScores

logger = logging.getLogger(__name__)
RECENT_STEPS = 20
MIN_PATIENCE = 2  # rounds: a single worse one is chance


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress between training steps."""

    stage: Literal["reading", "measuring", "timing", "comparing"]
    done: int
    total: int


TrainingEvents: TypeAlias = Generator[Progress | StepResult | EpochResult, None, None]


class TrainingRun:
    """Train the folds' models step by step, score them after each round, and keep the best round."""

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
        """Steps done by each fold's model."""
        self.rounds: list[EpochResult] = []
        self.best: int | None = None
        """Index of the best round."""
        self.best_weights: Weights = ()
        self.best_outlined: tuple[ScoredPrediction, ...] = ()
        """Held-out images predicted by the best round at `measured_interpolation`, if known."""
        self._losses: list[float] = []
        self._times: list[float] = []

    def train(self, stopping: Callable[[], bool], save: Callable[[], None]) -> TrainingEvents:
        """Take all steps, or as many as there is time for."""
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
            if ending or self._out_of_patience():
                break

    def _step_all(self, batches: Sequence[Batch]) -> Generator[StepResult, None, None]:
        rate = rate_at((self.step + 0.5) / self.schedule.steps, self._config.warmup)
        for index, batch in enumerate(batches):
            started = time.monotonic()
            loss = self.ensemble.step(index, batch, self.step, rate)
            self._record_step(loss, time.monotonic() - started)
            done = self.steps_done + index + 1
            yield StepResult(done, done / self._steps_in_all, self._clock.seconds, loss)
        self.step += 1

    @property
    def measured_interpolation(self) -> float:
        """Interpolation at which rounds are scored: the largest."""
        return max(self._config.interpolations)

    @property
    def steps_done(self) -> int:
        """Steps of all models so far, including the previous run."""
        return self._steps_before + self.step * len(self.ensemble)

    @property
    def _steps_in_all(self) -> int:
        return self._steps_before + self.schedule.steps * len(self.ensemble) + self.schedule.refit

    def _record_step(self, loss: float, seconds: float) -> None:
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

    def _out_of_patience(self) -> bool:
        """Whether the held-out images have not improved for too long."""
        if self.best is None:
            return False
        patience = max(MIN_PATIENCE, self._config.patience * self.schedule.rounds)
        return len(self.rounds) - 1 - self.best >= patience

    def _finish_round(self, save: Callable[[], None]) -> TrainingEvents:
        weights = self.ensemble.weights()
        outlined = yield from predict_held_out(
            self.ensemble, weights, self.measured_interpolation, "measuring"
        )
        self.rounds.append(self._describe_round(outlined))
        self._losses.clear()
        if self.best is None or not outlined or _jaccard(self.rounds[-1]) > _jaccard(self.rounds[self.best]):
            self.best, self.best_weights = len(self.rounds) - 1, weights
            self.best_outlined = outlined
        save()
        yield self.rounds[-1]

    def _describe_round(self, outlined: Sequence[ScoredPrediction]) -> EpochResult:
        return EpochResult(
            epoch=self._rounds_before + len(self.rounds) + 1,
            epochs=self._rounds_before + max(self.schedule.rounds, len(self.rounds) + 1),
            step=self.steps_done,
            progress=self.steps_done / self._steps_in_all,
            seconds=self._clock.seconds,
            loss=fmean(self._losses),
            size=self._size,
            validation=_summarize(outlined),
        )

    def state(
        self,
        config: FineTuneConfig,
        parent: str,
        model: str,
        images: Sequence[str],
        folds: Sequence[int],
    ) -> FineTuneCheckpoint:
        """Return the checkpoint; the weights are `state_tensors`."""
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
        """Copy all weights, optimizers and the best weights, by name."""
        best = {
            f"best.{index}.{name}": tensor
            for index, weights in enumerate(self.best_weights)
            for name, tensor in weights.items()
        }
        return self.ensemble.state_tensors() | best

    def restore(self, state: FineTuneCheckpoint, tensors: dict[str, Tensor]) -> None:
        """Restore what `state` and `state_tensors` returned."""
        self.ensemble.restore(tensors)
        self.step, self.best = state.step, state.best
        self.rounds = [saved.result() for saved in state.rounds]
        self.best_weights = tuple(
            {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            for prefix in (f"best.{index}." for index in range(len(self.ensemble)))
        )


def predict_held_out(
    ensemble: Ensemble, weights: Weights, interpolation: float, stage: Literal["measuring", "comparing"]
) -> Generator[Progress, None, tuple[ScoredPrediction, ...]]:
    """Predict every held-out image with the model that was not trained on it, fold by fold."""
    total, outlined = sum(len(fold.held_out) for fold in ensemble.folds), list[ScoredPrediction]()
    for index, fold in enumerate(ensemble.folds):
        if not fold.held_out:
            continue
        model = ensemble.member(index, weights, interpolation)
        for pair in fold.held_out:
            outlined.append(predict_pair(model, pair, augment=False))
            yield Progress(stage, len(outlined), total)
    return tuple(outlined)


def _summarize(outlined: Sequence[ScoredPrediction]) -> ValidationScores | None:
    if not outlined:
        return None
    scores = [image.scores for image in outlined]
    return ValidationScores(
        fmean(s.dice for s in scores), fmean(s.jaccard for s in scores), fmean(s.failed for s in scores)
    )


def _jaccard(result: EpochResult) -> float:
    return result.validation.jaccard if result.validation else 0.0


TIMED_STEPS = 4  # the first one is not counted: it allocates memory
REFIT_ROUNDS = 3  # how often the loss is reported and the checkpoint saved


class TrainingRunBuilder:
    """Build the training runs of a fine-tuning."""

    def __init__(
        self, model: Model, config: FineTuneConfig, expert_assignment: ExpertAssignment, clock: WorkClock
    ) -> None:
        self._model, self._expert_assignment, self._clock = model, expert_assignment, clock
        self.config = expert_assignment.settings(config, model.card.working_size)
        self.size = self.config.size or model.card.working_size

    def begin(self, folds: Sequence[Fold], measuring: float) -> Generator[Progress, None, TrainingRun]:
        """Time some steps, and build the run of the folds' models."""
        step = yield from self._time_step(folds[:1])
        batch, costs = fit_batch(self.config, len(folds), Costs(self._clock.seconds, step, measuring))
        self.config = self.config.model_copy(update={"batch_size": batch})
        learned = min(len(fold.learn) for fold in folds)
        schedule = make_schedule(self.config, learned, len(folds), costs, self._refit_ratio(folds))
        return self._make(self._ensemble(folds), schedule, costs)

    def resume(
        self,
        folds: Sequence[Fold],
        pairs: Sequence[CachedPair],
        state: FineTuneCheckpoint,
        tensors: Mapping[str, Tensor],
    ) -> tuple[TrainingRun, TrainingRun | None]:
        """Rebuild interrupted runs; the second one only if it had started."""
        self.config = self.config.model_copy(update={"batch_size": state.batch_size})
        training_run = self._restore(self._ensemble(folds), state, tensors)
        if state.refit is None:
            return training_run, None
        own = {name.removeprefix(REFIT): t for name, t in tensors.items() if name.startswith(REFIT)}
        return training_run, self._restore(
            self._refit_ensemble(training_run, pairs), state.refit, own, training_run
        )

    def refit(self, training_run: TrainingRun, pairs: Sequence[CachedPair]) -> TrainingRun | None:
        """Build the run on all images, if it is planned and there is time."""
        costs = replace(training_run.costs_so_far(), measuring=0.0)
        steps = refit_steps(self.config, training_run.schedule, costs)
        if steps < 1:
            return None
        schedule = Schedule(steps, -(-steps // REFIT_ROUNDS))
        return self._make(self._refit_ensemble(training_run, pairs), schedule, costs, training_run)

    def _refit_ratio(self, folds: Sequence[Fold]) -> float:
        """Return the steps on all images per step of a fold's model.

        Zero if the model itself is fine-tuned: it is interpolated, and the mean of the folds is good enough.
        Zero for a single fold, too, which is trained on all images that may be trained on.
        """
        expert = self.config.expert
        return expert.refit if expert and self._expert_assignment.is_new_domain and len(folds) > 1 else 0.0

    def _time_step(self, folds: Sequence[Fold]) -> Generator[Progress, None, float]:
        """Time some steps of a model that is discarded."""
        trial, seconds = self._ensemble(folds), list[float]()
        for number in range(TIMED_STEPS):
            started = time.monotonic()
            trial.step(0, trial.batches(number, self.size)[0], number, 0.0)
            seconds.append(time.monotonic() - started)
            yield Progress("timing", number + 1, TIMED_STEPS)
        return median(seconds[1:])

    def _refit_ensemble(self, training_run: TrainingRun, pairs: Sequence[CachedPair]) -> Ensemble:
        return self._ensemble(
            [Fold(tuple(pairs), ())], training_run.ensemble.averaged(training_run.best_weights)
        )

    def _ensemble(self, folds: Sequence[Fold], begin: Mapping[str, Tensor] | None = None) -> Ensemble:
        return Ensemble(self._model, folds, self.config, self._expert_assignment, begin)

    def _make(
        self, ensemble: Ensemble, schedule: Schedule, costs: Costs, earlier: TrainingRun | None = None
    ) -> TrainingRun:
        return TrainingRun(ensemble, self.config, schedule, costs, self._clock, self.size, earlier)

    def _restore(
        self,
        ensemble: Ensemble,
        state: FineTuneCheckpoint,
        tensors: Mapping[str, Tensor],
        earlier: TrainingRun | None = None,
    ) -> TrainingRun:
        costs = Costs(state.seconds, state.step_seconds, state.measuring_seconds)
        schedule = Schedule(state.steps, state.per_round, state.refit_steps)
        training_run = self._make(ensemble, schedule, costs, earlier)
        training_run.restore(state, dict(tensors))
        return training_run
