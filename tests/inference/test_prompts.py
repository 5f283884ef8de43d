from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.measure import find_contours

import napari_lesionseg as ls
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.errors import PromptError
from napari_lesionseg.inference.device import DeviceModel
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.inference.prompts import (
    COLOR_LIMIT,
    area_prior,
    color_features,
    color_logit,
    fill_area,
    no_prior,
    prompt_planes,
    prompt_window,
    stroke_window,
    view_of_part,
)
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.lite_unet import LiteUNet
from napari_lesionseg.models.onnx import export_onnx
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import Box, ByteImage, Click, Prompts, Scribble

SHAPE = (80, 100)
BOX = Box(20, 30, 60, 80)
LASSO = ((15.0, 30.0), (12.0, 70.0), (40.0, 85.0), (66.0, 60.0), (50.0, 25.0))
ARCHS: dict[str, tuple[str, dict[str, int]]] = {
    "lite-unet": ("lite-unet", {}),
    "lite-unet with prompts": ("lite-unet", {"prompts": 1}),
    "unet": ("unet", {"width": 4, "depth": 2}),
    "segnet": ("segnet", {"width": 4}),
}


def make_model(arch: str = "unet", classes: tuple[str, ...] = ("background", "lesion")) -> Model:
    torch.manual_seed(1)
    arch, settings = ARCHS[arch]
    card = ModelCard(
        name="tiny", arch=arch, arch_settings=settings, working_size=64, classes=classes, threshold=0.6
    )
    return Model(build_network(arch, card.out_channels, **settings), card, "cpu", precision="float32")


@pytest.fixture(scope="module")
def image() -> ByteImage:
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)


@pytest.fixture(scope="module")
def shipped() -> Model:
    return load_model(device="cpu")


def jaccard(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((predicted & truth).sum() / (predicted | truth).sum())


def filled(prompts: Prompts) -> NDArray[np.bool_]:
    return fill_area(prompts, Box(0, 0, *SHAPE), SHAPE)


def test_a_filled_box_has_exactly_the_pixels_of_the_box() -> None:
    wanted = np.zeros(SHAPE, bool)
    wanted[20:60, 30:80] = True
    np.testing.assert_array_equal(filled(Prompts(box=BOX)), wanted)


def test_a_filled_lasso_has_the_pixels_inside_and_on_the_line() -> None:
    inside = polygon2mask(SHAPE, LASSO)
    found = filled(Prompts(lasso=LASSO))
    assert not (inside & ~found).any()
    assert not (found & ~ndimage.binary_dilation(inside, np.ones((3, 3)))).any()


def test_the_window_has_a_margin_of_half_the_longer_side_and_stays_in_the_image() -> None:
    assert prompt_window(Prompts(box=Box(100, 200, 140, 300)), (500, 500)) == Box(50, 150, 190, 350)
    assert prompt_window(Prompts(box=BOX), SHAPE) == Box(0, 5, 80, 100)
    assert prompt_window(Prompts((Click(3, 4),)), SHAPE) is None
    assert prompt_window(Prompts(lasso=((100, 200), (100, 299), (139, 250))), (500, 500)) == Box(
        50, 150, 190, 350
    )


@pytest.mark.parametrize("shape", [(40, 50), (160, 150)])
def test_the_prior_of_a_box_is_an_ellipse_at_any_scale(shape: tuple[int, int]) -> None:
    window = Box(10, 20, 70, 90)
    prior = area_prior(Prompts(box=BOX), window, shape)
    rows = (np.arange(shape[0]) + 0.5) * 60 / shape[0] + 10
    cols = (np.arange(shape[1]) + 0.5) * 70 / shape[1] + 20
    distance = np.hypot((rows[:, None] - 40) / 20, (cols - 55) / 25)
    np.testing.assert_allclose(prior.logit, np.clip((0.97 - distance) / 0.12, -8, 8), atol=1e-4)
    assert not (prior.inside & prior.outside).any()
    assert prior.inside.any()
    assert prior.outside.any()


def test_the_prior_of_a_lasso_is_a_little_smaller_than_the_lasso() -> None:
    prior = area_prior(Prompts(lasso=LASSO), Box(0, 0, *SHAPE), SHAPE)
    expected, drawn = prior.logit > 0, filled(Prompts(lasso=LASSO))
    assert not (expected & ~drawn).any()
    assert 0.7 < expected.sum() / drawn.sum() < 0.95
    np.testing.assert_array_equal(prior.outside, ~drawn)


def test_the_prior_fades_near_points_alone() -> None:
    point = Click(40, 60, positive=False)
    with_point, without = (
        area_prior(Prompts(clicks, box=BOX), Box(0, 0, *SHAPE), SHAPE).logit for clicks in ((point,), ())
    )
    assert with_point[40, 60] == 0
    assert with_point[40, 75] == pytest.approx(without[40, 75])


def test_a_part_of_logits_is_sampled_where_it_lies() -> None:
    ramp = torch.arange(100, dtype=torch.float32).expand(1, 80, 100)
    found = view_of_part(ramp, Box(20, 30, 60, 70), SHAPE, (80, 80))
    np.testing.assert_allclose(found[0, 0].numpy(), np.arange(80) / 2 + 30 - 0.25, atol=1e-3)


def two_colors() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    inside = np.zeros((64, 96), bool)
    inside[16:48, 24:72] = True
    colors = np.where(inside[..., None], (0.8, 0.4, 0.4), (0.8, 0.7, 0.6))
    noise = np.random.default_rng(0).normal(0, 0.03, colors.shape)
    return np.clip(colors + noise, 0, 1).astype(np.float32), inside


def test_colors_are_told_apart_from_a_few_known_pixels() -> None:
    colors, inside = two_colors()
    sure = ndimage.binary_erosion(inside, iterations=12)
    far = ~ndimage.binary_dilation(inside, iterations=12)
    logit = color_logit(color_features(torch.from_numpy(colors.transpose(2, 0, 1))), sure, far)
    assert logit.shape == inside.shape
    assert np.abs(logit).max() <= COLOR_LIMIT
    assert jaccard(logit > 0, inside) > 0.9


def test_swapping_inside_and_outside_negates_the_color_logit() -> None:
    colors, inside = two_colors()
    features = color_features(torch.from_numpy(colors.transpose(2, 0, 1)))
    np.testing.assert_allclose(
        color_logit(features, inside, ~inside), -color_logit(features, ~inside, inside), atol=0.05
    )


def test_too_few_known_pixels_say_nothing_about_colors() -> None:
    colors, inside = two_colors()
    none = np.zeros(inside.shape, bool)
    assert not color_logit(color_features(torch.from_numpy(colors.transpose(2, 0, 1))), none, ~inside).any()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("classes", [("background", "lesion"), ("skin", "nevus", "melanoma")])
def test_every_model_keeps_to_the_area_and_honors_every_point(
    image: ByteImage, arch: str, classes: tuple[str, ...]
) -> None:
    model = make_model(arch, classes)
    stroke = [(40.0, 40.0), (40.0, 47.0)]
    for area in ({"box": BOX}, {"lasso": LASSO}, {"box": (20, 30, 60, 80), "lasso": LASSO}):
        prompts = Prompts(box=BOX if "box" in area else None, lasso=area.get("lasso", ()))  # type: ignore[arg-type]
        alone = model.predict(image, **area)  # type: ignore[arg-type]
        assert alone.shape == (SHAPE if len(classes) == 2 else (3, *SHAPE))
        lesion = alone if alone.ndim == 2 else 1 - alone[0]
        assert lesion.max() > 0.6
        assert not lesion[~filled(prompts)].any()
        points = {"clicks": [Click(45, 60, False)], "scribbles": [Scribble(stroke)]}
        steered = model.predict(image, **area, **points)  # type: ignore[arg-type]
        lesion = steered if steered.ndim == 2 else 1 - steered[0]
        assert lesion[45, 60] == 0
        assert (lesion[40, 40:48] == 1).all()
        labels = ls.segment(image, model, **area, **points)  # type: ignore[arg-type]
        assert labels[45, 60] == 0
        assert (labels[40, 40:48] > 0).all()


def test_onnx_models_have_no_part_for_prompts_and_answer_without_it(image: ByteImage, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    model, plain = prompted_and_plain()
    export_onnx(model.network, model.card, tmp_path / "tiny.onnx")
    exported = load_model(tmp_path / "tiny.onnx")
    np.testing.assert_allclose(exported.predict(image), plain.predict(image), atol=1e-3)
    np.testing.assert_allclose(exported.predict(image, box=BOX), plain.predict(image, box=BOX), atol=1e-3)


def test_onnx_models_take_prompts(image: ByteImage, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnxscript", reason="the extra [onnx] is not installed")
    model = make_model()
    export_onnx(model.network, model.card, tmp_path / "tiny.onnx")
    exported = load_model(tmp_path / "tiny.onnx")
    wanted = model.predict(image, [Click(30, 50)], box=BOX)
    np.testing.assert_allclose(exported.predict(image, [Click(30, 50)], box=BOX), wanted, atol=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_scribble_of_one_point_is_a_click(image: ByteImage, arch: str) -> None:
    encoded = make_model(arch).encode(image)
    scribble = encoded.predict(scribbles=[Scribble([(12, 22)], positive=False)])
    np.testing.assert_array_equal(scribble, encoded.predict([Click(12, 22, positive=False)]))


@pytest.mark.parametrize("arch", ARCHS)
def test_more_points_on_the_same_line_are_the_same_scribble(image: ByteImage, arch: str) -> None:
    encoded = make_model(arch).encode(image)
    ends, line = [(20.0, 20.0), (20.0, 80.0)], [(20.0, float(col)) for col in range(20, 81)]
    few, many = (encoded.predict(scribbles=[Scribble(points)]) for points in (ends, line))
    assert np.abs(few - many).mean() < 0.01
    assert (few[20, 20:81] == 1).all()


def test_where_strokes_meet_the_later_one_counts(image: ByteImage) -> None:
    encoded, line = make_model().encode(image), ((20.0, 10.0), (20.0, 50.0))
    for strokes, crossed in (
        ((Click(20, 30), Scribble(line, False)), 0),
        ((Scribble(line, False), Click(20, 30)), 1),
    ):
        prediction = encoded.predict_logits(Prompts(strokes))
        assert prediction.probability()[20, 30] == crossed
        assert prediction.to_mask(PostprocessConfig(), 0.5, strokes)[20, 30] == crossed


@pytest.mark.parametrize("arch", ["lite-unet", "lite-unet with prompts"])
def test_answers_do_not_depend_on_earlier_prompts(image: ByteImage, arch: str) -> None:
    encoded = make_model(arch).encode(image)
    first = encoded.predict(box=BOX)
    encoded.predict([Click(40, 50)], box=BOX)
    encoded.predict(lasso=LASSO)
    encoded.predict([Click(1, 1, False)])
    np.testing.assert_array_equal(encoded.predict(box=BOX), first)


@pytest.mark.parametrize("arch", ["unet", "lite-unet with prompts"])
def test_further_clicks_in_an_area_encode_nothing(
    image: ByteImage, arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(arch)
    encoded = model.encode(image)
    encoded.predict(box=BOX)
    monkeypatch.setattr(Model, "encode", None)
    monkeypatch.setattr(DeviceModel, "encode", None)
    encoded.predict([Click(40, 50)], box=BOX)
    encoded.predict([Click(40, 50), Click(30, 40, False)], encoded.predict(box=BOX), box=BOX)


@pytest.mark.parametrize("classes", [("background", "lesion"), ("skin", "nevus", "melanoma")])
@pytest.mark.parametrize("area", [Prompts(box=BOX), Prompts(lasso=LASSO)])
def test_masks_drawn_quickly_are_those_of_the_probability(
    image: ByteImage, area: Prompts, classes: tuple[str, ...]
) -> None:
    encoded = make_model("unet", classes).encode(image)
    curve = tuple((45 + 18 * math.sin(turn), 55 + 25 * math.cos(turn)) for turn in np.linspace(0, 6, 30))
    strokes = (
        (),
        (Click(40, 50, False), Click(5, 5), Click(40, 79)),
        (Click(5, 5), Scribble(curve, False), Scribble(curve[:9])),
    )
    for clicks in strokes:
        prediction = encoded.predict_logits(Prompts(clicks, area.box, area.lasso))
        for config in (PostprocessConfig(), PostprocessConfig(largest_only=False, min_area=0)):
            for threshold in (0.3, 0.6):
                wanted = postprocess(prediction.probability(), config, threshold, clicks)
                differs = prediction.to_mask(config, threshold, clicks) != wanted
                assert np.count_nonzero(differs) <= 2  # pixels at the threshold, up to rounding


def test_a_probability_at_another_size_shows_the_same_lesion(image: ByteImage) -> None:
    prediction = make_model().encode(image).predict_logits(Prompts(box=BOX))
    small = prediction.probability((40, 50))
    assert small.shape == (40, 50)
    np.testing.assert_allclose(small.mean(), prediction.probability().mean(), rtol=0.1)
    assert not small[:10].any()


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"box": (200, 10, 250, 40)}, "box is outside the image"),
        ({"box": (-50, 10, -5, 40)}, "box is outside the image"),
        ({"box": (30, 10, 31, 40)}, "box is too small"),
        ({"box": (60, 30, 20, 80)}, "sides of the box are swapped"),
        ({"box": Box(60, 30, 20, 80)}, "sides of the box are swapped"),
        ({"box": Box(math.nan, 1, 20, 30)}, "four finite numbers"),  # type: ignore[arg-type]
        ({"box": "text"}, "four finite numbers"),
        ({"box": (math.nan, 1, 20, 30)}, "four finite numbers"),
        ({"box": (1, 20, 30)}, "four finite numbers"),
        ({"lasso": [(10, 10), (30, 30)]}, "three points"),
        ({"lasso": [(10, 10), (30, math.nan), (20, 5)]}, "no finite coordinates"),
        ({"lasso": [(200, 210), (230, 230), (220, 205)]}, "lasso is outside the image"),
        ({"lasso": [(10, 10), (10, 30), (10, 40)]}, "lasso is too small"),
        ({"lasso": [(10, 10), (20, 20), (30, 30)]}, "lasso is too small"),
        ({"lasso": [(1, 2, 3), (4, 5, 6), (7, 8, 9)]}, "pairs of a row and a column"),
        ({"lasso": [(1, 2), (4, 5, 6), (7, 8)]}, "pairs of a row and a column"),
        ({"lasso": "text"}, "pairs of a row and a column"),
        ({"box": (5, 5, 20, 20), "lasso": [(30, 30), (30, 50), (50, 50)]}, "do not overlap"),
        ({"scribbles": Scribble([(10, 10), (30, 30)])}, "Scribbles must be a list"),
        ({"scribbles": [[(10, 10), (30, 30)]]}, "Scribbles must be a list"),
        ({"clicks": [(10, 10)]}, r"Clicks must be a list, such as \[Click"),
        ({"clicks": Click(10, 10)}, "Clicks must be a list"),
        ({"clicks": None}, "Clicks must be a list"),
        ({"clicks": [Click("ten", 3)]}, "pairs of a row and a column"),  # type: ignore[arg-type]
        ({"scribbles": [Scribble([])]}, "at least one point"),
        ({"scribbles": [Scribble([(500, 500)])]}, "scribble is outside the image"),
        ({"clicks": [Click(math.inf, 3)]}, "no finite coordinates"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(
    image: ByteImage, prompts: dict[str, object], message: str
) -> None:
    with pytest.raises(PromptError, match=message) as refused:
        ls.segment(image, make_model(), **prompts)  # type: ignore[arg-type]
    assert str(refused.value).count(".") == 1


def test_a_box_may_reach_beyond_the_image(image: ByteImage) -> None:
    model = make_model()
    inside = model.predict(image, box=(-20, -20, 50, 60)) > 0
    assert inside.any()
    assert not inside[50:].any()
    assert not inside[:, 60:].any()


def test_an_outline_follows_the_size_of_the_box_unless_the_image_is_clear(shipped: Model) -> None:
    sample = sample_set(1)[0]
    rows, cols = np.nonzero(sample.mask)
    top, left, bottom, right = rows.min(), cols.min(), rows.max() + 1, cols.max() + 1
    heights = []
    encoded = shipped.encode(sample.image)
    for wider in (-0.08, 0.0, 0.08):
        down, across = wider * (bottom - top), wider * (right - left)
        probability = encoded.predict(box=(top - down, left - across, bottom + down, right + across))
        inside = np.nonzero(probability >= shipped.card.threshold)[0]
        heights.append((inside.max() + 1 - inside.min()) / (bottom - top))
    assert heights[0] <= 0.9 < heights[1] < heights[2]
    assert heights[1] == pytest.approx(1, abs=0.05)


def test_the_automatic_outline_is_computed_once(image: ByteImage, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = make_model("lite-unet with prompts").encode(image)
    first = encoded.predict()
    encoded.predict(box=BOX)
    monkeypatch.setattr(DeviceModel, "decode", None)
    np.testing.assert_array_equal(encoded.predict(), first)


def prompted_and_plain() -> tuple[Model, Model]:
    """Make a model with a part for prompts, and one without it but with the same other weights."""
    model = make_model("lite-unet with prompts")
    network, card = build_network("lite-unet"), model.card.model_copy(update={"arch_settings": {}})
    state = {k: v for k, v in model.network.state_dict().items() if not k.startswith("prompt_network.")}
    network.load_state_dict(state)
    return model, Model(network, card, "cpu", precision="float32")


def test_a_part_for_prompts_leaves_the_automatic_outline_alone(image: ByteImage) -> None:
    model, plain = prompted_and_plain()
    np.testing.assert_array_equal(model.predict(image), plain.predict(image))
    assert np.abs(model.predict(image, box=BOX) - plain.predict(image, box=BOX)).max() > 0.01


def test_a_box_starts_over_and_clicks_correct_what_was_there(image: ByteImage) -> None:
    model = make_model("lite-unet with prompts")
    prompted = cast("LiteUNet", model.network).for_prompts()
    assert prompted is not None
    for projection in prompted.guidance.projections:  # of an untrained network they are zero
        torch.nn.init.normal_(cast("torch.nn.Conv2d", projection).weight)
    encoded = Model(model.network, model.card, "cpu", precision="float32").encode(image)
    ones, zeros = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    np.testing.assert_array_equal(encoded.predict((), ones, box=BOX), encoded.predict((), zeros, box=BOX))
    after = [encoded.predict([Click(40, 50)], seen, box=BOX) for seen in (ones, zeros)]
    assert np.abs(after[0] - after[1]).max() > 1e-4


def test_windows_around_strokes_hold_outline_and_points_and_stay_while_little_changes() -> None:
    outline = np.zeros((40, 50), bool)
    outline[15:20, 20:26] = True  # of an image of twice the size: rows 30 to 40, columns 40 to 52
    window = stroke_window([(34, 60)], outline, SHAPE)
    assert (window.top, window.left) <= (30 - 10, 40 - 20)
    assert window.bottom >= 40 + 20
    assert window.right >= 61 + 20
    outline[15:20, 25] = False
    assert stroke_window([(34, 60), (35, 50)], outline, SHAPE) == window
    corner = stroke_window([(0, 99)], outline, SHAPE)
    assert (corner.top, corner.right) == (0, 100)
    assert stroke_window([(3, 4)], ~outline & outline, SHAPE) == Box(0, 0, *SHAPE)


@pytest.mark.parametrize("classes", [("background", "lesion"), ("skin", "nevus", "melanoma")])
def test_strokes_alone_are_honored_by_the_part_for_prompts(
    image: ByteImage, classes: tuple[str, ...]
) -> None:
    encoded = make_model("lite-unet with prompts", classes).encode(image)
    first, points = encoded.predict(), [Click(30, 40), Click(60, 20, False)]
    for seen in (None, first):
        steered = encoded.predict(points, seen)
        assert steered.shape == first.shape
        lesion = steered if steered.ndim == 2 else 1 - steered[0]
        assert lesion[30, 40] == 1
        assert lesion[60, 20] == 0
    outside = encoded.predict([Click(-50, 500)])
    np.testing.assert_array_equal(outside, first)


def test_the_guidance_says_what_was_drawn() -> None:
    colors, inside = two_colors()
    strokes = np.zeros((2, *inside.shape), np.float32)
    strokes[0, 30:34, 40:44], strokes[1, 2:6, 2:6] = 1, 1
    previous = np.where(inside, 0.95, 0.05).astype(np.float32)
    features = color_features(torch.from_numpy(colors.transpose(2, 0, 1)))
    planes = prompt_planes(strokes, previous, no_prior(inside.shape), features)
    np.testing.assert_array_equal(planes[:2], strokes)
    np.testing.assert_array_equal(planes[2], previous)
    assert not planes[3].any()
    assert jaccard(planes[4] > 0, inside) > 0.9  # colors are those of the previous outline
    boxed = area_prior(Prompts(box=Box(16, 24, 48, 72)), Box(0, 0, 64, 96), (64, 96))
    planes = prompt_planes(strokes, 0 * previous, boxed, features)
    np.testing.assert_allclose(8 * planes[3], boxed.logit, rtol=1e-6)
    assert np.abs(planes).max() <= 1


def rough_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> Box:
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    sides = np.array([rows[0], cols[0], rows[-1] + 1, cols[-1] + 1], float)
    height, width = sides[2:] - sides[:2]
    top, left, bottom, right = sides + rng.normal(0, 0.05, 4) * (height, width, height, width)
    return Box(round(top), round(left), round(bottom), round(right))


def rough_lasso(mask: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Draw around a lesion, 8 % of its radius too far out."""
    distance = ndimage.distance_transform_edt(~np.pad(mask, 50)) - 0.08 * math.sqrt(mask.sum() / math.pi)
    outline = max(find_contours(distance, 0), key=len) - 50
    return tuple((float(row), float(col)) for row, col in outline[::8])


def test_rough_boxes_and_lassos_beat_the_automatic_outline_where_it_is_poor(shipped: Model) -> None:
    rng, scores = np.random.default_rng(2), []
    for sample in sample_set(14):
        truth, encoded = sample.mask > 0, shipped.encode(sample.image)
        masks = [
            encoded.predict_logits(prompts).to_mask(PostprocessConfig(), shipped.card.threshold) > 0
            for prompts in (Prompts(), Prompts(box=rough_box(truth, rng)), Prompts(lasso=rough_lasso(truth)))
        ]
        automatic, box, lasso = (jaccard(mask, truth) for mask in masks)
        if automatic < 0.93 and sample.instances.max() == 1:  # a box is drawn around a single lesion
            scores.append((automatic, box, lasso))
    assert len(scores) >= 3
    automatic, box, lasso = np.mean(scores, axis=0)
    assert box > automatic
    assert lasso > automatic + 0.02
