from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.config import AugmentConfig, ExpertConfig, FineTuneConfig
from napari_lesionseg.finetuning.domain_shift import (
    FEWEST_IMAGES,
    ExpertAssignment,
    assign_expert,
    measure_domain,
)
from napari_lesionseg.finetuning.session import FineTuning, fine_tune
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.lite_unet import LiteUNet
from napari_lesionseg.models.mixture import ARCHITECTURE, DomainStatistics, ExpertNetwork, count_experts
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.trainer import EpochResult

SIDE = 64
OWN = ExpertConfig(interpolations=(1.0,), refit=1.0, size_fraction=1.0, click_fraction=0.0)
QUICK = FineTuneConfig(
    epochs=6,
    rounds=2,
    folds=2,
    batch_size=2,
    patience=1.0,
    encoder_lr=1e-3,
    decoder_lr=1e-2,
    freeze_norm=False,
    click_fraction=0.0,
    precision="float32",
    augment=AugmentConfig(artifacts=0, blur=0),
    expert=OWN,
)


def draw(number: int) -> CachedPair:
    """Draw a bright disc on noisy dark ground: the domain that the model was trained on."""
    rng = np.random.default_rng(number)
    rows, cols = np.ogrid[:SIDE, :SIDE]
    row, col, radius = rng.uniform(24, 40), rng.uniform(24, 40), rng.uniform(10, 18)
    inside = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
    image = rng.integers(20, 60, (SIDE, SIDE, 3)) + 150 * inside[..., None]
    return CachedPair(f"disc-{number}", image.astype(np.uint8), inside.astype(np.uint8))


def draw_other(number: int) -> CachedPair:
    """Draw the same disc in other colors: an image of another domain."""
    pair, rng = draw(number), np.random.default_rng((number, 2))
    colors = np.where(pair.labels[..., None] > 0, [220, 180, 170], [120, 60, 180])
    image = (colors + rng.integers(-20, 20, pair.image.shape)).astype(np.uint8)
    return CachedPair(f"other-{number}", image, pair.labels)


def draw_third(number: int) -> CachedPair:
    """Draw it with five times the noise."""
    pair = draw(number)
    noise = np.random.default_rng((number, 1)).integers(-110, 110, pair.image.shape)
    image = (pair.image + noise).clip(0, 255).astype(np.uint8)
    return CachedPair(f"third-{number}", image, pair.labels)


@pytest.fixture(scope="module")
def model() -> Model:
    """A model whose card says what discs look like, as if it had been trained on them."""
    torch.manual_seed(1)
    card = ModelCard(name="discs", working_size=SIDE)
    plain = Model(LiteUNet(), card, "cpu", precision="float32")
    domain = measure_domain(plain, (draw(number).image for number in range(100, 200)))
    return Model(plain.network, card.model_copy(update={"domain": domain}), "cpu", precision="float32")


@pytest.fixture(scope="module")
def others() -> list[CachedPair]:
    return [draw_other(number) for number in range(6)]


@pytest.fixture(scope="module")
def tuned(model: Model, others: list[CachedPair]) -> FineTuning:
    return finished(fine_tune(model, others, QUICK))


def finished(tuning: FineTuning) -> FineTuning:
    list(tuning)
    return tuning


class TestAssignment:
    def find(self, model: Model, pairs: list[CachedPair], config: FineTuneConfig = QUICK) -> int:
        described = {pair.stem: model.describe(pair.image) for pair in pairs}
        stems = [pair.stem for pair in pairs]
        folds = [(stems[::2], stems[1::2]), (stems[1::2], stems[::2])]
        return assign_expert(model, folds, described, config).expert_index  # type: ignore[arg-type]

    def test_a_new_domain_gets_an_expert(self, model: Model, others: list[CachedPair]) -> None:
        assert self.find(model, others) == 1

    def test_the_known_domain_does_not(self, model: Model) -> None:
        assert self.find(model, [draw(number) for number in range(8)]) == 0

    def test_no_expert_if_turned_off_or_without_statistics(
        self, model: Model, others: list[CachedPair]
    ) -> None:
        assert self.find(model, others, QUICK.model_copy(update={"expert": None})) == 0
        unknown = Model(model.network, model.card.model_copy(update={"domain": None}), "cpu")
        assert self.find(unknown, others) == 0

    def test_no_expert_for_few_or_foreign_statistics(self, model: Model, others: list[CachedPair]) -> None:
        domain = model.card.domain
        assert domain is not None
        few = domain.model_copy(update={"images": FEWEST_IMAGES - 1})
        foreign = DomainStatistics(images=1000, mean=(0.0,), covariance=(1.0,))
        for known in (few, foreign):
            card = model.card.model_copy(update={"domain": known})
            assert self.find(Model(model.network, card, "cpu"), others) == 0

    def test_stages_that_describe_images_are_frozen(self, model: Model) -> None:
        learning = QUICK.model_copy(update={"frozen_stages": 0})
        assert ExpertAssignment(domain=model.card.domain).settings(learning, SIDE).frozen_stages == 2
        assert ExpertAssignment().settings(learning, SIDE).frozen_stages == 0
        assert (
            ExpertAssignment(expert_index=1, domain=model.card.domain).settings(learning, SIDE).frozen_stages
            == 0
        )

    def test_a_single_image_gets_no_expert(self, model: Model, others: list[CachedPair]) -> None:
        described = {others[0].stem: model.describe(others[0].image)}
        found = assign_expert(model, [([others[0].stem], [])], described, QUICK)  # type: ignore[arg-type]
        assert found.expert_index == 0

    def test_a_network_that_cannot_describe_images(self, tiny_model: Model, discs: list[CachedPair]) -> None:
        assert measure_domain(tiny_model, (disc.image for disc in discs)) is None
        assert fine_tune(tiny_model, discs, QUICK).prepare().new_domain_images is None


class TestLearning:
    def test_predictions_for_the_old_domain_do_not_change(
        self, model: Model, tuned: FineTuning, others: list[CachedPair]
    ) -> None:
        new, old_kind, new_kind = tuned.candidate().model, draw(50).image, draw_other(51).image
        assert tuned.plan is not None
        assert tuned.plan.new_domain_images == len(others)
        assert new.card.arch == ARCHITECTURE
        np.testing.assert_array_equal(new.predict(old_kind), model.predict(old_kind))
        assert not np.array_equal(new.predict(new_kind), model.predict(new_kind))

    def test_all_images_are_learned_from_at_the_end(
        self, tuned: FineTuning, others: list[CachedPair]
    ) -> None:
        candidate, plan = tuned.candidate(), tuned.plan
        assert plan is not None
        assert candidate.offered
        assert candidate.interpolation == OWN.refit_interpolation
        assert candidate.model.card.training["steps"] == plan.steps
        assert candidate.model.card.training["expert"] == 1
        copies_steps = plan.rounds * plan.folds * -(-candidate.rounds[0].step // plan.folds)
        assert plan.steps > copies_steps
        assert [r.validation is None for r in candidate.rounds[plan.rounds :]] == [True] * 3
        assert [r.epoch for r in candidate.rounds] == list(range(1, len(candidate.rounds) + 1))
        assert candidate.comparison is not None
        assert len(candidate.comparison.images) == len(others)

    def test_stopping_skips_the_refit(self, model: Model, others: list[CachedPair]) -> None:
        tuning = fine_tune(model, others, QUICK)
        next(tuning)
        tuning.stop()
        list(tuning)
        assert all(result.validation for result in tuning.candidate().rounds)
        assert tuning.candidate().interpolation in OWN.interpolations

    def test_an_expert_can_be_saved_and_trained_further(self, tuned: FineTuning, tmp_path: Path) -> None:
        tuned.candidate().save(tmp_path / "two.safetensors")
        two = load_model(tmp_path / "two.safetensors", "cpu")
        assert isinstance(two.network, ExpertNetwork)
        more = finished(fine_tune(two, [draw_other(number) for number in range(20, 26)], QUICK))
        network = more.candidate().model.network
        assert count_experts(network) == 2
        assert isinstance(network, ExpertNetwork)
        for name, tensor in two.network.expert(0).state_dict().items():
            assert torch.equal(tensor, network.expert(0).state_dict()[name])
        changed = network.expert(1).state_dict()["head.weight"]
        assert not torch.equal(changed, two.network.expert(1).state_dict()["head.weight"])

    def test_a_third_domain_gets_a_third_expert(self, tuned: FineTuning, others: list[CachedPair]) -> None:
        noisy = [draw_third(number) for number in range(6)]
        third = finished(fine_tune(tuned.candidate().model, noisy, QUICK)).candidate().model
        kinds = [draw(60).image, others[0].image, noisy[0].image]
        assert isinstance(third.network, ExpertNetwork)
        assert [int(third.network.choose(third.network_input(image))) for image in kinds] == [0, 1, 2]

    def test_resuming_the_refit_after_a_crash(
        self, model: Model, others: list[CachedPair], tmp_path: Path
    ) -> None:
        whole = finished(fine_tune(model, others, QUICK, state_path=tmp_path / "whole"))
        broken = fine_tune(model, others, QUICK, state_path=tmp_path / "state")
        for result in broken:
            if result.validation is None:
                break
        broken.close()
        again = fine_tune(model, others, QUICK, state_path=tmp_path / "state", resume=True)
        left = [event for event in again.steps() if isinstance(event, EpochResult)]
        assert [result.validation for result in left] == [None, None]
        expected, found = whole.candidate().model, again.candidate().model
        assert expected.card.arch == found.card.arch
        assert [r.loss for r in whole.candidate().rounds] == [r.loss for r in again.candidate().rounds]
        for name, tensor in expected.network.state_dict().items():
            assert torch.equal(tensor, found.network.state_dict()[name]), name
