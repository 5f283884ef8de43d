"""Skeletons as text."""

from __future__ import annotations

import pytest

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks.skeletons import PRESETS, describe_skeleton, parse_skeleton
from napari_lesionseg.errors import LandmarkError


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_read_and_described(name: str) -> None:
    skeleton = parse_skeleton(name)
    assert parse_skeleton(describe_skeleton(skeleton)) == skeleton


def test_the_preset_of_a_person_has_the_landmarks_of_coco() -> None:
    person = parse_skeleton("person")
    assert len(person.names) == 17
    assert len(person.symmetries) == 8


def test_dashes_join_and_commas_separate() -> None:
    skeleton = parse_skeleton("nose, neck - left_hand, neck - right_hand")
    assert skeleton.names == ("nose", "neck", "left_hand", "right_hand")
    assert skeleton.edges == ((1, 2), (1, 3))
    assert skeleton.symmetries == ((2, 3),)


def test_names_may_hold_dashes_without_spaces() -> None:
    assert parse_skeleton("body-part, tail").names == ("body-part", "tail")


def test_a_skeleton_whose_lines_are_not_in_the_order_of_its_names_is_described() -> None:
    skeleton = Skeleton.from_names(["a", "b", "c"], [(2, 0), (0, 1)])
    again = parse_skeleton(describe_skeleton(skeleton))
    assert again.names == skeleton.names
    assert set(again.edges) == set(skeleton.edges)


@pytest.mark.parametrize("text", ["", "a,,b", "a - ", "a - a", "a\n, b\x00"])
def test_what_is_no_skeleton_is_explained(text: str) -> None:
    with pytest.raises(LandmarkError):
        parse_skeleton(text)
