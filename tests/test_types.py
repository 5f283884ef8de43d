from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.errors import LandmarkError
from napari_lesionseg.types import NOT_LABELED, VISIBLE, Landmarks, make_landmarks


def test_what_has_no_position_is_not_labeled() -> None:
    made = make_landmarks([(1, 2), (np.nan, 3), (5, 6)], [2, 2, 0])
    assert made.visibility.tolist() == [VISIBLE, NOT_LABELED, NOT_LABELED]
    assert np.isnan(made.points[1:]).all()
    assert made.scores.tolist() == [1, 0, 0]


def test_bounds_and_score_are_of_what_is_labeled() -> None:
    made = make_landmarks([(1, 20), (np.nan, np.nan), (5, 6)], scores=[0.5, 0.9, 1])
    assert made.bounds.tolist() == [1, 6, 5, 20]
    assert made.score == 0.75
    empty = make_landmarks([(np.nan, np.nan)])
    assert np.isnan(empty.bounds).all()
    assert empty.score == 0


@pytest.mark.parametrize(
    ("points", "visibility", "scores", "message"),
    [
        ([(1, 2)], [2, 2], [1], "each"),
        ([(1, 2)], [3], [1], "0, 1 or 2"),
        ([(1, 2)], [2], [np.nan], "between 0 and 1"),
        ([(np.nan, 2)], [1], [1], "no position"),
    ],
)
def test_unsound_landmarks_are_refused(
    points: list[tuple[float, float]], visibility: list[int], scores: list[float], message: str
) -> None:
    with pytest.raises(LandmarkError, match=message):
        Landmarks(np.array(points, np.float32), np.array(visibility, np.uint8), np.array(scores, np.float32))
