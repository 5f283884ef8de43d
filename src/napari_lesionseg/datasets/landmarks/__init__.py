"""Files of landmarks: COCO keypoints and DeepLabCut, told by their ending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from napari_lesionseg.datasets.landmarks import coco_keypoints, deeplabcut
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.errors import DatasetError


class _LandmarkFormat(NamedTuple):
    title: str
    read: Callable[[Path], LandmarkDataset]
    write: Callable[[Path, LandmarkDataset], list[Problem]]


FORMATS = {
    ".json": _LandmarkFormat("COCO keypoints", coco_keypoints.read, coco_keypoints.write),
    ".csv": _LandmarkFormat("DeepLabCut", deeplabcut.read, deeplabcut.write),
}
"""What the ending of a file stands for."""


def read_landmarks(path: Path) -> LandmarkDataset:
    """Read a file of COCO keypoints or of DeepLabCut.

    Raises
    ------
    DatasetError
        If its ending is neither .json nor .csv, or it cannot be read.
    """
    return _format_of(path).read(path)


def write_landmarks(path: Path, dataset: LandmarkDataset) -> list[Problem]:
    """Write a file of COCO keypoints or of DeepLabCut in one step; return what the format cannot hold.

    Raises
    ------
    DatasetError
        If its ending is neither .json nor .csv, or it cannot be written.
    """
    try:
        return _format_of(path).write(path, dataset)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error.strerror}.") from error


def check_landmark_file(path: Path) -> None:
    """Raise `DatasetError` unless the ending of a file is that of a format."""
    _format_of(path)


def _format_of(path: Path) -> _LandmarkFormat:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        kinds = " or ".join(f"{ending} ({kind.title})" for ending, kind in FORMATS.items())
        raise DatasetError(f"{path.name} is no file of landmarks: its name must end in {kinds}.")
    return found
