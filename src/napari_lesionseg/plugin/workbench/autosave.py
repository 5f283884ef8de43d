"""Saves a study in the background: in order, again and again until it works.

Everything waits in one queue and is saved by one thread. What cannot be saved, because the disk is full or
the folder is gone, is tried again until it works. What belongs to it waits with it; all else goes first, so
that one mask that cannot be saved does not hold up the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from psygnal import Signal
from qtpy.QtCore import QObject, Qt, QTimer
from qtpy.QtCore import Signal as QtSignal

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.study.events import NO_ORIGIN, MaskOrigin
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import LabelImage, Mark

RETRY_MS = 3000
"""Pause before what could not be saved is tried again."""


@dataclass(frozen=True, slots=True)
class _Entry:
    save: Callable[[], object]
    kind: Hashable
    group: Hashable


class _Relay(QObject):
    """Carries the end of a save from the saving thread to the main thread."""

    finished = QtSignal(object)


class Autosaver:
    """Saves one thing after the other, away from the interface's thread."""

    saved = Signal()
    failed = Signal(str)

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "lesionseg-saver")
        self._waiting: deque[_Entry] = deque()
        self._running: Future[object] | None = None
        self._retry = QTimer()
        self._retry.setSingleShot(True)
        self._retry.setInterval(RETRY_MS)
        self._retry.timeout.connect(self._begin)
        self._relay = _Relay()
        # Queued, since a quick save ends before `put` returns.
        queued = Qt.ConnectionType.QueuedConnection
        self._relay.finished.connect(self._on_finished, queued)  # type: ignore[call-arg]

    @property
    def pending(self) -> int:
        """How many things are not on the disk yet."""
        return len(self._waiting)

    def put(self, save: Callable[[], object], kind: Hashable = None, group: Hashable = None) -> None:
        """Save something in the background."""
        begun = 1 if self._running is not None else 0
        if kind is not None:
            self._waiting = deque(
                entry for index, entry in enumerate(self._waiting) if index < begun or entry.kind != kind
            )
        self._waiting.append(_Entry(save, kind, group))
        if not self._retry.isActive():
            self._begin()

    def flush(self) -> str:
        """Save all that waits, here and now; return why something could not be saved, or an empty string."""
        self._retry.stop()
        running, self._running = self._running, None
        if running is not None and running.exception() is None:
            self._waiting.popleft()
        problem, stuck = "", deque[_Entry]()
        for entry in self._waiting:
            error = None
            if all(entry.group != other.group for other in stuck):
                error = self._pool.submit(entry.save).exception()
                if error is None:
                    continue
            problem = problem or _explain(error)
            stuck.append(entry)
        self._waiting = stuck
        if stuck:
            self._retry.start()
        return problem

    def close(self) -> None:
        """Stop the thread; what still waits is not saved."""
        self._retry.stop()
        self._waiting.clear()
        self._running = None
        self._pool.shutdown(wait=True)

    def _begin(self) -> None:
        if self._running is None and self._waiting:
            self._retry.stop()
            self._running = self._pool.submit(self._waiting[0].save)
            self._running.add_done_callback(self._relay.finished.emit)

    def _on_finished(self, future: Future[object]) -> None:
        if future is not self._running:
            return  # `flush` has handled it
        self._running = None
        error = future.exception()
        if error is not None:
            self._postpone()
            self._retry.start()
            self.failed.emit(_explain(error))
            return
        self._waiting.popleft()
        self.saved.emit()
        if not self._retry.isActive():
            self._begin()

    def _postpone(self) -> None:
        """Move what failed, and what belongs to it, to the end of the queue."""
        group = self._waiting[0].group
        others = [entry for entry in self._waiting if entry.group != group]
        self._waiting = deque([*others, *(entry for entry in self._waiting if entry.group == group)])


def _explain(error: BaseException | None) -> str:
    """Return the text of an error, with its type where it was not expected."""
    if error is None or isinstance(error, LesionSegError):
        return str(error or "")
    return f"{type(error).__name__}: {error}"


Quality: TypeAlias = Callable[[], float]
"""Estimates the quality of an outline; called in another thread."""

Work: TypeAlias = LabelImage | tuple[Mark, ...]
"""What is saved of an image: its mask (H, W), or its landmarks."""

_NO_MASK: LabelImage = np.zeros((0, 0), np.uint8)

MaskKind: TypeAlias = Literal["prediction", "correction", "approval"]


@dataclass(frozen=True, slots=True, eq=False)
class UnsavedMask:
    """A mask that is newer than what is on the disk."""

    mask: LabelImage  # (H, W)
    origin: MaskOrigin
    by_annotator: bool  # False for a prediction, but for one of the outline of the last visit
    marks: tuple[Mark, ...] = ()  # in a study of landmarks, which has no masks


class SaveQueue:
    """Saves a study's masks and decisions in the background, and knows what is not saved yet."""

    saved = Signal()
    failed = Signal(str)
    all_saved = Signal(bool)

    def __init__(self, study: Study) -> None:
        self._study = study
        self._masks: dict[str, UnsavedMask] = {}
        self._decided: set[str] = set()
        self.problem = ""
        self.dirty = False
        self._autosaver = Autosaver()
        self._autosaver.saved.connect(self._on_saved)
        self._autosaver.failed.connect(self._on_failed)

    @property
    def pending(self) -> int:
        """How many things wait to be saved."""
        return self._autosaver.pending

    @property
    def unsaved(self) -> int:
        """How many changes are not on the disk yet, those on the screen included."""
        return self.pending + int(self.dirty)

    @property
    def decided(self) -> frozenset[str]:
        """Images whose decision is not on the disk yet."""
        return frozenset(self._decided)

    def unsaved_mask(self, image_id: str) -> UnsavedMask | None:
        """Return the mask of an image as long as the disk may have an older one."""
        return self._masks.get(image_id)

    def save_mask(
        self,
        kind: MaskKind,
        image_id: str,
        content: Work,
        origin: MaskOrigin,
        quality: Quality | None = None,
    ) -> None:
        """Save a mask, or landmarks; its quality, if not known yet, is estimated in the background."""
        by_annotator = kind != "prediction" or origin.carried is not None
        mask, marks = (content, ()) if isinstance(content, np.ndarray) else (_NO_MASK, content)
        self._masks[image_id] = UnsavedMask(mask, origin, by_annotator, marks)
        save: Callable[[str, Work, MaskOrigin], object]
        if kind == "approval":
            save = self._study.approve
            self._decided.add(image_id)
        elif kind == "correction":
            save = self._study.save_correction
            self._decided.discard(image_id)
        else:
            save = self._study.record_prediction
        # A newer mask replaces one that waits, but every approval is kept.
        replaces = None if kind == "approval" else (kind, image_id)
        self.put(partial(_save_mask, save, image_id, content, origin, quality), image_id, replaces)

    def save_no_lesion(self, image_id: str, shape: tuple[int, int]) -> None:
        """Save that the image shows no lesion."""
        self._masks[image_id] = UnsavedMask(np.zeros(shape, np.uint8), NO_ORIGIN, by_annotator=True)
        self.put(partial(self._study.no_lesion, image_id), image_id, decides=True)

    def save_flag(self, image_id: str, note: str) -> None:
        """Save that the image is set aside."""
        self.put(partial(self._study.flag, image_id, note), image_id, decides=True)

    def save_reopen(self, image_id: str) -> None:
        """Save that the decision about an image is withdrawn."""
        self._decided.discard(image_id)
        self.put(partial(self._study.reopen, image_id), image_id)

    def save_place(self, image_id: str, view: Mapping[str, Any]) -> None:
        """Save where the annotator is."""
        self._autosaver.put(partial(self._study.save_session, image_id, view), "place", "place")

    def put(
        self,
        save: Callable[[], object],
        image_id: str,
        replaces: Hashable = None,
        *,
        decides: bool = False,
    ) -> None:
        """Save something about an image, after all that waits of it, in place of what it `replaces`.

        If it `decides` about the image, that is not offered again in the meantime.
        """
        if decides:
            self._decided.add(image_id)
        self._autosaver.put(save, replaces, image_id)
        self.all_saved.emit(False)

    def flush(self) -> str:
        """Save all that waits; return why something could not be saved, or an empty string."""
        self.problem = self._autosaver.flush()
        if not self.problem:
            self._on_saved()
        return self.problem

    def close(self) -> None:
        """Stop saving; what still waits is lost."""
        self._autosaver.close()
        self._masks.clear()

    def _on_saved(self) -> None:
        if not self.pending:
            self._masks.clear()
            self._decided.clear()
            self.problem = ""
            self.all_saved.emit(not self.dirty)
        self.saved.emit()

    def _on_failed(self, problem: str) -> None:
        self.problem = problem
        self.all_saved.emit(False)
        self.failed.emit(problem)


def _save_mask(
    save: Callable[[str, Work, MaskOrigin], object],
    image_id: str,
    content: Work,
    origin: MaskOrigin,
    quality: Quality | None,
) -> None:
    """Save a mask with its quality; runs in another thread."""
    save(image_id, content, origin if quality is None else replace(origin, quality=quality()))
