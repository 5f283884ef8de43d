"""Fine-tune on the workers of a dask cluster; what happens there is reported while it runs.

One worker runs the fine-tuning and trains the model of a fold; the models of the other folds are actors on
other workers, if there are some. If such a worker dies, the first one repeats its part.
"""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from napari_lesionseg.cluster.chunks import load_cached
from napari_lesionseg.cluster.connection import GONE
from napari_lesionseg.cluster.dask_engine import DaskEngine, Lookout
from napari_lesionseg.cluster.engine import ClusterOptions, open_engine
from napari_lesionseg.cluster.predict import install_network
from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import CancelledError, ClusterError, LesionSegError, TrainingError
from napari_lesionseg.finetuning.comparison import Candidate
from napari_lesionseg.finetuning.fold import FoldJob, FoldLostError, FoldModels, FoldWorker
from napari_lesionseg.finetuning.session import Event, FineTuning
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.resources import ThreadLimit

EVENTS_AHEAD = 8
"""Events that wait to be read. When they are not, as during a pause, the worker waits as well."""
LONGEST_PAUSE = 3600.0  # seconds after which the worker is free for others
POLL_SECONDS, READY_SECONDS = 1.0, 30.0
ACTOR_ERRORS = (OSError, RuntimeError, KeyError)
"""What dask raises for an actor whose worker is gone, at different moments."""
GO, STOP, CANCEL = "go", "stop", "cancel"
EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


@dataclass(frozen=True, slots=True, eq=False)
class FineTuneJob:
    """All that a worker needs besides the model."""

    channel: str
    pairs: tuple[CachedPair, ...]
    config: FineTuneConfig
    items: tuple[SplitItem, ...]
    sha256: str | None
    """Hash of the file that the model came from."""


class ClusterFineTuning:
    """A fine-tuning on a worker, with the interface of `FineTuning`; only `stop` is for other threads.

    The connection is made by the first step, and released by `close` or at the end. `check` is called every
    second while the worker is waited for, and may raise to end that.
    """

    problems: tuple[str, ...] = ()

    def __init__(
        self,
        options: ClusterOptions,
        model: Model,
        pairs: Sequence[CachedPair],
        config: FineTuneConfig,
        items: Sequence[SplitItem] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._options, self._model, self._check = options, model, check
        self._job = FineTuneJob(uuid.uuid4().hex, tuple(pairs), config, tuple(items), model.sha256)
        self._stopping = False
        self._candidate: Candidate | None = None
        self._events = self._work()

    def steps(self) -> Iterator[Event]:
        """Iterate over all events, as `FineTuning.steps` does."""
        return self._events

    def stop(self) -> None:
        """End soon, and keep the best model so far."""
        self._stopping = True

    def close(self) -> None:
        """Cancel what runs, and leave the cluster."""
        self._events.close()

    def candidate(self) -> Candidate:
        """Return the new model once the steps are done."""
        if self._candidate is None:
            raise TrainingError("Nothing has been learned yet. Finish at least one round.")
        return self._candidate

    def _work(self) -> Generator[Event]:
        with open_engine(self._options, check=self._check) as engine:
            if not isinstance(engine, DaskEngine):
                raise ClusterError("Choose a cluster first.")
            install_network(engine, self._model)
            if engine.problems:  # the worker that trains gives work to all others
                raise ClusterError(engine.problems[0])
            with _lost_connections():
                future = engine.start(_finetune, self._job)
                yield from self._events_of(engine, future)
                self._candidate = on_device(engine.result(future), self._model.device)

    def _events_of(self, engine: DaskEngine, future: Any) -> Iterator[Event]:
        """Yield events until the worker is done; leaving the iteration cancels it."""
        from distributed import Queue, Variable

        queue = Queue(self._job.channel, client=engine.client, maxsize=EVENTS_AHEAD)  # type: ignore[no-untyped-call]
        command = Variable(self._job.channel, client=engine.client)  # type: ignore[no-untyped-call]
        engine.connection.call(command.set, GO)
        said, ended = GO, False
        try:
            while not ended:
                if self._stopping and said == GO:
                    said = STOP
                    engine.connection.call(command.set, said)
                text = _next_text(queue, engine, future)
                ended = not text
                if text:
                    yield EVENTS.validate_json(text)
        finally:
            if not ended:
                engine.connection.leave(command.set, CANCEL)
                # So that the worker sees the command.
                engine.connection.leave(functools.partial(queue.get, batch=True))


def _next_text(queue: Any, engine: DaskEngine, future: Any) -> str:
    """Return the next event, as soon as there is one; nothing when the worker is done."""
    look = Lookout(engine)
    while True:
        try:
            text: str = engine.connection.call(queue.get, timeout=POLL_SECONDS, look=look)
            return text
        except TimeoutError:
            look()
            if future.status in ("finished", "error", "cancelled", "lost"):
                return ""


@contextlib.contextmanager
def _lost_connections() -> Iterator[None]:
    from distributed import KilledWorker

    try:
        yield
    except KilledWorker as error:
        raise ClusterError("The worker that was fine-tuning died, perhaps because memory ran out.") from error
    except OSError as error:
        raise ClusterError(GONE) from error


def _finetune(job: FineTuneJob, model_file: Path) -> Candidate:
    """Fine-tune; runs on a worker."""
    from distributed import Queue, Variable, get_worker

    queue = Queue(job.channel, maxsize=EVENTS_AHEAD)  # type: ignore[no-untyped-call]
    command = Variable(job.channel)  # type: ignore[no-untyped-call]
    loaded = load_cached(model_file, "auto")
    model = Model(loaded.network, loaded.card, loaded.device, sha256=job.sha256)
    config = job.config.model_copy(update={"num_threads": get_worker().state.nthreads})
    tuning = FineTuning(model, job.pairs, config, items=job.items, workers=FoldActors(model_file.name))
    try:
        for event in tuning.steps():
            queue.put(EVENTS.dump_json(event).decode(), timeout=LONGEST_PAUSE)  # type: ignore[no-untyped-call]
            said = command.get(timeout=LONGEST_PAUSE)  # type: ignore[no-untyped-call]
            if said == CANCEL:
                raise CancelledError("The fine-tuning was canceled.")
            if said == STOP:
                tuning.stop()
        queue.put("", timeout=LONGEST_PAUSE)  # type: ignore[no-untyped-call]
        return on_device(tuning.candidate(), torch.device("cpu"))  # the client may have no GPU to unpickle to
    finally:
        tuning.close()


def on_device(candidate: Candidate, device: torch.device) -> Candidate:
    """Return a candidate whose model computes on a device, and on no other."""
    model = candidate.model
    moved = Model(model.network.to("cpu"), model.card, device, sha256=model.sha256, precision=model.precision)
    return replace(candidate, model=moved)


class FoldActors:
    """Trains the models of the folds on several workers; used on one, which trains its part itself."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._futures: list[Any] = []
        self._deadline = 0.0

    def begin(self, model: Model, folds: int) -> bool:
        """Prepare as many other workers as are of use; False if there are none."""
        from distributed import get_client, get_worker

        client, own = get_client(), get_worker().address
        others = [address for address in client.nthreads() if address != own]  # type: ignore[no-untyped-call]
        self._deadline = time.monotonic() + READY_SECONDS
        self._futures = [
            client.submit(
                _FoldActor,
                self._model,
                model.precision,
                actor=True,
                workers=[address],
                allow_other_workers=False,
                pure=False,
            )
            for address in others[: folds - 1]
        ]
        return bool(self._futures)

    def wait(self) -> bool:
        """Wait a moment; whether all workers are ready. Those that are busy for long are left out."""
        from distributed import wait

        with contextlib.suppress(TimeoutError):
            wait(self._futures, timeout=POLL_SECONDS)  # type: ignore[no-untyped-call]
        if time.monotonic() > self._deadline:
            self._futures = [future for future in self._futures if future.done()]
        return all(future.done() for future in self._futures)

    def open(self, job: FoldJob) -> FoldWorker | None:
        """Make the model of a fold on its worker; None for the part of this one."""
        place = job.index % (len(self._futures) + 1)
        return _FoldElsewhere(self._futures[place - 1], job) if place else None

    def close(self) -> None:
        """Leave the other workers; a step that runs there comes to its end."""
        for future in self._futures:
            future.cancel()  # dask holds references of its own, so that they would stay
        self._futures = []


class _FoldActor(FoldModels):
    """The models of folds on another worker."""

    def __init__(self, model: str, precision: str) -> None:
        from distributed import get_worker

        worker = get_worker()
        loaded = load_cached(Path(worker.local_directory) / model, "auto")
        super().__init__(Model(loaded.network, loaded.card, loaded.device, precision=precision))
        self._threads = worker.state.nthreads

    def run(self, index: int, method: str, arguments: tuple[Any, ...]) -> tuple[Any, LesionSegError | None]:
        """Return the result of a fold's method, or what is wrong."""
        with ThreadLimit(self._threads):
            return super().run(index, method, arguments)


class _FoldElsewhere:
    """A fold's model on another worker."""

    def __init__(self, future: Any, job: FoldJob) -> None:
        self._future, self._index = future, job.index
        self._opening = self._begin("open", job)

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Begin a method of the `FoldModel`; return a function that waits for its result."""
        return functools.partial(self._result, self._begin("run", self._index, method, arguments))

    def _begin(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._future.result(), method)(*arguments)
        except ACTOR_ERRORS:  # `_result` reports it
            return None

    def _result(self, waiting: Any) -> Any:
        while waiting is not None and self._future.status == "finished":
            try:
                result, error = waiting.result(timeout=POLL_SECONDS)
            except TimeoutError:
                continue
            except ACTOR_ERRORS as gone:
                raise FoldLostError from gone
            if error is not None:
                raise error
            return result
        raise FoldLostError
