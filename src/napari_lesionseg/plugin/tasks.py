"""Work in other threads; its results arrive on the main thread."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from napari.qt.threading import create_worker
from napari.utils.notifications import notification_manager
from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Qt, QThreadPool, QTimer
from qtpy.QtCore import Signal as QtSignal

from napari_lesionseg.errors import CancelledError, DeviceError, LesionSegError
from napari_lesionseg.plugin import garbage

T = TypeVar("T")


class Task(Generic[T]):
    """A function that runs once in another thread.

    It takes and returns plain values and arrays: no layer, viewer or Qt object. All signals are emitted on
    the main thread. Bound methods are connected weakly, so an owner that is gone is not called.

    For a plain function, call `run_task`. For work that reports its progress or can be canceled, make a
    subclass that passes a method of its own, and call `report` in it::

        class ExportTask(Task[ExportReport]):
            def __init__(self, study: Study, folder: Path) -> None:
                super().__init__("exporting the dataset", self._export, study, folder)

            def _export(self, study: Study, folder: Path) -> ExportReport:
                for step in ...:
                    self.report(step)  # emits `progressed`; raises CancelledError after `cancel`

        self._task = ExportTask(study, folder)
        self._task.progressed.connect(self._on_step)
        self._task.finished.connect(self._on_finished)
        self._task.failed.connect(self._on_failed)
        self._task.start()
    """

    progressed = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    cancelled_message = "Canceled."

    def __init__(self, title: str, function: Callable[..., T], *arguments: Any) -> None:
        self._cancelled = threading.Event()
        self._relay = _Relay()
        # Queued, since `report` is called in the other thread.
        queued = Qt.ConnectionType.QueuedConnection
        self._relay.sent.connect(lambda value: self._on_progress(value), queued)  # type: ignore[call-arg]
        # Without `_ignore_errors`, superqt raises errors once more within Qt's event loop.
        self._worker = create_worker(
            _Call(title, function, arguments), _start_thread=False, _ignore_errors=True
        )
        # Qt holds methods weakly: functions keep the task alive until its result is there.
        self._worker.returned.connect(lambda outcome: self._on_returned(outcome))
        self._worker.errored.connect(lambda error: self._on_errored(error))

    def start(self) -> None:
        """Begin; to be called once, after the signals were connected."""
        garbage.collector.start()
        self._worker.start()

    def cancel(self) -> None:
        """Stop at the next `report`; `failed` is emitted then."""
        self._cancelled.set()

    def close(self) -> None:
        """Cancel, and emit nothing more."""
        self.cancel()
        for signal in (self.progressed, self.finished, self.failed):
            signal.disconnect()

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def report(self, progress: object) -> None:
        """Emit `progressed`; to be called by the function that runs, which stops here after `cancel`."""
        self.check_cancelled()
        self._relay.sent.emit(progress)

    def check_cancelled(self) -> None:
        """Raise a `CancelledError` after `cancel`; to be called by the function that runs."""
        if self.is_cancelled:
            raise CancelledError(self.cancelled_message)

    def _on_progress(self, progress: object) -> None:
        if not self.is_cancelled:
            self.progressed.emit(progress)

    def _on_returned(self, outcome: _Outcome) -> None:
        if outcome.error is None:
            self.finished.emit(outcome.value)
        else:
            self.failed.emit(outcome.error)

    def _on_errored(self, error: Exception) -> None:
        if len(self.failed):  # else it was closed
            _show_once(error)
            self.failed.emit(error)


def run_task(
    title: str,
    function: Callable[..., T],
    *arguments: Any,
    done: Callable[[T], object],
    failed: Callable[[Exception], object],
) -> Task[T]:
    """Start a function in another thread; `done` or `failed` is called on the main thread."""
    task = Task(title, function, *arguments)
    task.finished.connect(done)
    task.failed.connect(failed)
    task.start()
    return task


def call_soon(owner: QObject, function: Callable[[], object]) -> None:
    """Call a function from Qt's event loop, unless its owner is deleted, unlike `QTimer.singleShot`."""
    timer = QTimer(owner)
    timer.setSingleShot(True)
    timer.timeout.connect(function)
    timer.timeout.connect(timer.deleteLater)
    timer.start(0)


class Delay:
    """Calls a function once nothing has restarted the delay for some time; the last call counts."""

    def __init__(self, milliseconds: int, function: Callable[[], object]) -> None:
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(milliseconds)
        self._timer.timeout.connect(function)

    @property
    def is_running(self) -> bool:
        """Whether the function is going to be called."""
        return bool(self._timer.isActive())

    def start(self) -> None:
        """Start or restart."""
        self._timer.start()

    def cancel(self) -> None:
        """Do not call the function."""
        # As the program ends, Qt may have deleted the timer already.
        if isalive(self._timer):  # type: ignore[no-untyped-call]
            self._timer.stop()


class _Relay(QObject):
    """Carries progress from the working thread to the main thread, which psygnal alone does not."""

    sent = QtSignal(object)


@dataclass(frozen=True)
class _Outcome:
    """A value, or an error that the user can act on."""

    value: Any = None
    error: LesionSegError | None = None


@dataclass(frozen=True)
class _Call:
    """A function with its arguments; napari shows the title when the window is closed too early."""

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


def _show_once(error: Exception) -> None:
    """Show an error with its traceback, which napari itself does with some Qt bindings but not with PyQt6."""
    if all(getattr(record, "exception", None) is not error for record in notification_manager.records):
        notification_manager.receive_error(type(error), error, error.__traceback__)


@atexit.register
def _wait_for_workers() -> None:
    """Wait for running threads; Qt aborts the process if one reports to an object that is gone."""
    # napari waits by itself, but only where its event loop ran.
    pool = QThreadPool.globalInstance()
    if pool is not None:
        pool.waitForDone()


def explain_device_failure(error: BaseException) -> str:
    """Explain in one sentence why the network stopped."""
    first_line = next(iter(str(error).splitlines()), "").strip()
    if isinstance(error, MemoryError) or "out of memory" in first_line.lower():
        return "There is not enough memory for this image. Choose the CPU, or open a smaller image."
    return f"The network stopped ({first_line or type(error).__name__}). Choose the CPU and try again."
