"""From an image to what a network sees, and the geometry back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_lesionseg.types import ByteImage, LabelImage

STRIDE = 32  # the coarsest stride of any encoder here: sides are multiples of it
MAX_ASPECT = 4.0


def working_shape(shape: tuple[int, int], working_size: int) -> tuple[int, int]:
    """Size at which a network sees an image: about ``working_size`` squared pixels, aspect kept."""
    height, width = shape
    aspect = float(np.clip(width / height, 1 / MAX_ASPECT, MAX_ASPECT))
    sides = (working_size / aspect**0.5, working_size * aspect**0.5)
    rounded = [max(STRIDE, round(side / STRIDE) * STRIDE) for side in sides]
    return rounded[0], rounded[1]


def resize_image(image: ByteImage, shape: tuple[int, int]) -> ByteImage:
    """Resize an image with anti-aliasing."""
    if image.shape[:2] == shape:
        return image
    as_pillow = Image.fromarray(np.ascontiguousarray(image))
    resized = as_pillow.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.array(resized)


def resize_plane(
    plane: NDArray[np.floating], shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> NDArray[np.float32]:
    """Resize values (H, W) bilinearly, with anti-aliasing where they shrink, or a part of them alone.

    ``box`` holds top, left, bottom and right of the part, which need not be whole pixels.
    """
    top, left, bottom, right = box or (0, 0, *plane.shape)
    if box is None and plane.shape == shape:
        return plane.astype(np.float32)
    as_pillow = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    part = (left, top, right, bottom)
    return np.array(as_pillow.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=part))


def resize_labels(labels: LabelImage, shape: tuple[int, int]) -> LabelImage:
    """Resize class indices (H, W) without mixing them: each new pixel takes the nearest old one."""
    if labels.shape == shape:
        return labels
    return np.array(Image.fromarray(labels).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def normalize(
    image: ByteImage, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    """Turn an image (H, W, 3) in 0 to 255 into the (3, H, W) float32 that a network was trained on."""
    center, spread = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    scaled: NDArray[np.float32] = (image.astype(np.float32) / np.float32(255) - center) / spread
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
