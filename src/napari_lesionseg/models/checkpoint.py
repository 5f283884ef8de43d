"""A model in one safetensors file: the weights, and its card in the header. Nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network

CARD_KEY = "lesionseg_card"
FILTER_DIMENSIONS = 4
MAX_FILE_BYTES = 2 * 1024**3
MAX_CARD_CHARACTERS = 4 * 1024**2


class Checkpoint(NamedTuple):
    """A network with its weights, and the card that came with them."""

    network: SegmentationNetwork
    card: ModelCard


def checkpoint_bytes(network: SegmentationNetwork, card: ModelCard, *, half: bool = True) -> bytes:
    """Return the bytes of a model file; ``half`` stores filters as float16, in half the space."""
    return save(_storable(network, half=half), metadata={CARD_KEY: card.model_dump_json()})


def _storable(network: SegmentationNetwork, *, half: bool) -> dict[str, Tensor]:
    stored = {}
    for name, tensor in network.state_dict().items():
        smaller = half and tensor.is_floating_point() and tensor.ndim == FILTER_DIMENSIONS
        kept = tensor.detach().to("cpu", torch.float16 if smaller else tensor.dtype)
        if not bool(torch.isfinite(kept).all()):
            raise CheckpointError(f"The network was not saved: '{name}' holds numbers that are not finite.")
        stored[name] = kept.contiguous()
    return stored


def save_checkpoint(path: Path, network: SegmentationNetwork, card: ModelCard, *, half: bool = True) -> None:
    """Write a model in one step: a crash leaves the old file or the new one, never a part."""
    payload = checkpoint_bytes(network, card, half=half)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, payload)
    except OSError as error:
        raise CheckpointError(f"The model cannot be written to {path}: {error.strerror}.") from error


def without_prompts(network: SegmentationNetwork, card: ModelCard) -> Checkpoint:
    """Return a model without a part for prompts, whose automatic network answers strokes."""
    settings = {name: value for name, value in card.arch_settings.items() if name != "prompts"}
    return Checkpoint(network.without_prompts(), card.model_copy(update={"arch_settings": settings}))


def read_card(path: Path) -> ModelCard:
    """Read the card of a checkpoint without its weights."""
    check_size(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} is no model file, or damaged ({error}).") from error
    return parse_card(path, metadata)


def check_size(path: Path) -> None:
    """Raise `CheckpointError` if a path is not a file, or has an unreasonable size."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not path.is_file():
        raise CheckpointError(f"{path} is no file; name the file of a model.")
    if not size:
        raise CheckpointError(f"{path} is empty; copy the model again.")
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path} is no model file: it is larger than {MAX_FILE_BYTES // 1024**2} MB.")


def parse_card(path: Path, metadata: dict[str, str]) -> ModelCard:
    """Read the card in a model file's metadata."""
    text = metadata.get(CARD_KEY)
    if text is None:
        raise CheckpointError(f"{path.name} has no model card: it was not written by napari-lesionseg.")
    if len(text) > MAX_CARD_CHARACTERS:
        raise CheckpointError(f"{path.name} has a model card of an unreasonable size.")
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(_describe(path, error)) from error


def _describe(path: Path, error: ValidationError) -> str:
    """Return one sentence on why a card cannot be used: it is newer, or its first error."""
    problems = error.errors(include_url=False, include_input=False)
    if any(p["loc"] == ("format_version",) and p["type"] == "less_than_equal" for p in problems):
        return f"{path.name} was made by a newer version of napari-lesionseg; update it to use this model."
    place = ".".join(map(str, problems[0]["loc"])) or "the whole"
    return f"{path.name} has a model card that cannot be read, at {place}: {problems[0]['msg']}."


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a model in evaluation mode on the CPU, checking its card, keys, shapes and types."""
    card = read_card(path)
    network = _build_empty(path, card)
    expected = network.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            _check_tensors(path, file, expected)
            # Copies, not views of the mapped file, which may be replaced while the model is in use.
            state = {name: file.get_tensor(name).to(expected[name].dtype, copy=True) for name in expected}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} is damaged ({error}).") from error
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise CheckpointError(f"{path.name} is damaged: it holds numbers that are not finite.")
    network.load_state_dict(state, assign=True)
    return Checkpoint(network.eval(), card)


def _build_empty(path: Path, card: ModelCard) -> SegmentationNetwork:
    """Build the network without memory for its weights, whatever size its card claims, and without chance."""
    try:
        with torch.device("meta"):
            return build_network(card.arch, card.out_channels, **card.arch_settings)
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name} has settings that no network '{card.arch}' takes.") from error


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
