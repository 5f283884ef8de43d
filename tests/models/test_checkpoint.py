from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models import checkpoint
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import FORMAT_VERSION, ModelCard
from napari_lesionseg.models.checkpoint import (
    CARD_KEY,
    MAX_CARD_CHARACTERS,
    checkpoint_bytes,
    load_checkpoint,
    read_card,
    save_checkpoint,
)
from napari_lesionseg.models.registry import build_network

TINY = {"width": 2, "depth": 1}
CARD = ModelCard(name="tiny", arch="unet", arch_settings=TINY)


def tiny() -> SegmentationNetwork:
    torch.manual_seed(3)
    return build_network("unet", **TINY).eval()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model æø.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    save_checkpoint(path, tiny(), CARD)
    return path


def with_card(text: str) -> bytes:
    return save(tiny().state_dict(), metadata={CARD_KEY: text})


def with_tensors(**changes: torch.Tensor | None) -> bytes:
    state = {name: changes.get(name, tensor) for name, tensor in tiny().state_dict().items()}
    state |= {name: tensor for name, tensor in changes.items() if name not in state}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    return save(kept, metadata={CARD_KEY: CARD.model_dump_json()})


def refused(path: Path, payload: bytes) -> str:
    """The one sentence with which a file is refused."""
    path.write_bytes(payload)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("half", [True, False])
def test_what_was_stored_loads_to_the_bit(path: Path, half: bool) -> None:
    network = tiny()
    save_checkpoint(path, network, CARD, half=half)
    stored, (loaded, card) = load_file(path), load_checkpoint(path)
    assert card == CARD
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, stored[name].to(tensor.dtype))
        assert tensor.dtype == network.state_dict()[name].dtype
        assert torch.equal(tensor, network.state_dict()[name]) or half


def test_saved_again_it_is_the_same_file(saved: Path) -> None:
    assert checkpoint_bytes(*load_checkpoint(saved)) == saved.read_bytes()


def test_filters_take_half_the_space_and_statistics_keep_their_range(path: Path) -> None:
    network = tiny()
    network.down[0][0][1].running_var.fill_(1e6)  # beyond float16
    save_checkpoint(path, network, CARD)
    stored = load_file(path)
    assert {t.dtype for t in stored.values() if t.ndim > 1} == {torch.float16}
    assert load_checkpoint(path).network.down[0][0][1].running_var[0] == 1e6


def test_a_loaded_network_can_learn(saved: Path) -> None:
    network = load_checkpoint(saved).network.train()
    network(torch.randn(1, 3, 8, 8)).mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_loading_takes_no_random_numbers(saved: Path) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    load_checkpoint(saved)
    assert torch.equal(torch.rand(3), wanted)


def test_a_loaded_network_does_not_depend_on_the_file(saved: Path) -> None:
    save_checkpoint(saved, tiny(), CARD, half=False)
    network = load_checkpoint(saved).network
    before = network.head.weight.clone()
    saved.write_bytes(bytes(saved.stat().st_size))
    assert torch.equal(network.head.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_numbers_that_would_be_lost_are_not_saved(path: Path, value: float) -> None:
    network = tiny()
    with torch.no_grad():
        network.head.weight[0, 0] = value
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        save_checkpoint(path, network, CARD)
    assert not path.exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "model.safetensors", tiny(), CARD)


def test_the_card_alone(saved: Path) -> None:
    assert read_card(saved) == CARD


def test_missing_and_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path, tmp_path / ("n" * 300)):
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
        with pytest.raises(CheckpointError):
            read_card(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "pipe.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated(saved: Path, share: float) -> None:
    payload = saved.read_bytes()
    refused(saved, payload[: int(len(payload) * share)])


def test_foreign_files(path: Path) -> None:
    refused(path, b"PK\x03\x04 not a model")
    refused(path, b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "not written by napari-lesionseg" in refused(path, save({"weight": torch.zeros(3)}))
    assert "not written by napari-lesionseg" in refused(path, save(tiny().state_dict(), {"format": "pt"}))


def test_wrong_tensors(path: Path) -> None:
    weight = tiny().head.weight
    assert "1 tensors missing" in refused(path, with_tensors(**{"head.weight": None}))
    assert "1 unknown" in refused(path, with_tensors(extra=torch.zeros(1)))
    assert "shape" in refused(path, with_tensors(**{"head.weight": weight[:, :1].contiguous()}))
    assert "type F64" in refused(path, with_tensors(**{"head.weight": weight.double()}))
    assert "type I32" in refused(path, with_tensors(**{"head.weight": weight.int()}))
    counter = next(name for name in tiny().state_dict() if name.endswith("num_batches_tracked"))
    assert "type F32" in refused(path, with_tensors(**{counter: torch.tensor(1.0)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(path: Path, value: float) -> None:
    weight = tiny().head.weight.detach().clone()
    weight[0, 1] = value
    assert "not finite" in refused(path, with_tensors(**{"head.weight": weight}))


def test_a_newer_format(path: Path) -> None:
    card = json.loads(CARD.model_dump_json()) | {"format_version": FORMAT_VERSION + 1, "brand_new": True}
    assert "newer version" in refused(path, with_card(json.dumps(card)))


HOSTILE = [
    "",
    "{",
    "[]",
    "null",
    '"text"',
    "[" * 100_000,
    '{"a":' * 100_000,
    "1" * 100_000,
    '{"working_size": ' + "9" * 5000 + "}",
    '{"working_size": 1e999}',
    '{"mean": [NaN, 0, 0]}',
    '{"threshold": NaN}',
    '{"threshold": "0.5; rm -rf"}',
    '{"name": "\\ud800"}',
    '{"training": {"note": "\\ud800"}}',
    '{"name": "a\\u0000b"}',
    '{"arch": "__class__"}',
    '{"arch": "../../etc/passwd"}',
    '{"arch": "unet", "arch_settings": {"width": 1000000000}}',
    '{"arch": "unet", "arch_settings": {"width": -1}}',
    '{"arch": "unet", "arch_settings": {"depth": 1000000000000}}',
    '{"arch": "unet", "arch_settings": {"out_channels": 5}}',
    '{"arch": "unet", "arch_settings": {"arch": 5}}',
    '{"arch": "unet", "arch_settings": {"self": 5}}',
    '{"arch": "unet", "arch_settings": {"__init__": 5}}',
    '{"classes": ' + json.dumps([str(i) for i in range(10_000)]) + "}",
    '{"notes": "' + "x" * 20_000 + '"}',
    "x" * (MAX_CARD_CHARACTERS + 1),
]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:40] for text in HOSTILE])
def test_hostile_cards(path: Path, text: str) -> None:
    refused(path, with_card(text))


def test_a_file_beyond_all_size(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MAX_FILE_BYTES", 1000)
    with pytest.raises(CheckpointError, match="larger than"):
        load_checkpoint(saved)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(ModelCard.model_fields)), value=JSON)
def test_any_card_loads_or_is_refused(path: Path, field: str, value: object) -> None:
    card = json.loads(CARD.model_dump_json()) | {field: value}
    path.write_bytes(with_card(json.dumps(card)))
    try:
        loaded = load_checkpoint(path)
    except CheckpointError:
        return
    assert checkpoint_bytes(*loaded)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=8))
@example(position=0.0, junk=b"\xff" * 8)
@example(position=0.0, junk=b"\x00" * 8)
def test_any_damage_loads_or_is_refused(path: Path, position: float, junk: bytes) -> None:
    payload = bytearray(checkpoint_bytes(tiny(), CARD))
    start = int(position * len(payload))
    payload[start : start + len(junk)] = junk
    path.write_bytes(payload)
    try:
        network = load_checkpoint(path).network
    except CheckpointError:
        return
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
