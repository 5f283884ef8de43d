"""Fine-tuning on an annotator's corrected images; the new model is offered only if it is better.

All is a plain iterator of frozen events. Whoever drives it pauses by not asking for the next event, and stops
by not asking any more; between two events there is never more work than a step of training or an image.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.config import FineTuneConfig, LearningConfig
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.finetuning.checkpoint import (
    REFIT,
    FineTuneCheckpoint,
    read_finetune_checkpoint,
    write_finetune_checkpoint,
)
from napari_lesionseg.finetuning.comparison import (
    Candidate,
    ScoredPrediction,
    choose_interpolation,
    compare,
    describe_training,
    judge,
    predict_pair,
)
from napari_lesionseg.finetuning.cross_validation import NOT_HELD_OUT, Fold, assign_folds, make_folds
from napari_lesionseg.finetuning.dataset import SkippedPair, TrainingPair, read_training_pairs
from napari_lesionseg.finetuning.domain_shift import ExpertAssignment, assign_expert
from napari_lesionseg.finetuning.run import Progress, TrainingRun, TrainingRunBuilder, predict_held_out
from napari_lesionseg.finetuning.schedule import (
    Plan,
    planned_seconds,
)
from napari_lesionseg.inference.device import describe_device, is_out_of_memory
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.resources import WorkClock, limited_threads
from napari_lesionseg.training.trainer import EpochResult, StepResult
from napari_lesionseg.types import Pair

logger = logging.getLogger(__name__)

Event: TypeAlias = Plan | Progress | StepResult | EpochResult
"""What `FineTuning.steps` yields."""


class FineTuning:
    """A model learning from corrected images: an iterator of `EpochResult`.

    The model itself does not change and can be used in other threads. At the end, or after `stop`,
    `candidate` gives the new one.

    Parameters
    ----------
    model : Model
        What to start from.
    pairs : sequence of Pair or CachedPair
        Files, or arrays in memory; one is enough. Masks may be empty. No two of the same name.
    config : FineTuneConfig or TrainConfig, optional
        Of a `TrainConfig` only what was set on purpose counts.
    items : iterable of SplitItem
        What is known of the images' patients and lesions, which must not be torn apart.
    held_out : sequence of Pair or CachedPair
        Images to measure on and never to learn from; if there are none, folds of ``pairs`` take turns.
    state_path : Path, optional
        Where the state is kept, after every round; `delete_checkpoint` removes it.
    resume : bool
        Continue from the state at ``state_path``; images that came later are not learned from.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, the model cannot learn, or there is nothing to continue.

    Notes
    -----
    `steps` yields after every step of training and every image read or measured, so that whoever drives it
    can pause, by not asking for more, and stop, by leaving it. Pauses do not count towards a budget. An error
    that ends it is a `LesionSegError` and leaves everything as it was. All but `stop` is for one thread.
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
    ) -> None:
        _check_inputs(model, pairs, held_out)
        self.config = FineTuneConfig.from_train_config(config or FineTuneConfig())
        self.plan: Plan | None = None
        """What is going to be done; None before the images have been read and a step was timed."""
        self.skipped: tuple[SkippedPair, ...] = ()
        """Images that cannot be learned from, and why."""
        self.problems: tuple[str, ...] = ()
        """What went wrong without ending it, such as a full disk, one sentence each."""
        self._model, self._pairs, self._held_out = model, tuple(pairs), tuple(held_out)
        self._items, self._state_path = tuple(items), state_path
        self._saved = _read_state(model, self.config, state_path) if resume else None
        self._clock = WorkClock(self._saved[0].seconds if self._saved else 0.0)
        self._stopping = threading.Event()
        self._training_pairs: list[TrainingPair] = []
        self._fold_of: list[int] = []
        self._descriptions: dict[str, NDArray[np.float32]] = {}
        self._expert_assignment = ExpertAssignment()
        self._builder = TrainingRunBuilder(model, self.config, self._expert_assignment, self._clock)
        self._before: tuple[ScoredPrediction, ...] = ()
        self._training_run: TrainingRun | None = None
        self._refit: TrainingRun | None = None
        self._candidate: Candidate | None = None
        self._events = self._timed()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> EpochResult:
        return next(event for event in self._events if isinstance(event, EpochResult))

    def steps(self) -> Iterator[Event]:
        """Go on event by event: `Progress` while it prepares, the `Plan`, steps and rounds, `Progress`."""
        return self._events

    def prepare(self) -> Plan:
        """Read the images, time a step, and return the plan; the training starts after that."""
        while self.plan is None:
            next(self._events)
        return self.plan

    def stop(self) -> None:
        """Ask it to end, from any thread: it measures what it has learned, keeps the best, and concludes."""
        self._stopping.set()

    def close(self) -> None:
        """Cancel and release memory; the checkpoint stays, so that the fine-tuning can be resumed."""
        self._events.close()

    def delete_checkpoint(self) -> None:
        """Remove the state on disk: the candidate was taken or is not wanted."""
        if self._state_path is not None:
            self._state_path.unlink(missing_ok=True)

    def candidate(self) -> Candidate:
        """Return the new model, old against new, and whether it is worth taking.

        If the iteration was left early, the best round so far is compared now.

        Raises
        ------
        TrainingError
            If no round was finished.
        """
        if self._candidate is None and self._training_run is not None:
            self.stop()
            for _ in self._events:
                pass
        if self._candidate is None:
            raise TrainingError("Nothing has been learned yet. Finish at least one round.")
        return self._candidate

    def _timed(self) -> Generator[Event]:
        work = self._work()
        with limited_threads(self.config.num_threads):
            try:
                while True:
                    with self._clock, _named_errors():
                        event = next(work, None)
                    if event is None:
                        return
                    yield event
            finally:
                work.close()
                self._release()

    def _work(self) -> Generator[Event]:
        yield from self._read()
        folds = make_folds(self._images, self._fold_of)
        started = self._clock.seconds
        yield from self._measure_parent([pair for fold in folds for pair in fold.held_out])
        measuring = self._clock.seconds - started
        self._assign_expert(folds)
        self._training_run = training_run = yield from self._begin(folds, measuring)
        self.plan = self._make_plan(training_run, folds)
        yield self.plan
        if self._refit is None:
            yield from training_run.train(self._stopping.is_set, self._save)
        yield from self._conclude(training_run)

    def _read(self) -> Generator[Progress]:
        given, skipped = (*self._pairs, *self._held_out), list[SkippedPair]()
        for number, found in enumerate(read_training_pairs(given, self._model.card, self._size), 1):
            if isinstance(found, SkippedPair):
                skipped.append(found)
            else:
                self._training_pairs.append(found)
                self._describe(found.pair)
            yield Progress("reading", number, len(given))
        self.skipped = tuple(skipped)
        self._assign_folds()

    def _describe(self, pair: CachedPair) -> None:
        description = self._model.describe(pair.image)
        if description is not None:
            self._descriptions[pair.stem] = description

    def _assign_folds(self) -> None:
        """Assign folds: those of the checkpoint, the given held-out images, or new ones."""
        if self._saved:
            state = self._saved[0]
            self._training_pairs, self._fold_of = _find_again(self._training_pairs, state), list(state.folds)
            return
        stems = [pair.pair.stem for pair in self._training_pairs]
        apart = {pair.stem for pair in self._held_out}
        if set(stems) <= apart:
            reason = self.skipped[0].reason if self.skipped else "none was given"
            raise TrainingError(f"There are no images to learn from: {reason}")
        if apart:
            self._fold_of = [0 if stem in apart else NOT_HELD_OUT for stem in stems]
        else:
            self._fold_of = assign_folds(stems, self._items, self.config.folds, self.config.seed)

    def _measure_parent(self, pairs: Sequence[CachedPair]) -> Generator[Progress]:
        for pair in pairs:
            self._before += (predict_pair(self._model, pair, augment=False),)
            yield Progress("measuring", len(self._before), len(pairs))

    def _assign_expert(self, folds: Sequence[Fold]) -> None:
        """Choose the expert to train."""
        names = [([p.stem for p in fold.learn], [p.stem for p in fold.held_out]) for fold in folds]
        self._expert_assignment = assign_expert(self._model, names, self._descriptions, self.config)
        self._builder = TrainingRunBuilder(self._model, self.config, self._expert_assignment, self._clock)

    def _begin(self, folds: Sequence[Fold], measuring: float) -> Generator[Progress, None, TrainingRun]:
        if not self._saved:
            return (yield from self._builder.begin(folds, measuring))
        training_run, self._refit = self._builder.resume(folds, self._images, *self._saved)
        self._saved = None
        return training_run

    @property
    def _images(self) -> list[CachedPair]:
        return [pair.pair for pair in self._training_pairs]

    def _make_plan(self, training_run: TrainingRun, folds: Sequence[Fold]) -> Plan:
        models = len(folds)
        return Plan(
            images=len({pair.stem for fold in folds for pair in fold.learn}),
            held_out=tuple(pair.stem for fold in folds for pair in fold.held_out),
            folds=models,
            steps=training_run.schedule.steps * models + training_run.schedule.refit,
            rounds=training_run.schedule.rounds,
            seconds=planned_seconds(
                self._builder.config, models, training_run.schedule, training_run.step, training_run.costs
            ),
            step_seconds=training_run.costs.step,
            batch_size=training_run.ensemble.batch_size,
            size=self._builder.size,
            new_domain_images=self._expert_assignment.recognized
            if self._expert_assignment.is_new_domain
            else None,
            device=describe_device(self._model.device),
            skipped=self.skipped,
        )

    def _conclude(self, training_run: TrainingRun) -> Generator[Event]:
        """Choose how far to go, compare old with new, learn from all images, and make the candidate."""
        if training_run.best is None:
            return
        after = {}
        for interpolation in self._builder.config.interpolations if self._before else ():
            known = training_run.best_outlined if interpolation == training_run.measured_interpolation else ()
            after[interpolation] = known or (yield from self._outline(training_run, interpolation))
        interpolation = (
            choose_interpolation(self._before, after) if after else self.config.unmeasured_interpolation
        )
        comparison = compare(self._before, after[interpolation]) if after else None
        offered, reason = judge(comparison)
        if self._expert_assignment.is_new_domain:
            reason += " It is used for images like these; results on other images do not change."
        last = (yield from self._learn_from_all(training_run)) if offered else training_run
        rounds = training_run.rounds
        if last is not training_run and self.config.expert is not None:
            rounds, interpolation = [*rounds, *last.rounds], self.config.expert.refit_interpolation
        card = self._model.card.model_copy(
            update={
                "parent": self._model.sha256,
                "training": self._record(last, rounds, interpolation),
                "scores": {"held-out": comparison.to_record()} if comparison else {},
            }
        )
        model = last.ensemble.mean(last.best_weights, interpolation, card)
        self._candidate = Candidate(model, comparison, offered, reason, interpolation, tuple(rounds))

    def _outline(
        self, training_run: TrainingRun, interpolation: float
    ) -> Generator[Progress, None, tuple[ScoredPrediction, ...]]:
        return predict_held_out(training_run.ensemble, training_run.best_weights, interpolation, "comparing")

    def _learn_from_all(self, training_run: TrainingRun) -> Generator[Event, None, TrainingRun]:
        """Train one model on all images, those held out included; return its run, or the given one.

        This is the usual refit after a cross-validation, which has shown that training on these images helps.
        """
        if self._refit is None and not self._stopping.is_set():
            self._refit = self._builder.refit(training_run, self._images)
        if (refit := self._refit) is None:
            return training_run
        yield from refit.train(self._stopping.is_set, self._save)
        return refit if refit.best is not None else training_run

    def _record(
        self, training_run: TrainingRun, rounds: Sequence[EpochResult], interpolation: float
    ) -> dict[str, object]:
        facts = {
            "expert": self._expert_assignment.expert_index,
            "interpolation": interpolation,
            "steps": training_run.steps_done,
            "seconds": round(self._clock.seconds, 1),
            "curve": [_as_record(result) for result in rounds],
        }
        hashes = [pair.sha256 for pair in self._training_pairs]
        return describe_training(self._model, self.config, hashes, facts)

    @property
    def _size(self) -> int:
        return self.config.size or self._model.card.working_size

    def _save(self) -> None:
        """Save the checkpoint; if the disk is full, training continues without it."""
        if self._state_path is None or self._training_run is None:
            return
        hashes = [pair.sha256 for pair in self._training_pairs]
        about = self.config, _identify(self._model), self._model.card.name, hashes, self._fold_of
        state, tensors = self._training_run.state(*about), self._training_run.state_tensors()
        if self._refit is not None:
            state = state.model_copy(update={"refit": self._refit.state(*about)})
            tensors |= {f"{REFIT}{name}": tensor for name, tensor in self._refit.state_tensors().items()}
        try:
            write_finetune_checkpoint(self._state_path, state, tensors)
        except OSError as error:
            problem = (
                f"The state of the training cannot be saved to {self._state_path}: {error.strerror}. "
                "Training continues, but cannot be resumed after a crash."
            )
            if problem not in self.problems:
                self.problems += (problem,)
                logger.warning(problem)

    def _release(self) -> None:
        """Release the memory of the models."""
        self._training_run, self._refit, self._saved = None, None, None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()


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
        Where the state is kept.

    Returns
    -------
    FineTuning
        An iterator of `EpochResult`, one for each point of the curve; its `~FineTuning.candidate` is the new
        model.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, the model cannot learn, or there is nothing to continue.

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
    stems = [pair.stem for pair in (*pairs, *held_out)]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise TrainingError(f"Two images have the name {twice}; rename one of them.")
    if not any(True for _ in model.network.parameters()):
        raise TrainingError(
            f"The model '{model.card.name}' cannot be fine-tuned in this format. Use its .safetensors file."
        )


def _identify(model: Model) -> str:
    """Hash a model's weights as they are in memory."""
    digest = hashlib.sha256()
    for name, tensor in model.network.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return digest.hexdigest()


def _read_state(
    model: Model, config: FineTuneConfig, path: Path | None
) -> tuple[FineTuneCheckpoint, dict[str, Tensor]]:
    if path is None:
        raise TrainingError("To resume a fine-tuning, say where its state is.")
    state, tensors = read_finetune_checkpoint(path)
    if state.parent != _identify(model):
        which = f"from “{state.model}”" if state.model != model.card.name else "from another model"
        raise TrainingError(f"The interrupted fine-tuning started {which}. Choose that one, or start again.")
    if state.config != config:
        raise TrainingError(
            "The interrupted fine-tuning has other settings. Use the same ones, or start again."
        )
    return state, tensors


def _find_again(training_pairs: Sequence[TrainingPair], state: FineTuneCheckpoint) -> list[TrainingPair]:
    """Return the images of a checkpoint in its order."""
    known = {pair.sha256: pair for pair in training_pairs}
    missing = sum(digest not in known for digest in state.images)
    if missing:
        raise TrainingError(
            f"{missing} of the {len(state.images)} images of the interrupted fine-tuning are gone or have "
            "been corrected since. Start again."
        )
    return [known[digest] for digest in state.images]


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
