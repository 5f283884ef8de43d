"""CPU threads of a training: how many, and what to do when other programs need the cores."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing import resource_tracker
from statistics import median
from types import TracebackType
from typing import Self

import torch

from napari_lesionseg.inference.device import available_cores

logger = logging.getLogger(__name__)

CONTENDED = 3.0  # two OpenMP threads on two busy cores fall to a tenth of their speed and less
WINDOW = 5
BACKGROUND_NICENESS = 10
SHORT_SECONDS = 0.0005
NO_FULL_COLLECTION = 2**30
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
NEVER = 2**31 - 1

_before: list[tuple[tuple[int, int, int], float]] = []
_changing = threading.Lock()


def background_threads() -> int:
    """Return the number of threads for work in the background: one core is left for the window."""
    return max(1, available_cores() - 1)


def lower_priority() -> None:
    """Permanently lower the priority of the calling thread and of those it starts.

    Only Linux has priorities of threads; elsewhere nothing happens. It cannot be undone: call it in a thread
    that ends with the work.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        present = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(present, BACKGROUND_NICENESS))


def reuse_memory() -> None:
    """Permanently keep freed memory in this process for the next step, where the C library is glibc.

    It returns large blocks to the system at once, and the system clears every page that it gives again, in
    each step. Call it in processes that only train.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(M_MMAP_MAX, 0)
            library.mallopt(M_TRIM_THRESHOLD, NEVER)


@contextlib.contextmanager
def blocked_interrupts() -> Iterator[None]:
    """Let processes that are started meanwhile inherit that Ctrl+C is blocked.

    A terminal sends it to them as well, also while they import PyTorch, which would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def short_holds() -> Iterator[None]:
    """Keep all threads from holding the GIL for long, so that the window can draw; may be nested."""
    # A full garbage collection holds the GIL for 0.2 s with PyTorch loaded: only young objects are collected.
    # A thread that computes in Python releases the GIL after 0.5 ms instead of 5: drawing an image takes a
    # hundred calls that each need the GIL. Both settings apply to the whole process.
    with _changing:
        young, middle, _ = threshold = gc.get_threshold()
        _before.append((threshold, sys.getswitchinterval()))
        gc.set_threshold(young, middle, NO_FULL_COLLECTION)
        sys.setswitchinterval(min(SHORT_SECONDS, sys.getswitchinterval()))
    try:
        yield
    finally:
        with _changing:
            threshold, interval = _before.pop()
            gc.set_threshold(*threshold)
            sys.setswitchinterval(interval)


class ThreadLimit:
    """Compute with ``count`` threads inside ``with`` blocks; None: as many as torch has.

    A number that is changed inside a block holds in the next one. Generators open a block for each of their
    parts, never around a `yield`: one that is left would change the number whenever it is deleted.
    PyTorch keeps the number per Python thread, so open the block in the thread that does the work.
    """

    def __init__(self, count: int | None) -> None:
        self._count, self._before = count, 1

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._count is not None:
            torch.set_num_threads(self._count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count = torch.get_num_threads()
        torch.set_num_threads(self._before)


class ContentionWatch:
    """Detects that steps take three times as long, as they do when other programs need the cores.

    Threads that wait for each other at every layer lose most of their time as soon as one of them has to wait
    for a core; one thread alone does not.
    """

    def __init__(self, usual: float) -> None:
        self._usual, self._recent = usual, deque[float](maxlen=WINDOW)

    def contended(self, seconds: float) -> bool:
        """Whether the last few steps, this one included, took three times as long as usual."""
        self._recent.append(seconds)
        self._usual = min(self._usual, seconds)
        return len(self._recent) == WINDOW and median(self._recent) > CONTENDED * self._usual

    def yield_cores(self) -> bool:
        """Continue with one thread; False if there was only one."""
        self._recent.clear()
        if torch.get_num_threads() == 1:
            return False
        logger.warning("The CPU is busy with other work: training continues with one thread.")
        torch.set_num_threads(1)
        return True


class WorkClock:
    """Sum of the time spent inside ``with`` blocks, so that pauses do not count."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Working time so far, including the current block."""
        return self._before + (time.monotonic() - self._since if self._since is not None else 0.0)

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before, self._since = self.seconds, None
