"""What a study looks like, folded out of the entries of its journals.

The fold is a pure function and does not depend on the order in which journals are read: entries are put in
the order of their time, ties in the order of writer and number. A writer never stamps an entry earlier than
what it has seen of the same image, so that an answer always comes after what it answers, whatever the
clocks say.

What an entry does to an image's status:

============  =======================================================================================
predicted     "not looked at" becomes "predicted"; any other status stays
corrected     "corrected", unless the image is flagged, which it stays until there is a verdict
approved      "approved"; the note goes
no lesion     "no lesion"; the note goes
flagged       "flagged", with the note
reopened      back to "corrected", "predicted" or "not looked at", whichever outline there is; the note goes
============  =======================================================================================

Prediction, correction and approved outline are kept apart, and none takes another's place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from napari_lesionseg.io.pairing import natural_key
from napari_lesionseg.study.events import (
    Added,
    Approved,
    Corrected,
    Entry,
    Flagged,
    ImageEntry,
    NoLesion,
    OutlineEntry,
    Predicted,
    Reopened,
    Session,
)

Verdict: TypeAlias = Approved | NoLesion
"""What an annotator signs: an outline, or that there is no lesion."""


class Status(StrEnum):
    """How far an image is."""

    NOT_LOOKED_AT = "not looked at"
    PREDICTED = "predicted"
    CORRECTED = "corrected"
    APPROVED = "approved"
    NO_LESION = "no lesion"
    FLAGGED = "flagged"

    @property
    def done(self) -> bool:
        """Whether an annotator has signed."""
        return self in (Status.APPROVED, Status.NO_LESION)

    @property
    def words(self) -> str:
        """What an annotator is told."""
        return "outlined" if self is Status.PREDICTED else self.value


@dataclass(frozen=True, slots=True)
class ImageState:
    """Where one image stands.

    Parameters
    ----------
    added : Added
        Its identity, name, place and shape.
    status : Status
        How far it is.
    predicted, corrected, approved : entry, optional
        The latest of each; `approved` stays after the image was reopened.
    outline : entry, optional
        What is to be shown: the latest outline an annotator made or signed, else the latest prediction.
    note : str
        Why it is flagged.
    annotator : str, optional
        Who did the last thing that shows.
    when : datetime
        When that was.
    verdicts : mapping of str to entry
        What each annotator signed, as long as that annotator did not go on to change, flag or reopen it.
    """

    added: Added
    when: datetime
    status: Status = Status.NOT_LOOKED_AT
    predicted: Predicted | None = None
    corrected: Corrected | None = None
    approved: Approved | None = None
    outline: OutlineEntry | None = None
    note: str = ""
    annotator: str | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def image_id(self) -> str:
        """SHA-256 of the image's file."""
        return self.added.image_id

    @property
    def name(self) -> str:
        """What the image is called."""
        return self.added.name

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.added.shape

    @property
    def quality(self) -> float | None:
        """Estimate of how good the shown outline is, 0 to 1; None when nobody estimated it."""
        return None if self.outline is None else self.outline.quality


@dataclass(frozen=True, slots=True)
class StudyState:
    """Where a study stands.

    Parameters
    ----------
    images : mapping of str to ImageState
        By SHA-256, in the natural order of the names (``IMD2`` before ``IMD10``).
    sessions : mapping of str to Session
        Where each annotator was.
    unknown : frozenset of str
        Images that journals speak of though nobody added them.
    """

    images: Mapping[str, ImageState] = field(default_factory=dict)
    sessions: Mapping[str, Session] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()


def fold(entries: Iterable[Entry]) -> StudyState:
    """Fold the entries of all journals, in any order, into the state of the study.

    Parameters
    ----------
    entries : iterable of Entry
        An entry that comes several times (same writer, same number) counts once.

    Returns
    -------
    StudyState
        The same for every order of `entries`.
    """
    by_image: dict[str, list[ImageEntry]] = defaultdict(list)
    sessions: dict[str, Session] = {}
    for entry in sorted(entries, key=lambda entry: entry.order):
        if isinstance(entry, ImageEntry):
            by_image[entry.image_id].append(entry)
        elif isinstance(entry, Session):
            sessions[entry.annotator] = entry
    folded = {image_id: fold_image(found) for image_id, found in by_image.items()}
    return update(StudyState(), folded, sessions)


def update(
    state: StudyState, folded: Mapping[str, ImageState | None], sessions: Mapping[str, Session]
) -> StudyState:
    """Put freshly folded images into a state; cheap when no image is new or has another name.

    Parameters
    ----------
    state : StudyState
        The state before.
    folded : mapping of str to ImageState or None
        Answers of `fold_image`.
    sessions : mapping of str to Session
        Latest session of annotators.

    Returns
    -------
    StudyState
        The state after.
    """
    known = {image_id: new for image_id, new in folded.items() if new is not None}
    images = {**state.images, **known}
    before = state.images
    if any(image_id not in before or before[image_id].name != new.name for image_id, new in known.items()):
        images = dict(sorted(images.items(), key=lambda item: (natural_key(Path(item[1].name)), item[0])))
    return StudyState(
        images=MappingProxyType(images),
        sessions=MappingProxyType({**state.sessions, **sessions}),
        unknown=(state.unknown | folded.keys()) - known.keys(),
    )


def fold_image(entries: Iterable[ImageEntry]) -> ImageState | None:
    """Fold the entries about one image.

    Parameters
    ----------
    entries : iterable of ImageEntry
        In any order.

    Returns
    -------
    ImageState or None
        None when the image was never added.
    """
    ordered = sorted({entry.order: entry for entry in entries}.values(), key=lambda entry: entry.order)
    added = [entry for entry in ordered if isinstance(entry, Added)]
    if not added:
        return None
    state = ImageState(added=added[-1], when=added[0].time)
    for entry in ordered:
        changed = _apply(state, entry)
        hidden = isinstance(entry, Predicted) and changed.outline is not entry
        if not isinstance(entry, Added) and not hidden:
            changed = replace(changed, when=entry.time, annotator=entry.annotator)
        state = changed
    return state


def _apply(state: ImageState, entry: ImageEntry) -> ImageState:
    """Return the state after one entry."""
    match entry:
        case Predicted():
            return _predicted(state, entry)
        case Corrected():
            status = Status.FLAGGED if state.status is Status.FLAGGED else Status.CORRECTED
            return replace(_withdrawn(state, entry), corrected=entry, outline=entry, status=status)
        case Approved():
            return replace(_signed(state, entry, Status.APPROVED), approved=entry, outline=entry)
        case NoLesion():
            return _signed(state, entry, Status.NO_LESION)
        case Flagged():
            return replace(_withdrawn(state, entry), status=Status.FLAGGED, note=entry.note)
        case Reopened():
            return replace(_withdrawn(state, entry), status=_status_of_outline(state), note="")
    return state


def _predicted(state: ImageState, entry: Predicted) -> ImageState:
    """Take a prediction in; it is shown only where no annotator has drawn anything."""
    shown = entry if state.outline is None or isinstance(state.outline, Predicted) else state.outline
    status = Status.PREDICTED if state.status is Status.NOT_LOOKED_AT else state.status
    return replace(state, predicted=entry, outline=shown, status=status)


def _signed(state: ImageState, entry: Verdict, status: Status) -> ImageState:
    """Take a verdict in."""
    verdicts = MappingProxyType({**state.verdicts, entry.annotator: entry})
    return replace(state, status=status, note="", verdicts=verdicts)


def _withdrawn(state: ImageState, entry: ImageEntry) -> ImageState:
    """Take the annotator's verdict away: it no longer stands once she went on."""
    others = {
        annotator: verdict for annotator, verdict in state.verdicts.items() if annotator != entry.annotator
    }
    return replace(state, verdicts=MappingProxyType(others))


def _status_of_outline(state: ImageState) -> Status:
    """Return the status of an image without verdict and flag."""
    if state.outline is None:
        return Status.NOT_LOOKED_AT
    untouched = state.predicted is not None and state.outline.revision == state.predicted.revision
    return Status.PREDICTED if untouched else Status.CORRECTED
