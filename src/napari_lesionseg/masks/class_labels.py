"""Masks of several classes, made of masks of one class and of what is known of the lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.types import IGNORED, LabelImage

_Mask = NDArray[np.number | np.bool_]


def label_as(mask: _Mask, name: str | None, classes: Sequence[str]) -> LabelImage:
    """Return the mask with its lesion in the class ``name``, such as a diagnosis; None makes it `IGNORED`."""
    index = IGNORED if name is None else _index(name, classes)
    labels = np.where(mask > 0, index, 0).astype(np.uint8)
    labels[mask == IGNORED] = IGNORED
    return labels


def label_parts(mask: _Mask, regions: Mapping[str, _Mask], classes: Sequence[str]) -> LabelImage:
    """Return the mask with parts of the lesion in classes of their name; the smallest part is on top."""
    lesion = (mask > 0) & (mask != IGNORED)
    labels = np.where(mask == IGNORED, np.uint8(IGNORED), lesion.view(np.uint8))
    inside = {name: _fitting(region, name, mask) & lesion for name, region in regions.items()}
    for name in sorted(inside, key=lambda name: int(inside[name].sum()), reverse=True):
        labels[inside[name]] = _index(name, classes)
    return labels


def convert_labels(
    labels: LabelImage, old: Sequence[str], new: Sequence[str], *, missing: int = 0
) -> LabelImage:
    """Convert class indices from one list of classes to another, by name.

    Pixels of a class that ``new`` lacks become ``missing``: 0, background, or 255, ignored.
    """
    highest = int(labels.max(initial=0, where=labels != IGNORED))
    if highest >= len(old):
        raise MaskError(f"The mask has a class {highest}, but there are names for {len(old)} classes only.")
    table = np.full(IGNORED + 1, IGNORED, np.uint8)
    table[0] = 0
    for index, name in enumerate(old[1:], 1):
        table[index] = new.index(name) if name in new[1:] else missing
    return table[labels]


def _index(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise MaskError(f"There is no class '{name}'; the classes are {', '.join(classes)}.")
    return classes.index(name)


def _fitting(region: _Mask, name: str, mask: _Mask) -> NDArray[np.bool_]:
    if region.shape != mask.shape:
        raise MaskError(f"The part '{name}' is of shape {region.shape}, but its mask is of {mask.shape}.")
    return np.asarray(region > 0)
