from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.errors import TrainingError
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.finetuning.comparison import (
    ScoredPrediction,
    collect_changes,
    compare,
    compare_pair,
    judge,
    predict_pair,
)
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.types import IGNORED

SHAPE = (20, 30)


def square(side: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:side, :side] = 1
    return mask


def outlined(stem: str, side: int, truth: int = 10) -> ScoredPrediction:
    pair = CachedPair(stem, np.zeros((*SHAPE, 3), np.uint8), square(truth))
    return ScoredPrediction(pair, square(side), score_masks(square(side), pair.labels))


def test_differences_are_paired() -> None:
    before = [outlined("a", 5), outlined("b", 8), outlined("c", 10)]
    after = [outlined("a", 10), outlined("b", 9), outlined("c", 10)]
    comparison = compare(before, after)
    assert comparison.jaccard.before == pytest.approx((0.25 + 0.64 + 1) / 3)
    assert comparison.jaccard.after == pytest.approx((1 + 0.81 + 1) / 3)
    difference = comparison.jaccard.difference
    assert difference.mean == pytest.approx(comparison.jaccard.after - comparison.jaccard.before)
    assert difference.low is not None
    assert difference.high is not None
    assert difference.low <= difference.mean <= difference.high
    assert (comparison.failures.before, comparison.failures.after) == pytest.approx((2 / 3, 0))
    assert comparison.gains
    assert not comparison.better  # one image did not change, so the interval of three includes zero


def test_better_is_a_gain_whose_interval_excludes_zero() -> None:
    before = [outlined(str(number), 5) for number in range(8)]
    steady = compare(before, [outlined(str(number), 6 + number % 2) for number in range(8)])
    mixed = compare(before, [outlined(str(number), 6 if number == 0 else 4) for number in range(8)])
    lucky = compare(before, [outlined(str(number), 10 if number < 2 else 5) for number in range(8)])
    assert (steady.gains, steady.better) == (True, True)
    assert (mixed.gains, mixed.better) == (False, False)
    assert (lucky.gains, lucky.better) == (True, False)
    assert judge(steady)[1].startswith("The new model is better: ")
    assert judge(lucky)[1].startswith("The new model may be better, but this could be chance: ")
    assert judge(mixed)[1].startswith("The new model is no better: ")


def test_what_is_alike_in_both_cancels_out() -> None:
    """Images that are hard for both models do not blur a steady gain."""
    sides = [3, 5, 7, 9] * 4
    before = [outlined(str(number), side) for number, side in enumerate(sides)]
    same = compare(before, before)
    assert same.jaccard.difference == type(same.jaccard.difference)(0.0, 0.0, 0.0)
    assert not same.better


def test_a_gain_that_is_told_as_the_same_figure_is_none() -> None:
    side, truth = 30, 100
    large = np.zeros((120, 120), np.uint8)
    large[:truth, :truth] = 1
    pair = CachedPair("a", np.zeros((120, 120, 3), np.uint8), large)
    less = large.copy()
    less[0, :side] = 0
    hardly = less.copy()
    hardly[0, 0] = 1
    old, new, best = (
        ScoredPrediction(pair, mask, score_masks(mask, large)) for mask in (less, hardly, large)
    )
    assert compare([old], [new]).jaccard.difference.mean > 0
    assert not compare([old], [new]).gains
    assert compare([old], [best]).gains
    assert not compare([old], [best]).better  # one image has no interval


def test_one_image_has_no_interval() -> None:
    difference = compare([outlined("a", 5)], [outlined("a", 8)]).dice.difference
    assert (difference.low, difference.high) == (None, None)
    assert difference.mean > 0


def test_same_seed_same_interval() -> None:
    before = [outlined(stem, 5) for stem in "abcd"]
    after = [outlined(stem, side) for stem, side in zip("abcd", (6, 9, 4, 8), strict=True)]
    assert compare(before, after).jaccard == compare(before, after).jaccard


def test_most_changed_come_first() -> None:
    before = [outlined(stem, 10) for stem in "abc"]
    after = [outlined("a", 9), outlined("b", 2), outlined("c", 10)]
    comparison = compare(before, after)
    assert [change.stem for change in comparison.most_changed(2)] == ["b", "a"]
    assert comparison.most_changed()[0].changed == pytest.approx(0.96)
    assert comparison.images[2].changed == 0


def test_two_empty_outlines_have_not_changed() -> None:
    assert compare([outlined("a", 0)], [outlined("a", 0)]).images[0].changed == 0


def test_other_images_cannot_be_compared() -> None:
    with pytest.raises(TrainingError):
        compare([outlined("a", 5)], [outlined("b", 5)])
    with pytest.raises(TrainingError):
        compare([], [])


def test_record_for_the_card_is_plain() -> None:
    record = compare([outlined("a", 5)], [outlined("a", 10)]).to_record()
    assert record["images"] == 1
    assert (record["jaccard_before"], record["jaccard"]) == (0.25, 1.0)
    assert record["jaccard_change_low"] is None


def test_models_are_compared_as_users_get_them(tiny_model: Model, discs: list[CachedPair]) -> None:
    comparison = collect_changes([compare_pair(tiny_model, tiny_model, pair) for pair in discs])
    assert comparison.dice.difference.mean == 0
    assert len(comparison.images) == 5
    expected = predict_pair(tiny_model, discs[0])
    np.testing.assert_array_equal(comparison.images[0].before.labels, expected.labels)
    assert comparison.images[0].before.scores == expected.scores


def test_ignored_pixels_count_for_nothing(tiny_model: Model, discs: list[CachedPair]) -> None:
    everything = discs[0]._replace(labels=np.full_like(discs[0].labels, IGNORED))
    assert predict_pair(tiny_model, everything).scores.jaccard == 1
