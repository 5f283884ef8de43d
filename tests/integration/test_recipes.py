from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from napari_lesionseg.config import TrainConfig
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.io.pairing import find_pairs
from napari_lesionseg.training.dataset import read_pair
from napari_lesionseg.training.trainer import Trainer


@pytest.mark.parametrize("name", ["default", "refine", "finish"])
def test_a_pass_repeated_gives_the_same_loss_and_weights(name: str, real_data: Path) -> None:
    folder = real_data / "isic2017-train-256"
    pairs = [read_pair(p, 80) for p in find_pairs([folder / "images"], [folder / "masks"]).pairs[:32]]
    recipe = json.loads((resources.files("napari_lesionseg") / "recipes" / f"{name}.json").read_text("utf-8"))
    config = TrainConfig.model_validate(recipe | {"epochs": 1, "sizes": [[0, 64]]})

    def learn_once() -> tuple[float, dict[str, torch.Tensor]]:
        model = load_model(device="cpu")
        (result,) = Trainer(model.network, model.card, pairs, [], config, device="cpu").run()
        return result.loss, model.network.state_dict()

    (loss, weights), (again, same) = learn_once(), learn_once()
    assert loss == again
    assert all(torch.equal(weights[key], same[key]) for key in weights)
