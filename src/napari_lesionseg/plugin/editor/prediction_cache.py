"""The network's answers, kept so that an outline can be drawn anew without asking the network again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.types import Click, LabelImage, Probability

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction

_Value = TypeVar("_Value", bound=np.generic)

LOWEST_THRESHOLD = 0.02
"""Lowest threshold an outline can be drawn at; probabilities below it need not be kept."""

MEMORY_BUDGET = 1 << 30
"""Bytes of probabilities that are kept over all images."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A probability map without the margin in which nothing reaches `LOWEST_THRESHOLD`.

    Parameters
    ----------
    part : ndarray
        (h, w), or (C, h, w) with the background first, float32.
    top, left : int
        Where the part lies.
    shape : tuple of int
        Shape of the whole map, (H, W) or (C, H, W).
    """

    part: Probability
    top: int
    left: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, probability: Probability) -> Answer:
        """Keep a copy of what matters of a probability map.

        Parameters
        ----------
        probability : ndarray
            (H, W), or (C, H, W) with the background first, in [0, 1].
        """
        lesion = probability if probability.ndim == 2 else probability[1:].max(axis=0)
        rows, cols = _span(lesion, axis=1), _span(lesion, axis=0)
        part = probability[..., rows, cols].astype(np.float32)  # a copy: the whole map can go
        return cls(part, rows.start, cols.start, probability.shape)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole map."""
        return self.shape[-2], self.shape[-1]

    def probability(self, size: tuple[int, int] | None = None) -> Probability:
        """Give the whole map back: certain background outside the part.

        Parameters
        ----------
        size : (int, int), optional
            Height and width to sample it at; None: its own.
        """
        whole = np.zeros(self.shape, dtype=np.float32)
        if len(self.shape) == 3:
            whole[0] = 1
        height, width = self.part.shape[-2:]
        whole[..., self.top : self.top + height, self.left : self.left + width] = self.part
        return whole if size is None else sampled(whole, size)

    def small(self) -> Probability:
        """Give as much of it as its quality is estimated from."""
        return self.part

    def outline(
        self, config: PostprocessConfig, threshold: float, clicks: Iterable[Click] = ()
    ) -> LabelImage:
        """Draw it: `postprocess` of the whole map, (H, W) uint8, a new array."""
        clicks = tuple(clicks)
        if not all(self._agrees(click, threshold) for click in clicks):
            return postprocess(self.probability(), config, threshold, clicks)
        # Nothing is drawn outside the part; how large a disc a click stands for does not matter here.
        drawn = np.zeros(self.size, np.uint8)
        height, width = self.part.shape[-2:]
        if height and width:
            shifted = [
                replace(click, row=click.row - self.top, col=click.col - self.left) for click in clicks
            ]
            window = postprocess(self.part, config, threshold, shifted)
            drawn[self.top : self.top + height, self.left : self.left + width] = window
        return drawn

    def contains(self, row: int, col: int, threshold: float) -> bool:
        """Tell whether a pixel of the map reaches a threshold."""
        row, col = row - self.top, col - self.left
        if not (0 <= row < self.part.shape[-2] and 0 <= col < self.part.shape[-1]):
            return False
        values = self.part[..., row, col]
        if values.ndim == 0:
            return bool(values >= threshold)
        return bool(values[1:].max() >= values[0] * threshold / (1 - threshold))

    def _agrees(self, click: Click, threshold: float) -> bool:
        row, col = click.pixel
        inside = 0 <= row < self.size[0] and 0 <= col < self.size[1]
        return not inside or self.contains(row, col, threshold) == click.positive

    @property
    def nbytes(self) -> int:
        """Bytes that the part takes."""
        return int(self.part.nbytes)


AnyAnswer: TypeAlias = "Answer | Prediction"
"""What a network said of an image: a map of every pixel, or as large as the network worked at."""


def sampled(values: NDArray[_Value], size: tuple[int, int]) -> NDArray[_Value]:
    """Take from an array (..., H, W) the pixel in the middle of each of fewer, or the array itself."""
    if values.shape[-2:] == size:
        return values
    rows, cols = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip(size, values.shape[-2:], strict=True)
    )
    return values[..., rows[:, None], cols]


class AnswerStore:
    """Answers of the images used last, within a budget of memory.

    Parameters
    ----------
    budget : int
        Bytes; the images not used for longest go first.
    """

    def __init__(self, budget: int = MEMORY_BUDGET) -> None:
        self.budget = budget
        self._answers: OrderedDict[Hashable, Mapping[Frame, Answer]] = OrderedDict()

    def put(self, image: Hashable, answers: Mapping[Frame, Answer]) -> None:
        """Keep the answers for all frames of an image in place of its former ones."""
        self._answers[image] = dict(answers)
        self._answers.move_to_end(image)
        while self._answers and self.nbytes > self.budget:
            self._answers.popitem(last=False)

    def get(self, image: Hashable) -> Mapping[Frame, Answer]:
        """Give an image's answers by frame; empty when there are none any more."""
        if image in self._answers:
            self._answers.move_to_end(image)
        return self._answers.get(image, {})

    def drop(self, image: Hashable) -> None:
        """Forget an image."""
        self._answers.pop(image, None)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return sum(answer.nbytes for answers in self._answers.values() for answer in answers.values())


def _span(lesion: NDArray[np.floating], axis: int) -> slice:
    reached = np.flatnonzero(lesion.max(axis=axis, initial=0) >= LOWEST_THRESHOLD)
    return slice(int(reached[0]), int(reached[-1]) + 1) if reached.size else slice(0, 0)
