from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from napari_lesionseg.study.events import Added, Predicted
from napari_lesionseg.study.queue import (
    Order,
    arrange,
    count_images,
    next_image,
)
from napari_lesionseg.study.state import ImageState, Status

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def state(number: int, status: Status = Status.PREDICTED, quality: float | None = 0.5) -> ImageState:
    common = {"writer": "a" * 32, "annotator": "am", "time": NOW, "image_id": f"{number:064x}"}
    added = Added(seq=number, name=f"IMD{number}", path="x.png", own=True, size=9, shape=(3, 4), **common)
    outline = Predicted(seq=number, revision="0" * 16, sha256="0" * 64, quality=quality, **common)
    when = NOW + timedelta(minutes=number)
    return ImageState(added=added, when=when, status=status, current=outline, annotator="am")


def numbers(images: list[ImageState]) -> list[int]:
    return [int(image_id.name[3:]) for image_id in images]


QUEUE = [
    state(1, Status.APPROVED, 0.9),
    state(2, Status.FLAGGED, 0.4),
    state(3, Status.PREDICTED, 0.7),
    state(4, Status.UNREVIEWED, None),
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
    assert next_image(QUEUE, None, lambda state: state.status is Status.FLAGGED) is QUEUE[1]


@pytest.mark.parametrize("order", list(Order))
def test_what_was_returned_comes_first(order: Order) -> None:
    returned = state(9, Status.RETURNED, 0.99)
    queue = [*QUEUE, returned]
    assert arrange(queue, order)[0] is returned
    assert next_image(queue, QUEUE[2].image_id) is returned
    assert next_image(queue, returned.image_id) is QUEUE[2]
    assert str(count_images(queue)).endswith("1 returned")
