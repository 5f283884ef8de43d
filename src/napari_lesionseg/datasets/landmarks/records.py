"""Landmarks of many images, whatever file they come from, and the images they belong to."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.types import NOT_LABELED, OCCLUDED, Landmarks, Mark, make_landmarks

MAX_POSITION = 1e6
"""Farthest row or column, in pixels, that counts as one; what is farther out is no position."""


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkImage:
    """An image and its landmarks.

    Parameters
    ----------
    name : str
        The file, as the source names it; folders are separated by "/".
    people : tuple of Landmarks
        In the order of the dataset's skeleton; empty if nobody is there.
    shape : (int, int) or None
        Height and width of the image, where they are known.
    facts : mapping
        What else the source says of the people, where it is the same for all of them.
    """

    name: str
    people: tuple[Landmarks, ...]
    shape: tuple[int, int] | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkDataset:
    """Landmarks of many images.

    Parameters
    ----------
    skeleton : Skeleton
        What the landmarks are called.
    images : tuple of LandmarkImage
        In the order of the source.
    problems : tuple of Problem
        What was left out or needs a look.
    """

    skeleton: Skeleton
    images: tuple[LandmarkImage, ...]
    problems: tuple[Problem, ...] = ()


class LandmarkPair(NamedTuple):
    """An image file and what is known of it."""

    path: Path
    image: LandmarkImage


class LandmarkSearch(NamedTuple):
    """Images with landmarks, and what is left over on either side."""

    pairs: tuple[LandmarkPair, ...]
    without_landmarks: tuple[Path, ...]
    without_image: tuple[LandmarkImage, ...]
    problems: tuple[Problem, ...]


def match_images(paths: Sequence[Path], dataset: LandmarkDataset) -> LandmarkSearch:
    """Find the landmarks of each image by the file's name; where several have it, by its folders."""
    by_name: dict[str, list[LandmarkImage]] = {}
    for image in dataset.images:
        by_name.setdefault(_parts(image.name)[-1], []).append(image)
    pairs: list[LandmarkPair] = []
    without: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        found = by_name.get(_parts(path.as_posix())[-1], [])
        if len(found) > 1:
            shared = [_shared_end(path, image) for image in found]
            found = [image for image, count in zip(found, shared, strict=True) if count == max(shared)]
        if len(found) > 1:
            problems.append(Problem(str(path), "Several entries may be meant, and none is used."))
        elif found:
            pairs.append(LandmarkPair(path, found[0]))
        else:
            without.append(path)
    used = {id(pair.image) for pair in pairs}
    lost = tuple(image for image in dataset.images if id(image) not in used)
    return LandmarkSearch(tuple(pairs), tuple(without), lost, tuple(problems))


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(unicodedata.normalize("NFC", name).casefold()).parts or ("",)


def _shared_end(path: Path, image: LandmarkImage) -> int:
    """Count how many of the last folders two files have in common."""
    shared = 0
    for mine, theirs in zip(_parts(path.as_posix())[::-1], _parts(image.name)[::-1], strict=False):
        if mine != theirs:
            break
        shared += 1
    return shared


def people_of(
    marks: Iterable[Mark], skeleton: Skeleton, name: str = ""
) -> tuple[tuple[Landmarks, ...], tuple[Problem, ...]]:
    """Return marks of an image as landmarks, one set for each id, and the marks that are in none.

    These have unknown labels, or no position, or come twice; each is a problem of ``name``.
    """
    found: dict[str, dict[str, Mark]] = {}
    problems = []
    for mark in marks:
        person = found.setdefault(mark.id, {})
        reason = _why_unusable(mark, person, skeleton)
        if reason:
            problems.append(Problem(name, reason, left_out=False))
        else:
            person[mark.label] = mark
    people = [_person(person, skeleton, number) for number, person in found.items() if person]
    return tuple(people), tuple(problems)


def _why_unusable(mark: Mark, person: Container[str], skeleton: Skeleton) -> str:
    if mark.label not in skeleton.names:
        return f"The skeleton has no landmark '{mark.label}'; the point is kept, but not used."
    if not (math.isfinite(mark.row) and math.isfinite(mark.col)):
        return f"The landmark '{mark.label}' has no position and is not used."
    if mark.label in person:
        return f"The landmark '{mark.label}' is marked twice; the first point is used."
    return ""


def _person(marks: Mapping[str, Mark], skeleton: Skeleton, number: str) -> Landmarks:
    none = Mark("", math.nan, math.nan, NOT_LABELED, 0.0)
    row_of = [marks.get(name, none) for name in skeleton.names]
    return make_landmarks(
        [(mark.row, mark.col) for mark in row_of],
        [mark.visibility for mark in row_of],
        [mark.score for mark in row_of],
        number,
    )


def marks_of(people: Iterable[Landmarks], skeleton: Skeleton) -> tuple[Mark, ...]:
    """Return the labeled landmarks of all people as marks; people without an id of their own get numbers."""
    ids: list[str] = []
    marks: list[Mark] = []
    for person in people:
        free = (str(number) for number in count(2) if str(number) not in ids)
        ids.append(person.id if person.id not in ids else next(free))
        for index in np.flatnonzero(person.labeled).tolist():
            place = float(person.points[index, 0]), float(person.points[index, 1])
            seen, score = int(person.visibility[index]), float(person.scores[index])
            marks.append(Mark(skeleton.names[index], *place, seen, score, ids[-1]))
    return tuple(marks)


def check_ids(image: LandmarkImage) -> Iterator[Problem]:
    """Name the ids that several people of an image have; all but the first get numbers as ids."""
    times = Counter(person.id for person in image.people if person.id)
    for name, number in times.items():
        if number > 1:
            reason = f"{number} people have the id “{name}”; all are kept, all but one under a number."
            yield Problem(image.name, reason, left_out=False)


def check_places(image: LandmarkImage, names: Sequence[str]) -> Iterator[Problem]:
    """Name the landmarks that lie outside of their image; they are kept."""
    if image.shape is None:
        return
    for number, person in enumerate(image.people, 1):
        outside = [names[index] for index in np.flatnonzero(outside_of(person, image.shape)).tolist()]
        if outside:
            who = f" of person {person.id or number}" if len(image.people) > 1 else ""
            verb = "lies" if len(outside) == 1 else "lie"
            reason = f"{', '.join(outside)}{who} {verb} outside the image; kept, but not used in training."
            yield Problem(image.name, reason, left_out=False)


def outside_of(person: Landmarks, shape: tuple[int, int]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which labeled landmarks lie outside an image, shape (K,)."""
    outside = (person.points < -0.5) | (person.points > np.array(shape) - 0.5)
    return np.asarray(outside.any(axis=1) & person.labeled)


def keep_inside(person: Landmarks, shape: tuple[int, int]) -> Landmarks:
    """Return landmarks of which those outside the image are not labeled."""
    seen = np.where(outside_of(person, shape), NOT_LABELED, person.visibility)
    return make_landmarks(person.points, seen, person.scores, person.id)


def count_occluded(images: Iterable[LandmarkImage]) -> int:
    """Count the landmarks that are labeled but occluded."""
    return sum(int((person.visibility == OCCLUDED).sum()) for image in images for person in image.people)


def reorder(dataset: LandmarkDataset, skeleton: Skeleton) -> LandmarkDataset:
    """Return a dataset in the order of another skeleton; labels that it lacks become problems.

    Landmarks that only the other skeleton has are not labeled.
    """
    if dataset.skeleton.names == skeleton.names:
        return replace(dataset, skeleton=skeleton)
    unknown = [name for name in dataset.skeleton.names if name not in skeleton.names]
    places = [
        dataset.skeleton.names.index(name) if name in dataset.skeleton.names else -1
        for name in skeleton.names
    ]
    problems = [
        Problem(name, "The skeleton has no landmark of this name; it is left out.") for name in unknown
    ]
    images = tuple(
        replace(image, people=tuple(_picked(person, places) for person in image.people))
        for image in dataset.images
    )
    return LandmarkDataset(skeleton, images, (*dataset.problems, *problems))


def _picked(person: Landmarks, places: Sequence[int]) -> Landmarks:
    """Return some of a person's landmarks; -1 stands for one that is not labeled."""
    index = np.array(places)
    visibility = np.where(index < 0, NOT_LABELED, person.visibility[index])
    return make_landmarks(person.points[index], visibility, person.scores[index], person.id)
