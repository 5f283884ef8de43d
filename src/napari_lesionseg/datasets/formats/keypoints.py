"""Landmarks with their images: COCO keypoints, and the folders of labeled data of DeepLabCut.

The files of landmarks themselves are those of `datasets.landmarks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from napari_lesionseg.datasets.formats.base import Format, Placed, Plan, put_facts, put_image
from napari_lesionseg.datasets.landmarks import write_landmarks
from napari_lesionseg.datasets.landmarks.deeplabcut import SCORER
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage
from napari_lesionseg.datasets.records import Record
from napari_lesionseg.errors import DatasetError


def write_coco(plan: Plan) -> Iterator[Placed]:
    """Write ``images/``, ``metadata.csv`` and ``annotations/keypoints.json``, or a file for each part.

    Parameters
    ----------
    plan : Plan
        What to write.

    Yields
    ------
    Placed
        After each record.
    """
    put_facts(plan, plan.folder / "metadata.csv")
    (plan.folder / "annotations").mkdir()
    parts = plan.parts()
    for part, records in parts.items():
        images = []
        for record in records:
            placed = put_image(plan, record, plan.load(record).image, plan.folder / "images" / record.name)
            images.append(_entry(plan, record, placed))
            yield Placed(record.name, placed, "")
        name = "keypoints.json" if len(parts) == 1 else f"keypoints_{part}.json"
        write_landmarks(plan.folder / "annotations" / name, _dataset(plan, images))


def write_deeplabcut(plan: Plan) -> Iterator[Placed]:
    """Write ``labeled-data/images/`` with ``CollectedData_lesionseg.csv``, or a folder for each part.

    Parameters
    ----------
    plan : Plan
        What to write.

    Yields
    ------
    Placed
        After each record.
    """
    put_facts(plan, plan.folder / "metadata.csv")
    parts = plan.parts()
    for part, records in parts.items():
        folder = plan.folder / "labeled-data" / ("images" if len(parts) == 1 else part)
        images = []
        for record in records:
            placed = put_image(plan, record, plan.load(record).image, folder / record.name)
            images.append(_entry(plan, record, placed))
            yield Placed(record.name, placed, "")
        write_landmarks(folder / f"CollectedData_{SCORER}.csv", _dataset(plan, images))


def _entry(plan: Plan, record: Record, placed: str) -> LandmarkImage:
    # COCO names files relative to the folder of images; DeepLabCut's table knows the folder it is in.
    return LandmarkImage(PurePosixPath(placed).name, record.people or (), plan.sizes[record.name])


def _dataset(plan: Plan, images: list[LandmarkImage]) -> LandmarkDataset:
    skeleton = plan.records[0].skeleton
    if skeleton is None:
        raise DatasetError("The images have no landmarks.")
    return LandmarkDataset(skeleton, tuple(images))


FORMATS = (
    Format("coco-keypoints", "COCO keypoints", write=write_coco, landmarks=True),
    Format("deeplabcut", "DeepLabCut", write=write_deeplabcut, landmarks=True, keeps_occluded=False),
)
