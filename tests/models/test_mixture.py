from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH, LiteUNet
from napari_lesionseg.models.mixture import (
    ARCHITECTURE,
    GATE_THRESHOLD,
    MAX_EXPERTS,
    Direction,
    DomainGate,
    DomainStatistics,
    ExpertNetwork,
    card_with_experts,
    count_experts,
    expert_at,
    with_expert,
)
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import ByteImage, Click

CARD = ModelCard(name="test", working_size=64)
SIDE = 64


def lite_unet(seed: int, channels: int = 1) -> SegmentationNetwork:
    """Make an untrained network whose answers are its own, and that feels clicks."""
    torch.manual_seed(seed)
    network = build_network("lite-unet", channels).eval()
    for projection in network.guidance.projections:
        nn.init.normal_(projection.weight, std=0.5)
    nn.init.normal_(network.head.weight)
    return network


def kinds(each: int = 2) -> list[ByteImage]:
    """Images of three kinds, by turns: as they are drawn, dark, and blue."""
    images = []
    for number in range(each):
        plain = synthetic_sample(number, (56, 77)).image
        images += [plain, plain // 5, plain[..., ::-1].copy()]
    return images


def views(images: list[ByteImage], network: SegmentationNetwork) -> Tensor:
    """Bring images of one size to what the network sees of them; (B, 3, h, w)."""
    return torch.cat([Model(network, CARD, "cpu").network_input(image) for image in images])


@pytest.fixture(scope="module")
def first() -> SegmentationNetwork:
    return lite_unet(1)


@pytest.fixture(scope="module")
def network(first: SegmentationNetwork) -> ExpertNetwork:
    """Three experts: the first one, one for dark images and one for blue ones."""
    model = Model(first, CARD, "cpu")
    described = [model.describe(synthetic_sample(seed, (56, 77)).image) for seed in range(100, 160)]
    domain = DomainStatistics.of(np.stack(described))
    assert domain is not None
    made = first
    for kind in (1, 2):
        own = [model.describe(image) for image in kinds()[kind::3]]
        made = with_expert(made, kind, lite_unet(1 + kind), domain.direction_to(np.stack(own)))
    assert isinstance(made, ExpertNetwork)
    return made


@pytest.fixture(scope="module")
def batch(network: ExpertNetwork) -> Tensor:
    return views(kinds(), network)


@pytest.fixture(scope="module")
def guidance(batch: Tensor) -> Tensor:
    return torch.rand(batch.shape, generator=torch.Generator().manual_seed(0))


def check_same(one: nn.Module, other: nn.Module) -> None:
    """Two networks of one shape and the same numbers, in places of their own."""
    theirs = other.state_dict()
    assert one is not other
    assert one.state_dict().keys() == theirs.keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, theirs[name])
        assert tensor.data_ptr() != theirs[name].data_ptr()


def direction(value: float) -> Direction:
    full = np.full(DESCRIPTION_LENGTH, value, np.float32)
    return Direction(full, -value, full + 1, np.diag(full))


def assert_gate(gate: DomainGate, expert_index: int, kind: Direction) -> None:
    """A gate knows the kind of an expert."""
    assert np.array_equal(gate.weight[expert_index - 1], kind.weight)
    assert gate.bias[expert_index - 1] == kind.bias
    assert np.array_equal(gate.centers[expert_index - 1], kind.center)
    assert np.array_equal(gate.whitening, kind.whitening)


def rows(gate: DomainGate, expert_index: int) -> Tensor:
    """All that a gate knows of the kind of one expert."""
    return torch.cat(
        [
            gate.weight[expert_index - 1],
            gate.bias[expert_index - 1 : expert_index],
            gate.centers[expert_index - 1],
        ]
    )


# ------------------------------------------------------------------------------------------------ gate


def make_gate(*centers: float) -> DomainGate:
    """Make a gate to which the first number alone matters: kinds lie around it, training images at 0."""
    gate = DomainGate(len(centers))
    gate.centers[:, 0] = torch.tensor(centers)
    gate.weight[:, 0] = gate.centers[:, 0].sign()
    gate.whitening.zero_()
    gate.whitening[0, 0] = 1
    return gate


def described(*numbers: float) -> Tensor:
    """Descriptions whose first number counts."""
    descriptions = torch.full((len(numbers), DESCRIPTION_LENGTH), 7.0)
    descriptions[:, 0] = torch.tensor(numbers)
    return descriptions


def test_an_image_goes_to_the_expert_of_the_nearest_domain() -> None:
    gate = make_gate(4.0, 10.0, -5.0)
    assert gate(described(3, 6.9, 7.1, 50, -2.1, -50)).tolist() == [1, 1, 2, 2, 3, 3]


def test_an_image_that_is_far_in_no_direction_goes_to_the_first() -> None:
    gate = make_gate(1.0, -1.0)
    assert gate(described(GATE_THRESHOLD, -GATE_THRESHOLD, 1, -1)).tolist() == [0, 0, 0, 0]
    assert gate(described(GATE_THRESHOLD + 0.01, -GATE_THRESHOLD - 0.01)).tolist() == [1, 2]


def test_only_domains_in_whose_direction_it_is_far_count() -> None:
    gate = make_gate(4.0, 10.0)
    gate.bias[0] = -5  # the nearest is now out of the question
    assert gate(described(4.5, 6.9, 7.1)).tolist() == [2, 2, 2]


def test_nearness_is_measured_in_what_the_training_images_vary_by() -> None:
    gate = make_gate(4.0, 10.0)
    gate.centers[:, 1] = torch.tensor([9.0, 7.0])  # the second number is the second kind's
    assert gate(described(4.5)).tolist() == [1]
    gate.whitening[1, 1] = 10
    assert gate(described(4.5)).tolist() == [2]


def test_a_new_gate_gives_everything_to_the_first() -> None:
    for kinds_known in (0, 1, 3):
        assert DomainGate(kinds_known)(described(-1e9, 0, 1e9)).tolist() == [0, 0, 0]


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=6),
    st.lists(st.floats(3, 50, width=32), min_size=3, max_size=3, unique=True),
    st.permutations(range(3)),
)
def test_an_image_is_judged_alone_and_the_order_of_domains_does_not_matter(
    numbers: list[float], centers: list[float], order: list[int]
) -> None:
    # at the same distance of two kinds, the order decides
    apart = np.abs(np.subtract.outer(numbers, [centers[0], -centers[1], centers[2]])) ** 2
    assume(np.diff(np.sort(apart, axis=1), axis=1).min() > 0.01)
    gate = make_gate(centers[0], -centers[1], centers[2])
    together = gate(described(*numbers)).tolist()
    assert together == [int(gate(described(number))) for number in numbers]
    turned = make_gate(*(float(gate.centers[kind, 0]) for kind in order))
    assert [
        expert_index and order[expert_index - 1] + 1 for expert_index in turned(described(*numbers)).tolist()
    ] == together


def test_a_domain_is_added_to_a_gate() -> None:
    old = make_gate(4.0, 10.0)
    before = copy.deepcopy(old.state_dict())
    new = old.with_domain(3, direction(3.0))
    assert_gate(new, 3, direction(3.0))
    assert torch.equal(new.weight[:2], old.weight)
    assert torch.equal(new.bias[:2], old.bias)
    assert torch.equal(new.centers[:2], old.centers)
    other = new.with_domain(1, direction(5.0))
    assert_gate(other, 1, direction(5.0))
    assert torch.equal(other.weight[1:], new.weight[1:])
    assert torch.equal(other.centers[1:], new.centers[1:])
    for name, tensor in old.state_dict().items():
        assert torch.equal(tensor, before[name])


# ------------------------------------------------------------------------------------------ the network


def test_domains_are_told_apart(network: ExpertNetwork, batch: Tensor) -> None:
    with torch.inference_mode():
        assert network.choose(batch).tolist() == [0, 1, 2, 0, 1, 2]
        for expert_index, view in enumerate(batch.split(1)[:3]):
            assert network.network_for(view) is network.expert(expert_index)
        assert network.gate(network.describe(batch)).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("guided", [False, True])
def test_each_image_of_a_mixed_batch_goes_to_its_expert(
    network: ExpertNetwork, batch: Tensor, guidance: Tensor, guided: bool
) -> None:
    planes = guidance if guided else None
    with torch.inference_mode():
        together = network(batch, planes)
        for index, view in enumerate(batch.split(1)):
            own = None if planes is None else planes[index : index + 1]
            answers = [network.expert(expert_index)(view, own) for expert_index in range(3)]
            torch.testing.assert_close(together[index : index + 1], answers[index % 3], rtol=1e-4, atol=1e-4)
            others = [answers[expert_index] for expert_index in range(3) if expert_index != index % 3]
            assert all((together[index] - other).abs().max() > 0.01 for other in others)


def test_several_classes(batch: Tensor, network: ExpertNetwork) -> None:
    made = with_expert(lite_unet(1, 3), 1, lite_unet(2, 3), direction(0.0))
    assert isinstance(made, ExpertNetwork)
    made.gate.weight.copy_(network.gate.weight[:1])
    made.gate.bias.copy_(network.gate.bias[:1])
    with torch.inference_mode():
        answers = made(batch[:2])
        assert answers.shape == (2, 3, *batch.shape[-2:])
        torch.testing.assert_close(answers[1:], made.expert(1)(batch[1:2]), rtol=1e-4, atol=1e-4)


def test_made_for_inference_it_answers_the_same(
    network: ExpertNetwork, batch: Tensor, guidance: Tensor
) -> None:
    quick = network.for_inference()
    with torch.inference_mode():
        torch.testing.assert_close(quick(batch, guidance), network(batch, guidance), rtol=1e-3, atol=1e-3)
        for view in batch.split(1):
            chosen = quick.network_for(view)
            assert chosen is quick.expert(int(network.choose(view)))
    assert not any(parameter.requires_grad for parameter in quick.parameters())
    assert any(parameter.requires_grad for parameter in network.parameters())


def test_all_encoders_are_told_of(network: ExpertNetwork) -> None:
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {names[id(parameter)] for parameter in network.encoder_parameters()}
    assert found == {name for name in names.values() if ".encoder." in name}
    assert {name.split(".")[1] for name in found} == {"0", "1", "2"}
    assert list(network.heads()) == [f"experts.{expert_index}.head" for expert_index in range(3)]


@pytest.mark.parametrize("experts", [-1, 0, 1, MAX_EXPERTS + 1, 10**9])
def test_too_few_and_too_many_experts_are_refused(experts: int) -> None:
    with pytest.raises(CheckpointError, match=f"experts must be 2 to {MAX_EXPERTS}"):
        build_network(ARCHITECTURE, experts=experts)


def test_saved_and_loaded_it_is_the_same(network: ExpertNetwork, batch: Tensor, tmp_path: Path) -> None:
    path, card = tmp_path / "model.safetensors", card_with_experts(CARD, 3)
    path.write_bytes(checkpoint_bytes(network, card, half=False))
    loaded = load_checkpoint(path)
    assert loaded.card == card
    check_same(loaded.network, network)
    with torch.inference_mode():
        assert torch.equal(loaded.network(batch), network(batch))


def test_saved_in_half_the_space_the_gate_decides_as_before(network: ExpertNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(checkpoint_bytes(network, card_with_experts(CARD, 3)))
    assert path.stat().st_size < 0.6 * sum(4 * tensor.numel() for tensor in network.state_dict().values())
    loaded = load_checkpoint(path).network
    assert isinstance(loaded, ExpertNetwork)
    check_same(loaded.gate, network.gate)


def test_a_file_whose_card_counts_other_experts_is_refused(network: ExpertNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for experts in (2, 4, 99):
        path.write_bytes(checkpoint_bytes(network, card_with_experts(CARD, experts)))
        with pytest.raises(CheckpointError, match=r"does not fit its network|2 to 4"):
            load_checkpoint(path)


# ------------------------------------------------------------------------------------- putting together


def test_a_model_of_one_network_gets_a_second_expert(first: SegmentationNetwork) -> None:
    before, second = copy.deepcopy(first.state_dict()), lite_unet(2)
    made = with_expert(first, 1, second, direction(0.5))
    assert isinstance(made, ExpertNetwork)
    assert count_experts(made) == 2
    check_same(made.expert(0), first)
    check_same(made.expert(1), second)
    assert_gate(made.gate, 1, direction(0.5))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_new_expert_leaves_the_other_experts_and_domains_unchanged(network: ExpertNetwork) -> None:
    before, fourth = copy.deepcopy(network.state_dict()), lite_unet(4)
    made = with_expert(network, 3, fourth, direction(2.0))
    assert isinstance(made, ExpertNetwork)
    assert (count_experts(network), count_experts(made)) == (3, 4)
    for expert_index in range(3):
        check_same(made.expert(expert_index), network.expert(expert_index))
        assert not expert_index or torch.equal(
            rows(made.gate, expert_index), rows(network.gate, expert_index)
        )
    check_same(made.expert(3), fourth)
    assert_gate(made.gate, 3, direction(2.0))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("expert_index", [0, 1, 2])
def test_an_expert_is_replaced(network: ExpertNetwork, expert_index: int) -> None:
    newer = lite_unet(9)
    made = with_expert(network, expert_index, newer, direction(3.0))
    assert isinstance(made, ExpertNetwork)
    assert count_experts(made) == 3
    for index in range(3):
        check_same(made.expert(index), newer if index == expert_index else network.expert(index))
    for kind in (1, 2):
        if kind == expert_index:
            assert_gate(made.gate, kind, direction(3.0))
        else:
            assert torch.equal(rows(made.gate, kind), rows(network.gate, kind))


def test_without_a_direction_the_gate_stays_as_it_is(network: ExpertNetwork) -> None:
    made = with_expert(network, 1, lite_unet(9))
    assert isinstance(made, ExpertNetwork)
    check_same(made.gate, network.gate)


def test_the_first_of_one_is_all_of_it(first: SegmentationNetwork) -> None:
    newer = lite_unet(9)
    made = with_expert(first, 0, newer, direction(1.0))
    assert count_experts(made) == 1
    check_same(made, newer)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("expert_index", [0, 1])
def test_mode_and_device_are_those_of_the_network(expert_index: int, training: bool) -> None:
    with torch.device("meta"):
        old = build_network("lite-unet").train(training)
    made = with_expert(old, expert_index, build_network("lite-unet").train(not training), direction(1.0))
    assert {tensor.device.type for tensor in made.state_dict().values()} == {"meta"}
    assert {module.training for module in made.modules()} == {training}


def test_where_an_expert_goes_on_learning(first: SegmentationNetwork, network: ExpertNetwork) -> None:
    assert expert_at(first, 0) is first
    assert expert_at(first, 1) is first
    assert [expert_at(network, expert_index) for expert_index in range(3)] == list(network.experts)
    assert expert_at(network, 3) is network.expert(0)


def test_a_network_without_experts_is_used_for_all_domains(first: SegmentationNetwork) -> None:
    assert count_experts(first) == 1
    assert first.network_for(torch.zeros(1, 3, SIDE, SIDE)) is first


def test_the_card_says_how_many_experts_there_are() -> None:
    assert card_with_experts(CARD, 1) is CARD
    card = card_with_experts(CARD, 3)
    assert (card.arch, card.arch_settings) == (ARCHITECTURE, {"experts": 3})
    assert card.model_copy(update={"arch": CARD.arch, "arch_settings": {}}) == CARD


# ---------------------------------------------------------------------------------------- models of it


@pytest.mark.parametrize("turns", [False, True])
def test_images_of_the_old_domain_get_exactly_the_same_prediction(
    first: SegmentationNetwork, network: ExpertNetwork, turns: bool
) -> None:
    card = CARD.model_copy(update={"test_time_augmentation": turns, "temperature": 1.3})
    old, new = Model(first, card, "cpu"), Model(network, card_with_experts(card, 3), "cpu")
    plain, dark, _ = kinds()[:3]
    clicks = [Click(20, 30), Click(50, 70, positive=False)]
    for image, alike in ((plain, True), (dark, False)):
        before = old.predict(image)
        assert np.array_equal(new.predict(image), before) == alike
        answers = [model.predict(image, clicks, before) for model in (old, new)]
        assert np.array_equal(*answers) == alike
    assert np.array_equal(new.describe(plain), old.describe(plain))


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("kind", [1, 2])
def test_images_of_a_new_domain_are_predicted_by_its_expert(
    network: ExpertNetwork, kind: int, turns: bool
) -> None:
    card = CARD.model_copy(update={"test_time_augmentation": turns})
    alone, together = (
        Model(network.expert(kind), card, "cpu"),
        Model(network, card_with_experts(card, 3), "cpu"),
    )
    image = kinds()[kind]
    assert np.array_equal(together.predict(image), alone.predict(image))
    clicks = [Click(20, 30)]
    assert np.array_equal(together.predict(image, clicks), alone.predict(image, clicks))


def test_a_new_expert_needs_a_direction(network: ExpertNetwork) -> None:
    with pytest.raises(ValueError, match="needs a direction"):
        with_expert(network, len(network.experts), network.expert(0))
    with pytest.raises(ValueError, match="needs a direction"):
        with_expert(network.expert(0), 1, network.expert(0))


NUMBERS = 6
MIXING = np.random.default_rng(0).normal(size=(NUMBERS, NUMBERS)) * np.geomspace(5, 0.05, NUMBERS)
"""Makes descriptions of numbers that hang together, and vary by much or little."""


def draw_descriptions(images: int, seed: int, shift: float = 0) -> NDArray[np.float32]:
    """Descriptions of images of one kind; of another one, if the second number is shifted."""
    made = 3 + np.random.default_rng(seed).normal(size=(images, NUMBERS)) @ MIXING.T
    made[:, 1] += shift
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def training() -> NDArray[np.float32]:
    return draw_descriptions(2000, seed=1)


@pytest.fixture(scope="module")
def domain(training: NDArray[np.float32]) -> DomainStatistics:
    found = DomainStatistics.of(training)
    assert found is not None
    return found


def covariance(domain: DomainStatistics) -> NDArray[np.float64]:
    """Put the triangle together again, row by row."""
    size, given = len(domain.mean), iter(domain.covariance)
    matrix = np.zeros((size, size))
    for row in range(size):
        for column in range(row + 1):
            matrix[row, column] = matrix[column, row] = next(given)
    return matrix


# ------------------------------------------------------------------------------------------ statistics


def test_mean_and_covariance_are_those_of_the_images(
    training: NDArray[np.float32], domain: DomainStatistics
) -> None:
    assert domain.images == 2000
    exact = training.astype(np.float64)
    np.testing.assert_allclose(domain.mean, exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(covariance(domain), np.cov(exact.T), rtol=1e-5)


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(-1e3, 1e3))
def test_any_number_of_images_and_numbers(images: int, numbers: int, seed: int, middle: float) -> None:
    made = np.random.default_rng(seed).normal(middle, 1, (images, numbers)).astype(np.float32)
    found = DomainStatistics.of(made)
    assert found is not None
    exact = made.astype(np.float64)
    np.testing.assert_allclose(found.mean, exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(covariance(found), np.atleast_2d(np.cov(exact.T)), rtol=1e-5)
    assert np.isfinite(found.direction_to(made + 1).distances(made)).all()


def test_too_few_images_have_no_statistics() -> None:
    assert DomainStatistics.of(draw_descriptions(0, seed=2)) is None
    assert DomainStatistics.of(draw_descriptions(1, seed=2)) is None
    assert DomainStatistics.of(draw_descriptions(2, seed=2)) is not None


def test_a_number_that_is_the_same_for_all_images_has_no_spread() -> None:
    made = draw_descriptions(20, seed=2)
    made[:, 3] = 0.1
    assert DomainStatistics.of(made) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"covariance": (1.0, 0.0)}, "lower triangle"),
        ({"covariance": (1.0, 0.0, 1.0, 0.0)}, "lower triangle"),
        ({"covariance": (1.0, 0.0, 0.0)}, "positive"),
        ({"covariance": (-1.0, 0.0, 1.0)}, "positive"),
        ({"covariance": (1.0, 2.0, 1.0)}, "semidefinite"),
        ({"covariance": (1.0, float("nan"), 1.0)}, "finite"),
        ({"mean": (0.0, float("inf"))}, "finite"),
        ({"mean": (), "covariance": ()}, "at least 1"),
        ({"mean": (0.0,) * 1001}, "at most 1000"),
        ({"images": 1}, "greater than or equal to 2"),
        ({"median": (0.0, 0.0)}, "not permitted"),
    ],
)
def test_what_cannot_be_statistics_is_refused(settings: dict[str, object], reason: str) -> None:
    good = {"images": 2, "mean": (0.0, 0.0), "covariance": (1.0, 0.5, 1.0)}
    assert DomainStatistics.model_validate(good).images == 2
    with pytest.raises(ValidationError, match=reason):
        DomainStatistics.model_validate(good | settings)


def test_statistics_come_back_from_a_card(domain: DomainStatistics) -> None:
    card = ModelCard(domain=domain)
    back = ModelCard.model_validate_json(card.model_dump_json())
    assert back == card
    assert back.domain == domain
    other = draw_descriptions(5, seed=3, shift=10)
    before, after = domain.direction_to(other), (back.domain or pytest.fail("lost")).direction_to(other)
    assert np.array_equal(before.weight, after.weight)
    assert before.bias == after.bias


def test_a_card_with_impossible_statistics_is_refused(domain: DomainStatistics) -> None:
    text = ModelCard(domain=domain).model_dump_json().replace('"mean":[', '"mean":[NaN,', 1)
    assert "NaN" in text
    with pytest.raises(ValidationError):
        ModelCard.model_validate_json(text)


# ------------------------------------------------------------------------------------------- directions


def test_distances_are_in_standard_deviations_of_the_training_images(
    training: NDArray[np.float32], domain: DomainStatistics
) -> None:
    for seed in range(5):
        direction = domain.direction_to(draw_descriptions(4, seed=10 + seed, shift=seed))
        distances = direction.distances(training)
        assert distances.shape == (2000,)
        assert distances.dtype == direction.weight.dtype == np.float32
        assert abs(distances.mean()) < 1e-3
        assert distances.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("images", [1, 5, 30])
def test_only_images_of_another_domain_are_far(domain: DomainStatistics, images: int) -> None:
    spread = np.sqrt(covariance(domain)[1, 1])
    direction = domain.direction_to(draw_descriptions(images, seed=4, shift=6 * spread))
    others, same = draw_descriptions(300, seed=5, shift=6 * spread), draw_descriptions(300, seed=6)
    assert (direction.distances(others) > GATE_THRESHOLD).mean() > 0.95
    assert (direction.distances(same) > GATE_THRESHOLD).mean() < 0.06


def test_distances_take_correlations_into_account() -> None:
    # two numbers that always agree: an image in which they differ by little is as strange as can be
    both = np.random.default_rng(7).normal(size=(1000, 1))
    made = np.hstack([both, both + 0.1 * np.random.default_rng(8).normal(size=(1000, 1))]).astype(np.float32)
    domain = DomainStatistics.of(made)
    assert domain is not None
    strange = np.array([[-0.5, 0.5]], np.float32)
    assert domain.direction_to(strange).distances(strange)[0] > 5
    plain = np.array([[0.5, 0.5]], np.float32)
    assert domain.direction_to(plain).distances(plain)[0] < 1


def test_images_in_the_middle_of_the_training_images_are_in_no_direction(
    training: NDArray[np.float32], domain: DomainStatistics
) -> None:
    direction = domain.direction_to(np.array([domain.mean]))
    assert not direction.distances(training).any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0.01, 100))
def test_the_scale_of_a_number_does_not_matter(seed: int, images: int, scale: float) -> None:
    training, other = draw_descriptions(50, seed=1), draw_descriptions(images, seed=seed, shift=4)
    factors = np.array([1, scale, 1, 1 / scale, 1, 1], np.float32)
    plain, scaled = DomainStatistics.of(training), DomainStatistics.of(training * factors)
    assert plain is not None
    assert scaled is not None
    expected = plain.direction_to(other).distances(other)
    assume(np.abs(expected).min() > 0.1)
    found = scaled.direction_to(other * factors).distances(other * factors)
    np.testing.assert_allclose(found, expected, rtol=0.02)


@pytest.mark.parametrize("images", [2, 3, NUMBERS])
@pytest.mark.parametrize("seed", range(8))
def test_fewer_images_than_numbers_give_finite_distances(images: int, seed: int) -> None:
    # their covariance is singular, and rounded to a few digits it may have negative variances
    domain = DomainStatistics.of(draw_descriptions(images, seed=20 + seed))
    assert domain is not None
    other = draw_descriptions(3, seed=40 + seed)
    assert np.isfinite(domain.direction_to(other).distances(other)).all()


def test_only_the_first_expert_keeps_its_part_for_prompts() -> None:
    torch.manual_seed(0)
    plain = LiteUNet(prompts=1).eval()
    mixture = with_expert(plain, 1, copy.deepcopy(plain), direction(1.0))
    card = card_with_experts(ModelCard(arch_settings={"prompts": 1}), 2)
    rebuilt = build_network(card.arch, card.out_channels, **card.arch_settings)
    rebuilt.load_state_dict(mixture.state_dict())
    assert isinstance(rebuilt, ExpertNetwork)
    assert rebuilt.expert(0).for_prompts() is not None
    assert rebuilt.expert(1).for_prompts() is None
    assert expert_at(plain, 1).for_prompts() is None  # what the training of a new expert starts from
    assert plain.for_prompts() is not None
