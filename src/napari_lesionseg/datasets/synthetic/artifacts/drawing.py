"""What the artifacts are drawn with: anti-aliased layers over an image, smooth planes, points on the rim."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from napari_lesionseg.types import ByteImage

FloatArray: TypeAlias = NDArray[np.float32]
Color: TypeAlias = tuple[int, int, int]

_SUPERSAMPLING = 2
_LARGE = 1600  # longer images are drawn without supersampling: a pixel is thin enough there


class Layer:
    """An anti-aliased coverage layer over an image: draw in pixels of the image, then take the mask."""

    def __init__(self, width: int, height: int) -> None:
        self.scale = _SUPERSAMPLING if max(width, height) <= _LARGE else 1
        self._image = Image.new("L", (width * self.scale, height * self.scale))
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: NDArray[np.float64], fill: int) -> None:
        """Fill the outline `points`, shape (N, 2), x before y."""
        self._draw.polygon((points * self.scale).ravel().tolist(), fill=fill)

    def line(self, points: NDArray[np.float64], width: float, fill: int = 255) -> None:
        """Draw a line through `points`, shape (N, 2), x before y."""
        pixels = max(1, round(width * self.scale))
        self._draw.line((points * self.scale).ravel().tolist(), fill=fill, width=pixels, joint="curve")

    def mask(self) -> Image.Image:
        """Coverage, 0 to 255, of the image's size."""
        return self._image.reduce(self.scale) if self.scale > 1 else self._image


def to_canvas(image: ByteImage) -> Image.Image:
    """Copy an image, (H, W, 3) uint8, to draw on."""
    return Image.fromarray(np.ascontiguousarray(image)).copy()


def to_image(canvas: Image.Image) -> ByteImage:
    """Return what was drawn on as (H, W, 3) uint8."""
    return np.array(canvas, dtype=np.uint8)


def enlarge(grid: FloatArray, width: int, height: int) -> FloatArray:
    """Enlarge a small grid of float32 to shape (height, width) by bicubic interpolation."""
    enlarged = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(enlarged, dtype=np.float32)


def dimmed(canvas: Image.Image, gain: FloatArray) -> Image.Image:
    """Multiply by a smooth `gain`, 0 to 1, given on a small grid over the image."""
    grid = Image.fromarray((255 * np.clip(gain, 0, 1)).round().astype(np.uint8))
    plane = grid.resize(canvas.size, Image.Resampling.BICUBIC)
    return ImageChops.multiply(canvas, Image.merge("RGB", (plane, plane, plane)))


def radius_grid(
    width: int, height: int, center: tuple[float, float], stretch: float, n: int = 48
) -> FloatArray:
    """Distance from `center` in units of half the longer side, on an n x n grid over the image.

    `center` is (x, y) in fractions of width and height; `stretch` widens the circle along x.
    """
    longer = max(width, height)
    at = (np.arange(n, dtype=np.float32) + 0.5) / n
    x = (at - center[0]) * (2 * width / longer) / stretch
    y = (at - center[1]) * (2 * height / longer)
    return np.asarray(np.hypot(x[None, :], y[:, None]), dtype=np.float32)


def along_rim(width: int, height: int, rng: np.random.Generator, depth: float) -> NDArray[np.float64]:
    """Choose a point (x, y) within `depth` (fraction of the side) of one of the four edges."""
    along, inwards = rng.uniform(0.05, 0.95), rng.uniform(0, depth)
    sides = ((along, inwards), (along, 1 - inwards), (inwards, along), (1 - inwards, along))
    return np.array(sides[rng.integers(4)]) * (width, height)
