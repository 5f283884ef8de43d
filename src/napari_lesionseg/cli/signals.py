"""Stopping cleanly: Ctrl+C, SIGTERM, a closed terminal, and standard output that cannot be written."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

from napari_lesionseg.errors import LesionSegError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
CLEANUP_SECONDS = 10.0
AGAIN_SECONDS = 0.05
_MAIN = (str(Path(__file__).with_name("main.py")), "main")


@contextlib.contextmanager
def stop_on_signals(*, until_exit: bool) -> Iterator[Stop]:
    """Convert Ctrl+C, SIGTERM and SIGHUP to one `KeyboardInterrupt`, so that temporary files are removed.

    With `until_exit`, the signals are ignored afterwards: one that comes while Python shuts down would print
    a traceback. Under nohup, SIGHUP stays ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS if not _is_ignored(number)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if until_exit else handler)


def _is_ignored(number: int) -> bool:
    """Whether whoever started the process asked it to outlive its terminal."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


class Stop:
    """A signal handler that raises, but does not interrupt the cleanup that follows.

    The exception can get lost: Python drops one that is raised while it collects garbage, and so do some
    libraries. Then another Ctrl+C raises again, since nothing handles the first.

    While a module is imported it waits: NumPy and others take an exception there for a part that is missing,
    and go on without it.
    """

    def __init__(self) -> None:
        self._raised_at = -CLEANUP_SECONDS
        self.has_ended = False
        """Whether the command is over, so that only what it leaves behind is cleaned up."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise `KeyboardInterrupt`, unless one is being handled."""
        if _is_importing(frame):
            again = threading.Timer(AGAIN_SECONDS, _send, [number])
            again.daemon = True
            again.start()
            return
        is_lost = not (self.has_ended or _is_stopping())
        if is_lost or time.monotonic() - self._raised_at >= CLEANUP_SECONDS:
            self._raised_at = time.monotonic()
            raise KeyboardInterrupt(number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported, since the command began."""
    while frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) != _MAIN:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _is_stopping() -> bool:
    """Whether a `KeyboardInterrupt`, or what was raised because of it, is being handled."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _send(number: int) -> None:
    """Send a signal to the main thread."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


@contextlib.contextmanager
def default_signals() -> Iterator[None]:
    """Leave the signals to the viewer, whose event loop handles them itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS if not _is_ignored(number)}
    for number in before:
        own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, own)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def discard(stream: TextIO) -> None:
    """Send a stream that cannot be written nowhere: at exit Python would try again, and exit with 120."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def output_error(error: OSError) -> LesionSegError:
    """Convert a failure of standard output, and send the rest of it nowhere."""
    discard(sys.stdout)
    return LesionSegError(f"The output cannot be written: {error.strerror}.")
