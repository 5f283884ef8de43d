"""Landmarks with their images: COCO keypoints, and the folders of labeled data of DeepLabCut.

The files of landmarks themselves are those of `datasets.landmarks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.facts import find_tables, name_key, read_facts, with_facts
from napari_lesionseg.datasets.formats.base import (
    MAX_FILES_SCANNED,
    Format,
    Placed,
    Plan,
    is_image,
    part_of,
    put_facts,
    put_image,
    read_provenance,
)
from napari_lesionseg.datasets.formats.coco import CocoFile, lists_objects
from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.deeplabcut import SCORER
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, LandmarkImage, reorder
from napari_lesionseg.datasets.records import (
    NOT_OUTLINED,
    Dataset,
    Problem,
    Provenance,
    Record,
    natural_order,
)
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan, contained, spelled, stays_inside

_COCO_NAMES = ("keypoints", "person_keypoints_")
_HAS_KEYPOINTS = re.compile(rb'"keypoints"\s*:\s*\[\s*[^\]\s]')
_HAS_OUTLINES = re.compile(rb'"segmentation"\s*:\s*(?:\[\s*\[|\{)')
_BLOCK, _OVERLAP = 2**20, 256
_DEEPLABCUT = re.compile(r"CollectedData_.+\.csv", re.IGNORECASE)


def recognizes_coco(scan: FolderScan) -> bool:
    """Tell whether a folder holds COCO files of keypoints, and none of outlines."""
    files = scan.with_suffix(".json")[:MAX_FILES_SCANNED]
    keypoints = {path for path in files if holds_keypoints(path)}
    return bool(keypoints) and not any(lists_objects(path) for path in files if path not in keypoints)


def holds_keypoints(path: Path) -> bool:
    """Tell by its name, or by what it holds, whether a file is one of COCO keypoints without outlines."""
    return _lists_keypoints(path) and (_is_named_so(path) or not _holds(path, _HAS_OUTLINES))


def _lists_keypoints(path: Path) -> bool:
    return _is_named_so(path) or (lists_objects(path) and _holds(path, _HAS_KEYPOINTS))


def _is_named_so(path: Path) -> bool:
    return path.suffix.lower() == ".json" and path.name.lower().startswith(_COCO_NAMES)


def _holds(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Look for a pattern in a file, block by block."""
    try:
        with path.open("rb") as stream:
            end = b""
            while block := stream.read(_BLOCK):
                if pattern.search(end + block):
                    return True
                end = block[-_OVERLAP:]
    except OSError:
        return False  # which reading it says
    return False


def recognizes_deeplabcut(scan: FolderScan) -> bool:
    """Tell whether a folder holds the tables of a project of DeepLabCut."""
    return any(_DEEPLABCUT.fullmatch(path.name) for path in scan.with_suffix(".csv"))


def read_coco(scan: FolderScan, files: Sequence[Path] = ()) -> Dataset:
    """List the images of all COCO keypoints files below a folder.

    Parameters
    ----------
    scan : FolderScan
        Holds ``annotations/keypoints.json``, ``annotations/person_keypoints_*.json`` or the like, and images.
    files : sequence of Path
        Read these alone.

    Returns
    -------
    Dataset
        Records with landmarks; images that no file lists have none.

    Raises
    ------
    DatasetError
        When there is no such file, one is damaged, or they name different landmarks.
    """
    files = files or list(filter(_lists_keypoints, scan.with_suffix(".json")))
    by_name: dict[str, list[Path]] = {}
    for path in filter(is_image, scan.files):
        by_name.setdefault(name_key(path.name), []).append(path)

    def place(file: Path, name: str) -> Path:
        try:
            return CocoFile(file, scan.root, {}).image(name)
        except DatasetError:
            alike = by_name.get(name_key(name), [])
            if len(alike) != 1:
                raise
            return alike[0]

    return _read(scan, "coco-keypoints", files, place)


def read_deeplabcut(scan: FolderScan) -> Dataset:
    """List the images of all ``CollectedData_*.csv`` below a folder, which lie beside them.

    Parameters
    ----------
    scan : FolderScan
        A project of DeepLabCut, or its ``labeled-data``.

    Returns
    -------
    Dataset
        Records with landmarks; images that no table lists have none.

    Raises
    ------
    DatasetError
        When there is no such table, one is damaged, or they name different landmarks.
    """
    files = [path for path in scan.with_suffix(".csv") if _DEEPLABCUT.fullmatch(path.name)]

    def place(file: Path, name: str) -> Path:
        found = spelled(contained(file.parent, PurePosixPath(name).name))
        if found is None or not stays_inside(found, scan.root):
            raise DatasetError(f"The image {name[:200]!r} is not there.")
        return found

    return _read(scan, "deeplabcut", files, place)


def _read(scan: FolderScan, title: str, files: Sequence[Path], place: Callable[[Path, str], Path]) -> Dataset:
    """Join the landmarks of several files with the images, of which ``place`` gives the path."""
    folder = scan.root
    if not files:
        raise DatasetError(f"{folder} holds no file of landmarks.")
    provenance = read_provenance(folder)
    found: dict[Path, Record] = {}
    problems: list[Problem] = []
    skeleton = read_landmarks(files[0]).skeleton
    for file in files:
        dataset = read_landmarks(file)
        if set(dataset.skeleton.names) != set(skeleton.names):
            raise DatasetError(f"{file} has other landmarks than the files before it.")
        problems += dataset.problems
        part = part_of(file.with_suffix("") / "x", folder)
        for image in reorder(dataset, skeleton).images:
            try:
                path = place(file, image.name)
            except DatasetError as error:
                problems.append(Problem(image.name, str(error)))
                continue
            known = found.get(path)
            people = (*((known and known.people) or ()), *image.people)
            decided = Provenance(status="approved" if people else "no lesion")
            record = Record(
                path.stem,
                path,
                people=people,
                skeleton=skeleton,
                provenance=provenance.get(name_key(path.name), decided),
                part=part,
            )
            if record.provenance.status == "unreviewed" and not people:
                record = replace(record, people=None)
            found[path] = with_facts(record, image.facts)
    unlisted = (path for path in filter(is_image, scan.files) if path not in found)
    found |= {path: _unmarked(path, skeleton) for path in unlisted}
    tables = [path for path in find_tables(scan) if path not in files]
    facts = read_facts(tables, [record.name for record in found.values()])
    described = natural_order(facts.applied(record) for record in found.values())
    return Dataset(title, described, (*problems, *facts.problems), frozenset([*files, *tables, *found]))


def _unmarked(path: Path, skeleton: Skeleton) -> Record:
    return Record(path.stem, path, skeleton=skeleton, provenance=NOT_OUTLINED)


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
    Format("coco-keypoints", "COCO keypoints", recognizes_coco, read_coco, write_coco, landmarks=True),
    Format(
        "deeplabcut",
        "DeepLabCut",
        recognizes_deeplabcut,
        read_deeplabcut,
        write_deeplabcut,
        landmarks=True,
        keeps_occluded=False,
    ),
)
