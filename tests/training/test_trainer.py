from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from napari_lesionseg.config import AugmentConfig, TrainConfig
from napari_lesionseg.errors import SettingsError, TrainingError
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.learner import Learner, rate_at
from napari_lesionseg.training.trainer import (
    STATE_KEY,
    EpochResult,
    StepResult,
    Trainer,
    fit_batch_size,
    validate,
)
from napari_lesionseg.types import IGNORED

QUICK = TrainConfig(
    pretrained=False,
    epochs=3,
    batch_size=2,
    sizes=((0.0, 32), (0.6, 48)),
    decoder_lr=1e-2,
    average=0.5,
    precision="float32",
    augment=AugmentConfig(artifacts=0, blur=0),
)


@pytest.fixture
def new_trainer(new_model: Callable[..., Model], discs: list[CachedPair]) -> Callable[..., Trainer]:
    """Make a trainer of a tiny network on five images, one of them held out."""

    def make(config: TrainConfig = QUICK, state_path: Path | None = None) -> Trainer:
        model = new_model()
        return Trainer(
            model.network, model.card, discs[:4], discs[4:], config, device="cpu", state_path=state_path
        )

    return make


def curve(results: list[EpochResult]) -> list[tuple[object, ...]]:
    return [(r.epoch, r.epochs, r.step, r.progress, r.loss, r.size, r.validation) for r in results]


def same_weights(one: SegmentationNetwork, other: SegmentationNetwork) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


class TestRun:
    def test_one_result_a_pass(self, new_trainer: Callable[..., Trainer]) -> None:
        results = list(new_trainer().run())
        assert [(r.epoch, r.step, r.size) for r in results] == [(1, 2, 32), (2, 4, 32), (3, 6, 48)]
        assert results[-1].progress == 1
        assert all(r.validation is not None and 0 <= r.validation.jaccard <= 1 for r in results)
        with pytest.raises(dataclasses.FrozenInstanceError):
            results[0].loss = 0.0  # type: ignore[misc]

    def test_it_learns(self, new_trainer: Callable[..., Trainer], discs: list[CachedPair]) -> None:
        trainer = new_trainer(QUICK.model_copy(update={"epochs": 25, "sizes": ((0.0, 32),)}))
        results = list(trainer.run())
        assert results[-1].loss < results[0].loss - 0.3
        assert results[-1].validation.jaccard > 0.5  # type: ignore[union-attr]

    def test_steps_can_be_watched(self, new_trainer: Callable[..., Trainer]) -> None:
        events = list(new_trainer().steps())
        assert [type(event) for event in events] == 3 * [StepResult, StepResult, EpochResult]
        losses = [event.loss for event in events[:2]]
        assert events[2].loss == pytest.approx(sum(losses) / 2)

    def test_pauses_do_not_count(
        self, new_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        for event in new_trainer().steps():
            assert event.seconds == 0
            now[0] += 100

    def test_budget_in_seconds(
        self, new_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]

        def later() -> float:
            now[0] += 0.25
            return now[0]

        monkeypatch.setattr("time.monotonic", later)
        results = list(new_trainer(QUICK.model_copy(update={"epochs": 1000, "max_seconds": 20})).run())
        assert results[-1].progress == 1
        assert 20 <= results[-1].seconds < 25
        assert results[-1].epoch < 1000

    def test_threads_are_those_asked_for(
        self, new_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, seen, step = torch.get_num_threads(), list[int](), Learner.step

        def watched(*arguments: object) -> float:
            seen.append(torch.get_num_threads())
            return step(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Learner, "step", watched)
        steps = new_trainer(QUICK.model_copy(update={"num_threads": before + 1})).steps()
        next(steps)
        assert torch.get_num_threads() == before
        list(steps)
        assert set(seen) == {before + 1}
        assert torch.get_num_threads() == before

    def test_nothing_held_out(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        trainer = Trainer(tiny_model.network, tiny_model.card, discs, [], QUICK, device="cpu")
        assert [result.validation for result in trainer.run()] == [None] * 3

    def test_without_an_average_the_network_is_kept(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        config = QUICK.model_copy(update={"average": 0.0})
        trainer = Trainer(tiny_model.network, tiny_model.card, discs, [], config, device="cpu")
        list(trainer.run())
        assert trainer.averaged_network is tiny_model.network

    def test_nothing_to_learn_from(self, tiny_model: Model) -> None:
        with pytest.raises(TrainingError, match="no images"):
            Trainer(tiny_model.network, tiny_model.card, [], [], QUICK)

    def test_loss_that_is_not_finite(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        with torch.no_grad():
            tiny_model.network.head.weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
        trainer = Trainer(tiny_model.network, tiny_model.card, discs, [], QUICK, device="cpu")
        with pytest.raises(TrainingError, match=r"step 0.*learning rate"):
            list(trainer.run())


class TestDefaultNetwork:
    @pytest.fixture
    def network(self) -> SegmentationNetwork:
        torch.manual_seed(0)
        return build_network("lite-unet")

    @pytest.mark.parametrize("settings", [{"pretrained": True}, {"encoder_lr": 0.0}])
    def test_frozen_parts_stay_as_they_are(
        self, network: SegmentationNetwork, discs: list[CachedPair], settings: dict[str, object]
    ) -> None:
        config = QUICK.model_copy(update={"epochs": 1, "sizes": ((0.0, 32),), **settings})
        before = {name: tensor.clone() for name, tensor in network.named_parameters()}
        list(Trainer(network, ModelCard(working_size=32), discs[:2], [], config, device="cpu").run())
        changed = {name for name, p in network.named_parameters() if not torch.equal(before[name], p)}
        assert any(name.startswith("decoder") for name in changed)
        assert any(name.startswith("guidance") for name in changed)
        assert not any(name.startswith(("encoder.stem", "encoder.stages.1.")) for name in changed)
        assert any(name.startswith("encoder.stages.6") for name in changed) == config.pretrained

    def test_frozen_statistics_stay_as_they_are(
        self, network: SegmentationNetwork, discs: list[CachedPair]
    ) -> None:
        config = QUICK.model_copy(update={"epochs": 1, "sizes": ((0.0, 32),), "freeze_norm": True})
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        list(Trainer(network, ModelCard(working_size=32), discs[:2], [], config, device="cpu").run())
        assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


class TestState:
    @pytest.mark.parametrize("events", [3, 4])
    def test_continues_exactly(
        self, new_trainer: Callable[..., Trainer], tmp_path: Path, events: int
    ) -> None:
        """After a pass as well as in the middle of one."""
        whole = new_trainer()
        expected = list(whole.run())
        path = tmp_path / "run.state.safetensors"
        first = new_trainer(state_path=path)
        steps = first.steps()
        done = [event for _, event in zip(range(events), steps, strict=False)]
        first.save_state()
        again = new_trainer()
        again.load_state(path)
        results = [event for event in done if isinstance(event, EpochResult)] + list(again.run())
        assert curve(results) == curve(expected)
        assert same_weights(again.averaged_network, whole.averaged_network)

    def test_a_new_setting_does_not_end_an_old_training(
        self, new_trainer: Callable[..., Trainer], tmp_path: Path
    ) -> None:
        path = tmp_path / "run.state.safetensors"
        next(new_trainer(state_path=path).run())
        position = read_position(path)
        del position["config"]["freeze_norm"]
        rewrite(path, position)
        trainer = new_trainer()
        trainer.load_state(path)
        assert trainer.progress == pytest.approx(1 / 3)

    @pytest.mark.parametrize("change", [{"batch_size": 3}, {"of_another_version": 1}])
    def test_other_settings_are_refused(
        self, new_trainer: Callable[..., Trainer], tmp_path: Path, change: dict[str, int]
    ) -> None:
        path = tmp_path / "run.state.safetensors"
        next(new_trainer(state_path=path).run())
        position = read_position(path)
        position["config"] |= change
        rewrite(path, position)
        with pytest.raises(TrainingError, match="other settings"):
            new_trainer().load_state(path)

    def test_missing_damaged_or_foreign(self, new_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
        damaged, foreign = tmp_path / "damaged.safetensors", tmp_path / "foreign.safetensors"
        damaged.write_bytes(b"12345678 no state")
        save_file({"a": torch.zeros(2)}, foreign)
        for path in (tmp_path / "missing", damaged, foreign):
            with pytest.raises(TrainingError, match="can be resumed"):
                new_trainer().load_state(path)

    def test_state_of_another_network(
        self, new_trainer: Callable[..., Trainer], discs: list[CachedPair], tmp_path: Path
    ) -> None:
        path = tmp_path / "run.state.safetensors"
        next(new_trainer(state_path=path).run())
        other = build_network("unet", width=8, depth=1)
        trainer = Trainer(other, ModelCard(working_size=32), discs, [], QUICK, device="cpu")
        with pytest.raises(TrainingError, match="another network"):
            trainer.load_state(path)

    def test_place_that_cannot_be_written(self, new_trainer: Callable[..., Trainer], tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match="cannot be saved"):
            list(new_trainer(state_path=tmp_path / "no folder" / "state").run())


def read_position(path: Path) -> dict[str, dict[str, object]]:
    with safe_open(path, framework="pt") as file:
        position: dict[str, dict[str, object]] = json.loads(file.metadata()[STATE_KEY])
    return position


def rewrite(path: Path, position: dict[str, dict[str, object]]) -> None:
    save_file(load_file(path), path, metadata={STATE_KEY: json.dumps(position)})


def test_rate_rises_and_falls() -> None:
    rates = [rate_at(progress, 0.1) for progress in (0, 0.05, 0.1, 0.55, 1)]
    assert rates == pytest.approx([0.001, 0.5, 1, 0.5, 0])
    assert rate_at(0, 0) == 1


@pytest.mark.parametrize(
    ("images", "epochs", "batch"), [(20, 1, 4), (20, 50, 5), (200, 1, 4), (200, 50, 16), (2000, 1, 10)]
)
def test_short_runs_take_more_and_smaller_steps(images: int, epochs: int, batch: int) -> None:
    assert fit_batch_size(TrainConfig(epochs=epochs), images) == batch
    assert fit_batch_size(TrainConfig(epochs=epochs, batch_size=2), images) == 2


@pytest.mark.parametrize("epochs", [5, 20])
def test_short_runs_learn_with_the_default_schedule(
    new_model: Callable[..., Model], disc: Callable[..., CachedPair], epochs: int
) -> None:
    """Twenty images: the average, the statistics and the rate must not be those of a long run."""
    model = new_model()
    config = TrainConfig(
        pretrained=False,
        epochs=epochs,
        sizes=((0.0, 32),),
        decoder_lr=1e-2,
        precision="float32",
        augment=AugmentConfig(artifacts=0, blur=0),
    )
    trainer = Trainer(
        model.network, model.card, [disc(n) for n in range(20)], [disc(99)], config, device="cpu"
    )
    scores = list(trainer.run())[-1].validation
    assert scores is not None
    assert scores.jaccard > 0.6


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_impossible_weights_are_refused(weights: tuple[float, float]) -> None:
    with pytest.raises(SettingsError):
        TrainConfig(class_weights=weights)


def trainer_of(labels: np.ndarray, **settings: object) -> Trainer:
    card = ModelCard(arch="unet", arch_settings={"width": 2, "depth": 1}, working_size=32)
    network = build_network(card.arch, card.out_channels, **card.arch_settings)
    pair = CachedPair("one", np.zeros((*labels.shape, 3), np.uint8), labels)
    return Trainer(network, card, [pair], [], TrainConfig(sizes=((0.0, 32),), batch_size=2, **settings))  # type: ignore[arg-type]


def test_a_weight_is_needed_for_each_class() -> None:
    with pytest.raises(TrainingError, match="2 class weights"):
        trainer_of(np.zeros((32, 32), np.uint8), class_weights=(1.0, 1.0, 1.0))
    with pytest.raises(TrainingError, match="2 class weights"):
        trainer_of(np.zeros((32, 32), np.uint8), class_weights=(0.0, 0.0))


def test_a_mask_with_an_unknown_class_is_named() -> None:
    with pytest.raises(TrainingError, match="mask of one has a class 2"):
        trainer_of(np.full((32, 32), 2, np.uint8))


def test_weights_reach_the_loss() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[:, :4] = 1
    losses = []
    for weights in (None, (0.01, 1.0)):
        torch.manual_seed(0)
        run = trainer_of(labels, epochs=1, loss="bce", class_weights=weights, precision="float32")
        losses.append(next(run.run()).loss)
    assert abs(losses[0] - losses[1]) > 1e-3


def test_ignored_pixels_alone_can_be_learned_from() -> None:
    run = trainer_of(np.full((32, 32), IGNORED, np.uint8), epochs=1)
    assert np.isfinite(next(run.run()).loss)


CPU = torch.device("cpu")


class Dark(SegmentationNetwork):
    """Takes dark pixels for lesion; with three channels, as the last class."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def encode(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (image,)

    def decode(
        self, features: tuple[torch.Tensor, ...], guidance: torch.Tensor | None = None
    ) -> torch.Tensor:
        lesion = -20 * features[0].mean(1, keepdim=True)
        if self.channels == 1:
            return lesion
        return torch.cat([torch.zeros_like(lesion), torch.full_like(lesion, -50), lesion], dim=1)


def square_pair(drawn: tuple[int, int], true: tuple[int, int], value: int = 1) -> CachedPair:
    """A 64x64 image with a dark square from row and column a to b, and the mask of another square."""
    image, labels = np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64), np.uint8)
    image[slice(*drawn), slice(*drawn)] = 0
    labels[slice(*true), slice(*true)] = value
    return CachedPair("square", image, labels)


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 3)])
def test_validation_scores_are_those_of_the_metrics(channels: int, classes: int) -> None:
    pairs = [
        square_pair((8, 40), (8, 40), 2),
        square_pair((8, 40), (8, 56)),
        square_pair((0, 0), (8, 40)),
        square_pair((0, 0), (0, 0)),
    ]
    card = ModelCard(working_size=64, classes=tuple("abc"[:classes]))
    scores = validate(Dark(channels).eval(), card, pairs, CPU)
    predicted = [np.where(p.image[..., 0] == 0, 1, 0) for p in pairs]
    expected = [score_masks(mask, p.labels > 0) for mask, p in zip(predicted, pairs, strict=True)]
    assert scores.jaccard == pytest.approx(np.mean([e.jaccard for e in expected]), abs=1e-6)
    assert scores.dice == pytest.approx(np.mean([e.dice for e in expected]), abs=1e-6)
    assert scores.failures == pytest.approx(np.mean([e.failed for e in expected]))


def test_validation_leaves_ignored_pixels_out() -> None:
    sample = square_pair((8, 40), (8, 40))
    sample.labels[:, 32:] = IGNORED
    sample.image[:, 32:] = 0
    assert validate(Dark().eval(), ModelCard(working_size=64), [sample], CPU).jaccard == 1


def test_validation_does_not_change_the_network() -> None:
    network = build_network("unet", width=2, depth=1).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    validate(network, ModelCard(arch="unet", working_size=64), [square_pair((8, 40), (8, 40))], CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
