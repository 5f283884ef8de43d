from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from napari_lesionseg.config import AugmentConfig, FineTuneConfig
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.lite_unet import LiteUNet
from napari_lesionseg.training.dataset import BatchSource, CachedPair
from napari_lesionseg.training.learner import Learner, average_decay, boundary_of

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


def test_the_part_for_prompts_is_left_alone(discs: list[CachedPair]) -> None:
    network, card = LiteUNet(prompts=1), ModelCard(arch_settings={"prompts": 1})
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    learner = Learner(network, card, CONFIG, torch.device("cpu"))
    learner.step(BatchSource(discs, AugmentConfig(), 4, 0).batch(0, 32), 0, 1.0)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "head.weight" in changed
    assert not any(name.startswith("prompt_network.") for name in changed)
    assert not any(name.startswith("optimizer.prompt_network.") for name in learner.state_tensors())


@pytest.mark.parametrize("steps", [5, 50, 500, 5000])
def test_the_average_covers_the_end_of_a_run_of_any_length(steps: int) -> None:
    """Weights that rise steadily from 0 to 1 average to what they were in the last part of the run."""
    average = 0.0
    for step in range(1, steps + 1):
        decay = average_decay(0.998, step)
        average = decay * average + (1 - decay) * step / steps
    assert average > 0.85


def test_a_long_run_uses_the_decay_it_was_given() -> None:
    assert average_decay(0.998, 100_000) == 0.998
    assert average_decay(0.5, 1) < 0.5


def test_new_statistics_are_those_of_the_images_after_one_step(
    tiny_model: Model, discs: list[CachedPair]
) -> None:
    norms = [m for m in tiny_model.network.modules() if isinstance(m, nn.BatchNorm2d)]
    batch = BatchSource(discs, AugmentConfig(artifacts=0, blur=0), 4, 0).batch(0, 32)
    learner = Learner(
        tiny_model.network,
        tiny_model.card,
        CONFIG.model_copy(update={"click_fraction": 0.0}),
        tiny_model.device,
    )
    seen = list[torch.Tensor]()
    hook = norms[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].detach()))
    learner.step(batch, 0, 0.0)
    hook.remove()
    mean = norms[0].running_mean
    assert mean is not None
    torch.testing.assert_close(mean, seen[0].mean(dim=(0, 2, 3)))


def test_trained_statistics_are_kept(tiny_model: Model, discs: list[CachedPair]) -> None:
    norm = next(m for m in tiny_model.network.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.running_mean is not None
    norm.running_mean.fill_(100.0)
    batch = BatchSource(discs, AugmentConfig(artifacts=0, blur=0), 4, 0).batch(0, 32)
    learner_of(tiny_model, tiny_model.card).step(batch, 0, 0.0)
    assert (norm.running_mean > 80).all()


def test_no_triton_is_loaded_beside_a_window(tmp_path: Path) -> None:
    """Its LLVM and that of OpenGL's driver crash each other: a segmentation fault when fine-tuning began."""
    (tmp_path / "triton.py").write_text("raise SystemExit('Triton was imported')")
    (tmp_path / "napari.py").touch()
    code = """
import sys, napari
from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.lite_unet import LiteUNet
from napari_lesionseg.training.learner import Learner
Learner(LiteUNet(), ModelCard(), FineTuneConfig(), "cpu")
assert "torch._dynamo" in sys.modules and "triton" not in sys.modules
"""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})
