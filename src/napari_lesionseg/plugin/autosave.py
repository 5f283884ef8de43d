"""Saving in the background: in order, and never forgotten.

Everything that is to be saved waits in one line and is done by one thread. What cannot be saved, because the
disk is full or the folder is gone, stays at the head of the line and is tried again until it works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from qtpy.QtCore import QObject, QTimer, Signal

from napari_lesionseg.errors import LesionSegError

RETRY_MS = 3000
"""Pause before what could not be saved is tried again."""


@dataclass(frozen=True, slots=True)
class _Task:
    kind: Hashable
    save: Callable[[], object]


class Saver(QObject):
    """Saves one thing after the other, away from the interface's thread.

    Attributes
    ----------
    saved : Signal
        Something was saved; emitted on the main thread.
    failed : Signal
        Something could not be saved; emitted with a sentence that says why, at every attempt.
    """

    saved = Signal()
    failed = Signal(str)
    _finished = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._pool = ThreadPoolExecutor(1, "lesionseg-saver")
        self._line: deque[_Task] = deque()
        self._running: Future[object] | None = None
        self._retry = QTimer(self)
        self._retry.setSingleShot(True)
        self._retry.setInterval(RETRY_MS)
        self._retry.timeout.connect(self._begin)
        self._finished.connect(self._on_finished)

    @property
    def pending(self) -> int:
        """How many things are not on the disk yet."""
        return len(self._line)

    def put(self, save: Callable[[], object], kind: Hashable = None) -> None:
        """Let something be saved.

        Parameters
        ----------
        save : callable
            Saves it; raises a `LesionSegError` when that does not work. Runs in another thread, so it must
            hold copies.
        kind : hashable, optional
            What is being saved. What waits and is of the same kind is left out, since this is newer.
        """
        begun = 1 if self._running is not None else 0
        if kind is not None:
            waiting = [task for index, task in enumerate(self._line) if index < begun or task.kind != kind]
            self._line = deque(waiting)
        self._line.append(_Task(kind, save))
        self._begin()

    def flush(self) -> str:
        """Save all that waits, in this thread, before a window closes.

        Returns
        -------
        str
            Why something could not be saved; empty when all is on the disk.
        """
        self._retry.stop()
        if self._running is not None:
            error = self._running.exception()
            self._running = None
            if error is None:
                self._line.popleft()
        while self._line:
            try:
                self._line[0].save()
            except LesionSegError as error:
                return str(error)
            self._line.popleft()
        return ""

    def close(self) -> None:
        """End the thread; what still waits is not saved."""
        self._retry.stop()
        self._line.clear()
        self._running = None
        self._pool.shutdown(wait=True)

    def _begin(self) -> None:
        if self._running is None and self._line:
            self._retry.stop()
            self._running = self._pool.submit(self._line[0].save)
            self._running.add_done_callback(self._finished.emit)

    def _on_finished(self, future: Future[object]) -> None:
        if future is not self._running:
            return  # `flush` has seen to it
        self._running = None
        error = future.exception()
        if isinstance(error, LesionSegError):
            self.failed.emit(str(error))
            self._retry.start()
            return
        if error is not None:
            raise error
        self._line.popleft()
        self.saved.emit()
        self._begin()
