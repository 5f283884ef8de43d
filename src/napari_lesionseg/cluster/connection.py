"""Calls of a dask scheduler that end in time, each error in one sentence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from napari_lesionseg.errors import ClusterError, LesionSegError

if TYPE_CHECKING:
    from distributed import Client

POLL_SECONDS = 1.0
ANSWER_SECONDS = 30.0
"""Time in which a scheduler answers, unless it is suspended or out of reach."""
LOAD_SECONDS = 90.0
"""Time in which workers import torch from a slow disk."""
GONE = "The connection to the dask scheduler is lost."
SILENT_WORKER = "A worker of the dask cluster does not answer; try again, or restart it."


class Connection:
    """Calls through a dask client; `check` is called while one waits, and may raise."""

    def __init__(self, client: Client, check: Callable[[], None]) -> None:
        self.client, self._check = client, check

    @property
    def is_open(self) -> bool:
        """Whether the scheduler can still be reached, as far as dask knows."""
        return self.client.status == "running"

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
                if not self.is_open:
                    raise ClusterError(GONE)
                if limit is not None and time.monotonic() - begin > limit:
                    raise ClusterError(silent)
            return running.result()
        finally:
            running.cancel()

    def nthreads(self) -> dict[str, int]:
        """Return the number of threads by the address of a worker."""
        with connected(self.client):
            found: dict[str, int] = self.call(self.client.nthreads)
        return found

    def run(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Return what a function returns on each worker, or its error there, by the address."""
        with connected(self.client):
            found: dict[str, Any] = self.call(
                self.client.run,
                function,
                *arguments,
                limit=LOAD_SECONDS,
                silent=SILENT_WORKER,
                on_error="return",
            )
        return found

    def leave(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Call a method at the end, when it no longer matters whether a worker answers."""
        if self.is_open:
            # Dask does not know what was interrupted before it began.
            with suppress(OSError, ValueError, LookupError, LesionSegError):
                self.call(method, *arguments, limit=POLL_SECONDS)


@contextmanager
def connected(client: Client) -> Iterator[None]:
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
