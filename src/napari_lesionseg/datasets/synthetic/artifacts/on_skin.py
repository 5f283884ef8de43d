"""What grows on the skin: hairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_lesionseg.datasets.synthetic.artifacts.drawing import Color, Layer, to_canvas, to_image
from napari_lesionseg.types import ByteImage


def hairs(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Lay hairs over an image: a few thick ones, many fine ones, or the stubble of a shaved site.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        The image, 32 x 32 or larger.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    array of uint8, shape (H, W, 3)
        A new image with curved, tapered, anti-aliased strands and their slight shadow.
    """
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
