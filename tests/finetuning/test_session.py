from __future__ import annotations

import dataclasses
import gc
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import napari_lesionseg as ls
from napari_lesionseg.config import AugmentConfig, FineTuneConfig, TrainConfig
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.finetuning import session
from napari_lesionseg.finetuning.checkpoint import find_checkpoint
from napari_lesionseg.finetuning.comparison import ScoredPrediction, predict_pair
from napari_lesionseg.finetuning.cross_validation import NOT_HELD_OUT, assign_folds
from napari_lesionseg.finetuning.run import Progress
from napari_lesionseg.finetuning.schedule import FineTunePlan
from napari_lesionseg.finetuning.session import FineTuning, fine_tune
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.learner import Learner
from napari_lesionseg.training.trainer import EpochResult, StepResult
from napari_lesionseg.types import Pair

QUICK = FineTuneConfig(
    epochs=6,
    rounds=3,
    folds=2,
    batch_size=2,
    decoder_lr=2e-2,
    freeze_norm=False,
    precision="float32",
    augment=AugmentConfig(artifacts=0, blur=0),
)
ENOUGH = QUICK.model_copy(update={"epochs": 12})


def curve(results: list[EpochResult]) -> list[tuple[object, ...]]:
    """All of a curve but the time it took."""
    return [(r.epoch, r.epochs, r.step, r.progress, r.loss, r.size, r.validation) for r in results]


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestLearning:
    def test_promised_form(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        settings = {name: getattr(QUICK, name) for name in QUICK.model_fields_set - {"rounds", "folds"}}
        results = list(ls.fine_tune(tiny_model, discs, config=ls.TrainConfig(**settings)))
        assert results
        assert all(isinstance(result, EpochResult) for result in results)
        assert [result.epoch for result in results] == list(range(1, len(results) + 1))
        assert all(result.validation is not None for result in results)
        with pytest.raises(dataclasses.FrozenInstanceError):
            results[0].loss = 0.0  # type: ignore[misc]

    def test_becomes_better_and_leaves_the_old_model_alone(
        self, tiny_model: Model, discs: list[CachedPair], disc: Callable[..., CachedPair]
    ) -> None:
        before, answer = weights(tiny_model), tiny_model.predict(discs[0].image)
        tuning = fine_tune(tiny_model, discs, ENOUGH)
        results = list(tuning)
        candidate = tuning.candidate()
        assert results[-1].loss < results[0].loss
        assert candidate.offered
        assert candidate.comparison is not None
        assert candidate.comparison.jaccard.difference.mean > 0.2
        unseen = disc(99)
        assert jaccard(candidate.model, unseen) > jaccard(tiny_model, unseen) + 0.2
        assert same_weights(before, weights(tiny_model))
        np.testing.assert_array_equal(tiny_model.predict(discs[0].image), answer)

    def test_same_seed_same_curve(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        first, second = fine_tune(tiny_model, discs, QUICK), fine_tune(tiny_model, discs, QUICK)
        assert curve(list(first)) == curve(list(second))
        assert same_weights(weights(first.candidate().model), weights(second.candidate().model))

    def test_card_names_parent_and_data_but_no_patient(
        self, tiny_model: Model, discs: list[CachedPair]
    ) -> None:
        named = [disc._replace(stem=f"Jane Doe {disc.stem}") for disc in discs]
        tuning = fine_tune(tiny_model, named, QUICK)
        curve_points = len(list(tuning))
        card = tuning.candidate().model.card
        assert card.parent == tiny_model.sha256
        assert card.license == tiny_model.card.license
        assert card.training["data"]["pairs"] == 5
        assert len(card.training["data"]["sha256"]) == 64
        assert len(card.training["curve"]) == curve_points
        assert card.scores["held-out"]["images"] == 5
        assert "Jane" not in card.model_dump_json()

    def test_candidate_can_be_saved_and_loaded(
        self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path
    ) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK)
        list(tuning)
        tuning.candidate().save(tmp_path / "new" / "model.safetensors")
        loaded = load_model(tmp_path / "new" / "model.safetensors", "cpu")
        expected = tuning.candidate().model.predict(discs[0].image)
        np.testing.assert_allclose(loaded.predict(discs[0].image), expected, atol=0.02)
        assert loaded.card == tuning.candidate().model.card

    def test_worse_is_not_offered(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        trained = fine_tune(tiny_model, discs, ENOUGH)
        list(trained)
        wrong = [disc._replace(labels=1 - disc.labels) for disc in discs]
        right = [disc._replace(stem=f"right-{disc.stem}") for disc in discs]
        spoiled = fine_tune(trained.candidate().model, wrong, ENOUGH, held_out=right)
        list(spoiled)
        candidate = spoiled.candidate()
        assert not candidate.offered
        assert "no better" in candidate.reason

    def test_empty_masks_are_learned(self, tiny_model: Model, disc: Callable[..., CachedPair]) -> None:
        empty = [disc(number, empty=True) for number in range(4)]
        tuning = fine_tune(tiny_model, empty, QUICK.model_copy(update={"epochs": 30}))
        list(tuning)
        blank = disc(99, empty=True).image
        assert tuning.candidate().model.predict(blank).mean() < tiny_model.predict(blank).mean() - 0.1

    def test_several_classes(self, new_model: Callable[..., Model], discs: list[CachedPair]) -> None:
        model = new_model(classes=("background", "nevus", "melanoma"))
        pairs = [disc._replace(labels=disc.labels * (1 + number % 2)) for number, disc in enumerate(discs)]
        unknown = discs[0]._replace(stem="unknown", labels=discs[0].labels * 7)
        tuning = fine_tune(model, [*pairs, unknown], QUICK)
        assert len(list(tuning)) == 3
        assert tuning.candidate().model.predict(discs[0].image).shape == (3, 40, 48)
        assert [(left.stem, "class 7" in left.reason) for left in tuning.skipped] == [("unknown", True)]

    def test_settings_that_were_left_alone_are_those_of_fine_tuning(self) -> None:
        config = FineTuneConfig.from_train_config(TrainConfig(seed=5, arch="unet"))
        assert config == FineTuneConfig(seed=5)
        assert config.encoder_lr < TrainConfig().encoder_lr
        assert FineTuneConfig.from_train_config(QUICK) is QUICK

    def test_weights_are_interpolated(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        """0.5 is the middle between old and new weights."""
        made = {}
        for share in (0.5, 1.0):
            config = QUICK.model_copy(update={"interpolations": (share,), "rounds": 1})
            tuning = fine_tune(tiny_model, discs, config)
            list(tuning)
            made[share] = weights(tuning.candidate().model)
        old, name = weights(tiny_model), "head.weight"
        assert not torch.equal(made[1.0][name], old[name])
        torch.testing.assert_close(made[0.5][name], (old[name] + made[1.0][name]) / 2)


def jaccard(model: Model, pair: CachedPair) -> float:
    predicted, truth = model.predict(pair.image) >= 0.5, pair.labels > 0
    return float((predicted & truth).sum() / (predicted | truth).sum())


class TestHoldingOut:
    def test_every_image_is_held_out_once(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK.model_copy(update={"folds": 3}))
        plan = tuning.prepare()
        assert sorted(plan.held_out) == sorted(disc.stem for disc in discs)
        assert (plan.images, plan.folds) == (5, 3)

    def test_one_image_is_enough_but_cannot_be_held_out(
        self, tiny_model: Model, discs: list[CachedPair]
    ) -> None:
        tuning = fine_tune(tiny_model, discs[:1], QUICK)
        results = list(tuning)
        candidate = tuning.candidate()
        assert all(result.validation is None for result in results)
        assert candidate.comparison is None
        assert not candidate.offered
        assert "held out" in candidate.reason
        assert not same_weights(weights(candidate.model), weights(tiny_model))

    def test_images_of_a_patient_stay_together(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        items = [SplitItem(disc.stem, patient="AAABB"[number]) for number, disc in enumerate(discs)]
        plan = fine_tune(tiny_model, discs, QUICK, items=items).prepare()
        folds = [{disc.stem for disc in discs[:3]}, {disc.stem for disc in discs[3:]}]
        assert set(plan.held_out[:3]) in folds or set(plan.held_out[:2]) in folds

    def test_one_patient_cannot_be_held_out(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        items = [SplitItem(disc.stem, patient="A") for disc in discs]
        assert fine_tune(tiny_model, discs, QUICK, items=items).prepare().held_out == ()

    def test_images_chosen_by_the_caller(
        self, tiny_model: Model, discs: list[CachedPair], disc: Callable[..., CachedPair]
    ) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK, held_out=[disc(7), disc(8)])
        plan = tuning.prepare()
        assert plan.held_out == ("disc-7", "disc-8")
        assert (plan.images, plan.folds) == (5, 1)
        list(tuning)
        comparison = tuning.candidate().comparison
        assert comparison is not None
        assert [change.stem for change in comparison.images] == ["disc-7", "disc-8"]

    def test_of_many_images_some_are_held_out_for_good(self) -> None:
        stems = [f"{number:03}" for number in range(300)]
        fold_of = assign_folds(stems, [], 3, seed=0)
        assert fold_of.count(0) == 40
        assert fold_of.count(NOT_HELD_OUT) == 260
        assert assign_folds(stems[:100], [], 3, seed=0).count(0) == 20
        assert (
            assign_folds(stems, [SplitItem(stem, patient="A") for stem in stems], 3, seed=0)
            == [NOT_HELD_OUT] * 300
        )


class TestInput:
    @pytest.fixture
    def files(self, discs: list[CachedPair], tmp_path: Path) -> list[Pair]:
        pairs = [Pair(d.stem, tmp_path / f"{d.stem}.png", tmp_path / f"{d.stem}_mask.png") for d in discs]
        for pair, disc in zip(pairs, discs, strict=True):
            write_image(pair.image, disc.image)
            write_mask(pair.mask, disc.labels)
        return pairs

    def test_files_and_arrays_give_the_same_curve(
        self, tiny_model: Model, discs: list[CachedPair], files: list[Pair]
    ) -> None:
        from_files, from_arrays = fine_tune(tiny_model, files, QUICK), fine_tune(tiny_model, discs, QUICK)
        assert curve(list(from_files)) == curve(list(from_arrays))

    def test_a_broken_image_is_reported_and_skipped(self, tiny_model: Model, files: list[Pair]) -> None:
        files[1].image.write_bytes(b"no image")
        files[2].mask.unlink()
        tuning = fine_tune(tiny_model, files, QUICK)
        assert tuning.prepare().images == 3
        assert [left.stem for left in tuning.skipped] == ["disc-1", "disc-2"]
        assert "disc-1" in tuning.skipped[0].reason

    def test_nothing_but_broken_images(self, tiny_model: Model, files: list[Pair]) -> None:
        for pair in files:
            pair.image.unlink()
        with pytest.raises(TrainingError, match="no images to learn from"):
            list(fine_tune(tiny_model, files, QUICK))

    def test_arrays_that_are_no_image(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        gray = discs[0]._replace(image=discs[0].image[..., 0])
        cut = discs[1]._replace(labels=discs[1].labels[1:])
        tuning = fine_tune(tiny_model, [gray, cut, *discs[2:]], QUICK)
        tuning.prepare()
        assert [left.stem for left in tuning.skipped] == ["disc-0", "disc-1"]

    def test_no_images(self, tiny_model: Model) -> None:
        with pytest.raises(TrainingError, match="no images"):
            fine_tune(tiny_model, [])

    def test_two_images_of_one_name(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        with pytest.raises(TrainingError, match="disc-0"):
            fine_tune(tiny_model, [discs[0], discs[0]])

    def test_model_without_weights(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        tiny_model.network = torch.nn.Identity()  # type: ignore[assignment]
        with pytest.raises(TrainingError, match="safetensors"):
            fine_tune(tiny_model, discs)


class TestDriving:
    def test_plan_comes_before_the_first_step(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK)
        events = list(tuning.steps())
        kinds = [type(event) for event in events]
        place = kinds.index(FineTunePlan)
        assert set(kinds[:place]) == {Progress}
        assert kinds[place + 1] is StepResult
        assert events[place] is tuning.plan
        assert kinds.count(StepResult) == tuning.plan.steps
        assert kinds.count(EpochResult) == tuning.plan.rounds
        stages = [event.stage for event in events if isinstance(event, Progress)]
        assert set(stages) == {"reading", "measuring", "timing", "comparing"}
        progress = [event.progress for event in events if isinstance(event, StepResult)]
        assert progress == sorted(progress)
        assert progress[-1] == 1

    def test_stop_keeps_the_best(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK)
        plan = tuning.prepare()
        next(iter(tuning))
        tuning.stop()
        rest = [event for event in tuning.steps() if isinstance(event, StepResult)]
        assert len(rest) <= plan.folds
        assert len(tuning.candidate().rounds) == 2

    def test_leaving_keeps_the_best(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK)
        for _ in tuning:
            break
        assert tuning.candidate().rounds

    def test_close_cancels(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK)
        tuning.prepare()
        tuning.close()
        assert list(tuning) == []
        with pytest.raises(TrainingError, match="Nothing has been learned"):
            tuning.candidate()

    def test_thread_count_is_restored(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        before = torch.get_num_threads()
        tuning = fine_tune(tiny_model, discs, QUICK.model_copy(update={"num_threads": 1}))
        tuning.prepare()
        assert torch.get_num_threads() == 1
        tuning.close()
        assert torch.get_num_threads() == before

    def test_old_model_answers_meanwhile(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        expected = tiny_model.predict(discs[0].image)
        tuning = fine_tune(tiny_model, discs, QUICK)
        worker = threading.Thread(target=lambda: list(tuning))
        worker.start()
        answers = [tiny_model.predict(discs[0].image)]
        while worker.is_alive():
            answers.append(tiny_model.predict(discs[0].image))
        worker.join()
        assert all(np.array_equal(answer, expected) for answer in answers)
        assert tuning.candidate().rounds

    def test_ends_early_when_it_gets_no_better(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        still = {"decoder_lr": 1e-12, "freeze_norm": True, "patience": 0.2, "rounds": 9}
        config = QUICK.model_copy(update=still)
        assert len(list(fine_tune(tiny_model, discs, config))) == 3

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to ...")])
    def test_out_of_memory_is_explained(
        self, tiny_model: Model, discs: list[CachedPair], monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK)
        tuning.prepare()

        def fail(*_: object) -> float:
            raise error

        monkeypatch.setattr(Learner, "step", fail)
        with pytest.raises(TrainingError, match="not enough memory"):
            list(tuning)

    def test_other_errors_are_not_hidden(
        self, tiny_model: Model, discs: list[CachedPair], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Learner, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(fine_tune(tiny_model, discs, QUICK))


class TestBudget:
    @pytest.fixture
    def ticking(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
        """A clock that moves when a step is taken or an image measured, and when told to."""
        now = [0.0]
        step, predict = Learner.step, Model.predict

        def slow_step(*arguments: object) -> float:
            now[0] += 1.0
            return step(*arguments)  # type: ignore[arg-type]

        def slow_predict(*arguments: object, **settings: object) -> object:
            now[0] += 0.1
            return predict(*arguments, **settings)  # type: ignore[arg-type]

        def wait(seconds: float) -> None:
            now[0] += seconds

        monkeypatch.setattr("time.monotonic", lambda: now[0])
        monkeypatch.setattr(Learner, "step", slow_step)
        monkeypatch.setattr(Model, "predict", slow_predict)
        return wait

    @pytest.mark.parametrize("seconds", [20.0, 40.0])
    def test_the_plan_and_the_run_keep_to_the_budget(
        self, tiny_model: Model, discs: list[CachedPair], ticking: Callable[[float], None], seconds: float
    ) -> None:
        config = QUICK.model_copy(update={"epochs": 1000, "max_seconds": seconds})
        tuning = fine_tune(tiny_model, discs, config)
        plan = tuning.prepare()
        assert plan.step_seconds == 1
        assert 0.8 * seconds < plan.seconds <= seconds
        list(tuning)
        spent = tuning.candidate().model.card.training["seconds"]
        assert 0.8 * seconds < spent <= seconds

    def test_a_slow_machine_takes_fewer_steps(
        self, tiny_model: Model, discs: list[CachedPair], ticking: Callable[[float], None]
    ) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK.model_copy(update={"epochs": 1000, "max_seconds": 60}))
        plan = tuning.prepare()
        step = Learner.step

        def slower(*arguments: object) -> float:
            ticking(1.0)
            return step(*arguments)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "step", slower)
            results = list(tuning)
        assert results[-1].step < plan.steps
        assert tuning.candidate().model.card.training["seconds"] <= 63

    def test_pauses_do_not_count(
        self, tiny_model: Model, discs: list[CachedPair], ticking: Callable[[float], None]
    ) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK.model_copy(update={"max_seconds": 40}))
        plan = tuning.prepare()
        for _ in tuning.steps():
            ticking(1000.0)
        assert tuning.candidate().model.card.training["steps"] == plan.steps

    def test_too_small_a_budget_gives_one_step(
        self, tiny_model: Model, discs: list[CachedPair], ticking: Callable[[float], None]
    ) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK.model_copy(update={"max_seconds": 0.1}))
        assert [result.step for result in tuning] == [2]

    def test_one_thread_when_others_want_the_cores(
        self, tiny_model: Model, discs: list[CachedPair], ticking: Callable[[float], None]
    ) -> None:
        torch_threads = torch.get_num_threads()
        tuning = fine_tune(tiny_model, discs, QUICK.model_copy(update={"num_threads": 2}))
        tuning.prepare()
        seen = []

        def crowded(*_: object) -> float:
            ticking(9.0)
            seen.append(torch.get_num_threads())
            return 0.0

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "step", crowded)
            list(tuning)
        assert (seen[0], seen[-1]) == (2, 1)
        assert torch.get_num_threads() == torch_threads

    @pytest.mark.parametrize(("busy", "kept"), [(True, 1), (False, 3)])
    def test_threads_are_those_that_are_quicker(
        self,
        tiny_model: Model,
        discs: list[CachedPair],
        ticking: Callable[[float], None],
        monkeypatch: pytest.MonkeyPatch,
        busy: bool,
        kept: int,
    ) -> None:
        """On a busy computer, reading and measuring with several threads took longer than the budget."""
        seen = {"predict": set[int](), "step": set[int]()}

        def step(*_: object) -> float:
            threads = torch.get_num_threads()
            seen["step"].add(threads)
            ticking(10.0 if busy and threads > 1 else 1 / threads)
            return 0.0

        def predict(model: Model, pair: CachedPair, **_: object) -> ScoredPrediction:
            seen["predict"].add(torch.get_num_threads())
            return predict_pair(model, pair)

        monkeypatch.setattr(Learner, "step", step)
        monkeypatch.setattr(session, "predict_pair", predict)
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            tuning = FineTuning(tiny_model, discs, QUICK, workers=NoWorkers())
            tuning.prepare()
            assert seen == {"predict": {1}, "step": {1, 3}}
            seen["step"].clear()
            list(tuning)
            assert seen["step"] == {kept}
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)

    def test_one_that_is_given_up_leaves_the_threads_alone(
        self, tiny_model: Model, discs: list[CachedPair]
    ) -> None:
        """It set the number of the caller whenever it was deleted, in the middle of the caller's work."""
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            tuning = fine_tune(tiny_model, discs, QUICK.model_copy(update={"num_threads": 1}))
            tuning.prepare()
            assert torch.get_num_threads() == 3
            torch.set_num_threads(2)
            del tuning
            gc.collect()
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)


class NoWorkers:
    """A computer on which no process can be started."""

    def begin(self, *_: object) -> bool:
        return False

    def close(self) -> None:
        pass


class TestContinuing:
    def interrupted(self, model: Model, discs: list[CachedPair], path: Path) -> list[EpochResult]:
        """Train, and stop working somewhere in the third round, as a crash would."""
        tuning = fine_tune(model, discs, QUICK, state_path=path)
        done = [next(tuning), next(tuning)]
        next(tuning.steps())
        tuning.close()
        return done

    def test_same_curve_as_without_interruption(
        self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path
    ) -> None:
        whole = fine_tune(tiny_model, discs, QUICK)
        expected = list(whole)
        path = tmp_path / "run.state.safetensors"
        done = self.interrupted(tiny_model, discs, path)
        again = fine_tune(tiny_model, discs, QUICK, state_path=path, resume=True)
        rest = list(again)
        assert curve(done + rest) == curve(expected)
        assert curve(list(again.candidate().rounds)) == curve(expected)
        assert same_weights(weights(again.candidate().model), weights(whole.candidate().model))

    def test_killed_in_the_middle(self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path) -> None:
        path = tmp_path / "run.state.safetensors"
        script = Path(__file__).with_name("killed_finetuning.py")
        arguments = [sys.executable, str(script), QUICK.model_dump_json(), str(path)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            told = [json.loads(process.stdout.readline()) for _ in range(2)]  # type: ignore[union-attr]
            process.stdout.readline()  # type: ignore[union-attr]  # a step of the third round
            process.send_signal(signal.SIGKILL)
        expected = fine_tune(tiny_model, discs, QUICK)
        losses = [result.loss for result in expected]
        assert told == pytest.approx(losses[:2], abs=1e-6)
        again = fine_tune(tiny_model, discs, QUICK, state_path=path, resume=True)
        assert [result.loss for result in again] == pytest.approx(losses[2:], abs=1e-6)
        for name, tensor in weights(again.candidate().model).items():
            torch.testing.assert_close(tensor, weights(expected.candidate().model)[name])

    def test_a_checkpoint_can_be_found_and_deleted(
        self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path
    ) -> None:
        path = tmp_path / "run.state.safetensors"
        assert find_checkpoint(path) is None
        self.interrupted(tiny_model, discs, path)
        state = find_checkpoint(path)
        assert state is not None
        assert len(state.images) == 5
        assert len(state.rounds) == 2
        assert 0.5 < state.progress < 1
        assert "disc" not in state.model_dump_json()
        tuning = fine_tune(tiny_model, discs, QUICK, state_path=path, resume=True)
        list(tuning)
        tuning.delete_checkpoint()
        assert not path.exists()
        tuning.delete_checkpoint()

    def test_finished_but_not_compared(
        self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path
    ) -> None:
        path = tmp_path / "run.state.safetensors"
        first = fine_tune(tiny_model, discs, QUICK, state_path=path)
        expected = list(first)
        again = fine_tune(tiny_model, discs, QUICK, state_path=path, resume=True)
        assert list(again) == []
        assert curve(list(again.candidate().rounds)) == curve(expected)
        assert same_weights(weights(again.candidate().model), weights(first.candidate().model))

    def test_later_images_are_left_for_the_next_time(
        self, tiny_model: Model, discs: list[CachedPair], disc: Callable[..., CachedPair], tmp_path: Path
    ) -> None:
        path = tmp_path / "run.state.safetensors"
        self.interrupted(tiny_model, discs, path)
        again = fine_tune(tiny_model, [disc(50), *reversed(discs)], QUICK, state_path=path, resume=True)
        expected = list(fine_tune(tiny_model, discs, QUICK))
        assert curve(list(again)) == curve(expected)[2:]

    def test_image_corrected_again(self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path) -> None:
        path = tmp_path / "run.state.safetensors"
        self.interrupted(tiny_model, discs, path)
        discs[0] = discs[0]._replace(labels=np.zeros_like(discs[0].labels))
        with pytest.raises(TrainingError, match="1 of the 5 images"):
            list(fine_tune(tiny_model, discs, QUICK, state_path=path, resume=True))

    def test_other_model_or_settings_or_nothing(
        self, tiny_model: Model, new_model: Callable[..., Model], discs: list[CachedPair], tmp_path: Path
    ) -> None:
        path = tmp_path / "run.state.safetensors"
        self.interrupted(tiny_model, discs, path)
        with pytest.raises(TrainingError, match="another model"):
            fine_tune(new_model(seed=1), discs, QUICK, state_path=path, resume=True)
        with pytest.raises(TrainingError, match="other settings"):
            fine_tune(tiny_model, discs, state_path=path, resume=True)
        with pytest.raises(TrainingError, match="can be resumed"):
            fine_tune(tiny_model, discs, QUICK, state_path=tmp_path / "none", resume=True)
        with pytest.raises(TrainingError, match="where"):
            fine_tune(tiny_model, discs, QUICK, resume=True)

    def test_damaged_state(self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path) -> None:
        path = tmp_path / "run.state.safetensors"
        self.interrupted(tiny_model, discs, path)
        path.write_bytes(path.read_bytes()[:-100])
        assert find_checkpoint(path) is None
        with pytest.raises(TrainingError):
            fine_tune(tiny_model, discs, QUICK, state_path=path, resume=True)

    def test_a_full_disk_does_not_stop_the_training(
        self, tiny_model: Model, discs: list[CachedPair], tmp_path: Path
    ) -> None:
        tuning = fine_tune(tiny_model, discs, QUICK, state_path=tmp_path / "no folder" / "run.safetensors")
        assert len(list(tuning)) == 3
        assert tuning.candidate().comparison is not None
        assert len(tuning.problems) == 1
        assert "cannot be saved" in tuning.problems[0]
