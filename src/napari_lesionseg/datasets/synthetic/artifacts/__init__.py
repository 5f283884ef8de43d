"""What lies over the skin in dermoscopy: hairs, bubbles, rulers, ink, dark corners, wrong colours.

Every function takes a picture of shape (H, W, 3) and returns a new one of the same shape; the picture
given is left alone. They draw with Pillow on a byte layer and blend it in, which takes one to three
milliseconds at 256 x 256: quick enough for every picture of a training batch, and used by
:mod:`napari_lesionseg.datasets.synthetic` as well.

None of them changes what is lesion and what is not: the mask of a picture stays valid. Things that hide
the skin altogether (aperture, sticker) keep to the rim for this reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from napari_lesionseg.datasets.synthetic.artifacts.optics import black_corners, colour_cast, vignette
from napari_lesionseg.datasets.synthetic.artifacts.in_fluid import bubbles
from napari_lesionseg.datasets.synthetic.artifacts.occlusions import ink, sticker
from napari_lesionseg.datasets.synthetic.artifacts.on_glass import ruler
from napari_lesionseg.datasets.synthetic.artifacts.on_skin import hairs
from napari_lesionseg.types import ByteImage

__all__ = [
    "Artefact",
    "black_corners",
    "bubbles",
    "colour_cast",
    "hairs",
    "ink",
    "random_artefacts",
    "ruler",
    "sticker",
    "vignette",
]

Artefact: TypeAlias = Callable[[ByteImage, np.random.Generator], ByteImage]

# In the order of nature: on the skin, then in the fluid, then on the glass, then in the camera.
_ARTEFACTS: tuple[tuple[Artefact, float], ...] = (
    (ink, 0.10),
    (sticker, 0.06),
    (hairs, 0.45),
    (bubbles, 0.20),
    (ruler, 0.18),
    (colour_cast, 0.35),
    (vignette, 0.25),
    (black_corners, 0.25),
)
_HIDING: tuple[Artefact, ...] = (sticker, black_corners)


def random_artefacts(
    image: ByteImage, rng: np.random.Generator, probability: float, *, hiding: bool = True
) -> ByteImage:
    """Put a plausible handful of artefacts over a picture.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        The picture, 32 x 32 or larger.
    rng : numpy.random.Generator
        Source of all choices.
    probability : float
        Chance, 0 to 1, that the picture gets any artefact at all. If it does, each kind comes with its own
        frequency (hairs in about every second picture, ink in every tenth), and at least one comes.
    hiding : bool
        Whether those that hide the rim altogether, sticker and aperture, may be among them. Leave them out
        where a lesion reaches the rim.

    Returns
    -------
    array of uint8, shape (H, W, 3)
        A new picture, or a plain copy.
    """
    if rng.random() >= probability:
        return image.copy()
    frequencies = np.array([share if hiding or f not in _HIDING else 0.0 for f, share in _ARTEFACTS])
    chosen = rng.random(len(_ARTEFACTS)) < frequencies
    chosen[rng.choice(len(_ARTEFACTS), p=frequencies / frequencies.sum())] = True
    for (artefact, _), wanted in zip(_ARTEFACTS, chosen, strict=True):
        image = artefact(image, rng) if wanted else image
    return image
