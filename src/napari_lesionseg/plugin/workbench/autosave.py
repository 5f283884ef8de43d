"""Saving in the background: in order, and never forgotten.

Everything that is to be saved waits in one line and is done by one thread. What cannot be saved, because the
disk is full or the folder is gone, is tried again until it works; what belongs to it waits with it, and all
else goes first, so that one outline that cannot be saved does not hold up the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_lesionseg.errors import LesionSegError

RETRY_MS = 3000
"""Pause before what could not be saved is tried again."""


@dataclass(frozen=True, slots=True)
class _Task:
    save: Callable[[], object]
    kind: Hashable
    group: Hashable


class Autosaver(QObject):
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
        # Queued, since a quick task ends before `put` returns, and would be told of in the midst of it.
        self._finished.connect(self._on_finished, Qt.ConnectionType.QueuedConnection)  # type: ignore[call-arg]

    @property
    def pending(self) -> int:
        """How many things are not on the disk yet."""
        return len(self._line)

    def put(self, save: Callable[[], object], kind: Hashable = None, group: Hashable = None) -> None:
        """Let something be saved.

        Parameters
        ----------
        save : callable
            Saves it; raises an exception when that does not work. Runs in another thread, so it must hold
            copies.
        kind : hashable, optional
            What is being saved. What waits and is of the same kind is left out, since this is newer.
        group : hashable, optional
            Things of one group are saved in the order they came, whatever fails.
        """
        begun = 1 if self._running is not None else 0
        if kind is not None:
            waiting = [task for index, task in enumerate(self._line) if index < begun or task.kind != kind]
            self._line = deque(waiting)
        self._line.append(_Task(save, kind, group))
        if not self._retry.isActive():
            self._begin()

    def flush(self) -> str:
        """Save all that waits before a window closes, and return when that is done.

        Returns
        -------
        str
            Why something could not be saved; empty when all is on the disk. It is tried again later.
        """
        self._retry.stop()
        running, self._running = self._running, None
        if running is not None and running.exception() is None:
            self._line.popleft()
        problem, stuck = "", deque[_Task]()
        for task in self._line:
            error = None
            if all(task.group != other.group for other in stuck):
                error = self._pool.submit(task.save).exception()
                if error is None:
                    continue
            problem = problem or _words(error)
            stuck.append(task)
        self._line = stuck
        if stuck:
            self._retry.start()
        return problem

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
        if error is not None:
            self._put_off()
            self._retry.start()
            self.failed.emit(_words(error))
            return
        self._line.popleft()
        self.saved.emit()
        if not self._retry.isActive():
            self._begin()

    def _put_off(self) -> None:
        """Move what failed, and what belongs to it, to the end of the line."""
        group = self._line[0].group
        others = [task for task in self._line if task.group != group]
        self._line = deque([*others, *(task for task in self._line if task.group == group)])


def _words(error: BaseException | None) -> str:
    """Put an error into words; one that nobody foresaw is named too."""
    if error is None or isinstance(error, LesionSegError):
        return str(error or "")
    return f"{type(error).__name__}: {error}"
