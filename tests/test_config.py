from __future__ import annotations

import pytest
from pydantic import ValidationError

from napari_lesionseg.config import Skeleton


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("Left Eye", "Right Eye"),
        ("l_eye", "r_eye"),
        ("eye_L", "eye_R"),
        ("lefteye", "righteye"),
    ],
)
def test_symmetries_follow_from_the_names(left: str, right: str) -> None:
    skeleton = Skeleton.from_names(["nose", left, right])
    assert skeleton.symmetries == ((1, 2),)
    assert skeleton.mirrored == [0, 2, 1]


def test_names_without_a_mirror_image_stay() -> None:
    assert Skeleton.from_names(["ruler_0", "ruler_10", "ball", "left_ear"]).symmetries == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"names": ["a", "a"]},
        {"names": ["a\n"]},
        {"names": ["a", "b"], "edges": [(0, 2)]},
        {"names": ["a", "b"], "edges": [(1, 1)]},
        {"names": ["a", "b", "c"], "symmetries": [(0, 1), (1, 2)]},
        {"names": []},
    ],
)
def test_unsound_skeletons_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Skeleton.model_validate(settings)
