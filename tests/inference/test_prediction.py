from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.types import Click, Prompts, Scribble

RAW = PostprocessConfig(fill_holes=False, largest_only=False, min_area=0)
NEAR = 1e-5
"""Pixels as near as this to the threshold may fall on either side of it."""


def prediction_of(
    seed: int,
    size: tuple[int, int],
    *,
    classes: int = 1,
    small: tuple[int, int] = (24, 32),
    smooth: float = 2.0,
) -> Prediction:
    noise = np.random.default_rng(seed).normal(size=(classes, *small))
    logits = ndimage.gaussian_filter(noise, (0, smooth, smooth)) * 12 * smooth
    return Prediction(logits.astype(np.float32), size)


def decided(prediction: Prediction, threshold: float) -> np.ndarray:
    """Pixels that are not so near to the threshold, or to another class, that rounding decides."""
    probability = prediction.probability()
    if probability.ndim == 2:
        return np.abs(probability - threshold) > NEAR
    ranked = np.sort(probability[1:], axis=0)
    apart = ranked[-1] - ranked[-2] > NEAR if len(ranked) > 1 else np.ones(prediction.size, bool)
    return apart & (np.abs(ranked[-1] - probability[0] * threshold / (1 - threshold)) > NEAR)


@given(
    st.integers(0, 10_000),
    st.tuples(st.integers(1, 150), st.integers(1, 190)),
    st.floats(0.05, 0.95),
    st.integers(1, 4),
)
def test_drawn_as_from_the_probability_of_every_pixel(
    seed: int, size: tuple[int, int], threshold: float, classes: int
) -> None:
    prediction = prediction_of(seed, size, classes=classes)
    expected = postprocess(prediction.probability(), RAW, threshold)
    sure = decided(prediction, threshold)
    np.testing.assert_array_equal(prediction.to_mask(RAW, threshold)[sure], expected[sure])


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("config", [RAW, PostprocessConfig(), PostprocessConfig(largest_only=False)])
def test_clicks_and_cleaning_are_those_of_postprocess(classes: int, config: PostprocessConfig) -> None:
    size, rng = (300, 410), np.random.default_rng(classes)
    for seed in range(8):
        spots = rng.uniform(-5, 405, (5, 2))
        clicks = tuple(Click(row, col, bool(rng.integers(2))) for row, col in spots)
        plain = prediction_of(seed, size, classes=classes, smooth=4)
        prediction = Prediction(plain.logits, size, Prompts(clicks))
        expected = postprocess(prediction.probability(), config, 0.4, clicks)
        drawn = prediction.to_mask(config, 0.4, clicks)
        assert np.mean(drawn != expected) < 1e-4


def test_clicks_that_meet_and_clicks_at_the_border() -> None:
    prediction = prediction_of(0, (400, 500))
    clicks = (
        Click(0, 0),
        Click(1, 1, positive=False),
        Click(399, 499),
        Click(200, 200),
        Click(201, 200, False),
    )
    prediction = Prediction(prediction.logits, prediction.size, Prompts(clicks))
    expected = postprocess(prediction.probability(), RAW, 0.5, clicks)
    assert np.mean(prediction.to_mask(RAW, 0.5, clicks) != expected) < 1e-4


@pytest.mark.parametrize("classes", [1, 3])
def test_scribbles_that_cross_are_those_of_postprocess(classes: int) -> None:
    size = (600, 800)
    strokes = (
        Scribble([(30, 20), (570, 780), (100, 700)]),
        Scribble([(590, 10), (20, 640)], positive=False),
        Scribble([(300, -50), (300, 900)]),
    )
    for prompts in (Prompts(strokes), Prompts(strokes, lasso=((50, 50), (40, 700), (560, 600), (500, 90)))):
        prediction = Prediction(prediction_of(3, size, classes=classes).logits, size, prompts)
        expected = postprocess(prediction.probability(), PostprocessConfig(), 0.4, strokes)
        assert np.mean(prediction.to_mask(PostprocessConfig(), 0.4, strokes) != expected) < 1e-4


def test_much_is_drawn_in_several_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    prediction = prediction_of(1, (300, 410), smooth=1.0)
    whole = prediction.to_mask(RAW, 0.5)
    monkeypatch.setattr("napari_lesionseg.inference.prediction._AT_ONCE", 1000)
    np.testing.assert_array_equal(prediction.to_mask(RAW, 0.5), whole)


@pytest.mark.parametrize("value", [-9.0, 9.0])
def test_all_or_nothing(value: float) -> None:
    prediction = Prediction(np.full((1, 4, 5), value, np.float32), (40, 50))
    outline = prediction.to_mask(PostprocessConfig(), 0.5)
    assert outline.shape == (40, 50)
    assert outline.all() == outline.any() == (value > 0)


def test_a_click_into_nothing_sets_its_disc() -> None:
    prediction = Prediction(np.full((1, 4, 5), -9, np.float32), (400, 500))
    outline = prediction.to_mask(PostprocessConfig(min_area=0), 0.5, [Click(200, 300)])
    assert outline[200, 300] == 1
    assert 0 < outline.sum() < 100


def test_contains_looks_at_one_pixel() -> None:
    prediction = prediction_of(2, (90, 120))
    mask = prediction.probability() >= 0.3
    assert all(
        prediction.contains(row, col, 0.3) == mask[row, col] for row in (0, 44, 89) for col in (0, 61, 119)
    )


def test_another_size_is_the_same_seen_smaller() -> None:
    prediction = Prediction(prediction_of(3, (240, 320)).logits, (240, 320), Prompts((Click(100, 100),)))
    small = prediction.probability((120, 160))
    assert small.shape == (120, 160)
    assert small[50, 50] == 1
    large = prediction.probability().reshape(120, 2, 160, 2).mean(axis=(1, 3))
    assert np.abs(small - large).mean() < 0.01


def test_a_model_gives_it(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    model = Model(build_network("lite-unet", 1), ModelCard(name="t", working_size=64), "cpu")
    encoded = model.encode(rng.integers(0, 255, (150, 190, 3), np.uint8))
    clicks = (Click(70, 80), Click(10, 10, positive=False))
    prediction = encoded.predict_logits(Prompts(tuple(clicks)))
    assert prediction.shape == (150, 190)
    assert prediction.nbytes < 150 * 190
    assert prediction.low_resolution().shape == prediction.logits.shape[1:]
    np.testing.assert_array_equal(prediction.probability(), encoded.predict(clicks))
