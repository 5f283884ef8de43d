"""A stopwatch for work that is done piece by piece."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self


class WorkClock:
    """Adds up the time spent inside ``with`` blocks, so that pauses do not count.

    Parameters
    ----------
    seconds : float
        Time spent in earlier sittings.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """Time spent working so far, the present piece included."""
        return self._before + (time.monotonic() - self._since if self._since is not None else 0.0)

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before, self._since = self.seconds, None
