"""The state of a study, computed by applying the events of its log.

The result does not depend on the order in which the files of the log are read: events are put in the order of
their time, ties in the order of writer and number. A writer never stamps an event earlier than what it has
seen of the same image, so that an event always comes after those it reacts to, whatever the clocks say.

What an event does to an image's status:

============  =======================================================================================
predicted     "unreviewed" becomes "predicted"; any other status stays
corrected     "corrected"; a flagged or returned image stays so until there is a verdict, and so does any
              other image that a reviewer changes
approved      "approved"; the note goes
no lesion     "no lesion"; the note goes
returned      "returned", with the note; the verdict of the annotator it goes to is withdrawn
flagged       "flagged", with the note
reopened      back to "corrected", "predicted" or "unreviewed", whichever mask there is; the note goes. After
              a review, the verdict that it was about counts again
============  =======================================================================================

Of a gold standard, only the work of its expert counts; of that of others, only the verdicts are kept.
Prediction, correction and approved mask are kept apart, and none takes another's place. All other events
leave the status alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

from napari_lesionseg.io.pairing import natural_key
from napari_lesionseg.study.events import (
    Added,
    AnyEvent,
    Approved,
    Corrected,
    Described,
    Flagged,
    GoldStandard,
    GoldWithdrawn,
    Identified,
    ImageEvent,
    MaskEvent,
    NoLesion,
    Predicted,
    Reopened,
    Returned,
    Session,
)

Verdict: TypeAlias = Approved | NoLesion
"""What an annotator decides: a mask is approved, or there is no lesion."""

_SILENT = (Added, Identified, Described, GoldStandard, GoldWithdrawn)
"""Events that say nothing about who changed the mask, and when."""


class Status(StrEnum):
    """How far an image is."""

    UNREVIEWED = "unreviewed"
    PREDICTED = "predicted"
    CORRECTED = "corrected"
    APPROVED = "approved"
    NO_LESION = "no lesion"
    FLAGGED = "flagged"
    RETURNED = "returned"

    @property
    def done(self) -> bool:
        """Whether there is a verdict."""
        return self in (Status.APPROVED, Status.NO_LESION)

    @property
    def words(self) -> str:
        """The status as the annotator reads it."""
        return "outlined" if self is Status.PREDICTED else self.value


@dataclass(frozen=True, slots=True)
class ImageState:
    """The state of one image."""

    added: Added
    when: datetime  # of the latest event that shows
    status: Status = Status.UNREVIEWED
    predicted: Predicted | None = None
    corrected: Corrected | None = None
    approved: Approved | None = None  # stays when the image is reopened
    current: MaskEvent | None = None  # to be shown: the annotators' latest mask, else the latest prediction
    note: str = ""  # why the image is flagged
    annotator: str | None = None  # whose event is the latest that shows
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By annotator; a verdict is withdrawn when the same annotator changes, flags or reopens the image."""
    described: tuple[Described, ...] = ()  # oldest first, without those that later ones replace
    identified: Identified | None = None
    gold: GoldStandard | None = None  # hidden from the annotators who are measured by it

    @property
    def image_id(self) -> str:
        """SHA-256 of the image's file."""
        return self.added.image_id

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.added.name

    @property
    def patient(self) -> str | None:
        """The patient, if known."""
        return (self.identified or self.added).patient

    @property
    def lesion(self) -> str | None:
        """The lesion, if known; lesions of several patients may have one name."""
        return (self.identified or self.added).lesion

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.added.shape

    @property
    def quality(self) -> float | None:
        """Estimated quality of the current mask, 0 to 1; None when there is no estimate."""
        return None if self.current is None else self.current.quality


@dataclass(frozen=True, slots=True)
class StudyState:
    """The state of a study."""

    images: Mapping[str, ImageState] = field(default_factory=dict)
    """By SHA-256, in the natural order of the names (``IMD2`` before ``IMD10``)."""
    sessions: Mapping[str, Session] = field(default_factory=dict)  # the latest of each annotator
    unknown: frozenset[str] = frozenset()  # images with events though nobody added them


class StateStore:
    """All events of a study, and the state that one annotator sees.

    Only images with new events are replayed, so that saving costs the same in a study of any size. To a
    blinded annotator, other annotators' events are invisible, except that they added or identified an image
    or returned it to the annotator. Of a gold standard, every annotator is blinded unless `sees_gold`.
    """

    def __init__(self, annotator: str, *, blinded: bool, sees_gold: bool = False) -> None:
        self.state = StudyState()
        self._annotator = annotator
        self.blinded = blinded
        self._sees_gold = sees_gold
        self._events: dict[str, dict[tuple[str, int], ImageEvent]] = {}

    def apply(self, events: Iterable[AnyEvent]) -> frozenset[str]:
        """Apply events in any order, and return the images they are about; a known event does no harm."""
        changed: set[str] = set()
        sessions = dict(self.state.sessions)
        for event in events:
            if isinstance(event, ImageEvent):
                self._events.setdefault(event.image_id, {})[event.writer, event.seq] = event
                changed.add(event.image_id)
            elif event.annotator not in sessions or sessions[event.annotator].order <= event.order:
                sessions[event.annotator] = event
        replayed = {image_id: replay_image(self._visible(image_id)) for image_id in changed}
        self.state = update(self.state, replayed, sessions)
        return frozenset(changed)

    def history(self, image_id: str) -> tuple[ImageEvent, ...]:
        """Return the events of an image that the annotator may see, the oldest first."""
        return tuple(sorted(self._visible(image_id), key=lambda event: event.order))

    def hashes(self, image_id: str) -> dict[str, str]:
        """Return the latest SHA-256 of each mask revision of an image, whoever saved it."""
        events = sorted(self._events.get(image_id, {}).values(), key=lambda event: event.order)
        return {event.revision: event.sha256 for event in events if isinstance(event, MaskEvent)}

    def next_time(self, image_id: str) -> datetime:
        """Return the time for a new event: now, but after all of the image, even if clocks disagree."""
        return _now_after(event.time for event in self._events.get(image_id, {}).values())

    def next_session_time(self) -> datetime:
        """Return the time for a new session event of the annotator."""
        last = self.state.sessions.get(self._annotator)
        return _now_after([] if last is None else [last.time])

    def _visible(self, image_id: str) -> list[ImageEvent]:
        events = self._events.get(image_id, {}).values()
        if self.blinded or (not self._sees_gold and _gold_of(events) is not None):
            return [event for event in events if self._is_for_everybody(event)]
        return list(events)

    def _is_for_everybody(self, event: ImageEvent) -> bool:
        """Whether an event is visible to a blinded annotator."""
        to_annotator = isinstance(event, Returned) and event.to == self._annotator
        is_own = event.annotator == self._annotator
        return to_annotator or is_own or isinstance(event, Added | Identified)


def _gold_of(events: Iterable[ImageEvent]) -> GoldStandard | None:
    """Return the gold standard that an image is after its events, given in any order."""
    changes = (event for event in events if isinstance(event, GoldStandard | GoldWithdrawn))
    latest = max(changes, key=lambda event: event.order, default=None)
    return latest if isinstance(latest, GoldStandard) else None


def update(
    state: StudyState, replayed: Mapping[str, ImageState | None], sessions: Mapping[str, Session]
) -> StudyState:
    """Put replayed images (None: never added) and latest sessions into a state."""
    known = {image_id: new for image_id, new in replayed.items() if new is not None}
    images = {**state.images, **known}
    before = state.images
    # Sorting thousands of names takes longer than all the rest, and hardly ever changes anything.
    if any(image_id not in before or before[image_id].name != new.name for image_id, new in known.items()):
        images = dict(sorted(images.items(), key=lambda item: (natural_key(item[1].name), item[0])))
    return StudyState(
        images=MappingProxyType(images),
        sessions=MappingProxyType({**state.sessions, **sessions}),
        unknown=(state.unknown | replayed.keys()) - known.keys(),
    )


def replay_image(events: Iterable[ImageEvent]) -> ImageState | None:
    """Return the state of one image after its events, given in any order; None if it was never added."""
    ordered = sorted({event.order: event for event in events}.values(), key=lambda event: event.order)
    added = [event for event in ordered if isinstance(event, Added)]
    if not added:
        return None
    gold = _gold_of(ordered)
    state = ImageState(added=added[-1], when=added[0].time)
    for event in ordered:
        changed = _apply(state, event)
        hidden = isinstance(event, Predicted) and changed.current is not event
        if isinstance(event, _SILENT):
            state = changed
        elif gold is not None and _is_measured(event, gold.annotator):
            # What counts is the expert's work; that of others is compared with it.
            state = replace(state, verdicts=changed.verdicts)
        else:
            state = changed if hidden else replace(changed, when=event.time, annotator=event.annotator)
    return state


def _is_measured(event: ImageEvent, expert: str) -> bool:
    """Whether an event is about the work of others on the gold standard of an expert."""
    return event.annotator != expert or (isinstance(event, Returned) and event.to != expert)


def _apply(state: ImageState, event: ImageEvent) -> ImageState:
    """Return the state after one event."""
    match event:
        case Identified():
            return replace(state, identified=event)
        case Described():
            return replace(state, described=(*_still_needed(state.described, event), event))
        case GoldStandard() | GoldWithdrawn():
            return replace(state, gold=event if isinstance(event, GoldStandard) else None)
    return _apply_work(state, event)


def _apply_work(state: ImageState, event: ImageEvent) -> ImageState:
    """Return the state after an event about the mask."""
    match event:
        case Predicted():
            return _with_prediction(state, event)
        case Corrected() if event.review_of is not None:
            return replace(state, corrected=event, current=event)
        case Corrected():
            waits = state.status in (Status.FLAGGED, Status.RETURNED)
            status = state.status if waits else Status.CORRECTED
            withdrawn = _without_verdict(state, event.annotator)
            return replace(withdrawn, corrected=event, current=event, status=status)
        case Approved():
            return replace(_with_verdict(state, event, Status.APPROVED), approved=event, current=event)
        case NoLesion():
            return _with_verdict(state, event, Status.NO_LESION)
        case Returned():
            withdrawn = _without_verdict(state, event.to)
            return replace(withdrawn, status=Status.RETURNED, note=event.note)
        case Flagged():
            withdrawn = _without_verdict(state, event.annotator)
            return replace(withdrawn, status=Status.FLAGGED, note=event.note)
        case Reopened():
            return _reopen(state, event)
    return state


def _still_needed(described: Iterable[Described], event: Described) -> list[Described]:
    """Return the events of which some value is not filled in again by the same annotator's later event."""
    return [
        earlier
        for earlier in described
        if earlier.annotator != event.annotator or not earlier.values.keys() <= event.values.keys()
    ]


def _with_prediction(state: ImageState, event: Predicted) -> ImageState:
    """Add a prediction, which is shown only where no annotator has drawn anything."""
    shown = event if state.current is None or isinstance(state.current, Predicted) else state.current
    status = Status.PREDICTED if state.status is Status.UNREVIEWED else state.status
    return replace(state, predicted=event, current=shown, status=status)


def _with_verdict(state: ImageState, event: Verdict, status: Status) -> ImageState:
    others = _without_verdict(state, event.annotator).verdicts
    verdicts = MappingProxyType({**others, event.annotator: event})
    return replace(state, status=status, note="", verdicts=verdicts)


def _reopen(state: ImageState, event: Reopened) -> ImageState:
    """Withdraw a verdict; if it was a review, the verdict that it was about counts again."""
    mine = state.verdicts.get(event.annotator)
    withdrawn = _without_verdict(state, event.annotator)
    reviewed = withdrawn.verdicts.get((mine and mine.review_of) or "")
    if isinstance(reviewed, Approved):
        return replace(withdrawn, status=Status.APPROVED, note="", approved=reviewed, current=reviewed)
    status = _status_of_mask(state) if reviewed is None else Status.NO_LESION
    return replace(withdrawn, status=status, note="")


def _without_verdict(state: ImageState, annotator: str) -> ImageState:
    """Withdraw an annotator's verdict, which no longer counts once they continue, and reviews of it."""
    others = {
        name: verdict
        for name, verdict in state.verdicts.items()
        if annotator not in (name, verdict.review_of)
    }
    return replace(state, verdicts=MappingProxyType(others))


def _status_of_mask(state: ImageState) -> Status:
    """Return the status of an image without verdict and flag."""
    if state.current is None:
        return Status.UNREVIEWED
    untouched = state.predicted is not None and state.current.revision == state.predicted.revision
    return Status.PREDICTED if untouched else Status.CORRECTED


def _now_after(times: Iterable[datetime]) -> datetime:
    earliest = (time + timedelta(microseconds=1) for time in times)
    return max([datetime.now(UTC), *earliest])
