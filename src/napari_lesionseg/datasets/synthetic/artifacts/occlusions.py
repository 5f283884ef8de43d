"""What people put on the skin: the ink of a surgical marker, and stickers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from napari_lesionseg.datasets.synthetic.artifacts.drawing import (
    Layer,
    along_rim,
    enlarge,
    to_canvas,
    to_image,
)
from napari_lesionseg.types import ByteImage


def ink(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Draw with a surgical marker, blue to purple: strokes, scribbles or part of a ring, patchy.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        The image, 32 x 32 or larger.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    array of uint8, shape (H, W, 3)
        A new image; the marks lie mostly towards the rim.
    """
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

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        The image, 32 x 32 or larger.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    array of uint8, shape (H, W, 3)
        A new image; the disc's center lies at the edge or outside.
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
