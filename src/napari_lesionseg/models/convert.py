"""Weights that other programs saved, loaded where they fit a known network.

A ``.pt`` or ``.pth`` file is a pickle, and a pickle can run any program. It is read with
``weights_only=True``, which gives plain tensors or an error, and there is no other way in.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from napari_lesionseg.errors import CheckpointError, SettingsError
from napari_lesionseg.models.card import IMAGENET_MEAN, IMAGENET_STD, ModelCard
from napari_lesionseg.models.checkpoint import Checkpoint, check_size
from napari_lesionseg.models.registry import build_network

SUFFIXES = frozenset({".pt", ".pth"})
State: TypeAlias = Mapping[str, Tensor]
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a program names the tensors of a network, and what it feeds the network with."""

    title: str
    arch: str
    rename: Callable[[str], str]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def _as_it_is(name: str) -> str:
    return name


# Names of milesial/Pytorch-UNet, the most copied U-Net of PyTorch, whose parts are those of ours.
_CONVOLUTIONS = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1"}
_BLOCK = re.compile(r"(inc|down(\d)\.maxpool_conv\.1|up(\d)\.conv)\.double_conv\.([0134])\.(.+)")
_OTHER = re.compile(r"(outc\.conv|up(\d)\.up)\.(.+)")


def _from_pytorch_unet(name: str) -> str:
    if block := _BLOCK.fullmatch(name):
        _, down, up, layer, rest = block.groups()
        stage = f"up.{int(up) - 1}" if up else f"down.{down or 0}"
        return f"{stage}.{_CONVOLUTIONS[layer]}.{rest}"
    if other := _OTHER.fullmatch(name):
        _, up, rest = other.groups()
        return f"enlarge.{int(up) - 1}.{rest}" if up else f"head.{rest}"
    return name


LAYOUTS = (
    Layout("the networks of this program", "lite-unet", _as_it_is),
    Layout("the networks of this program", "unet", _as_it_is),
    Layout("the networks of this program", "segnet", _as_it_is),
    Layout("Pytorch-UNet", "unet", _from_pytorch_unet, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
)


def import_weights(
    path: Path, *, name: str, working_size: int = 256, license_id: str = "unknown"
) -> Checkpoint:
    """Import weights from a ``.pt`` or ``.pth`` file."""
    state = _strip(_find_state(path, _load(path)))
    for layout in LAYOUTS:
        renamed = {layout.rename(key): tensor for key, tensor in state.items()}
        try:
            card = _guess_card(layout, renamed, name, working_size, license_id)
        except SettingsError as error:
            raise CheckpointError(f"{path.name} cannot be imported. {error}") from error
        network = None if card is None else _fill(card, renamed)
        if card is not None and network is not None:
            return Checkpoint(network, card)
    known = sorted({layout.title for layout in LAYOUTS})
    raise CheckpointError(
        f"The weights in {path.name} fit no known network; known are {' and '.join(known)}."
    )


def _load(path: Path) -> Any:
    check_size(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # it warns before it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise CheckpointError(
            f"{path.name} is damaged or holds more than plain tensors, and is not read: save the network's "
            "state_dict() alone."
        ) from error


def _find_state(path: Path, loaded: Any) -> dict[str, Tensor]:
    for held in (loaded, *(loaded.get(key) for key in _HOLDERS if isinstance(loaded, dict))):
        if isinstance(held, dict) and held and all(isinstance(value, Tensor) for value in held.values()):
            return {str(key): value for key, value in held.items()}
    raise CheckpointError(f"{path.name} holds no weights of a network.")


def _strip(state: State) -> State:
    """Remove the prefixes of wrappers from every name."""
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _strip({key.removeprefix(prefix): tensor for key, tensor in state.items()})
    return state


def _guess_card(
    layout: Layout, state: State, name: str, working_size: int, license_id: str
) -> ModelCard | None:
    head = state.get("head.weight")
    if head is None or head.ndim != 4:
        return None
    channels = len(head)
    others = ("lesion",) if channels <= 2 else tuple(f"class {number}" for number in range(1, channels))
    return ModelCard(
        name=name,
        arch=layout.arch,
        arch_settings=_guess_settings(layout.arch, state),
        working_size=working_size,
        mean=layout.mean,
        std=layout.std,
        classes=("background", *others),
        license=license_id,
        notes=f"Weights of {layout.title}; size, normalization, classes and threshold are assumed.",
    )


def _guess_settings(arch: str, state: State) -> dict[str, int]:
    """Read the settings off the tensors."""
    stages = {"unet": "down", "segnet": "encoder"}.get(arch)
    if stages is None:
        return {"prompts": 1} if any(key.startswith("prompt_network.") for key in state) else {}
    first = re.compile(rf"{stages}\.\d+\.0\.0\.weight")
    channels = [len(tensor) for key, tensor in state.items() if first.fullmatch(key)]
    if not channels:
        return {}
    depth = len(channels) - (arch == "unet")
    return {"width": channels[0], "depth": depth, "widest": max(channels)}


def _fill(card: ModelCard, state: State) -> Any:
    """Return the network of a card with these weights; None if the tensors do not fit."""
    try:
        network = build_network(card.arch, card.out_channels, **card.arch_settings)
    except (CheckpointError, ValueError):
        return None
    expected = network.state_dict()
    counters = {key: tensor for key, tensor in expected.items() if key.endswith(_COUNTER)}
    given = counters | dict(_join_channels(state, card))
    if set(given) != set(expected) or any(given[key].shape != expected[key].shape for key in expected):
        return None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in given.values()):
        return None
    network.load_state_dict(given)
    return network.eval()


def _join_channels(state: State, card: ModelCard) -> State:
    """Turn two channels, background and lesion, into the one that says the same; see `models.classes`."""
    if card.out_channels > 1 or len(state["head.weight"]) == 1:
        return state
    joined = {key: state[key][1:2] - state[key][0:1] for key in ("head.weight", "head.bias") if key in state}
    return {**state, **joined}
