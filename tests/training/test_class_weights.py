from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from napari_lesionseg.config import TrainConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.losses import segmentation_loss
from napari_lesionseg.training.trainer import Trainer
from napari_lesionseg.types import IGNORED

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 5, 6, generator=GENERATOR)
LABELS = torch.randint(0, 3, (2, 5, 6), generator=GENERATOR, dtype=torch.uint8)
LABELS[0, :2] = IGNORED
WEIGHTS = (0.5, 2.0, 3.0)


def test_weighted_as_torch_does() -> None:
    expected = torch.nn.functional.cross_entropy(
        LOGITS, LABELS.long(), torch.tensor(WEIGHTS), ignore_index=IGNORED
    )
    torch.testing.assert_close(segmentation_loss(LOGITS, LABELS, "bce", class_weights=WEIGHTS), expected)


def test_one_class_is_weighted_as_two_are() -> None:
    # softmax(-z/2, z/2) is sigmoid(z)
    logits, labels = LOGITS[:, :1], LABELS.clamp(max=1)
    labels[LABELS == IGNORED] = IGNORED
    two = segmentation_loss(torch.cat([-logits / 2, logits / 2], 1), labels, "bce", class_weights=(0.3, 2.0))
    torch.testing.assert_close(segmentation_loss(logits, labels, "bce", class_weights=(0.3, 2.0)), two)


@pytest.mark.parametrize("kind", ["bce", "bce-dice", "focal-dice"])
def test_equal_weights_change_nothing(kind: str) -> None:
    plain = segmentation_loss(LOGITS, LABELS, kind)
    torch.testing.assert_close(segmentation_loss(LOGITS, LABELS, kind, class_weights=(2.0, 2.0, 2.0)), plain)


def test_a_class_without_weight_pulls_at_nothing() -> None:
    logits = LOGITS.clone().requires_grad_()
    segmentation_loss(logits, LABELS, "bce", class_weights=(1.0, 0.0, 1.0)).backward()
    assert logits.grad is not None
    pulled = logits.grad.abs().sum(1) > 0
    assert torch.equal(pulled, (LABELS != 1) & (LABELS != IGNORED))


def test_ignored_pixels_may_hold_anything() -> None:
    other = LOGITS.clone()
    other[0, :, :2] = 50
    for weights in (None, WEIGHTS):
        losses = [segmentation_loss(z, LABELS, "bce-dice", class_weights=weights) for z in (LOGITS, other)]
        torch.testing.assert_close(*losses)


def test_nothing_that_counts_gives_no_loss() -> None:
    for weights in (None, WEIGHTS):
        nothing = torch.full_like(LABELS, IGNORED)
        assert segmentation_loss(LOGITS, nothing, "bce", class_weights=weights) == 0


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_impossible_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig(class_weights=weights)


def trainer(labels: np.ndarray, **settings: object) -> Trainer:
    card = ModelCard(arch="unet", arch_settings={"width": 2, "depth": 1}, working_size=32)
    network = build_network(card.arch, card.out_channels, **card.arch_settings)
    pair = CachedPair("one", np.zeros((*labels.shape, 3), np.uint8), labels)
    return Trainer(network, card, [pair], [], TrainConfig(sizes=((0.0, 32),), batch_size=2, **settings))  # type: ignore[arg-type]


def test_a_weight_is_needed_for_each_class() -> None:
    with pytest.raises(TrainingError, match="2 class weights"):
        trainer(np.zeros((32, 32), np.uint8), class_weights=(1.0, 1.0, 1.0))
    with pytest.raises(TrainingError, match="2 class weights"):
        trainer(np.zeros((32, 32), np.uint8), class_weights=(0.0, 0.0))


def test_a_mask_with_an_unknown_class_is_named() -> None:
    with pytest.raises(TrainingError, match="mask of one has a class 2"):
        trainer(np.full((32, 32), 2, np.uint8))


def test_weights_reach_the_loss() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[:, :4] = 1
    losses = []
    for weights in (None, (0.01, 1.0)):
        torch.manual_seed(0)
        run = trainer(labels, epochs=1, loss="bce", class_weights=weights, precision="float32")
        losses.append(next(run.run()).loss)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_ignored_pixels_alone_can_be_learned_from() -> None:
    run = trainer(np.full((32, 32), IGNORED, np.uint8), epochs=1)
    assert np.isfinite(next(run.run()).loss)
