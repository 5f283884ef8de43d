"""The model in the package: what users get without doing anything."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_lesionseg as ls
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.inference.clicks import next_click
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.checkpoint import load_checkpoint, save_checkpoint
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.types import LabelImage

WEIGHTS = Path(str(resources.files("napari_lesionseg"))) / "weights"


@pytest.fixture(scope="module")
def model() -> Model:
    return ls.load_model(device="cpu")


def jaccard(predicted: LabelImage, truth: LabelImage) -> float:
    return float(((predicted > 0) & (truth > 0)).sum() / ((predicted > 0) | (truth > 0)).sum())


def test_it_is_one_small_file() -> None:
    (path,) = WEIGHTS.glob("*.safetensors")
    assert path.stat().st_size <= 16_000_000
    assert ModelStore().resolve() == path
    assert ModelStore().resolve(path.stem) == path


def test_its_card_says_what_it_is(model: Model) -> None:
    card = model.card
    assert ModelStore().resolve().stem == card.name
    assert card.classes == ("background", "lesion")
    assert card.license == "CC0-1.0"
    assert card.training["command"].startswith("lesionseg train")
    assert {"isic2017-val-256", "isic-crop512-val"} <= set(card.scores)


def test_stored_again_it_is_the_same_to_the_bit(tmp_path: Path) -> None:
    network, card = load_checkpoint(ModelStore().resolve())
    save_checkpoint(tmp_path / "again.safetensors", network, card)
    again = load_checkpoint(tmp_path / "again.safetensors")
    assert again.card == card
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name])


def test_it_outlines_drawn_lesions(model: Model) -> None:
    scores = [jaccard(ls.segment(sample.image, model), sample.mask) for sample in sample_set(6)]
    assert np.mean(scores) > 0.75


def test_it_has_a_part_for_prompts_that_any_gesture_uses(model: Model) -> None:
    assert model.network.for_prompts() is not None
    sample = sample_set(1)[0]
    rows, cols = (np.flatnonzero(sample.mask.any(axis=axis)) for axis in (1, 0))
    box = (int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
    assert jaccard(ls.segment(sample.image, model, box=box), sample.mask) > 0.75


def test_clicks_improve_the_outline(model: Model) -> None:
    gains = []
    for sample in sample_set(6):
        encoded = model.encode(sample.image)
        probability, clicks = encoded.predict(), list[ls.Click]()
        start = probability >= model.card.threshold
        for _ in range(3):
            click = next_click(probability >= model.card.threshold, sample.mask > 0)
            assert click is not None
            clicks.append(click)
            probability = encoded.predict(clicks, probability)
        end = probability >= model.card.threshold
        gains.append(jaccard(end, sample.mask) - jaccard(start, sample.mask))
    assert np.mean(gains) > 0.01
