"""Images that show the same thing under several names, found by a perceptual hash."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_lesionseg.types import ByteImage

_SIDE = 16
_WORDS = 2 * _SIDE * _SIDE // 64
SAME_BITS = 40
"""Most bits of 512 in which two copies differ.

Among the 1997 images of the ISIC 2017 training set four pairs differ in at most 31 bits, all of them
copies, and the next pair, of different lesions, in 53.
"""


def image_hash(image: ByteImage) -> NDArray[np.uint64]:
    """Hash an image so that copies, resized or saved anew, get nearly the same hash.

    The signs of the brightness differences between neighbors on a grid of 16 x 16, along rows and along
    columns (the difference hash of N. Krawetz, "Kind of like that", 2013, in both directions).

    Parameters
    ----------
    image : ndarray
        (H, W, 3) uint8.

    Returns
    -------
    ndarray
        (8,) uint64, 512 bits.
    """
    gray = Image.fromarray(image).convert("L")
    wide = np.asarray(gray.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)).astype(np.int16)
    tall = np.asarray(gray.resize((_SIDE, _SIDE + 1), Image.Resampling.BOX)).astype(np.int16)
    signs = np.concatenate([(np.diff(wide, axis=1) > 0).ravel(), (np.diff(tall, axis=0) > 0).ravel()])
    return np.packbits(signs).view(np.uint64)


def find_duplicates(hashes: Mapping[str, NDArray[np.uint64]], bits: int = SAME_BITS) -> list[tuple[str, ...]]:
    """Group the images that are copies of each other.

    Parameters
    ----------
    hashes : mapping
        Hash of every image, as `image_hash` gives it.
    bits : int
        Most bits in which two copies differ.

    Returns
    -------
    list of tuple of str
        Groups of at least two names, in the order of the mapping.
    """
    names = list(hashes)
    table = np.array([hashes[name] for name in names], dtype=np.uint64).reshape(len(names), _WORDS)
    group = list(range(len(names)))
    for row in range(1, len(names)):
        # One row against all before it: 80 kB for 10 000 images, where the whole table would take 800 MB.
        distance = np.bitwise_count(table[:row] ^ table[row]).sum(axis=1, dtype=np.int64)
        for other in np.flatnonzero(distance <= bits):
            _join(group, int(other), row)
    members: dict[int, list[str]] = {}
    for index, name in enumerate(names):
        members.setdefault(_root(group, index), []).append(name)
    return [tuple(found) for found in members.values() if len(found) > 1]


def _root(group: list[int], index: int) -> int:
    while group[index] != index:
        index = group[index]
    return index


def _join(group: list[int], first: int, second: int) -> None:
    roots = sorted((_root(group, first), _root(group, second)))
    group[roots[1]] = roots[0]
