"""A small model file, quick to make."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.registry import build_network


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    settings = {"width": 2, "depth": 1}
    path = tmp_path / "given" / "a model.safetensors"
    card = ModelCard(name="a model", arch="unet", arch_settings=settings)
    save_checkpoint(path, build_network("unet", **settings), card)
    return path
