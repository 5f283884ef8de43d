"""The pace of the day, in words."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from napari_lesionseg.plugin.workbench.pace import Pace
from napari_lesionseg.study.study import Study


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(clock)


def review(pace: Pace, clock: Clock, image_id: str, seconds: float, *actions: str) -> None:
    pace.note_opened(image_id)
    for action in actions:
        pace.note_action(image_id, action)
    clock.now += seconds
    pace.note_verdict(image_id)


def test_time_and_actions_are_medians(pace: Pace, clock: Clock) -> None:
    review(pace, clock, "a", 4, "prediction", "restored")
    review(pace, clock, "b", 8, "click", "click", "stroke")
    review(pace, clock, "c", 5000, "click")
    assert pace.seconds == [4, 8, 300]
    assert pace.actions == [1, 4, 2]
    assert pace.describe([], "am", datetime.now().astimezone()) == (
        "0 done today, 8 s and 2 actions per image"
    )


def test_only_a_verdict_counts_and_only_once(pace: Pace, clock: Clock) -> None:
    pace.note_opened("a")
    pace.note_opened("b")
    pace.note_verdict("b")
    pace.note_verdict("b")
    assert len(pace.seconds) == 1


def test_the_time_left_is_that_of_unreviewed_images(
    pace: Pace, clock: Clock, make_study: Callable[..., Study]
) -> None:
    mask: Any = np.ones((40, 60), np.uint8)
    with make_study(12) as study:
        ids = list(study.state.images)
        study.approve(ids[0], mask)
        study.flag(ids[1], "hair?")
        images = study.state.images.values()
        now = datetime.now().astimezone()
        assert pace.describe(images, "am", now) == "1 done today"
        review(pace, clock, ids[0], 30)
        assert pace.describe(images, "am", now) == (
            "1 done today, 30 s and 1 action per image, about 5 min left"
        )
        assert pace.describe(images, "bk", now).startswith("0 done today")
