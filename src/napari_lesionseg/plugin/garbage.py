"""Garbage collection on the main thread only."""

from __future__ import annotations

import gc
import time

from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QTimer

INTERVAL_MS = 200
FULL_SHARE = 0.01
"""Share of the time that full collections may take: each takes 0.2 s with PyTorch and napari loaded."""


class MainThreadCollector:
    """Collects garbage from Qt's event loop, and no longer in the thread that happens to allocate the most.

    Objects of Qt and OpenGL may only be deleted on the main thread. With PySide6 the window can freeze: a
    collection in another thread disconnects slots, and waits for the GIL while it has a lock of Qt that the
    main thread, which has the GIL, waits for.
    """

    def __init__(self) -> None:
        self._timer: QTimer | None = None
        self._next_full = 0.0

    def start(self) -> None:
        """Take over from Python until the application quits; to be called on the main thread."""
        application = QCoreApplication.instance()
        if application is None or not gc.isenabled():  # started before, or switched off by the user
            return
        gc.disable()
        self._timer = QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._collect)
        self._timer.start()
        application.aboutToQuit.connect(self.stop)

    def stop(self) -> None:
        """Let Python collect by itself again."""
        if self._timer is None:
            return
        if isalive(self._timer):  # type: ignore[no-untyped-call]
            self._timer.stop()
        self._timer = None
        gc.enable()

    def _collect(self) -> None:
        """Collect the generations that Python would collect now."""
        due = [count > limit for count, limit in zip(gc.get_count(), gc.get_threshold(), strict=True)]
        if not due[0]:
            return
        if not due[1]:
            gc.collect(0)
        elif not due[2] or time.monotonic() < self._next_full:
            gc.collect(1)
        else:
            start = time.monotonic()
            gc.collect()
            self._next_full = time.monotonic() + (time.monotonic() - start) / FULL_SHARE


collector = MainThreadCollector()
