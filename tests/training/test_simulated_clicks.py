from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.training import simulated_clicks
from napari_lesionseg.training.simulated_clicks import simulate_guidance
from napari_lesionseg.types import IGNORED


class SimulatedAnnotator(SegmentationNetwork):
    """Answers what it is told to, and notes the guidance it was shown."""

    guided = True

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.answer = nn.Parameter(logits)
        self.shown: list[Tensor] = []

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        return (image,)

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        assert guidance is not None
        self.shown.append(guidance.clone())
        return self.answer.expand(len(features[0]), *self.answer.shape[1:])


@pytest.fixture
def labels() -> Tensor:
    labels = torch.zeros(6, 64, 64, dtype=torch.uint8)
    labels[:, 16:48, 16:48] = 1
    return labels


def simulate(network: SimulatedAnnotator, labels: Tensor, rounds: int = 3, seed: int = 0) -> Tensor:
    features = network.encode(torch.zeros(len(labels), 3, *labels.shape[1:]))
    rngs = [np.random.default_rng((seed, index)) for index in range(len(labels))]
    return simulate_guidance(network, features, labels, rounds, rngs)


def test_missed_lesions_get_positive_clicks(labels: Tensor) -> None:
    planes = simulate(SimulatedAnnotator(torch.full((1, 1, 64, 64), -4.0)), labels)
    assert planes.shape == (6, 3, 64, 64)
    assert planes[:, 0].flatten(1).any(1).all()
    assert not planes[:, 1].any()
    centers = [torch.nonzero(plane).float().mean(0) for plane in planes[:, 0]]
    assert all(14 <= value <= 50 for center in centers for value in center.tolist())


def test_extra_skin_gets_negative_clicks(labels: Tensor) -> None:
    planes = simulate(SimulatedAnnotator(torch.full((1, 1, 64, 64), 4.0)), labels)
    assert planes[:, 1].flatten(1).any(1).all()
    assert not planes[:, 0].any()


def test_nothing_wrong_no_click(labels: Tensor) -> None:
    right = (labels[:1, None].float() - 0.5) * 10
    planes = simulate(SimulatedAnnotator(right), labels)
    assert not planes[:, :2].any()


def test_the_answer_is_fed_back(labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_clicks, "FORGET_PREVIOUS", 0.0)
    network = SimulatedAnnotator(torch.full((1, 1, 64, 64), -1.0))
    planes = simulate(network, labels)
    torch.testing.assert_close(
        planes[:, 2], torch.full((6, 64, 64), torch.sigmoid(torch.tensor(-1.0)).item())
    )
    assert not network.shown[0].any()  # the first round is automatic
    assert network.shown[1][:, 2].any()


def test_some_previous_answers_are_withheld(labels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_clicks, "FORGET_PREVIOUS", 1.0)
    planes = simulate(SimulatedAnnotator(torch.full((1, 1, 64, 64), -1.0)), labels)
    assert not planes[:, 2].any()
    assert planes[:, 0].any()


def test_rounds_differ_between_images(labels: Tensor) -> None:
    network = SimulatedAnnotator(torch.full((1, 1, 64, 64), -4.0))
    simulate(network, labels.repeat(4, 1, 1), rounds=4)
    assert len(network.shown) == 4
    marked = torch.stack([planes[:, 0].flatten(1).sum(1) for planes in network.shown])
    assert (marked[-1] > 0).all()
    assert marked[-1].unique().numel() > 1


def test_chance_alone_decides(labels: Tensor) -> None:
    network = SimulatedAnnotator(torch.full((1, 1, 64, 64), -4.0))
    assert torch.equal(simulate(network, labels, seed=3), simulate(network, labels, seed=3))
    assert not torch.equal(simulate(network, labels, seed=3), simulate(network, labels, seed=4))


def test_nobody_clicks_where_it_counts_for_nothing(labels: Tensor) -> None:
    labels[:, :, 32:] = IGNORED
    for logit, plane in ((4.0, 1), (-4.0, 0)):
        planes = simulate(SimulatedAnnotator(torch.full((1, 1, 64, 64), logit)), labels)
        centers = [torch.nonzero(p).float().mean(0)[1].item() for p in planes[:, plane]]
        assert max(centers) <= 32
    labels[:] = IGNORED
    assert not simulate(SimulatedAnnotator(torch.full((1, 1, 64, 64), 4.0)), labels)[:, :2].any()


def test_of_several_classes_all_are_lesion(labels: Tensor) -> None:
    labels[:, 32:48, 16:48] = 2
    logits = torch.zeros(1, 3, 64, 64)
    logits[:, 0] = 5  # background everywhere
    planes = simulate(SimulatedAnnotator(logits), labels)
    assert planes[:, 0].flatten(1).any(1).all()
    assert not planes[:, 1].any()


def test_no_gradient_is_kept(labels: Tensor) -> None:
    planes = simulate(SimulatedAnnotator(torch.zeros(1, 1, 64, 64)), labels)
    assert not planes.requires_grad
