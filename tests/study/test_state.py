from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lesionseg.study.events import (
    Added,
    AnyEvent,
    Approved,
    Corrected,
    Described,
    Event,
    Flagged,
    GoldStandard,
    GoldWithdrawn,
    Identified,
    ImageEvent,
    NoLesion,
    Predicted,
    Reopened,
    Returned,
    Session,
)
from napari_lesionseg.study.state import StateStore, Status, StudyState, replay_image, update

IMAGES = ("1" * 64, "2" * 64, "3" * 64)
START = datetime(2026, 3, 1, tzinfo=UTC)
WRITERS = {"am": "a" * 32, "bo": "b" * 32}


def entry(
    kind: type[Any], seq: int, *, annotator: str = "am", second: int | None = None, **fields: Any
) -> Any:
    """Make an entry; by default its time goes with its number."""
    if kind is not Session:
        fields.setdefault("image_id", IMAGES[0])
    if kind is Added:
        fields = {"name": "IMD1", "path": "IMD1.png", "own": True, "size": 9, "shape": (3, 4), **fields}
    if kind is Described:
        fields = {"values": {"site": "arm"}, **fields}
    if kind is Returned:
        fields = {"to": "am", **fields}
    if kind in (Predicted, Corrected, Approved, GoldStandard):
        revision = f"{fields.pop('mask', seq):016x}"
        fields = {"revision": revision, "sha256": revision * 4, **fields}
    time = START + timedelta(seconds=seq if second is None else second)
    return kind(writer=WRITERS[annotator], seq=seq, annotator=annotator, time=time, **fields)


def replay(events: Iterable[Event]) -> StudyState:
    """Return the state after all events at once, without a store."""
    by_image: dict[str, list[ImageEvent]] = defaultdict(list)
    sessions: dict[str, Session] = {}
    for event in sorted(events, key=lambda event: event.order):
        if isinstance(event, ImageEvent):
            by_image[event.image_id].append(event)
        elif isinstance(event, Session):
            sessions[event.annotator] = event
    replayed = {image_id: replay_image(found) for image_id, found in by_image.items()}
    return update(StudyState(), replayed, sessions)


def status_after(*kinds: type[Any]) -> Status:
    entries = [entry(kind, number) for number, kind in enumerate((Added, *kinds))]
    return replay(entries).images[IMAGES[0]].status


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ((), Status.UNREVIEWED),
        ((Predicted,), Status.PREDICTED),
        ((Predicted, Corrected), Status.CORRECTED),
        ((Predicted, Approved), Status.APPROVED),
        ((Approved, Predicted), Status.APPROVED),
        ((NoLesion,), Status.NO_LESION),
        ((NoLesion, Predicted), Status.NO_LESION),
        ((NoLesion, Corrected), Status.CORRECTED),
        ((Approved, Corrected), Status.CORRECTED),
        ((Flagged,), Status.FLAGGED),
        ((Flagged, Corrected), Status.FLAGGED),
        ((Flagged, Approved), Status.APPROVED),
        ((Flagged, Reopened), Status.UNREVIEWED),
        ((Predicted, Flagged, Reopened), Status.PREDICTED),
        ((NoLesion, Reopened), Status.UNREVIEWED),
        ((Predicted, NoLesion, Reopened), Status.PREDICTED),
        ((Predicted, Corrected, Approved, Reopened), Status.CORRECTED),
        ((Approved, Returned), Status.RETURNED),
        ((Approved, Returned, Corrected), Status.RETURNED),
        ((Approved, Returned, Approved), Status.APPROVED),
        ((NoLesion, Returned, Reopened), Status.UNREVIEWED),
        ((Approved, Described, Identified, GoldStandard, GoldWithdrawn), Status.APPROVED),
    ],
)
def test_status(kinds: tuple[type[Any], ...], status: Status) -> None:
    assert status_after(*kinds) is status


def test_no_lesion_is_not_the_same_as_unreviewed() -> None:
    assert status_after(NoLesion) is not status_after()
    assert Status.NO_LESION.done
    assert not Status.UNREVIEWED.done


def test_a_prediction_that_was_approved_and_reopened_is_a_prediction_again() -> None:
    entries = [entry(Added, 0), entry(Predicted, 1, mask=7), entry(Approved, 2, mask=7), entry(Reopened, 3)]
    assert replay(entries).images[IMAGES[0]].status is Status.PREDICTED


def test_prediction_correction_and_approved_are_kept_apart() -> None:
    entries = [
        entry(Added, 0),
        entry(Predicted, 1),
        entry(Corrected, 2),
        entry(Approved, 3),
        entry(Predicted, 4, quality=0.3),
        entry(Corrected, 5, quality=0.9),
    ]
    state = replay(entries).images[IMAGES[0]]
    assert (state.predicted, state.corrected, state.approved) == (entries[4], entries[5], entries[3])
    assert state.current == entries[5]
    assert state.quality == 0.9


def test_a_prediction_behind_the_scenes_takes_nothing_over() -> None:
    entries = [
        entry(Added, 0),
        entry(Approved, 1, quality=0.9),
        entry(Predicted, 2, annotator="bo", quality=0.1),
    ]
    state = replay(entries).images[IMAGES[0]]
    assert (state.current, state.annotator, state.quality) == (entries[1], "am", 0.9)
    assert state.when == entries[1].time


def test_the_note_goes_with_the_flag() -> None:
    flagged = [entry(Added, 0), entry(Flagged, 1, note="hair?")]
    assert replay(flagged).images[IMAGES[0]].note == "hair?"
    for kind in (Approved, NoLesion, Reopened):
        assert replay([*flagged, entry(kind, 2)]).images[IMAGES[0]].note == ""


def test_a_verdict_stands_until_its_annotator_changes_the_image() -> None:
    entries = [
        entry(Added, 0),
        entry(Approved, 1),
        entry(NoLesion, 2, annotator="bo"),
        entry(Corrected, 3, annotator="bo"),
    ]
    assert set(replay(entries[:3]).images[IMAGES[0]].verdicts) == {"am", "bo"}
    assert set(replay(entries).images[IMAGES[0]].verdicts) == {"am"}


def test_images_come_in_the_order_people_count() -> None:
    names = ("IMD10", "IMD9", "imd1")
    entries = [entry(Added, n, image_id=IMAGES[n], name=name) for n, name in enumerate(names)]
    assert [state.name for state in replay(entries).images.values()] == ["imd1", "IMD9", "IMD10"]


def test_entries_about_an_image_nobody_added_wait() -> None:
    waiting = entry(Approved, 1)
    assert replay([waiting]).unknown == {IMAGES[0]}
    known = replay([waiting, entry(Added, 0)])
    assert not known.unknown
    assert known.images[IMAGES[0]].status is Status.APPROVED


def test_the_latest_session_of_each_annotator_counts() -> None:
    entries = [
        entry(Session, 2, image_id=IMAGES[1]),
        entry(Session, 1, image_id=IMAGES[0]),
        entry(Session, 1, annotator="bo", image_id=IMAGES[2]),
    ]
    sessions = replay(entries).sessions
    assert {annotator: session.image_id for annotator, session in sessions.items()} == {
        "am": IMAGES[1],
        "bo": IMAGES[2],
    }


def test_a_review_stands_until_the_annotator_decides_again() -> None:
    entries = [
        entry(Added, 0),
        entry(Approved, 1),
        entry(Approved, 2, annotator="bo", review_of="am"),
        entry(NoLesion, 3),
    ]
    assert set(replay(entries[:3]).images[IMAGES[0]].verdicts) == {"am", "bo"}
    assert set(replay(entries).images[IMAGES[0]].verdicts) == {"am"}


def test_returning_an_image_withdraws_the_verdict_and_tells_why() -> None:
    entries = [entry(Added, 0), entry(Approved, 1), entry(Returned, 2, annotator="bo", note="too wide")]
    state = replay(entries).images[IMAGES[0]]
    assert (dict(state.verdicts), state.note, state.annotator) == ({}, "too wide", "bo")
    assert state.current == entries[1]


def test_what_is_said_of_an_image_does_not_count_as_work_on_its_outline() -> None:
    entries = [
        entry(Added, 0, patient="A", lesion="1"),
        entry(Approved, 1),
        entry(Described, 2, annotator="bo"),
        entry(Identified, 3, annotator="bo", patient="A", lesion="2"),
    ]
    state = replay(entries).images[IMAGES[0]]
    assert (state.when, state.annotator) == (entries[1].time, "am")
    assert (state.patient, state.lesion, state.described) == ("A", "2", (entries[2],))


def test_a_gold_standard_is_hidden_from_all_but_its_expert() -> None:
    entries = [
        entry(Added, 0),
        entry(Approved, 1),
        entry(Approved, 2, annotator="bo"),
        entry(GoldStandard, 3, mask=1),
    ]
    stores = {
        "am": StateStore("am", blinded=False),
        "bo": StateStore("bo", blinded=False),
        "everybody": StateStore("lesionseg", blinded=False, sees_gold=True),
    }
    for store in stores.values():
        store.apply(entries)
    states = {name: store.state.images[IMAGES[0]] for name, store in stores.items()}
    assert (states["am"].gold, states["bo"].gold) == (entries[3], None)
    assert {name: set(state.verdicts) for name, state in states.items()} == {
        "am": {"am"}, "bo": {"bo"}, "everybody": {"am", "bo"},
    }  # fmt: skip
    stores["bo"].apply([entry(GoldWithdrawn, 4)])
    assert set(stores["bo"].state.images[IMAGES[0]].verdicts) == {"am", "bo"}


def test_a_blinded_annotator_hears_what_a_reviewer_returns() -> None:
    store = StateStore("am", blinded=True)
    returned = entry(Returned, 2, annotator="bo", note="too wide")
    store.apply([entry(Added, 0), entry(Approved, 1), returned])
    assert store.state.images[IMAGES[0]].status is Status.RETURNED
    assert store.history(IMAGES[0])[-1] == returned


KINDS = (
    Added,
    Identified,
    Described,
    Predicted,
    Corrected,
    Approved,
    NoLesion,
    Returned,
    GoldStandard,
    GoldWithdrawn,
    Flagged,
    Reopened,
    Session,
)


@st.composite
def event_logs(draw: st.DrawFn) -> list[AnyEvent]:
    """Draw entries of two annotators, with clocks that often show the same second."""
    return [
        entry(
            draw(st.sampled_from(KINDS)),
            seq,
            annotator=annotator,
            second=draw(st.integers(0, 5)),
            image_id=draw(st.sampled_from(IMAGES)),
        )
        for annotator in WRITERS
        for seq in range(draw(st.integers(0, 12)))
    ]


@given(event_logs(), st.randoms(use_true_random=False))
def test_the_order_of_reading_does_not_matter(entries: list[AnyEvent], chance: random.Random) -> None:
    expected = replay(entries)
    shuffled = [*entries, *entries[:3]]  # some are read twice
    chance.shuffle(shuffled)
    assert replay(shuffled) == expected
    state_store = StateStore("am", blinded=False, sees_gold=True)
    while shuffled:
        count = chance.randint(1, 4)
        state_store.apply(shuffled[:count])
        del shuffled[:count]
    assert state_store.state == expected
    assert list(state_store.state.images) == list(expected.images)


@given(event_logs())
def test_nothing_that_was_approved_leaves_the_history(entries: list[AnyEvent]) -> None:
    state_store = StateStore("am", blinded=False, sees_gold=True)
    state_store.apply(entries)
    for image_id in IMAGES:
        approved = {e.order for e in entries if isinstance(e, Approved) and e.image_id == image_id}
        assert approved <= {e.order for e in state_store.history(image_id)}


@given(event_logs())
def test_a_blinded_annotator_sees_only_their_own_work(entries: list[AnyEvent]) -> None:
    state_store = StateStore("am", blinded=True)
    state_store.apply(entries)
    told = (Added, Identified, Returned)  # all of them are returned to this annotator
    own = [e for e in entries if e.annotator == "am" or isinstance(e, (*told, Session))]
    assert dict(state_store.state.images) == dict(replay(own).images)
    assert all(
        e.annotator == "am" or isinstance(e, told)
        for image_id in IMAGES
        for e in state_store.history(image_id)
    )


def test_a_new_event_comes_after_all_known_ones_whatever_the_clock_says() -> None:
    ahead = entry(Approved, 1, second=10**9)
    state_store = StateStore("am", blinded=False)
    state_store.apply([entry(Added, 0), ahead])
    assert state_store.next_time(IMAGES[0]) == ahead.time + timedelta(microseconds=1)
    assert state_store.next_time(IMAGES[1]) < ahead.time


def test_no_events_give_no_state() -> None:
    assert replay_image([]) is None
    assert not replay([]).images
