from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from napari_lesionseg.config import AugmentConfig, TrainConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.learner import rate_at
from napari_lesionseg.training.trainer import STATE_KEY, EpochResult, StepResult, Trainer, fit_batch_size

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

    def test_threads_are_those_asked_for(self, new_trainer: Callable[..., Trainer]) -> None:
        before = torch.get_num_threads()
        steps = new_trainer(QUICK.model_copy(update={"num_threads": before + 1})).steps()
        next(steps)
        assert torch.get_num_threads() == before + 1
        list(steps)
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
