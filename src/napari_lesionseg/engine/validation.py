"""Quick scores on held-out pictures while a network learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_lesionseg.data.batches import CachedPair
from napari_lesionseg.data.transforms import normalise, resize_picture, working_shape
from napari_lesionseg.models.blocks import SegmentationNetwork, logits_to_probability
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.types import IGNORED, LabelImage
from napari_lesionseg.engine.device import autocast


@dataclass(frozen=True, slots=True)
class ValidationScores:
    """Means over the held-out pictures, each in [0, 1], of everything that is not background."""

    dice: float
    jaccard: float
    failures: float
    """Share of the pictures with a Jaccard below 0.65."""


FAILURE = 0.65  # the ISIC 2018 challenge's threshold (Codella et al. 2019)


@torch.inference_mode()
def validate(
    network: SegmentationNetwork, card: ModelCard, pairs: Sequence[CachedPair], device: torch.device
) -> ValidationScores:
    """Score the automatic outline at a threshold of 0.5, without any tidying up.

    Parameters
    ----------
    network : SegmentationNetwork
        In evaluation mode, on ``device``.
    card : ModelCard
        Working size and normalisation.
    pairs : sequence of CachedPair
        Held-out pictures; at least one.
    device : torch.device
        Where the network is.
    """
    overlaps = np.array([_jaccard(_outline(network, card, pair, device), pair.labels) for pair in pairs])
    dice = 2 * overlaps / (1 + overlaps)
    return ValidationScores(float(dice.mean()), float(overlaps.mean()), float((overlaps < FAILURE).mean()))


def _outline(
    network: SegmentationNetwork, card: ModelCard, pair: CachedPair, device: torch.device
) -> NDArray[np.bool_]:
    height, width = pair.labels.shape
    small = resize_picture(pair.image, working_shape((height, width), card.working_size))
    image = torch.from_numpy(normalise(small, card.mean, card.std))[None].to(device)
    with autocast(device):
        logits = network(image.contiguous(memory_format=torch.channels_last))
    full = torch.nn.functional.interpolate(
        logits.float(), (height, width), mode="bilinear", align_corners=False
    )
    probability = logits_to_probability(full)[0]
    foreground = probability[0] if len(probability) == 1 else 1 - probability[0]
    return (foreground >= 0.5).cpu().numpy()


def _jaccard(predicted: NDArray[np.bool_], labels: LabelImage) -> float:
    counted = labels != IGNORED
    truth = (labels > 0) & counted
    union = ((predicted | truth) & counted).sum()
    return float((predicted & truth).sum() / union) if union else 1.0
