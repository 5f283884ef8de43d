"""What is in the immersion fluid: air bubbles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.types import ByteImage


def bubbles(image: ByteImage, rng: np.random.Generator) -> ByteImage:
    """Put air bubbles of the immersion fluid over an image: bright rims, a dark side, a glint.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
        The image, 32 x 32 or larger.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    array of uint8, shape (H, W, 3)
        A new image with one to nine bubbles, often in a cluster.
    """
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
