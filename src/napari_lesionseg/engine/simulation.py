"""A simulated reader who clicks while the network learns."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from napari_lesionseg.models.blocks import SegmentationNetwork, logits_to_probability
from napari_lesionseg.types import IGNORED
from napari_lesionseg.engine.clicks import DISC_RADIUS, next_click

COARSE = 4  # errors are looked for at a quarter of the resolution, which is quick and precise enough
JITTER = 0.7
FORGET_PREVIOUS = 0.1  # share of the pictures whose previous outline is withheld


@torch.no_grad()
def simulate_guidance(
    network: SegmentationNetwork,
    features: tuple[Tensor, ...],
    labels: Tensor,
    max_rounds: int,
    rng: np.random.Generator,
) -> Tensor:
    """Click on the network's errors for one to ``max_rounds`` rounds, feeding its answers back.

    Parameters
    ----------
    network : SegmentationNetwork
        In evaluation mode.
    features : tuple of Tensor
        What it encoded, detached.
    labels : Tensor
        The truth, shape (B, H, W).
    max_rounds : int
        Most clicks a picture.
    rng : numpy.random.Generator
        Source of chance.

    Returns
    -------
    Tensor
        Guidance planes of shape (B, 3, H, W), as `guidance_planes` draws them.
    """
    planes = torch.zeros(len(labels), 3, *labels.shape[1:], device=labels.device)
    rounds = rng.integers(1, max_rounds + 1, size=len(labels))
    truth = ((labels > 0) & (labels != IGNORED))[:, ::COARSE, ::COARSE].cpu().numpy()
    for turn in range(int(rounds.max())):
        probability = _foreground(network.decode(features, planes))
        coarse = (probability[:, ::COARSE, ::COARSE] >= 0.5).cpu().numpy()
        for index in np.flatnonzero(rounds > turn):
            click = next_click(coarse[index], truth[index], rng, JITTER)
            if click is not None:
                _draw_disc(planes[index, 0 if click.positive else 1], click.row * COARSE, click.col * COARSE)
            planes[index, 2] = probability[index]
    planes[torch.from_numpy(rng.random(len(labels)) < FORGET_PREVIOUS), 2] = 0
    return planes


def _foreground(logits: Tensor) -> Tensor:
    """Probability (B, H, W) of anything but background."""
    probability = logits_to_probability(logits)
    return probability[:, 0] if probability.shape[1] == 1 else 1 - probability[:, 0]


def _draw_disc(plane: Tensor, row: float, col: float) -> None:
    rows = torch.arange(plane.shape[0], device=plane.device)[:, None]
    cols = torch.arange(plane.shape[1], device=plane.device)[None]
    plane[(rows - row) ** 2 + (cols - col) ** 2 <= DISC_RADIUS**2] = 1
