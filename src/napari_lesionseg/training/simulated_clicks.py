"""Simulated clicks of an annotator during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from napari_lesionseg.inference.clicks import draw_disc, next_click
from napari_lesionseg.models.base import SegmentationNetwork, logits_to_probability
from napari_lesionseg.types import IGNORED

COARSE = 4  # errors are searched at a quarter of the resolution, which is fast and precise enough
JITTER = 0.7
FORGET_PREVIOUS = 0.1  # fraction of the images whose previous mask is withheld


@torch.no_grad()
def simulate_guidance(
    network: SegmentationNetwork,
    features: tuple[Tensor, ...],
    labels: Tensor,
    max_rounds: int,
    rngs: Sequence[np.random.Generator],
    *,
    threshold: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    """Click on the network's errors for one to ``max_rounds`` rounds, each on the latest prediction.

    Each image has a generator of its own, so that its clicks do not depend on the images beside it.
    """
    planes = torch.zeros(len(labels), 3, *labels.shape[1:], device=labels.device)
    rounds = np.array([rng.integers(1, max_rounds + 1) for rng in rngs])
    coarse = labels[:, ::COARSE, ::COARSE].cpu().numpy()
    counted = coarse != IGNORED
    truth = (coarse > 0) & counted
    for turn in range(int(rounds.max())):
        probability = _foreground(network.decode(features, planes), temperature)
        predicted = (probability[:, ::COARSE, ::COARSE] >= threshold).cpu().numpy() & counted
        for index in np.flatnonzero(rounds > turn):
            click = next_click(predicted[index], truth[index], rngs[int(index)], JITTER)
            if click is not None:
                disc = draw_disc((labels.shape[1], labels.shape[2]), click.row * COARSE, click.col * COARSE)
                planes[index, 0 if click.positive else 1, torch.from_numpy(disc)] = 1
            planes[index, 2] = probability[index]
    planes[torch.tensor([rng.random() < FORGET_PREVIOUS for rng in rngs]), 2] = 0
    return planes


def _foreground(logits: Tensor, temperature: float) -> Tensor:
    """Probability (B, H, W) of anything but background."""
    probability = logits_to_probability(logits, temperature)
    return probability[:, 0] if probability.shape[1] == 1 else 1 - probability[:, 0]
