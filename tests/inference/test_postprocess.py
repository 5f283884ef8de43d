from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import MaskError
from napari_lesionseg.inference.postprocess import (
    click_radius,
    postprocess,
    resolve_threshold,
)
from napari_lesionseg.types import Click

RAW = PostprocessConfig(fill_holes=False, largest_only=False, min_area=0)
FILL = PostprocessConfig(fill_holes=True, largest_only=False, min_area=0)
LARGEST = PostprocessConfig(fill_holes=False, largest_only=True, min_area=0)


def canvas(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Probability 0.9 inside the (top, left, bottom, right) boxes and 0.1 elsewhere."""
    probability = np.full(shape, 0.1, dtype=np.float32)
    for top, left, bottom, right in boxes:
        probability[top:bottom, left:right] = 0.9
    return probability


def test_threshold_takes_equal_values_in() -> None:
    probability = np.array([[0.25, 0.5], [0.75, 1.0]], dtype=np.float32)
    labels = postprocess(probability, RAW, 0.5)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, [[0, 1], [1, 1]])


def test_threshold_that_float32_cannot_hold_still_takes_equal_values_in() -> None:
    assert postprocess(np.full((3, 3), 0.46, np.float32), RAW, 0.46).all()


def test_input_is_not_changed() -> None:
    probability = canvas((10, 10, 30, 30))
    before = probability.copy()
    postprocess(probability, PostprocessConfig(), 0.5, [Click(50, 50), Click(20, 20, positive=False)])
    np.testing.assert_array_equal(probability, before)


def test_nothing_above_the_threshold_gives_an_empty_mask() -> None:
    labels = postprocess(canvas(), PostprocessConfig(), 0.5)
    assert labels.shape == (60, 80)
    assert not labels.any()


def test_everything_above_the_threshold_gives_a_full_mask() -> None:
    assert postprocess(np.ones((20, 30), np.float32), PostprocessConfig(), 0.5).all()


def test_small_parts_are_dropped_and_the_limit_itself_stays() -> None:
    probability = canvas((2, 2, 10, 10), (20, 20, 27, 29))  # 64 and 63 pixels
    config = PostprocessConfig(fill_holes=False, largest_only=False, min_area=64)
    labels = postprocess(probability, config, 0.5)
    assert labels.sum() == 64
    assert labels[5, 5] == 1


def test_only_the_largest_part_stays() -> None:
    labels = postprocess(canvas((2, 2, 20, 20), (30, 30, 55, 70), (2, 60, 10, 70)), LARGEST, 0.5)
    assert labels.sum() == 25 * 40
    assert labels[40, 40] == 1


def test_parts_that_touch_at_a_corner_are_one() -> None:
    labels = postprocess(canvas((10, 10, 20, 20), (20, 20, 30, 30)), LARGEST, 0.5)
    assert labels.sum() == 200


def test_a_clicked_part_stays_beside_the_largest_even_if_small() -> None:
    probability = canvas((2, 2, 30, 30), (40, 40, 43, 43), (50, 50, 53, 53))
    labels = postprocess(probability, PostprocessConfig(), 0.5, [Click(41, 41)])
    assert labels[41, 41] == 1
    assert labels[51, 51] == 0
    assert labels.sum() == 28 * 28 + 9


def test_holes_are_filled() -> None:
    probability = canvas((10, 10, 40, 40))
    probability[20:25, 20:25] = 0.1
    assert postprocess(probability, FILL, 0.5).sum() == 900
    assert postprocess(probability, RAW, 0.5).sum() == 875


def test_a_bay_at_the_border_of_the_image_is_no_hole() -> None:
    probability = canvas((0, 10, 40, 40))
    probability[0:5, 20:25] = 0.1
    labels = postprocess(probability, FILL, 0.5)
    assert not labels[0:5, 20:25].any()


def test_holes_agree_with_the_slow_way(rng: np.random.Generator) -> None:
    noise = ndimage.gaussian_filter(rng.standard_normal((90, 110)), 2)
    probability = (noise > 0).astype(np.float32)
    expected = ndimage.binary_fill_holes(probability > 0)
    np.testing.assert_array_equal(postprocess(probability, FILL, 0.5), expected)


def test_a_ring_around_the_image_does_not_swallow_the_lesion() -> None:
    probability = canvas((20, 20, 40, 60))
    probability[[1, -2], 1:-1] = 0.9
    probability[1:-1, [1, -2]] = 0.9
    labels = postprocess(probability, PostprocessConfig(), 0.5)
    assert labels.sum() == 20 * 40


def test_a_negative_click_opens_a_disc_that_is_not_filled() -> None:
    labels = postprocess(canvas((10, 10, 40, 40)), PostprocessConfig(), 0.5, [Click(25, 25, positive=False)])
    radius = click_radius(labels.shape)
    assert labels[25, 25] == 0
    assert labels[25, 25 + radius] == 0
    assert labels[25, 25 + radius + 1] == 1


def test_a_hole_with_a_negative_click_stays_open_and_others_close() -> None:
    probability = canvas((5, 5, 55, 75))
    probability[10:20, 10:20] = 0.1
    probability[10:20, 40:50] = 0.1
    labels = postprocess(probability, PostprocessConfig(), 0.5, [Click(15, 15, positive=False)])
    assert not labels[10:20, 10:20].any()
    assert labels[10:20, 40:50].all()


def test_a_positive_click_on_background_sets_a_disc() -> None:
    labels = postprocess(canvas((5, 5, 30, 30)), PostprocessConfig(), 0.5, [Click(45, 60)])
    radius = click_radius(labels.shape)
    assert labels[45, 60 - radius : 60 + radius + 1].all()
    assert labels[45, 60 + radius + 1] == 0


def test_a_click_that_agrees_changes_nothing() -> None:
    probability = canvas((5, 5, 30, 30))
    config = PostprocessConfig()
    clicks = [Click(10, 10), Click(50, 50, positive=False)]
    np.testing.assert_array_equal(
        postprocess(probability, config, 0.5, clicks), postprocess(probability, config, 0.5)
    )


def test_of_two_clicks_on_a_pixel_the_last_counts() -> None:
    probability = canvas((5, 5, 30, 30))
    clicks = [Click(10, 10, positive=False), Click(10.3, 9.8)]
    assert postprocess(probability, PostprocessConfig(), 0.5, clicks)[10, 10] == 1
    assert postprocess(probability, PostprocessConfig(), 0.5, clicks[::-1])[10, 10] == 0


def test_clicks_beside_the_image_are_ignored() -> None:
    probability = canvas((0, 0, 30, 30))
    clicks = [Click(-0.6, 5, positive=False), Click(5, 80, positive=True), Click(60, 3)]
    np.testing.assert_array_equal(
        postprocess(probability, RAW, 0.5, clicks), postprocess(probability, RAW, 0.5)
    )


def test_clicks_in_the_corners_work() -> None:
    labels = postprocess(canvas(), PostprocessConfig(), 0.5, [Click(0, 0), Click(59.4, 79.4)])
    assert labels[0, 0] == 1
    assert labels[59, 79] == 1


clicks_strategy = st.lists(
    st.builds(Click, st.integers(0, 15).map(float), st.integers(0, 19).map(float), st.booleans()), max_size=8
)


@given(
    values=hnp.arrays(np.float32, (16, 20), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75])),
    clicks=clicks_strategy,
    config=st.builds(
        PostprocessConfig, fill_holes=st.booleans(), largest_only=st.booleans(), min_area=st.integers(0, 50)
    ),
)
def test_every_click_is_honored(values: np.ndarray, clicks: list[Click], config: PostprocessConfig) -> None:
    labels = postprocess(values, config, 0.5, clicks)
    wanted = {(int(click.row), int(click.col)): click.positive for click in clicks}
    for pixel, positive in wanted.items():
        assert bool(labels[pixel]) == positive


@given(
    values=hnp.arrays(np.float32, (3, 16, 20), elements=st.sampled_from([0.125, 0.25, 0.5, 0.75])),
    clicks=clicks_strategy,
    config=st.builds(
        PostprocessConfig, fill_holes=st.booleans(), largest_only=st.booleans(), min_area=st.integers(0, 50)
    ),
)
def test_every_click_is_honored_with_classes(
    values: np.ndarray, clicks: list[Click], config: PostprocessConfig
) -> None:
    labels = postprocess(values, config, 0.5, clicks)
    wanted = {(int(click.row), int(click.col)): click.positive for click in clicks}
    for pixel, positive in wanted.items():
        assert bool(labels[pixel]) == positive


def test_classes_without_cleaning_are_the_most_probable_ones(rng: np.random.Generator) -> None:
    probability = rng.dirichlet(np.ones(4), (30, 40)).transpose(2, 0, 1).astype(np.float32)
    labels = postprocess(probability, RAW, 0.5)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, probability.argmax(axis=0))


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.75])
def test_two_classes_are_as_good_as_one_map(rng: np.random.Generator, threshold: float) -> None:
    lesion = rng.integers(0, 9, (30, 40)).astype(np.float32) / 8
    both = np.stack([1 - lesion, lesion])
    np.testing.assert_array_equal(postprocess(both, RAW, threshold), postprocess(lesion, RAW, threshold))


def one_hot(labels: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[labels].transpose(2, 0, 1)


def test_a_class_inside_another_survives_the_filling() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[10:50, 10:60] = 1
    truth[20:40, 20:40] = 2
    truth[45:47, 45:47] = 0
    labels = postprocess(one_hot(truth, 3), PostprocessConfig(), 0.5)
    truth[45:47, 45:47] = 1
    np.testing.assert_array_equal(labels, truth)


def test_a_dropped_speck_of_another_class_is_filled_in() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[10:50, 10:60] = 1
    truth[20:22, 20:22] = 2
    labels = postprocess(one_hot(truth, 3), PostprocessConfig(), 0.5)
    assert labels[20, 20] == 1


@pytest.mark.parametrize("shape", [(8,), (1, 8, 8), (2, 3, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError, match="shape"):
        postprocess(np.zeros(shape, np.float32), RAW, 0.5)


def test_the_threshold_asked_for_wins() -> None:
    config = PostprocessConfig(threshold=0.3)
    assert resolve_threshold(0.2, config, 0.5) == 0.2
    assert resolve_threshold(None, config, 0.5) == 0.3
    assert resolve_threshold(None, PostprocessConfig(), 0.5) == 0.5
