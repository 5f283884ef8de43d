"""Work in other threads whose answers come back to the main thread, or are dropped.

The function that works gets plain arrays and gives back plain values: no layer, viewer or Qt object.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from napari.qt.threading import create_worker
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QThreadPool

from napari_lesionseg.errors import DeviceError, LesionSegError

T = TypeVar("T")


@dataclass(frozen=True)
class _Outcome:
    """What a task came to: a value, or an error that the user can act on."""

    value: Any = None
    error: LesionSegError | None = None


@dataclass(frozen=True)
class _Task:
    """A function with its arguments, named as napari names it when the window is closed too early."""

    title: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self) -> _Outcome:
        try:
            return _Outcome(self.function(*self.arguments))
        except LesionSegError as error:
            return _Outcome(error=error)
        except (RuntimeError, MemoryError) as error:
            # PyTorch has no finer class. The text is taken here: a traceback would keep the arrays alive.
            return _Outcome(error=DeviceError(explain_device_failure(error)))

    def __str__(self) -> str:
        return self.title


class Job(Generic[T]):
    """A function at work in another thread.

    Parameters
    ----------
    title : str
        What is done, in the user's words: "outlining IMD002".
    function : callable
        Runs in the other thread.
    *arguments
        Its arguments.
    done : callable
        Called on the main thread with the function's answer.
    failed : callable
        Called on the main thread with a `LesionSegError`, which is to be shown, or with an exception that
        nobody foresaw, which was shown with its traceback already.
    """

    def __init__(
        self,
        title: str,
        function: Callable[..., T],
        *arguments: Any,
        done: Callable[[T], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._done = done
        self._failed = failed
        self._wanted = True
        # Without `_ignore_errors`, superqt raises errors once more within Qt's event loop.
        worker = create_worker(
            _Task(title, function, arguments),
            _start_thread=False,
            _ignore_errors=True,
        )
        # Qt holds methods weakly: functions keep the job alive until its answer is there.
        worker.returned.connect(lambda outcome: self._on_returned(outcome))
        worker.errored.connect(lambda error: self._on_errored(error))
        worker.start()

    def drop(self) -> None:
        """Let nothing come of the work: neither `done` nor `failed` is called any more."""
        self._wanted = False

    def _on_returned(self, outcome: _Outcome) -> None:
        if not self._wanted:
            return
        if outcome.error is None:
            self._done(outcome.value)
        else:
            self._failed(outcome.error)

    def _on_errored(self, error: Exception) -> None:
        if self._wanted:
            _show_once(error)
            self._failed(error)


def _show_once(error: Exception) -> None:
    """Show an error with its traceback, which napari itself does with some Qt bindings but not with PyQt6."""
    if all(getattr(record, "exception", None) is not error for record in notification_manager.records):
        notification_manager.receive_error(type(error), error, error.__traceback__)


@atexit.register
def _wait_for_workers() -> None:
    """Let threads end before Python does; Qt aborts the process if one of them reports to what has gone.

    napari waits by itself, but only where its event loop ran.
    """
    pool = QThreadPool.globalInstance()
    if pool is not None:
        pool.waitForDone()


def explain_device_failure(error: BaseException) -> str:
    """Say in one sentence why the network stopped.

    Parameters
    ----------
    error : RuntimeError or MemoryError
        As PyTorch or Python raised it.
    """
    first_line = next(iter(str(error).splitlines()), "").strip()
    if isinstance(error, MemoryError) or "out of memory" in first_line.lower():
        return "There is not enough memory for this image; choose the CPU, or open a smaller image."
    return f"The network stopped ({first_line or type(error).__name__}); choose the CPU and try again."
