"""Another subject than lesions: people are learned by the same code, from drawn figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lesionseg.config import AugmentConfig, TrainConfig
from napari_lesionseg.datasets.synthetic import synthetic_figure
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.trainer import Trainer

SIDE = 64


def figures(first: int, count: int) -> list[CachedPair]:
    samples = [synthetic_figure(seed, (SIDE, SIDE)) for seed in range(first, first + count)]
    return [CachedPair(sample.name, sample.image, sample.mask) for sample in samples]


def test_people_are_learned_from_scratch() -> None:
    torch.manual_seed(0)
    card = ModelCard(
        arch="unet", arch_settings={"width": 8, "depth": 3}, working_size=SIDE, classes=("room", "person")
    )
    network = build_network(card.arch, card.out_channels, **card.arch_settings)
    config = TrainConfig(
        epochs=10,
        batch_size=8,
        sizes=((0.0, SIDE),),
        decoder_lr=5e-3,
        average=0.9,
        precision="float32",
        augment=AugmentConfig(scale=(0.95, 1.05), aspect=0, shift=0, color=0.2, artifacts=0, blur=0),
    )
    held_out = figures(100, 16)
    trainer = Trainer(network, card, figures(0, 80), held_out, config, device="cpu")
    history = list(trainer.run())
    everything = np.mean([pair.labels.mean() for pair in held_out])  # the Jaccard index of a full mask
    scores = history[-1].validation
    assert scores is not None
    assert history[-1].loss < 0.7 * history[0].loss
    assert scores.jaccard > max(0.4, 2 * everything)

    model = Model(trainer.averaged_network, card, "cpu", precision="float32")
    masks = [(model.predict(pair.image) >= 0.5).astype(np.uint8) for pair in held_out]
    dice = [score_masks(mask, pair.labels).dice for mask, pair in zip(masks, held_out, strict=True)]
    assert np.mean(dice) == pytest.approx(scores.dice, abs=1e-3)
