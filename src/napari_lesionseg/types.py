"""The small values that every part of the package speaks in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ByteImage: TypeAlias = NDArray[np.uint8]
"""An image, shape (H, W, 3), RGB, 0 to 255."""

LabelImage: TypeAlias = NDArray[np.uint8]
"""Class indices, shape (H, W), 0 = background."""

Probability: TypeAlias = NDArray[np.float32]
"""Probabilities in [0, 1], shape (H, W), or (C, H, W) for C classes with the background first."""


@dataclass(frozen=True, slots=True)
class Click:
    """A point the annotator set to steer the outline.

    Parameters
    ----------
    row, col : float
        Position in pixels of the image; the center of the top left pixel is (0, 0).
    positive : bool
        True: this belongs to the lesion. False: it does not.
    """

    row: float
    col: float
    positive: bool = True

    @property
    def pixel(self) -> tuple[int, int]:
        """Row and column of the pixel the point lies in; it need not be inside the image."""
        return math.floor(self.row + 0.5), math.floor(self.col + 0.5)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle the annotator drew, in pixels of the image; ``bottom`` and ``right`` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Scribble:
    """A stroke the annotator drew to steer the outline.

    Parameters
    ----------
    points : sequence of (float, float)
        Rows and columns along the stroke, in pixels of the image, as those of a `Click`.
    positive : bool
        True: this belongs to the lesion. False: it does not.
    """

    points: Sequence[tuple[float, float]]
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Prompts:
    """All that the annotator drew to show where a lesion is, in pixels of the image."""

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    lasso: tuple[tuple[float, float], ...] = ()  # rows and columns
    scribbles: tuple[Scribble, ...] = ()

    @property
    def points(self) -> tuple[Click, ...]:
        """The points of the scribbles, then the clicks."""
        strokes = (
            Click(row, col, scribble.positive) for scribble in self.scribbles for row, col in scribble.points
        )
        return (*strokes, *self.clicks)

    @property
    def has_area(self) -> bool:
        """Whether a box or a lasso encloses the lesion."""
        return self.box is not None or bool(self.lasso)

    @property
    def area(self) -> Prompts:
        """The box and the lasso alone."""
        return Prompts(box=self.box, lasso=self.lasso)


NO_PROMPTS = Prompts()


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and the mask that belongs to it."""

    stem: str
    image: Path
    mask: Path


MAX_CLASS_INDEX = 127
"""Largest class index of an index mask: values above it mean black and white."""

IGNORED = 255
"""Label of pixels that count for nothing in training and measuring."""
