"""Random changes that turn one training image into many: geometry, light, color, artifacts.

Every sample has its own random generator, so a run gives the same images whatever thread makes them.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.config import AugmentConfig
from napari_lesionseg.datasets.synthetic.artifacts import random_artifacts
from napari_lesionseg.types import ByteImage, LabelImage

BLACK_SURROUNDINGS = 0.3  # fraction of images padded with black instead of mirrored at the border
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


class TrainingSample(NamedTuple):
    """An image and its labels as they enter a batch."""

    image: Tensor
    """uint8, shape (3, S, S)."""
    labels: Tensor
    """uint8, shape (S, S); or landmarks, float32 (P, K, 3)."""


def augment(
    image: ByteImage, labels: LabelImage, config: AugmentConfig, size: int, rng: np.random.Generator
) -> TrainingSample:
    """Change an image and its labels at random."""
    image = random_artifacts(image, rng, config.artifacts, hiding=not _touches_rim(labels))
    theta = random_affine(config, rng)
    mode = "zeros" if rng.random() < BLACK_SURROUNDINGS else "reflection"
    grid = functional.affine_grid(theta[None], [1, 3, size, size], align_corners=False)
    warped = warp_image(image, grid, mode)
    marks = torch.from_numpy(np.ascontiguousarray(labels))[None, None].float()
    moved = functional.grid_sample(marks, grid, mode="nearest", padding_mode=mode, align_corners=False)[0, 0]
    return TrainingSample(change_look(warped, config, rng), moved.round().to(torch.uint8))


def warp_image(image: ByteImage, grid: Tensor, padding: str) -> Tensor:
    """Sample an image (H, W, 3) at a grid (1, S, S, 2), into (3, S, S) from 0 to 255."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]


def change_look(image: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Change light, color and sharpness of an image (3, S, S) from 0 to 255, into bytes."""
    colored = _change_color(image / 255.0, config.color, rng)
    return degrade((colored * 255.0).round().clamp(0, 255).to(torch.uint8), config.blur, rng)


def plain_sample(image: ByteImage, labels: LabelImage, size: int) -> TrainingSample:
    """Resize an image and its labels to ``size`` without random changes."""
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    marks = Image.fromarray(labels).resize((size, size), Image.Resampling.NEAREST)
    return TrainingSample(
        torch.from_numpy(np.array(resized)).permute(2, 0, 1), torch.from_numpy(np.array(marks))
    )


def _touches_rim(labels: LabelImage) -> bool:
    return bool(labels[[0, -1]].any() or labels[:, [0, -1]].any())


def random_affine(config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Draw the map from the sample's coordinates to the image's, both in [-1, 1]; shape (2, 3)."""
    low, high = config.scale
    zoom = np.exp(rng.uniform(np.log(low), np.log(high)))
    stretch = np.exp(rng.uniform(-config.aspect, config.aspect) / 2)
    turned = rng.uniform(0, 2 * np.pi)
    angle = ((turned + np.pi) % (2 * np.pi) - np.pi) * config.rotation / 180
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    matrix = np.diag([stretch, 1 / stretch]) @ turn @ flip / zoom
    shift = rng.uniform(-config.shift, config.shift, size=(2, 1))
    return torch.from_numpy(np.hstack([matrix, shift])).float()


def _change_color(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change light and color of an image (3, H, W) in [0, 1]."""
    if strength == 0:
        return image
    gains = torch.from_numpy(np.exp(rng.normal(0, 0.08 * strength, size=(3, 1, 1)))).float()
    exposure = float(np.exp(rng.normal(0, 0.15 * strength)))
    gamma = float(np.exp(rng.normal(0, 0.15 * strength)))
    saturation = float(np.exp(rng.normal(0, 0.25 * strength)))
    contrast = float(np.exp(rng.normal(0, 0.12 * strength)))
    lit = (image * gains * exposure).clamp_(1e-4, 1).pow_(gamma)
    gray = (lit * torch.tensor(LUMINANCE).view(3, 1, 1)).sum(0, keepdim=True)
    colored = gray + (lit - gray) * saturation
    mean = colored.mean()
    return ((colored - mean) * contrast + mean).clamp_(0, 1)


def degrade(image: Tensor, fraction: float, rng: np.random.Generator) -> Tensor:
    """Blur, add noise to, or compress an image (3, H, W) of bytes."""
    if rng.random() < fraction:
        as_pillow = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        blurred = as_pillow.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2.0)))
        image = torch.from_numpy(np.array(blurred)).permute(2, 0, 1)
    if rng.random() < fraction:
        noise = torch.from_numpy(
            rng.normal(0, rng.uniform(2, 10), size=tuple(image.shape)).astype(np.float32)
        )
        image = (image.float() + noise).clamp_(0, 255).to(torch.uint8)
    return _compress(image, int(rng.integers(25, 90))) if rng.random() < fraction else image


def _compress(image: Tensor, quality: int) -> Tensor:
    """Compress an image (3, H, W) of bytes as JPEG, and decode it."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer, formats=["JPEG"]))).permute(2, 0, 1)
