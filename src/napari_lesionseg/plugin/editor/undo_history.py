"""The undo history of one image: snapshots of everything an edit can change. No napari or Qt in here.

It serves masks (`Snapshot`) and landmarks alike. The current snapshot is kept as it is, those to undo or redo
packed: some ten kilobytes for a lesion in an image of 24 megapixels. Predictions are shared between
snapshots.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.types import NO_PROMPTS, LabelImage, Prompts, Stroke

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction

HISTORY_BUDGET = 512 << 20
"""Memory in bytes that the history of one image may take."""

_FASTEST = 1  # zlib level: higher levels save little on masks and cost more time


S = TypeVar("S", bound="Undoable")
S_co = TypeVar("S_co", covariant=True)


class Packed(Protocol[S_co]):
    """A snapshot as it is kept to undo or redo."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes, without the predictions."""

    def unpack(self) -> S_co:
        """Return the snapshot."""

    def all_predictions(self) -> Iterator[Prediction]:
        """Yield every prediction that it keeps in memory."""


class Undoable(Protocol):
    """A snapshot of whatever is edited."""

    def pack(self) -> Packed[Self]:
        """Return it as it is kept to undo or redo."""

    def all_predictions(self) -> Iterator[Prediction]:
        """Yield every prediction that it keeps in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything that undo restores of a mask. Its arrays are never written to."""

    mask: LabelImage  # (H, W), or (..., H, W) of a stack
    manual_mask: NDArray[np.bool_]  # the same shape: pixels that redrawing leaves alone
    config: PostprocessConfig = field(default_factory=PostprocessConfig)
    strokes: tuple[Stroke, ...] = ()  # clicks and scribbles, oldest first
    # Before any stroke, and after each; None where the network was not asked. Of a stack: per frame.
    predictions: tuple[Prediction | None, ...] = (None,)
    initial_prediction: Prediction | None = None  # the model's own, without strokes
    model_threshold: float = 0.5
    area: Prompts = NO_PROMPTS  # the box or lasso that the predictions keep to
    added: tuple[Prediction, ...] = ()  # further lesions, each of a box or lasso

    @property
    def prediction(self) -> Prediction | None:
        """The current prediction."""
        return self.predictions[-1]

    @property
    def areas(self) -> tuple[Prompts, ...]:
        """The boxes and lassos that the mask came from, without the strokes."""
        found = (self.area, *(prediction.prompts.area for prediction in self.added))
        return tuple(area for area in found if area.has_area)

    @property
    def threshold(self) -> float:
        """The threshold of the settings, else the model's own."""
        return resolve_threshold(None, self.config, self.model_threshold)

    def prediction_of(self, frame: tuple[int, ...]) -> Prediction | None:
        """Return the current prediction of a frame; () is a single image."""
        lead = self.mask.shape[:-2]
        if not lead:
            return self.prediction
        index = int(np.ravel_multi_index(frame, lead))
        return self.predictions[index] if len(self.predictions) == np.prod(lead) else None

    def all_predictions(self) -> Iterator[Prediction]:
        """Yield every prediction that the snapshot keeps in memory."""
        kept = (self.initial_prediction, *self.predictions)
        yield from (prediction for prediction in kept if prediction is not None)
        yield from self.added

    def pack(self) -> Packed[Snapshot]:
        """Return it with its masks compressed."""
        return _Step.of(self)


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A mask, compressed: only its bounding box is kept, one bit per pixel if that is enough."""

    payload: bytes
    top: int
    left: int
    height: int
    width: int
    shape: tuple[int, ...]
    bits: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, mask: NDArray[Any]) -> PackedMask:
        """Compress a mask (..., H, W) of bytes or bools."""
        shape, mask = (
            mask.shape,
            mask.reshape(-1, mask.shape[-1]),
        )  # the frames of a stack, one below the other
        rows, cols = bounding_box(mask) or (slice(0, 0), slice(0, 0))
        part = mask[rows, cols]
        bits = mask.dtype == bool or part.max(initial=0) <= 1
        packed = np.packbits(part.astype(bool, copy=False)) if bits else np.ascontiguousarray(part)
        payload = zlib.compress(packed.tobytes(), _FASTEST)
        return cls(payload, rows.start, cols.start, part.shape[0], part.shape[1], shape, bits, mask.dtype)

    def unpack(self) -> NDArray[Any]:
        """Return the mask as a new array."""
        values = np.frombuffer(zlib.decompress(self.payload), dtype=np.uint8)
        if self.bits:
            values = np.unpackbits(values, count=self.height * self.width)
        mask = np.zeros(self.shape, dtype=self.dtype)
        rows = mask.reshape(-1, self.shape[-1])
        part = values.reshape(self.height, self.width)
        rows[self.top : self.top + self.height, self.left : self.left + self.width] = part
        return mask

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return len(self.payload)


_EMPTY = np.zeros((0, 0), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class _Step:
    """A packed snapshot of a mask."""

    rest: Snapshot
    mask: PackedMask
    manual_mask: PackedMask

    @classmethod
    def of(cls, snapshot: Snapshot) -> _Step:
        rest = replace(snapshot, mask=_EMPTY, manual_mask=_EMPTY.astype(bool))
        return cls(rest, PackedMask.of(snapshot.mask), PackedMask.of(snapshot.manual_mask))

    @property
    def nbytes(self) -> int:
        return self.mask.nbytes + self.manual_mask.nbytes

    def all_predictions(self) -> Iterator[Prediction]:
        return self.rest.all_predictions()

    def unpack(self) -> Snapshot:
        return replace(self.rest, mask=self.mask.unpack(), manual_mask=self.manual_mask.unpack())


class UndoHistory(Generic[S]):
    """The snapshots that can be undone and redone; over the budget, the oldest are dropped."""

    def __init__(self, base: S, budget: int = HISTORY_BUDGET) -> None:
        self.budget = budget
        self.reset(base)

    def reset(self, base: S) -> None:
        """Start a new history."""
        self._current = base
        self._kind = ""
        self._past: list[Packed[S]] = []
        self._future: list[Packed[S]] = []

    @property
    def current(self) -> S:
        """The current snapshot."""
        return self._current

    @property
    def depth(self) -> int:
        """How many steps can be undone."""
        return len(self._past)

    @property
    def first(self) -> S:
        """The snapshot that undo ends at."""
        return self._past[0].unpack() if self._past else self._current

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo."""
        return bool(self._future)

    def amend(self, snapshot: S) -> None:
        """Replace the current snapshot without a step."""
        self._current = snapshot

    def rebase(self, change: Callable[[S], S]) -> None:
        """Change every snapshot that can be undone to, and the current one, without a step."""
        self._past = [change(step.unpack()).pack() for step in self._past]
        self._future.clear()
        self._current, self._kind = change(self._current), ""

    def record(self, snapshot: S, kind: str, *, merge: bool = False) -> None:
        """Add a step; `merge` joins it to the last one of the same kind, as for the moves of a slider."""
        joined = merge and self._kind == kind and bool(self._past) and not self._future
        if not joined:
            self._past.append(self._current.pack())
        self._future.clear()
        self._current, self._kind = snapshot, kind
        self._drop_oldest()

    def end_merging(self) -> None:
        """Make the next step a step of its own, as when the slider is released."""
        self._kind = ""

    def undo(self) -> S:
        """Go one step back, if there is one, and return the snapshot."""
        return self._move(self._past, self._future)

    def redo(self) -> S:
        """Go one step forward, if there is one, and return the snapshot."""
        return self._move(self._future, self._past)

    @property
    def nbytes(self) -> int:
        """Memory in bytes; shared predictions are counted once."""
        steps = [*self._past, *self._future]
        shared = [*self._current.all_predictions()]
        for step in steps:
            shared.extend(step.all_predictions())
        return sum(step.nbytes for step in steps) + _unique_bytes(shared)

    def _move(self, source: list[Packed[S]], target: list[Packed[S]]) -> S:
        if source:
            target.append(self._current.pack())
            self._current = source.pop().unpack()
            self._kind = ""  # so that the next move of a slider does not join an undone step
        return self._current

    def _drop_oldest(self) -> None:
        while len(self._past) > 1 and self.nbytes > self.budget:
            self._past.pop(0)


def begins_empty(history: UndoHistory[Snapshot]) -> bool:
    """Whether nothing has been predicted yet, and the mask was empty at first."""
    predicted = any(True for _ in history.current.all_predictions())
    return not predicted and not history.first.mask.any()


class KeptHistories:
    """The histories of the images that were left last, within the budget of one."""

    def __init__(self, count: int = 20, budget: int = HISTORY_BUDGET) -> None:
        self._count, self._budget = count, budget
        self._kept: dict[str, UndoHistory[Any]] = {}

    def keep(self, image_id: str, history: UndoHistory[Any]) -> None:
        """Keep the history of an image that is left."""
        self._kept.pop(image_id, None)
        self._kept[image_id] = history
        while len(self._kept) > self._count or (len(self._kept) > 1 and self._nbytes > self._budget):
            del self._kept[next(iter(self._kept))]

    def take(self, image_id: str) -> UndoHistory[Any] | None:
        """Return the history of an image that is opened again; None if it is not kept."""
        return self._kept.pop(image_id, None)

    def clear(self) -> None:
        """Keep none, since another model is in use."""
        self._kept.clear()

    @property
    def _nbytes(self) -> int:
        return sum(history.nbytes for history in self._kept.values())


def _unique_bytes(predictions: Iterable[Prediction]) -> int:
    return sum({id(prediction): prediction.nbytes for prediction in predictions}.values())
