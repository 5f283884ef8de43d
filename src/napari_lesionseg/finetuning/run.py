"""Training runs of a fine-tuning: the folds' models, then one model on all images."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from statistics import fmean, median
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.finetuning.checkpoint import (
    REFIT,
    FineTuneCheckpoint,
    SavedRound,
    hash_weights,
    write_finetune_checkpoint,
)
from napari_lesionseg.finetuning.comparison import ScoredPrediction
from napari_lesionseg.finetuning.cross_validation import Ensemble, Weights
from napari_lesionseg.finetuning.dataset import SkippedPair, TrainingSet
from napari_lesionseg.finetuning.domain_shift import ExpertAssignment
from napari_lesionseg.finetuning.fold import Fold, FoldWorkers, Step
from napari_lesionseg.finetuning.schedule import (
    Costs,
    FineTunePlan,
    Schedule,
    closing_seconds,
    fit_batch,
    make_schedule,
    planned_seconds,
    refit_steps,
    scaled,
    shortened,
)
from napari_lesionseg.inference.device import describe_device
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.learner import rate_at
from napari_lesionseg.training.resources import ContentionWatch, WorkClock
from napari_lesionseg.training.trainer import EpochResult, StepResult, ValidationScores

RECENT_STEPS = 20
MIN_PATIENCE = 2  # rounds: a single worse one is chance
TIMED_STEPS = 4  # the first one is not counted: it allocates memory
RETIMED_STEPS = 2  # likewise, with other threads
REFIT_ROUNDS = 3  # how often the loss is reported and the checkpoint saved


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress between training steps."""

    stage: Literal["reading", "measuring", "timing", "comparing"]
    done: int
    total: int


TrainingEvents: TypeAlias = Generator[Progress | StepResult | EpochResult, None, None]


@dataclass(frozen=True, slots=True, eq=False)
class RunSetup:
    """What all training runs of a fine-tuning share."""

    model: Model
    config: FineTuneConfig
    """The settings for the expert that is trained; see `ExpertAssignment.settings`."""
    assignment: ExpertAssignment
    clock: WorkClock
    workers: FoldWorkers | None = None
    """Where the models of several folds are trained at the same time; None: here, one after the other."""
    most_threads: int = 1
    """CPU threads for a model that is trained alone, if as many are quicker than one."""

    @property
    def size(self) -> int:
        """Side of the training images in pixels."""
        return self.config.size or self.model.card.working_size

    def ensemble(self, folds: Sequence[Fold], begin: Mapping[str, Tensor] | None = None) -> Ensemble:
        """Return one model per fold, which starts from the parent or from the given weights."""
        workers = self.workers if len(folds) > 1 else None
        return Ensemble(self.model, folds, self.config, self.assignment, begin, workers)


@dataclass(frozen=True, slots=True, eq=False)
class BestRound:
    """The round with the best scores on the held-out images."""

    index: int
    weights: Weights
    predictions: tuple[ScoredPrediction, ...] = ()
    """Of the held-out images at `TrainingRun.measured_interpolation`; empty after a restart."""


class TrainingRun:
    """Train the folds' models step by step, score them after each round, and keep the best round."""

    def __init__(
        self,
        setup: RunSetup,
        ensemble: Ensemble,
        schedule: Schedule,
        costs: Costs,
        previous: TrainingRun | None = None,
    ) -> None:
        self.setup, self.ensemble, self.schedule, self.costs = setup, ensemble, schedule, costs
        self.step = 0
        """Steps done by each fold's model."""
        self.rounds: list[EpochResult] = []
        self.best: BestRound | None = None
        self._previous = (previous.steps_done, len(previous.rounds)) if previous else (0, 0)
        self._watch = ContentionWatch(costs.step)
        self._losses: list[float] = []
        self._times: list[float] = []

    def train(self, stopping: Callable[[], bool], save: Callable[[], None]) -> TrainingEvents:
        """Take all steps, or as many as there is time for."""
        while self.step < self.schedule.steps:
            yield from self._step_all()
            ending = stopping() or self._out_of_time()
            if ending or self.step % self.schedule.per_round == 0 or self.step >= self.schedule.steps:
                yield from self._finish_round(save)
                self.schedule = shortened(
                    self.setup.config, self.schedule, self.step, len(self.ensemble), self.costs_so_far()
                )
            if ending or self._out_of_patience():
                break

    def _step_all(self) -> Generator[StepResult, None, None]:
        rate = rate_at((self.step + 0.5) / self.schedule.steps, self.setup.config.warmup)
        losses = self.ensemble.step(Step(self.step, self.schedule.steps, self.setup.size, rate))
        seconds = 0.0
        for index in range(len(self.ensemble)):
            started = time.monotonic()
            self._losses.append(next(losses))
            took = time.monotonic() - started
            seconds += took
            # Workers have one thread each, and their steps end at the same time.
            if not self.ensemble.in_parallel and self._watch.contended(took):
                self._watch.yield_cores()
            done = self.steps_done + index + 1
            yield StepResult(done, done / self._steps_in_all, self.setup.clock.seconds, self._losses[-1])
        self._times.append(seconds / len(self.ensemble))
        self.step += 1

    @property
    def measured_interpolation(self) -> float:
        """Interpolation at which rounds are scored: the largest."""
        return max(self.setup.config.interpolations)

    @property
    def steps_done(self) -> int:
        """Steps of all models so far, including the previous run."""
        return self._previous[0] + self.step * len(self.ensemble)

    @property
    def _steps_in_all(self) -> int:
        return self._previous[0] + self.schedule.steps * len(self.ensemble) + self.schedule.refit

    def costs_so_far(self) -> Costs:
        """Return the costs as measured so far."""
        # Never below the planned cost: a few fast steps must not promise more of them.
        step = median(self._times[-RECENT_STEPS:]) if self._times else self.costs.step
        costs = replace(self.costs, spent=self.setup.clock.seconds)
        return scaled(costs, max(1.0, step / costs.step))

    def _out_of_time(self) -> bool:
        config = self.setup.config
        if config.max_seconds is None:
            return False
        # Time is kept for one more score, the comparison at the end, and the steps on all images.
        reserve = self.costs.measuring + closing_seconds(config, self.costs)
        reserve += self.schedule.refit * self.costs.single
        return self.setup.clock.seconds + reserve >= config.max_seconds

    def _out_of_patience(self) -> bool:
        """Whether the held-out images have not improved for too long."""
        if self.best is None:
            return False
        patience = max(MIN_PATIENCE, self.setup.config.patience * self.schedule.rounds)
        return len(self.rounds) - 1 - self.best.index >= patience

    def _finish_round(self, save: Callable[[], None]) -> TrainingEvents:
        predictions = yield from self.predict_held_out(None, self.measured_interpolation, "measuring")
        self.rounds.append(self._describe_round(predictions))
        self._losses.clear()
        # Without held-out images the last round is the best.
        if (
            self.best is None
            or not predictions
            or _jaccard(self.rounds[-1]) > _jaccard(self.rounds[self.best.index])
        ):
            self.best = BestRound(len(self.rounds) - 1, self.ensemble.weights(), predictions)
        save()
        yield self.rounds[-1]

    def predict_held_out(
        self, weights: Weights | None, interpolation: float, stage: Literal["measuring", "comparing"]
    ) -> Generator[Progress, None, tuple[ScoredPrediction, ...]]:
        """Predict every held-out image with the model that was not trained on it, fold by fold."""
        folds = self.ensemble.folds
        total, predictions = sum(len(fold.held_out) for fold in folds), list[tuple[int, ScoredPrediction]]()
        for predicted in self.ensemble.predict(interpolation, weights):
            predictions.append(predicted)
            yield Progress(stage, len(predictions), total)
        return tuple(prediction for _, prediction in sorted(predictions, key=itemgetter(0)))

    def _describe_round(self, predictions: Sequence[ScoredPrediction]) -> EpochResult:
        rounds_before, number = self._previous[1], len(self.rounds) + 1
        return EpochResult(
            epoch=rounds_before + number,
            epochs=rounds_before + max(self.schedule.rounds, number),
            step=self.steps_done,
            progress=self.steps_done / self._steps_in_all,
            seconds=self.setup.clock.seconds,
            loss=fmean(self._losses),
            size=self.setup.size,
            validation=_summarize(predictions),
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """Copy all weights, optimizers and the best weights, by name."""
        best = {
            f"best.{index}.{name}": tensor
            for index, weights in enumerate(self.best.weights if self.best else ())
            for name, tensor in weights.items()
        }
        return self.ensemble.state_tensors() | best

    def restore(self, state: FineTuneCheckpoint, tensors: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint and its `state_tensors`."""
        self.ensemble.restore(tensors)
        self.step = state.step
        self.rounds = [saved.result() for saved in state.rounds]
        if state.best is not None:
            prefixes = [f"best.{index}." for index in range(len(self.ensemble))]
            self.best = BestRound(state.best, tuple(_with_prefix(tensors, prefix) for prefix in prefixes))


def build_run(
    setup: RunSetup, folds: Sequence[Fold], measuring: float
) -> Generator[Progress, None, TrainingRun]:
    """Time some steps, and build the run of the folds' models."""
    ratio = _refit_ratio(setup, folds)
    alone = (yield from _time_alone(setup, folds)) if ratio or setup.workers is None else 0.0
    step = alone if setup.workers is None else (yield from _time_step(setup, folds))
    costs = Costs(setup.clock.seconds, step, measuring, alone)
    batch, costs = fit_batch(setup.config, len(folds), costs)
    setup = _with_batch_size(setup, batch)
    learned = min(len(fold.learn) for fold in folds)
    schedule = make_schedule(setup.config, learned, len(folds), costs, ratio)
    return TrainingRun(setup, setup.ensemble(folds), schedule, costs)


def build_refit(run: TrainingRun, images: Sequence[CachedPair]) -> TrainingRun | None:
    """Build the run on all images, if it is planned and there is time."""
    costs = replace(run.costs_so_far(), measuring=0.0)
    steps, costs = refit_steps(run.setup.config, run.schedule, costs), replace(costs, step=costs.single)
    if steps < 1:
        return None
    schedule = Schedule(steps, -(-steps // REFIT_ROUNDS))
    return TrainingRun(run.setup, _refit_ensemble(run, images), schedule, costs, run)


def resume_runs(
    setup: RunSetup, data: TrainingSet, state: FineTuneCheckpoint, tensors: Mapping[str, Tensor]
) -> tuple[TrainingRun, TrainingRun | None]:
    """Rebuild interrupted runs; the second one, on all images, only if it had started."""
    torch.set_num_threads(setup.most_threads)
    setup = _with_batch_size(setup, state.batch_size)
    run = TrainingRun(setup, setup.ensemble(data.folds), *_saved_schedule(state))
    run.restore(state, tensors)
    if state.refit is None:
        return run, None
    refit = TrainingRun(setup, _refit_ensemble(run, data.images), *_saved_schedule(state.refit), run)
    refit.restore(state.refit, _with_prefix(tensors, REFIT))
    return run, refit


def save_runs(
    path: Path, config: FineTuneConfig, data: TrainingSet, run: TrainingRun, refit: TrainingRun | None
) -> None:
    """Write the checkpoint of a fine-tuning, of which ``config`` are the settings it was started with."""
    state, tensors = _state_of(run, config, data), run.state_tensors()
    if refit is not None:
        state = state.model_copy(update={"refit": _state_of(refit, config, data)})
        tensors |= {f"{REFIT}{name}": tensor for name, tensor in refit.state_tensors().items()}
    write_finetune_checkpoint(path, state, tensors)


def make_plan(run: TrainingRun, skipped: tuple[SkippedPair, ...]) -> FineTunePlan:
    """Return the plan of a run."""
    setup, schedule, folds = run.setup, run.schedule, run.ensemble.folds
    return FineTunePlan(
        images=len({pair.stem for fold in folds for pair in fold.learn}),
        held_out=tuple(pair.stem for fold in folds for pair in fold.held_out),
        folds=len(folds),
        steps=schedule.steps * len(folds) + schedule.refit,
        rounds=schedule.rounds,
        seconds=planned_seconds(setup.config, len(folds), schedule, run.step, run.costs),
        step_seconds=run.costs.step,
        batch_size=run.ensemble.batch_size,
        size=setup.size,
        new_domain_images=setup.assignment.new_domain_images,
        device=describe_device(setup.model.device),
        skipped=skipped,
    )


def _state_of(run: TrainingRun, config: FineTuneConfig, data: TrainingSet) -> FineTuneCheckpoint:
    model = run.setup.model
    return FineTuneCheckpoint(
        parent=hash_weights(model.network),
        model=model.card.name,
        images=data.hashes,
        folds=data.fold_of,
        config=config,
        steps=run.schedule.steps,
        per_round=run.schedule.per_round,
        refit_steps=run.schedule.refit,
        batch_size=run.ensemble.batch_size,
        step=run.step,
        seconds=run.setup.clock.seconds,
        step_seconds=run.costs.step,
        alone_seconds=run.costs.alone,
        measuring_seconds=run.costs.measuring,
        rounds=tuple(SavedRound.of(result) for result in run.rounds),
        best=run.best.index if run.best else None,
        saved=datetime.datetime.now(datetime.UTC),
    )


def _saved_schedule(state: FineTuneCheckpoint) -> tuple[Schedule, Costs]:
    costs = Costs(state.seconds, state.step_seconds, state.measuring_seconds, state.alone_seconds)
    return Schedule(state.steps, state.per_round, state.refit_steps), costs


def _with_batch_size(setup: RunSetup, batch_size: int) -> RunSetup:
    return replace(setup, config=setup.config.model_copy(update={"batch_size": batch_size}))


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _refit_ratio(setup: RunSetup, folds: Sequence[Fold]) -> float:
    """Return the steps on all images per step of a fold's model."""
    # Zero if the model itself is fine-tuned: it is interpolated, and the mean of the folds is good enough.
    # Zero for a single fold, too, which is trained on all images that may be trained on.
    expert = setup.config.expert
    return expert.refit if expert and setup.assignment.is_new_domain and len(folds) > 1 else 0.0


def _refit_ensemble(run: TrainingRun, images: Sequence[CachedPair]) -> Ensemble:
    """Return one model for all images, which starts from the mean of the folds' best weights."""
    weights = run.best.weights if run.best else ()
    return run.setup.ensemble([Fold(tuple(images), ())], run.ensemble.averaged(weights))


def _time_alone(setup: RunSetup, folds: Sequence[Fold]) -> Generator[Progress, None, float]:
    """Time a model that is trained alone, and keep the number of threads that is quicker.

    Several threads of a busy computer are far slower than one; see `ContentionWatch`.
    """
    before, alone = torch.get_num_threads(), (yield from _time_step(setup, folds[:1]))
    if setup.most_threads <= before:
        return alone
    torch.set_num_threads(setup.most_threads)
    together = yield from _time_step(setup, folds[:1], RETIMED_STEPS)
    if together >= alone:
        torch.set_num_threads(before)
    return min(alone, together)


def _time_step(
    setup: RunSetup, folds: Sequence[Fold], steps: int = TIMED_STEPS
) -> Generator[Progress, None, float]:
    """Time some steps of models that are discarded; return the seconds for each."""
    trial, seconds = setup.ensemble(folds), list[float]()
    for number in range(steps):
        started = time.monotonic()
        for _ in trial.step(Step(number, steps, setup.size, 0.0)):
            pass
        seconds.append((time.monotonic() - started) / len(folds))
        yield Progress("timing", number + 1, steps)
    return median(seconds[1:])


def _summarize(predictions: Sequence[ScoredPrediction]) -> ValidationScores | None:
    if not predictions:
        return None
    scores = [image.scores for image in predictions]
    return ValidationScores(
        fmean(s.dice for s in scores), fmean(s.jaccard for s in scores), fmean(s.failed for s in scores)
    )


def _jaccard(result: EpochResult) -> float:
    return result.validation.jaccard if result.validation else 0.0
