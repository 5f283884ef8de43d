"""Eyes covered by a black box, so that a face in an exported image is harder to recognize.

An image in which not all eyes of a face are known is left out: privacy comes before completeness.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.facts import name_key
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage, match_images
from napari_lesionseg.datasets.records import Problem, Record
from napari_lesionseg.errors import DatasetError, LesionSegError
from napari_lesionseg.types import Box, ByteImage, Landmarks

MARGIN = 0.6
"""Width of the black edge around the outermost points of the eyes, as a share of their distance.

An eye is about a third as wide as the eyes are apart; the eyebrows are about as far above them.
"""

_LEAST = 0.02  # margin as a share of the image's longer side, for eyes that a model found too close together
_EYE = re.compile(r"eyes?(?!\s*_?-?(brow|lash|lid))", re.IGNORECASE)

Locate = Callable[[Record, ByteImage], Sequence[Landmarks] | None]
"""Returns the people in an image, none if it shows nobody; None: it is not known."""


def eyes_of(skeleton: Skeleton) -> list[int]:
    """Return the landmarks that are points of the eyes; a `DatasetError` unless there are two or more."""
    found = [index for index, name in enumerate(skeleton.names) if _EYE.search(name)]
    if len(found) < 2:
        raise DatasetError(
            f"Two landmarks must be named after the eyes; there are {', '.join(skeleton.names)}."
        )
    return found


def box_over_eyes(points: NDArray[np.float32], shape: tuple[int, ...]) -> Box:
    """Return a box over the points (N, 2) of the eyes of one face, with a margin, inside an image."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = max(MARGIN * float(np.linalg.norm(high - low)), _LEAST * max(shape[:2]), 2.0)
    top, left = np.maximum(np.floor(low - margin), 0).astype(int)
    bottom, right = np.minimum(np.ceil(high + margin) + 1, shape[:2]).astype(int)
    return Box(int(top), int(left), int(bottom), int(right))


def black_out_eyes(
    records: Sequence[Record], skeleton: Skeleton, locate: Locate
) -> Iterator[Record | Problem]:
    """Yield each record with its eyes covered, or the problem for which it is left out."""
    eyes = eyes_of(skeleton)
    for record in records:
        try:
            image = record.load_image()
            people = locate(record, image)
        except LesionSegError as error:
            yield Problem(record.name, str(error))
            continue
        if people is None or not all(person.labeled[eyes].all() for person in people):
            yield Problem(record.name, "Its eyes were not found; it is left out, so that no face is shown.")
            continue
        boxes = tuple(box_over_eyes(person.points[eyes], image.shape) for person in people)
        yield replace(record, image=functools.partial(_covered, record, boxes))


def _covered(record: Record, boxes: Sequence[Box]) -> ByteImage:
    image = record.load_image().copy()
    for box in boxes:
        image[box.top : box.bottom, box.left : box.right] = 0
    return image


def known_people(dataset: LandmarkDataset) -> Locate:
    """Return what looks people up in a file of landmarks; an entry without people shows nobody."""
    entries: dict[str, list[LandmarkImage]] = {}
    for entry in dataset.images:
        entries.setdefault(name_key(entry.name), []).append(entry)

    def locate(record: Record, image: ByteImage) -> Sequence[Landmarks] | None:
        source = record.image if isinstance(record.image, Path) else Path(record.name)
        alike = entries.get(name_key(source.name), [])  # whatever the ending: studies may hold copies
        if len(alike) == 1:
            return alike[0].people
        found = match_images([source], replace(dataset, images=tuple(alike))).pairs
        return found[0].image.people if found else None

    return locate
