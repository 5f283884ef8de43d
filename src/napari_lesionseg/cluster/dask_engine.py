"""Work on a dask cluster: who takes part, the model on each worker, and chunks in order."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from napari_lesionseg import __version__
from napari_lesionseg.cluster.clients import NO_WORKERS
from napari_lesionseg.cluster.connection import GONE, SILENT_WORKER, Connection, connected
from napari_lesionseg.errors import ClusterError, ModelNotFoundError, NoRoomError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.training.resources import ThreadLimit

if TYPE_CHECKING:
    from distributed import Client

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

LOOK_SECONDS = 10.0
SEND_SECONDS = 1800.0
"""Time in which a model arrives through a slow line."""
WORKERLESS_SECONDS = 60.0
"""Time in which dead workers are replaced, if something replaces them."""
CHUNKS_AHEAD = 4
"""Chunks that wait for each thread of a worker: enough to keep it busy, few enough for flat memory."""


class DaskEngine:
    """Runs chunks on the workers of a dask cluster; `check` is called while it waits, and may raise."""

    in_process = False
    description = "dask cluster"

    def __init__(self, client: Client, check: Callable[[], None]) -> None:
        self.client, self.connection = client, Connection(client, check)
        self._model = self._plugin = ""
        self._left_out: dict[str, str] = {}  # the reason by the address of a worker

    @property
    def problems(self) -> Sequence[str]:
        """A sentence for each worker that cannot take part."""
        return tuple(self._left_out.values())

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Give some workers no work; raise the first reason if none is left."""
        self._left_out |= reasons
        if reasons and not self.threads():
            raise ClusterError(next(iter(reasons.values())))

    def chunk_size(self, count: int, largest: int) -> int:
        """Return how many of `count` items to put into a chunk, so that all workers get some."""
        return max(1, min(largest, count // (CHUNKS_AHEAD * max(1, self.threads()))))

    def install_model(self, path: Path) -> None:
        """Send a model file to every worker, those that join later included."""
        from napari_lesionseg.cluster.model_plugin import ModelPlugin

        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelNotFoundError(f"The model {path} cannot be read: {error.strerror}.") from error
        # Named by its content: another model of the same name may lie on the workers.
        self._model = f"{hashlib.sha256(data).hexdigest()}{path.suffix}"
        self.close()
        plugin = ModelPlugin(self._model, data)
        self._plugin = plugin.name
        try:
            with connected(self.client):
                self.connection.call(
                    self.client.register_plugin, plugin, limit=SEND_SECONDS, silent=SILENT_WORKER
                )
        except NoRoomError as error:  # of one worker; others may have no room, either
            answers = self.run(_has_model, self._model)
            lacking = [worker for worker, has_it in answers.items() if has_it is not True]
            if not lacking:
                raise
            general = "The model cannot be copied to the worker {}."
            self.leave_out(
                {worker: str(error) if worker in str(error) else general.format(worker) for worker in lacking}
            )

    def close(self) -> None:
        """Let the scheduler remove the model, which would stay in its memory."""
        if self._plugin:
            self.connection.leave(self.client.unregister_worker_plugin, self._plugin)
        self._plugin = ""

    def sees(self, path: Path) -> bool:
        """Whether every worker reads the same bytes at this path."""
        try:
            expected = sha256_file(path)
        except OSError:  # reported where the file is read
            return True
        found = self.run(_hash_or_none, str(path))
        return bool(found) and all(sha256 == expected for sha256 in found.values())

    def run(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return what a function returns on each worker that takes part, or its error there."""
        found = self.connection.run(function, *arguments)
        return {worker: answer for worker, answer in found.items() if worker not in self._left_out}

    def threads(self) -> int:
        """Count the threads of all workers that take part."""
        found = self.connection.nthreads().items()
        return sum(count for worker, count in found if worker not in self._left_out)

    def _taking_part(self) -> list[str] | None:
        """Return the addresses of the workers to choose from; None for all, and those that join later."""
        if not self._left_out:
            return None
        return [worker for worker in self.connection.nthreads() if worker not in self._left_out]

    def result(self, future: Any) -> Any:
        """Return the result of a future, as long as there may be one; a slow line may take its time."""
        try:
            return self.connection.call(future.result, limit=None, look=Lookout(self))
        except FutureCancelled as error:
            raise ClusterError(GONE) from error
        except OSError as error:
            if self.connection.is_open:
                raise
            raise ClusterError(GONE) from error

    def start(self, function: Callable[[Chunk, Path], Result], argument: Chunk) -> Any:
        """Start one piece of work on a worker, and return its future."""
        import dask

        # A part of the graph, though large: what is scattered would be lost with the worker that holds it.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}):
            return self._submit(_start_on_worker, function, argument)

    def map(self, function: Callable[[Path, Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """Yield the result of each chunk, in order, with few chunks in flight."""
        waiting: deque[Any] = deque()
        remaining = iter(chunks)
        try:
            while True:
                ahead = CHUNKS_AHEAD * max(1, self.threads())
                for chunk in remaining:
                    waiting.append(self._submit(_run_on_worker, function, chunk))
                    if len(waiting) >= ahead:
                        break
                if not waiting:
                    return
                yield self._result(waiting.popleft())
        finally:
            if waiting:
                self.connection.leave(self.client.cancel, list(waiting))

    def _submit(self, work: Callable[..., Any], function: Callable[..., Any], argument: Any) -> Any:
        workers = self._taking_part()
        with connected(self.client):
            return self.client.submit(work, function, self._model, argument, pure=False, workers=workers)

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker

        try:
            return self.result(future)
        except KilledWorker as error:
            raise ClusterError(
                "Workers died repeatedly at the same images, perhaps because memory ran out; "
                "use fewer workers."
            ) from error


class Lookout:
    """Looks from time to time whether a scheduler and workers are there to finish the work."""

    def __init__(self, engine: DaskEngine) -> None:
        self._engine = engine
        self._looked = self._seen = time.monotonic()

    def __call__(self) -> None:
        """Raise if there are none."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self._engine.threads():
            self._seen = now
        elif now - self._seen > WORKERLESS_SECONDS:
            raise ClusterError(NO_WORKERS)


def check_workers(engine: DaskEngine) -> list[int]:
    """Leave out workers without the versions of this computer; return how many threads each other has."""
    here = _versions()
    threads, reasons = [], {}
    for worker, answer in engine.run(_versions_and_threads).items():
        if isinstance(answer, Exception):
            reasons[worker] = (
                f"The worker {worker} cannot load napari-lesionseg; install version {here[0]} there."
            )
        elif answer[0] != here:
            (package, torch), _ = answer
            reasons[worker] = (
                f"The worker {worker} has napari-lesionseg {package} and torch {torch}, this computer "
                f"{here[0]} and {here[1]}; install the same versions."
            )
        else:
            threads.append(answer[1])
    engine.leave_out(reasons)
    return threads


def _run_on_worker(function: Callable[[Path, Chunk], Result], model: str, chunk: Chunk) -> Result:
    from distributed import get_worker

    worker = get_worker()
    # A worker with several threads runs as many chunks at the same time.
    with ThreadLimit(1 if worker.state.nthreads > 1 else None):
        return function(Path(worker.local_directory) / model, chunk)


def _start_on_worker(function: Callable[[Chunk, Path], Result], model: str, argument: Chunk) -> Result:
    from distributed import get_worker

    return function(argument, Path(get_worker().local_directory) / model)


def _versions() -> tuple[str, str]:
    import torch

    return __version__, torch.__version__


def _versions_and_threads(dask_worker: Any) -> tuple[tuple[str, str], int]:
    """Return the versions of a worker, and its threads: dask's, see `_run_on_worker`, or else torch's own."""
    import torch

    own = dask_worker.state.nthreads
    return _versions(), own if own > 1 else torch.get_num_threads()


def _has_model(name: str, dask_worker: Any) -> bool:
    return (Path(dask_worker.local_directory) / name).is_file()


def _hash_or_none(path: str) -> str | None:
    try:
        return sha256_file(path)
    except OSError:
        return None
