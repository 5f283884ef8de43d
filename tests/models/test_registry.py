"""One tester, inherited once for each network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint
from napari_lesionseg.models.mixture import GATE_THRESHOLD, MAX_EXPERTS, ExpertNetwork
from napari_lesionseg.models.registry import ARCHITECTURES, build_network
from napari_lesionseg.types import Click


class ArchitectureTester:
    """What every network must be able to do."""

    arch: ClassVar[str]
    settings: ClassVar[dict[str, int]] = {}

    def build(self, out_channels: int = 1) -> SegmentationNetwork:
        torch.manual_seed(4)
        return build_network(self.arch, out_channels, **self.settings)

    def in_turn(self, network: SegmentationNetwork) -> Iterator[None]:
        """Let all parts of a network that do not work at the same time have their turn."""
        yield

    @pytest.mark.parametrize("out_channels", [1, 4])
    def test_logits_have_the_size_of_the_image(self, out_channels: int) -> None:
        logits = self.build(out_channels)(torch.randn(2, 3, 64, 96))
        assert logits.shape == (2, out_channels, 64, 96)

    @pytest.mark.parametrize("shape", [(1, 1), (7, 129), (33, 47), (65, 64)])
    def test_odd_sizes(self, shape: tuple[int, int]) -> None:
        with torch.inference_mode():
            logits = self.build().eval()(torch.randn(1, 3, *shape))
        assert logits.shape == (1, 1, *shape)
        assert logits.isfinite().all()

    def test_every_parameter_learns(self) -> None:
        network = self.build(2)
        guidance = torch.rand(2, 3, 64, 64) if network.guided else None
        for _ in self.in_turn(network):
            network(torch.randn(2, 3, 64, 64), guidance).square().mean().backward()
        # Where the guidance starts at zero, so do the gradients before it: it is tested on its own.
        idle = [
            name
            for name, parameter in network.named_parameters()
            if "guidance." not in name and (parameter.grad is None or not parameter.grad.any())
        ]
        assert not idle

    def test_a_network_learns_to_use_guidance_only_if_it_is_guided(self) -> None:
        network = self.build()
        image, guidance = torch.randn(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
        for _ in self.in_turn(network):
            network(image, guidance).square().mean().backward()
        torch.optim.SGD(network.parameters(), 0.1).step()
        with torch.inference_mode():
            features = network.eval().encode(image)
            with_clicks, without = network.decode(features, guidance), network.decode(features)
        assert torch.equal(with_clicks, without) is not network.guided

    def test_a_few_steps_lower_the_loss(self) -> None:
        network = self.build()
        image, target = torch.randn(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
        target[..., :16] = 1
        image += 2 * target
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        losses = []
        for _ in range(12):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert np.isfinite(losses).all()
        assert losses[-1] < 0.85 * losses[0]

    @pytest.mark.parametrize("value", [0.0, 1e4])
    def test_plain_images_give_no_nan(self, value: float) -> None:
        with torch.inference_mode():
            assert self.build().eval()(torch.full((1, 3, 32, 32), value)).isfinite().all()

    def test_evaluation_does_not_depend_on_the_batch(self) -> None:
        network = self.build().eval()
        images = torch.randn(3, 3, 32, 32)
        with torch.inference_mode():
            together, alone = network(images)[1:2], network(images[1:2])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_bfloat16(self) -> None:
        network = self.build().eval()
        image = torch.randn(1, 3, 32, 32)
        with torch.inference_mode():
            exact = network(image)
            with torch.autocast("cpu", torch.bfloat16):
                rough = network(image)
        assert (rough - exact).abs().max() < 0.1 * exact.abs().max() + 0.05

    def test_saved_and_loaded_it_answers_the_same(self, tmp_path: Path) -> None:
        network = self.build(3).eval()
        card = ModelCard(arch=self.arch, arch_settings=self.settings, classes=("skin", "nevus", "melanoma"))
        path = tmp_path / "model.safetensors"
        path.write_bytes(checkpoint_bytes(network, card, half=False))
        loaded, loaded_card = load_checkpoint(path)
        image = torch.randn(1, 3, 32, 32)
        with torch.inference_mode():
            assert torch.equal(loaded(image), network(image))
        assert loaded_card == card

    def test_predicts_and_honors_clicks(self) -> None:
        card = ModelCard(arch=self.arch, arch_settings=self.settings, working_size=64)
        model = Model(self.build(), card, "cpu", precision="float32")
        image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
        probability = model.predict(image, [Click(10, 20), Click(40, 60, positive=False)])
        assert probability.shape == (50, 70)
        assert probability[10, 20] == 1
        assert probability[40, 60] == 0

    def test_unknown_settings_are_refused(self) -> None:
        with pytest.raises(CheckpointError, match="settings"):
            build_network(self.arch, color=3)


class TestLiteUNet(ArchitectureTester):
    arch = "lite-unet"


class TestLiteUNetExperts(ArchitectureTester):
    arch = "lite-unet-experts"
    settings: ClassVar[dict[str, int]] = {"experts": 2}

    def build(self, out_channels: int = 1) -> SegmentationNetwork:
        """Make a network that gives dark images to the first expert and bright ones to the second."""
        network = super().build(out_channels)
        assert isinstance(network, ExpertNetwork)
        network.eval()
        with torch.inference_mode():
            gray = torch.stack([torch.full((3, 32, 32), -1.0), torch.full((3, 32, 32), 1.0)])
            dark, bright = network.describe(gray)
        across = bright - dark
        network.gate.weight[0] = 2 * GATE_THRESHOLD * across / across.square().sum()
        network.gate.bias[0] = -float(network.gate.weight[0] @ dark)
        assert network.choose(gray).tolist() == [0, 1]
        return network.train()

    def in_turn(self, network: SegmentationNetwork) -> Iterator[None]:
        assert isinstance(network, ExpertNetwork)
        network.gate.weight.zero_()
        for distance in (0.0, GATE_THRESHOLD + 1):
            network.gate.bias.fill_(distance)
            yield

    @pytest.mark.parametrize("experts", [-1, 0, 1, MAX_EXPERTS + 1, 10**9])
    def test_too_few_and_too_many_experts_are_refused(self, experts: int) -> None:
        with pytest.raises(CheckpointError, match=f"2 to {MAX_EXPERTS}"):
            build_network(self.arch, experts=experts)


class SizedTester(ArchitectureTester):
    """Networks whose width and depth can be chosen."""

    @pytest.mark.parametrize(
        "settings", [{"width": 0}, {"width": 1000}, {"depth": 0}, {"depth": 6}, {"width": 8, "widest": 4}]
    )
    def test_settings_out_of_range_are_refused(self, settings: dict[str, int]) -> None:
        with pytest.raises(CheckpointError, match="depth 1 to 5"):
            build_network(self.arch, **settings)

    @pytest.mark.parametrize("depth", [1, 3, 5])
    def test_any_depth(self, depth: int) -> None:
        network = build_network(self.arch, 2, width=2, depth=depth, widest=4).eval()
        with torch.inference_mode():
            assert network(torch.randn(1, 3, 33, 40)).shape == (1, 2, 33, 40)


class TestUNet(SizedTester):
    arch = "unet"
    settings: ClassVar[dict[str, int]] = {"width": 4, "depth": 3}

    def test_published_size(self) -> None:
        # 31.0 million without batch normalization's parameters, as is known of 64 channels and four halvings
        network = build_network("unet", 2, width=64)
        count = sum(
            p.numel()
            for m in network.modules()
            if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
            for p in m.parameters()
        )
        assert count == pytest.approx(31.03e6, rel=1e-3)


class TestSegNet(SizedTester):
    arch = "segnet"
    settings: ClassVar[dict[str, int]] = {"width": 4, "depth": 3}

    def test_published_size(self) -> None:
        # Badrinarayanan et al., table on memory and model size: 29.45 million parameters
        network = build_network("segnet", 11, width=64)
        assert sum(p.numel() for p in network.parameters()) == pytest.approx(29.45e6, rel=2e-3)

    def test_decoder_puts_values_where_the_encoder_found_them(self) -> None:
        network = build_network("segnet", width=2, depth=1).eval()
        image = torch.randn(1, 3, 5, 7)
        with torch.inference_mode():
            _, pooled, where = network.encode(image)
            full = network.encoder[0](image)
            unpooled = torch.nn.functional.max_unpool2d(pooled, where, 2, output_size=[5, 7])
        kept = unpooled != 0
        assert where.dtype == torch.int64
        assert pooled.shape[-2:] == (3, 4)
        assert torch.equal(unpooled[kept], full[kept])

    def test_only_indices_pass_to_the_decoder(self) -> None:
        # the same pooled values at other places must give another answer
        network = build_network("segnet", width=2, depth=1).eval()
        with torch.inference_mode():
            image, pooled, where = network.encode(torch.randn(1, 3, 4, 4))
            moved = torch.tensor([[0, 2], [8, 10]]).expand_as(where).contiguous()
            assert not torch.equal(where, moved)
            before, after = network.decode((image, pooled, where)), network.decode((image, pooled, moved))
            ignorant = network.decode((torch.zeros_like(image), pooled, where))
        assert not torch.allclose(before, after)
        assert torch.equal(before, ignorant)


def test_every_network_has_a_tester() -> None:
    testers = [*ArchitectureTester.__subclasses__(), *SizedTester.__subclasses__()]
    assert {tester.arch for tester in testers if hasattr(tester, "arch")} == set(ARCHITECTURES)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(CheckpointError, match=", ".join(sorted(ARCHITECTURES))):
        build_network("vgg")
