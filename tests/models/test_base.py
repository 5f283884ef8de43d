from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_lesionseg.models.base import SegmentationNetwork, blend, logits_to_probability, resize_bilinear
from napari_lesionseg.models.registry import build_network

NETWORKS = [
    ("lite-unet", {}),
    ("unet", {"width": 4, "depth": 2}),
    ("segnet", {"width": 4, "depth": 2}),
]


def lived_in(arch: str, settings: dict[str, int]) -> SegmentationNetwork:
    """A network whose normalization has seen something."""
    torch.manual_seed(1)
    network = build_network(arch, **settings)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return network


@pytest.mark.parametrize(("arch", "settings"), NETWORKS)
def test_made_for_inference_it_answers_the_same(arch: str, settings: dict[str, int]) -> None:
    network = lived_in(arch, settings)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    quick = network.for_inference()
    image, guidance = torch.randn(2, 3, 32, 64), torch.rand(2, 3, 32, 64)
    with torch.inference_mode():
        wanted = network.eval()(image, guidance)
        torch.testing.assert_close(quick(image, guidance), wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 1e-3
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_made_for_inference_it_is_another_network() -> None:
    network = build_network("unet", width=2, depth=1)
    quick = network.for_inference()
    assert not quick.training
    assert network.training
    assert not any(p.requires_grad for p in quick.parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert quick.head.weight.data_ptr() != network.head.weight.data_ptr()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blended_weights_lie_between(share: float) -> None:
    one, other = (build_network("unet", width=2, depth=1) for _ in range(2))
    nn.init.ones_(other.head.weight)
    kept = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    between = blend(one, other.state_dict(), share).state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, kept[name])
        expected = (
            (1 - share) * tensor + share * other.state_dict()[name] if tensor.is_floating_point() else tensor
        )
        torch.testing.assert_close(between[name], expected)


def test_probability_of_one_class() -> None:
    logits = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0]).view(1, 1, 1, 5)
    probability = logits_to_probability(logits).flatten().tolist()
    assert probability == pytest.approx([0, 0.26894, 0.5, 0.73106, 1], abs=1e-5)


def test_probability_of_several_classes_sums_to_one() -> None:
    probability = logits_to_probability(torch.randn(2, 4, 3, 3) * 50)
    torch.testing.assert_close(probability.sum(1), torch.ones(2, 3, 3))


def test_temperature_moves_towards_doubt() -> None:
    logits = torch.tensor([3.0]).view(1, 1, 1, 1)
    assert logits_to_probability(logits, 2.0).item() == pytest.approx(torch.sigmoid(torch.tensor(1.5)).item())
    assert logits_to_probability(logits.bfloat16()).dtype == torch.float32


def test_features_are_resized_to_a_height_and_width() -> None:
    assert resize_bilinear(torch.rand(1, 5, 3, 4), (7, 9)).shape == (1, 5, 7, 9)
