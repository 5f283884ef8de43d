"""Dask clients: of processes that are started here, or of a cluster that runs already."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lesionseg.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10
NO_WORKERS = "The dask cluster has no workers; start some and try again."
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep dask's log off the terminal: what matters is reported in one sentence."""
    from distributed.utils import silence_logging_cmgr
    from distributed.versions import VersionMismatchWarning

    warnings.filterwarnings("ignore", category=VersionMismatchWarning)  # versions are compared by us
    with silence_logging_cmgr(logging.CRITICAL + 1):
        yield


@contextmanager
def local_cluster(workers: int, threads: int | None) -> Iterator[Client]:
    """Start processes on this computer, with so many threads each, by default its part of the cores."""
    import dask
    from distributed import Client

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
        # A terminal sends Ctrl+C to the workers as well; where signals cannot be blocked, they ignore it.
        "distributed.worker.preload": ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
        # Set before torch is loaded: it keeps the number per thread, and tasks run in threads of their own.
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREAD_VARIABLES, threads),
    }
    with (
        tempfile.TemporaryDirectory(prefix="lesionseg-", ignore_cleanup_errors=True) as folder,
        dask.config.set(settings),
        _closed_in_time(
            _start_local_cluster(
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


def _start_local_cluster(**settings: Any) -> Any:
    """Start processes that block Ctrl+C, from a thread, so that this one still takes it.

    Dask cannot close a cluster while it starts, so Ctrl+C waits until it has started.
    """
    from distributed import LocalCluster

    from napari_lesionseg.training.resources import blocked_interrupts

    def start() -> LocalCluster:
        with blocked_interrupts():
            return LocalCluster(**settings)  # type: ignore[no-untyped-call]

    pool = ThreadPool(1)
    starting = pool.apply_async(start)
    pool.close()
    try:
        return starting.get()
    except KeyboardInterrupt:
        with suppress(TimeoutError):
            starting.get().close()
        raise


@contextmanager
def _closed_in_time(part: Any) -> Iterator[Any]:
    """Close a cluster or a client at the end.

    On a busy computer, dask can time out waiting for workers that it has killed already. All work is done by
    then, so that is no error.
    """
    try:
        part.__enter__()  # waits for the workers
        yield part
    finally:
        with suppress(TimeoutError):
            part.__exit__(None, None, None)


@contextmanager
def joined_cluster(address: str) -> Iterator[Client]:
    """Join the cluster of a scheduler."""
    from distributed import Client

    _check_scheduler(address, _check_address(address))
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ClusterError(_no_answer(address)) from error
    with _closed_in_time(client):
        if not client.scheduler_info()["workers"]:
            raise ClusterError(NO_WORKERS)
        yield client


def read_scheduler_file(path: Path) -> str:
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
