"""Masks that are read without an error, and yet are probably not what somebody meant to draw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_fill_holes
from skimage.measure import block_reduce

from napari_lesionseg.masks.components import bounding_box
from napari_lesionseg.types import IGNORED, LabelImage

INVERTED = "The mask has the lesion all around its border and skin in the middle; it may be inverted."
UNFILLED = "The mask has a line around the lesion, and the lesion itself is not filled."

_SIDE = 256  # pixels to which masks are reduced
_GAP = 2  # of these pixels that a line may have gaps of, on either side
_MOST_BORDER, _LEAST_SKIN = 0.99, 0.05
# Holes by the area that is drawn: at most 0.03 in the masks of ISIC 2017 and of smartphone photos, and more
# than 5 in outlines of 12 pixels around ellipses of 240 x 320.
_LEAST_HOLES = 1.0


def find_doubt(labels: LabelImage) -> str:
    """Say what is doubtful about a mask (h, w); "" if it looks like others. Ignored pixels are not drawn."""
    if _may_be_inverted(labels):
        return INVERTED
    return UNFILLED if _may_be_unfilled((labels > 0) & (labels != IGNORED)) else ""


def _may_be_inverted(labels: LabelImage) -> bool:
    """Whether one class is all around the border, and the background inside."""
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    most = np.bincount(border)[1:IGNORED].max(initial=0)
    return bool(most > _MOST_BORDER * border.size and (labels == 0).mean() > _LEAST_SKIN)


def _may_be_unfilled(drawn: NDArray[np.bool_]) -> bool:
    """Whether what is drawn encloses more than it covers."""
    box = bounding_box(drawn)
    if box is None:
        return False
    inside = drawn[box]
    if inside.mean() > 1 / (1 + _LEAST_HOLES):  # there is no room for such holes
        return False
    step = -(-max(inside.shape) // _SIDE)
    small = binary_closing(np.pad(block_reduce(inside, step, np.max), _GAP), iterations=_GAP)
    holes = np.count_nonzero(binary_fill_holes(small)) - np.count_nonzero(small)
    return bool(holes * step**2 >= _LEAST_HOLES * np.count_nonzero(inside))
