"""The small values that every part of the package speaks in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_lesionseg.errors import LandmarkError

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
        Rows and columns along the stroke, in pixels of the image, as those of a `Click`. Straight lines join
        them; points outside the image are left out.
    positive : bool
        True: this belongs to the lesion. False: it does not.
    """

    points: Sequence[tuple[float, float]]
    positive: bool = True


Stroke: TypeAlias = Click | Scribble
"""What the annotator put on a lesion, or beside it."""


def points_of(stroke: Stroke) -> Sequence[tuple[float, float]]:
    """Return the rows and columns of a click or scribble."""
    return [(stroke.row, stroke.col)] if isinstance(stroke, Click) else stroke.points


@dataclass(frozen=True, slots=True)
class Prompts:
    """All that the annotator drew to show where a lesion is, in pixels of the image."""

    strokes: tuple[Stroke, ...] = ()  # oldest first; where they meet, the later one counts
    box: Box | None = None
    lasso: tuple[tuple[float, float], ...] = ()  # rows and columns

    @property
    def points(self) -> list[tuple[float, float]]:
        """Rows and columns of all strokes."""
        return [point for stroke in self.strokes for point in points_of(stroke)]

    @property
    def has_area(self) -> bool:
        """Whether a box or a lasso encloses the lesion."""
        return self.box is not None or bool(self.lasso)

    @property
    def area(self) -> Prompts:
        """The box and the lasso alone."""
        return Prompts(box=self.box, lasso=self.lasso)


NO_PROMPTS = Prompts()


NOT_LABELED, OCCLUDED, VISIBLE = 0, 1, 2
"""Visibility of a landmark, with COCO's numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """Landmarks of one person, or of whatever else a skeleton describes.

    Parameters
    ----------
    points : ndarray
        Rows and columns, shape (K, 2), float32, in pixels of the image, as those of a `Click`; NaN where a
        landmark is not labeled.
    visibility : ndarray
        Shape (K,), uint8: 0 not labeled, 1 labeled but occluded, 2 visible.
    scores : ndarray
        Confidence, shape (K,), float32 in [0, 1]; 1 for what a person marked.
    id : str
        Tells several people in an image, or in a video, apart.

    Raises
    ------
    LandmarkError
        If the shapes differ, a labeled landmark has no position, or a visibility or score is out of range.
    """

    points: NDArray[np.float32]
    visibility: NDArray[np.uint8]
    scores: NDArray[np.float32]
    id: str = ""

    def __post_init__(self) -> None:
        count = len(self.points)
        if self.points.shape != (count, 2) or {self.visibility.shape, self.scores.shape} != {(count,)}:
            raise LandmarkError("Landmarks need a position, a visibility and a score each.")
        if (self.visibility > VISIBLE).any():
            raise LandmarkError("The visibility of a landmark is 0, 1 or 2.")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise LandmarkError("The score of a landmark must lie between 0 and 1.")
        if not np.isfinite(self.points[self.labeled]).all():
            raise LandmarkError("A labeled landmark has no position.")

    @property
    def labeled(self) -> NDArray[np.bool_]:
        """Which landmarks have a position, shape (K,)."""
        return self.visibility > NOT_LABELED

    @property
    def score(self) -> float:
        """Mean score of the labeled landmarks; 0 without any."""
        return float(self.scores[self.labeled].mean()) if self.labeled.any() else 0.0

    @property
    def bounds(self) -> NDArray[np.float32]:
        """Top, left, bottom and right of the labeled landmarks, shape (4,); NaN without any."""
        if not self.labeled.any():
            return np.full(4, np.nan, np.float32)
        points = self.points[self.labeled]
        return np.concatenate([points.min(axis=0), points.max(axis=0)])


def make_landmarks(
    points: ArrayLike,
    visibility: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    id: str = "",  # noqa: A002
) -> Landmarks:
    """Make `Landmarks` from positions (K, 2); those that are NaN, or of visibility 0, are not labeled."""
    placed = np.array(points, np.float32).reshape(-1, 2)
    known = np.isfinite(placed).all(axis=1)
    seen = np.full(len(placed), VISIBLE) if visibility is None else np.asarray(visibility)
    kept = np.where(known, seen, NOT_LABELED).astype(np.uint8)
    placed[kept == NOT_LABELED] = np.nan
    confident = np.ones(len(placed)) if scores is None else np.asarray(scores)
    return Landmarks(placed, kept, np.where(kept > NOT_LABELED, confident, 0).astype(np.float32), id)


class Mark(NamedTuple):
    """A landmark as it was marked; one that fits no skeleton is kept as well.

    Parameters
    ----------
    label : str
        Name of the landmark.
    row, col : float
        As those of a `Click`.
    visibility : int
        1 labeled but occluded, 2 visible.
    score : float
        Confidence in [0, 1]; 1 for what a person marked.
    id : str
        The person it belongs to.
    """

    label: str
    row: float
    col: float
    visibility: int = VISIBLE
    score: float = 1.0
    id: str = ""


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
