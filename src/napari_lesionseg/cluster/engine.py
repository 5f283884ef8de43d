"""Where chunks of work run: in this process, on processes of this machine, or on a dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from napari_lesionseg.cluster.clients import joined_cluster, local_cluster, quiet, read_scheduler_file
from napari_lesionseg.cluster.dask_engine import DaskEngine, check_workers
from napari_lesionseg.errors import ClusterError, how_to_install

if TYPE_CHECKING:
    from distributed import Client

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")


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
        raise ClusterError(f"Several processes or machines need a package: {how_to_install('cluster')}.")
    with (
        quiet(),
        _open_client(options, threads) as client,
        closing(DaskEngine(client, check)) as engine,
    ):
        engine.description = _describe_cluster(options, check_workers(engine))
        yield engine


def _open_client(options: ClusterOptions, threads: int | None) -> AbstractContextManager[Client]:
    if options.workers:
        return local_cluster(options.workers, threads)
    return joined_cluster(options.scheduler or read_scheduler_file(options.scheduler_file or Path()))


def _describe_cluster(options: ClusterOptions, threads: Sequence[int]) -> str:
    """Describe workers and their threads as they are: a user's OMP_NUM_THREADS counts more than ours."""
    count = max(threads) if options.workers else sum(threads)
    words = f"{count} thread{'s' if count > 1 else ''}"
    if options.workers:
        return f"{len(threads)} processes, {words} each" if len(threads) > 1 else f"1 process, {words}"
    return f"dask cluster of {len(threads)} worker{'s' if len(threads) > 1 else ''}, {words}"


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
