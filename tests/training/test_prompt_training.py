from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.config import AugmentConfig, PromptConfig, TrainConfig
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint, save_checkpoint
from napari_lesionseg.models.lite_unet import LiteUNet, PromptUNet
from napari_lesionseg.models.unet import UNet
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.distributed import OneRank
from napari_lesionseg.training.prompt_training import PromptTrainer, with_prompts
from napari_lesionseg.training.trainer import EpochResult

CARD = ModelCard(working_size=64, threshold=0.6, temperature=1.2)
QUICK = TrainConfig(
    epochs=2,
    batch_size=2,
    sizes=((0.0, 64),),
    frozen_stages=3,
    click_rounds=2,
    precision="float32",
    augment=AugmentConfig(artifacts=0, blur=0),
    prompts=PromptConfig(artifacts=0, judged=1.0),
)


@pytest.fixture(scope="module")
def pairs() -> list[CachedPair]:
    return [
        CachedPair(str(number), sample.image[::5, ::5].copy(), (sample.mask[::5, ::5] > 0).astype(np.uint8))
        for number, sample in enumerate(sample_set(5))
    ]


def make_network() -> LiteUNet:
    torch.manual_seed(3)
    return LiteUNet().eval()


def make_trainer(
    pairs: list[CachedPair], config: TrainConfig = QUICK, state: Path | None = None
) -> PromptTrainer:
    torch.manual_seed(4)
    return PromptTrainer(make_network(), CARD, pairs[:4], pairs[4:], config, device="cpu", state_path=state)


class TwoRanks(OneRank):
    """The first of two."""

    count = 2


def test_several_processes_are_refused(pairs: list[CachedPair]) -> None:
    with pytest.raises(TrainingError, match="without torchrun"):
        PromptTrainer(make_network(), CARD, pairs, [], QUICK, device="cpu", ranks=TwoRanks())


def test_only_the_part_for_prompts_learns(pairs: list[CachedPair]) -> None:
    trainer, before = make_trainer(pairs), make_network().state_dict()
    started = {name: t.clone() for name, t in trainer.averaged_network.state_dict().items()}
    results = list(trainer.run())
    assert [result.epoch for result in results] == [1, 2]
    assert all(result.validation is not None for result in results)
    after = trainer.averaged_network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    learned = "prompt_network.head.weight"
    assert not torch.equal(after[learned], started[learned])
    frozen = "prompt_network.encoder.stages.0.0.layers.0.weight"
    assert torch.equal(after[frozen], started[frozen])


def test_a_model_file_holds_both_parts(pairs: list[CachedPair], tmp_path: Path) -> None:
    network = with_prompts(make_network(), CARD)
    card = CARD.model_copy(update={"arch_settings": {"prompts": 1}})
    save_checkpoint(tmp_path / "both.safetensors", network, card, half=False)
    loaded = load_checkpoint(tmp_path / "both.safetensors")
    image = pairs[0].image
    for settings in ({}, {"box": (10, 10, 40, 50)}):
        np.testing.assert_array_equal(
            Model(loaded.network, loaded.card, "cpu").predict(image, **settings),  # type: ignore[arg-type]
            Model(network, card, "cpu").predict(image, **settings),  # type: ignore[arg-type]
        )


def test_an_interrupted_run_ends_as_one_without_interruption(pairs: list[CachedPair], tmp_path: Path) -> None:
    whole = make_trainer(pairs)
    list(whole.run())
    state = tmp_path / "run.state.safetensors"
    first = make_trainer(pairs, state=state)
    next(result for result in first.steps() if isinstance(result, EpochResult))
    second = make_trainer(pairs, state=state)
    second.load_state(state)
    (result,) = second.run()
    assert result.epoch == 2
    wanted = whole.averaged_network.state_dict()
    assert all(
        torch.equal(tensor, wanted[name]) for name, tensor in second.averaged_network.state_dict().items()
    )


def test_a_step_lowers_the_loss_of_its_batch(pairs: list[CachedPair]) -> None:
    trainer = make_trainer(pairs)
    batch = trainer._source.batch(0, 64)
    losses = [trainer._learner.step(batch, 0, 1.0) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.02


def test_the_start_adds_half_of_the_network_to_the_evidence() -> None:
    network, boundary = make_network(), 0.4
    prompted = PromptUNet.starting_from(network, 1.2, boundary).eval()
    image, guidance = torch.randn(1, 3, 64, 64), torch.zeros(1, 5, 64, 64)
    guidance[:, 3, :32], guidance[:, 4, :, :32] = 0.5, -0.4
    with torch.inference_mode():
        wanted = 0.5 * (network(image) / 1.2 - boundary) + 8 * guidance[:, 3:4] + 0.3 * 5 * guidance[:, 4:]
        torch.testing.assert_close(prompted(image, guidance), wanted, rtol=1e-4, atol=1e-4)


def test_networks_that_cannot_learn_prompts_say_so() -> None:
    with pytest.raises(TrainingError, match="'lite-unet' with one class"):
        with_prompts(UNet(width=4, depth=2), CARD)
    with pytest.raises(TrainingError, match="one class"):
        with_prompts(LiteUNet(3), CARD.model_copy(update={"classes": ("skin", "nevus", "melanoma")}))
