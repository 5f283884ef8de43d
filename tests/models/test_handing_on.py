"""Where a model comes from, and what is given to others with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from napari_lesionseg.errors import CheckpointError, ModelNotFoundError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import ModelStore


def make(seed: int, parent: str | None = None, license_id: str = "CC0-1.0") -> bytes:
    torch.manual_seed(seed)
    card = ModelCard(
        name=f"model {seed}",
        arch="unet",
        arch_settings={"width": 2, "depth": 1},
        parent=parent,
        license=license_id,
    )
    return checkpoint_bytes(build_network("unet", width=2, depth=1), card)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_history_goes_back_to_the_first(store: ModelStore) -> None:
    first = store.add(make(0), "first")
    second = store.add(make(1, parent=sha256_file(first)), "second")
    store.add(make(2, parent=sha256_file(second)), "third")
    store.add(make(3), "other")
    assert [entry.name for entry in store.history("third")] == ["third", "second", "first"]
    assert [entry.name for entry in store.history("other")] == ["other"]


def test_history_survives_renaming_and_losses(store: ModelStore) -> None:
    first = store.add(make(0), "first")
    store.add(make(1, parent=sha256_file(first)), "second")
    store.rename("first", "the old one")
    assert [entry.name for entry in store.history("second")] == ["second", "the old one"]
    store.remove("the old one")
    assert [entry.name for entry in store.history("second")] == ["second"]


def test_damaged_models_do_no_harm_to_a_history(store: ModelStore) -> None:
    store.add(make(0), "whole")
    (store.folder / "broken.safetensors").write_bytes(b"broken")
    assert [entry.name for entry in store.history("whole")] == ["whole"]
    (entry,) = store.history("broken")
    assert entry.card is None


def test_history_of_nothing(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError):
        store.history("none")


def test_export_comes_with_card_and_license(store: ModelStore, tmp_path: Path) -> None:
    path = store.add(make(0, parent="ab" * 32), "ours")
    model, card, license_file = store.export("ours", tmp_path / "for others")
    assert model.read_bytes() == path.read_bytes()
    assert load_checkpoint(model).card.name == "model 0"
    assert json.loads(card.read_text())["license"] == "CC0-1.0"
    text = license_file.read_text()
    assert "CC0-1.0" in text
    assert sha256_file(path) in text
    assert "ab" * 32 in text


def test_export_overwrites_nothing(store: ModelStore, tmp_path: Path) -> None:
    store.add(make(0), "ours")
    (tmp_path / "ours.card.json").write_text("mine")
    with pytest.raises(CheckpointError, match="choose another folder"):
        store.export("ours", tmp_path)
    assert (tmp_path / "ours.card.json").read_text() == "mine"
    assert not (tmp_path / "ours.safetensors").exists()


def test_damaged_models_are_not_handed_on(store: ModelStore, tmp_path: Path) -> None:
    store.folder.mkdir()
    (store.folder / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError):
        store.export("broken", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_place_that_cannot_be_written(store: ModelStore, tmp_path: Path) -> None:
    store.add(make(0), "ours")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        store.export("ours", tmp_path / "file" / "folder")
