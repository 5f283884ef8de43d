"""Fine-tuning on an annotator's corrected images; the new model is offered only if it is better.

Fine-tuning is an iterator of frozen events, and between two events there is at most one training step or one
image of work. So a caller pauses it by waiting before the next event, in any thread and without a lock.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, TypeAlias

import torch
from torch import Tensor

from napari_lesionseg.config import FineTuneConfig, LearningConfig
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.finetuning.checkpoint import FineTuneCheckpoint, read_matching_checkpoint
from napari_lesionseg.finetuning.comparison import (
    Candidate,
    Comparison,
    ScoredPrediction,
    choose_interpolation,
    compare,
    describe_training,
    judge,
    predict_pair,
)
from napari_lesionseg.finetuning.dataset import (
    SkippedPair,
    TrainingPair,
    TrainingSet,
    read_training_pairs,
    restore_training_set,
    split_pairs,
)
from napari_lesionseg.finetuning.domain_shift import assign_expert
from napari_lesionseg.finetuning.fold import LOST, FoldWorkers
from napari_lesionseg.finetuning.run import (
    TIMED_STEPS,
    Progress,
    RunSetup,
    TrainingRun,
    build_refit,
    build_run,
    make_plan,
    resume_runs,
    save_runs,
)
from napari_lesionseg.finetuning.schedule import FineTunePlan
from napari_lesionseg.inference.device import empty_cache, is_out_of_memory
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.pairing import check_pairs
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.resources import ThreadLimit, WorkClock
from napari_lesionseg.training.trainer import EpochResult, StepResult
from napari_lesionseg.types import Pair

logger = logging.getLogger(__name__)

Event: TypeAlias = FineTunePlan | Progress | StepResult | EpochResult
"""What `FineTuning.steps` yields."""
SavedState: TypeAlias = tuple[FineTuneCheckpoint, dict[str, Tensor]]


class FineTuning:
    """Fine-tuning of a model on corrected images: an iterator of `EpochResult`.

    The model itself does not change and can be used in other threads. At the end, or after `stop`,
    `candidate` returns the new one.

    Parameters
    ----------
    model : Model
        The model to start from.
    pairs : sequence of Pair or CachedPair
        Files, or arrays in memory; at least one, all with different names. Masks may be empty.
    config : FineTuneConfig or TrainConfig, optional
        Of a `TrainConfig`, only the values that were set explicitly are used.
    items : iterable of SplitItem
        Patients and lesions of the images; all images of a patient are either trained on or held out.
    held_out : sequence of Pair or CachedPair
        Images to score and never to train on; without them, ``pairs`` are cross-validated.
    state_path : Path, optional
        File for the checkpoint, which is written after every round; `delete_checkpoint` removes it.
    resume : bool
        Continue from the checkpoint at ``state_path``; images added since are not used.
    workers : FoldWorkers, optional
        Where the folds' models are trained at the same time; None: here, one after the other.

    Raises
    ------
    TrainingError
        If there are no images, the model cannot be trained, or there is no matching checkpoint to resume.

    Notes
    -----
    `steps` yields after every training step and every image read or scored. To pause, wait before the next
    event; pauses do not count towards the time budget. To stop early, call `stop`, which is the only method
    that may be called from another thread. Errors are `LesionSegError`, and change neither model nor images.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[Pair | CachedPair],
        config: LearningConfig | None = None,
        *,
        items: Iterable[SplitItem] = (),
        held_out: Sequence[Pair | CachedPair] = (),
        state_path: Path | None = None,
        resume: bool = False,
        workers: FoldWorkers | None = None,
    ) -> None:
        _check_inputs(model, pairs, held_out)
        self.config = FineTuneConfig.from_train_config(config or FineTuneConfig())
        self.plan: FineTunePlan | None = None
        """What will be done; None until the images are read and a step is timed."""
        self.skipped: tuple[SkippedPair, ...] = ()
        """Images that cannot be used, and why."""
        self.problems: tuple[str, ...] = ()
        """Problems that did not end it, such as a full disk, one sentence each."""
        self._model, self._state_path, self._workers = model, state_path, workers
        saved = read_matching_checkpoint(state_path, model, self.config) if resume else None
        self._clock = WorkClock(saved[0].seconds if saved else 0.0)
        self._most_threads = self.config.num_threads or torch.get_num_threads()
        self._stopping = threading.Event()
        self._candidate: Candidate | None = None
        self._events = self._timed(self._work(tuple(pairs), tuple(held_out), tuple(items), saved))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> EpochResult:
        return next(event for event in self._events if isinstance(event, EpochResult))

    def steps(self) -> Iterator[Event]:
        """Iterate over all events: progress, the plan, steps and rounds, then progress again."""
        return self._events

    def prepare(self) -> FineTunePlan:
        """Read the images, time a step, and return the plan; training has not started then."""
        while self.plan is None:
            next(self._events)
        return self.plan

    def stop(self) -> None:
        """End after the current step, from any thread; what has been learned is scored, and the best kept."""
        self._stopping.set()

    def close(self) -> None:
        """Cancel and release memory; the checkpoint stays, so that the fine-tuning can be resumed."""
        self._events.close()

    def delete_checkpoint(self) -> None:
        """Delete the checkpoint file, once the candidate was saved or is not wanted."""
        if self._state_path is not None:
            self._state_path.unlink(missing_ok=True)

    def candidate(self) -> Candidate:
        """Return the new model, its comparison with the old one, and whether it is better.

        If the iteration was left early, the best round so far is compared now.

        Raises
        ------
        TrainingError
            If no round is finished.
        """
        if self._candidate is None and self.plan is not None:
            self.stop()
            for _ in self._events:
                pass
        if self._candidate is None:
            raise TrainingError("Nothing has been learned yet. Finish at least one round.")
        return self._candidate

    def _timed(self, work: Generator[Event]) -> Generator[Event]:
        """Count the time of the work, and release its memory at the end."""
        # Several threads would wait for the workers' processes, which start at the same time.
        threads = ThreadLimit(self.config.num_threads or (1 if self._workers else None))
        try:
            while True:
                # Not around `yield`: pauses do not count, and errors of the caller are not converted.
                with self._clock, threads, _named_errors():
                    event = next(work, None)
                if event is None:
                    return
                yield event
        finally:
            if self._workers is not None:
                self._workers.close()
            work.close()  # drops the runs, which are local to it
            empty_cache()

    def _work(
        self,
        pairs: Sequence[Pair | CachedPair],
        held_out: Sequence[Pair | CachedPair],
        items: Sequence[SplitItem],
        saved: SavedState | None,
    ) -> Generator[Event]:
        found = yield from self._read((*pairs, *held_out))
        if saved:
            data = restore_training_set(found, saved[0])
        else:
            apart = [pair.stem for pair in held_out]
            data = split_pairs(found, apart, items, self.config, self.skipped)
        setup, refit = _set_up(self._model, self.config, data, self._clock, self._most_threads), None
        # They need seconds to start, in which the parent is measured.
        workers = self._workers
        if workers is None or len(data.folds) < 2 or not workers.begin(self._model, len(data.folds)):
            workers = None
        started = self._clock.seconds
        before = yield from _measure_parent(self._model, data)
        measuring = self._clock.seconds - started
        while workers is not None and not workers.wait():
            yield Progress("timing", 0, TIMED_STEPS)
        setup = replace(setup, workers=workers)
        if saved:
            run, refit = resume_runs(setup, data, *saved)
            saved = None  # its tensors are as large as all runs together
        else:
            run = yield from build_run(setup, data.folds, measuring)
        self.plan = make_plan(run, self.skipped)
        yield self.plan
        if refit is None:
            yield from run.train(self._stopping.is_set, partial(self._save, data, run, None))
        if run.ensemble.lost:
            self.problems += (LOST,)
        if run.best is not None:
            yield from self._conclude(data, before, run, refit)

    def _read(self, pairs: Sequence[Pair | CachedPair]) -> Generator[Progress, None, list[TrainingPair]]:
        found, size = list[TrainingPair](), self.config.size or self._model.card.working_size
        for number, pair in enumerate(read_training_pairs(pairs, self._model, size), 1):
            if isinstance(pair, SkippedPair):
                self.skipped += (pair,)
            else:
                found.append(pair)
            yield Progress("reading", number, len(pairs))
        return found

    def _conclude(
        self,
        data: TrainingSet,
        before: Sequence[ScoredPrediction],
        run: TrainingRun,
        refit: TrainingRun | None,
    ) -> Generator[Event]:
        """Compare old with new, train on all images if that is better, and make the candidate."""
        interpolation, comparison = self.config.unmeasured_interpolation, None
        if before:
            interpolation, comparison = yield from _compare_interpolations(run, before)
        offered, reason = judge(comparison)
        if run.setup.assignment.is_new_domain:
            reason += " It is used for images like these; results on other images do not change."
        # Cross-validation has shown that training on these images helps: train on the held-out ones, too.
        if offered and refit is None and not self._stopping.is_set():
            refit = build_refit(run, data.images)
        last, rounds = run, run.rounds
        if offered and refit is not None:
            yield from refit.train(self._stopping.is_set, partial(self._save, data, run, refit))
            if refit.best is not None and self.config.expert is not None:
                last, rounds = refit, [*run.rounds, *refit.rounds]
                interpolation = self.config.expert.refit_interpolation
        record = _describe_run(last, rounds, interpolation)
        card = self._model.card.model_copy(
            update={
                "parent": self._model.sha256,
                "training": describe_training(self._model, self.config, data.hashes, record),
                "scores": {"held-out": comparison.to_record()} if comparison else {},
            }
        )
        weights = last.best.weights if last.best else ()
        model = last.ensemble.mean(weights, interpolation, card)
        self._candidate = Candidate(model, comparison, offered, reason, interpolation, tuple(rounds))

    def _save(self, data: TrainingSet, run: TrainingRun, refit: TrainingRun | None) -> None:
        """Save the checkpoint; if the disk is full, training continues without it."""
        if self._state_path is None:
            return
        try:
            save_runs(self._state_path, self.config, data, run, refit)
        except OSError as error:
            problem = (
                f"The state of the training cannot be saved to {self._state_path}: {error.strerror}. "
                "Training continues, but cannot be resumed after a crash."
            )
            if problem not in self.problems:
                self.problems += (problem,)
                logger.warning(problem)


def fine_tune(
    model: Model,
    pairs: Sequence[Pair | CachedPair],
    config: LearningConfig | None = None,
    *,
    items: Iterable[SplitItem] = (),
    held_out: Sequence[Pair | CachedPair] = (),
    state_path: str | Path | None = None,
    resume: bool = False,
) -> FineTuning:
    """Fine-tune a copy of a model on corrected images.

    Parameters
    ----------
    model, pairs, config, items, held_out, resume
        See `FineTuning`.
    state_path : str or Path, optional
        File for the checkpoint.

    Returns
    -------
    FineTuning
        An iterator of `EpochResult`, one per round; its `~FineTuning.candidate` is the new model.

    Raises
    ------
    TrainingError
        If there are no images, the model cannot be trained, or there is no matching checkpoint to resume.

    Examples
    --------
    >>> tuning = ls.fine_tune(model, pairs)
    >>> for epoch in tuning:
    ...     print(epoch.loss, epoch.validation)
    >>> candidate = tuning.candidate()
    >>> if candidate.offered:
    ...     candidate.save(Path("our-clinic.safetensors"))
    """
    path = Path(state_path) if state_path is not None else None
    return FineTuning(model, pairs, config, items=items, held_out=held_out, state_path=path, resume=resume)


def _check_inputs(
    model: Model, pairs: Sequence[Pair | CachedPair], held_out: Sequence[Pair | CachedPair]
) -> None:
    if not pairs:
        raise TrainingError("There are no images with masks to learn from.")
    check_pairs(pairs, CachedPair)
    check_pairs(held_out, CachedPair)
    stems = [pair.stem for pair in (*pairs, *held_out)]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise TrainingError(f"Two images have the name {twice}; rename one of them.")
    if not any(True for _ in model.network.parameters()):
        raise TrainingError(
            f"The model '{model.card.name}' cannot be fine-tuned in this format. Use its .safetensors file."
        )


def _set_up(
    model: Model, config: FineTuneConfig, data: TrainingSet, clock: WorkClock, most_threads: int
) -> RunSetup:
    """Choose the expert to train, and the settings for it."""
    names = [([p.stem for p in fold.learn], [p.stem for p in fold.held_out]) for fold in data.folds]
    assignment = assign_expert(model, names, data.descriptions, config)
    own = assignment.settings(config, model.card.working_size)
    return RunSetup(model, own, assignment, clock, most_threads=most_threads)


def _measure_parent(
    model: Model, data: TrainingSet
) -> Generator[Progress, None, tuple[ScoredPrediction, ...]]:
    pairs, predictions = [pair for fold in data.folds for pair in fold.held_out], list[ScoredPrediction]()
    for pair in pairs:
        predictions.append(predict_pair(model, pair, augment=False))
        yield Progress("measuring", len(predictions), len(pairs))
    return tuple(predictions)


def _compare_interpolations(
    run: TrainingRun, before: Sequence[ScoredPrediction]
) -> Generator[Progress, None, tuple[float, Comparison]]:
    """Return the best interpolation between old and new weights, and old against new there."""
    after, best = {}, run.best
    weights, known = (best.weights, best.predictions) if best else ((), ())
    for interpolation in run.setup.config.interpolations:
        # At one interpolation the best round was scored already, unless it is from a checkpoint.
        if known and interpolation == run.measured_interpolation:
            after[interpolation] = known
        else:
            after[interpolation] = yield from run.predict_held_out(weights, interpolation, "comparing")
    chosen = choose_interpolation(before, after)
    return chosen, compare(before, after[chosen])


def _describe_run(run: TrainingRun, rounds: Sequence[EpochResult], interpolation: float) -> dict[str, object]:
    return {
        "expert": run.setup.assignment.expert_index,
        "interpolation": interpolation,
        "steps": run.steps_done,
        "seconds": round(run.setup.clock.seconds, 1),
        "curve": [_as_record(result) for result in rounds],
    }


def _as_record(result: EpochResult) -> dict[str, object]:
    record: dict[str, object] = {"step": result.step, "loss": round(result.loss, 5)}
    if result.validation:
        record |= {
            "dice": round(result.validation.dice, 4),
            "jaccard": round(result.validation.jaccard, 4),
        }
    return record


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Convert out-of-memory errors to a `TrainingError`."""
    advice = (
        "There is not enough memory to fine-tune. Close other programs, or choose a smaller batch or the CPU."
    )
    try:
        yield
    except MemoryError as error:
        raise TrainingError(advice) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(advice) from error
