"""Images drawn by code, each with its exact mask: skin lesions, and people as another subject.

They need no download and no license, so the demonstration, the tests and a first look at a training run all
work with them. They look like dermoscopy; they are no substitute for it, and no accuracy is measured on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.datasets.synthetic.artifacts import random_artifacts
from napari_lesionseg.datasets.synthetic.figures import FIGURE_SKELETON as FIGURE_SKELETON
from napari_lesionseg.datasets.synthetic.figures import draw_figures
from napari_lesionseg.datasets.synthetic.lesions import KINDS, Place, draw_outline, paint_lesion
from napari_lesionseg.datasets.synthetic.skin import Skin, draw_skin
from napari_lesionseg.errors import ImageError
from napari_lesionseg.types import ByteImage, LabelImage, Landmarks

SMALLEST_SIDE = 32
LESION_KINDS: tuple[str, ...] = tuple(KINDS)
"""Names of the kinds of lesion."""

_FREQUENCIES = (0.22, 0.18, 0.15, 0.12, 0.10, 0.13, 0.10)  # of the kinds, in their order
_ROOM_PER_LESION = 512  # pixels, below which lesions could not be kept apart


@dataclass(frozen=True, eq=False)
class Sample:
    """A drawn image and what is in it.

    Attributes
    ----------
    name : str
        A file stem that says what is shown.
    image : array of uint8, shape (H, W, 3)
        The image, RGB.
    mask : array of uint8, shape (H, W)
        1 where the subject is, 0 elsewhere.
    instances : array of uint8, shape (H, W)
        0 background, 1 the first lesion or person, 2 the second, and so on.
    landmarks : tuple of Landmarks
        Joints of each person, in the order of `FIGURE_SKELETON`.
    """

    name: str
    image: ByteImage
    mask: LabelImage
    instances: LabelImage
    landmarks: tuple[Landmarks, ...] = ()


def synthetic_sample(
    seed: int,
    size: tuple[int, int] = (560, 768),
    *,
    skin_type: int | None = None,
    kind: str | None = None,
    n_lesions: int = 1,
    artifacts: bool = True,
) -> Sample:
    """Draw a dermoscopy image with an exact mask.

    The same arguments give the same bytes. Skin type, kind and artifacts can be changed on their own: the
    rest of the image stays as it was.

    Parameters
    ----------
    seed : int
        Which image, 0 or more.
    size : tuple of int
        Height and width, 32 or more each. What is drawn scales with the shorter side.
    skin_type : int, optional
        Fitzpatrick type, 1 (very light) to 6 (dark). Drawn at random when left out.
    kind : str, optional
        One of `LESION_KINDS`. Random for each lesion by default.
    n_lesions : int
        Number of lesions; they do not touch.
    artifacts : bool
        Whether hairs, bubbles, ruler, ink, dark corners and color casts may lie over the image.

    Returns
    -------
    Sample
        The outline in the mask runs where the lesion's color is at half strength.

    Raises
    ------
    ImageError
        If the size is too small, for the number of lesions too, or skin type or kind are unknown.
    """
    _check(size, skin_type, kind, n_lesions)
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)]
    choice, surface, outline, pigment, cover = streams
    drawn_type, drawn_kinds = (
        int(choice.integers(1, 7)),
        choice.choice(LESION_KINDS, n_lesions, p=_FREQUENCIES),
    )
    kinds = [kind or str(drawn) for drawn in drawn_kinds]
    skin = draw_skin(surface, size, skin_type or drawn_type)
    instances = np.zeros(size, dtype=np.uint8)
    color = skin.color.copy()
    for index, place in enumerate(_place_lesions(choice, size, n_lesions)):
        region = draw_outline(outline, size, place, KINDS[kinds[index]])
        paint_lesion(pigment, color, region, KINDS[kinds[index]], unit=min(size) / 100)
        instances[region] = index + 1
    image = _expose(cover, color, skin)
    if artifacts:
        image = random_artifacts(image, cover, 0.85, hiding=_keeps_off_rim(instances))
    mask = (instances > 0).astype(np.uint8)
    return Sample(f"{kinds[0]}-{seed}", image, mask, instances)


def _check(size: tuple[int, int], skin_type: int | None, kind: str | None, n_lesions: int) -> None:
    if min(size) < SMALLEST_SIDE:
        raise ImageError(
            f"An image of {size[0]} x {size[1]} is too small: take {SMALLEST_SIDE} pixels or more."
        )
    most = min(255, size[0] * size[1] // _ROOM_PER_LESION)
    if not 1 <= n_lesions <= most:
        raise ImageError(f"{n_lesions} lesions do not fit into this image: ask for 1 to {most}.")
    if skin_type not in (None, 1, 2, 3, 4, 5, 6):
        raise ImageError(f"Skin type {skin_type} does not exist: take 1 to 6.")
    if kind is not None and kind not in KINDS:
        raise ImageError(f"Lesion kind {kind!r} is unknown: take one of {', '.join(KINDS)}.")


def _place_lesions(rng: np.random.Generator, size: tuple[int, int], count: int) -> list[Place]:
    """Spread lesions so that none can touch another; a lone one lies near the middle, or is cut off."""
    side = min(size)
    extent = np.array(size, dtype=np.float64)
    if count == 1:
        cut = rng.random() < 0.12
        at = _on_rim(rng, extent) if cut else extent * (0.5 + np.clip(rng.normal(0, 0.06, 2), -0.2, 0.2))
        radius = side * np.clip(rng.lognormal(np.log(0.24), 0.33), 0.10, 0.38)
        return [Place(at[0], at[1], radius, np.inf)]
    centers = _spread(rng, extent, count)
    apart = np.hypot(*(centers[:, None] - centers[None, :]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    places = []
    for center, room in zip(centers, apart.min(axis=1) / 2 - 1.5, strict=True):
        radius = min(room * rng.uniform(0.45, 0.75), side * rng.uniform(0.10, 0.24))
        places.append(Place(center[0], center[1], radius, room))
    return places


def _on_rim(rng: np.random.Generator, extent: NDArray[np.float64]) -> NDArray[np.float64]:
    at = extent * rng.uniform(0.3, 0.7, 2)
    axis = rng.integers(2)
    at[axis] = extent[axis] * rng.choice((0.06, 0.94))
    return at


def _spread(rng: np.random.Generator, extent: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Choose points far from each other: of some candidates, always the one farthest from those chosen."""
    points = [extent * rng.uniform(0.2, 0.8, 2)]
    for _ in range(count - 1):
        candidates = extent * rng.uniform(0.08, 0.92, (24, 2))
        gaps = np.min([np.hypot(*(candidates - point).T) for point in points], axis=0)
        points.append(candidates[np.argmax(gaps)])
    return np.array(points)


def _expose(rng: np.random.Generator, color: NDArray[np.float32], skin: Skin) -> ByteImage:
    """Photograph it: relief and shine of the surface, a lens slightly out of focus, a sensor's noise."""
    side = min(color.shape[:2])
    seen = color * skin.relief[..., None]
    haze = np.clip(skin.shine + np.float32(rng.uniform(0.0, 0.05)), 0, 1)[..., None]
    seen += haze * (np.float32(0.97) - seen)
    blur = side * rng.uniform(0.0004, 0.0016)
    seen = ndimage.gaussian_filter(seen, (blur, blur, 0))
    grain = rng.standard_normal(seen.shape, dtype=np.float32)
    grain = 0.7 * grain[..., :1] + 0.4 * grain  # mostly alike in the three channels
    seen += np.float32(rng.uniform(0.004, 0.012)) * grain
    return np.asarray((255 * np.clip(seen, 0, 1)).round(), dtype=np.uint8)


def _keeps_off_rim(instances: LabelImage) -> bool:
    """Whether every lesion lies well within the circle that an aperture leaves open."""
    height, width = instances.shape
    rows, cols = np.nonzero(instances)
    distance = np.hypot(rows - height / 2, cols - width / 2)
    margin = min(rows.min(), cols.min(), height - 1 - rows.max(), width - 1 - cols.max())
    return bool(distance.max() < 0.40 * max(height, width) and margin > 0.05 * min(height, width))


# What makes a small set varied: kind, skin type, seed, number of lesions.
_SET: tuple[tuple[str, int, int, int], ...] = (
    ("common-nevus", 2, 69, 1),
    ("atypical-nevus", 3, 72, 1),
    ("melanoma", 1, 60, 1),
    ("seborrheic-keratosis", 4, 82, 1),
    ("pink-lesion", 2, 65, 1),
    ("reticular-nevus", 5, 88, 2),
    ("globular-nevus", 6, 97, 1),
)


def sample_set(n: int = 6) -> list[Sample]:
    """Draw a varied set of images: kinds, skin types, artifacts, one with two lesions."""
    samples = []
    for index in range(n):
        kind, skin_type, seed, lesions = _SET[index % len(_SET)]
        turn = index // len(_SET)  # beyond the list: other seeds and skin types
        drawn = synthetic_sample(
            seed + 100 * turn, kind=kind, skin_type=(skin_type + 2 * turn - 1) % 6 + 1, n_lesions=lesions
        )
        samples.append(Sample(f"sample-{index + 1}-{kind}", drawn.image, drawn.mask, drawn.instances))
    return samples


def synthetic_figure(seed: int, size: tuple[int, int] = (256, 256), people: int | None = None) -> Sample:
    """Draw standing people with exact masks and joints: a subject that is no lesion, to train on.

    Parameters
    ----------
    seed : int
        Which image, 0 or more.
    size : tuple of int
        Height and width, 32 or more each.
    people : int, optional
        How many, side by side; None: one or two.
    """
    _check(size, None, None, people or 1)
    drawn = draw_figures(np.random.default_rng(seed), size, people)
    mask = (drawn.instances > 0).astype(np.uint8)
    return Sample(f"figure-{seed}", drawn.image, mask, drawn.instances, drawn.landmarks)
