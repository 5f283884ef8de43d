"""Decide whether images come from a new domain, and which expert is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray

from napari_lesionseg.config import MIN_SIDE, FineTuneConfig
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.lite_unet import DESCRIBING_STAGES
from napari_lesionseg.models.mixture import (
    MAX_EXPERTS,
    DomainStatistics,
    count_experts,
    expert_at,
    gate_of,
    with_expert,
)
from napari_lesionseg.types import ByteImage

FEWEST_IMAGES = 100
"""Training images needed for the covariance of 48 features: with 20 of them, half of the other images of the
same domain look different; with 100, 8 %; with 1000, 3 %."""
CLEARLY = 0.75
"""Share of images that must look different if most of them belong to a known domain: half of the images of
one domain are nearest to the center of a few of themselves."""
Descriptions = Mapping[str, NDArray[np.float32]]
"""Image descriptions by name; see `SegmentationNetwork.describe`."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertAssignment:
    """The expert to train."""

    expert_index: int = 0
    recognized: int = 0
    domain: DomainStatistics | None = None
    descriptions: Descriptions = field(default_factory=dict)

    @property
    def is_new_domain(self) -> bool:
        """Whether the images get an expert."""
        return self.expert_index > 0

    @property
    def new_domain_images(self) -> int | None:
        """Number of held-out images in the new domain; None if the domain is known."""
        return self.recognized if self.is_new_domain else None

    def start(self, network: SegmentationNetwork) -> SegmentationNetwork:
        """Return the network that training starts from; do not modify it."""
        return expert_at(network, self.expert_index)

    def join(
        self, network: SegmentationNetwork, expert: SegmentationNetwork, stems: Iterable[str]
    ) -> SegmentationNetwork:
        """Return a copy of ``network`` with the expert that was trained on these images."""
        direction = None
        if self.expert_index and self.domain is not None:
            direction = self.domain.direction_to(_stack(self.descriptions, stems))
        return with_expert(network, self.expert_index, expert, direction)

    def settings(self, config: FineTuneConfig, working_size: int) -> FineTuneConfig:
        """Return the settings for the chosen expert."""
        size = config.size or working_size
        if not self.is_new_domain or config.expert is None:
            # The stages that describe images must not change, or the domain statistics in the card are wrong.
            frozen = max(config.frozen_stages, DESCRIBING_STAGES if self.domain else 0)
            return config.model_copy(update={"size": size, "frozen_stages": frozen})
        own = config.expert
        changes = {
            "interpolations": own.interpolations,
            "size": config.size or max(MIN_SIDE, round(own.size_fraction * working_size)),
            "click_fraction": min(config.click_fraction, own.click_fraction),
        }
        return config.model_copy(update=changes)


def measure_domain(model: Model, images: Iterable[ByteImage]) -> DomainStatistics | None:
    """Return statistics of a model's training images for its card; None if it cannot describe images."""
    described = [found for image in images if (found := model.describe(image)) is not None]
    return DomainStatistics.of(np.stack(described)) if described else None


def assign_expert(
    model: Model,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]],
    descriptions: Descriptions,
    config: FineTuneConfig,
) -> ExpertAssignment:
    """Choose the expert to train: a new one if enough held-out images look different."""
    domain = model.card.domain
    if domain is None or not descriptions or len(domain.mean) != len(next(iter(descriptions.values()))):
        return ExpertAssignment()
    if config.expert is None or domain.images < FEWEST_IMAGES:
        return ExpertAssignment(domain=domain)
    gate, new = gate_of(model.network).cpu(), count_experts(model.network)
    present, extended = Counter[int](), Counter[int]()
    for learned, apart in folds:
        if apart:
            described = torch.from_numpy(_stack(descriptions, apart))
            own = gate.with_domain(new, domain.direction_to(_stack(descriptions, learned)))
            present.update(gate(described).tolist())
            extended.update(own(described).tolist())
    total = present.total()
    known, belonging = max(((p, n) for p, n in present.items() if p), key=itemgetter(1), default=(0, 0))
    needed = config.expert.recognized if belonging <= total / 2 else CLEARLY
    if new < MAX_EXPERTS and extended[new] >= max(1, needed * total):
        return ExpertAssignment(new, extended[new], domain, descriptions)
    return ExpertAssignment(known if belonging > total / 2 else 0, belonging, domain, descriptions)


def _stack(descriptions: Descriptions, stems: Iterable[str]) -> NDArray[np.float32]:
    return np.stack([descriptions[stem] for stem in stems])
