"""Bare skin as a dermatoscope shows it.

The colors are CIELAB values (D65) whose individual typology angle, ITA = atan((L* - 50) / b*) 180 / pi,
lies in the six groups of Chardon et al. (Int. J. Cosmet. Sci. 13, 1991, 191-208): very light above 55
degrees, light above 41, intermediate above 28, tan above 10, brown above -30, dark below. The six groups
stand for the Fitzpatrick types I to VI, although the two scales agree only roughly (Ly et al., J. Invest.
Dermatol. 140, 2020, 3-12, doi:10.1016/j.jid.2019.11.003). Within a group, a* and b* are typical of measured
skin (Xiao et al., Skin Res. Technol. 23, 2017, 21-29, doi:10.1111/srt.12295): chroma is highest in the middle
of the range and falls towards dark skin.

How much light and color vary across an image was set by eye, and checked against the spread of L*, a* and
b* in the public ISIC 2017 training images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb

from napari_lesionseg.datasets.synthetic.textures import Field, cells, noise, ridges, smoothstep

SKIN_LAB: dict[int, tuple[float, float, float]] = {
    1: (75.0, 9.0, 13.0),
    2: (69.5, 11.0, 16.5),
    3: (64.5, 12.0, 19.0),
    4: (58.0, 13.0, 21.0),
    5: (45.5, 13.0, 17.5),
    6: (34.0, 10.0, 11.5),
}
"""Fitzpatrick type: L*, a*, b* of the middle of its group."""

# Optical densities (natural logarithm) of red, green and blue for one unit of a dye in or on the skin.
BROWN = np.array((0.33, 0.66, 1.12), dtype=np.float32)  # melanin in the epidermis
BLACK = np.array((1.55, 1.55, 1.35), dtype=np.float32)  # melanin piled up
BLOOD = np.array((0.10, 0.62, 0.46), dtype=np.float32)  # haemoglobin
AMBER = np.array((0.12, 0.30, 0.62), dtype=np.float32)  # keratin, serum


@dataclass(frozen=True)
class Skin:
    """Skin without a lesion."""

    color: NDArray[np.float32]
    relief: Field
    shine: Field


def draw_skin(rng: np.random.Generator, size: tuple[int, int], skin_type: int) -> Skin:
    """Draw skin of Fitzpatrick type `skin_type` (1 to 6), `size` = (height, width)."""
    side = min(size)
    tone = np.array(SKIN_LAB[skin_type]) + rng.normal(0, (0.9, 0.9, 0.7))
    base = np.asarray(lab2rgb(tone[None, None, :])[0, 0], dtype=np.float32)
    melanin = 0.026 * noise(rng, size, side / 2.0, 2) + 0.014 * noise(rng, size, side / 12, 3)
    blood = 0.026 * noise(rng, size, side / 2.5, 2) + 0.016 * noise(rng, size, side / 16, 3)
    if rng.random() < 0.45:
        blood += _vessels(rng, size) * rng.uniform(0.05, 0.16)
    if rng.random() < 0.4:
        melanin += _freckles(rng, size) * rng.uniform(0.05, 0.15)
    density = melanin[..., None] * BROWN + blood[..., None] * BLOOD
    pattern = _furrows(rng, size)
    return Skin(
        color=np.asarray(base * np.exp(-density), dtype=np.float32),
        relief=_relief(rng, size, pattern),
        shine=_shine(rng, size, pattern),
    )


def _furrows(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Draw the fine rhomboid lines of the skin's surface, 1 in a furrow."""
    spacing = max(3.0, min(size) * rng.uniform(0.022, 0.04))
    tiles = cells(rng, size, spacing, stretch=rng.uniform(1.1, 1.9), angle=rng.uniform(0, np.pi), warp=0.3)
    return np.asarray(np.exp(-((tiles.edge / np.float32(0.11)) ** 2)), dtype=np.float32)


def _relief(rng: np.random.Generator, size: tuple[int, int], furrows: Field) -> Field:
    side = min(size)
    patchy = np.clip(0.6 + 0.5 * noise(rng, size, side / 4, 2), 0, 1.4)
    lines = rng.choice((0.008, 0.018, 0.04)) * rng.uniform(0.7, 1.3) * patchy * furrows
    grain = 0.010 * noise(rng, size, max(2.0, side / 90), 2)
    pores = cells(rng, size, side * rng.uniform(0.05, 0.09), warp=0.1)
    radius = np.float32(rng.uniform(0.05, 0.09))
    dots = np.exp(-((pores.nearest / radius) ** 2)) * (pores.value < 0.55)
    return np.asarray(1 - lines + grain + rng.uniform(-0.05, 0.06) * dots, dtype=np.float32)


def _shine(rng: np.random.Generator, size: tuple[int, int], furrows: Field) -> Field:
    """Draw the white glints of a dry or badly wetted surface; most images have next to none."""
    if rng.random() < 0.6:
        return np.zeros(size, dtype=np.float32)
    side = min(size)
    where = smoothstep(noise(rng, size, side / 2.5), 0.5, 1.8)
    broken = smoothstep(noise(rng, size, max(2.0, side / 45), 2), 0.4, 1.2)
    return np.asarray(rng.uniform(0.2, 0.5) * where * broken * furrows, dtype=np.float32)


def _vessels(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Draw thin winding vessels in a few places."""
    side = min(size)
    where = smoothstep(noise(rng, size, side / 3), 0.1, 1.2)
    winding = noise(rng, size, side / 7, 3)
    return np.asarray(where * ridges(winding, 0.07), dtype=np.float32)


def _freckles(rng: np.random.Generator, size: tuple[int, int]) -> Field:
    """Draw faint, soft spots of pigment, far too pale for a lesion."""
    side = min(size)
    spots = cells(rng, size, side * rng.uniform(0.07, 0.13), warp=0.2)
    radius = 0.10 + 0.16 * spots.value
    return np.asarray(np.exp(-((spots.nearest / radius) ** 2)) * (spots.value > 0.55), dtype=np.float32)
