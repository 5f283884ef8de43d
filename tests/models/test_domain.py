from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.domain import DomainStatistics
from napari_lesionseg.models.mixture import FAR

NUMBERS = 6
MIXING = np.random.default_rng(0).normal(size=(NUMBERS, NUMBERS)) * np.geomspace(5, 0.05, NUMBERS)
"""Makes descriptions of numbers that hang together, and vary by much or little."""


def draw(images: int, seed: int, shift: float = 0) -> NDArray[np.float32]:
    """Descriptions of images of one kind; of another one, if the second number is shifted."""
    made = 3 + np.random.default_rng(seed).normal(size=(images, NUMBERS)) @ MIXING.T
    made[:, 1] += shift
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def training() -> NDArray[np.float32]:
    return draw(2000, seed=1)


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
    assert DomainStatistics.of(draw(0, seed=2)) is None
    assert DomainStatistics.of(draw(1, seed=2)) is None
    assert DomainStatistics.of(draw(2, seed=2)) is not None


def test_a_number_that_is_the_same_for_all_images_has_no_spread() -> None:
    made = draw(20, seed=2)
    made[:, 3] = 0.1
    assert DomainStatistics.of(made) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"covariance": (1.0, 0.0)}, "lower triangle"),
        ({"covariance": (1.0, 0.0, 1.0, 0.0)}, "lower triangle"),
        ({"covariance": (1.0, 0.0, 0.0)}, "positive"),
        ({"covariance": (-1.0, 0.0, 1.0)}, "positive"),
        ({"covariance": (1.0, 2.0, 1.0)}, "no images"),
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
    other = draw(5, seed=3, shift=10)
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
        direction = domain.direction_to(draw(4, seed=10 + seed, shift=seed))
        distances = direction.distances(training)
        assert distances.shape == (2000,)
        assert distances.dtype == direction.weight.dtype == np.float32
        assert abs(distances.mean()) < 1e-3
        assert distances.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("images", [1, 5, 30])
def test_another_kind_is_far_and_the_same_kind_is_not(domain: DomainStatistics, images: int) -> None:
    spread = np.sqrt(covariance(domain)[1, 1])
    direction = domain.direction_to(draw(images, seed=4, shift=6 * spread))
    others, same = draw(300, seed=5, shift=6 * spread), draw(300, seed=6)
    assert (direction.distances(others) > FAR).mean() > 0.95
    assert (direction.distances(same) > FAR).mean() < 0.06


def test_what_hangs_together_is_taken_into_account() -> None:
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
    training, other = draw(50, seed=1), draw(images, seed=seed, shift=4)
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
    domain = DomainStatistics.of(draw(images, seed=20 + seed))
    assert domain is not None
    other = draw(3, seed=40 + seed)
    assert np.isfinite(domain.direction_to(other).distances(other)).all()
