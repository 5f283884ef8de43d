"""The default network: a U-Net with an EfficientNet-Lite0 encoder and clicks as part of the decoder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_lesionseg.models.base import SegmentationNetwork, conv_norm_act, resize_bilinear
from napari_lesionseg.models.efficientnet_lite import (
    FEATURE_CHANNELS,
    STAGES,
    DepthwiseConv2d,
    EfficientNetLite0,
    load_imagenet_weights,
)

GUIDANCE_PLANES = 3  # positive clicks, negative clicks, previous probability
DECODER_CHANNELS = (128, 64, 48, 32)  # strides 16, 8, 4, 2
GUIDANCE_CHANNELS = (16, 24, 32, 48, 64)  # strides 2, 4, 8, 16, 32
DESCRIBING_STAGES = 2
DESCRIPTION_LENGTH = 2 * STAGES[DESCRIBING_STAGES - 1].channels
"""Mean and standard deviation of every channel."""


class GuidancePyramid(nn.Module):
    """Feature maps of the guidance planes at every stride of the encoder, added to its features.

    The last convolution of each level starts at zero: an untrained pyramid leaves the automatic outline as it
    is. Clicks enter the decoder only, so that an image is encoded once and each further click costs the
    decoder alone.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = (GUIDANCE_PLANES, *GUIDANCE_CHANNELS)
        self.levels = nn.ModuleList(
            conv_norm_act(before, after, stride=2) for before, after in pairwise(channels)
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(inner, outer, 1)
            for inner, outer in zip(GUIDANCE_CHANNELS, FEATURE_CHANNELS, strict=True)
        )
        for projection in self.projections:
            nn.init.zeros_(projection.weight)  # type: ignore[arg-type]
            nn.init.zeros_(projection.bias)  # type: ignore[arg-type]

    def forward(self, guidance: Tensor, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add guidance (B, 3, H, W) to ``features``, finest first; the shapes stay as they are."""
        steered, level = [], guidance
        for shrink, project, feature in zip(self.levels, self.projections, features, strict=True):
            level = shrink(level)
            steered.append(feature + project(level))
        return tuple(steered)


class ContextBlock(nn.Module):
    """A residual block with a 5x5 filter a channel, for a wide view at the coarsest level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            DepthwiseConv2d(channels, 5, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features of shape (B, C, h, w) to the same shape."""
        return torch.relu(features + self.layers(features))


class DecoderBlock(nn.Module):
    """Enlarge the coarser features, join the skip's, and mix them with two convolutions."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            conv_norm_act(in_channels + skip_channels, out_channels),
            conv_norm_act(out_channels, out_channels),
        )

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Map coarse (B, C_in, h, w) and skip (B, C_skip, H, W) to (B, C_out, H, W)."""
        out: Tensor = self.mix(torch.cat([resize_bilinear(coarse, skip.shape[-2:]), skip], dim=1))
        return out


class LiteUNet(SegmentationNetwork):
    """U-Net with an EfficientNet-Lite0 encoder and a slim decoder that stops at stride 2.

    Parameters
    ----------
    out_channels : int
        1 for one class against the background, otherwise the number of classes, background included.
    """

    guided = True

    def __init__(self, out_channels: int = 1) -> None:
        super().__init__()
        *skips, deepest = FEATURE_CHANNELS
        self.encoder = EfficientNetLite0()
        self.guidance = GuidancePyramid()
        self.context = nn.Sequential(
            conv_norm_act(deepest, DECODER_CHANNELS[0], 1),
            ContextBlock(DECODER_CHANNELS[0]),
            ContextBlock(DECODER_CHANNELS[0]),
        )
        inputs = (DECODER_CHANNELS[0], *DECODER_CHANNELS)
        self.decoder = nn.ModuleList(
            DecoderBlock(before, skip, after)
            for before, skip, after in zip(inputs, reversed(skips), DECODER_CHANNELS, strict=False)
        )
        self.head = nn.Conv2d(DECODER_CHANNELS[-1], out_channels, 1)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take features from a normalized image (B, 3, H, W); the image is passed along for its size."""
        return (image, *self.encoder(image))

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn `encode`'s features into logits of shape (B, C, H, W).

        Parameters
        ----------
        features : tuple of Tensor
            What `encode` gave.
        guidance : Tensor, optional
            Shape (B, 3, H, W), values in [0, 1]: discs at positive clicks, at negative clicks, and the
            previous probability. None: no clicks and no previous outline.
        """
        image, *maps = features
        if guidance is None:
            guidance = torch.zeros_like(image)
        *skips, deepest = self.guidance(guidance, tuple(maps))
        coarse = self.context(deepest)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            coarse = block(coarse, skip)
        return resize_bilinear(self.head(coarse), guidance.shape[-2:])

    def describe(self, image: Tensor) -> Tensor:
        """Describe images by the mean and standard deviation of the features of the early stages.

        Parameters
        ----------
        image : Tensor
            Normalized, shape (B, 3, H, W). It is halved first, since the finest detail depends on JPEG and
            the camera's resolution more than on the domain.

        Returns
        -------
        Tensor
            Shape (B, `DESCRIPTION_LENGTH`), float32.
        """
        features = functional.avg_pool2d(image, 2, ceil_mode=True)
        for module in self.early_modules(DESCRIBING_STAGES):
            features = module(features)
        features = features.float()
        return torch.cat([features.mean((2, 3)), features.std((2, 3), correction=0)], dim=1)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the pretrained encoder."""
        return self.encoder.parameters()

    def load_pretrained(self) -> None:
        """Fill the encoder with ImageNet weights; see `load_imagenet_weights`."""
        load_imagenet_weights(self.encoder)

    def early_modules(self, stages: int) -> list[nn.Module]:
        """Modules that training may freeze: the encoder's stem and first ``stages`` stages."""
        return self.encoder.early_modules(stages)
