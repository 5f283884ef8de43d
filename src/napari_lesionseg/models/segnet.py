"""SegNet (Badrinarayanan, Kendall and Cipolla, TPAMI 2017, arXiv:1511.00561)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from napari_lesionseg.models.base import SegmentationNetwork, check_size, conv_norm_act, widths

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Convolutions of each stage, finest first, as in VGG16."""


class SegNet(SegmentationNetwork):
    """SegNet: the decoder puts every value back to where the encoder's max-pooling found it.

    Only the pooling indices pass from the encoder to the decoder, no features: this is what sets it apart
    from U-Net. Images of any size will do; what is pooled from an odd side is rounded up.

    Parameters
    ----------
    out_channels : int
        1 for one class against the background, otherwise the number of classes, background included.
    width : int
        Channels of the finest stage, 1 to 128; every coarser stage has twice as many. Published: 64.
    depth : int
        Number of stages, each of which halves the image, 1 to 5. Published: 5.
    widest : int
        No stage has more channels than this, at most 1024. Published: 512.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    def __init__(self, out_channels: int = 1, *, width: int = 32, depth: int = 5, widest: int = 512) -> None:
        super().__init__()
        check_size(width, depth, widest)
        channels = widths(width, depth, widest)
        inputs = (3, *channels)
        self.encoder = nn.ModuleList(
            _conv_layers(before, [after] * count)
            for before, after, count in zip(inputs, channels, CONVOLUTIONS, strict=False)
        )
        # Mirror images of the encoder's stages; the head is the last convolution of the finest one.
        finer = (channels[0], *channels[:-1])
        counts = (CONVOLUTIONS[0] - 1, *CONVOLUTIONS[1:depth])
        self.decoder = nn.ModuleList(
            _conv_layers(own, [own] * (count - 1) + [fine])
            for own, fine, count in reversed(list(zip(channels, finer, counts, strict=True)))
        )
        self.head = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """Take features from a normalized image of shape (B, 3, H, W).

        Returns
        -------
        tuple of Tensor
            The image, for its size; the coarsest features; and the pooling indices, int64, finest first.
        """
        features, indices = image, []
        for stage in self.encoder:
            features, where = functional.max_pool2d_with_indices(stage(features), [2, 2], ceil_mode=True)
            indices.append(where)
        return (image, features, *indices)

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        """Turn `encode`'s result into logits of shape (B, C, H, W); clicks are not used."""
        image, coarse, *indices = features
        shapes = [image.shape[-2:], *(where.shape[-2:] for where in indices[:-1])]
        for stage, where, shape in zip(self.decoder, reversed(indices), reversed(shapes), strict=True):
            coarse = stage(functional.max_unpool2d(coarse, where, [2, 2], output_size=list(shape)))
        logits: Tensor = self.head(coarse)
        return logits


def _conv_layers(in_channels: int, out_channels: list[int]) -> nn.Sequential:
    inputs = (in_channels, *out_channels)
    return nn.Sequential(
        *(conv_norm_act(before, after) for before, after in zip(inputs, out_channels, strict=False))
    )
