from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.trainer import validate
from napari_lesionseg.types import IGNORED

CPU = torch.device("cpu")


class Dark(SegmentationNetwork):
    """Takes dark pixels for lesion; with three channels, as the last class."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (image,)

    def decode(
        self, features: tuple[torch.Tensor, ...], guidance: torch.Tensor | None = None
    ) -> torch.Tensor:
        lesion = -20 * features[0].mean(1, keepdim=True)
        if self.channels == 1:
            return lesion
        return torch.cat([torch.zeros_like(lesion), torch.full_like(lesion, -50), lesion], dim=1)


def pair(drawn: tuple[int, int], true: tuple[int, int], value: int = 1) -> CachedPair:
    """A 64x64 image with a dark square from row and column a to b, and the mask of another square."""
    image, labels = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), np.uint8)
    image[slice(*drawn), slice(*drawn)] = 0
    labels[slice(*true), slice(*true)] = value
    return CachedPair("square", image, labels)


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 3)])
def test_as_the_metrics_do(channels: int, classes: int) -> None:
    pairs = [pair((8, 40), (8, 40), 2), pair((8, 40), (8, 56)), pair((0, 0), (8, 40)), pair((0, 0), (0, 0))]
    card = ModelCard(working_size=64, classes=tuple("abc"[:classes]))
    scores = validate(Dark(channels).eval(), card, pairs, CPU)
    predicted = [np.where(p.image[..., 0] == 0, 1, 0) for p in pairs]
    expected = [score_masks(mask, p.labels > 0) for mask, p in zip(predicted, pairs, strict=True)]
    assert scores.jaccard == pytest.approx(np.mean([e.jaccard for e in expected]), abs=1e-6)
    assert scores.dice == pytest.approx(np.mean([e.dice for e in expected]), abs=1e-6)
    assert scores.failures == pytest.approx(np.mean([e.failed for e in expected]))


def test_ignored_pixels_count_for_nothing() -> None:
    sample = pair((8, 40), (8, 40))
    sample.labels[:, 32:] = IGNORED
    sample.image[:, 32:] = 0
    assert validate(Dark().eval(), ModelCard(working_size=64), [sample], CPU).jaccard == 1


def test_the_network_stays_as_it_is() -> None:
    network = build_network("unet", width=2, depth=1).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    validate(network, ModelCard(arch="unet", working_size=64), [pair((8, 40), (8, 40))], CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
