"""The tools that make an outline of an outline at one press of a button. No layers and no Qt in here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from napari_lesionseg.masks import morphology
from napari_lesionseg.types import ByteImage, LabelImage

TOOLS = (
    "smooth",
    "fill_holes",
    "largest_part",
    "remove_part",
    "snap",
    "split",
    "merge",
    "back_to_prediction",
    "clear",
)
"""Names of all tools; the last two are no matter of the mask alone."""

RESHAPING = frozenset({"smooth", "snap"})
"""Tools whose work the next answer of the network replaces."""


def apply_to_mask(
    name: str,
    mask: LabelImage,
    active: int,
    image: Callable[[], ByteImage],
    point: tuple[float, float] | None = None,
) -> LabelImage:
    """Use a tool.

    Parameters
    ----------
    name : str
        One of `TOOLS` but the last two.
    mask : ndarray
        (H, W) uint8, class indices.
    active : int
        The class that is meant if it is there; else all classes are.
    image : callable
        Gives the image, (H, W, 3) uint8, for tools that look at it.
    point : (float, float), optional
        Row and column, for "remove_part".

    Returns
    -------
    ndarray
        (H, W) uint8; the mask itself where there is nothing to do.

    Raises
    ------
    LesionSegError
        With a sentence that says why it cannot be done.
    """
    if name == "remove_part":
        return mask if point is None else morphology.remove_part(mask, *point)
    tool: Callable[..., LabelImage] = getattr(morphology, name)
    if name == "snap":
        tool = partial(tool, image())
    present = [int(label) for label in np.flatnonzero(np.bincount(mask.ravel(), minlength=2)[1:]) + 1]
    for label in [active] if active in present else present:
        mask = tool(mask, label)
    return mask
