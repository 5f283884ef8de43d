"""A model in one safetensors file: the weights, and its card in the header. Nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models.blocks import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.factory import build_network

CARD_KEY = "lesionseg_card"
MAX_FILE_BYTES = 2 * 1024**3
MAX_CARD_CHARACTERS = 4 * 1024**2


class Checkpoint(NamedTuple):
    """A network with its weights, and the card that came with them."""

    network: SegmentationNetwork
    card: ModelCard


def checkpoint_bytes(network: SegmentationNetwork, card: ModelCard, *, half: bool = True) -> bytes:
    """Pack a network and its card into the bytes of a checkpoint.

    Parameters
    ----------
    network : SegmentationNetwork
        The network whose state is packed.
    card : ModelCard
        Its card.
    half : bool
        Store floating-point tensors as float16, which loads bit-exactly as float32 what was stored.
    """
    return save(_storable(network, half=half), metadata={CARD_KEY: card.model_dump_json()})


def _storable(network: SegmentationNetwork, *, half: bool) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    wanted = torch.float16 if half else torch.float32
    return {
        name: (tensor.to(wanted) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in state.items()
    }


def read_card(path: Path) -> ModelCard:
    """Read the card of a checkpoint without its weights.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, foreign or too large.
    """
    _check_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} is no readable model file ({error}).") from error
    return _parse_card(path, metadata)


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not path.is_file() or not 0 < size <= MAX_FILE_BYTES:
        raise CheckpointError(
            f"{path} is no model file: it must be a file of at most {MAX_FILE_BYTES // 1024**2} MB."
        )


def _parse_card(path: Path, metadata: dict[str, str]) -> ModelCard:
    text = metadata.get(CARD_KEY)
    if text is None:
        raise CheckpointError(f"{path.name} has no model card: it was not written by napari-lesionseg.")
    if len(text) > MAX_CARD_CHARACTERS:
        raise CheckpointError(f"{path.name} has a model card of an unreasonable size.")
    try:
        return ModelCard.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path.name} has a model card that this version cannot read ({first})."
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a model, checking its card, keys, shapes and types.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file.

    Returns
    -------
    Checkpoint
        The network in evaluation mode on the CPU in float32, and its card.

    Raises
    ------
    CheckpointError
        With one sentence that says what is wrong with the file.
    """
    card = read_card(path)
    network = build_network(card.arch, card.out_channels, **card.arch_settings)
    expected = network.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            _check_tensors(path, file, expected)
            state = {name: file.get_tensor(name).to(expected[name].dtype) for name in expected}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} is damaged ({error}).") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise CheckpointError(f"{path.name} is damaged: it holds numbers that are not finite.")
    network.load_state_dict(state)
    return Checkpoint(network.eval(), card)


def _check_tensors(path: Path, file: safe_open, expected: dict[str, Tensor]) -> None:
    names = set(file.keys())
    if names != set(expected):
        missing, foreign = len(set(expected) - names), len(names - set(expected))
        raise CheckpointError(
            f"{path.name} does not fit its network: {missing} tensors missing, {foreign} unknown."
        )
    for name, tensor in expected.items():
        stored = file.get_slice(name)
        if tuple(stored.get_shape()) != tuple(tensor.shape):
            raise CheckpointError(
                f"{path.name} does not fit its network: '{name}' has the shape {stored.get_shape()}."
            )
        kinds = {"F16", "F32", "BF16"} if tensor.is_floating_point() else {"I64"}
        if stored.get_dtype() not in kinds:
            raise CheckpointError(
                f"{path.name} does not fit its network: '{name}' is of type {stored.get_dtype()}."
            )
