"""Networks of one shape that share the work: each image is outlined by the one that learned its kind.

A model that learned an annotator's smartphone photos forgets part of what it knew of dermoscopy. So what is
learned from images of a kind of their own is kept beside the old weights, not in place of them, and a gate
gives each image to one of them: a mixture of experts (Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79),
of which one works at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.domain import Direction
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH, LiteUNet

ARCHITECTURE = "lite-unet-experts"
MOST_EXPERTS = 4
FAR = 2.0
"""Standard deviations from the training images at which an image is of another kind; what that costs and
gains is in docs/explanation/fine-tuning.md."""


class DomainGate(nn.Module):
    """Choose an expert for each image.

    An image that is not far from those of the first expert in the direction of any other kind is the first
    expert's. Of the kinds in whose direction it is far, it is of the one whose center is nearest.

    Parameters
    ----------
    kinds : int
        Kinds of images that have an expert of their own.
    """

    weight: Tensor
    bias: Tensor
    centers: Tensor
    whitening: Tensor

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(kinds, DESCRIPTION_LENGTH))
        self.register_buffer("bias", torch.zeros(kinds))
        self.register_buffer("centers", torch.zeros(kinds, DESCRIPTION_LENGTH))
        self.register_buffer("whitening", torch.eye(DESCRIPTION_LENGTH))

    def forward(self, description: Tensor) -> Tensor:
        """Map descriptions (B, `DESCRIPTION_LENGTH`) to experts' places (B,), 0 for the first."""
        far = description @ self.weight.T + self.bias > FAR
        apart = ((description[:, None] - self.centers) @ self.whitening).square().sum(dim=2)
        apart = torch.where(far, apart, torch.inf)
        # The first expert's turn comes if all others are infinitely far.
        return functional.pad(apart, (1, 0), value=torch.finfo(apart.dtype).max).argmin(dim=1)

    def with_kind(self, place: int, direction: Direction) -> DomainGate:
        """Return a copy that knows what the images of an expert look like.

        Parameters
        ----------
        place : int
            Of the expert: 1 or higher, at most one more than there are kinds.
        direction : Direction
            Where its images lie.
        """
        known = len(self.bias)
        made = DomainGate(max(known, place))
        for name, tensor in self.named_buffers():
            made.get_buffer(name)[: len(tensor)] = tensor
        made.weight[place - 1], made.bias[place - 1] = torch.from_numpy(direction.weight), direction.bias
        made.centers[place - 1] = torch.from_numpy(direction.center)
        made.whitening[:] = torch.from_numpy(direction.whitening)
        return made.to(self.bias.device)


class ExpertNetwork(SegmentationNetwork):
    """Several networks, and the gate that gives each image to one of them.

    Parameters
    ----------
    out_channels : int
        1 for one class against the background, otherwise the number of classes, background included.
    experts : int
        Networks; the first is the one for all images that are of no other's kind.

    Notes
    -----
    `network_for` runs one expert; `encode` and `decode`, for batches and for export, run all of them and
    choose between their answers.
    """

    guided = True

    def __init__(self, out_channels: int = 1, experts: int = 2) -> None:
        super().__init__()
        if not 2 <= experts <= MOST_EXPERTS:
            raise ValueError(f"experts must be 2 to {MOST_EXPERTS}")
        self.experts = nn.ModuleList(LiteUNet(out_channels) for _ in range(experts))
        self.gate = DomainGate(experts - 1)

    def expert(self, place: int) -> SegmentationNetwork:
        """Return one of the networks; 0 is the first."""
        return cast("SegmentationNetwork", self.experts[place])

    def choose(self, image: Tensor) -> Tensor:
        """Choose an expert for each image (B, 3, H, W): their places (B,)."""
        chosen: Tensor = self.gate(self.describe(image))
        return chosen

    def describe(self, image: Tensor) -> Tensor | None:
        """Describe images as the first expert does."""
        return self.expert(0).describe(image)

    def network_for(self, view: Tensor) -> SegmentationNetwork:
        """Return the expert for an image (1, 3, H, W)."""
        return self.expert(int(self.choose(view)[0]))

    def heads(self) -> dict[str, nn.Conv2d]:
        """Return the last layer of every expert, by name."""
        return {
            f"experts.{place}.{name}": head
            for place in range(len(self.experts))
            for name, head in self.expert(place).heads().items()
        }

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take every expert's features from a normalized image (B, 3, H, W), and choose one of them."""
        places = range(len(self.experts))
        maps = [feature for place in places for feature in self.expert(place).encode(image)[1:]]
        return (image, *maps, self.choose(image).to(image.dtype))

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn `encode`'s features into the logits (B, C, H, W) of the expert that was chosen."""
        image, *maps, chosen = features
        each = len(maps) // len(self.experts)
        logits = self.expert(0).decode((image, *maps[:each]), guidance)
        for place in range(1, len(self.experts)):
            own = self.expert(place).decode((image, *maps[place * each : (place + 1) * each]), guidance)
            logits = torch.where((chosen == place).view(-1, 1, 1, 1), own, logits)
        return logits

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the encoders."""
        for place in range(len(self.experts)):
            yield from self.expert(place).encoder_parameters()


def count_experts(network: SegmentationNetwork) -> int:
    """Count the networks that share the work: 1 for a network that does all of it."""
    return len(network.experts) if isinstance(network, ExpertNetwork) else 1


def expert_at(network: SegmentationNetwork, place: int) -> SegmentationNetwork:
    """Return the network from which the expert at a place goes on learning.

    Parameters
    ----------
    network : SegmentationNetwork
        One network, or several that share the work.
    place : int
        A place after the last is that of a new expert, which begins as the first one is.
    """
    if not isinstance(network, ExpertNetwork):
        return network
    return network.expert(place if place < len(network.experts) else 0)


def with_expert(
    network: SegmentationNetwork, place: int, expert: SegmentationNetwork, direction: Direction | None = None
) -> SegmentationNetwork:
    """Return a copy of ``network`` with another expert at a place.

    Parameters
    ----------
    network : SegmentationNetwork
        Left as it is.
    place : int
        0 to `count_experts`, at which it comes as a new one.
    expert : SegmentationNetwork
        What outlines images of that kind.
    direction : Direction, optional
        Tells images of that kind from others; None: as before.

    Raises
    ------
    ValueError
        If there is no direction for a new expert.
    """
    if direction is None and place >= max(1, count_experts(network)):
        raise ValueError("a new expert needs images of a kind of their own")
    device = next(network.parameters()).device
    if place == 0 and not isinstance(network, ExpertNetwork):
        return copy.deepcopy(expert).to(device).train(network.training)
    count = max(count_experts(network), place + 1)
    made = ExpertNetwork(_channels(network), count)
    made.experts = nn.ModuleList(
        copy.deepcopy(expert if index == place else expert_at(network, index)) for index in range(count)
    )
    made.gate = gate_of(network)
    if place and direction is not None:
        made.gate = made.gate.with_kind(place, direction)
    placed: SegmentationNetwork = made.to(device).train(network.training)
    return placed


def gate_of(network: SegmentationNetwork) -> DomainGate:
    """Return a copy of a network's gate; of one without experts, a gate that knows no other kinds."""
    return copy.deepcopy(network.gate) if isinstance(network, ExpertNetwork) else DomainGate(0)


def card_with(card: ModelCard, experts: int) -> ModelCard:
    """Return the card of a network in which so many experts share the work."""
    if experts == 1:
        return card
    return card.model_copy(update={"arch": ARCHITECTURE, "arch_settings": {"experts": experts}})


def _channels(network: SegmentationNetwork) -> int:
    return next(iter(network.heads().values())).out_channels
