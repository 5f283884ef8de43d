from __future__ import annotations

import pytest

from napari_lesionseg.plugin.workbench.verdict_guard import (
    NO_IMAGE,
    SEEN_SECONDS,
    TOO_SOON,
    Screen,
    VerdictGuard,
)

SEEN = Screen("P1")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> VerdictGuard:
    made = VerdictGuard(clock)
    made.note_image()
    clock.now += SEEN_SECONDS
    return made


def test_a_verdict_counts_for_an_outline_that_was_seen(guard: VerdictGuard) -> None:
    assert guard.check(SEEN).counts


def test_a_verdict_about_an_image_that_has_just_appeared_does_not_count(
    guard: VerdictGuard, clock: Clock
) -> None:
    guard.note_image()
    clock.now += SEEN_SECONDS / 2
    answer = guard.check(SEEN)
    assert not answer.counts
    assert not answer.wait
    assert answer.reason == TOO_SOON


def test_no_verdict_counts_for_an_image_that_has_not_appeared(guard: VerdictGuard, clock: Clock) -> None:
    guard.note_opening()
    guard.note_outline()
    clock.now += 10 * SEEN_SECONDS  # the window hangs
    assert guard.check(SEEN).reason == TOO_SOON
    guard.note_image()
    assert guard.check(SEEN).reason == TOO_SOON
    clock.now += SEEN_SECONDS
    assert guard.check(SEEN).counts


def test_a_verdict_waits_until_a_changed_outline_was_seen(guard: VerdictGuard, clock: Clock) -> None:
    guard.note_outline()
    clock.now += SEEN_SECONDS / 4
    answer = guard.check(SEEN)
    assert answer.wait == pytest.approx(SEEN_SECONDS * 3 / 4)
    assert not answer.counts
    clock.now += answer.wait
    assert guard.check(SEEN).counts


def test_a_verdict_waits_while_the_outline_is_computed(guard: VerdictGuard) -> None:
    answer = guard.check(Screen("P1", computing=True))
    assert answer.wait > 0
    assert not answer.counts


@pytest.mark.parametrize(
    "screen", [Screen("P1", hidden="It is hidden."), Screen("P1", unfinished="Finish the polygon.")]
)
def test_a_verdict_about_what_cannot_be_judged_says_why(guard: VerdictGuard, screen: Screen) -> None:
    answer = guard.check(screen)
    assert answer.reason == screen.hidden or screen.unfinished
    assert not answer.counts


def test_without_an_image_there_is_no_verdict(guard: VerdictGuard) -> None:
    assert guard.check(Screen()).reason == NO_IMAGE
