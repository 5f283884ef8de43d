"""Loss functions on logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.errors import TrainingError
from napari_lesionseg.types import IGNORED

LOSSES = ("bce-dice", "bce", "focal-dice")
FOCUS = 2.0  # gamma of Lin et al. (2017), "Focal loss for dense object detection"


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    kind: str = "bce-dice",
    smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    total: Callable[[Tensor], Tensor] = lambda count: count,
) -> Tensor:
    """Compare logits with labels.

    Parameters
    ----------
    logits : Tensor
        Shape (B, 1, H, W) for one class, or (B, C, H, W) with the background first.
    labels : Tensor
        Class indices of shape (B, H, W); 255 is ignored. For one class, every index above 0 belongs to it.
    kind : str
        "bce": cross-entropy (binary for one class). "bce-dice": plus soft Dice. "focal-dice": cross-entropy
        weighted toward pixels that are still wrong, plus soft Dice.
    smoothing : float
        Label smoothing, 0 to 0.5, which makes the loss tolerate wrong labels.
    class_weights : sequence of float, optional
        Weight of each class in the cross-entropy, background first. The mean is weighted, so a common factor
        does not matter. Soft Dice is not weighted: it is averaged over the classes.
    total : callable
        Sums a count over the processes of a training, each of which has a part of the batch. The loss is then
        the part's share: the sum over all parts is the loss of the batch.

    Returns
    -------
    Tensor
        A scalar.
    """
    if kind not in LOSSES:
        raise TrainingError(f"There is no loss '{kind}'; choose one of {', '.join(LOSSES)}.")
    logits = logits.float()
    if logits.shape[1] == 1:
        labels = torch.where(labels == IGNORED, labels, (labels > 0).to(labels.dtype))
    counted = labels != IGNORED if class_weights is None else _weights(labels, class_weights)
    pixelwise = _cross_entropy(logits, labels, smoothing)
    if kind == "focal-dice":
        pixelwise = pixelwise * (1 - torch.exp(-pixelwise.detach())) ** FOCUS
    entropy = (pixelwise * counted).sum() / _at_least_a_pixel(total(counted.sum()))
    return entropy if kind == "bce" else entropy + soft_dice_loss(logits, labels, total)


def _weights(labels: Tensor, class_weights: Sequence[float]) -> Tensor:
    """Weight of every pixel, shape (B, H, W); 0 where it is ignored."""
    table = torch.zeros(IGNORED + 1, device=labels.device)
    table[: len(class_weights)] = torch.tensor(class_weights, device=labels.device)
    return table[labels.long()]


def _at_least_a_pixel(total: Tensor) -> Tensor:
    """Return a sum of weights; 1 if it is 0, to avoid a division by zero."""
    return torch.where(total > 0, total, torch.ones_like(total))


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of every pixel, shape (B, H, W)."""
    if logits.shape[1] == 1:
        target = (labels == 1).to(logits.dtype) * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    return functional.cross_entropy(
        logits, labels.long(), reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )


def soft_dice_loss(
    logits: Tensor, labels: Tensor, total: Callable[[Tensor], Tensor] = lambda count: count
) -> Tensor:
    """One minus the soft Dice of each image and class (Milletari et al. 2016), averaged.

    One is added to numerator and denominator, so an empty prediction of an empty mask has no loss.
    """
    counted = (labels != IGNORED)[:, None]
    if logits.shape[1] == 1:
        probability, target = torch.sigmoid(logits), (labels == 1)[:, None]
    else:
        probability = torch.softmax(logits, dim=1)[:, 1:]
        classes = torch.arange(1, logits.shape[1], device=labels.device).view(1, -1, 1, 1)
        target = labels[:, None] == classes
    probability, target = probability * counted, (target & counted).to(probability.dtype)
    overlap = (probability * target).sum((2, 3))
    both = probability.sum((2, 3)) + target.sum((2, 3))
    losses = 1 - (2 * overlap + 1) / (both + 1)  # (B, C)
    return losses.sum() / total(torch.tensor(float(losses.numel()), device=losses.device))
