"""Skeletons as text: names with commas between them, and " - " between those that a line joins."""

from __future__ import annotations

from itertools import pairwise

from napari_lesionseg.config import Skeleton
from napari_lesionseg.errors import LandmarkError, SettingsError

_ARMS_AND_LEGS = ", ".join(
    f"{side}_{' - '.join((f'{start}', f'{side}_{middle}', f'{side}_{end}'))}"
    for start, middle, end in (("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle"))
    for side in ("left", "right")
)
PRESETS = {
    "eyes": "left_eye, right_eye",
    "face": "left_eye, right_eye, nose, left_mouth, right_mouth",
    "ruler": "ruler_start - ruler_end",
    "person": "nose - left_eye - left_ear, nose - right_eye - right_ear, left_shoulder - right_shoulder, "
    f"left_hip - right_hip, {_ARMS_AND_LEGS}, left_shoulder - left_hip, right_shoulder - right_hip",
}
"""Skeletons that are needed often; that of a person has the names of COCO."""


def parse_skeleton(text: str) -> Skeleton:
    """Read the name of a preset, or landmarks such as "nose, shoulder - elbow - hand".

    A name may come again to be joined to several others. Left and right follow from the names. A
    `LandmarkError` says what is wrong with the text.
    """
    names: dict[str, int] = {}
    edges: dict[tuple[int, int], None] = {}
    for part in PRESETS.get(text.strip().casefold(), text).split(","):
        chain = [name.strip() for name in part.split(" - ")]
        if not all(chain):
            raise LandmarkError("A name is missing: put one name before and after each comma and dash.")
        places = [names.setdefault(name, len(names)) for name in chain]
        if len(set(places)) < len(places):
            raise LandmarkError(f"“{part.strip()}” joins a landmark to itself.")
        edges |= dict.fromkeys(pairwise(places))
    try:
        return Skeleton.from_names(list(names), list(edges))
    except SettingsError as error:
        raise LandmarkError(f"These landmarks cannot be used. {error}") from error


def describe_skeleton(skeleton: Skeleton) -> str:
    """Return the text that `parse_skeleton` makes the same skeleton of, but for symmetries."""
    parts: list[list[int]] = []
    for one, other in skeleton.edges:
        if parts and parts[-1][-1] == one and other not in parts[-1]:
            parts[-1].append(other)
        else:
            parts.append([one, other])
    # In the order of the names: landmarks are numbered as they come.
    numbers = [number for part in parts for number in part]
    in_order = list(dict.fromkeys(numbers)) == sorted(set(numbers)) == list(range(len(skeleton.names)))
    single = [] if in_order else [[number] for number in range(len(skeleton.names))]
    return ", ".join(" - ".join(skeleton.names[number] for number in part) for part in (*single, *parts))
