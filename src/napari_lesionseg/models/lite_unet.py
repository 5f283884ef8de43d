"""The default network: a U-Net with an EfficientNet-Lite0 encoder and clicks as part of the decoder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

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
PRIOR_LIMIT, COLOR_LIMIT = 8.0, 5.0  # logits: the largest evidence of a box or lasso, and of colors
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

    def __init__(self, planes: int = GUIDANCE_PLANES) -> None:
        super().__init__()
        channels = (planes, *GUIDANCE_CHANNELS)
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
        """Add guidance (B, planes, H, W) to ``features``, finest first; the shapes stay as they are."""
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
    prompts : int
        1: with a second network, a `PromptUNet`, that outlines what a box, a lasso or a stroke shows.
    """

    guided = True
    guidance_planes: ClassVar[int] = GUIDANCE_PLANES

    def __init__(self, out_channels: int = 1, prompts: int = 0) -> None:
        super().__init__()
        if prompts not in (0, 1):
            raise ValueError("prompts must be 0 or 1")
        *skips, deepest = FEATURE_CHANNELS
        self.encoder = EfficientNetLite0()
        self.guidance = GuidancePyramid(self.guidance_planes)
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
        self.prompt_network = PromptUNet() if prompts else None

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
        return resize_bilinear(self.head(self.decode_features(features, guidance)), features[0].shape[-2:])

    def decode_features(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn `encode`'s features into those that the head sees, at stride 2."""
        image, *maps = features
        if guidance is None:
            guidance = image.new_zeros(len(image), self.guidance_planes, *image.shape[-2:])
        *skips, deepest = self.guidance(guidance, tuple(maps))
        coarse = self.context(deepest)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            coarse = block(coarse, skip)
        decoded: Tensor = coarse
        return decoded

    def for_prompts(self) -> PromptUNet | None:
        """Return the network that outlines what a box, a lasso or a stroke shows; None without one."""
        return self.prompt_network

    def without_prompts(self) -> LiteUNet:
        """Return a copy that answers strokes itself; itself if it does so already."""
        if self.prompt_network is None:
            return self
        plain = copy.deepcopy(self)
        plain.prompt_network = None
        return plain

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


class PromptUNet(LiteUNet):
    """Outline what a box, a lasso or strokes show, in a window of the image around it.

    Guidance has five planes: positive strokes and negative strokes (0 or 1), the previous probability, and
    two kinds of evidence as logits divided by `PRIOR_LIMIT` and `COLOR_LIMIT`: that of the box or lasso, and
    that of the image's own colors. The network weighs both at every pixel, since how far a gesture or a
    color can be trusted depends on the image.
    """

    guidance_planes = GUIDANCE_PLANES + 2

    def __init__(self) -> None:
        super().__init__(out_channels=3)  # a logit of its own, and the weight of each kind of evidence

    @classmethod
    def starting_from(cls, network: LiteUNet, temperature: float, boundary: float) -> PromptUNet:
        """Return an untrained network that adds half of another's logit to the evidence.

        ``boundary`` is the logit from which ``network``, after division by ``temperature``, sees a lesion.
        """
        made = cls()
        state = {name: tensor for name, tensor in network.state_dict().items() if name in made.state_dict()}
        first = made.guidance.levels[0][0].weight.detach().clone()  # type: ignore[index]
        first[:, :GUIDANCE_PLANES] = state["guidance.levels.0.0.weight"]
        weight, bias = state["head.weight"], state["head.bias"]
        half = 0.5 / temperature
        trust = weight.new_tensor([1.0, 0.3])
        state |= {
            "guidance.levels.0.0.weight": first,
            "head.weight": torch.cat([half * weight, torch.zeros_like(weight).repeat(2, 1, 1, 1)]),
            "head.bias": torch.cat([half * bias - 0.5 * boundary, trust]),
        }
        made.load_state_dict(state)
        return made

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn features, and guidance of shape (B, 5, H, W), into the logit (B, 1, H, W) of the lesion."""
        image = features[0]
        if guidance is None:
            guidance = image.new_zeros(len(image), self.guidance_planes, *image.shape[-2:])
        found = super().decode(features, guidance).float()
        limits = guidance.new_tensor([PRIOR_LIMIT, COLOR_LIMIT]).view(1, 2, 1, 1)
        evidence = guidance[:, GUIDANCE_PLANES:] * limits
        return found[:, :1] + (found[:, 1:] * evidence).sum(dim=1, keepdim=True)
