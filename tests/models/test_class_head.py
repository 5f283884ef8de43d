from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models.base import SegmentationNetwork, logits_to_probability
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import Checkpoint
from napari_lesionseg.models.class_head import MAX_CLASSES, add_class, fit_classes, remove_class, with_classes
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH, LiteUNet
from napari_lesionseg.models.mixture import ExpertNetwork, count_experts
from napari_lesionseg.models.registry import ARCHITECTURES, build_network

IMAGE = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(1))
SETTINGS = {
    "unet": {"width": 4, "depth": 2},
    "segnet": {"width": 4, "depth": 2},
    "lite-unet-experts": {"experts": 2},
}
"""Of networks whose defaults are large, or do not suffice."""


def model(*classes: str, arch: str = "unet", temperature: float = 1.0) -> Checkpoint:
    torch.manual_seed(3)
    settings = SETTINGS.get(arch, {})
    card = ModelCard(
        arch=arch, arch_settings=settings, classes=classes, temperature=temperature, scores={"old": 1}
    )
    network = build_network(arch, card.out_channels, **card.arch_settings).eval()
    with torch.no_grad():
        for head in network.heads().values():
            head.weight.mul_(8)  # far from even odds
    return Checkpoint(network, card)


def probabilities(network: SegmentationNetwork, card: ModelCard) -> Tensor:
    """Of every class, background included; shape (C, H, W)."""
    with torch.inference_mode():
        found = logits_to_probability(network(IMAGE), card.temperature)[0]
    return torch.cat([1 - found, found]) if len(found) == 1 else found


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_a_second_class_keeps_what_the_first_knows(arch: str) -> None:
    old = model("skin", "lesion", arch=arch, temperature=1.7)
    new = add_class(*old, "hair", share=0.01)
    before, after = probabilities(*old), probabilities(*new)
    assert new.card.classes == ("skin", "lesion", "hair")
    assert {head.out_channels for head in new.network.heads().values()} == {3}
    torch.testing.assert_close(after[1], before[1])
    torch.testing.assert_close(after[2], 0.01 * before[0])
    torch.testing.assert_close(after[0], 0.99 * before[0])


def test_a_class_split_in_two_leaves_the_others_alone() -> None:
    old = model("skin", "nevus", "hair")
    new = add_class(*old, "melanoma", like="nevus", share=0.4)
    before, after = probabilities(*old), probabilities(*new)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    torch.testing.assert_close(after[1] + after[3], before[1])
    torch.testing.assert_close(after[3], 0.4 * before[1])


@pytest.mark.parametrize("names", [("skin", "nevus", "hair"), ("skin", "nevus", "hair", "melanoma")])
def test_a_removed_class_leaves_its_probability_to_the_others(names: tuple[str, ...]) -> None:
    old = model(*names)
    new = remove_class(*old, "nevus")
    before, after = probabilities(*old), probabilities(*new)
    kept = [index for index, name in enumerate(names) if name != "nevus"]
    assert new.card.classes == tuple(names[index] for index in kept)
    assert new.network.head.out_channels == new.card.out_channels
    torch.testing.assert_close(after, before[kept] / (1 - before[1]))


def test_added_and_removed_is_as_before() -> None:
    old = model("skin", "lesion")
    back = remove_class(*add_class(*old, "hair"), "hair")
    # the share taken from the background is not given back: its odds stay lower by 1 %
    assert back.card.classes == old.card.classes
    odds = [p[1] / p[0] for p in (probabilities(*old), probabilities(*back))]
    torch.testing.assert_close(odds[1], odds[0] / 0.99, rtol=1e-4, atol=1e-6)


def test_classes_by_name() -> None:
    old = model("skin", "nevus", "hair", "ruler")
    new = with_classes(*old, ["background", "melanoma", "ruler", "nevus"])
    before, after = probabilities(*old), probabilities(*new)
    assert new.card.classes == ("background", "melanoma", "ruler", "nevus")
    torch.testing.assert_close(after[3] / after[2], before[1] / before[3], rtol=1e-4, atol=1e-6)
    assert with_classes(*old, old.card.classes).card.classes == old.card.classes


def test_to_one_class_and_back() -> None:
    old = model("skin", "nevus", "hair")
    one = with_classes(*old, ["skin", "hair"])
    assert one.network.head.out_channels == 1
    before, after = probabilities(*old), probabilities(*one)
    torch.testing.assert_close(after[1], before[2] / (before[0] + before[2]))
    assert with_classes(*one, ["skin", "nevus"]).card.classes == ("skin", "nevus")


def test_nothing_else_changes() -> None:
    old = model("skin", "lesion")
    state = {name: tensor.clone() for name, tensor in old.network.state_dict().items()}
    new = add_class(*old, "hair")
    assert old.card.classes == ("skin", "lesion")
    for name, tensor in old.network.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert name.startswith("head.") or torch.equal(new.network.state_dict()[name], tensor)
    assert new.network is not old.network
    assert not new.network.training
    assert new.card.scores == {}  # they were those of another model


def test_a_grown_model_learns_its_new_class() -> None:
    network, _ = add_class(*model("skin", "lesion"), "hair")
    target = torch.zeros(1, 32, 48, dtype=torch.long)
    target[:, :, 24:] = 2
    image = IMAGE + 3 * (target == 2)[:, None]
    optimizer = torch.optim.Adam(network.train().parameters(), 1e-2)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = logits_to_probability(network(image).detach())[0].argmax(0).numpy()
    assert np.mean(found == target[0].numpy()) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda old: add_class(*old, "lesion"), "already"),
        (lambda old: add_class(*old, ""), "already"),
        (lambda old: add_class(*old, "hair", share=1.0), "between 0 and 1"),
        (lambda old: add_class(*old, "hair", like="ruler"), "no class 'ruler'"),
        (lambda old: remove_class(*old, "ruler"), "no class 'ruler'"),
        (lambda old: remove_class(*old, "skin"), "background"),
        (lambda old: remove_class(*old, "lesion"), "only class"),
        (lambda old: with_classes(*old, ["skin"]), "at least one class"),
        (lambda old: with_classes(*old, ["skin", "a", "a"]), "each differently"),
    ],
)
def test_impossible_changes_are_refused(change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(CheckpointError, match=message):
        change(model("skin", "lesion"))


def test_too_many_classes_are_refused() -> None:
    full = model(*(f"class {index}" for index in range(MAX_CLASSES)))
    with pytest.raises(CheckpointError, match="at most 255"):
        add_class(*full, "one more")


def test_a_model_under_another_name_of_its_class_says_the_same() -> None:
    old = model("skin", "lesion")
    new = fit_classes(*old, ["skin", "nevus"])
    assert new.card.classes == ("skin", "nevus")
    torch.testing.assert_close(probabilities(*new), probabilities(*old))


def test_new_classes_share_what_the_one_that_goes_had_learned() -> None:
    old = model("skin", "lesion")
    new = fit_classes(*old, ["skin", "nevus", "melanoma"])
    before, after = probabilities(*old), probabilities(*new)
    torch.testing.assert_close(after[1], after[2])
    share = before[1] / 3
    torch.testing.assert_close(after[1], share / (1 - share))
    torch.testing.assert_close(after.sum(0), torch.ones_like(after[0]))


def test_classes_beside_those_that_stay_begin_small() -> None:
    old = model("skin", "lesion")
    new = fit_classes(*old, ["skin", "lesion", "hair"])
    torch.testing.assert_close(probabilities(*new)[1], probabilities(*old)[1])
    assert (probabilities(*new)[2] <= 0.01).all()
    assert fit_classes(*new, ["skin", "lesion"]).card.out_channels == 1
    with pytest.raises(CheckpointError, match="another name"):
        fit_classes(*old, ["skin", "hair", "hair"])


# ------------------------------------------------------------------------------------------ experts


@pytest.fixture(scope="module")
def experts() -> Checkpoint:
    """Two experts that answer differently, and a gate whose numbers are known again."""
    made = model("skin", "lesion", arch="lite-unet-experts", temperature=1.3)
    assert isinstance(made.network, ExpertNetwork)
    made.network.gate.weight.copy_(torch.linspace(-1, 1, DESCRIPTION_LENGTH))
    made.network.gate.bias.fill_(-0.25)
    return made


def alone(made: Checkpoint) -> list[Tensor]:
    """What each expert says; shape (C, H, W) each."""
    assert isinstance(made.network, ExpertNetwork)
    places = range(count_experts(made.network))
    return [probabilities(made.network.expert(place), made.card) for place in places]


def check_gate_kept(new: Checkpoint, old: Checkpoint) -> None:
    assert isinstance(new.network, ExpertNetwork)
    assert isinstance(old.network, ExpertNetwork)
    assert torch.equal(new.network.gate.weight, old.network.gate.weight)
    assert torch.equal(new.network.gate.bias, old.network.gate.bias)
    assert (new.card.arch, new.card.arch_settings) == (old.card.arch, old.card.arch_settings)


def test_every_expert_learns_of_a_class_that_is_added(experts: Checkpoint) -> None:
    new = add_class(*experts, "hair", share=0.2)
    check_gate_kept(new, experts)
    before, after = alone(experts), alone(new)
    assert not torch.allclose(before[0], before[1], atol=1e-3)
    for old, grown in zip(before, after, strict=True):
        torch.testing.assert_close(grown, torch.stack([0.8 * old[0], old[1], 0.2 * old[0]]))


def test_every_expert_forgets_a_class_that_is_removed(experts: Checkpoint) -> None:
    grown = add_class(*experts, "hair", share=0.2)
    back = remove_class(*grown, "lesion")
    check_gate_kept(back, experts)
    assert back.card.classes == ("skin", "hair")
    for three, two in zip(alone(grown), alone(back), strict=True):
        torch.testing.assert_close(two, three[[0, 2]] / (1 - three[1]))


def test_every_expert_is_brought_to_somebodys_classes(experts: Checkpoint) -> None:
    fitted = fit_classes(*experts, ["skin", "nevus", "melanoma"])
    check_gate_kept(fitted, experts)
    for old, new in zip(alone(experts), alone(fitted), strict=True):
        share = old[1] / 3
        torch.testing.assert_close(new[1], new[2])
        torch.testing.assert_close(new[1], share / (1 - share))
    turned = with_classes(*fitted, ["skin", "melanoma", "nevus"])
    check_gate_kept(turned, experts)
    for old, new in zip(alone(fitted), alone(turned), strict=True):
        torch.testing.assert_close(new, old[[0, 2, 1]])


def test_the_part_for_prompts_stays_when_a_class_is_added() -> None:
    network = LiteUNet(prompts=1).eval()
    card = ModelCard(arch_settings={"prompts": 1})
    grown, new_card = add_class(network, card, "mole")
    part, same = network.for_prompts(), grown.for_prompts()
    assert new_card.arch_settings == {"prompts": 1}
    assert part is not None
    assert same is not None
    assert all(torch.equal(same.state_dict()[name], tensor) for name, tensor in part.state_dict().items())
