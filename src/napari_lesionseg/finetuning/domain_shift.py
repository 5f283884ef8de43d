"""Whether images are of a kind of their own, and which of a model's weights are to learn from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray

from napari_lesionseg.config import FineTuneConfig
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
"""Training images from which on the covariance of their 48 numbers is good enough: with 20, half of the
images of that very kind seem to be of another; with 100, 8 in 100; with 1000, 3."""
CLEARLY = 0.75
"""Share of the images that must be of a new kind, where most seem to be of one that is known: of images
of that same kind, half are as near to the center of some of themselves."""
Descriptions = Mapping[str, NDArray[np.float32]]
"""What kind of image each is, by name; see `SegmentationNetwork.describe`."""


@dataclass(frozen=True, slots=True, eq=False)
class ExpertAssignment:
    """Which of a model's weights learn.

    Parameters
    ----------
    expert_index : int
        Of the expert that learns. 0: the model itself, or the first of its experts. The number of experts: a
        new one.
    recognized : int
        Held-out images that are told from the model's training images by those that are learned from.
    domain : DomainStatistics or None
        Of the model's training images.
    descriptions : mapping
        Of the corrected images, by name.
    """

    expert_index: int = 0
    recognized: int = 0
    domain: DomainStatistics | None = None
    descriptions: Descriptions = field(default_factory=dict)

    @property
    def is_new_domain(self) -> bool:
        """Whether the images get weights of their own."""
        return self.expert_index > 0

    @property
    def new_domain_images(self) -> int | None:
        """Number of held-out images in the new domain; None if the domain is known."""
        return self.recognized if self.is_new_domain else None

    def start(self, network: SegmentationNetwork) -> SegmentationNetwork:
        """Return the network that the copies begin as; it is not to be changed."""
        return expert_at(network, self.expert_index)

    def join(
        self, network: SegmentationNetwork, expert: SegmentationNetwork, stems: Iterable[str]
    ) -> SegmentationNetwork:
        """Return a copy of ``network`` in which an expert has learned from some of the images."""
        direction = None
        if self.expert_index and self.domain is not None:
            direction = self.domain.direction_to(_stack(self.descriptions, stems))
        return with_expert(network, self.expert_index, expert, direction)

    def settings(self, config: FineTuneConfig, working_size: int) -> FineTuneConfig:
        """Return how the copies learn: as they were told, or as suits images of a kind of their own."""
        size = config.size or working_size
        if not self.is_new_domain or config.expert is None:
            # What describes images stays as it is, or what is known of their kinds would be wrong.
            frozen = max(config.frozen_stages, DESCRIBING_STAGES if self.domain else 0)
            return config.model_copy(update={"size": size, "frozen_stages": frozen})
        own = config.expert
        changes = {
            "interpolations": own.interpolations,
            "size": config.size or round(own.size_fraction * working_size),
            "click_fraction": min(config.click_fraction, own.click_fraction),
        }
        return config.model_copy(update=changes)


def measure_domain(model: Model, images: Iterable[ByteImage]) -> DomainStatistics | None:
    """Sum up what images look like to a model: those it was trained on, for its card.

    Returns
    -------
    DomainStatistics or None
        None if the model has no words for them, or they are too few.
    """
    described = [found for image in images if (found := model.describe(image)) is not None]
    return DomainStatistics.of(np.stack(described)) if described else None


def assign_expert(
    model: Model,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]],
    descriptions: Descriptions,
    config: FineTuneConfig,
) -> ExpertAssignment:
    """Say which weights are to learn from images.

    Parameters
    ----------
    model : Model
        What they start from.
    folds : sequence of pairs
        Names of the images that are learned from, and of those that are held out.
    descriptions : mapping
        Of all of them; empty if there are none.
    config : FineTuneConfig
        Whether there may be weights of their own, and from which share of recognized images on.

    Returns
    -------
    Speciality
        Those of a new expert, if enough of the held-out images are of the kind of those that are learned
        from, and of no kind that is known; otherwise those of the expert that outlines most of them.
    """
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
