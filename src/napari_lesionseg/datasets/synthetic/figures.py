"""Standing people: another subject than skin, to see that training learns whatever is outlined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.color import lab2rgb

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.synthetic.skin import SKIN_LAB
from napari_lesionseg.datasets.synthetic.textures import noise
from napari_lesionseg.types import ByteImage, LabelImage, Landmarks, make_landmarks

_SUPERSAMPLING = 4
_REACH = 0.49  # of an arm stretched out sideways, as a share of the height
_ARM, _LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")
_SIDES = ("left", "right")
FIGURE_SKELETON = Skeleton.from_names(
    ("nose", *(f"{side}_{joint}" for joint in ("eye", *_ARM, *_LEG) for side in _SIDES)),
    # The landmarks of the left side have odd numbers: eyes 1, shoulders 3, elbows 5, wrists 7, hips 9, ...
    [(0, 1), (0, 2), (3, 4), (9, 10), *((n, n + 2) for n in (3, 4, 5, 6, 9, 10, 11, 12)), (3, 9), (4, 10)],
)
"""Landmarks of a drawn person, with COCO's names."""

Color = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class _Look:
    """Colors of one person."""

    skin: Color
    hair: Color
    top: Color
    trim: Color
    bottom: Color
    shoes: Color


class _Sketch:
    """A drawing in units of the person's height: (0, 0) between the feet, y upwards, (0, 1) the crown."""

    def __init__(self, size: tuple[int, int], feet: Point, tall: float) -> None:
        height, width = size
        k = _SUPERSAMPLING
        self._feet, self._tall = (feet[0] * k, feet[1] * k), tall * k
        self._color = Image.new("RGB", (width * k, height * k))
        self._cover = Image.new("L", (width * k, height * k))
        self._pens = (ImageDraw.Draw(self._color), ImageDraw.Draw(self._cover))

    def _at(self, points: list[Point]) -> list[Point]:
        return [(self._feet[0] + x * self._tall, self._feet[1] - y * self._tall) for x, y in points]

    def polygon(self, points: list[Point], color: Color) -> None:
        self._pens[0].polygon(self._at(points), fill=color)
        self._pens[1].polygon(self._at(points), fill=255)

    def ellipse(self, center: Point, radii: Point, color: Color) -> None:
        (x, y), (rx, ry) = self._at([center])[0], (radii[0] * self._tall, radii[1] * self._tall)
        box = (x - rx, y - ry, x + rx, y + ry)
        self._pens[0].ellipse(box, fill=color)
        self._pens[1].ellipse(box, fill=255)

    def limb(self, points: list[Point], thickness: float, color: Color) -> None:
        """Draw a thick line with round joints and ends."""
        path, width = self._at(points), max(1, round(thickness * self._tall))
        self._pens[0].line(path, fill=color, width=width)
        self._pens[1].line(path, fill=255, width=width)
        for point in points:
            self.ellipse(point, (thickness / 2, thickness / 2), color)

    def pixels(self, points: list[Point]) -> NDArray[np.float64]:
        """Return rows and columns, in pixels of the finished image, shape (K, 2)."""
        return np.array(self._at(points))[:, ::-1] / _SUPERSAMPLING - 0.5 + 0.5 / _SUPERSAMPLING

    def finish(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Shrink: colors times coverage, shape (H, W, 3), and coverage, shape (H, W), both 0 to 1."""
        white = np.float32(255)
        color = np.asarray(self._color.reduce(_SUPERSAMPLING), dtype=np.float32) / white
        cover = np.asarray(self._cover.reduce(_SUPERSAMPLING), dtype=np.float32) / white
        return color, cover


class Figures(NamedTuple):
    """Drawn people."""

    image: ByteImage
    instances: LabelImage
    landmarks: tuple[Landmarks, ...]
    """One for each person, from left to right, in the order of `FIGURE_SKELETON`."""


def draw_figures(rng: np.random.Generator, size: tuple[int, int], people: int | None = None) -> Figures:
    """Draw standing people before a wall, one or two if not told how many."""
    height, width = size
    image = _draw_room(rng, size)
    instances = np.zeros(size, dtype=np.uint8)
    count = people or (2 if width >= 0.9 * height and rng.random() < 0.35 else 1)
    lane = width / count
    joints = []
    for index in range(count):
        tall = min(height * rng.uniform(0.62, 0.88), lane / (2 * _REACH))
        room = max(0.0, lane / 2 - _REACH * tall)
        feet = (lane * (index + 0.5) + rng.uniform(-room, room), height * rng.uniform(0.91, 0.97))
        (color, cover), points = _draw_person(rng, size, feet, tall)
        joints.append(points)
        light = 1 + 0.07 * noise(rng, size, tall / 6, 3)
        shadow = np.roll(cover, (max(1, int(tall / 60)), max(1, int(tall / 40))), axis=(0, 1))
        image *= 1 - 0.22 * shadow[..., None]
        image += color * light[..., None] - image * cover[..., None]
        instances[cover >= 0.5] = index + 1
    image += 0.012 * rng.standard_normal(image.shape, dtype=np.float32)
    drawn = (255 * np.clip(image, 0, 1)).round().astype(np.uint8)
    return Figures(drawn, instances, tuple(_landmarks(points, size) for points in joints))


def _landmarks(points: NDArray[np.float64], size: tuple[int, int]) -> Landmarks:
    """Return joints as landmarks; those outside the image are not labeled."""
    outside = (points < -0.5) | (points > np.array(size) - 0.5)
    points[outside] = np.nan
    return make_landmarks(points)


def _draw_room(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """Draw a wall and a floor, plain but textured, with a few things hung on the wall."""
    height, width = size
    wall, floor = _muted(rng, 0.3, 0.95), _muted(rng, 0.2, 0.7)
    image = np.empty((height, width, 3), dtype=np.float32)
    image[...] = wall
    for _ in range(int(rng.integers(0, 5))):
        top, left = int(rng.uniform(0, 0.6) * height), int(rng.uniform(-0.1, 0.9) * width)
        down, across = int(rng.uniform(0.1, 0.35) * height), int(rng.uniform(0.08, 0.3) * width)
        image[top : top + down, max(0, left) : max(0, left) + across] = _muted(rng, 0.15, 0.95)
    image[int(height * rng.uniform(0.72, 0.86)) :] = floor
    grain = 0.045 * noise(rng, size, height / 2, 6) + 0.02 * noise(rng, size, 3, 1)
    image *= 1 + grain[..., None]
    return image


def _muted(rng: np.random.Generator, darkest: float, brightest: float) -> NDArray[np.float32]:
    """Choose a color as walls and cloth have it, RGB 0 to 1: seldom a glaring one."""
    gray, chroma = rng.uniform(darkest, brightest), rng.uniform(0.02, 0.13)
    return np.clip(gray + chroma * rng.normal(0, 1, 3), 0.03, 0.98).astype(np.float32)


def _draw_person(
    rng: np.random.Generator, size: tuple[int, int], feet: Point, tall: float
) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]]:
    """Return color and coverage, and rows and columns of the joints, shape (K, 2)."""
    sketch = _Sketch(size, feet, tall)
    look = _choose_look(rng)
    spread = rng.uniform(0.03, 0.09)
    long_hair = rng.random() < 0.4
    if long_hair:
        sketch.ellipse((0, 0.89), (0.075, 0.10), look.hair)
    _draw_legs(sketch, look, spread, skirt=rng.random() < 0.3)
    _draw_torso(sketch, look, striped=rng.random() < 0.4)
    joints = {"nose": (0.0, 0.905)}
    for side, name in ((-1, "right"), (1, "left")):  # who faces the camera has the left side on the right
        lift, bend = rng.uniform(-0.1, 1.1), rng.uniform(-0.4, 0.8)
        arm = _draw_arm(sketch, look, side, lift, bend, bare=rng.random() < 0.5)
        joints |= {f"{name}_{joint}": point for joint, point in zip(_ARM, arm, strict=True)}
        joints |= {f"{name}_{joint}": point for joint, point in zip(_LEG, _leg(side, spread), strict=True)}
        joints[f"{name}_eye"] = (side * 0.02, 0.925)
    _draw_head(sketch, look, hat=rng.random() < 0.25)
    return sketch.finish(), sketch.pixels([joints[name] for name in FIGURE_SKELETON.names])


def _choose_look(rng: np.random.Generator) -> _Look:
    skin = 255 * lab2rgb(np.array(SKIN_LAB[int(rng.integers(1, 7))])[None, None, :])[0, 0]
    hair = ((30, 24, 22), (70, 45, 30), (120, 80, 45), (190, 150, 90), (170, 170, 170))[rng.integers(5)]
    cloth = [_as_bytes(255 * _muted(rng, 0.1, 0.9)) for _ in range(4)]
    return _Look(_as_bytes(skin), hair, *cloth)


def _as_bytes(color: NDArray[np.float32]) -> Color:
    red, green, blue = (int(v) for v in color)
    return red, green, blue


def _leg(side: int, spread: float) -> tuple[Point, Point, Point]:
    """Return hip, knee and ankle."""
    return (side * 0.05, 0.50), (side * (0.05 + spread / 2), 0.27), (side * (0.05 + spread), 0.03)


def _draw_legs(sketch: _Sketch, look: _Look, spread: float, *, skirt: bool) -> None:
    for side in (-1, 1):
        hip, knee, foot = _leg(side, spread)
        sketch.limb([hip, knee, foot], 0.07 if skirt else 0.09, look.skin if skirt else look.bottom)
        sketch.ellipse((foot[0] + side * 0.02, 0.02), (0.05, 0.022), look.shoes)
    if skirt:
        sketch.polygon([(-0.09, 0.52), (0.09, 0.52), (0.15, 0.28), (-0.15, 0.28)], look.bottom)
    else:
        sketch.polygon([(-0.095, 0.54), (0.095, 0.54), (0.095, 0.45), (-0.095, 0.45)], look.bottom)


def _draw_torso(sketch: _Sketch, look: _Look, *, striped: bool) -> None:
    sketch.limb([(0, 0.78), (0, 0.86)], 0.06, look.skin)

    def half_width(y: float) -> float:
        return 0.09 + 0.04 * (y - 0.50) / 0.28

    sketch.polygon(
        [(-0.09, 0.50), (0.09, 0.50), (0.13, 0.78), (0.04, 0.82), (-0.04, 0.82), (-0.13, 0.78)], look.top
    )
    for y in np.arange(0.53, 0.76, 0.055) if striped else ():
        low, high = half_width(y), half_width(y + 0.025)
        sketch.polygon([(-low, y), (low, y), (high, y + 0.025), (-high, y + 0.025)], look.trim)


def _draw_arm(
    sketch: _Sketch, look: _Look, side: int, lift: float, bend: float, *, bare: bool
) -> tuple[Point, Point, Point]:
    """Draw an arm, lifted by ``lift`` radians and bent by ``bend``; return shoulder, elbow and hand."""
    shoulder = (side * 0.115, 0.765)
    elbow = (shoulder[0] + side * 0.17 * np.sin(lift), shoulder[1] - 0.17 * np.cos(lift))
    hand = (elbow[0] + side * 0.16 * np.sin(lift + bend), elbow[1] - 0.16 * np.cos(lift + bend))
    sketch.limb([elbow, hand], 0.05, look.skin if bare else look.top)
    sketch.limb([shoulder, elbow], 0.06, look.top)
    sketch.ellipse(hand, (0.03, 0.03), look.skin)
    return shoulder, elbow, hand


def _draw_head(sketch: _Sketch, look: _Look, *, hat: bool) -> None:
    sketch.ellipse((0, 0.945), (0.062, 0.07), look.hair)
    sketch.ellipse((0, 0.915), (0.053, 0.07), look.skin)
    for side in (-1, 1):
        sketch.ellipse((side * 0.02, 0.925), (0.007, 0.006), (30, 25, 25))
    sketch.limb([(-0.015, 0.885), (0.015, 0.885)], 0.007, (140, 60, 60))
    if hat:
        sketch.ellipse((0, 0.965), (0.10, 0.015), look.trim)
        sketch.polygon([(-0.06, 0.965), (0.06, 0.965), (0.05, 1.02), (-0.05, 1.02)], look.trim)
