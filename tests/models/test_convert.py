from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import Checkpoint
from napari_lesionseg.models.convert import import_weights
from napari_lesionseg.models.registry import build_network


def trained(arch: str, out_channels: int = 1, **settings: int) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(arch, out_channels, **settings).eval()


class Runs:
    """A pickle that would run a program."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("unet", {"width": 4, "depth": 2, "widest": 8}),
        ("segnet", {"width": 4, "depth": 3, "widest": 8}),
        ("lite-unet", {"prompts": 1}),
    ],
)
def test_known_networks_come_back(tmp_path: Path, arch: str, settings: dict[str, int]) -> None:
    network = trained(arch, 3, **settings)
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, tmp_path / "net.pth")
    made = import_weights(tmp_path / "net.pth", name="mine", working_size=192, license_id="MIT")
    assert (made.card.name, made.card.working_size, made.card.license) == ("mine", 192, "MIT")
    assert made.card.arch_settings == settings
    assert len(made.card.classes) == 3
    assert "assumed" in made.card.notes
    image = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(made.network(image), network(image))


def test_wrappers_names_are_taken_off(tmp_path: Path) -> None:
    network = trained("lite-unet")
    state = {f"module.model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({name: t for name, t in state.items() if "num_batches" not in name}, tmp_path / "net.pt")
    made = import_weights(tmp_path / "net.pt", name="mine")
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(made.network(image), network(image))


def test_experts_are_taken_over_with_their_card_alone(tmp_path: Path) -> None:
    # without the card nobody knows what the images looked like that the gate was made from
    torch.save(trained("lite-unet-experts", experts=2).state_dict(), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="fit no known network"):
        import_weights(tmp_path / "net.pt", name="mine")


class DoubleConv(nn.Module):
    """As in milesial/Pytorch-UNet."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        layers = [
            layer
            for first in (before, after)
            for layer in (nn.Conv2d(first, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
        ]
        self.double_conv = nn.Sequential(*layers)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.double_conv(image)


class Down(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(before, after))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.maxpool_conv(image)


class Up(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(before, after, 2, 2)
        self.conv = DoubleConv(before, after)

    def forward(self, coarse: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat([skip, self.up(coarse)], dim=1))


class OutConv(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 1)


class ForeignUNet(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = DoubleConv(3, 4), Down(4, 8), Down(8, 16)
        self.up1, self.up2, self.outc = Up(16, 8), Up(8, 4), OutConv(4, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = self.inc(image)
        middle = self.down1(fine)
        return self.outc.conv(self.up2(self.up1(self.down2(middle), middle), fine))


def test_pytorch_unet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ForeignUNet(2).eval()
    torch.save(network.state_dict(), tmp_path / "unet.pth")
    made = import_weights(tmp_path / "unet.pth", name="unet")
    assert made.card.classes == ("background", "lesion")
    assert (made.card.mean, made.card.std) == ((0, 0, 0), (1, 1, 1))
    image = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(torch.sigmoid(made.network(image))[:, 0], network(image).softmax(1)[:, 1])


class TestRefused:
    def refused(self, path: Path, reason: str) -> None:
        with pytest.raises(CheckpointError, match=reason):
            import_weights(path, name="mine")

    def test_programs_are_not_run(self, tmp_path: Path) -> None:
        torch.save({"state_dict": Runs()}, tmp_path / "new.pt")
        (tmp_path / "old.pt").write_bytes(pickle.dumps(Runs()))
        self.refused(tmp_path / "new.pt", "more than plain tensors")
        self.refused(tmp_path / "old.pt", "more than plain tensors")

    def test_whole_networks_are_not_read(self, tmp_path: Path) -> None:
        torch.save(trained("unet", width=4, depth=1), tmp_path / "net.pt")
        self.refused(tmp_path / "net.pt", "state_dict")

    def test_damaged_or_empty_or_missing(self, tmp_path: Path) -> None:
        torch.save(trained("unet", width=4, depth=1).state_dict(), tmp_path / "net.pt")
        (tmp_path / "cut.pt").write_bytes((tmp_path / "net.pt").read_bytes()[:-200])
        (tmp_path / "empty.pt").touch()
        for name in ("cut.pt", "empty.pt", "missing.pt"):
            self.refused(tmp_path / name, name)

    @pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(2)], torch.zeros(2)])
    def test_no_weights(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "net.pt")
        self.refused(tmp_path / "net.pt", "no weights")

    @pytest.mark.parametrize("change", ["missing", "shape", "unknown", "not finite"])
    def test_weights_that_do_not_fit(self, tmp_path: Path, change: str) -> None:
        state = dict(trained("unet", width=4, depth=1).state_dict())
        if change == "missing":
            del state["up.0.0.0.weight"]
        elif change == "unknown":
            state["further.weight"] = torch.zeros(2)
        elif change == "shape":
            state["up.0.0.0.weight"] = torch.zeros(4, 8, 5, 5)
        else:
            state["up.0.0.0.weight"] = torch.full((4, 8, 3, 3), torch.nan)
        torch.save(state, tmp_path / "net.pt")
        self.refused(tmp_path / "net.pt", "fit no known network")


@pytest.mark.parametrize("wrong", [{"working_size": 7}, {"name": ""}, {"license_id": "a\nb"}])
def test_what_is_told_is_checked(tmp_path: Path, wrong: dict[str, object]) -> None:
    torch.save(trained("unet", width=4, depth=1).state_dict(), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=next(iter(wrong)).removesuffix("_id")):
        import_weights(tmp_path / "net.pt", **{"name": "mine", **wrong})  # type: ignore[arg-type]


def test_card_of_an_import_is_a_card(tmp_path: Path) -> None:
    torch.save(trained("unet", width=4, depth=1).state_dict(), tmp_path / "net.pt")
    made = import_weights(tmp_path / "net.pt", name="mine")
    assert isinstance(made, Checkpoint)
    assert ModelCard.model_validate(made.card.model_dump()) == made.card
