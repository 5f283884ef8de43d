"""COCO keypoints: one JSON file with images, a category that names the landmarks, and people.

``keypoints`` are triples of column, row and visibility: 0 not labeled, 1 labeled but occluded, 2 visible. The
category's ``skeleton`` counts landmarks from 1. Two things are our own, and ignored by other programs:
``symmetries`` of the category, counted as ``skeleton`` is, and ``keypoint_scores`` of an annotation, beside
the ``score`` of COCO's results.

T.-Y. Lin et al., "Microsoft COCO: common objects in context", ECCV 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_lesionseg.config import Skeleton, find_symmetries
from napari_lesionseg.datasets.facts import agreed_attributes, further_facts
from napari_lesionseg.datasets.landmarks.records import (
    MAX_POSITION,
    LandmarkDataset,
    LandmarkImage,
    check_ids,
    check_places,
)
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.errors import DatasetError, SettingsError
from napari_lesionseg.evaluation.keypoints import person_area
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.tables import read_json
from napari_lesionseg.types import NOT_LABELED, Landmarks, make_landmarks

CATEGORY = "person"


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Image(_Lenient):
    id: int
    file_name: str = Field(min_length=1, max_length=1000)
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None


class _Category(_Lenient):
    id: int
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    symmetries: tuple[tuple[int, int], ...] | None = None


class _Person(_Lenient):
    id: int = 0
    image_id: int
    category_id: int
    keypoints: list[float]
    score: float = Field(1.0, ge=0, le=1)
    keypoint_scores: list[float] | None = None
    attributes: dict[str, Any] = Field(default_factory=dict)


def read(path: Path) -> LandmarkDataset:
    """Read a COCO keypoints file.

    Parameters
    ----------
    path : Path
        A JSON file with ``images``, ``categories`` and ``annotations``.

    Returns
    -------
    LandmarkDataset
        Images in the order of the file; symmetries follow from the names of the landmarks if the file has
        none. What cannot be used is named in `problems`, the rest is kept.

    Raises
    ------
    DatasetError
        If the file is no COCO file, or does not say what the landmarks are called.
    """
    content = read_json(path)
    keys = ("images", "categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise DatasetError(f"{path} is not a COCO keypoints file: it has no list of {', '.join(keys)}.")
    problems: list[Problem] = []
    category = _category(content["categories"], path, problems)
    skeleton = _skeleton(category, path, problems)
    people = _people(content["annotations"], category.id, len(skeleton.names), problems)
    images = list(_images(content["images"], people, _facts(content["annotations"]), problems))
    for number, found in people.items():
        problems.append(Problem(path.name, f"There is no image {number} for {len(found)} annotations."))
    problems += [problem for image in images for problem in check_places(image, skeleton.names)]
    problems += [problem for image in images for problem in check_ids(image)]
    return LandmarkDataset(skeleton, tuple(images), tuple(problems))


def _category(entries: Sequence[Any], path: Path, problems: list[Problem]) -> _Category:
    """Return the category that names landmarks; others become problems."""
    found = []
    for number, entry in enumerate(entries):
        try:
            found.append(_Category.model_validate(entry))
        except ValidationError as error:
            problems.append(Problem(f"category {number}", f"The entry is broken ({_first(error)})."))
    named = [category for category in found if category.keypoints]
    if not named:
        raise DatasetError(f"{path} has no category with the names of its keypoints.")
    if len(named) > 1:
        raise DatasetError(f"{path} has {len(named)} categories with keypoints; keep one of them.")
    return named[0]


def _skeleton(category: _Category, path: Path, problems: list[Problem]) -> Skeleton:
    count = len(category.keypoints)

    def sound(pairs: Sequence[tuple[int, int]], key: str) -> tuple[tuple[int, int], ...]:
        kept = []
        for one, other in pairs:
            if one != other and 1 <= one <= count and 1 <= other <= count:
                kept.append((one - 1, other - 1))
            else:
                reason = f"The pair ({one}, {other}) of {key} does not join two of the {count} keypoints."
                problems.append(Problem(path.name, reason))
        return tuple(kept)

    mirrored = category.symmetries
    try:
        return Skeleton(
            names=category.keypoints,
            edges=sound(category.skeleton, "skeleton"),
            symmetries=find_symmetries(category.keypoints)
            if mirrored is None
            else sound(mirrored, "symmetries"),
        )
    except SettingsError as error:
        raise DatasetError(f"The keypoints of {path} cannot be used. {error}") from error


def _people(
    entries: Sequence[Any], category: int, count: int, problems: list[Problem]
) -> dict[int, list[Landmarks]]:
    """Return the people of each image's number."""
    found: dict[int, list[Landmarks]] = {}
    seen = Counter[int]()
    others = 0
    for number, entry in enumerate(entries):
        name = f"annotation {entry.get('id', number) if isinstance(entry, dict) else number}"
        if isinstance(entry, dict) and entry.get("category_id") != category and "keypoints" not in entry:
            others += 1
            continue
        try:
            person = _Person.model_validate(entry)
            found.setdefault(person.image_id, []).append(_landmarks(person, name, category, count, problems))
            seen[person.id] += bool(person.id)
        except ValidationError as error:
            problems.append(Problem(name, f"The entry is broken ({_first(error)})."))
        except DatasetError as error:
            problems.append(Problem(name, str(error)))
    if others:
        reason = f"{others} annotations of other categories have no keypoints."
        problems.append(Problem("annotations", reason, left_out=False))
    repeated = [number for number, times in seen.items() if times > 1]
    for number in repeated:
        reason = f"{seen[number]} annotations have this id; all are kept."
        problems.append(Problem(f"annotation {number}", reason, left_out=False))
    return found


def _facts(entries: Sequence[Any]) -> dict[str, dict[str, str]]:
    """Return the attributes that the people of each image's number agree on, but for their ids."""
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("attributes"), dict):
            own = {name: value for name, value in entry["attributes"].items() if name != "id"}
            found.setdefault(str(entry.get("image_id")), []).append(own)
    return {number: agreed_attributes(attributes) for number, attributes in found.items()}


def _landmarks(person: _Person, name: str, category: int, count: int, problems: list[Problem]) -> Landmarks:
    if person.category_id != category:
        raise DatasetError(f"It has the unknown category {person.category_id}.")
    if len(person.keypoints) != 3 * count:
        raise DatasetError(f"It has {len(person.keypoints)} numbers, not 3 for each of {count} keypoints.")
    marks = np.array(person.keypoints).reshape(count, 3)
    known = np.isin(marks[:, 2], (0, 1, 2))
    if not known.all():
        raise DatasetError(f"A visibility of {marks[~known][0, 2]:g} is neither 0, 1 nor 2.")
    is_far = ~(np.abs(marks[:, :2]) <= MAX_POSITION).all(axis=1)  # or NaN
    lost = (marks[:, 2] > NOT_LABELED) & is_far
    marks[is_far, :2] = np.nan
    if lost.any():
        reason = f"{int(lost.sum())} labeled keypoints have no position and count as not labeled."
        problems.append(Problem(name, reason, left_out=False))
    scores = person.keypoint_scores
    if scores is not None and (len(scores) != count or not all(0 <= score <= 1 for score in scores)):
        raise DatasetError(f"Its keypoint_scores must be {count} numbers between 0 and 1.")
    return make_landmarks(
        marks[:, 1::-1],
        marks[:, 2],
        np.full(count, person.score) if scores is None else scores,
        str(person.attributes.get("id", "")),
    )


def _images(
    entries: Sequence[Any],
    people: dict[int, list[Landmarks]],
    facts: Mapping[str, Mapping[str, str]],
    problems: list[Problem],
) -> Iterator[LandmarkImage]:
    """Yield the images; their people are taken out of ``people``."""
    seen = set[int]()
    names = set[str]()
    for number, entry in enumerate(entries):
        try:
            image = _Image.model_validate(entry)
        except ValidationError as error:
            problems.append(Problem(f"image {number}", f"The entry is broken ({_first(error)})."))
            continue
        if image.id in seen:
            problems.append(Problem(image.file_name, f"Another image has the id {image.id} as well."))
            continue
        if image.file_name in names:
            reason = "The file is listed twice; the annotations of both are kept."
            problems.append(Problem(image.file_name, reason, left_out=False))
        seen.add(image.id)
        names.add(image.file_name)
        shape = (image.height, image.width) if image.height and image.width else None
        name, found = image.file_name.replace("\\", "/"), tuple(people.pop(image.id, ()))
        said = {**facts.get(str(image.id), {}), **further_facts(entry)}
        yield LandmarkImage(name, found, shape, said)


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"][:3]))
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def write(path: Path, dataset: LandmarkDataset) -> list[Problem]:
    """Write a COCO keypoints file; return what it cannot hold, which is nothing.

    Positions are written with the digits that give the same number again.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(dataset.images, 1):
        height, width = image.shape or (None, None)
        size = {"width": width, "height": height} if image.shape else {}
        images.append({"id": number, "file_name": image.name, **size})
        for person in image.people:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, **_entry(person)}
            )
    content = {
        "info": {"description": "Landmarks"},
        "images": images,
        "categories": [_category_entry(dataset.skeleton)],
        "annotations": annotations,
    }
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False).encode())
    return []


def _category_entry(skeleton: Skeleton) -> dict[str, Any]:
    def from_one(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
        return [[one + 1, other + 1] for one, other in pairs]

    return {
        "id": 1,
        "name": CATEGORY,
        "supercategory": CATEGORY,
        "keypoints": list(skeleton.names),
        "skeleton": from_one(skeleton.edges),
        "symmetries": from_one(skeleton.symmetries),
    }


def _entry(person: Landmarks) -> Mapping[str, Any]:
    """Return what COCO says of a person, its score too if a model found it."""
    labeled = person.labeled
    top, left, bottom, right = map(_shortest, person.bounds) if labeled.any() else (0.0,) * 4
    marks: list[float] = []
    for (row, col), seen in zip(person.points, person.visibility.tolist(), strict=True):
        marks += [_shortest(col), _shortest(row), seen] if seen else [0, 0, 0]
    entry: dict[str, Any] = {
        "keypoints": marks,
        "num_keypoints": int(labeled.sum()),
        "bbox": [left, top, right - left, bottom - top],
        "area": person_area(person) if labeled.any() else 0.0,
        "iscrowd": 0,
    }
    if (person.scores[labeled] < 1).any():
        entry["score"] = round(person.score, 6)
        entry["keypoint_scores"] = [_shortest(score) for score in person.scores]
    if person.id:
        entry["attributes"] = {"id": person.id}
    return entry


def _shortest(number: np.floating[Any]) -> float:
    """Return the shortest decimal number that gives the same float32 again."""
    return float(str(np.float32(number)))
