"""Small untrained models, one of them as the shipped one, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.cli import main
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.io.images import write_image
from napari_lesionseg.models import store
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.study.study import Study

SETTINGS = {"width": 2, "depth": 1}


@dataclass(frozen=True)
class Result:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return self.err.splitlines()


def _save_model(path: Path, **card: object) -> Path:
    """Write an untrained model, whose probabilities all lie near one half."""
    torch.manual_seed(0)
    described = ModelCard(arch="unet", arch_settings=SETTINGS, working_size=32, **card)
    network = build_network("unet", described.out_channels, **SETTINGS)
    torch.nn.init.zeros_(network.head.bias)
    save_checkpoint(path, network, described)
    return path


@pytest.fixture
def save_model() -> Callable[..., Path]:
    """Write a model with this card to a path."""
    return _save_model


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models: "tiny" alone, which is shipped as "default" too."""
    folder = tmp_path / "models"
    _save_model(folder / "tiny.safetensors", name="tiny [/b]", license="[red]")
    shipped = _save_model(tmp_path / "weights" / "default.safetensors", name="default")
    monkeypatch.setenv("LESIONSEG_MODELS", str(folder))
    monkeypatch.setattr(store, "_shipped", lambda: iter([shipped]))
    return folder


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line and return its exit code and what it said."""

    def run_words(*words: object) -> Result:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's way out
            code = stop.code if isinstance(stop.code, int) else 1
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Result(code, said.out, said.err)

    return run_words


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with two images, one of whose names is not easy."""
    folder = tmp_path / "my images æøå"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("plain", (40, 50)), ("IMD 7 [b] ñ", (33, 60))):
        write_image(folder / f"{name}.png", rng.integers(0, 256, (*shape, 3), np.uint8))
    return folder


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    """A study in which two annotators approved two images, and one image is left open."""
    samples = {f"case{seed}": synthetic_sample(seed, (64, 80)) for seed in range(3)}
    images = {name: sample.image for name, sample in samples.items()}
    folder = tmp_path / "study"
    with Study.create(folder, "am", images=images) as study:
        for name, image in _by_name(study).items():
            if name != "case2":
                study.record_prediction(image, np.zeros((64, 80), np.uint8))
                study.approve(image, samples[name].mask)
    with Study.open(folder, "bo") as study:
        for name, image in _by_name(study).items():
            if name != "case2":
                study.approve(image, np.roll(samples[name].mask, 2, axis=1))
    return folder


def _by_name(study: Study) -> dict[str, str]:
    return {state.name: image for image, state in study.state.images.items()}
