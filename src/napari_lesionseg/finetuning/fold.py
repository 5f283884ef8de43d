"""One fold of a cross-validation: its images, its model, and where that model is trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.metrics import ImageScores
from napari_lesionseg.finetuning.comparison import predict_pair
from napari_lesionseg.finetuning.domain_shift import ExpertAssignment
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import blend
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.mixture import card_with_experts, count_experts
from napari_lesionseg.training.dataset import Batch, BatchSource, CachedPair
from napari_lesionseg.training.learner import Learner
from napari_lesionseg.types import LabelImage

logger = logging.getLogger(__name__)

LOST = (
    "A process that was fine-tuning has ended, perhaps because memory ran out; its part was repeated and "
    "continued in this one."
)


class FoldLostError(LesionSegError):
    """The process or the worker that trained a fold's model is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Images to train on and images to score."""

    learn: tuple[CachedPair, ...]
    held_out: tuple[CachedPair, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FoldJob:
    """All that is needed to train a fold's model, besides the model it starts from."""

    index: int
    fold: Fold
    config: FineTuneConfig
    assignment: ExpertAssignment


@dataclass(frozen=True, slots=True)
class Step:
    """A training step: its number, that after the last one, side of the images, and learning rate."""

    number: int
    end: int
    size: int
    rate: float


class FoldWorker(Protocol):
    """Trains one fold's model, here or elsewhere."""

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Begin a method of the `FoldModel`; return a function that waits for its result.

        That function raises `FoldLostError` if the worker is gone.
        """
        ...


class FoldWorkers(Protocol):
    """Where the models of the folds are trained, at the same time."""

    def begin(self, model: Model, folds: int) -> bool:
        """Start workers for the folds of a model, without waiting for them; False if it is not worth it."""
        ...

    def wait(self) -> bool:
        """Wait a moment; whether all workers are ready, or gone."""
        ...

    def open(self, job: FoldJob) -> FoldWorker | None:
        """Make the model of a fold, in place of one with the same index; None: it is to be trained here."""
        ...

    def close(self) -> None:
        """End all workers at once."""
        ...


class FoldModel:
    """A fold's model: trained step by step, and scored on the images it has not seen."""

    def __init__(self, parent: Model, job: FoldJob, begin: Mapping[str, Tensor] | None = None) -> None:
        config = job.config.model_copy(update={"seed": job.config.seed * 1000 + job.index})
        self._parent, self._job = parent, job
        self._start = job.assignment.start(parent.network)
        network = blend(self._start, begin or {}, 1.0)
        frozen = network.early_modules(config.frozen_stages)
        self._learner = Learner(network, parent.card, config, parent.device, frozen=frozen)
        self._source = BatchSource(job.fold.learn, config.augment, config.batch_size, config.seed)
        self._batches: Iterator[Batch] = iter(())
        self._next = -1
        self.changing = {name for name, p in network.named_parameters() if p.requires_grad}
        """Names of the tensors that training changes."""
        if not config.freeze_norm:
            self.changing |= {name for name, b in network.named_buffers() if b.is_floating_point()}
        self._judged: Model | None = None

    def step(self, step: Step) -> tuple[float, float]:
        """Train on the batch of a step; return the loss, see `Learner.step`, and the seconds it took."""
        started = time.monotonic()
        if step.number != self._next:
            self._batches = self._source.prefetch(step.number, step.end, lambda number: step.size)
        self._next = step.number + 1
        loss = self._learner.step(next(self._batches), step.number, step.rate)
        return loss, time.monotonic() - started

    def weights(self) -> dict[str, Tensor]:
        """Copy the trained tensors to the CPU."""
        state = self._learner.averaged_network.state_dict()
        return {name: state[name].detach().to("cpu", copy=True).contiguous() for name in self.changing}

    def judge(self, interpolation: float, weights: Mapping[str, Tensor] | None) -> None:
        """Make the model to `score`: between the parent and the given weights, or the present ones."""
        stems = [pair.stem for pair in self._job.fold.learn]
        own = self.weights() if weights is None else weights
        self._judged = join_model(self._parent, self._job.assignment, own, interpolation, stems)

    def score(self, number: int) -> tuple[LabelImage, ImageScores]:
        """Outline a held-out image by the model of `judge`."""
        if self._judged is None:
            raise RuntimeError("judge() comes first")
        scored = predict_pair(self._judged, self._job.fold.held_out[number], augment=False)
        return scored.labels, scored.scores

    def state_tensors(self) -> dict[str, Tensor]:
        """Copy all state that training changes to the CPU, by name."""
        tensors = self._learner.state_tensors()
        return {name: tensor for name, tensor in tensors.items() if self._belongs(name)}

    def _belongs(self, name: str) -> bool:
        part, _, rest = name.partition(".")
        return part != "network" or rest in self.changing

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        unchanged = {f"network.{name}": t for name, t in self._start.state_dict().items()}
        self._learner.restore(unchanged | dict(tensors))


class FoldModels:
    """The models of the folds that one process trains for another one."""

    def __init__(self, parent: Model) -> None:
        self._parent = parent
        self._models: dict[int, FoldModel | LesionSegError] = {}

    def open(self, job: FoldJob) -> None:
        """Make the model of a fold; what is wrong is kept for its first method."""
        try:
            self._models[job.index] = FoldModel(self._parent, job)
        except LesionSegError as error:
            self._models[job.index] = error

    def run(self, index: int, method: str, arguments: tuple[Any, ...]) -> tuple[Any, LesionSegError | None]:
        """Return the result of a fold's method, or what is wrong."""
        model = self._models[index]
        if isinstance(model, LesionSegError):
            return None, model
        try:
            return getattr(model, method)(*arguments), None
        except LesionSegError as error:
            return None, error


def join_model(
    parent: Model,
    assignment: ExpertAssignment,
    weights: Mapping[str, Tensor],
    interpolation: float,
    stems: Iterable[str],
    card: ModelCard | None = None,
) -> Model:
    """Return a model interpolated between a parent's weights and others, trained on these images."""
    expert = blend(assignment.start(parent.network), weights, interpolation)
    network = assignment.join(parent.network, expert, stems)
    own = card_with_experts(card or parent.card, count_experts(network))
    return Model(network, own, parent.device, precision=parent.precision)


class FoldHere:
    """Trains a fold's model in this thread: a method runs when its result is waited for."""

    def __init__(self, model: FoldModel) -> None:
        self._model = model

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Return a function that runs the method."""
        return partial(getattr(self._model, method), *arguments)


class FoldMember:
    """A fold's model wherever it is trained; if it is lost there, it goes on here from its last state."""

    def __init__(self, parent: Model, job: FoldJob, workers: FoldWorkers | None, begin: Any = None) -> None:
        self._parent, self.job, self._begin = parent, job, begin
        self._worker = (workers and workers.open(job)) or self._here()
        self.is_lost = False
        self._state: Mapping[str, Tensor] | None = None
        self._steps: list[Step] = []

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Begin a method of the `FoldModel`; return a function that waits for its result."""
        return partial(self._result, self._worker.call(method, *arguments), method, arguments)

    def _result(self, wait: Callable[[], Any], method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            result = wait()
        except FoldLostError:
            self._continue_here()
            result = self._worker.call(method, *arguments)()
        if method == "step":
            self._steps.append(*arguments)
        elif method in ("state_tensors", "restore"):
            self._state, self._steps = result or arguments[0], []
        return result

    def _here(self) -> FoldWorker:
        return FoldHere(FoldModel(self._parent, self.job, self._begin))

    def _continue_here(self) -> None:
        """Repeat what was lost, with the same result: a batch depends only on the number of its step."""
        logger.warning(LOST)
        self._worker, self.is_lost = self._here(), True
        if self._state is not None:
            self._worker.call("restore", self._state)()
        for step in self._steps:
            self._worker.call("step", step)()
