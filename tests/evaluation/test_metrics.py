from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist

from napari_lesionseg.errors import MaskError
from napari_lesionseg.evaluation.metrics import (
    FAILURE_LIMIT,
    ImageScores,
    hausdorff95,
    score_classes,
    score_masks,
    summarize,
)
from napari_lesionseg.types import IGNORED

masks = hnp.arrays(np.uint8, (12, 15), elements=st.integers(0, 1))


def box(top: int, left: int, bottom: int, right: int, shape: tuple[int, int] = (30, 40)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def slow_border(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1) > 0
    return np.array(
        [
            (row, col)
            for row, col in np.argwhere(mask)
            if not (
                padded[row, col + 1]
                and padded[row + 2, col + 1]
                and padded[row + 1, col]
                and padded[row + 1, col + 2]
            )
        ]
    )


def test_known_counts() -> None:
    scores = score_masks(box(0, 0, 10, 10), box(0, 5, 10, 15))
    assert scores.dice == pytest.approx(0.5)
    assert scores.jaccard == pytest.approx(1 / 3)
    assert scores.sensitivity == pytest.approx(0.5)
    assert scores.specificity == pytest.approx(1050 / 1100)
    assert scores.failed
    assert scores.thresholded_jaccard == 0
    assert scores.hd95 == pytest.approx(5)
    assert scores.hd95_percent == pytest.approx(100 * 5 / 50)


def test_the_same_mask_is_perfect_whatever_its_values() -> None:
    mask = box(3, 4, 12, 20)
    assert score_masks(mask * 255, mask.astype(bool)) == ImageScores(1, 1, 1, False, 1, 1, 0, 0)


@pytest.mark.parametrize(("size", "failed"), [(65, False), (64, True)])
def test_the_limit_of_failure_is_itself_no_failure(size: int, failed: bool) -> None:
    truth = np.ones((10, 10), np.uint8)
    predicted = (np.arange(100) < size).reshape(10, 10)
    scores = score_masks(predicted, truth)
    assert scores.jaccard == size / 100
    assert scores.failed is failed
    assert scores.thresholded_jaccard == (0 if failed else FAILURE_LIMIT)


def test_two_empty_masks_agree() -> None:
    empty = np.zeros((30, 40), np.uint8)
    assert score_masks(empty, empty) == ImageScores(1, 1, 1, False, 1, 1, 0, 0)


def test_a_missed_lesion_is_as_bad_as_can_be() -> None:
    scores = score_masks(np.zeros((30, 40), np.uint8), box(2, 2, 9, 9))
    assert scores == ImageScores(0, 0, 0, True, 0, 1, 50, 100)


def test_a_lesion_seen_where_none_is() -> None:
    scores = score_masks(box(0, 0, 30, 20), np.zeros((30, 40), np.uint8))
    assert scores == ImageScores(0, 0, 0, True, 1, 0.5, 50, 100)


def test_a_truth_that_fills_the_image_has_full_specificity() -> None:
    full = np.ones((30, 40), np.uint8)
    assert score_masks(box(0, 0, 30, 20), full).specificity == 1


@given(predicted=masks, truth=masks)
def test_distance_agrees_with_all_pairs_of_border_pixels(predicted: np.ndarray, truth: np.ndarray) -> None:
    here, there = slow_border(predicted), slow_border(truth)
    if len(here) == 0 or len(there) == 0:
        expected = 0.0 if len(here) == len(there) else math.hypot(12, 15)
    else:
        pairs = cdist(here, there)
        expected = max(np.percentile(pairs.min(axis=0), 95), np.percentile(pairs.min(axis=1), 95))
    assert hausdorff95(predicted, truth) == pytest.approx(expected)


@given(predicted=masks, truth=masks)
def test_dice_follows_from_jaccard_and_order_does_not_matter(
    predicted: np.ndarray, truth: np.ndarray
) -> None:
    scores, swapped = score_masks(predicted, truth), score_masks(truth, predicted)
    assert scores.dice == pytest.approx(2 * scores.jaccard / (1 + scores.jaccard))
    assert (scores.dice, scores.hd95) == (swapped.dice, swapped.hd95)
    assert 0 <= scores.hd95_percent <= 100


@pytest.mark.parametrize("shape", [(30, 41), (30, 40, 1), (30,)])
def test_masks_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MaskError, match="shape"):
        score_masks(np.zeros(shape, np.uint8), np.zeros((30, 40), np.uint8))


def test_classes_are_scored_one_by_one() -> None:
    truth = np.array([[0, 1, 1, 2], [0, 0, 0, 0]], np.uint8)
    predicted = np.array([[0, 1, 2, 2], [0, 0, 0, 0]], np.uint8)
    network, globules, veil = score_classes(predicted, truth, ["background", "network", "globules", "veil"])
    assert (network.name, network.dice, network.jaccard) == ("network", pytest.approx(2 / 3), 0.5)
    assert (globules.dice, globules.jaccard) == (pytest.approx(2 / 3), 0.5)
    assert (veil.dice, veil.jaccard) == (1, 1)
    assert (network.present, globules.present, veil.present) == (True, True, False)


def test_a_class_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(MaskError, match="class 3"):
        score_classes(np.zeros((2, 2), np.uint8), np.full((2, 2), 3, np.uint8), ["background", "lesion"])


def some_scores(jaccards: np.ndarray) -> list[ImageScores]:
    return [
        ImageScores(2 * j / (1 + j), j, j if j >= 0.65 else 0.0, bool(j < 0.65), j, 1.0, 3.0, 1.0)
        for j in jaccards.tolist()
    ]


def test_summary_has_the_means(rng: np.random.Generator) -> None:
    jaccards = rng.uniform(0.4, 1, 50)
    summary = summarize(some_scores(jaccards))
    assert summary.images == 50
    assert summary.jaccard.mean == pytest.approx(jaccards.mean())
    assert summary.failure_rate.mean == pytest.approx((jaccards < 0.65).mean())
    assert summary.thresholded_jaccard.mean == pytest.approx(np.where(jaccards < 0.65, 0, jaccards).mean())


def test_interval_is_that_of_the_normal_distribution_for_many_images(rng: np.random.Generator) -> None:
    jaccards = rng.uniform(0.4, 1, 400)
    estimate = summarize(some_scores(jaccards)).jaccard
    half = 1.96 * jaccards.std() / math.sqrt(400)
    assert estimate.low == pytest.approx(estimate.mean - half, abs=0.15 * half)
    assert estimate.high == pytest.approx(estimate.mean + half, abs=0.15 * half)


def test_interval_repeats_with_the_seed_and_widens_with_the_confidence(rng: np.random.Generator) -> None:
    scores = some_scores(rng.uniform(0.4, 1, 30))
    assert summarize(scores, seed=3) == summarize(scores, seed=3)
    narrow, wide = summarize(scores, confidence=0.5).dice, summarize(scores, confidence=0.99).dice
    assert wide.low < narrow.low < narrow.high < wide.high


def test_images_that_all_agree_have_an_interval_of_no_width() -> None:
    estimate = summarize(some_scores(np.full(5, 0.8))).specificity
    assert (estimate.mean, estimate.low, estimate.high) == (1, 1, 1)


def test_no_failure_among_few_images_does_not_rule_out_failures() -> None:
    rate = summarize(some_scores(np.full(20, 0.8))).failure_rate
    assert rate.mean == 0
    assert rate.low == pytest.approx(0, abs=1e-12)
    assert rate.high == pytest.approx(1.96**2 / (20 + 1.96**2), rel=1e-3)  # Wilson 1927, for 0 of 20


def test_one_image_has_no_interval() -> None:
    estimate = summarize(some_scores(np.array([0.8]))).jaccard
    assert (estimate.mean, estimate.low, estimate.high) == (0.8, None, None)


def test_nothing_cannot_be_averaged() -> None:
    with pytest.raises(MaskError, match="no image"):
        summarize([])


def test_ignored_pixels_count_neither_way() -> None:
    truth = np.array([[1, 1, 0, 0, IGNORED, IGNORED]], np.uint8)
    predicted = np.array([[1, 1, 0, 0, 1, 0]], np.uint8)
    scores = score_masks(predicted, truth)
    assert (scores.dice, scores.specificity, scores.hd95) == (1.0, 1.0, 0.0)
    assert score_classes(predicted, truth, ("background", "lesion"))[0].jaccard == 1.0
