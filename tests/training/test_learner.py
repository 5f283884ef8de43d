from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from napari_lesionseg.config import AugmentConfig, FineTuneConfig
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.training.dataset import BatchSource, CachedPair
from napari_lesionseg.training.learner import Learner, boundary_of

CONFIG = FineTuneConfig(
    loss="bce", label_smoothing=0, decoder_lr=2e-2, freeze_norm=False, precision="float32", batch_size=4
)


def learner_of(model: Model, card: ModelCard) -> Learner:
    return Learner(model.network, card, CONFIG, model.device)


@pytest.mark.parametrize(("threshold", "temperature"), [(0.5, 1.0), (0.7, 1.15), (0.3, 2.0)])
def test_a_pixel_on_the_threshold_is_undecided(
    tiny_model: Model, discs: list[CachedPair], threshold: float, temperature: float
) -> None:
    """Where the annotator would see the outline, either answer costs the same: the logarithm of two."""
    head = [m for m in tiny_model.network.modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, temperature * math.log(threshold / (1 - threshold)))
    card = tiny_model.card.model_copy(update={"threshold": threshold, "temperature": temperature})
    batch = BatchSource(discs, AugmentConfig(artifacts=0, blur=0), 4, 0).batch(0, 32)
    loss = learner_of(tiny_model, card).step(batch, 0, 0.0)
    assert loss == pytest.approx(math.log(2), abs=1e-5)


def test_several_classes_have_no_threshold(new_model: Callable[..., Model]) -> None:
    card = new_model(classes=("background", "one", "two")).card
    assert boundary_of(card.model_copy(update={"threshold": 0.7})) == 0


def test_what_is_learned_shows_at_the_models_threshold(tiny_model: Model, discs: list[CachedPair]) -> None:
    card = tiny_model.card.model_copy(update={"threshold": 0.9})
    learner = learner_of(tiny_model, card)
    source = BatchSource(discs, AugmentConfig(artifacts=0, blur=0), 4, 0)
    for step in range(40):
        learner.step(source.batch(step, 32), step, 1.0)
    model = Model(learner.averaged_network, card, "cpu", precision="float32")
    for pair in discs:
        outline, disc = torch.from_numpy(model.predict(pair.image) >= 0.9), torch.from_numpy(pair.labels > 0)
        assert (outline & disc).sum() / (outline | disc).sum() > 0.7
