from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import napari_lesionseg as ls
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import (
    CheckpointError,
    DeviceError,
    ImageError,
    ModelNotFoundError,
    SettingsError,
)
from napari_lesionseg.inference import predictor
from napari_lesionseg.inference.predictor import Model, load_model, segment
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH, LiteUNet
from napari_lesionseg.models.mixture import (
    GATE_THRESHOLD,
    Direction,
    ExpertNetwork,
    card_with_experts,
    with_expert,
)
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import ByteImage, Click

CARD = ModelCard(name="test", working_size=64)


def guided_network(channels: int = 1) -> SegmentationNetwork:
    """The default network, untrained, with guidance that is felt."""
    torch.manual_seed(2)
    network = build_network("lite-unet", channels)
    for projection in network.guidance.projections:
        nn.init.normal_(projection.weight, std=0.5)
    nn.init.normal_(network.head.weight)
    return network


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    return guided_network()


@pytest.fixture(scope="module")
def model(network: SegmentationNetwork) -> Model:
    return Model(network, CARD, "cpu", precision="float32")


@pytest.fixture(scope="module")
def image() -> ByteImage:
    return np.random.default_rng(0).integers(0, 256, (56, 77, 3), np.uint8)


def random_image(height: int, width: int) -> ByteImage:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (2, 3), (31, 33), (64, 64), (57, 200)])
def test_the_answer_has_the_size_of_the_image(model: Model, shape: tuple[int, int]) -> None:
    probability = model.predict(random_image(*shape))
    assert probability.shape == shape
    assert probability.dtype == np.float32
    assert probability.min() >= 0
    assert probability.max() <= 1


def test_classes(image: ByteImage) -> None:
    card = CARD.model_copy(update={"classes": ("skin", "nevus", "melanoma")})
    model = Model(guided_network(3), card, "cpu", precision="float32")
    probability = model.predict(image, [Click(10, 10), Click(40, 40, False)])
    assert probability.shape == (3, 56, 77)
    np.testing.assert_allclose(probability.sum(axis=0), 1, atol=1e-5)
    assert probability[0, 10, 10] == 0
    assert probability[0, 40, 40] == 1
    labels = segment(image, model, clicks=[Click(10, 10), Click(40, 40, False)])
    assert labels[10, 10] in (1, 2)
    assert labels[40, 40] == 0
    assert model.predict(image, previous=probability).shape == (3, 56, 77)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((5, 5, 3), np.uint16),
        np.zeros((2, 5, 5, 3), np.uint8),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(model: Model, array: ByteImage) -> None:
    with pytest.raises(ImageError, match=r"height, width, 3.*to_byte_image"):
        model.predict(array)


@pytest.mark.parametrize("image", ["image.jpg", Path("image.jpg"), None, [[[0, 0, 0]]]])
def test_what_is_no_array_is_refused_with_the_function_that_reads_files(model: Model, image: Any) -> None:
    with pytest.raises(ImageError, match=r"must be an array.*read_image"):
        segment(image, model)


def test_an_image_without_pixels_is_refused(model: Model) -> None:
    with pytest.raises(ImageError, match="no pixels"):
        model.predict(np.zeros((0, 5, 3), np.uint8))


def test_the_image_stays_as_it_is(model: Model, image: ByteImage) -> None:
    view, before = np.flip(image, axis=1), image.copy()
    assert model.predict(view).shape == view.shape[:2]
    assert np.array_equal(image, before)


def test_a_prediction_says_the_same_each_time(model: Model, image: ByteImage) -> None:
    first = model.predict(image)
    model.predict(random_image(20, 20), [Click(1, 1)])
    assert np.array_equal(model.predict(image), first)


def test_an_encoded_image_answers_as_the_model_does(model: Model, image: ByteImage) -> None:
    encoded, clicks = model.encode(image), [Click(20, 30), Click(50, 70, False)]
    assert encoded.shape == (56, 77)
    plain = encoded.predict()
    assert np.array_equal(plain, model.predict(image))
    assert np.array_equal(encoded.predict(clicks, plain), model.predict(image, clicks, plain))


def test_clicks_and_previous_answer_are_felt_beyond_their_pixels(model: Model, image: ByteImage) -> None:
    encoded = model.encode(image)
    plain = encoded.predict()
    clicked = encoded.predict([Click(20, 30)])
    assert (clicked != plain).mean() > 0.5
    assert (encoded.predict(previous=plain) != plain).mean() > 0.5
    assert not np.array_equal(encoded.predict([Click(20, 30, False)]), clicked)


def test_clicks_outside_are_ignored(model: Model, image: ByteImage) -> None:
    outside = [Click(-5, 3), Click(3, 77.6), Click(1e9, -1e9, False)]
    assert np.array_equal(model.predict(image, outside), model.predict(image))


@settings(max_examples=15, deadline=None)
@given(
    clicks=st.lists(
        st.builds(Click, st.floats(0, 55), st.floats(0, 76), st.booleans()), min_size=1, max_size=5
    ),
    threshold=st.floats(0.05, 0.95),
)
def test_every_click_is_honored(model: Model, clicks: list[Click], threshold: float) -> None:
    image = random_image(56, 77)
    probability, labels = model.predict(image, clicks), segment(image, model, threshold, clicks)
    for pixel, positive in {click.pixel: click.positive for click in clicks}.items():
        assert probability[pixel] == positive
        assert labels[pixel] == positive


def test_a_previous_answer_of_another_image_is_refused(model: Model, image: ByteImage) -> None:
    with pytest.raises(ImageError, match="previous"):
        model.predict(image, previous=np.zeros((55, 77), np.float32))
    with pytest.raises(ImageError, match="previous"):
        model.predict(image, previous=np.zeros((1, 2, 56, 77), np.float32))


@pytest.mark.parametrize("value", [np.nan, -0.5, 255])
def test_a_previous_answer_holds_probabilities(model: Model, image: ByteImage, value: float) -> None:
    with pytest.raises(ImageError, match="between 0 and 1"):
        model.predict(image, [Click(9, 9)], np.full((56, 77), value, np.float32))


@pytest.mark.parametrize("classes", [("skin", "lesion"), ("skin", "nevus", "hair")])
def test_with_turns_a_turned_image_has_the_turned_answer(classes: tuple[str, ...], image: ByteImage) -> None:
    card = CARD.model_copy(update={"classes": classes, "test_time_augmentation": True})
    network = guided_network(card.out_channels)
    model = Model(network, card, "cpu", precision="float32")
    turned = model.predict(np.ascontiguousarray(np.rot90(image)))
    answer = model.predict(image)
    np.testing.assert_allclose(turned, np.rot90(answer, axes=(-2, -1)), atol=2e-4)  # PyTorch 2.6: 1.5e-4
    upright = Model(network, CARD.model_copy(update={"classes": classes}), "cpu", precision="float32")
    assert abs(answer - upright.predict(image)).max() > 1e-3
    if answer.ndim == 3:
        np.testing.assert_allclose(answer.sum(axis=0), 1, atol=1e-4)


def test_clicks_are_answered_from_the_image_as_it_stands(
    network: SegmentationNetwork, image: ByteImage
) -> None:
    card = CARD.model_copy(update={"test_time_augmentation": True})
    turning, plain = (Model(network, c, "cpu", precision="float32") for c in (card, CARD))
    clicks = [Click(20, 30)]
    assert np.array_equal(turning.predict(image, clicks), plain.predict(image, clicks))


def test_temperature(network: SegmentationNetwork, model: Model, image: ByteImage) -> None:
    calm = Model(network, CARD.model_copy(update={"temperature": 1e6}), "cpu")
    np.testing.assert_allclose(calm.predict(image), 0.5, atol=1e-3)
    assert abs(model.predict(image) - 0.5).max() > 0.01


def test_bfloat16_is_near(network: SegmentationNetwork, model: Model, image: ByteImage) -> None:
    rough = Model(network, CARD, "cpu", precision="bfloat16").predict(image)
    exact = model.predict(image)
    assert 0 < abs(rough - exact).max() < 0.05


def test_what_answers_is_a_copy(network: SegmentationNetwork, model: Model, image: ByteImage) -> None:
    assert model.network is network
    learning = copy.deepcopy(network)
    before = Model(learning, CARD, "cpu", precision="float32")
    answer = before.predict(image)
    with torch.no_grad():
        learning.head.bias.add_(3)
    assert np.array_equal(before.predict(image), answer)
    assert not np.array_equal(Model(learning, CARD, "cpu", precision="float32").predict(image), answer)


def test_threads_may_share_a_model(model: Model) -> None:
    images = [random_image(30 + n, 40) for n in range(8)]
    alone = [model.predict(p) for p in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model.predict, images))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


# ------------------------------------------------------------------------------------------------ memory


class Greedy(SegmentationNetwork):
    """Runs out of memory on the pretended graphics card ("meta"), in one of its halves."""

    def __init__(self, half: str, error: Exception, where: str = "meta") -> None:
        super().__init__()
        self.half, self.error, self.where = half, error, where
        self.weight = nn.Parameter(torch.ones(1))

    def _use_memory(self, half: str) -> None:
        if half == self.half and self.weight.device.type == self.where:
            raise self.error

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        self._use_memory("encode")
        return (image,)

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        self._use_memory("decode")
        return features[0].mean(1, keepdim=True) * self.weight


@pytest.mark.parametrize("half", ["encode", "decode"])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("MPS backend out of memory")]
)
def test_a_full_graphics_card_is_left_for_the_processor(
    half: str, error: Exception, image: ByteImage, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(Greedy(half, error), CARD, torch.device("meta"))
    with caplog.at_level(logging.WARNING):
        probability = model.predict(image)
    assert np.array_equal(probability, Model(Greedy("", error), CARD, "cpu").predict(image))
    assert model.device.type == "cpu"
    (record,) = caplog.records
    assert "ran out of memory; falling back to CPU" in record.getMessage()


def test_images_encoded_before_the_move_still_answer(image: ByteImage) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    model = Model(Greedy("decode", error), CARD, torch.device("meta"))
    first, second = model.encode(image), model.encode(image)
    assert model.device.type == "meta"
    wanted = Model(Greedy("", error), CARD, "cpu").predict(image)
    assert np.array_equal(first.predict(), wanted)
    assert np.array_equal(second.predict(), wanted)
    assert np.array_equal(first.predict(), wanted)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_a_full_computer_is_said_in_a_sentence(error: Exception, image: ByteImage) -> None:
    model = Model(Greedy("decode", error, "cpu"), CARD, "cpu")
    with pytest.raises(DeviceError, match="memory"):
        model.predict(image)


def test_other_errors_are_not_hidden(image: ByteImage) -> None:
    model = Model(Greedy("encode", RuntimeError("shapes do not match")), CARD, torch.device("meta"))
    with pytest.raises(RuntimeError, match="shapes"):
        model.predict(image)
    assert model.device.type == "meta"


def test_moving_to_the_processor_twice_is_moving_once(model: Model) -> None:
    assert model.move_to_cpu() is model.device_model


# ------------------------------------------------------------------------------------- several experts


@pytest.fixture(scope="module")
def experts(network: SegmentationNetwork) -> Model:
    """The first outlines dark images, the second bright ones."""
    torch.manual_seed(3)
    second = build_network("lite-unet")
    nn.init.normal_(second.head.weight)
    describer = Model(network, CARD, "cpu")
    gray = [np.full((64, 64, 3), value, np.uint8) for value in (20, 230)]
    dark, bright = (describer.describe(image) for image in gray)
    weight = 2 * GATE_THRESHOLD * (bright - dark) / np.square(bright - dark).sum()
    kind = Direction(weight, -float(weight @ dark), bright, np.eye(DESCRIPTION_LENGTH, dtype=np.float32))
    made = with_expert(network, 1, second, kind)
    return Model(made, card_with_experts(CARD, 2), "cpu", precision="float32")


@pytest.mark.parametrize(("brightest", "place"), [(100, 0), (255, 1)])
def test_a_part_is_looked_at_by_the_expert_of_its_whole(experts: Model, brightest: int, place: int) -> None:
    whole = np.full((80, 100, 3), brightest, np.uint8)
    whole[20:60, 30:70] = 340 - brightest  # the other way round
    part = whole[24:56, 34:66].copy()
    several = experts.network
    assert isinstance(several, ExpertNetwork)
    assert [int(several.choose(experts.network_input(image))) for image in (whole, part)] == [
        place,
        1 - place,
    ]
    answers = [Model(several.expert(index), CARD, "cpu", precision="float32") for index in (0, 1)]
    clicks = [Click(10, 10)]
    for asked in ([], clicks):
        of_whole, of_itself = (model.predict(part, asked) for model in (answers[place], answers[1 - place]))
        assert not np.array_equal(of_whole, of_itself)
        assert np.array_equal(experts.encode(part, experts.encode(whole)).predict(asked), of_whole)
        assert np.array_equal(experts.encode(part).predict(asked), of_itself)


def test_turned_images_stay_with_their_expert(experts: Model) -> None:
    # stripes that the network's filters see otherwise after a quarter turn
    image = np.repeat(np.where(np.arange(64) // 2 % 2, 250, 180).astype(np.uint8)[None, :, None], 64, axis=0)
    image = np.repeat(image, 3, axis=2)
    several = experts.network
    assert isinstance(several, ExpertNetwork)
    upright, turned = (experts.describe(sample) for sample in (image, np.rot90(image).copy()))
    across = torch.from_numpy(turned - upright)
    fickle = copy.deepcopy(several)
    fickle.gate.weight[0] = 2 * GATE_THRESHOLD * across / across.square().sum()
    fickle.gate.bias[0] = -float(fickle.gate.weight[0] @ torch.from_numpy(upright))
    card = experts.card.model_copy(update={"test_time_augmentation": True})
    model = Model(fickle, card, "cpu", precision="float32")
    assert int(fickle.choose(model.network_input(image))) == 0
    assert int(fickle.choose(model.network_input(np.rot90(image).copy()))) == 1
    alone = CARD.model_copy(update={"test_time_augmentation": True})
    first = Model(several.expert(0), alone, "cpu", precision="float32")
    assert np.array_equal(model.predict(image), first.predict(image))


def test_descriptions_are_those_of_the_network(experts: Model, image: ByteImage) -> None:
    described = experts.describe(image)
    assert described.shape == (DESCRIPTION_LENGTH,)
    assert described.dtype == np.float32
    with torch.inference_mode():
        expected = experts.network.describe(experts.network_input(image))[0].numpy()
    assert np.array_equal(described, expected)
    speechless = build_network("unet", width=2, depth=1)
    assert Model(speechless, CARD, "cpu").describe(image) is None


# ----------------------------------------------------------------------------------- loading, outlining


@pytest.fixture
def saved(tmp_path: Path, network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LESIONSEG_MODELS", str(tmp_path))
    save_checkpoint(tmp_path / "mine.safetensors", network, CARD, half=False)
    return tmp_path / "mine.safetensors"


def test_load_by_name_and_by_path(saved: Path, model: Model, image: ByteImage) -> None:
    for name in ("mine", saved, str(saved)):
        loaded = load_model(name, "cpu")
        assert loaded.card == CARD
        assert loaded.sha256 == sha256_file(saved)
        assert loaded.device.type == "cpu"
    exact = Model(loaded.network, CARD, "cpu", precision="float32")
    assert np.array_equal(exact.predict(image), model.predict(image))


def test_what_cannot_be_loaded(saved: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_model("yours")
    with pytest.raises(DeviceError):
        load_model("mine", "abacus")
    with pytest.raises(ModelNotFoundError):
        load_model(5)  # type: ignore[arg-type]
    with pytest.raises(DeviceError):
        load_model("mine", None)  # type: ignore[arg-type]
    saved.write_bytes(saved.read_bytes()[:5000])
    with pytest.raises(CheckpointError):
        load_model("mine")


def test_a_model_may_be_named(saved: Path, model: Model, image: ByteImage) -> None:
    assert np.array_equal(segment(image, "mine"), segment(image, load_model("mine")))
    with pytest.raises(ModelNotFoundError, match="'yours'"):
        segment(image, "yours")


@pytest.mark.parametrize("threshold", [0, 1, -1, 50, np.nan])
def test_thresholds_lie_between_0_and_1(model: Model, image: ByteImage, threshold: float) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        segment(image, model, threshold)


def test_the_threshold_asked_for_comes_before_the_settings_and_the_model(
    network: SegmentationNetwork, image: ByteImage
) -> None:
    model = Model(network, CARD.model_copy(update={"threshold": 0.3}), "cpu", precision="float32")
    probability = model.predict(image)
    raw = PostprocessConfig(fill_holes=False, largest_only=False, min_area=0)
    assert np.array_equal(segment(image, model, postprocess=raw), probability >= 0.3)
    assert np.array_equal(segment(image, model, 0.6, postprocess=raw), probability >= 0.6)
    settled = raw.model_copy(update={"threshold": 0.45})
    assert np.array_equal(segment(image, model, postprocess=settled), probability >= 0.45)
    assert np.array_equal(segment(image, model, 0.6, postprocess=settled), probability >= 0.6)
    assert segment(image, model).dtype == np.uint8


class Darkness(SegmentationNetwork):
    """Find what is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(3, 1, 1)

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        return (image,)

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None = None) -> Tensor:
        return -9 * features[0].mean(dim=1, keepdim=True)


@pytest.mark.parametrize("largest_only", [True, False])
def test_the_card_says_whether_all_parts_are_kept(largest_only: bool) -> None:
    image = np.full((64, 96, 3), 255, np.uint8)
    image[10:50, 10:50] = image[20:40, 65:85] = 0
    model = Model(Darkness(), ModelCard(working_size=64, largest_only=largest_only), "cpu")
    labels = segment(image, model)
    assert labels[30, 30] == 1
    assert labels[30, 75] == (not largest_only)
    assert segment(image, model, postprocess=PostprocessConfig())[30, 75] == 0


def test_the_shipped_model_is_loaded_once(
    saved: Path, image: ByteImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(
        predictor, "load_model", lambda: loaded.append(load_model(saved, "cpu")) or loaded[-1]
    )
    predictor._shipped_model.cache_clear()
    try:
        assert segment(image).shape == segment(image).shape == (56, 77)
    finally:
        predictor._shipped_model.cache_clear()
    assert len(loaded) == 1


def test_public_names() -> None:
    assert ls.load_model is load_model
    assert ls.Model is Model
    assert ls.segment is segment
    assert ls.Click is Click


def test_the_part_for_prompts_answers_areas_on_images_of_every_expert(experts: Model) -> None:
    """Clicks after a box gained less with a fine-tuned model than with the model it came from."""
    bright = np.full((64, 64, 3), 230, np.uint8)
    bright[20:40, 20:40] = 100
    answers = []
    for bias in (-2.0, 2.0):
        mixture = copy.deepcopy(experts.network)
        assert isinstance(mixture, ExpertNetwork)
        first = LiteUNet(prompts=1).eval()
        first.load_state_dict(mixture.expert(0).state_dict(), strict=False)
        assert first.prompt_network is not None
        nn.init.constant_(first.prompt_network.head.bias, bias)
        mixture.experts[0] = first
        encoded = Model(mixture, experts.card, "cpu", precision="float32").encode(bright)
        assert int(mixture.choose(encoded.network_input)) == 1
        asked = [Click(30, 30)]
        box = (18, 18, 42, 42)
        lasso = [(18, 18), (18, 42), (42, 42), (42, 18)]
        answers.append(
            (
                encoded.predict(box=box),
                encoded.predict(lasso=lasso),
                encoded.predict(asked, box=box),
                encoded.predict(asked),
                encoded.predict(),
            )
        )
    changed = [not np.array_equal(low, high) for low, high in zip(*answers, strict=True)]
    assert changed == [True, True, True, False, False]
