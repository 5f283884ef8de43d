"""A mixture of experts: networks of one architecture, and a gate that chooses one of them for each image.

A model fine-tuned on smartphone photos forgets part of what it knew about dermoscopy. So what is learned from
a new domain is stored in an additional network, and the old one stays as it is (Jacobs et al. 1991,
doi:10.1162/neco.1991.3.1.79). Only one expert runs on an image.

The gate works on image descriptions (`SegmentationNetwork.describe`): how strongly the finest filters
respond, and how much that varies over the image. These depend on camera, lighting and distance, hardly on
the lesion.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from napari_lesionseg.config import Settings
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH, LiteUNet

if TYPE_CHECKING:
    from napari_lesionseg.models.card import ModelCard  # which holds `DomainStatistics`

ARCHITECTURE = "lite-unet-experts"
MAX_EXPERTS = 4
GATE_THRESHOLD = 2.0
"""Distance from the training images, in standard deviations, from which an image belongs to another domain;
docs/explanation/fine-tuning.md lists what this misses and what it takes from the first expert."""
SHRINKAGE = 0.1
"""Weight of the unit matrix in the correlation matrix: regularized discriminant analysis (Friedman 1989,
doi:10.1080/01621459.1989.10478752)."""
DIGITS = 6  # significant digits in the card
RESOLUTION = 1e-4
"""Smaller eigenvalues of a correlation matrix are rounding (`DIGITS`) or too few images, not information."""


class Direction(NamedTuple):
    """Where another domain lies, seen from the training images.

    ``weight @ description + bias`` is the distance from the training images in standard deviations.
    """

    weight: NDArray[np.float32]  # (D,)
    bias: float
    center: NDArray[np.float32]
    """Mean description of the other domain, shape (D,)."""
    whitening: NDArray[np.float32]
    """Shape (D, D): ``(description - center) @ whitening`` has about unit covariance."""

    def distances(self, descriptions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distance of each image, shape (images,)."""
        return np.asarray(descriptions @ self.weight + self.bias, np.float32)


class DomainStatistics(Settings):
    """Mean and covariance of the descriptions of a model's training images, for its card."""

    model_config = ConfigDict(allow_inf_nan=False)

    images: int = Field(ge=2, description="Number of images.")
    mean: tuple[float, ...] = Field(min_length=1, max_length=1000)
    covariance: tuple[float, ...] = Field(description="Lower triangle, row by row, diagonal included.")

    @model_validator(mode="after")
    def _check(self) -> DomainStatistics:
        size = len(self.mean)
        if len(self.covariance) != size * (size + 1) // 2:
            raise ValueError("the covariance must be the lower triangle of a matrix of the mean's size")
        if min(self._matrix().diagonal()) <= 0:
            raise ValueError("variances must be positive")
        if np.linalg.eigvalsh(self._correlation()[0])[0] < -RESOLUTION * size:
            raise ValueError("the covariance must be positive semidefinite")
        return self

    @classmethod
    def of(cls, descriptions: NDArray[np.float32]) -> DomainStatistics | None:
        """Summarize descriptions (images, D); None for fewer than two, or if a feature is constant."""
        exact = descriptions.astype(np.float64)
        if len(exact) < 2 or not exact.std(axis=0).all():
            return None
        covariance = np.atleast_2d(np.cov(exact.T))[np.tril_indices(exact.shape[1])]
        return cls(images=len(exact), mean=_rounded(exact.mean(axis=0)), covariance=_rounded(covariance))

    def direction_to(self, descriptions: NDArray[np.float32]) -> Direction:
        """Return the direction that best separates descriptions (images, D) from the training images.

        This is Fisher's linear discriminant with the covariance of the training images for both domains: five
        images are enough for a mean, but not for a covariance.
        """
        (correlation, spread), center = self._correlation(), descriptions.mean(axis=0, dtype=np.float64)
        regular = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(center))
        discriminant = np.linalg.solve(regular, (center - self.mean) / spread)
        variance = discriminant @ correlation @ discriminant
        deviation = np.sqrt(np.maximum(variance, RESOLUTION * discriminant @ discriminant))
        # A center equal to the mean has no direction: weight 0, not NaN.
        weight = discriminant / np.maximum(deviation, np.finfo(np.float64).tiny) / spread
        whitening = np.linalg.inv(np.linalg.cholesky(regular)).T / spread[:, None]
        single = np.float32
        return Direction(
            weight.astype(single), float(-weight @ self.mean), center.astype(single), whitening.astype(single)
        )

    def _correlation(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the correlation matrix (D, D) and the standard deviations (D,)."""
        covariance = self._matrix()
        spread = np.sqrt(covariance.diagonal())
        return covariance / np.outer(spread, spread), spread

    def _matrix(self) -> NDArray[np.float64]:
        size = len(self.mean)
        matrix = np.zeros((size, size))
        matrix[np.tril_indices(size)] = self.covariance
        return matrix + np.tril(matrix, -1).T


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


class DomainGate(nn.Module):
    """Choose an expert for each image.

    An image farther than `GATE_THRESHOLD` in the direction of a domain may belong to it; of several such
    domains it belongs to the one with the nearest center. All other images belong to the first expert.

    Parameters
    ----------
    domains : int
        Number of domains that have an expert of their own.
    """

    weight: Tensor
    bias: Tensor
    centers: Tensor
    whitening: Tensor

    def __init__(self, domains: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(domains, DESCRIPTION_LENGTH))
        self.register_buffer("bias", torch.zeros(domains))
        self.register_buffer("centers", torch.zeros(domains, DESCRIPTION_LENGTH))
        self.register_buffer("whitening", torch.eye(DESCRIPTION_LENGTH))

    def forward(self, description: Tensor) -> Tensor:
        """Map descriptions (B, `DESCRIPTION_LENGTH`) to expert indices (B,)."""
        far = description @ self.weight.T + self.bias > GATE_THRESHOLD  # (B, domains)
        distance = ((description[:, None] - self.centers) @ self.whitening).square().sum(dim=2)
        distance = torch.where(far, distance, torch.inf)
        # The largest finite number in front: the first expert wins exactly if no domain is in reach.
        return functional.pad(distance, (1, 0), value=torch.finfo(distance.dtype).max).argmin(dim=1)

    def with_domain(self, expert_index: int, direction: Direction) -> DomainGate:
        """Return a copy that sends images in a direction to an expert, 1 or higher."""
        row = expert_index - 1
        gate = DomainGate(max(len(self.bias), expert_index))
        for name, tensor in self.named_buffers():
            gate.get_buffer(name)[: len(tensor)] = tensor
        gate.weight[row], gate.bias[row] = torch.from_numpy(direction.weight), direction.bias
        gate.centers[row] = torch.from_numpy(direction.center)
        gate.whitening[:] = torch.from_numpy(direction.whitening)
        return gate.to(self.bias.device)


class ExpertNetwork(SegmentationNetwork):
    """Several networks, and the gate that chooses one of them for each image.

    Parameters
    ----------
    out_channels : int
        1 for one class against the background, otherwise the number of classes, background included.
    experts : int
        Number of networks; the first takes all images that belong to no other expert's domain.
    prompts : int
        As of the first `LiteUNet`, whose part for prompts answers boxes and lassos on all images. The others
        answer strokes themselves: that part does not learn with them, and on their domain it is worse.

    Notes
    -----
    `network_for` runs one expert. `encode` and `decode`, which batches and ONNX export use, run all of them
    and select among their logits.
    """

    guided = True

    def __init__(self, out_channels: int = 1, experts: int = 2, prompts: int = 0) -> None:
        super().__init__()
        if not 2 <= experts <= MAX_EXPERTS:
            raise ValueError(f"experts must be 2 to {MAX_EXPERTS}")
        self.experts = nn.ModuleList(
            LiteUNet(out_channels, 0 if added else prompts) for added in range(experts)
        )
        self.gate = DomainGate(experts - 1)

    def expert(self, index: int) -> SegmentationNetwork:
        """Return one of the networks."""
        return cast("SegmentationNetwork", self.experts[index])

    def choose(self, image: Tensor) -> Tensor:
        """Return the expert index of each image (B, 3, H, W), shape (B,)."""
        chosen: Tensor = self.gate(self.describe(image))
        return chosen

    def describe(self, image: Tensor) -> Tensor | None:
        """Describe images as the first expert does."""
        return self.expert(0).describe(image)

    def network_for(self, view: Tensor) -> SegmentationNetwork:
        """Return the expert for an image (1, 3, H, W)."""
        return self.expert(int(self.choose(view)[0]))

    def for_prompts(self) -> SegmentationNetwork | None:
        """Return the first expert's network for prompts; None without one."""
        return self.expert(0).for_prompts()

    def heads(self) -> dict[str, nn.Conv2d]:
        """Return the last layer of every expert, by name."""
        return {
            f"experts.{index}.{name}": head
            for index in range(len(self.experts))
            for name, head in self.expert(index).heads().items()
        }

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the image (B, 3, H, W), every expert's features, and the chosen experts (B,)."""
        maps = [f for index in range(len(self.experts)) for f in self.expert(index).encode(image)[1:]]
        return (image, *maps, self.choose(image).to(image.dtype))

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Return the logits (B, C, H, W) of the chosen experts."""
        image, *maps, chosen = features
        each = len(maps) // len(self.experts)
        logits = self.expert(0).decode((image, *maps[:each]), guidance)
        for index in range(1, len(self.experts)):
            own = self.expert(index).decode((image, *maps[index * each : (index + 1) * each]), guidance)
            logits = torch.where((chosen == index).view(-1, 1, 1, 1), own, logits)
        return logits

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the encoders."""
        for index in range(len(self.experts)):
            yield from self.expert(index).encoder_parameters()


def has_experts(arch: str) -> bool:
    """Whether an architecture is a mixture of experts; the card of an ONNX model names it too."""
    return arch == ARCHITECTURE


def count_experts(network: SegmentationNetwork) -> int:
    """Count the experts; 1 for a plain network."""
    return len(network.experts) if isinstance(network, ExpertNetwork) else 1


def expert_at(network: SegmentationNetwork, expert_index: int) -> SegmentationNetwork:
    """Return an expert; a new one starts from the first, without its part for prompts."""
    if expert_index >= count_experts(network):
        return expert_at(network, 0).without_prompts()
    return network.expert(expert_index) if isinstance(network, ExpertNetwork) else network


def with_expert(
    network: SegmentationNetwork,
    expert_index: int,
    expert: SegmentationNetwork,
    direction: Direction | None = None,
) -> SegmentationNetwork:
    """Return a copy of a network in which an expert is replaced, or added.

    Parameters
    ----------
    network : SegmentationNetwork
        Not changed. A plain network counts as one expert.
    expert_index : int
        0 to `count_experts`, which adds an expert.
    expert : SegmentationNetwork
        The new one.
    direction : Direction, optional
        Which images it gets; None: the same as before.

    Raises
    ------
    ValueError
        If an expert is added without a direction.
    """
    if direction is None and expert_index >= max(1, count_experts(network)):
        raise ValueError("a new expert needs a direction")
    device = next(network.parameters()).device
    if expert_index == 0 and not isinstance(network, ExpertNetwork):
        return copy.deepcopy(expert).to(device).train(network.training)
    count = max(count_experts(network), expert_index + 1)
    mixture = ExpertNetwork(_channels(network), count)
    experts = [expert if index == expert_index else expert_at(network, index) for index in range(count)]
    mixture.experts = nn.ModuleList(
        copy.deepcopy(each.without_prompts() if index else each) for index, each in enumerate(experts)
    )
    mixture.gate = gate_of(network)
    if expert_index and direction is not None:
        mixture.gate = mixture.gate.with_domain(expert_index, direction)
    placed: SegmentationNetwork = mixture.to(device).train(network.training)
    return placed


def gate_of(network: SegmentationNetwork) -> DomainGate:
    """Return a copy of a network's gate; a plain network has one without domains."""
    return copy.deepcopy(network.gate) if isinstance(network, ExpertNetwork) else DomainGate(0)


def card_with_experts(card: ModelCard, experts: int) -> ModelCard:
    """Return the card of a mixture of so many experts; for one, the card itself."""
    if experts == 1:
        return card
    settings = {**card.arch_settings, "experts": experts}
    return card.model_copy(update={"arch": ARCHITECTURE, "arch_settings": settings})


def _channels(network: SegmentationNetwork) -> int:
    return next(iter(network.heads().values())).out_channels
