"""Quick scores on held-out images while a network learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_lesionseg.evaluation.metrics import FAILURE_LIMIT
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.types import IGNORED, LabelImage


@dataclass(frozen=True, slots=True)
class ValidationScores:
    """Means over the held-out images, each in [0, 1], of everything that is not background."""

    dice: float
    jaccard: float
    failures: float
    """Share of the images with a Jaccard below `FAILURE_LIMIT`."""


def validate(
    network: SegmentationNetwork, card: ModelCard, pairs: Sequence[CachedPair], device: torch.device
) -> ValidationScores:
    """Score the automatic outline at a threshold of 0.5, without any tidying up.

    Parameters
    ----------
    network : SegmentationNetwork
        In evaluation mode; left as it is.
    card : ModelCard
        Working size and normalization.
    pairs : sequence of CachedPair
        Held-out images; at least one.
    device : torch.device
        Where the work is done.
    """
    model = Model(network, card, device)
    overlaps = np.array([_jaccard(_outline(model, pair), pair.labels) for pair in pairs])
    dice = 2 * overlaps / (1 + overlaps)
    failures = float((overlaps < FAILURE_LIMIT).mean())
    return ValidationScores(float(dice.mean()), float(overlaps.mean()), failures)


def _outline(model: Model, pair: CachedPair) -> NDArray[np.bool_]:
    probability = model.predict(pair.image, augment=False)
    foreground = probability if probability.ndim == 2 else 1 - probability[0]
    return foreground >= 0.5


def _jaccard(predicted: NDArray[np.bool_], labels: LabelImage) -> float:
    counted = labels != IGNORED
    truth = (labels > 0) & counted
    union = ((predicted | truth) & counted).sum()
    return float((predicted & truth).sum() / union) if union else 1.0
