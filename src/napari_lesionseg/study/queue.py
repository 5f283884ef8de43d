"""Which image comes next: searching, filtering, sorting and counting, all without side effects."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_lesionseg.study.state import ImageState, Status


class Order(StrEnum):
    """How the queue is sorted."""

    NAME = "name"
    STATUS = "status"
    QUALITY = "least sure first"
    TEACHES_MOST = "teaches most"
    CHANGED = "last changed first"


_STATUS_ORDER = {status: place for place, status in enumerate(Status)}
_KEYS: Mapping[Order, Callable[[ImageState], Any]] = {
    Order.NAME: lambda state: 0,
    Order.STATUS: lambda state: _STATUS_ORDER[state.status],
    Order.QUALITY: lambda state: (state.quality is None, state.quality or 0.0),
    Order.CHANGED: lambda state: -state.when.timestamp(),
}
_GREEDY = 64
_CHUNK = 256
_UNKNOWN_QUALITY = 0.5


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a study is.

    Parameters
    ----------
    total : int
        Images.
    by_status : mapping of Status to int
        Images of each status; all are there.
    """

    total: int
    by_status: Mapping[Status, int]

    @property
    def done(self) -> int:
        """Images with a verdict: approved, or without a lesion."""
        return sum(count for status, count in self.by_status.items() if status.done)

    def __str__(self) -> str:
        text = f"{self.by_status[Status.APPROVED]} of {self.total} approved"
        extra = [
            f"{self.by_status[status]} {status.value}"
            for status in (Status.NO_LESION, Status.FLAGGED)
            if self.by_status[status]
        ]
        return ", ".join([text, *extra])


def count_images(images: Iterable[ImageState]) -> Counts:
    """Count the images of each status.

    Parameters
    ----------
    images : iterable of ImageState
        All that count.

    Returns
    -------
    Counts
        Its text is such as "37 of 200 approved, 3 flagged".
    """
    counts = Counter(state.status for state in images)
    return Counts(counts.total(), {status: counts[status] for status in Status})


def arrange(
    images: Iterable[ImageState],
    order: Order = Order.NAME,
    *,
    search: str = "",
    statuses: Collection[Status] | None = None,
    features: Mapping[str, ArrayLike] | None = None,
) -> list[ImageState]:
    """Choose images and put them in order.

    Parameters
    ----------
    images : iterable of ImageState
        In the order that settles ties, which is that of the names for a study's own state.
    order : Order
        How to sort.
    search : str
        Words that must all occur in name, note, annotator or status; case and accents do not matter.
    statuses : collection of Status, optional
        Only these; None: all.
    features : mapping of str to array, optional
        For "teaches most": a vector for each image; see `rank_by_teaching`.

    Returns
    -------
    list of ImageState
    """
    words = _plain(search).split()
    chosen = [
        state
        for state in images
        if (statuses is None or state.status in statuses) and _has_words(state, words)
    ]
    if order is Order.TEACHES_MOST:
        return rank_by_teaching(chosen, features)
    return sorted(chosen, key=_KEYS[order])


def next_image(
    images: Sequence[ImageState], current: str | None, statuses: Collection[Status] | None = None
) -> ImageState | None:
    """Return the next image without a verdict, from the current one on and round to the start.

    Parameters
    ----------
    images : sequence of ImageState
        The queue as arranged.
    current : str, optional
        SHA-256 of the image on the screen.
    statuses : collection of Status, optional
        Which count as next; None: those without a verdict that are not flagged.

    Returns
    -------
    ImageState or None
        None when there is none but the current one.
    """
    wanted = statuses or {Status.NOT_LOOKED_AT, Status.PREDICTED, Status.CORRECTED}
    places = [place for place, state in enumerate(images) if state.image_id == current]
    start = places[0] + 1 if places else 0
    for state in (*images[start:], *images[:start]):
        if state.status in wanted and state.image_id != current:
            return state
    return None


def rank_by_teaching(
    images: Iterable[ImageState], features: Mapping[str, ArrayLike] | None = None
) -> list[ImageState]:
    """Sort images by how much a model would learn from them; those with a verdict come last.

    The first 64 are chosen one by one, by the product of how unsure the model is (1 - quality) and how far
    the image is from the nearest one that has a verdict or was chosen before it. This is the greedy
    k-center rule of Sener and Savarese, "Active learning for convolutional neural networks: a core-set
    approach" (2018), weighted by uncertainty. The rest follows by the same product.

    Parameters
    ----------
    images : iterable of ImageState
        In the order that settles ties.
    features : mapping of str to array, optional
        A vector for each image, such as the encoder's mean output. None, or an image without one: only the
        uncertainty counts.

    Returns
    -------
    list of ImageState
    """
    images = list(images)
    waiting = [state for state in images if not state.status.done]
    settled = [state for state in images if state.status.done]
    order = _greedy_order(_doubts(waiting), *_feature_tables(waiting, settled, features or {}))
    return [waiting[place] for place in order] + settled


def _doubts(images: Sequence[ImageState]) -> NDArray[np.float64]:
    """How unsure the model is of each image, above 0 so that distance still counts."""
    qualities = [_UNKNOWN_QUALITY if state.quality is None else state.quality for state in images]
    return 1.0 - np.array(qualities, np.float64) + 1e-3


def _feature_tables(
    waiting: Sequence[ImageState], settled: Sequence[ImageState], features: Mapping[str, ArrayLike]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors of the waiting images, (N, D), NaN where there are none, and of the settled ones, (M, D)."""
    vectors = {image_id: np.ravel(np.asarray(vector, np.float64)) for image_id, vector in features.items()}
    length = max((len(vector) for vector in vectors.values()), default=0)
    nothing = np.full(length, np.nan)
    table = np.array([vectors.get(state.image_id, nothing) for state in waiting])
    table = table.reshape(len(waiting), length)
    known = [vectors[state.image_id] for state in settled if state.image_id in vectors]
    return table, np.array(known).reshape(len(known), length)


def _greedy_order(
    doubts: NDArray[np.float64], table: NDArray[np.float64], settled: NDArray[np.float64]
) -> list[int]:
    """Places in the order of teaching."""
    distance = _distance_to_nearest(table, settled)
    chosen: list[int] = []
    for _ in range(min(_GREEDY, len(doubts))):
        scores = _scores(doubts, distance)
        scores[chosen] = -np.inf
        chosen.append(int(np.argmax(scores)))
        distance = _nearer(distance, table, table[chosen[-1]])
    rest = np.argsort(-_scores(doubts, distance), kind="stable")
    taken = set(chosen)
    return chosen + [int(place) for place in rest if int(place) not in taken]


def _distance_to_nearest(table: NDArray[np.float64], settled: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each image to the nearest settled one, infinite where there is none."""
    squares = np.full(len(table), np.inf)
    lengths = np.sum(table**2, axis=1)
    for start in range(0, len(settled), _CHUNK):
        part = settled[start : start + _CHUNK]
        apart = lengths[:, None] + np.sum(part**2, axis=1) - 2 * table @ part.T  # (N, chunk)
        squares = np.fmin(squares, apart.min(axis=1, initial=np.inf))
    distance: NDArray[np.float64] = np.sqrt(np.maximum(squares, 0.0))
    return distance


def _nearer(
    distance: NDArray[np.float64], table: NDArray[np.float64], vector: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distances once `vector` is settled too; images without features keep theirs."""
    if not table.shape[1]:
        return distance
    nearer: NDArray[np.float64] = np.fmin(distance, np.linalg.norm(table - vector, axis=1))
    return nearer


def _scores(doubts: NDArray[np.float64], distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Doubt times distance; an image without any distance counts as far as the farthest."""
    finite = distance[np.isfinite(distance)]
    return doubts * np.where(np.isfinite(distance), distance, finite.max() if len(finite) else 1.0)


def _has_words(state: ImageState, words: Sequence[str]) -> bool:
    """Tell whether all words occur in what is shown of an image."""
    if not words:
        return True
    text = _plain(f"{state.name} {state.note} {state.annotator or ''} {state.status.words}")
    return all(word in text for word in words)


def _plain(text: str) -> str:
    """Lower case, without accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))
