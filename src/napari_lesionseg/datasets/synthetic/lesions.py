"""Lesions: an outline, and inside it the dyes that give each kind its look.

Pigments darken the skin below as dyes do (Beer and Lambert's law on the channels of the image), so that a
nevus on brown skin is a darker brown, not a pasted patch. The structures are those of dermoscopy's vocabulary
(Kittler et al., J. Am. Acad. Dermatol. 74, 2016, 1093-1106): network, globules, dots, streaks, blue-white
veil, regression, milia-like cysts, comedo-like openings, vessels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from napari_lesionseg.datasets.synthetic.skin import AMBER, BLACK, BLOOD, BROWN
from napari_lesionseg.datasets.synthetic.textures import Field, cells, noise, ridges, smoothstep
from napari_lesionseg.masks.components import bounding_box, largest_component

BoolArray = NDArray[np.bool_]


@dataclass
class Dyes:
    """What a lesion adds to the skin, each of shape (H, W): amounts of dye, then shares of paint."""

    brown: Field
    black: Field
    blood: Field
    amber: Field
    blue: Field
    white: Field


@dataclass(frozen=True)
class Place:
    """Where a lesion lies: center, mean radius and farthest reach in pixels of the image."""

    row: float
    col: float
    radius: float
    reach: float


@dataclass(frozen=True)
class Area:
    """The ground a painter works on."""

    size: tuple[int, int]
    unit: float
    radius: float
    depth: Field


Painter = Callable[[np.random.Generator, Area], Dyes]


@dataclass(frozen=True)
class Kind:
    """How lesions of one kind look."""

    irregular: float
    rough: float
    soft: tuple[float, float]
    paint: Painter


# --- outline ------------------------------------------------------------------------------------


def draw_outline(rng: np.random.Generator, size: tuple[int, int], place: Place, kind: Kind) -> BoolArray:
    """Draw the region of one lesion: connected, without holes, within ``place.reach``.

    The outline is a level set: a circle stretched to an oval, its radius waved by harmonics of the angle,
    plus smooth noise. Where the noise tears parts off, the largest one stays.
    """
    rows, cols = np.ogrid[: size[0], : size[1]]
    y, x = (rows - place.row).astype(np.float32), (cols - place.col).astype(np.float32)
    turn, oval = rng.uniform(0, np.pi), rng.uniform(1.0, 1.15 + kind.irregular)
    along = (x * np.cos(turn) + y * np.sin(turn)) / oval
    across = (y * np.cos(turn) - x * np.sin(turn)) * oval
    waves = _waves(rng, np.arctan2(across, along), kind.irregular)
    level = place.radius * waves - np.hypot(along, across)
    level = level + place.radius * kind.rough * noise(rng, size, max(4.0, place.radius / 3), 4)
    region = (level > 0) & (np.hypot(y, x) < place.reach)
    return _in_one_piece(_without_spikes(region, 0.07 * place.radius), place)


def _waves(rng: np.random.Generator, angle: Field, irregular: float) -> Field:
    """Radius over mean radius at each angle."""
    turn = np.linspace(-np.pi, np.pi, 721)
    waved = np.ones_like(turn)
    for harmonic in range(2, 10):
        amplitude = irregular * abs(rng.normal(0.8, 0.5)) / harmonic**0.9
        waved += amplitude * np.cos(harmonic * turn + rng.uniform(0, 2 * np.pi))
    return np.interp(angle, turn, waved).astype(np.float32)


def _without_spikes(region: BoolArray, radius: float) -> BoolArray:
    """Take off what a disc of this radius does not fit into (a morphological opening)."""
    core = ndimage.distance_transform_edt(region) > radius
    if radius < 1 or not core.any():
        return region
    return np.asarray(region & (ndimage.distance_transform_edt(~core) <= radius), dtype=np.bool_)


def _in_one_piece(region: BoolArray, place: Place) -> BoolArray:
    """Keep the largest part, filled; a lesion too small to hit any pixel becomes the pixel at its center."""
    region = largest_component(region, diagonal=False)
    if not region.any():
        row = int(np.clip(round(place.row), 0, region.shape[0] - 1))
        col = int(np.clip(round(place.col), 0, region.shape[1] - 1))
        region = region.copy()
        region[row, col] = True
    return np.asarray(ndimage.binary_fill_holes(region), dtype=np.bool_)


def signed_distance(region: BoolArray) -> Field:
    """Distance in pixels to the outline of `region`: above 0 inside, below 0 outside, never 0."""
    inside = ndimage.distance_transform_edt(region)
    outside = ndimage.distance_transform_edt(~region)
    return np.asarray(np.where(region, inside - 0.5, 0.5 - outside), dtype=np.float32)


# --- structures inside --------------------------------------------------------------------------


def _empty(area: Area) -> Dyes:
    return Dyes(*(np.zeros(area.size, dtype=np.float32) for _ in range(6)))


def _network(rng: np.random.Generator, area: Area, spacing: float) -> Field:
    """Draw pigment network: 1 on the brown lines, 0 in the pale holes; here clear, there lost."""
    mesh = cells(rng, area.size, max(3.0, spacing * area.unit), warp=0.3, jitter=0.55)
    width = np.clip(0.24 + 0.06 * noise(rng, area.size, area.radius / 2), 0.1, 0.4)
    lines = np.exp(-((mesh.edge / width) ** 2))
    clear = smoothstep(noise(rng, area.size, area.radius / 1.5), -1.4, 0.8)
    return np.asarray(0.5 + (lines - 0.5) * clear, dtype=np.float32)


def _globules(
    rng: np.random.Generator, area: Area, spacing: float, share: float, radius: float = 0.34
) -> Field:
    """Draw round clods: 1 inside, 0 between; `share` of the places hold one."""
    seats = cells(rng, area.size, max(3.0, spacing * area.unit), warp=0.15, jitter=0.65)
    reach = radius * (0.6 + 0.6 * seats.value / share)
    strength = (0.5 + 0.5 * seats.value / share) * (seats.value < share)
    return np.asarray(np.exp(-((seats.nearest / reach) ** 2.5)) * strength, dtype=np.float32)


def _mottled(rng: np.random.Generator, area: Area, strength: float) -> Field:
    """Draw uneven pigment, about 1."""
    coarse = noise(rng, area.size, max(4.0, area.radius / 1.2), 2)
    middle = noise(rng, area.size, max(3.0, 5 * area.unit), 2)
    fine = noise(rng, area.size, max(2.0, 1.4 * area.unit), 2)
    mixed = 0.7 * coarse + 0.55 * middle + 0.4 * fine
    return np.asarray(np.clip(1 + strength * mixed, 0.2, None), dtype=np.float32)


def _lopsided(rng: np.random.Generator, area: Area) -> Field:
    """Draw a slope across the lesion, about -1 on one side to 1 on the other, bent by noise."""
    rows, cols = np.indices(area.size, dtype=np.float32)
    inside = area.depth > 0
    heading = rng.uniform(0, 2 * np.pi)
    row, col = rows[inside].mean(), cols[inside].mean()
    slope = ((cols - col) * np.cos(heading) + (rows - row) * np.sin(heading)) / area.radius
    return np.asarray(slope + 0.55 * noise(rng, area.size, area.radius / 1.3), dtype=np.float32)


def _towards_center(area: Area) -> Field:
    """Grow from 0 at the outline to 1 well inside."""
    return smoothstep(area.depth, 0.0, 0.75)


# --- kinds --------------------------------------------------------------------------------------


def _paint_common_nevus(rng: np.random.Generator, area: Area) -> Dyes:
    """One or two browns, even, mostly darker towards the middle."""
    dyes = _empty(area)
    center = rng.uniform(0.0, 0.7) * _towards_center(area)
    dyes.brown = rng.uniform(0.7, 1.15) * _mottled(rng, area, 0.22) * (0.85 + center)
    dyes.black = rng.uniform(0, 0.35) * center * _mottled(rng, area, 0.3)
    if rng.random() < 0.6:
        dyes.brown *= 0.8 + 0.4 * _network(rng, area, rng.uniform(1.4, 2.0))
    dyes.blood += np.float32(rng.uniform(0.0, 0.2))
    return dyes


def _paint_reticular_nevus(rng: np.random.Generator, area: Area) -> Dyes:
    """Plain pigment network, often with a darker middle."""
    dyes = _empty(area)
    net = _network(rng, area, rng.uniform(1.4, 2.0))
    center = rng.uniform(0.0, 0.8) * _towards_center(area)
    dyes.brown = rng.uniform(0.75, 1.1) * _mottled(rng, area, 0.22) * (0.7 + 0.5 * net + center)
    dyes.black = rng.uniform(0.1, 0.4) * center * net
    dyes.blood += np.float32(rng.uniform(0.0, 0.15))
    return dyes


def _paint_globular_nevus(rng: np.random.Generator, area: Area) -> Dyes:
    """Brown clods like cobblestones on a paler ground."""
    dyes = _empty(area)
    clods = _globules(rng, area, rng.uniform(1.7, 2.5), 0.9, 0.46)
    center = rng.uniform(0.0, 0.6) * _towards_center(area)
    ground = rng.uniform(0.7, 0.9)
    dyes.brown = _mottled(rng, area, 0.28) * (ground + rng.uniform(0.3, 0.5) * clods + center)
    dyes.black = 0.2 * rng.random() * clods * _mottled(rng, area, 0.4)
    dyes.blood += np.float32(rng.uniform(0.05, 0.25))
    return dyes


def _paint_atypical_nevus(rng: np.random.Generator, area: Area) -> Dyes:
    """Two tones, unevenly shared, on a pinkish ground, with patches of network and a few clods."""
    dyes = _empty(area)
    dark = smoothstep(_lopsided(rng, area), -0.8, 0.9)
    light, deep = rng.uniform(0.55, 0.7), rng.uniform(1.2, 1.6)
    net = _network(rng, area, rng.uniform(1.5, 2.3))
    dyes.brown = (light + (deep - light) * dark) * _mottled(rng, area, 0.25) * (0.75 + 0.45 * net)
    dyes.black = dark * (0.3 * _globules(rng, area, 2.6, 0.35) + rng.uniform(0, 0.3) * net)
    dyes.blood = rng.uniform(0.15, 0.4) * (1 - 0.5 * dark)
    return dyes


def _paint_melanoma(rng: np.random.Generator, area: Area) -> Dyes:
    """Many colors without order: browns, black blots, red, blue-white veil, scars, clods at the rim."""
    dyes = _empty(area)
    slope = _lopsided(rng, area)
    dark = smoothstep(slope, -1.2, 0.9)
    blot = smoothstep(slope + 0.4 * noise(rng, area.size, area.radius / 2, 4), -0.2, 1.3)
    net = _network(rng, area, rng.uniform(1.8, 2.8))
    dyes.brown = (0.95 + 0.7 * dark) * _mottled(rng, area, 0.24) * (0.8 + 0.35 * net)
    rim = np.exp(-(((area.depth - 0.12) / 0.12) ** 2)).astype(np.float32)
    dyes.black = (rng.uniform(0.1, 0.35) * dark + rng.uniform(0.3, 0.8) * blot) * _mottled(rng, area, 0.25)
    dyes.black += (0.3 * rim + 0.15 * dark) * _globules(rng, area, 2.3, 0.4)
    dyes.blood = np.clip(0.15 + 0.12 * noise(rng, area.size, area.radius / 1.2), 0, 0.5).astype(np.float32)
    deep = smoothstep(area.depth, 0.05, 0.45)
    veil = smoothstep(noise(rng, area.size, area.radius, 4), -0.3, 2.0)
    dyes.blue = rng.uniform(0.2, 0.75) * deep * veil
    if rng.random() < 0.35:
        dyes.white = 0.3 * deep * smoothstep(noise(rng, area.size, area.radius / 1.4, 4), 0.5, 2.2)
    return dyes


def _paint_seborrheic_keratosis(rng: np.random.Generator, area: Area) -> Dyes:
    """Waxy and sharply cut: yellow to dark brown, furrowed, with pale cysts and dark plugs."""
    dyes = _empty(area)
    folds = smoothstep(noise(rng, area.size, max(4.0, 4.5 * area.unit), 3), -0.7, 1.1)
    furrows = ridges(noise(rng, area.size, max(4.0, 6.0 * area.unit), 3), 0.3) * folds
    strength = rng.uniform(0.55, 1.1)
    dyes.brown = strength * _mottled(rng, area, 0.26) * (0.8 + 0.22 * folds + 0.2 * furrows)
    dyes.amber += np.float32(rng.uniform(0.1, 0.45))
    plugs = _globules(rng, area, 5.0, 0.3, radius=0.16)
    dyes.brown += 0.7 * plugs
    dark = smoothstep(_lopsided(rng, area), -1.2, 1.2)
    dyes.black = 0.2 * plugs + rng.uniform(0.0, 0.3) * dark * _mottled(rng, area, 0.35)
    dyes.white = 0.4 * _globules(rng, area, 4.0, 0.3, radius=0.12)
    dyes.blood += np.float32(rng.uniform(0, 0.1))
    return dyes


def _paint_pink_lesion(rng: np.random.Generator, area: Area) -> Dyes:
    """Hardly any pigment: pink, with dotted and winding vessels, some tan, a few white streaks."""
    dyes = _empty(area)
    dyes.blood = rng.uniform(0.32, 0.55) * np.clip(_mottled(rng, area, 0.3), 0.3, 1.7)
    dots = _globules(rng, area, 2.0, 0.4, radius=0.2)
    winding = ridges(noise(rng, area.size, max(5.0, 9 * area.unit), 3), 0.06)
    patch = smoothstep(noise(rng, area.size, area.radius), -0.3, 1)
    dyes.blood += 0.25 * dots * (1 - patch) + 0.35 * winding * patch
    tan = smoothstep(_lopsided(rng, area), -0.6, 1.0)
    dyes.brown = rng.uniform(0.1, 0.25) + rng.uniform(0.1, 0.4) * tan * _mottled(rng, area, 0.3)
    streaks = ridges(noise(rng, area.size, max(5.0, 6 * area.unit), 2), 0.10)
    dyes.white = 0.15 * streaks * smoothstep(noise(rng, area.size, area.radius), 0.3, 1.2)
    return dyes


KINDS: dict[str, Kind] = {
    "common-nevus": Kind(0.05, 0.025, (0.12, 0.26), _paint_common_nevus),
    "atypical-nevus": Kind(0.12, 0.055, (0.16, 0.40), _paint_atypical_nevus),
    "melanoma": Kind(0.16, 0.075, (0.05, 0.22), _paint_melanoma),
    "seborrheic-keratosis": Kind(0.09, 0.05, (0.04, 0.10), _paint_seborrheic_keratosis),
    "pink-lesion": Kind(0.10, 0.05, (0.14, 0.30), _paint_pink_lesion),
    "reticular-nevus": Kind(0.07, 0.05, (0.10, 0.24), _paint_reticular_nevus),
    "globular-nevus": Kind(0.07, 0.035, (0.06, 0.18), _paint_globular_nevus),
}
"""Kinds of lesion by name."""

_VEIL = np.array((0.42, 0.42, 0.49), dtype=np.float32)
_SCAR = np.array((0.90, 0.84, 0.80), dtype=np.float32)


def paint_lesion(
    rng: np.random.Generator, color: NDArray[np.float32], region: BoolArray, kind: Kind, unit: float
) -> None:
    """Paint a lesion into `color`, in place."""
    radius = max(2.0, float(np.sqrt(region.sum() / np.pi)))
    window = bounding_box(region, margin=int(1.2 * kind.soft[1] * radius) + 3)
    inside, skin = region[window], color[window]
    distance = signed_distance(inside)
    area = Area((inside.shape[0], inside.shape[1]), unit, radius, distance / np.float32(radius))
    color[window] = _stain(skin, kind.paint(rng, area), _strength(rng, area, distance, kind.soft))


def _strength(rng: np.random.Generator, area: Area, distance: Field, soft: tuple[float, float]) -> Field:
    """Fade from 1 inside to 0 outside, 0.5 on the outline: here abrupt, there gradual, frayed all along.

    Outside it fades faster: an annotator's outline takes in nearly all of the pigment that can be seen.
    """
    evenness = smoothstep(noise(rng, area.size, area.radius), -1.2, 1.2)
    width = np.maximum(1.2, area.radius * (soft[0] + (soft[1] - soft[0]) * evenness))
    fray = np.exp(0.25 * noise(rng, area.size, max(2.0, 2.5 * area.unit), 3))
    return np.asarray(special.expit(np.where(distance > 0, 4, 7) * distance * fray / width), dtype=np.float32)


def _stain(skin: NDArray[np.float32], dyes: Dyes, strength: Field) -> NDArray[np.float32]:
    density = (
        dyes.brown[..., None] * BROWN
        + dyes.black[..., None] * BLACK
        + dyes.blood[..., None] * BLOOD
        + dyes.amber[..., None] * AMBER
    )
    stained = skin * np.exp(-density * strength[..., None])
    lightness = skin.mean(axis=(0, 1)).max()  # paint lies under the same light as the skin around
    for share, paint in ((dyes.blue, _VEIL), (dyes.white, _SCAR)):
        stained += (share * strength)[..., None] * (paint * lightness - stained)
    return np.asarray(stained, dtype=np.float32)
