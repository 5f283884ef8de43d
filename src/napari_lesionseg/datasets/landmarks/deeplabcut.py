"""DeepLabCut's ``CollectedData_*.csv``: one row for each image, three or four header lines.

The header lines name the scorer, the individual if there are several, the body part, and the coordinate: x,
y and, for what a model found, likelihood. The image stands in the first column, or in three of them
(``labeled-data``, the video's folder, the file), as since DeepLabCut 2.2. An empty cell is not labeled. The
format cannot say that a landmark is occluded.

A. Mathis et al., "DeepLabCut: markerless pose estimation of user-defined body parts with deep
learning", Nature Neuroscience 2018, doi:10.1038/s41593-018-0209-y.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks.records import (
    MAX_POSITION,
    LandmarkDataset,
    LandmarkImage,
    count_occluded,
)
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.errors import DatasetError, SettingsError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.tables import read_cells
from napari_lesionseg.types import Landmarks, make_landmarks

SCORER = "lesionseg"
SINGLE = "single"
"""The individual of body parts that occur once, such as the corners of the cage."""

_HEADERS = ("scorer", "individuals", "bodyparts", "coords")
_COORDINATES = ("x", "y", "likelihood")


class _Column(NamedTuple):
    """What a column holds."""

    individual: str
    part: str
    coordinate: str


def read(path: Path) -> LandmarkDataset:
    """Read a file of DeepLabCut.

    Parameters
    ----------
    path : Path
        ``CollectedData_SCORER.csv``, or a table of predictions.

    Returns
    -------
    LandmarkDataset
        Landmarks in the order of the columns; their symmetries follow from the names.

    Raises
    ------
    DatasetError
        If the header is not DeepLabCut's.
    """
    rows = read_cells(path, ",")
    header = list(takewhile(lambda row: row and row[0].strip().lower() in _HEADERS, rows))
    titles = [row[0].strip().lower() for row in header]
    if titles not in (["scorer", "bodyparts", "coords"], list(_HEADERS)):
        raise DatasetError(
            f"{path} is not a table of DeepLabCut: its first lines are not scorer, bodyparts, coords."
        )
    problems: list[Problem] = []
    first, columns = _columns(header, titles, path)
    try:
        skeleton = Skeleton.from_names(list(dict.fromkeys(column.part for column in columns)))
    except SettingsError as error:
        raise DatasetError(f"The body parts of {path} cannot be used. {error}") from error
    images: dict[str, LandmarkImage] = {}
    for number, row in enumerate(rows[len(header) :], len(header) + 1):
        if not any(cell.strip() for cell in row):
            continue
        name = "/".join(cell.strip().replace("\\", "/") for cell in row[:first] if cell.strip())
        if not name:
            problems.append(Problem(f"{path.name}, line {number}", "The line names no image."))
        elif name in images:
            problems.append(Problem(name, f"Line {number} has this image again, and is left out."))
        else:
            people = tuple(_people(row[first:], columns, skeleton, name, problems))
            images[name] = LandmarkImage(name, people)
    return LandmarkDataset(skeleton, tuple(images.values()), tuple(problems))


def _columns(header: Sequence[Sequence[str]], titles: Sequence[str], path: Path) -> tuple[int, list[_Column]]:
    """Return the number of columns that name the image, and what each of the others holds."""
    lines = {title: [cell.strip() for cell in row] for title, row in zip(titles, header, strict=True)}
    coordinates = [cell.lower() for cell in lines["coords"]]
    first = next((index for index, cell in enumerate(coordinates) if cell in _COORDINATES), len(coordinates))
    individuals = lines.get("individuals", [""] * len(coordinates))
    if len({len(line) for line in (coordinates, individuals, lines["bodyparts"])}) > 1:
        raise DatasetError(f"The header lines of {path} differ in length.")
    columns = [
        _Column(individual, part, coordinate)
        for individual, part, coordinate in zip(
            individuals[first:], lines["bodyparts"][first:], coordinates[first:], strict=True
        )
    ]
    if not columns:
        raise DatasetError(f"{path} has no columns of coordinates.")
    wrong = next((column for column in columns if column.coordinate not in _COORDINATES), None)
    if wrong is not None:
        raise DatasetError(
            f"{path} has the unknown coordinate '{wrong.coordinate}'; x, y and likelihood are read."
        )
    if len(set(columns)) < len(columns):
        raise DatasetError(f"{path} has two columns for the same coordinate of a body part.")
    return first, columns


def _people(
    cells: Sequence[str], columns: Sequence[_Column], skeleton: Skeleton, name: str, problems: list[Problem]
) -> Iterator[Landmarks]:
    """Yield the individuals that a line has any landmark of."""
    places = {part: index for index, part in enumerate(skeleton.names)}
    found: dict[str, NDArray[Any]] = {}
    for column, cell in zip(columns, [*cells, *[""] * len(columns)], strict=False):
        marks = found.setdefault(column.individual, np.full((len(places), 3), np.nan))
        marks[places[column.part], _COORDINATES.index(column.coordinate)] = _number(
            cell, column, name, problems
        )
    for individual, marks in found.items():
        half = np.isnan(marks[:, 0]) != np.isnan(marks[:, 1])
        for index in np.flatnonzero(half):
            reason = f"{skeleton.names[index]} has one coordinate alone and counts as not labeled."
            problems.append(Problem(name, reason, left_out=False))
        if np.isfinite(marks[:, :2]).all(axis=1).any():
            scores = np.where(np.isnan(marks[:, 2]), 1, np.clip(marks[:, 2], 0, 1))
            yield make_landmarks(marks[:, 1::-1], scores=scores, id=individual)


def _number(cell: str, column: _Column, name: str, problems: list[Problem]) -> float:
    """Return a cell as a number; NaN for an empty one, and with a problem for one that is none."""
    text = cell.strip()
    if text.lower() in ("", "nan"):
        return math.nan
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if abs(number) <= MAX_POSITION:
        return number
    reason = f"{column.coordinate} of {column.part} is '{text[:40]}' and counts as not labeled."
    problems.append(Problem(name, reason, left_out=False))
    return math.nan


def write(path: Path, dataset: LandmarkDataset) -> list[Problem]:
    """Write a file of DeepLabCut, with several individuals if an image has several people.

    Returns
    -------
    list of Problem
        What the format cannot hold: that a landmark is occluded.
    """
    individuals = _individuals(dataset.images)
    names = individuals or [""]
    scored = any(
        (person.scores[person.labeled] < 1).any() for image in dataset.images for person in image.people
    )
    coordinates = _COORDINATES if scored else _COORDINATES[:2]
    columns = [
        _Column(individual, part, coordinate)
        for individual in names
        for part in dataset.skeleton.names
        for coordinate in coordinates
    ]
    lines = {
        "scorer": [SCORER] * len(columns),
        "individuals": [column.individual for column in columns],
        "bodyparts": [column.part for column in columns],
        "coords": [column.coordinate for column in columns],
    }
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    for title, cells in lines.items():
        if individuals or title != "individuals":
            writer.writerow([title, "", "", *cells])
    for image in dataset.images:
        people = dict(zip(_names_of(image) if individuals else names, image.people, strict=False))
        folder = PurePosixPath(image.name).parent.name or path.parent.name
        cells = [cell for name in names for cell in _cells(people.get(name), dataset, coordinates)]
        writer.writerow(["labeled-data", folder, PurePosixPath(image.name).name, *cells])
    write_atomically(path, stream.getvalue().encode())
    occluded = count_occluded(dataset.images)
    if not occluded:
        return []
    reason = f"{occluded} occluded landmarks are written as visible ones: the format has no mark for them."
    return [Problem(path.name, reason, left_out=False)]


def _individuals(images: Sequence[LandmarkImage]) -> list[str]:
    """Return the names of all individuals; none if no image has several, or names any."""
    if all(len(image.people) <= 1 and not any(p.id for p in image.people) for image in images):
        return []
    return list(dict.fromkeys(name for image in images for name in _names_of(image)))


def _names_of(image: LandmarkImage) -> list[str]:
    """Return a name for each person of an image: its own where it has one, else a number."""
    names: list[str] = []
    for number, person in enumerate(image.people, 1):
        name = person.id or f"individual{number}"
        while name in names:
            name += "+"
        names.append(name)
    return names


def _cells(person: Landmarks | None, dataset: LandmarkDataset, coordinates: Sequence[str]) -> Iterator[str]:
    if person is None:
        yield from [""] * (len(dataset.skeleton.names) * len(coordinates))
        return
    for (row, col), labeled, score in zip(person.points, person.labeled, person.scores, strict=True):
        values = (col, row, score)[: len(coordinates)]
        yield from (str(np.float32(value)) if labeled else "" for value in values)
