from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from napari_lesionseg.errors import TrainingError
from napari_lesionseg.training.losses import LOSSES, segmentation_loss, soft_dice_loss
from napari_lesionseg.types import IGNORED

CHANCE = torch.Generator().manual_seed(5)
ONE = torch.randn(3, 1, 8, 9, generator=CHANCE)
MANY = torch.randn(3, 4, 8, 9, generator=CHANCE)
MASK = torch.randint(0, 2, (3, 8, 9), generator=CHANCE, dtype=torch.uint8)
CLASSES = torch.randint(0, 4, (3, 8, 9), generator=CHANCE, dtype=torch.uint8)


def cut(labels: torch.Tensor) -> torch.Tensor:
    """The same labels with the first four rows ignored."""
    labels = labels.clone()
    labels[:, :4] = IGNORED
    return labels


def test_one_class_as_torch_does() -> None:
    expected = functional.binary_cross_entropy_with_logits(ONE[:, 0], MASK.float())
    torch.testing.assert_close(segmentation_loss(ONE, MASK, "bce"), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_as_torch_does(smoothing: float) -> None:
    labels = cut(CLASSES)
    expected = functional.cross_entropy(MANY, labels.long(), ignore_index=IGNORED, label_smoothing=smoothing)
    torch.testing.assert_close(segmentation_loss(MANY, labels, "bce", smoothing), expected)


def test_smoothed_one_class_as_torch_does_with_two() -> None:
    two = torch.cat([-ONE / 2, ONE / 2], dim=1)
    expected = functional.cross_entropy(two, MASK.long(), label_smoothing=0.1)
    torch.testing.assert_close(segmentation_loss(ONE, MASK, "bce", 0.1), expected)


def test_dice_by_its_formula() -> None:
    probability, target = torch.sigmoid(ONE[:, 0]), MASK.float()
    overlap, total = (probability * target).sum((1, 2)), (probability + target).sum((1, 2))
    expected = (1 - (2 * overlap + 1) / (total + 1)).mean()
    torch.testing.assert_close(soft_dice_loss(ONE, MASK), expected)


def test_dice_of_classes_is_the_mean_over_them() -> None:
    probability = torch.softmax(MANY, dim=1)
    losses = []
    for index in (1, 2, 3):
        p, t = probability[:, index], CLASSES.eq(index).float()
        losses.append(1 - (2 * (p * t).sum((1, 2)) + 1) / ((p + t).sum((1, 2)) + 1))
    torch.testing.assert_close(soft_dice_loss(MANY, CLASSES), torch.stack(losses).mean())


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("value", [0, 1])
def test_a_perfect_answer_costs_nothing_empty_masks_included(kind: str, value: int) -> None:
    labels = torch.full((2, 6, 6), value, dtype=torch.uint8)
    sure = torch.full((2, 1, 6, 6), 100.0 if value else -100.0)
    assert segmentation_loss(sure, labels, kind).item() == pytest.approx(0, abs=1e-6)
    assert segmentation_loss(-sure, labels, kind).item() > (10 if kind != "focal-dice" else 0.9)


@pytest.mark.parametrize("kind", LOSSES)
def test_empty_masks_still_teach(kind: str) -> None:
    logits = torch.zeros(1, 1, 6, 6, requires_grad=True)
    segmentation_loss(logits, torch.zeros(1, 6, 6, dtype=torch.uint8), kind).backward()
    assert (logits.grad > 0).all()


def test_an_absent_class_costs_nothing_when_it_is_not_predicted() -> None:
    labels = torch.ones(1, 4, 4, dtype=torch.uint8)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 1] = 100
    assert soft_dice_loss(logits, labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(("logits", "labels"), [(ONE, MASK), (MANY, CLASSES)])
def test_ignored_pixels_count_for_nothing(kind: str, logits: torch.Tensor, labels: torch.Tensor) -> None:
    other = logits.clone()
    other[:, :, :4] += 7
    labels = cut(labels)
    torch.testing.assert_close(
        segmentation_loss(logits, labels, kind), segmentation_loss(other, labels, kind)
    )
    other.requires_grad_()
    segmentation_loss(other, labels, kind).backward()
    assert not other.grad[:, :, :4].any()
    assert other.grad[:, :, 4:].any()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_to_learn_from_is_no_nan(kind: str, channels: int) -> None:
    logits = torch.randn(2, channels, 5, 5, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((2, 5, 5), IGNORED, dtype=torch.uint8), kind)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert not logits.grad.any()


def test_for_one_class_every_other_index_is_it() -> None:
    torch.testing.assert_close(
        segmentation_loss(ONE, CLASSES), segmentation_loss(ONE, (CLASSES > 0).to(torch.uint8))
    )


def test_focal_loss_looks_at_what_is_wrong() -> None:
    logits, labels = torch.tensor([[[[4.0, -1.0]]]]), torch.ones(1, 1, 2, dtype=torch.uint8)
    dice = soft_dice_loss(logits, labels)
    focal, plain = (segmentation_loss(logits, labels, kind) - dice for kind in ("focal-dice", "bce-dice"))
    chance = torch.sigmoid(logits).flatten()
    torch.testing.assert_close(focal, (-(chance.log()) * (1 - chance) ** 2).mean())
    assert focal < plain


def test_bfloat16_logits_give_the_exact_loss() -> None:
    loss = segmentation_loss(ONE.bfloat16(), MASK)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, segmentation_loss(ONE.bfloat16().float(), MASK))


def test_large_logits_stay_finite() -> None:
    assert segmentation_loss(ONE * 1e4, MASK).isfinite()


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(TrainingError, match="bce-dice"):
        segmentation_loss(ONE, MASK, "hinge")


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


def test_a_class_of_weight_zero_has_no_gradient() -> None:
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


def test_ignored_pixels_alone_give_no_loss() -> None:
    for weights in (None, WEIGHTS):
        nothing = torch.full_like(LABELS, IGNORED)
        assert segmentation_loss(LOGITS, nothing, "bce", class_weights=weights) == 0
