from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.agreement import (
    dice,
    find_consensus,
    measure_agreement,
    measure_field_agreement,
)

needs_simpleitk = pytest.mark.skipif(
    importlib.util.find_spec("SimpleITK") is None,
    reason="SimpleITK, of the extra [agreement], is not installed",
)
needs_statsmodels = pytest.mark.skipif(
    importlib.util.find_spec("statsmodels") is None,
    reason="statsmodels, of the extra [agreement], is not installed",
)


def disc(row: float, col: float, radius: float) -> np.ndarray:
    rows, cols = np.mgrid[:60, :80]
    return (((rows - row) ** 2 + (cols - col) ** 2) < radius**2).astype(np.uint8)


def staple(decisions: np.ndarray, iterations: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """STAPLE as in equations 14 to 19 of the paper, to check the library's: (R, N) decisions."""
    prior = decisions.mean()
    p = q = np.full(len(decisions), 0.99999)
    weight = np.zeros(decisions.shape[1])
    for _ in range(iterations):
        a = prior * np.prod(np.where(decisions, p[:, None], 1 - p[:, None]), axis=0)
        b = (1 - prior) * np.prod(np.where(decisions, 1 - q[:, None], q[:, None]), axis=0)
        weight = a / (a + b)
        p = (decisions * weight).sum(axis=1) / weight.sum()
        q = ((1 - decisions) * (1 - weight)).sum(axis=1) / (1 - weight).sum()
    return weight, p, q


def test_dice() -> None:
    a, b = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    assert dice(a, b) == 1.0
    a[0, :3] = 1
    assert dice(a, b) == 0.0
    b[0, 1:4] = 2
    assert dice(a, b) == pytest.approx(2 * 2 / 6)
    assert dice(a, b, label=1) == 0.0
    with pytest.raises(StudyError, match="cannot be compared"):
        dice(a, b[:2])


def test_agreement_of_annotators_over_images() -> None:
    full, half, none = (np.zeros((2, 4), np.uint8) for _ in range(3))
    full[:], half[0] = 1, 1
    masks = [{"bo": full, "am": half}, {"am": full, "bo": full, "cy": none}, {"dee": full}]
    found = measure_agreement(masks)
    assert found.annotators == ("am", "bo", "cy", "dee")
    assert found.similarity[0, 1] == found.similarity[1, 0] == pytest.approx((2 / 3 + 1) / 2)
    assert found.similarity[0, 2] == 0.0
    assert np.isnan(found.similarity[0, 3])
    assert np.diag(found.similarity).tolist() == [1, 1, 1, 1]
    assert found.images.tolist() == [[2, 2, 1, 0], [2, 2, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]
    assert found.mean == pytest.approx((5 / 6 + 0 + 0) / 3)


def test_agreement_of_nobody() -> None:
    assert measure_agreement([]).mean is None
    assert measure_agreement([{"am": disc(30, 40, 9)}]).mean is None


@needs_simpleitk
def test_the_consensus_is_staple() -> None:
    masks = {"am": disc(30, 40, 15), "bo": disc(31, 42, 16), "cy": disc(30, 41, 12)}
    found = find_consensus(masks)
    weight, p, q = staple(np.array([mask.ravel() for mask in masks.values()], float))
    assert np.allclose(found.probability.ravel(), weight, atol=1e-3)
    assert list(found.sensitivity) == ["am", "bo", "cy"]
    assert np.allclose(list(found.sensitivity.values()), p, atol=1e-3)
    assert np.allclose(list(found.specificity.values()), q, atol=1e-3)
    assert np.array_equal(found.labels, found.probability > 0.5)


@needs_simpleitk
def test_two_good_annotators_outvote_a_bad_one() -> None:
    good = disc(30, 40, 15)
    found = find_consensus({"am": good, "bo": good, "cy": disc(10, 10, 8)})
    assert np.array_equal(found.labels, good)
    assert found.sensitivity["cy"] < 0.1 < 0.9 < found.sensitivity["am"]


@needs_simpleitk
def test_a_consensus_of_one_class() -> None:
    labels = disc(30, 40, 15) * 2
    found = find_consensus({"am": labels, "bo": labels, "cy": labels // 2}, label=2)
    assert np.array_equal(found.labels, labels // 2)


@pytest.mark.parametrize("labels", [np.zeros((5, 6), np.uint8), np.ones((5, 6), np.uint8), disc(30, 40, 9)])
def test_annotators_who_agree_need_no_estimate(labels: np.ndarray) -> None:
    found = find_consensus({"am": labels, "bo": labels.copy()})
    assert np.array_equal(found.labels, labels)
    assert found.sensitivity == found.specificity == {"am": 1.0, "bo": 1.0}
    assert found.probability.dtype == np.float32


def test_what_is_no_consensus() -> None:
    with pytest.raises(StudyError, match="at least two annotators"):
        find_consensus({"am": disc(30, 40, 9)})
    with pytest.raises(StudyError, match="differ in shape"):
        find_consensus({"am": disc(30, 40, 9), "bo": disc(30, 40, 9)[:4]})


def test_without_simpleitk_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(StudyError, match=r"napari-lesionseg\[agreement\]"):
        find_consensus({"am": disc(30, 40, 9), "bo": disc(30, 40, 8)})


@needs_statsmodels
def test_cohens_kappa_of_a_textbook_table() -> None:
    """20 times both yes, 15 times both no, 5 and 10 times yes and no: 0.4."""
    pairs = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    found = measure_field_agreement("veil", [{"am": a, "bo": b} for a, b in pairs] + [{"am": "yes"}])
    assert found is not None
    assert found.images == 50
    count, kappa = found.cohen["am", "bo"]
    assert (count, kappa) == (50, pytest.approx(0.4))


@needs_statsmodels
def test_fleiss_kappa_of_fleiss_own_kind_of_table() -> None:
    """Ten subjects, fourteen raters, five categories: 0.210, the standard example."""
    counts = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    ratings = []
    for row in counts:
        values = [str(value) for value, count in enumerate(row) for _ in range(count)]
        ratings.append({f"r{number:02}": value for number, value in enumerate(values)})
    found = measure_field_agreement("finding", ratings)
    assert found is not None
    assert found.fleiss == pytest.approx(0.210, abs=0.0005)


def test_kappa_needs_two_annotators() -> None:
    assert measure_field_agreement("veil", [{"am": "yes"}, {"bo": "no"}, {}]) is None


@needs_statsmodels
def test_kappa_is_not_defined_where_everybody_always_says_the_same() -> None:
    found = measure_field_agreement("veil", [{"am": "no", "bo": "no"}] * 3)
    assert found is not None
    assert np.isnan(found.cohen["am", "bo"][1])
