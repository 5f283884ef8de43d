"""Where chunks of work run: in this process, on processes of this machine, or on a dask cluster."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from napari_lesionseg import __version__
from napari_lesionseg.errors import ClusterError, LesionSegError, ModelNotFoundError, NoRoomError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.training.resources import limited_threads

if TYPE_CHECKING:
    from distributed import Client

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")

CONNECT_SECONDS = 10
POLL_SECONDS, LOOK_SECONDS = 1.0, 10.0
ANSWER_SECONDS = 30.0
"""Time in which a scheduler answers, unless it is suspended or out of reach."""
LOAD_SECONDS, SEND_SECONDS = 90.0, 1800.0
"""Time in which workers import torch from a slow disk, and in which a model arrives through a slow line."""
WORKERLESS_SECONDS = 60.0
"""Time in which dead workers are replaced, if something replaces them."""
GONE = "The connection to the dask scheduler is lost."
NO_WORKERS = "The dask cluster has no workers; start some and try again."
SILENT_WORKER = "A worker of the dask cluster does not answer; try again, or restart it."
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CHUNKS_AHEAD = 4
"""Chunks that wait for each thread of a worker: enough to keep it busy, few enough for flat memory."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where to run: `workers` processes here, or the cluster at an address or in a scheduler file."""

    workers: int = 0
    scheduler: str | None = None
    scheduler_file: Path | None = None

    @property
    def in_process(self) -> bool:
        """Whether everything runs in this process."""
        return not self.workers and self.scheduler is None and self.scheduler_file is None


IN_PROCESS = ClusterOptions()


class Engine(Protocol):
    """Runs a function on chunks and yields the results in the order of the chunks."""

    description: str
    in_process: bool

    @property
    def problems(self) -> Sequence[str]:
        """A sentence for each worker that cannot take part."""
        ...

    def chunk_size(self, count: int, largest: int) -> int:
        """Return how many of `count` items to put into a chunk, so that everybody gets some."""
        ...

    def install_model(self, path: Path) -> None:
        """Make a model file available wherever chunks run."""
        ...

    def sees(self, path: Path) -> bool:
        """Whether every worker reads the same bytes at this path."""
        ...

    def map(self, function: Callable[[Path, Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """Yield ``function(model file, chunk)`` of each chunk, in order."""
        ...


class InProcess:
    """Runs chunk after chunk in this process."""

    description = "this process"
    in_process = True
    problems: Sequence[str] = ()

    def __init__(self) -> None:
        self.model = Path()

    def chunk_size(self, count: int, largest: int) -> int:
        """Return all: here, the results of a chunk come one by one."""
        del largest
        return max(1, count)

    def install_model(self, path: Path) -> None:
        """Remember where the model is."""
        self.model = path

    def sees(self, path: Path) -> bool:
        """Return true: a file that is gone is reported where it is read."""
        del path
        return True

    def map(self, function: Callable[[Path, Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """Yield the result of each chunk, in order."""
        return (function(self.model, chunk) for chunk in chunks)


class DaskEngine:
    """Runs chunks on the workers of a dask cluster; `check` is called while it waits, and may raise."""

    in_process = False
    description = "dask cluster"

    def __init__(self, client: Client, check: Callable[[], None]) -> None:
        self.client, self._check = client, check
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
            with _connected(self.client):
                self.call(self.client.register_plugin, plugin, limit=SEND_SECONDS, silent=SILENT_WORKER)
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
            self.leave(self.client.unregister_worker_plugin, self._plugin)
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
        with _connected(self.client):
            found: dict[str, Any] = self.call(
                self.client.run,
                function,
                *arguments,
                limit=LOAD_SECONDS,
                silent=SILENT_WORKER,
                on_error="return",
            )
        return {worker: answer for worker, answer in found.items() if worker not in self._left_out}

    def threads(self) -> int:
        """Count the threads of all workers that take part."""
        return sum(self._nthreads().values())

    def _nthreads(self) -> dict[str, int]:
        with _connected(self.client):
            found: dict[str, int] = self.call(self.client.nthreads)
        return {worker: count for worker, count in found.items() if worker not in self._left_out}

    def _taking_part(self) -> list[str] | None:
        """Return the addresses of the workers to choose from; None for all, and those that join later."""
        return list(self._nthreads()) if self._left_out else None

    def call(
        self,
        method: Callable[..., Awaitable[Any]],
        *arguments: Any,
        limit: float | None = ANSWER_SECONDS,
        silent: str = GONE,
        look: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> Any:
        """Call a method of dask's client, which itself would wait without end for what is suspended.

        `look` is called every second, as `check` is; after `limit` seconds, an error says what is `silent`.
        """

        async def in_own_thread() -> Any:  # there, the methods return what is to be awaited
            return await method(*arguments, **settings)

        loop: Any = self.client.loop
        running = asyncio.run_coroutine_threadsafe(in_own_thread(), loop.asyncio_loop)
        begin = time.monotonic()
        try:
            while not wait([running], POLL_SECONDS).done:
                self._check()
                look()
                if self.client.status != "running":
                    raise ClusterError(GONE)
                if limit is not None and time.monotonic() - begin > limit:
                    raise ClusterError(silent)
            return running.result()
        finally:
            running.cancel()

    def result(self, future: Any) -> Any:
        """Return the result of a future, as long as there may be one; a slow line may take its time."""
        try:
            return self.call(future.result, limit=None, look=Lookout(self))
        except FutureCancelled as error:
            raise ClusterError(GONE) from error
        except OSError as error:
            if self.client.status == "running":
                raise
            raise ClusterError(GONE) from error

    def start(self, function: Callable[[Chunk, Path], Result], argument: Chunk) -> Any:
        """Start one piece of work on a worker, and return its future."""
        import dask

        # A part of the graph, though large: what is scattered would be lost with the worker that holds it.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}):
            return self.client.submit(
                _start_on_worker, function, self._model, argument, pure=False, workers=self._taking_part()
            )

    def map(self, function: Callable[[Path, Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
        """Yield the result of each chunk, in order, with few chunks in flight."""
        waiting: deque[Any] = deque()
        remaining = iter(chunks)
        try:
            while True:
                ahead = CHUNKS_AHEAD * max(1, self.threads())
                for chunk in remaining:
                    waiting.append(self._submit(function, chunk))
                    if len(waiting) >= ahead:
                        break
                if not waiting:
                    return
                yield self._result(waiting.popleft())
        finally:
            if waiting:
                self.leave(self.client.cancel, list(waiting))

    def _submit(self, function: Callable[[Path, Chunk], Result], chunk: Chunk) -> Any:
        workers = self._taking_part()
        with _connected(self.client):
            return self.client.submit(
                _run_on_worker, function, self._model, chunk, pure=False, workers=workers
            )

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker

        try:
            return self.result(future)
        except KilledWorker as error:
            raise ClusterError(
                "Workers died repeatedly at the same images, perhaps because memory ran out; "
                "use fewer workers."
            ) from error

    def leave(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Call a method at the end, when it no longer matters whether a worker answers."""
        if self.client.status == "running":
            with suppress(OSError, LesionSegError):
                self.call(method, *arguments, limit=POLL_SECONDS)


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


@contextmanager
def _connected(client: Client) -> Iterator[None]:
    """Report a lost connection in one sentence."""
    from distributed.client import ClosedClientError

    try:
        yield
    except (OSError, TimeoutError, ClosedClientError) as error:
        raise ClusterError(GONE) from error
    except AttributeError as error:  # a client that has closed itself has no scheduler
        if client.status == "running":
            raise
        raise ClusterError(GONE) from error


@contextmanager
def open_engine(
    options: ClusterOptions, threads: int | None = None, check: Callable[[], None] = lambda: None
) -> Iterator[Engine]:
    """Start or join the cluster of the options, and leave it at the end.

    Each process started here gets `threads` threads, by default its part of the processor's cores. `check`
    is called every second while a cluster is waited for, and may raise to end that.
    """
    if options.in_process:
        yield InProcess()
        return
    if find_spec("distributed") is None:
        raise ClusterError("Install napari-lesionseg[cluster] to work on several processes or machines.")
    with (
        _quiet(),
        _local_cluster(options.workers, threads) if options.workers else _joined(options) as client,
        closing(DaskEngine(client, check)) as engine,
    ):
        engine.description = _describe_cluster(options, _check_workers(engine))
        yield engine


def _describe_cluster(options: ClusterOptions, threads: Sequence[int]) -> str:
    """Describe workers and their threads as they are: a user's OMP_NUM_THREADS counts more than ours."""
    count = max(threads) if options.workers else sum(threads)
    words = f"{count} thread{'s' if count > 1 else ''}"
    if options.workers:
        return f"{len(threads)} processes, {words} each" if len(threads) > 1 else f"1 process, {words}"
    return f"dask cluster of {len(threads)} worker{'s' if len(threads) > 1 else ''}, {words}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dask's log off the terminal: what matters is reported in one sentence."""
    from distributed.utils import silence_logging_cmgr
    from distributed.versions import VersionMismatchWarning

    warnings.filterwarnings("ignore", category=VersionMismatchWarning)  # see `_check_workers`
    with silence_logging_cmgr(logging.CRITICAL + 1):
        yield


@contextmanager
def _local_cluster(workers: int, threads: int | None) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    settings = {
        "distributed.worker.daemon": True,
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
        "distributed.admin.log-length": 0,
        # Otherwise dask measures itself up to a hundred times a second, and nobody looks at that.
        "distributed.admin.tick.interval": "1s",
        "distributed.admin.system-monitor.interval": "5s",
        "distributed.client.scheduler-info-interval": "10s",
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.worker.memory.monitor-interval": "500ms",
        "distributed.worker.profile.enabled": False,
        # A terminal sends Ctrl+C to the workers as well; the client ends them.
        "distributed.worker.preload": ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
        # Set before torch is loaded: it keeps the number per thread, and tasks run in threads of their own.
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREAD_VARIABLES, threads),
    }
    with (
        tempfile.TemporaryDirectory(prefix="lesionseg-", ignore_cleanup_errors=True) as folder,
        dask.config.set(settings),
        _closed_in_time(
            LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                local_directory=folder,
                silence_logs=50,
            )
        ) as cluster,
        _closed_in_time(Client(cluster)) as client,  # type: ignore[no-untyped-call]
    ):
        yield client


@contextmanager
def _closed_in_time(part: Any) -> Iterator[Any]:
    """Close a cluster or a client at the end.

    On a busy computer, dask can time out waiting for workers that it has killed already. All work is done by
    then, so that is no error.
    """
    part.__enter__()  # waits for the workers
    try:
        yield part
    finally:
        with suppress(TimeoutError):
            part.__exit__(None, None, None)


@contextmanager
def _joined(options: ClusterOptions) -> Iterator[Client]:
    from distributed import Client

    address = options.scheduler or _read_scheduler_file(options.scheduler_file or Path())
    _check_scheduler(address, _check_address(address))
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ClusterError(_no_answer(address)) from error
    with _closed_in_time(client):
        if not client.scheduler_info()["workers"]:
            raise ClusterError(NO_WORKERS)
        yield client


def _read_scheduler_file(path: Path) -> str:
    """Return the address in a scheduler file; dask itself would wait for a missing one without end."""
    try:
        address = json.loads(path.read_text(encoding="utf-8"))["address"]
    except OSError as error:
        raise ClusterError(
            f"The scheduler file {path} cannot be read: {error.strerror}; check that the scheduler runs."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{path} is no file that dask scheduler --scheduler-file wrote.") from error
    return str(address)


def _check_scheduler(address: str, connection: dict[str, Any]) -> None:
    """Raise unless a scheduler answers: dask itself would wait without end for what accepts and is silent."""
    try:
        answer = asyncio.run(asyncio.wait_for(_identify(address, connection), CONNECT_SECONDS))
        kind = answer["type"]
    # What is no dask at all, such as a web server, is read as sizes and keys that make no sense.
    except (OSError, ValueError, MemoryError, TypeError, LookupError, AttributeError) as error:
        raise ClusterError(_no_answer(address)) from error
    if kind != "Scheduler":
        raise ClusterError(f"{address} is the address of a dask {kind}; use that of the scheduler.")


async def _identify(address: str, connection: dict[str, Any]) -> Any:
    from distributed.comm.core import connect
    from distributed.core import send_recv

    comm = await connect(address, **connection)  # type: ignore[no-untyped-call]
    try:
        return await send_recv(comm, op="identity")
    finally:
        comm.abort()


def _no_answer(address: str) -> str:
    return f"No dask scheduler answers at {address}; check the address and that it runs."


def _check_address(address: str) -> dict[str, Any]:
    """Return what a connection to the address needs, such as certificates; raise unless it can be made."""
    from distributed import Security
    from distributed.comm.addressing import get_address_host_port, parse_address

    try:
        get_address_host_port(address)
        scheme, _ = parse_address(address)
        encrypted = scheme in ("tls", "wss")
        security = Security()  # type: ignore[no-untyped-call]
        found: dict[str, Any] = security.get_connection_args("client")  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ClusterError(f"TLS cannot be used as dask's configuration sets it up: {error}.") from error
    except ValueError as error:
        raise ClusterError(
            f"{address} is no address of a dask scheduler, such as tcp://server:8786."
        ) from error
    if encrypted and found.get("ssl_context") is None:
        raise ClusterError(
            "TLS is not set up: set distributed.comm.tls in dask's configuration to your certificates."
        )
    return found


def _check_workers(engine: DaskEngine) -> list[int]:
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
    with limited_threads(1 if worker.state.nthreads > 1 else None):
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


def find_unseen(engine: Engine, paths: Iterable[Path]) -> Path | None:
    """Return the first file that not all workers see, because of which the bytes of all files are sent."""
    return next((path for path in paths if not engine.sees(path)), None)


def describe_plan(engine: Engine, unseen: Path | None) -> str:
    """Describe where the work runs, and how the files get there; empty for this process."""
    if engine.in_process:
        return ""
    how = "they read the files themselves"
    if unseen is not None:
        how = f"the files are sent to them, because they do not see {unseen}"
    return f"Running on {engine.description}; {how}."


def cut(items: Sequence[Chunk], size: int) -> list[Sequence[Chunk]]:
    """Cut a sequence into chunks of at most `size` items."""
    return [items[start : start + size] for start in range(0, len(items), size)]
