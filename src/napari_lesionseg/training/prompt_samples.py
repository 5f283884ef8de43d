"""Training samples for boxes, lassos and strokes: windows around one lesion, in colors of no known camera.

Colors, contrast and texture are changed so strongly that a network that trusts the pigment alone fails, and
one that follows the gesture does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.config import PromptConfig, TrainConfig
from napari_lesionseg.datasets.synthetic.artifacts import random_artifacts
from napari_lesionseg.inference.prompts import Prior, area_prior, lasso_prior, no_prior
from napari_lesionseg.training.augmentation import degrade
from napari_lesionseg.training.dataset import Batch, BatchSource, CachedPair
from napari_lesionseg.training.simulated_prompts import Mask, simulate_box, simulate_lasso
from napari_lesionseg.types import IGNORED, Box, ByteImage, LabelImage, Prompts

LEAST_PIXELS = 60  # smaller lesions say nothing at the working size
OWN_LESION = 0.6  # share of the images with several lesions of which only one is meant
SECOND_LESION = 0.1  # of the largest: smaller parts of a mask are no lesion of their own
OFF_CENTER = 0.15  # share of the windows with the lesion far from the center
BEYOND = 0.03  # of the image's side: how far a window may leave the image
TILT = 0.15  # standard deviation of the rotation, in radians, beyond quarter turns


class PromptSample(NamedTuple):
    """A window around a lesion, and what a gesture says about it."""

    image: Tensor  # uint8 (3, S, S)
    target: Tensor  # uint8 (S, S)
    prior: Prior


class PromptBatch(NamedTuple):
    """Images, labels and gestures of one step."""

    images: Tensor  # uint8 (B, 3, S, S)
    labels: Tensor  # uint8 (B, S, S)
    priors: tuple[Prior, ...]


class PromptSource(BatchSource):
    """Batches of windows with gestures."""

    def __init__(self, pairs: Sequence[CachedPair], config: TrainConfig, batch_size: int) -> None:
        usable = [pair for pair in pairs if np.count_nonzero(_lesions(pair.labels)) >= LEAST_PIXELS]
        super().__init__(usable, config.augment, batch_size, config.seed)
        self._settings = config.prompts or PromptConfig()

    def batch(self, step: int, size: int) -> Batch:
        """Make the batch of ``step`` at ``size`` pixels a side."""
        first = step * self._batch_size
        samples = [self._window(position, size) for position in range(first, first + self._batch_size)]
        return PromptBatch(  # type: ignore[return-value]
            torch.stack([sample.image for sample in samples]),
            torch.stack([sample.target for sample in samples]),
            tuple(sample.prior for sample in samples),
        )

    def _window(self, position: int, size: int) -> PromptSample:
        pair, rng = self._pair_at(position)
        for _ in range(10):  # a window at the rim may miss the lesion
            sample = make_sample(pair.image, pair.labels, self._settings, size, rng)
            if sample is not None:
                return sample
        return PromptSample(
            torch.zeros(3, size, size, dtype=torch.uint8),
            torch.full((size, size), IGNORED, dtype=torch.uint8),
            no_prior((size, size)),
        )


def make_sample(
    image: ByteImage, labels: LabelImage, config: PromptConfig, size: int, rng: np.random.Generator
) -> PromptSample | None:
    """Cut a window around a lesion at random, recolor it, and draw a gesture; None if the lesion is lost."""
    target = _choose_lesion(_lesions(labels), rng)
    rows, cols = (np.flatnonzero(target.any(axis=axis)) for axis in (1, 0))
    lesion = Box(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
    kind = rng.random()
    strokes_only = kind < config.strokes_only
    theta = _random_window(lesion, target.shape, config, strokes_only, rng)
    touched = random_artifacts(image, rng, config.artifacts)
    warped, mask = _warp(touched, target, theta, size, rng)
    if np.count_nonzero(mask) < LEAST_PIXELS:
        return None
    recolored = randomize_colors(warped, config.recolor, rng)
    pixels = degrade((255 * recolored).round().clamp(0, 255).to(torch.uint8), 0.12, rng)
    if strokes_only:
        prior = no_prior(mask.shape)
    elif kind < config.strokes_only + config.lasso:
        prior = lasso_prior(simulate_lasso(mask, rng))
    else:
        prior = area_prior(Prompts(box=simulate_box(mask, rng)), Box(0, 0, size, size), (size, size))
    return PromptSample(pixels, torch.from_numpy(mask.astype(np.uint8)), prior)


def randomize_colors(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change color, contrast, light and texture of an image (3, H, W) in [0, 1] strongly."""
    for change, share in CHANGES:
        if rng.random() < share * strength:
            image = change(image, rng).clamp(0, 1)
    return image


def _scale_channels(image: Tensor, rng: np.random.Generator) -> Tensor:
    return image * _normal(0.18, (3, 1, 1), rng).exp()


def _bend(image: Tensor, rng: np.random.Generator) -> Tensor:
    return image.clamp_min(1e-4) ** float(np.exp(rng.normal(0, 0.35)))


def _fade(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Lower the contrast, as of pale lesions."""
    mean = image.mean((1, 2), keepdim=True)
    return mean + (image - mean) * float(rng.uniform(0.25, 1.15))


def _mix_channels(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Make channels differ in other ways than pigment does, as in red lesions."""
    mixing = torch.eye(3) + _normal(0.22, (3, 3), rng)
    return torch.einsum("ij,jhw->ihw", mixing / mixing.sum(1, keepdim=True).clamp_min(0.3), image)


def _shade(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Light an image from one side."""
    down = torch.linspace(-1, 1, image.shape[1])[:, None]
    across = torch.linspace(-1, 1, image.shape[2])[None]
    angle = rng.uniform(0, 2 * np.pi)
    ramp = down * float(np.sin(angle)) + across * float(np.cos(angle))
    return image * (1 + float(rng.uniform(-0.45, 0.45)) * ramp)


def _remove_color(image: Tensor, rng: np.random.Generator) -> Tensor:
    del rng
    return image.mean(0, keepdim=True).expand(3, -1, -1)


def _convolve(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Filter an image (3, H, W) by random weights, and keep its mean and contrast.

    Xu et al. 2021, "Robust and generalizable visual representation learning via random convolutions",
    arXiv:2007.13003.
    """
    weight = _normal(0.2, (3, 3, 3, 3), rng)
    weight[:, :, 1, 1] += 0.6 * torch.eye(3)
    found = functional.conv2d(image[None], weight, padding=1)[0]
    mean, spread = (function(found, (1, 2), keepdim=True) for function in (torch.mean, torch.std))
    scaled = (found - mean) / (spread + 1e-3) * image.std((1, 2), keepdim=True)
    return torch.lerp(image, scaled + image.mean((1, 2), keepdim=True), float(rng.uniform(0.3, 1)))


def _normal(spread: float, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.normal(0, spread, shape).astype(np.float32))


CHANGES: tuple[tuple[Callable[[Tensor, np.random.Generator], Tensor], float], ...] = (
    (_scale_channels, 0.75),
    (_bend, 0.65),
    (_fade, 0.5),
    (_mix_channels, 0.3),
    (_convolve, 0.15),
    (_shade, 0.35),
    (_remove_color, 0.06),
)
"""Changes of an image (3, H, W) in [0, 1], in their order, and how often each is made."""


def _lesions(labels: LabelImage) -> Mask:
    lesions: Mask = (labels > 0) & (labels != IGNORED)
    return lesions


def _choose_lesion(mask: Mask, rng: np.random.Generator) -> Mask:
    """Return one lesion of several, or all of them."""
    parts, count = ndimage.label(mask)
    if count < 2 or rng.random() >= OWN_LESION:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero((sizes >= SECOND_LESION * sizes.max()) & (sizes >= LEAST_PIXELS))
    if len(large) < 2:
        return mask
    one: Mask = np.asarray(parts == 1 + rng.choice(large))
    return one


def _random_window(
    lesion: Box, shape: tuple[int, ...], config: PromptConfig, wide: bool, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw the map (2, 3) from a window's coordinates to the image's, both in [-1, 1]."""
    height, width = lesion.bottom - lesion.top, lesion.right - lesion.left
    low, high = config.margin
    margin = rng.uniform(low, 2 * high if wide else high)
    side = max(height, width) * (1 + 2 * margin)
    spread = rng.uniform(-0.35, 0.35, 2) if rng.random() < OFF_CENTER else rng.normal(0, 0.06, 2)
    center = np.array([lesion.top + lesion.bottom, lesion.left + lesion.right]) / 2 + spread * side
    # The border of the image ends a window, as it does in the program, but for a sliver.
    ends = np.array(shape[:2])
    first = np.maximum(center - side / 2, -BEYOND * ends)
    last = np.minimum(center + side / 2, (1 + BEYOND) * ends)
    (row, col), (high, wide) = (first + last) / 2, last - first
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0, TILT)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.exp(rng.uniform(-0.25, 0.25) / 2)
    flip = np.diag([rng.choice([-1.0, 1.0]), 1.0])
    scale = np.diag([wide / shape[1] * stretch, high / shape[0] / stretch])  # x first, as torch has it
    shift = np.array([[2 * col / shape[1] - 1], [2 * row / shape[0] - 1]])
    return np.hstack([scale @ turn @ flip, shift]).astype(np.float32)


def _warp(
    image: ByteImage, mask: Mask, theta: NDArray[np.float32], size: int, rng: np.random.Generator
) -> tuple[Tensor, Mask]:
    """Return the window of an image, (3, S, S) in [0, 1], and of a mask."""
    grid = functional.affine_grid(torch.from_numpy(theta)[None], [1, 3, size, size], align_corners=False)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    mode = "reflection" if rng.random() < 0.7 else "zeros"
    warped = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode=mode, align_corners=False)[0]
    # What is mirrored at the border is not the lesion that is meant.
    marks = torch.from_numpy(mask[None, None].astype(np.float32))
    moved = functional.grid_sample(marks, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped, np.asarray((moved[0, 0] >= 0.5).numpy())
