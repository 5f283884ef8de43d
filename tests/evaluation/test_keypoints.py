from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.evaluation.keypoints import average_precision, pck, score_landmarks
from napari_lesionseg.types import Landmarks, make_landmarks

SQUARE = np.array([(0, 0), (0, 100), (100, 0), (100, 100)], float)


def person(shift: float = 0.0, **settings: object) -> Landmarks:
    return make_landmarks(SQUARE + shift, **settings)


def test_exact_landmarks_score_one() -> None:
    truth = [[person(), person(200)], [], [person()]]
    scores = score_landmarks(truth, truth)
    assert scores.pck == 1
    assert scores.precision == pytest.approx(1)


def test_a_landmark_counts_within_a_tenth_of_the_person() -> None:
    near, far = SQUARE.copy(), SQUARE.copy()
    near[0, 0], far[0, 0] = 9.9, 10.1
    assert pck([[person()]], [[make_landmarks(near)]]) == 1
    assert pck([[person()]], [[make_landmarks(far)]]) == 0.75
    assert pck([[person()]], [[make_landmarks(near)]], 0.05) == 0.75


def test_a_missed_person_counts_and_a_person_counts_once() -> None:
    assert pck([[person(), person(300)]], [[person()]]) == 0.5
    assert pck([[person(), person(0.5)]], [[person()]]) == 0.5
    assert pck([[person()]], [[]]) == 0


def test_what_is_not_labeled_counts_for_nothing() -> None:
    truth = person(visibility=[2, 1, 0, 0])
    found = make_landmarks(SQUARE + np.array([(0, 0), (50, 0), (90, 90), (90, 90)]))
    assert pck([[truth]], [[found]]) == 0.5
    assert pck([[]], [[person()]]) == 0


def test_precision_follows_the_similarity() -> None:
    """OKS is exp(-d^2 / (2 area (2 sigma)^2)): a shift that gives 0.72 passes 5 of the 10 thresholds."""
    area, sigma = 0.53 * 100 * 100, 0.05
    distance = np.sqrt(-2 * area * (2 * sigma) ** 2 * np.log(0.72))
    moved = make_landmarks(SQUARE + np.array([distance, 0]))
    assert average_precision([[person()]], [[moved]], [sigma] * 4) == pytest.approx(0.5)


def test_a_wrong_person_lowers_the_precision_if_it_is_more_certain() -> None:
    wrong = person(500, scores=np.full(4, 0.9))
    right = person(scores=np.full(4, 0.5))
    assert average_precision([[person()]], [[wrong, right]]) == pytest.approx(0.5, abs=0.01)
    assert average_precision([[person()]], [[person(scores=np.full(4, 0.95)), wrong]]) == pytest.approx(1)
    assert average_precision([[person()]], [[]]) == 0
