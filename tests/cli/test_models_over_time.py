"""Models compared, traced, exported and imported on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.cli.main import main
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import ModelStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("LESIONSEG_MODELS", str(tmp_path / "models"))
    return ModelStore()


def make(path: Path, parent: str | None = None, *, bias: float = 0.0) -> Path:
    torch.manual_seed(0)
    network = build_network("unet", width=2, depth=1)
    with torch.no_grad():
        network.head.bias.fill_(bias)  # type: ignore[union-attr, operator]
    training = {"date": "2026-11-23T10:00:00", "data": {"pairs": 7}} if parent else {}
    card = ModelCard(
        arch="unet",
        arch_settings={"width": 2, "depth": 1},
        working_size=32,
        parent=parent,
        training=training,
        license="MIT",
    )
    save_checkpoint(path, network, card)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        mask = np.zeros((40, 40), np.uint8)
        mask[: 30 + number] = 1
        write_image(folder / f"mole-{number}.png", np.full((40, 40, 3), 90, np.uint8))
        write_mask(folder / f"mole-{number}_mask.png", mask)
    return folder


def test_compare(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that outlines nothing, and one that outlines everything."""
    old, new = make(tmp_path / "old.safetensors", bias=-50), make(tmp_path / "new.safetensors", bias=50)
    assert main(["models", "compare", str(old), str(new), str(images), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"Jaccard\W+0\.000\W+0\.775\W+0\.775", told)
    assert "mole-0: 100% changed, Jaccard 0.000 to 0.750" in told


def test_compare_names_what_cannot_be_read(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make(tmp_path / "old.safetensors")
    (images / "mole-1.png").write_bytes(b"no image")
    assert main(["models", "compare", str(old), str(old), str(images), "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert "mole-1" in captured.err
    assert "+0.000" in captured.out


def test_history(store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.add(make(tmp_path / "a.safetensors"), "first")
    store.add(make(tmp_path / "b.safetensors", parent=sha256_file(first)), "second")
    assert main(["models", "history", "second"]) == 0
    told = capsys.readouterr().out
    assert told.index("second") < told.index("first")
    assert "7 images" in told
    assert "2026-11-23" in told


def test_export(store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.add(make(tmp_path / "a.safetensors"), "ours")
    assert main(["models", "export", "ours", "--out", str(tmp_path / "out")]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["ours.card.json", "ours.license.txt", "ours.safetensors"]
    assert main(["models", "export", "ours", "--out", str(tmp_path / "out")]) == 2
    assert "already" in capsys.readouterr().err


def test_add_weights_of_another_program(
    store: ModelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(build_network("unet", width=2, depth=1).state_dict(), tmp_path / "net.pt")
    words = ["models", "add", str(tmp_path / "net.pt"), "--working-size", "64", "--license", "MIT"]
    assert main(words) == 0
    assert "assumed" in capsys.readouterr().out
    (entry,) = [entry for entry in store.list() if not entry.shipped]
    assert entry.card is not None
    assert (entry.name, entry.card.working_size, entry.card.license) == ("net", 64, "MIT")


def test_program_in_disguise_is_refused(store: ModelStore, tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "net.pt")
    assert main(["models", "add", str(tmp_path / "net.pt")]) == 2
    assert all(entry.shipped for entry in store.list())
