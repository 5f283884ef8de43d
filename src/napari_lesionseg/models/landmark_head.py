"""Landmarks as heat maps: what the channels of a network's head mean.

The head of a segmentation network, at half the size of the image, gives a heat map for each landmark. For
several people it gives two things more: a heat map of their centers, and at each center the distances to the
landmarks of that person, as in CenterNet (Zhou, Wang and Kraehenbuehl 2019, arXiv:1904.07850).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from napari_lesionseg.models.base import SegmentationNetwork

STRIDE = 2
"""Pixels of the network's input for one of a heat map."""

SIGMA = 2.0
"""Standard deviation of a landmark's Gaussian, in pixels of the heat map."""

OFFSET_UNIT = 16.0
"""Pixels of the heat map for 1 in the channels of distances, which are then about as large as logits."""

_FIRST_LOGIT = -6.0  # heat maps are nearly empty: from 0.5 everywhere, the first steps would only learn that


def landmark_maps(network: SegmentationNetwork, features: tuple[Tensor, ...]) -> Tensor:
    """Turn a network's features into the maps of `ModelCard.out_channels`, shape (B, C, h, w) at `STRIDE`."""
    decoded = network.decode_features(features)
    if decoded.shape[-1] == features[0].shape[-1]:  # at full size, the head costs four times as much
        decoded = functional.avg_pool2d(decoded, STRIDE, ceil_mode=True)
    maps: Tensor = network.head(decoded)
    return maps


def replace_head(network: SegmentationNetwork, out_channels: int) -> None:
    """Give a network, trained for something else or not at all, a new head for landmarks."""
    network.head = nn.Conv2d(network.head.in_channels, out_channels, 1)
    # The weights are not small: from equal rows, all heat maps learn the same landmarks for a long time.
    nn.init.constant_(network.head.bias, _FIRST_LOGIT)  # type: ignore[arg-type]
