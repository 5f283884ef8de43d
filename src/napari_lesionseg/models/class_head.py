"""Add classes to a model and remove them, without changing what it predicts for the others.

Only the network's last layer, the convolution ``head``, depends on the number of classes: it has a filter w
and a bias b for every class, and the logit is z = w * x + b.

One class against the background has a single logit z with p = sigmoid(z). Two channels are equivalent with
z_background = 0 and z_class = z, as softmax(0, z) = (1 - p, p). Back again, z = z_class - z_background.

A new class n takes a share s of the probability of an existing class k: with the temperature T,

    z_n = z_k + T ln s          z_k' = z_k + T ln(1 - s)

so that p_n = s p_k, p_k' = (1 - s) p_k, and the probability of every other class stays exactly as it was.
When a class r is removed, its filter is dropped and the others share its probability in proportion:
p_i' = p_i / (1 - p_r).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import Checkpoint
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import IGNORED

MAX_CLASSES = IGNORED
"""Background included: masks are bytes, and the value 255 marks ignored pixels."""


class Rows(NamedTuple):
    """Filters (C, K, h, w) and biases (C,) of a last layer, one per class, background included."""

    weight: Tensor
    bias: Tensor


def add_class(
    network: SegmentationNetwork, card: ModelCard, name: str, *, like: str | None = None, share: float = 0.01
) -> Checkpoint:
    """Return a model with one more class at the end, as a starting point for training.

    The new class takes ``share`` of the probability of the class ``like``, by default of the background.
    """
    if name in card.classes or not name:
        raise CheckpointError(f"There is a class '{name}' already; choose another name.")
    if len(card.classes) == MAX_CLASSES:
        raise CheckpointError(f"A model can have at most {MAX_CLASSES} classes.")
    if not 0 < share < 1:
        raise CheckpointError(f"The share of a new class must be between 0 and 1, not {share}.")
    source = 0 if like is None else _position(card, like)

    def grow(rows: Rows) -> Rows:
        weight, bias = rows
        gain = bias.new_tensor(card.temperature)
        new_bias = torch.cat([bias, bias[source : source + 1] + gain * math.log(share)])
        new_bias[source] = bias[source] + gain * math.log(1 - share)
        return Rows(torch.cat([weight, weight[source : source + 1]]), new_bias)

    return _with_rows(network, card, (*card.classes, name), grow)


def remove_class(network: SegmentationNetwork, card: ModelCard, name: str) -> Checkpoint:
    """Remove a class; the others keep their order."""
    position = _position(card, name)
    if position == 0:
        raise CheckpointError(f"'{name}' is the background, which every model needs.")
    if len(card.classes) == 2:
        raise CheckpointError(f"'{name}' is the model's only class; add another one before removing it.")
    kept = [index for index in range(len(card.classes)) if index != position]
    names = tuple(card.classes[index] for index in kept)
    return _with_rows(network, card, names, lambda rows: Rows(rows.weight[kept], rows.bias[kept]))


def with_classes(network: SegmentationNetwork, card: ModelCard, classes: Sequence[str]) -> Checkpoint:
    """Return a model with these classes in this order: missing ones are added, others removed."""
    if len(classes) < 2 or len(set(classes)) != len(classes) or "" in classes:
        raise CheckpointError("Name the background and at least one class, each differently.")
    current = Checkpoint(network, card.model_copy(update={"classes": (classes[0], *card.classes[1:])}))
    for name in classes[1:]:
        if name not in current.card.classes:
            current = add_class(*current, name)
    for name in current.card.classes:
        if name not in classes:
            current = remove_class(*current, name)
    order = [current.card.classes.index(name) for name in classes]
    return _with_rows(*current, tuple(classes), lambda rows: Rows(rows.weight[order], rows.bias[order]))


def fit_classes(network: SegmentationNetwork, card: ModelCard, classes: Sequence[str]) -> Checkpoint:
    """Return a model with the classes of new masks, as a starting point for training.

    Classes of the same name stay. A single class in place of another is renamed. If classes are removed and
    others added, the new ones share the probability of the first removed one equally; if none is removed,
    they start with 1 % of the probability of the background.
    """
    new = [name for name in classes[1:] if name not in card.classes[1:]]
    removed = [name for name in card.classes[1:] if name not in classes[1:]]
    if len(classes) == len(card.classes) == 2:
        renamed = card.model_copy(update={"classes": tuple(classes)})
        return with_classes(network, renamed, classes)
    current = Checkpoint(network, card)
    for place, name in enumerate(new if removed else ()):
        current = add_class(*current, name, like=removed[0], share=1 / (len(new) + 1 - place))
    return with_classes(*current, classes)


def _position(card: ModelCard, name: str) -> int:
    if name not in card.classes:
        raise CheckpointError(f"There is no class '{name}'; the model knows {', '.join(card.classes)}.")
    return card.classes.index(name)


def _rows(head: nn.Conv2d) -> Rows:
    """Copy the filters and biases of a last layer, one per class, background included."""
    weight = head.weight.detach()
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()
    if len(weight) == 1:
        return Rows(torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias]))
    return Rows(weight.clone(), bias.clone())


def _with_rows(
    network: SegmentationNetwork, card: ModelCard, classes: tuple[str, ...], change: Callable[[Rows], Rows]
) -> Checkpoint:
    """Build a network like ``network`` with changed rows in its last layer, or in those of its experts."""
    state = dict(network.state_dict())
    for name, head in network.heads().items():
        weight, bias = change(_rows(head))
        if len(classes) == 2:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    channels = 1 if len(classes) == 2 else len(classes)
    grown = build_network(card.arch, channels, **card.arch_settings)
    grown.load_state_dict(state)
    # The scores were measured with other classes.
    changed = card.model_copy(update={"classes": classes, "scores": {}})
    device = next(network.parameters()).device
    return Checkpoint(grown.to(device).train(network.training), changed)
