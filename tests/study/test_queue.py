from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest

from napari_lesionseg.study.events import Added, Predicted
from napari_lesionseg.study.queue import (
    Order,
    arrange,
    count_images,
    next_image,
    rank_by_teaching,
)
from napari_lesionseg.study.state import ImageState, Status

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def state(number: int, status: Status = Status.PREDICTED, quality: float | None = 0.5) -> ImageState:
    common = {"writer": "a" * 32, "annotator": "am", "time": NOW, "image_id": f"{number:064x}"}
    added = Added(seq=number, name=f"IMD{number}", path="x.png", own=True, size=9, shape=(3, 4), **common)
    outline = Predicted(seq=number, revision="0" * 16, sha256="0" * 64, quality=quality, **common)
    when = NOW + timedelta(minutes=number)
    return ImageState(added=added, when=when, status=status, outline=outline, annotator="am")


def numbers(images: list[ImageState]) -> list[int]:
    return [int(image_id.name[3:]) for image_id in images]


QUEUE = [
    state(1, Status.APPROVED, 0.9),
    state(2, Status.FLAGGED, 0.4),
    state(3, Status.PREDICTED, 0.7),
    state(4, Status.NOT_LOOKED_AT, None),
    state(5, Status.PREDICTED, 0.2),
    state(6, Status.NO_LESION, 0.6),
]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.NAME, [1, 2, 3, 4, 5, 6]),
        (Order.STATUS, [4, 3, 5, 1, 6, 2]),
        (Order.QUALITY, [5, 2, 6, 3, 1, 4]),
        (Order.CHANGED, [6, 5, 4, 3, 2, 1]),
    ],
)
def test_orders(order: Order, expected: list[int]) -> None:
    assert numbers(arrange(QUEUE, order)) == expected


def test_filtering_by_status() -> None:
    assert numbers(arrange(QUEUE, statuses={Status.PREDICTED, Status.FLAGGED})) == [2, 3, 5]
    assert arrange(QUEUE, statuses=()) == []


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("imd3", [3]),
        ("IMD", [1, 2, 3, 4, 5, 6]),
        ("hår", [2]),
        ("HAR venstre", [2]),
        ("flagged", [2]),
        ("  ", [1, 2, 3, 4, 5, 6]),
        ("imd3 hår", []),
    ],
)
def test_searching(search: str, expected: list[int]) -> None:
    queue = [replace(one, note="Hår, venstre arm") if one.name == "IMD2" else one for one in QUEUE]
    assert numbers(arrange(queue, search=search)) == expected


def test_counts() -> None:
    counts = count_images(QUEUE)
    assert (counts.total, counts.done) == (6, 2)
    assert str(counts) == "1 of 6 approved, 1 no lesion, 1 flagged"
    assert str(count_images([])) == "0 of 0 approved"


def test_the_next_image_comes_round_to_the_start() -> None:
    def after(number: int | None) -> str | None:
        found = next_image(QUEUE, None if number is None else f"{number:064x}")
        return None if found is None else found.name

    assert [after(number) for number in (None, 1, 3, 4, 5, 6)] == [
        "IMD3",
        "IMD3",
        "IMD4",
        "IMD5",
        "IMD3",
        "IMD3",
    ]
    assert next_image(QUEUE[:2], None) is None
    assert next_image([QUEUE[2]], QUEUE[2].image_id) is None
    assert next_image(QUEUE, None, {Status.FLAGGED}) is QUEUE[1]


def test_least_sure_teaches_most_and_verdicts_come_last() -> None:
    assert numbers(rank_by_teaching(QUEUE)) == [5, 2, 4, 3, 1, 6]
    assert arrange(QUEUE, Order.TEACHES_MOST) == rank_by_teaching(QUEUE)
    assert rank_by_teaching([]) == []


def test_images_that_look_alike_do_not_follow_each_other() -> None:
    """Two clusters, equally unsure: the choice alternates until both are covered."""
    queue = [state(number) for number in range(8)]
    features = {one.image_id: [100.0 * (number % 2), number] for number, one in enumerate(queue)}
    order = numbers(rank_by_teaching(queue, features))
    assert sorted(order) == list(range(8))
    assert order[0] % 2 != order[1] % 2


def test_what_looks_like_a_settled_image_can_wait() -> None:
    queue = [state(1, Status.APPROVED), state(2), state(3)]
    features = {queue[0].image_id: [0.0], queue[1].image_id: [0.1], queue[2].image_id: [9.0]}
    assert numbers(rank_by_teaching(queue, features)) == [3, 2, 1]


def test_many_settled_images_count_by_the_nearest(rng: np.random.Generator) -> None:
    settled = [state(number, Status.APPROVED) for number in range(600)]
    waiting = [state(1000 + number, quality=float(rng.random())) for number in range(40)]
    features = {one.image_id: rng.normal(size=5) for one in (*settled, *waiting)}
    nearest = [
        min(float(np.linalg.norm(features[one.image_id] - features[other.image_id])) for other in settled)
        for one in waiting
    ]
    best = np.argmax([(1.001 - (one.quality or 0)) * far for one, far in zip(waiting, nearest, strict=True)])
    assert rank_by_teaching([*settled, *waiting], features)[0] is waiting[int(best)]


def test_images_without_features_are_ranked_too() -> None:
    queue = [state(number, quality=0.1 * number) for number in range(1, 5)]
    features = {queue[1].image_id: np.zeros((2, 2)), queue[3].image_id: np.ones((2, 2))}
    assert sorted(numbers(rank_by_teaching(queue, features))) == [1, 2, 3, 4]


def test_a_long_queue_keeps_every_image_once(rng: np.random.Generator) -> None:
    queue = [state(number, quality=float(rng.random())) for number in range(300)]
    features = {one.image_id: rng.normal(size=16) for one in queue}
    order = numbers(rank_by_teaching(queue, features))
    assert sorted(order) == list(range(300))
    late = [queue[number].quality for number in numbers(rank_by_teaching(queue))[64:]]
    assert all(before <= after for before, after in pairwise(late))
