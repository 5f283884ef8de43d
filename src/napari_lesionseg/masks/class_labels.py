"""Masks of several classes, made of masks of one class and of what is known of the lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.types import IGNORED, LabelImage

_Mask = NDArray[np.number | np.bool_]


def label_as(mask: _Mask, name: str | None, classes: Sequence[str]) -> LabelImage:
    """Give the pixels of a lesion the class that is known of the whole lesion, such as its diagnosis.

    Parameters
    ----------
    mask : ndarray, shape (H, W)
        Everything above 0 is lesion; 255 counts for nothing.
    name : str or None
        One of ``classes``; None: it is not known, so the lesion's pixels count for nothing in training.
    classes : sequence of str
        Names, background first.

    Returns
    -------
    LabelImage
        Class indices.

    Raises
    ------
    MaskError
        If there is no class of that name.
    """
    index = IGNORED if name is None else _index(name, classes)
    labels = np.where(mask > 0, index, 0).astype(np.uint8)
    labels[mask == IGNORED] = IGNORED
    return labels


def label_parts(mask: _Mask, regions: Mapping[str, _Mask], classes: Sequence[str]) -> LabelImage:
    """Give parts of a lesion classes of their own, such as the colors outlined in it.

    Parameters
    ----------
    mask : ndarray, shape (H, W)
        Everything above 0 is lesion; 255 counts for nothing.
    regions : mapping of str to ndarray, shape (H, W)
        The parts by the name of their class; what lies outside the lesion is left out. Where several
        overlap, the smallest is on top, as it would not be seen otherwise.
    classes : sequence of str
        Names, background first; the second is that of the lesion's remaining pixels.

    Returns
    -------
    LabelImage
        Class indices.

    Raises
    ------
    MaskError
        If a region has no class, or is not as large as the mask.
    """
    lesion = (mask > 0) & (mask != IGNORED)
    labels = np.where(mask == IGNORED, np.uint8(IGNORED), lesion.view(np.uint8))
    inside = {name: _fitting(region, name, mask) & lesion for name, region in regions.items()}
    for name in sorted(inside, key=lambda name: int(inside[name].sum()), reverse=True):
        labels[inside[name]] = _index(name, classes)
    return labels


def convert_labels(
    labels: LabelImage, old: Sequence[str], new: Sequence[str], *, missing: int = 0
) -> LabelImage:
    """Bring class indices from one list of classes to another, by name.

    Parameters
    ----------
    labels : LabelImage
        Indices into ``old``, and 255 for what counts for nothing.
    old, new : sequence of str
        Names, background first; the background keeps index 0 whatever its name.
    missing : int
        What pixels of a class become that ``new`` does not have: 0, background, or 255, nothing that counts.

    Returns
    -------
    LabelImage
        A new array.

    Raises
    ------
    MaskError
        If there are indices without a name.
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
