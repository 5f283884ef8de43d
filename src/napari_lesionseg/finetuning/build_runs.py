"""The courses of a fine-tuning: of the copies that are measured, and of the one that learns from all."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from statistics import median

from torch import Tensor

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.checkpoint import REFIT, FineTuneCheckpoint
from napari_lesionseg.finetuning.cross_validation import Ensemble, Fold
from napari_lesionseg.finetuning.domain_shift import ExpertAssignment
from napari_lesionseg.finetuning.run import Progress, TrainingRun
from napari_lesionseg.finetuning.schedule import Costs, Schedule, fit_batch, make_schedule, refit_steps
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.clock import WorkClock
from napari_lesionseg.training.dataset import CachedPair

TIMED_STEPS = 4  # the first of them is not counted: it pays for memory and for kernels
REFIT_ROUNDS = 3  # how often the one that learns from all images tells its loss, and is saved


class TrainingRunBuilder:
    """What all courses of a fine-tuning have in common.

    Parameters
    ----------
    model : Model
        What they start from.
    config : FineTuneConfig
        What was asked for.
    speciality : Speciality
        Which of the model's weights learn.
    clock : WorkClock
        Runs while work is done.

    Attributes
    ----------
    config : FineTuneConfig
        How the copies learn: what was asked for, as it suits the images and the machine.
    size : int
        Side of the training images in pixels.
    """

    def __init__(
        self, model: Model, config: FineTuneConfig, expert_assignment: ExpertAssignment, clock: WorkClock
    ) -> None:
        self._model, self._expert_assignment, self._clock = model, expert_assignment, clock
        self.config = expert_assignment.settings(config, model.card.working_size)
        self.size = self.config.size or model.card.working_size

    def begin(self, folds: Sequence[Fold], measuring: float) -> Generator[Progress, None, TrainingRun]:
        """Make the course of the copies, timing some steps first.

        Parameters
        ----------
        folds : sequence of Fold
            What each copy learns from, and is measured on.
        measuring : float
            Seconds for measuring all held-out images once.
        """
        step = yield from self._time_step(folds[:1])
        batch, costs = fit_batch(self.config, len(folds), Costs(self._clock.seconds, step, measuring))
        self.config = self.config.model_copy(update={"batch_size": batch})
        learned = min(len(fold.learn) for fold in folds)
        schedule = make_schedule(self.config, learned, len(folds), costs, self._refit_ratio(folds))
        return self._make(self._ensemble(folds), schedule, costs)

    def begin_again(
        self,
        folds: Sequence[Fold],
        pairs: Sequence[CachedPair],
        state: FineTuneCheckpoint,
        tensors: Mapping[str, Tensor],
    ) -> tuple[TrainingRun, TrainingRun | None]:
        """Make the courses that were interrupted; the second one only if it had begun.

        Parameters
        ----------
        folds, pairs
            As for `begin` and `refit`.
        state, tensors
            See `TrainingRun.restore`.
        """
        self.config = self.config.model_copy(update={"batch_size": state.batch_size})
        training_run = self._restore(self._ensemble(folds), state, tensors)
        if state.refit is None:
            return training_run, None
        own = {name.removeprefix(REFIT): t for name, t in tensors.items() if name.startswith(REFIT)}
        return training_run, self._restore(
            self._refit_ensemble(training_run, pairs), state.refit, own, training_run
        )

    def refit(self, training_run: TrainingRun, pairs: Sequence[CachedPair]) -> TrainingRun | None:
        """Make the course of one copy that goes on with all images, if that is planned and there is time.

        Parameters
        ----------
        course : Course
            Of the copies, at its end: it begins with the mean of their weights.
        pairs : sequence of CachedPair
            All images.
        """
        costs = replace(training_run.costs_so_far(), measuring=0.0)
        steps = refit_steps(self.config, training_run.schedule, costs)
        if steps < 1:
            return None
        schedule = Schedule(steps, -(-steps // REFIT_ROUNDS))
        return self._make(self._refit_ensemble(training_run, pairs), schedule, costs, training_run)

    def _refit_ratio(self, folds: Sequence[Fold]) -> float:
        """Say how many steps with all images follow a step of the copies.

        None do where the model itself learns: it goes only a part of the way, for which the copies' mean will
        do; nor where there is one copy, which has learned from all that is not held out for good.
        """
        expert = self.config.expert
        return expert.refit if expert and self._expert_assignment.of_its_own and len(folds) > 1 else 0.0

    def _time_step(self, folds: Sequence[Fold]) -> Generator[Progress, None, float]:
        """Time some steps of a copy that is thrown away."""
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
