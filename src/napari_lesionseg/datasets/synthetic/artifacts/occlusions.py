"""What lies between skin and camera: ink and stickers, hairs, air bubbles, a ruler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from napari_lesionseg.datasets.synthetic.artifacts.drawing import (
    Color,
    Layer,
    along_rim,
    enlarge,
    to_canvas,
    to_image,
)
from napari_lesionseg.types import ByteImage

# Strokes of the ruler's glyphs on a grid two wide and four high, y downwards.
_GLYPHS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "0": (((0, 0), (2, 0), (2, 4), (0, 4), (0, 0)),),
    "1": (((0, 1), (1, 0), (1, 4)),),
    "2": (((0, 0.5), (0.5, 0), (1.7, 0), (2, 1), (0, 4), (2, 4)),),
    "3": (((0, 0), (2, 0), (0.8, 1.6), (2, 2.6), (1.6, 4), (0, 4)),),
    "4": (((1.5, 4), (1.5, 0), (0, 2.8), (2, 2.8)),),
    "5": (((2, 0), (0, 0), (0, 1.8), (1.6, 1.6), (2, 2.8), (1.4, 4), (0, 4)),),
    "M": (((0, 4), (0, 0), (1, 2.2), (2, 0), (2, 4)),),
}


def ink(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Draw with a surgical marker, blue to purple: strokes, scribbles or part of a ring, patchy."""
    height, width = image.shape[:2]
    side = min(width, height)
    layer = Layer(width, height)
    style = rng.integers(3)
    if style == 0:
        _draw_ring(layer, width, height, rng)
    for _ in range(int(rng.integers(1, 4)) if style else 0):
        pen = max(1.5, side * rng.uniform(0.012, 0.045))
        length = side * (rng.uniform(0.15, 0.5) if style == 1 else rng.uniform(0.06, 0.12))
        _draw_scribble(layer, along_rim(width, height, rng, 0.2), length, pen, zigzag=style == 2, rng=rng)
    return _soak(image, layer.mask(), rng)


def _draw_ring(layer: Layer, width: int, height: int, rng: np.random.Generator) -> None:
    """Part of a hand-drawn circle around the middle."""
    angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(1.5, 5.5), 40)
    radius = rng.uniform(0.40, 0.47) * (1 + 0.05 * np.sin(2 * angle + rng.uniform(0, 6.3)))
    points = np.stack((0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)), axis=1) * (width, height)
    layer.line(points, max(1.5, min(width, height) * rng.uniform(0.012, 0.03)))


def _draw_scribble(
    layer: Layer,
    center: NDArray[np.float64],
    length: float,
    pen: float,
    *,
    zigzag: bool,
    rng: np.random.Generator,
) -> None:
    """One slightly curved stroke, or several short ones back and forth."""
    heading = rng.uniform(0, np.pi)
    along = np.array((np.cos(heading), np.sin(heading)))
    across = np.array((-along[1], along[0]))
    t = np.linspace(-0.5, 0.5, 7 if zigzag else 14)
    sway = rng.uniform(0.15, 0.4) * (-1.0) ** np.arange(7) if zigzag else rng.normal(0, 0.5) * t**2
    points = center + length * (t[:, None] * along + sway[:, None] * across)
    layer.line(
        points + rng.normal(0, (0.06 if zigzag else 0.01) * length, points.shape),
        pen * (0.25 if zigzag else 1),
    )


def _soak(image: ByteImage, mask: Image.Image, rng: np.random.Generator) -> ByteImage:
    """Let the skin drink the ink: it filters the light, more in the furrows than on the ridges."""
    width, height = mask.size
    fine = enlarge(rng.random((max(8, height // 3), max(8, width // 3)), dtype=np.float32), width, height)
    coarse = enlarge(rng.random((7, 7), dtype=np.float32), width, height)
    strength = np.clip(fine + coarse - rng.uniform(0.1, 0.5), 0.1, 1) * rng.uniform(0.6, 1.0)
    coverage = (np.asarray(mask, dtype=np.float32) * strength).astype(np.uint8)
    palette = ((84, 66, 168), (112, 70, 170), (60, 84, 176), (132, 84, 160))
    color = tuple(int(v) for v in np.clip(np.array(palette[rng.integers(4)]) + rng.normal(0, 12, 3), 0, 255))
    canvas = to_canvas(image)
    inked = ImageChops.multiply(canvas, Image.new("RGB", canvas.size, color))
    return to_image(Image.composite(inked, canvas, Image.fromarray(coverage)))


def sticker(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Stick a colored calibration patch onto the rim of an image.

    Such discs, with a disc of another color in them, lie beside many lesions of the ISIC archive.
    """
    height, width = image.shape[:2]
    side = min(width, height)
    palette = ((60, 140, 200), (90, 190, 190), (230, 150, 60), (80, 160, 90), (150, 140, 210), (220, 90, 80))
    first, second = rng.choice(6, 2, replace=False)
    radius = side * rng.uniform(0.17, 0.25)
    rim = along_rim(width, height, rng, depth=0.0)
    outwards = rim - np.array((width / 2, height / 2))
    center = rim + outwards / np.hypot(*outwards) * radius * rng.uniform(0, 0.6)
    canvas = to_canvas(image)
    shade = rng.uniform(0.7, 1.05)
    for color, share in ((palette[first], 1.0), (palette[second], rng.choice((0.0, 0.55)))):
        layer = Layer(width, height)
        angle = np.linspace(0, 2 * np.pi, 72)
        points = np.stack((np.cos(angle), np.sin(angle)), axis=1) * (radius * share)
        layer.polygon(center + points * (rng.uniform(0.9, 1.1), 1), 250 if share else 0)
        red, green, blue = (min(255, int(v * shade)) for v in color)
        canvas.paste((red, green, blue), (0, 0), layer.mask())
    return to_image(canvas)


def hairs(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Lay hairs over an image: a few thick ones, many fine ones, or the stubble of a shaved site."""
    height, width = image.shape[:2]
    layer = Layer(width, height)
    style = rng.choice(3, p=(0.4, 0.4, 0.2))
    count = int(rng.integers(*((2, 9), (10, 34), (8, 26))[style]))
    thickness = ((0.005, 0.010), (0.0025, 0.006), (0.006, 0.010))[style]
    length = ((0.4, 1.3), (0.25, 0.9), (0.03, 0.10))[style]
    comb = rng.uniform(0, 2 * np.pi)  # hairs of one site lie roughly the same way
    side = min(width, height)
    for _ in range(count):
        start = rng.uniform(-0.05, 1.05, 2) * (width, height)
        _draw_hair(
            layer,
            start=start,
            heading=comb + rng.normal(0, 0.6),
            length=side * rng.uniform(*length),
            thickness=max(0.9, side * rng.uniform(*thickness)),
            bend=rng.normal(0, 0.9) if style < 2 else rng.normal(0, 0.15),
            fill=int(rng.uniform(150, 250)),
        )
    if style < 2:  # one strand through the middle half, so that an image is never left without
        start = rng.uniform(0.3, 0.7, 2) * (width, height)
        _draw_hair(layer, start, comb, side * length[0], max(1.0, side * thickness[0]), 0.4, 220)
    color = _hair_color(rng, dark=style == 2)
    return _blend_hairs(image, layer.mask(), color, shadow=max(1, round(side * 0.006)))


def _hair_color(rng: np.random.Generator, *, dark: bool) -> Color:
    """Mostly dark brown to black; now and then, unless `dark`, gray, white or blond."""
    palette = ((28, 20, 18), (52, 34, 26), (86, 58, 40), (138, 128, 120), (222, 216, 206), (176, 140, 92))
    frequencies = (0.6, 0.4, 0, 0, 0, 0) if dark else (0.34, 0.28, 0.16, 0.08, 0.07, 0.07)
    base = np.array(palette[rng.choice(6, p=frequencies)])
    red, green, blue = (int(v) for v in np.clip(base + rng.normal(0, 7, 3), 0, 255))
    return red, green, blue


def _draw_hair(
    layer: Layer,
    start: NDArray[np.float64],
    heading: float,
    length: float,
    thickness: float,
    bend: float,
    fill: int,
) -> None:
    """Draw one strand that turns by `bend` radians on its way and thins out towards its tip."""
    t = np.linspace(0, 1, 18)
    angle = heading + bend * t + 0.35 * bend * np.sin(3.0 * t)
    step = length / (t.size - 1)
    path = start + step * np.cumsum(np.stack((np.cos(angle), np.sin(angle)), axis=1), axis=0)
    half = 0.5 * thickness * np.minimum(1, 0.12 + 1.9 * (1 - t) ** 0.7 * (0.45 + t))
    normal = np.stack((-np.sin(angle), np.cos(angle)), axis=1) * half[:, None]
    layer.polygon(np.concatenate((path + normal, (path - normal)[::-1])), fill)


def _blend_hairs(image: ByteImage, mask: Image.Image, color: Color, shadow: int) -> ByteImage:
    canvas = to_canvas(image)
    soft = mask.reduce(2).resize(mask.size, Image.Resampling.BILINEAR).point([v // 5 for v in range(256)])
    canvas.paste((40, 26, 24), (shadow, shadow), soft)
    canvas.paste(color, (0, 0), mask)
    return to_image(canvas)


def bubbles(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Put air bubbles of the immersion fluid over an image: bright rims, a dark side, a glint."""
    height, width = image.shape[:2]
    side = min(width, height)
    out = image.copy()
    light = rng.uniform(0, 2 * np.pi)
    cluster = rng.uniform(0.15, 0.85, 2)
    for index in range(int(rng.integers(1, 10))):
        at = cluster + (rng.normal(0, 0.12, 2) if index else 0)
        if rng.random() < 0.3 and index:
            at = rng.random(2)
        radius = max(2.5, side * np.exp(rng.uniform(np.log(0.008), np.log(0.06))))
        _draw_bubble(out, np.clip(at, 0.02, 0.98) * (width, height), radius, light, rng)
    return out


def _draw_bubble(
    image: ByteImage, center: NDArray[np.float64], radius: float, light: float, rng: np.random.Generator
) -> None:
    """Draw one bubble into `image`, in place, touching only the square around it."""
    reach = int(np.ceil(radius * 1.5)) + 1
    left, top = max(0, int(center[0]) - reach), max(0, int(center[1]) - reach)
    patch = image[top : top + 2 * reach, left : left + 2 * reach]
    y = np.arange(top, top + patch.shape[0], dtype=np.float32)[:, None] - np.float32(center[1])
    x = np.arange(left, left + patch.shape[1], dtype=np.float32)[None, :] - np.float32(center[0])
    angle = np.arctan2(y, x)
    turns = rng.uniform(0, 2 * np.pi, 2)
    wobble = 1 + 0.12 * np.cos(2 * angle + turns[0]) + 0.05 * np.cos(3 * angle + turns[1])
    distance = np.hypot(x, y) / (radius * wobble)
    thin = max(0.07, 0.75 / radius)  # of the rim, at least three quarters of a pixel
    facing = np.cos(angle - light)
    rim = np.exp(-(((distance - 1) / thin) ** 2))
    inner = 0.6 * np.exp(-(((distance - 0.72) / thin) ** 2)) * (facing < 0.4)
    off_glint = np.hypot(x / radius - 0.45 * np.cos(light), y / radius - 0.45 * np.sin(light))
    glint = np.exp(-(off_glint**2) / 0.02)
    bright = np.clip(rim * (0.35 + 0.5 * facing) + 0.9 * glint + 0.4 * inner, 0, 1) + 0.07 * (distance < 1)
    dark = np.clip(rim * (0.15 - 0.45 * facing), 0, 0.5)
    value = patch * (1 - dark[..., None])
    value += bright[..., None] * np.maximum(0, 250 - value) * rng.uniform(0.6, 1.0)
    patch[...] = np.clip(value, 0, 255).astype(np.uint8)


def ruler(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Draw a millimeter scale: tick marks at any angle, along a line or bare, some with labels."""
    height, width = image.shape[:2]
    side = min(width, height)
    layer = Layer(width, height)
    bare = rng.random() < 0.35
    count = int(rng.integers(5, 14)) if bare else int(rng.choice((11, 16, 21)))
    spacing = side * (rng.uniform(0.05, 0.09) if bare else rng.uniform(0.35, 0.6) / (count - 1))
    middle = along_rim(width, height, rng, depth=0.16)
    towards = np.array((width / 2, height / 2)) - middle
    heading = np.arctan2(towards[1], towards[0]) + np.pi / 2 + rng.normal(0, 0.35)
    along = np.array((np.cos(heading), np.sin(heading)))
    across = np.array((along[1], -along[0]))
    origin = middle - along * spacing * (count - 1) / 2
    pen = max(0.8, side * (rng.uniform(0.006, 0.012) if bare else rng.uniform(0.003, 0.006)))
    size = side * (rng.uniform(0.04, 0.07) if bare else 0.018)
    for index in range(count):
        foot = origin + along * spacing * index
        long = index % 5 == 0 or bare
        layer.line(np.array((foot, foot + across * size * (1.7 if long else 1.0))), pen)
    if not bare:
        layer.line(np.array((origin, origin + along * spacing * (count - 1))), pen)
        _label_ruler(layer, origin, along, across, spacing, count, size, pen, numbers=rng.random() < 0.5)
    canvas = to_canvas(image)
    shade = int(rng.integers(8, 70))
    strength = rng.uniform(0.65, 1.0)
    canvas.paste((shade, shade, shade), (0, 0), layer.mask().point([int(v * strength) for v in range(256)]))
    return to_image(canvas)


def _label_ruler(
    layer: Layer,
    origin: NDArray[np.float64],
    along: NDArray[np.float64],
    across: NDArray[np.float64],
    spacing: float,
    count: int,
    size: float,
    pen: float,
    *,
    numbers: bool,
) -> None:
    """Write "MM" below the first tick, or numbers above the long ones."""
    if not numbers:
        _write(layer, "MM", origin - across * 0.6 * size, along, -across, size * 0.4, pen)
        return
    for index in range(0, count, 5):
        foot = origin + along * (spacing * index - 0.35 * size) + across * size * 3.7
        _write(layer, str(index), foot, along, -across, size * 0.4, pen)


def _write(
    layer: Layer,
    text: str,
    origin: NDArray[np.float64],
    along: NDArray[np.float64],
    down: NDArray[np.float64],
    unit: float,
    pen: float,
) -> None:
    for position, character in enumerate(text):
        for stroke in _GLYPHS[character]:
            points = np.array(stroke) + np.array((2.9 * position, 0))
            layer.line(origin + unit * (points[:, :1] * along + points[:, 1:] * down), pen)
