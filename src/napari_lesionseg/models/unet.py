"""The classic U-Net (Ronneberger, Fischer and Brox, MICCAI 2015, arXiv:1505.04597)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_lesionseg.models.base import SegmentationNetwork, check_size, conv_norm_act, widths


class UNet(SegmentationNetwork):
    """U-Net with configurable width and depth.

    It differs from the published one in three points: convolutions are padded, so that the output has the
    size of the image; they are followed by batch normalization; and images of any size will do, because
    odd sides are rounded up in pooling and cropped again in the decoder.

    Parameters
    ----------
    out_channels : int
        1 for one class against the background, otherwise the number of classes, background included.
    width : int
        Channels of the finest level, 1 to 128; every coarser level has twice as many. Published: 64.
    depth : int
        How often the image is halved, 1 to 5. Published: 4.
    widest : int
        No level has more channels than this, at most 1024. Published: 1024.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    def __init__(self, out_channels: int = 1, *, width: int = 32, depth: int = 4, widest: int = 1024) -> None:
        super().__init__()
        check_size(width, depth, widest)
        channels = widths(width, depth + 1, widest)
        inputs = (3, *channels)
        self.down = nn.ModuleList(
            _two_convolutions(before, after) for before, after in zip(inputs, channels, strict=False)
        )
        steps = list(zip(channels[1:], channels, strict=False))[::-1]  # coarse to fine
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in steps)
        self.up = nn.ModuleList(_two_convolutions(2 * fine, fine) for _, fine in steps)
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take features of every level, finest first, from a normalized image of shape (B, 3, H, W)."""
        features = [self.down[0](image)]
        for block in list(self.down)[1:]:
            features.append(block(functional.max_pool2d(features[-1], 2, ceil_mode=True)))
        return tuple(features)

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn features into logits of shape (B, C, H, W); clicks are not used."""
        logits: Tensor = self.head(self.decode_features(features))
        return logits

    def decode_features(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn features into those that the head sees, at the size of the image; clicks are not used."""
        del guidance
        *skips, coarse = features
        for enlarge, mix, skip in zip(self.enlarge, self.up, reversed(skips), strict=True):
            height, width = skip.shape[-2:]
            enlarged = enlarge(coarse)[..., :height, :width]
            coarse = mix(torch.cat([skip, enlarged], dim=1))  # (B, 2 * fine, h, w) -> (B, fine, h, w)
        features_of_head: Tensor = coarse
        return features_of_head


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(conv_norm_act(in_channels, out_channels), conv_norm_act(out_channels, out_channels))
