"""What the queue shows of an image beyond its state: computed in the background when it is first shown."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, TypeVar

from psygnal import Signal

from napari_lesionseg.plugin.tasks import Task, run_task

T = TypeVar("T")


class LazyCache(ABC, Generic[T]):
    """Makes something for each image as it is asked for, the last asked first, and keeps the latest.

    Subclasses say how: `_make` runs in a worker, `_finish` and `_instead` on the main thread.
    """

    ready = Signal(str)

    def __init__(self, title: str, kept: int, waiting: int) -> None:
        self._title, self._most_kept, self._most_waiting = title, kept, waiting
        self._kept: OrderedDict[str, tuple[Hashable, T]] = OrderedDict()
        self._waiting: OrderedDict[str, Hashable] = OrderedDict()
        self._job: Task[Any] | None = None

    def get(self, image: str, version: Hashable) -> T | None:
        """Return the value of an image; None or the old value while it is being computed."""
        kept = self._kept.get(image)
        if kept is None or kept[0] != version:
            self._waiting[image] = version
            self._waiting.move_to_end(image)
            while len(self._waiting) > self._most_waiting:
                self._waiting.popitem(last=False)
            self._begin()
        return None if kept is None else kept[1]

    def close(self) -> None:
        """Discard what is being made."""
        if self._job is not None:
            self._job.close()
        self._job = None
        self._waiting.clear()

    @abstractmethod
    def _make(self, image: str) -> Any:
        """Make plain values; called in a worker."""

    @abstractmethod
    def _finish(self, made: Any) -> T:
        """Convert them to what is kept; called on the main thread."""

    @abstractmethod
    def _instead(self) -> T:
        """Return what is kept if nothing could be made."""

    def _begin(self) -> None:
        if self._job is not None or not self._waiting:
            return
        image, version = self._waiting.popitem()
        self._job = run_task(
            self._title,
            self._make,
            image,
            done=lambda made: self._on_done(image, version, self._finish(made)),
            failed=lambda error: self._on_done(image, version, self._instead()),
        )

    def _on_done(self, image: str, version: Hashable, value: T) -> None:
        self._job = None
        self._kept[image] = (version, value)
        self._kept.move_to_end(image)
        while len(self._kept) > self._most_kept:
            self._kept.popitem(last=False)
        self.ready.emit(image)
        self._begin()
