"""What is on the glass: a ruler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.datasets.synthetic.artifacts.drawing import Layer, along_rim, to_canvas, to_image
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


def ruler(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Draw a millimeter scale: tick marks at any angle, along a line or bare, some with labels.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        The image, 32 x 32 or larger.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    array of uint8, shape (H, W, 3)
        A new image with the scale along its rim.
    """
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
