"""Building blocks that the networks share."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_lesionseg.errors import CheckpointError


class SegmentationNetwork(nn.Module, ABC):
    """What training and inference ask of a network; every network derives from it.

    A network gives logits, never probabilities: one channel for a single class against the background,
    otherwise one channel a class with the background first.
    """

    guided: bool = False
    """Whether the guidance planes (positive clicks, negative clicks, previous probability) are used."""

    head: nn.Conv2d
    """The last layer, which gives the logits: all that depends on the number of classes."""

    def forward(self, image: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Segment a normalized image (B, 3, H, W) into logits (B, C, H, W)."""
        return self.decode(self.encode(image), guidance)

    @abstractmethod
    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take features from ``image`` of shape (B, 3, H, W); what clicks do not change is all here."""

    @abstractmethod
    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn features, and guidance of shape (B, 3, H, W), into logits of shape (B, C, H, W)."""

    def decode_features(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn features into the map (B, F, h, w) that the head sees; not every network has one."""
        raise CheckpointError(f"The network '{type(self).__name__}' cannot find landmarks.")

    def for_inference(self) -> SegmentationNetwork:
        """Return a faster copy in evaluation mode with the same output, which cannot be trained.

        In evaluation a batch normalization multiplies and shifts each channel by fixed numbers, which the
        filter before it can do as well.
        """
        folded = copy.deepcopy(self).eval().requires_grad_(False)
        for module in folded.modules():
            if isinstance(module, nn.Sequential):
                _fold_norms(module)
        return folded

    def network_for(self, view: Tensor) -> SegmentationNetwork:
        """Return the network that is to outline an image (1, 3, H, W): itself, if it has no experts."""
        del view
        return self

    def for_prompts(self) -> SegmentationNetwork | None:
        """Return the network that outlines what a box, a lasso or a stroke shows: none unless overridden."""
        return None

    def without_prompts(self) -> SegmentationNetwork:
        """Return a network with the same automatic outline but no part for prompts; by default, itself."""
        return self

    def describe(self, image: Tensor) -> Tensor | None:
        """Describe images (B, 3, H, W) as features (B, F) of their domain; None unless overridden."""
        del image
        return None

    def heads(self) -> dict[str, nn.Conv2d]:
        """Return the last layers, by name: one, unless it has several experts."""
        return {"head": self.head}

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that may have been pretrained, and so learn more slowly: none unless overridden."""
        return iter(())

    def load_pretrained(self) -> None:
        """Fill the encoder with published weights: nothing to do unless overridden."""

    def early_modules(self, stages: int) -> list[nn.Module]:
        """First modules from the input on, which training may freeze: none unless overridden."""
        return []


def _fold_norms(layers: nn.Sequential) -> None:
    """Fold each batch normalization into the convolution before it."""
    for index, (conv, norm) in enumerate(pairwise(list(layers))):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[index], layers[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def blend(
    network: SegmentationNetwork, weights: Mapping[str, Tensor], interpolation: float
) -> SegmentationNetwork:
    """Return a copy of ``network``, interpolated between its weights (0) and others (1).

    Between old and fine-tuned weights, a model keeps most of both accuracies: Wortsman et al. 2022, "Robust
    fine-tuning of zero-shot models", arXiv:2109.01903.
    """
    blended = copy.deepcopy(network)
    state = blended.state_dict()
    for name, tensor in weights.items():
        if tensor.is_floating_point():  # not the batch counters of the normalization layers
            state[name].lerp_(tensor.to(state[name].device), interpolation)
    return blended


def widths(width: int, levels: int, widest: int) -> tuple[int, ...]:
    """Return the channels of each level, finest first: doubled from level to level, up to ``widest``."""
    return tuple(min(width * 2**level, widest) for level in range(levels))


def check_size(width: int, depth: int, widest: int) -> None:
    """Raise `ValueError` for a network that is too large, or halves the image more than five times."""
    if not (1 <= width <= 128 and 1 <= depth <= 5 and width <= widest <= 1024):
        raise ValueError("width must be 1 to 128, depth 1 to 5, and widest from the width to 1024")


def conv_norm_act(in_channels: int, out_channels: int, kernel: int = 3, *, stride: int = 1) -> nn.Sequential:
    """Return a convolution, batch normalization and ReLU that keep the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize_bilinear(features: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize ``features`` (B, C, h, w) bilinearly to a height and width."""
    return functional.interpolate(features, size=shape, mode="bilinear", align_corners=False)


def logits_to_probability(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Convert logits to probabilities of the same shape."""
    scaled = logits.float() / temperature
    return torch.sigmoid(scaled) if scaled.shape[1] == 1 else torch.softmax(scaled, dim=1)
