"""The pace of the day: images done, time and actions for each, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from napari_lesionseg.plugin.widgets.forms import MessageLabel
from napari_lesionseg.study.state import ImageState, Status

if TYPE_CHECKING:
    from napari_lesionseg.plugin.editor.editor import MaskEditor
    from napari_lesionseg.plugin.workbench.session import StudySession

LONGEST = 300.0
"""Seconds; a longer time on an image is a pause, and counts as this much."""

_NOT_ACTIONS = frozenset({"prediction", "restored"})  # of the model, not of the annotator
_TIP = (
    "Medians since the study was opened. An action is a click, stroke, tool, undo or move of the slider, and "
    "the decision itself"
)


@dataclass(slots=True)
class _Visit:
    since: float
    actions: int = 0


class Pace:
    """Measures how long each image takes, and how many actions, until it is decided about."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._visits: dict[str, _Visit] = {}
        self.seconds: list[float] = []
        self.actions: list[int] = []

    def note_opened(self, image_id: str) -> None:
        """Note that an image has appeared."""
        self._visits[image_id] = _Visit(self._clock())

    def note_action(self, image_id: str, what: str) -> None:
        """Note that something was done to an outline."""
        if image_id in self._visits and what not in _NOT_ACTIONS:
            self._visits[image_id].actions += 1

    def note_verdict(self, image_id: str) -> None:
        """Note that an image was decided about."""
        visit = self._visits.pop(image_id, None)
        if visit is not None:
            self.seconds.append(min(self._clock() - visit.since, LONGEST))
            self.actions.append(visit.actions + 1)

    def describe(self, images: Iterable[ImageState], annotator: str, now: datetime) -> str:
        """Describe the pace, such as "12 done today, 8 s and 1 action per image, about 5 min left"."""
        states = list(images)
        today = sum(_is_done_today(state, annotator, now) for state in states)
        left = sum(not state.status.done and state.status is not Status.FLAGGED for state in states)
        text = f"{today} done today"
        if not self.seconds:
            return text
        seconds, actions = median(self.seconds), median(self.actions)
        unit = "action" if actions == 1 else "actions"
        text += f", {seconds:.0f} s and {actions:g} {unit} per image"
        minutes = left * seconds / 60
        return text if not left else f"{text}, about {_duration(minutes)} left"


class PaceLabel(MessageLabel):
    """Shows the pace of the annotator at work on a study."""

    def __init__(self) -> None:
        super().__init__(tip=_TIP)
        self._session: StudySession | None = None
        self._pace = Pace()

    def set_session(self, session: StudySession) -> None:
        """Follow a study from its beginning."""
        self._session, self._pace = session, Pace()
        self.update_text()

    def on_opened(self, editor: MaskEditor | None) -> None:
        """Begin to measure an image."""
        image_id = None if self._session is None else self._session.image_id
        if editor is not None and image_id is not None:
            self._pace.note_opened(image_id)
            editor.changed.connect(partial(self._pace.note_action, image_id))

    def on_verdict(self, image_id: str) -> None:
        """Count an image."""
        self._pace.note_verdict(image_id)
        self.update_text()

    def update_text(self) -> None:
        """Show the pace as it is now."""
        if self._session is not None:
            study = self._session.study
            now = datetime.now().astimezone()
            self.setText(self._pace.describe(study.state.images.values(), study.annotator, now))


def _is_done_today(state: ImageState, annotator: str, now: datetime) -> bool:
    is_own = state.status.done and state.annotator == annotator
    return is_own and state.when.astimezone(now.tzinfo).date() == now.date()


def _duration(minutes: float) -> str:
    if minutes < 1:
        return "1 min"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
