"""The outline that touches the sides of a box: how far its level must move, and how well it fits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.masks.components import bounding_box, connected_components

SHIFTS = np.arange(-4, 4.5, 0.5)  # logits
SHIFT_PENALTY = 3e-4  # squared distance, in sides of the box, that moving the level by 1 must gain
LARGEST_DISTANCE = 0.5  # sides; beyond this it no longer matters how far
OWN_PART = 0.1  # of the largest part in the box: smaller ones are not what it was drawn around
TRUSTED_DISTANCE = 0.008  # at which the automatic outline is trusted half as much as one that fits exactly


class BoxFit(NamedTuple):
    """The level at which an outline fits a box best."""

    shift: float  # to add to the logit
    distance: float  # mean squared distance of the sides, with the penalty


def fit_box(logit: NDArray[np.float32], inside: NDArray[np.bool_]) -> BoxFit:
    """Move the level of a logit (h, w), 0 at the outline, until its extent is that of a box.

    A box tells the size of a lesion better than any network, which does not know how wide the annotator's
    outlines are. The sides are off by some percent, so that an outline that nearly fits stays as it is.
    """
    half, box = logit[::2, ::2], inside[::2, ::2]
    goal = _sides(box)
    if goal is None:  # the box is outside the view
        return BoxFit(0.0, 1.0)
    height, width = goal[2] - goal[0], goal[3] - goal[1]
    scale = np.array([height, width, height, width])
    costs = [_distance(half + shift >= 0, box, goal, scale) + SHIFT_PENALTY * shift**2 for shift in SHIFTS]
    best = int(np.argmin(costs))
    return BoxFit(float(SHIFTS[best]), costs[best])


def automatic_trust(automatic: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Return how well the automatic outline fits a box, 0 to 1; ``automatic`` (h, w) is its logit.

    Where it fits, as on images like those of training, it is better than what the prompts alone give.
    """
    distance = fit_box(automatic, inside).distance
    return 1 / (1 + (distance / TRUSTED_DISTANCE) ** 2)


def _distance(
    mask: NDArray[np.bool_], box: NDArray[np.bool_], goal: NDArray[np.int_], scale: NDArray[np.int_]
) -> float:
    """Return the mean squared distance of the sides of a mask from those of a box; 1 if it has none."""
    parts = connected_components(mask)
    areas = np.bincount(parts[box], minlength=int(parts.max(initial=0)) + 1)
    areas[0] = 0
    sides = _sides((areas >= max(1, OWN_PART * areas.max()))[parts])
    if sides is None:
        return 1.0
    return float(np.mean(np.minimum(np.abs(sides - goal) / scale, LARGEST_DISTANCE) ** 2))


def _sides(mask: NDArray[np.bool_]) -> NDArray[np.int_] | None:
    """Return top, left, bottom and right of a mask; None if it is empty."""
    found = bounding_box(mask)
    if found is None:
        return None
    return np.array([found[0].start, found[1].start, found[0].stop, found[1].stop])
