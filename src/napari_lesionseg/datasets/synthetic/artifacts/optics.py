"""What light and lens do: dark rims, a round aperture, wrong colors."""

from __future__ import annotations

import numpy as np
from PIL import Image

from napari_lesionseg.datasets.synthetic.artifacts.drawing import (
    dimmed,
    enlarge,
    radius_grid,
    to_canvas,
    to_image,
)
from napari_lesionseg.types import ByteImage


def vignette(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Darken an image smoothly towards its rim, as an uneven light or a narrow lens does."""
    height, width = image.shape[:2]
    center = (0.5 + rng.normal(0, 0.06), 0.5 + rng.normal(0, 0.06))
    distance = radius_grid(width, height, center, stretch=1.0)
    relative = np.clip(distance / distance.max(), 0, 1)
    gain = 1 - rng.uniform(0.15, 0.6) * relative ** rng.uniform(2.0, 4.5)
    return to_image(dimmed(to_canvas(image), gain))


def black_corners(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Show an image through the round aperture of a dermatoscope, dark outside, its edge soft.

    The circle is off the center, may reach beyond the image, and is wide enough to leave the middle alone.
    """
    height, width = image.shape[:2]
    center = (0.5 + rng.normal(0, 0.025), 0.5 + rng.normal(0, 0.025))
    distance = radius_grid(width, height, center, stretch=rng.uniform(0.95, 1.1))
    corner = float(distance.max())
    radius = min(rng.uniform(0.94, 1.3), 0.95 * corner)
    softness = rng.choice((0.02, 0.06, 0.14)) * rng.uniform(0.7, 1.3)
    ramp = enlarge(distance, width, height)
    ramp = np.clip((radius - ramp) / np.float32(softness), 0, 1)
    mask = Image.fromarray((255 * ramp * ramp * (3 - 2 * ramp)).astype(np.uint8))
    shade = rng.uniform(0, 34)
    outside = Image.new("RGB", mask.size, (int(1.05 * shade), int(shade), int(0.95 * shade)))
    return to_image(Image.composite(to_canvas(image), outside, mask))


def color_cast(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Change white balance, exposure and contrast, and let the light fall from one side."""
    warmth = rng.normal(0, 0.07)
    balance = rng.uniform(0.92, 1.22) * np.array((1 + warmth, 1 + rng.normal(0, 0.03), 1 - 1.3 * warmth))
    gamma = np.exp(rng.normal(0, 0.12))
    heading, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.14)
    levels = 255 * np.linspace(0, 1, 256) ** gamma * balance[:, None]
    table = np.clip(levels, 0, 255).round().astype(np.uint8)
    at = np.linspace(-1, 1, 16, dtype=np.float32)
    tilt = 1 - slope * (1 + np.cos(heading) * at[None, :] + np.sin(heading) * at[:, None])
    return to_image(dimmed(to_canvas(image).point(table.ravel().tolist()), tilt))
