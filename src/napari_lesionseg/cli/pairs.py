"""Images and masks named on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from napari_lesionseg.cli.console import say_error
from napari_lesionseg.errors import PairingError
from napari_lesionseg.io.pairing import find_pairs
from napari_lesionseg.types import Pair


def find_all_pairs(images: Sequence[str], masks: Sequence[str]) -> list[Pair]:
    """Find the pairs of several folders; images without a mask are left out, and counted aloud.

    Parameters
    ----------
    images : sequence of str
        Folders of images.
    masks : sequence of str
        The folder of masks of each, in the same order; empty: as `find_pairs` finds them.

    Raises
    ------
    PairingError
        If there are not as many folders of masks as of images, or one holds no pairs.
    """
    if masks and len(masks) != len(images):
        raise PairingError("Give one folder of masks for each folder of images, in the same order.")
    pairs: list[Pair] = []
    without = 0
    for index, folder in enumerate(images):
        found = find_pairs([folder], [masks[index]] if masks else None)
        without += len(found.without_mask)
        pairs += found.pairs
    if without:
        say_error(f"{without} images have no mask and are left out")
    return pairs
