"""What lies over the skin in dermoscopy: hairs, bubbles, rulers, ink, dark corners, wrong colors.

Every function takes an image of shape (H, W, 3) and returns a new one of the same shape; the image
given is left alone. They draw with Pillow on a byte layer and blend it in, which takes one to three
milliseconds at 256 x 256: quick enough for every image of a training batch, and used by
:mod:`napari_lesionseg.datasets.synthetic` as well.

None of them changes what is lesion and what is not: the mask of an image stays valid. Things that hide
the skin altogether (aperture, sticker) keep to the rim for this reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from napari_lesionseg.datasets.synthetic.artifacts.occlusions import bubbles, hairs, ink, ruler, sticker
from napari_lesionseg.datasets.synthetic.artifacts.optics import black_corners, color_cast, vignette
from napari_lesionseg.types import ByteImage

__all__ = [
    "Artifact",
    "black_corners",
    "bubbles",
    "color_cast",
    "hairs",
    "ink",
    "random_artifacts",
    "ruler",
    "sticker",
    "vignette",
]

Artifact: TypeAlias = Callable[[ByteImage, np.random.Generator], ByteImage]

# In the order of nature: on the skin, then in the fluid, then on the glass, then in the camera.
_ARTIFACTS: tuple[tuple[Artifact, float], ...] = (
    (ink, 0.10),
    (sticker, 0.06),
    (hairs, 0.45),
    (bubbles, 0.20),
    (ruler, 0.18),
    (color_cast, 0.35),
    (vignette, 0.25),
    (black_corners, 0.25),
)
_HIDING: tuple[Artifact, ...] = (sticker, black_corners)


def random_artifacts(
    image: ByteImage, rng: np.random.Generator, probability: float, *, hiding: bool = True
) -> ByteImage:
    """Put a plausible handful of artifacts over an image."""
    if rng.random() >= probability:
        return image.copy()
    frequencies = np.array([share if hiding or f not in _HIDING else 0.0 for f, share in _ARTIFACTS])
    chosen = rng.random(len(_ARTIFACTS)) < frequencies
    chosen[rng.choice(len(_ARTIFACTS), p=frequencies / frequencies.sum())] = True
    for (artifact, _), wanted in zip(_ARTIFACTS, chosen, strict=True):
        image = artifact(image, rng) if wanted else image
    return image
