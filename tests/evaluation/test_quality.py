from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.evaluation.quality import boundary_entropy, quality_estimate


def blurred_disc(width: float, size: int = 96) -> np.ndarray:
    """Probability of a disc of radius 30 whose edge is ``width`` pixels soft."""
    rows, cols = np.ogrid[:size, :size]
    distance = np.hypot(rows - size / 2, cols - size / 2) - 30
    return (1 / (1 + np.exp(distance / width))).astype(np.float32)


def test_a_sure_outline_is_perfect() -> None:
    probability = np.zeros((20, 30), np.float32)
    probability[5:10, 5:10] = 1
    assert quality_estimate(probability, 0.5) == 1


def test_known_value() -> None:
    probability = np.array([[0.9, 0.7, 0.3, 0.1]], np.float32)
    assert quality_estimate(probability, 0.5) == pytest.approx(1.6 / (2 + 0.4))
    assert quality_estimate(probability, 0.8) == pytest.approx(0.9 / (1 + 1.1))


def test_the_softer_the_worse() -> None:
    values = [quality_estimate(blurred_disc(width), 0.5) for width in (0.5, 2, 5, 10)]
    assert values == sorted(values, reverse=True)
    assert all(0 < value < 1 for value in values)


def test_nothing_found_is_worth_a_look() -> None:
    assert quality_estimate(np.full((8, 8), 0.2, np.float32), 0.5) == 0
    assert quality_estimate(np.zeros((8, 8), np.float32), 0.5) == 0


def test_an_outline_of_the_whole_image_is_worth_a_look() -> None:
    probability = np.ones((100, 100), np.float32)
    assert quality_estimate(probability, 0.5) == 0
    probability[0, :50] = 0
    assert quality_estimate(probability, 0.5) == pytest.approx(0.5)
    probability[0] = 0
    assert quality_estimate(probability, 0.5) == 1


def test_classes_may_fill_the_image() -> None:
    assert quality_estimate(np.stack([np.zeros((8, 8)), np.ones((8, 8))]).astype(np.float32), 0.5) == 1


def test_classes_are_taken_together() -> None:
    lesion = blurred_disc(3)
    classes = np.stack([1 - lesion, 0.7 * lesion, 0.3 * lesion])
    assert quality_estimate(classes, 0.5) == pytest.approx(quality_estimate(lesion, 0.5), abs=1e-5)
    assert boundary_entropy(classes, 0.5) == pytest.approx(boundary_entropy(lesion, 0.5), abs=1e-5)


def test_it_is_right_on_average_for_calibrated_probabilities(rng: np.random.Generator) -> None:
    probability = blurred_disc(4)
    truths = rng.random((40, *probability.shape)) < probability
    true = np.mean([score_masks(probability >= 0.5, truth).jaccard for truth in truths])
    assert quality_estimate(probability, 0.5) == pytest.approx(true, abs=0.01)


def test_entropy_of_the_boundary_grows_with_its_softness() -> None:
    values = [boundary_entropy(blurred_disc(width), 0.5) for width in (0.2, 1, 4, 30)]
    assert values == sorted(values)
    assert values[0] < 0.2
    assert 0.95 < values[-1] <= 1


def test_no_outline_has_no_entropy() -> None:
    assert boundary_entropy(np.full((8, 8), 0.4, np.float32), 0.5) == 0
    assert boundary_entropy(np.full((8, 8), 0.6, np.float32), 0.5) == 0


def test_entropy_is_that_of_the_band_alone() -> None:
    probability = np.zeros((9, 20), np.float32)
    probability[:, 10:] = 1
    probability[:, 9:11] = [0.25, 0.75]
    one = 2 - 0.75 * np.log2(3)  # entropy of 1/4 and 3/4 in bits
    assert boundary_entropy(probability, 0.5, width=1) == pytest.approx(one)
    assert boundary_entropy(probability, 0.5, width=2) == pytest.approx(one / 2)
