"""One history over everything that can be done to an image. It knows neither napari nor Qt.

A step is a whole `Snapshot`: the mask, what of it was done by hand, the clicks, the settings and the
network's answers. The snapshot in force is held as it is; those to go back or forward to are held packed,
which takes some ten kilobytes for a lesion in an image of 24 megapixels. Answers are shared between them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.plugin.editor.prediction_cache import AnyAnswer
from napari_lesionseg.types import Box, Click, LabelImage

HISTORY_BUDGET = 512 << 20
"""Bytes that the history of one image may take."""

_QUICKEST = 1  # zlib's level: what the better ones win on masks is not worth the wait


@dataclass(frozen=True, slots=True)
class Find:
    """What the network found when it looked at a part of the image.

    Parameters
    ----------
    box : Box
        Where the annotator wanted it to look.
    window : Box
        The part that it looked at, which is larger.
    answer : Answer
        Its answer, of the window's shape.
    """

    box: Box
    window: Box
    answer: AnyAnswer


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything that a step of undo brings back.

    Parameters
    ----------
    mask : ndarray
        (H, W) uint8, what is seen.
    hand : ndarray
        (H, W) bool, the pixels that stay when the outline is drawn anew: painted, or set by a tool.
    config : PostprocessConfig
        How a mask is made of the answers.
    clicks : tuple of Click
        All clicks in force, oldest first.
    groups : tuple of int
        How many clicks belong to each gesture: 1 for a single click, more for a drawn row.
    answers : tuple of Answer or None
        What the network said before any click, and after each gesture; None where it has not been asked.
    prediction : Answer or None
        What the network said by itself.
    level : float
        Threshold of the model that answered; the settings' own goes first.
    finds : tuple of Find
        What it found within drawn boxes.
    """

    mask: LabelImage
    hand: NDArray[np.bool_]
    config: PostprocessConfig = field(default_factory=PostprocessConfig)
    clicks: tuple[Click, ...] = ()
    groups: tuple[int, ...] = ()
    answers: tuple[AnyAnswer | None, ...] = (None,)
    prediction: AnyAnswer | None = None
    level: float = 0.5
    finds: tuple[Find, ...] = ()

    @property
    def answer(self) -> AnyAnswer | None:
        """The answer in force."""
        return self.answers[-1]

    def known_answers(self) -> Iterator[AnyAnswer]:
        """Yield every answer that the snapshot holds on to."""
        yield from (answer for answer in (self.prediction, *self.answers) if answer is not None)
        yield from (find.answer for find in self.finds)


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A mask, compressed: only the part that is not empty is kept, a bit a pixel if that will do.

    Parameters
    ----------
    payload : bytes
        The part, compressed.
    top, left, height, width : int
        Where the part lies.
    shape : (int, int)
        Shape of the whole mask.
    bits : bool
        Whether the part is kept with a bit a pixel.
    dtype : dtype
        Type of the mask.
    """

    payload: bytes
    top: int
    left: int
    height: int
    width: int
    shape: tuple[int, int]
    bits: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, mask: NDArray[Any]) -> PackedMask:
        """Compress a mask, (H, W), of bytes or bools."""
        rows, cols = bounding_box(mask) or (slice(0, 0), slice(0, 0))
        part = mask[rows, cols]
        bits = mask.dtype == bool or part.max(initial=0) <= 1
        packed = np.packbits(part.astype(bool, copy=False)) if bits else np.ascontiguousarray(part)
        shape = (mask.shape[0], mask.shape[1])
        payload = zlib.compress(packed.tobytes(), _QUICKEST)
        return cls(payload, rows.start, cols.start, part.shape[0], part.shape[1], shape, bits, mask.dtype)

    def unpack(self) -> NDArray[Any]:
        """Give the whole mask back, as a new array."""
        values = np.frombuffer(zlib.decompress(self.payload), dtype=np.uint8)
        if self.bits:
            values = np.unpackbits(values, count=self.height * self.width)
        whole = np.zeros(self.shape, dtype=self.dtype)
        part = values.reshape(self.height, self.width)
        whole[self.top : self.top + self.height, self.left : self.left + self.width] = part
        return whole

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return len(self.payload)


_NOTHING = np.zeros((0, 0), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class _Step:
    """A snapshot that can be gone back to, packed."""

    rest: Snapshot
    mask: PackedMask
    hand: PackedMask

    @classmethod
    def of(cls, snapshot: Snapshot) -> _Step:
        rest = replace(snapshot, mask=_NOTHING, hand=_NOTHING.astype(bool))
        return cls(rest, PackedMask.of(snapshot.mask), PackedMask.of(snapshot.hand))

    def unpack(self) -> Snapshot:
        return replace(self.rest, mask=self.mask.unpack(), hand=self.hand.unpack())


class History:
    """What can be undone and redone.

    Parameters
    ----------
    base : Snapshot
        Where the history begins.
    budget : int
        Bytes that it may take; the oldest steps are forgotten first, those to redo last.
    """

    def __init__(self, base: Snapshot, budget: int = HISTORY_BUDGET) -> None:
        self.budget = budget
        self.reset(base)

    def reset(self, base: Snapshot) -> None:
        """Begin anew."""
        self._current = base
        self._kind = ""
        self._past: list[_Step] = []
        self._future: list[_Step] = []

    @property
    def current(self) -> Snapshot:
        """The snapshot in force. Its arrays must not be written to."""
        return self._current

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to bring back."""
        return bool(self._future)

    @property
    def depth(self) -> int:
        """How many steps can be taken back."""
        return len(self._past)

    def amend(self, snapshot: Snapshot) -> None:
        """Put a snapshot in the place of the one in force, without a step."""
        self._current = snapshot

    def record(self, snapshot: Snapshot, kind: str, *, merge: bool = False) -> None:
        """Put a snapshot in force.

        Parameters
        ----------
        snapshot : Snapshot
            The new one; it and its arrays must not be changed any more.
        kind : str
            What was done.
        merge : bool
            Make it one step with the former one when that was of the same kind, as the moves of a slider are.
        """
        joined = merge and self._kind == kind and bool(self._past) and not self._future
        if not joined:
            self._past.append(_Step.of(self._current))
        self._future.clear()
        self._current, self._kind = snapshot, kind
        self._forget_oldest()

    def undo(self) -> Snapshot:
        """Go one step back; where there is none, stay.

        Returns
        -------
        Snapshot
            The one in force now.
        """
        return self._move(self._past, self._future)

    def redo(self) -> Snapshot:
        """Go one step forward; where there is none, stay.

        Returns
        -------
        Snapshot
            The one in force now.
        """
        return self._move(self._future, self._past)

    @property
    def nbytes(self) -> int:
        """Bytes that the steps take, each shared answer counted once."""
        steps = [*self._past, *self._future]
        packed = sum(step.mask.nbytes + step.hand.nbytes for step in steps)
        snapshots = [self._current, *(step.rest for step in steps)]
        return packed + _answer_bytes(answer for kept in snapshots for answer in kept.known_answers())

    def _move(self, source: list[_Step], target: list[_Step]) -> Snapshot:
        if source:
            target.append(_Step.of(self._current))
            self._current = source.pop().unpack()
            self._kind = ""  # the next move of a slider is a step of its own
        return self._current

    def _forget_oldest(self) -> None:
        while len(self._past) > 1 and self.nbytes > self.budget:
            self._past.pop(0)


def _answer_bytes(answers: Iterable[AnyAnswer]) -> int:
    return sum({id(answer): answer.nbytes for answer in answers}.values())
