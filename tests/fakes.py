"""A small world in which learning takes milliseconds: bright discs on dark ground, and a tiny network."""

from __future__ import annotations

import numpy as np
import torch

from napari_lesionseg.config import AugmentConfig, FineTuneConfig
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.types import Probability

QUICK_FINE_TUNING = FineTuneConfig(
    epochs=40,
    rounds=4,
    folds=2,
    batch_size=4,
    decoder_lr=2e-2,
    freeze_norm=False,
    precision="float32",
    num_threads=1,
    augment=AugmentConfig(artifacts=0, blur=0),
)
"""Settings with which a tiny network learns dark lesions within seconds."""

ARCH, ARCH_SETTINGS, SIDE = "unet", {"width": 4, "depth": 2}, 32


def draw_disc(number: int, *, empty: bool = False) -> CachedPair:
    rng = np.random.default_rng(number)
    rows, cols = np.ogrid[:40, :48]
    row, col, radius = rng.uniform(14, 26), rng.uniform(16, 32), rng.uniform(7, 11)
    inside = ((rows - row) ** 2 + (cols - col) ** 2 <= radius**2) & (not empty)
    image = rng.integers(20, 60, (40, 48, 3)) + 150 * inside[..., None]
    return CachedPair(f"disc-{number}", image.astype(np.uint8), inside.astype(np.uint8))


def make_model(seed: int = 0, classes: tuple[str, ...] = ("background", "lesion")) -> Model:
    torch.manual_seed(seed)
    card = ModelCard(
        name="tiny", arch=ARCH, arch_settings=ARCH_SETTINGS, working_size=SIDE, classes=classes, license="CC0"
    )
    network = build_network(ARCH, card.out_channels, **ARCH_SETTINGS)
    return Model(network, card, "cpu", sha256="0" * 64, precision="float32")


def prediction_of(probability: Probability) -> Prediction:
    """Make the prediction of a network as large as its image, (H, W) or (C, H, W)."""
    values = np.clip(probability, 1e-6, 1 - 1e-6).astype(np.float64)
    logits = np.log(values / (1 - values))[None] if probability.ndim == 2 else np.log(values)
    return Prediction(logits.astype(np.float32), (probability.shape[-2], probability.shape[-1]))
