"""Whether a verdict counts: only for an outline that the annotator can have seen. No napari or Qt in here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

SEEN_SECONDS = 0.4
"""Time for which an image, and its outline as it is now, must have been on the screen."""

NO_IMAGE = "Open an image of the study first."
TOO_SOON = "This image has only just appeared. Look at it, then press again."


@dataclass(frozen=True, slots=True)
class Screen:
    """What is on the screen when a verdict is given."""

    image_id: str | None = None
    hidden: str = ""  # why the outline cannot be seen; empty if it can
    unfinished: str = ""  # what the annotator must finish first, such as a polygon
    computing: bool = False  # whether the outline is about to change


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a verdict counts now, or after a wait in seconds, or why not."""

    counts: bool = False
    wait: float = 0.0
    reason: str = ""


class VerdictGuard:
    """Decides whether a verdict counts, by what is on the screen and for how long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._image_since = self._outline_since = -math.inf

    def note_opening(self) -> None:
        """Note that another image is about to appear; until it has, no verdict counts."""
        self._image_since = self._outline_since = math.inf

    def note_image(self) -> None:
        """Note that another image has appeared."""
        self._image_since = self._outline_since = self._clock()

    def note_outline(self) -> None:
        """Note that the outline has changed, or has become visible."""
        self._outline_since = max(self._clock(), self._image_since)

    def time_before(self, age: float) -> float:
        """Return the time some seconds ago."""
        return self._clock() - age

    def check(self, screen: Screen, pressed: float | None = None) -> Answer:
        """Decide about a verdict that was given at a time, or now, and that may have waited until now."""
        now = self._clock()
        too_soon = TOO_SOON if (pressed or now) - self._image_since < SEEN_SECONDS else ""
        reason = screen.hidden or too_soon or screen.unfinished
        if screen.image_id is None:
            reason = NO_IMAGE
        if reason:
            return Answer(reason=reason)
        left = self._outline_since + SEEN_SECONDS - now
        if screen.computing:
            return Answer(wait=SEEN_SECONDS)
        return Answer(wait=left) if left > 0 else Answer(counts=True)
