from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.clicks import (
    DISC_RADIUS,
    guidance_planes,
    honor_strokes,
    next_click,
    strokes_inside,
)
from napari_lesionseg.inference.postprocess import click_radius, postprocess, stroke_pixels
from napari_lesionseg.types import Click, Probability, Scribble

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))
POSITIONS = st.floats(-3, 27)
CLICKS = st.lists(st.builds(Click, POSITIONS, POSITIONS, st.booleans()), max_size=8)


def last_clicks(clicks: list[Click], shape: tuple[int, int]) -> dict[tuple[int, int], bool]:
    return {click.pixel: click.positive for click in strokes_inside(clicks, shape)}


@st.composite
def probabilities(draw: st.DrawFn, classes: int = 0) -> Probability:
    shape = draw(SHAPES)
    values = draw(
        npst.arrays(np.float32, (classes, *shape) if classes else shape, elements=st.floats(0, 1, width=32))
    )
    if not classes:
        return values
    values += np.float32(1e-3)
    return values / values.sum(axis=0)


@given(probability=probabilities(), clicks=CLICKS)
def test_every_click_is_honored(probability: Probability, clicks: list[Click]) -> None:
    before = probability.copy()
    honored = honor_strokes(probability, clicks)
    for pixel, positive in last_clicks(clicks, probability.shape).items():
        assert honored[pixel] == positive
    assert honored.dtype == np.float32
    assert honored.min() >= 0
    assert honored.max() <= 1
    assert np.array_equal(probability, before)


@given(probability=probabilities(classes=3), clicks=CLICKS)
def test_every_click_is_honored_among_classes(probability: Probability, clicks: list[Click]) -> None:
    honored = honor_strokes(probability, clicks)
    for (row, col), positive in last_clicks(clicks, probability.shape[1:]).items():
        assert honored[0, row, col] == 1 - positive
    np.testing.assert_allclose(honored.sum(axis=0), 1, atol=1e-5)
    assert honored.min() >= 0


@settings(max_examples=60)
@given(probability=probabilities(), clicks=CLICKS, threshold=st.floats(0.01, 0.99))
def test_the_outline_agrees_with_the_probability(
    probability: Probability, clicks: list[Click], threshold: float
) -> None:
    labels = postprocess(honor_strokes(probability, clicks), PostprocessConfig(), threshold, clicks)
    for pixel, positive in last_clicks(clicks, probability.shape).items():
        assert labels[pixel] == positive


def test_without_clicks_nothing_is_copied() -> None:
    probability = np.zeros((4, 5), np.float32)
    assert honor_strokes(probability, []) is probability
    assert honor_strokes(probability, [Click(-1, 0), Click(4, 0), Click(0, 4.6)]) is probability


def test_far_from_a_click_nothing_changes() -> None:
    probability = np.full((100, 120), 0.25, np.float32)
    honored = honor_strokes(probability, [Click(50, 60)])
    rows, cols = np.nonzero(honored != probability)
    assert np.hypot(rows - 50, cols - 60).max() < 3
    assert honored[50, 61] > 0.25


def test_long_scribbles_fade_with_the_distance_and_the_later_one_counts() -> None:
    shape = (500, 700)
    strokes = [
        Scribble([(20.2, 10), (480, 690), (300, 690), (40, 30)]),
        Scribble([(490, 0), (0, 650)], positive=False),
        Scribble([(250, 0), (250, 699), (600, 800), (499, 10)]),  # leaves the image and comes back
    ]
    probability = np.random.default_rng(0).random(shape, np.float32)
    expected, radius = probability.copy(), click_radius(shape)
    touched = [tuple(stroke_pixels(stroke, shape).T) for stroke in strokes]
    for stroke, at in zip(strokes, touched, strict=True):
        away = np.ones(shape, bool)
        away[at] = False
        nearness = np.clip(1 - ndimage.distance_transform_edt(away) / radius, 0, 1)
        expected += ((stroke.positive - expected) * nearness).astype(np.float32)
    for stroke, at in zip(strokes, touched, strict=True):
        expected[at] = stroke.positive
    np.testing.assert_allclose(honor_strokes(probability, strokes), expected, atol=1e-6)


def test_large_images_get_larger_discs() -> None:
    honored = honor_strokes(np.zeros((3000, 4000), np.float32), [Click(1500, 2000)])
    assert honored[1500, 2000 + 8] > 0.5
    assert honored[1500, 2000 + 17] == 0


def test_classes_keep_their_proportions() -> None:
    probability = np.array([0.8, 0.15, 0.05], np.float32)[:, None, None] * np.ones((3, 9, 9), np.float32)
    honored = honor_strokes(probability, [Click(4, 4)])
    np.testing.assert_allclose(honored[:, 4, 4], [0, 0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(
        honor_strokes(probability, [Click(4, 4, False)])[:, 4, 4], [1, 0, 0], atol=1e-6
    )


def test_sure_background_is_shared_out_evenly() -> None:
    probability = np.zeros((3, 5, 5), np.float32)
    probability[0] = 1
    np.testing.assert_allclose(honor_strokes(probability, [Click(2, 2)])[:, 2, 2], [0, 0.5, 0.5])


def test_planes_lie_where_the_clicks_do() -> None:
    planes = guidance_planes([Click(40, 40), Click(30, 90, False)], None, (100, 200), (50, 100))
    positive, negative = np.argwhere(planes[0]), np.argwhere(planes[1])
    np.testing.assert_allclose(positive.mean(axis=0), [19.75, 19.75], atol=0.3)
    np.testing.assert_allclose(negative.mean(axis=0), [14.75, 44.75], atol=0.3)
    assert np.pi * DISC_RADIUS**2 == pytest.approx(len(positive), rel=0.1)
    assert not planes[2].any()
    assert planes.dtype == np.float32


@given(shape=SHAPES, planes_shape=SHAPES, clicks=CLICKS)
def test_every_click_leaves_a_mark(
    shape: tuple[int, int], planes_shape: tuple[int, int], clicks: list[Click]
) -> None:
    planes = guidance_planes(clicks, None, shape, planes_shape)
    inside = strokes_inside(clicks, shape)
    assert planes[0].any() == any(click.positive for click in inside)
    assert planes[1].any() == any(not click.positive for click in inside)
    assert set(np.unique(planes)) <= {0.0, 1.0}


def test_previous_answer_is_the_third_plane() -> None:
    previous = np.random.default_rng(0).random((6, 7), np.float32)
    assert np.array_equal(guidance_planes([], previous, (60, 70), (6, 7))[2], previous)


def test_no_click_where_nothing_is_wrong() -> None:
    mask = np.eye(6, dtype=bool)
    assert next_click(mask, mask) is None
    assert next_click(np.zeros((3, 3), bool), np.zeros((3, 3), bool)) is None
    assert next_click(np.zeros((0, 0), bool), np.zeros((0, 0), bool)) is None


def test_the_next_click_is_the_center_of_the_largest_wrong_region() -> None:
    truth, predicted = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    truth[5:20, 5:20] = True  # missed, 15 pixels across
    predicted[25:34, 30:39] = True  # extra, 9 across
    assert next_click(predicted, truth) == Click(12, 12, True)
    truth[8:20, 5:20] = False
    assert next_click(predicted, truth) == Click(29, 34, False)


def test_the_border_of_the_image_counts_as_outside() -> None:
    truth = np.zeros((21, 21), bool)
    truth[:9, :] = True
    assert next_click(np.zeros_like(truth), truth) == Click(4, 4, True)


@settings(max_examples=60)
@given(data=st.data(), jitter=st.floats(0, 1), seed=st.integers(0, 5))
def test_the_next_click_is_always_on_an_error(data: st.DataObject, jitter: float, seed: int) -> None:
    shape = data.draw(SHAPES)
    predicted, truth = (data.draw(npst.arrays(bool, shape)) for _ in range(2))
    click = next_click(predicted, truth, np.random.default_rng(seed), jitter)
    if click is None:
        assert np.array_equal(predicted, truth)
        return
    assert truth[click.pixel] == click.positive
    assert predicted[click.pixel] != click.positive


@settings(max_examples=30)
@given(data=st.data())
def test_enough_clicks_correct_every_error(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    predicted, truth = (data.draw(npst.arrays(bool, shape)) for _ in range(2))
    assume(not np.array_equal(predicted, truth))
    for _ in range(predicted.size):
        click = next_click(predicted, truth)
        if click is None:
            break
        predicted = predicted.copy()
        predicted[click.pixel] = click.positive
    assert np.array_equal(predicted, truth)


def test_jitter_spreads_the_clicks() -> None:
    truth = np.zeros((50, 50), bool)
    truth[10:40, 10:40] = True
    rng = np.random.default_rng(0)
    clicks = {next_click(np.zeros_like(truth), truth, rng, 0.5) for _ in range(30)}
    assert len(clicks) > 10
    assert {next_click(np.zeros_like(truth), truth, rng) for _ in range(5)} == {Click(24, 24, True)}
