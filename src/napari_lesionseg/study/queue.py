"""Which image comes next: searching, filtering, sorting and counting, all without side effects."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from napari_lesionseg.study.events import FieldValue
from napari_lesionseg.study.fields import matches
from napari_lesionseg.study.state import ImageState, Status

ValuesOf: TypeAlias = Callable[[str], Mapping[str, FieldValue]]
"""Returns the values of an image's fields."""


class Order(StrEnum):
    """How the queue is sorted."""

    NAME = "name"
    STATUS = "status"
    QUALITY = "least certain first"
    CHANGED = "last changed first"


TO_DO = frozenset({Status.UNREVIEWED, Status.PREDICTED, Status.CORRECTED, Status.RETURNED})
"""Status of the images that wait for a verdict and are not set aside."""

_STATUS_ORDER = {status: place for place, status in enumerate(Status)}
_KEYS: Mapping[Order, Callable[[ImageState], Any]] = {
    Order.NAME: lambda state: 0,  # a study's state is in the order of the names, and sorting is stable
    Order.STATUS: lambda state: _STATUS_ORDER[state.status],
    Order.QUALITY: lambda state: (state.quality is None, state.quality or 0.0),
    Order.CHANGED: lambda state: -state.when.timestamp(),
}


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a study is; `by_status` has every status."""

    total: int
    by_status: Mapping[Status, int]

    @property
    def done(self) -> int:
        """Images with a verdict: approved, or without a lesion."""
        return sum(count for status, count in self.by_status.items() if status.done)

    def __str__(self) -> str:
        return self.describe()

    def describe(self, words: Callable[[Status], str] = lambda status: status.words) -> str:
        """Return the counts as text; `words` names a status."""
        text = f"{self.by_status[Status.APPROVED]} of {self.total} approved"
        extra = [
            f"{self.by_status[status]} {words(status)}"
            for status in (Status.NO_LESION, Status.FLAGGED, Status.RETURNED)
            if self.by_status[status]
        ]
        return ", ".join([text, *extra])


def count_images(images: Iterable[ImageState]) -> Counts:
    """Count the images of each status; as text, "37 of 200 approved, 3 flagged"."""
    counts = Counter(state.status for state in images)
    return Counts(counts.total(), {status: counts[status] for status in Status})


def arrange(
    images: Iterable[ImageState],
    order: Order = Order.NAME,
    *,
    search: str = "",
    statuses: Collection[Status] | None = None,
    values_of: ValuesOf = lambda image_id: {},
) -> list[ImageState]:
    """Return the images to show, sorted, those that a reviewer returned first; ties stay in the order given.

    All words of `search` must occur in name, note, annotator, status or the values of fields, or be such as
    ``diagnosis=nevus``; case and accents do not matter.
    Only images of one of the `statuses` are returned, if given.
    """
    words = _plain(search).split()
    chosen = [
        state
        for state in images
        if (statuses is None or state.status in statuses) and _has_words(state, words, values_of)
    ]
    ordered = sorted(chosen, key=_KEYS[order])
    return sorted(ordered, key=lambda state: state.status is not Status.RETURNED)


def is_to_do(state: ImageState) -> bool:
    """Whether an image waits for a verdict and is not set aside."""
    return state.status in TO_DO


def next_image(
    images: Sequence[ImageState], current: str | None, is_wanted: Callable[[ImageState], bool] = is_to_do
) -> ImageState | None:
    """Return the next image of the queue to review, from the current one on and round to the start.

    An image that was returned goes before all others.
    """
    places = [place for place, state in enumerate(images) if state.image_id == current]
    start = places[0] + 1 if places else 0
    ahead = (*images[start:], *images[:start])
    wanted = [state for state in ahead if is_wanted(state) and state.image_id != current]
    return min(wanted, key=lambda state: state.status is not Status.RETURNED, default=None)


def _has_words(state: ImageState, words: Sequence[str], values_of: ValuesOf) -> bool:
    if not words:
        return True
    text = _plain(f"{state.name} {state.note} {state.annotator or ''} {state.status.words}")
    left = [word for word in words if word not in text]
    values = values_of(state.image_id) if left else {}
    return all(matches(values, word) for word in left)


def _plain(text: str) -> str:
    """Return lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
