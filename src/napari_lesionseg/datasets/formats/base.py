"""What all formats share: their interface, and how images, masks and facts are found and written."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field
from scipy import ndimage

from napari_lesionseg.config import Settings
from napari_lesionseg.datasets.deidentify import clean_jpeg
from napari_lesionseg.datasets.facts import name_key
from napari_lesionseg.datasets.records import STATUSES, Dataset, InstanceImage, Pixels, Provenance, Record
from napari_lesionseg.datasets.splits import DEFAULT_SHARES, Part
from napari_lesionseg.errors import DatasetError, ImageError
from napari_lesionseg.io.folders import FolderScan, exists, is_file
from napari_lesionseg.io.images import read_image, write_image, write_mask
from napari_lesionseg.io.pairing import is_image_name
from napari_lesionseg.io.tables import read_table, write_table
from napari_lesionseg.masks.components import bounding_box, connected_components
from napari_lesionseg.types import IGNORED, ByteImage, LabelImage

PROVENANCE_NAME = "provenance.csv"
PROVENANCE_COLUMNS = (
    "name", "part", "image", "mask", "status", "annotator", "model", "corrected_share", "time", "empty",
)  # fmt: skip
OWN_FILES = {PROVENANCE_NAME, "manifest.json", "croissant.json", "DATASHEET.md"}
"""Files that exports have beside the images, and that no convention reads as data."""

MAX_FILES_SCANNED = 5000
"""How many files of a folder are opened to detect its format."""

_PART_WORDS: tuple[tuple[re.Pattern[str], Part], ...] = (
    (re.compile(r"(?i)(?:^|[^a-z])(?:training|train)(?:[^a-z]|$)"), "train"),
    (re.compile(r"(?i)(?:^|[^a-z])(?:validation|valid|val)(?:[^a-z]|$)"), "val"),
    (re.compile(r"(?i)(?:^|[^a-z])(?:testing|test)(?:[^a-z]|$)"), "test"),
)
SHARED_FACTS = (
    "sex",
    "age_approx",
    "age_approximate",
    "anatom_site_general",
    "anatom_site_special",
    "benign_malignant",
    "diagnosis_1",
    "diagnosis_2",
    "diagnosis_3",
    "diagnosis_confirm_type",
    "image_type",
    "dermoscopic_type",
    "melanocytic",
    "nevus_type",
    "fitzpatrick_skin_type",
    "clin_size_long_diam_mm",
    "family_hx_mm",
    "personal_hx_mm",
    "attribution",
    "copyright_license",
    "histological_diagnosis",
    "asymmetry",
    "pigment_network",
    "dots_globules",
    "streaks",
    "vascular_structures",
    "pigmentation",
    "regression_areas",
    "blue_whitish_veil",
    "colors",
)
"""Columns that may be exported; all others (names, dates, free text) are not."""


class ExportConfig(Settings):
    """How a dataset is written."""

    unapproved: Literal["skip", "refuse", "include"] = Field(
        "skip",
        title="Unapproved images",
        description="What to do with outlines that no annotator has signed.",
    )
    duplicates: Literal["together", "skip", "refuse"] = Field(
        "together",
        title="Copies of an image",
        description="Keep them in the same part, keep the first only, or stop.",
    )
    shares: dict[Part, float] = Field(
        dict(DEFAULT_SHARES), title="Parts", description="Shares of train, val and test."
    )
    seed: int = Field(0, title="Seed", description="Seed of the random split.")
    pseudonymize: Literal["patients", "all", "nothing"] = Field(
        "patients",
        title="New names",
        description="Who gets running numbers in random order: patients, lesions and images whose names "
        "hold the patient's or do not fit the format; all images and annotators as well; or nobody.",
        json_schema_extra={
            "form": {
                "tooltip": "Which names are replaced by sequential IDs. EXIF metadata is always removed",
                "choices": [
                    ["rename patients", "patients"],
                    ["rename everything", "all"],
                    ["keep names", "nothing"],
                ],
            }
        },
    )
    keep_parts: bool = Field(
        True, title="Keep parts", description="Leave images in the parts they already have."
    )
    images: Literal["lossless", "jpg"] = Field(
        "lossless",
        title="Images",
        description="Keep every pixel (JPEG stays JPEG), or write JPEG throughout.",
    )
    single_region: bool = Field(
        False,
        title="Largest part only, without holes",
        description="Write only the largest part of each outline, with its holes filled.",
    )
    split_parts: bool = Field(
        False,
        title="Parts are objects",
        description="Count separate parts as objects if they are not numbered.",
    )
    polygons: bool = Field(
        False, title="Polygons", description="Write COCO masks as polygons instead of run lengths."
    )
    dataset_id: int = Field(
        501, ge=1, le=999, title="Number", description="Number of the nnU-Net dataset, 1 to 999."
    )
    facts: tuple[str, ...] | None = Field(
        SHARED_FACTS, title="Facts", description="Columns of the metadata that may be exported; None: all."
    )


class DatasetInfo(Settings):
    """What the datasheet says of a dataset that no program can find out."""

    title: str = Field("Skin lesion outlines", title="Title")
    description: str = Field("Images of skin lesions with outlines.", title="Description")
    license: str = Field("", title="License", description="Name or address, such as CC-BY-4.0.")
    creators: tuple[str, ...] = Field((), title="Creators", description="People or institutions.")
    cameras: str = Field("", title="Cameras", description="Which cameras and dermatoscopes.")
    collected: str = Field("", title="Collected", description="When and where the images were taken.")
    annotators: str = Field("", title="Annotators", description="Who outlined, and how experienced they are.")
    known_gaps: str = Field("", title="Known gaps", description="What is missing, such as skin tones.")
    citation: str = Field("", title="Citation")
    contact: str = Field("", title="Contact")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a record went; paths are relative to the dataset, with ``/``; "" where there is no such file."""

    name: str
    image: str
    mask: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a writer needs: all is decided and checked before.

    Parameters
    ----------
    folder : Path
        An empty folder.
    records : tuple of Record
        With their final names, parts and facts.
    sizes : mapping
        Height and width of each record by name.
    config : ExportConfig
        The settings.
    info : DatasetInfo
        For the card.
    load : callable
        Gives the pixels of a record, as they are to be written.
    imported : bool
        The parts are as they came.
    """

    folder: Path
    records: tuple[Record, ...]
    sizes: Mapping[str, tuple[int, int]]
    config: ExportConfig
    info: DatasetInfo
    load: Callable[[Record], Pixels]
    imported: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class indices, background first."""
        return self.records[0].classes

    def parts(self) -> dict[Part, list[Record]]:
        """Return the records of each part that has any."""
        grouped: dict[Part, list[Record]] = {}
        for record in self.records:
            grouped.setdefault(record.part or "train", []).append(record)
        return grouped


@dataclass(frozen=True, slots=True)
class Format:
    """A dataset convention.

    Parameters
    ----------
    name : str
        What the command line calls it.
    title : str
        What the window calls it.
    recognizes : callable, optional
        Tells whether a folder looks like it; asked of each format in turn, so it lists nothing by itself.
    read : callable, optional
        Lists a folder's entries; raises DatasetError when there are none.
    write : callable, optional
        Writes a plan, yielding after each record.
    pseudonym : str
        Pattern of new names, filled with a number from 1.
    names : str, optional
        Regular expression of the names that the convention's tools ask for; others are replaced.
    origin : str
        What images must have come as (`Record.origin`), "" for anything.
    keeps_ignored : bool
        Whether masks can mark pixels that are to be ignored; elsewhere they become background.
    landmarks : bool
        Whether it holds landmarks in place of masks.
    keeps_occluded : bool
        Whether it can say that a landmark is occluded.
    """

    name: str
    title: str
    recognizes: Callable[[FolderScan], bool] | None = None
    read: Callable[[FolderScan], Dataset] | None = None
    write: Callable[[Plan], Iterator[Placed]] | None = None
    pseudonym: str = "image_{:05d}"
    names: str | None = None
    origin: str = ""
    keeps_ignored: bool = False
    landmarks: bool = False
    keeps_occluded: bool = True


def put_image(plan: Plan, record: Record, image: ByteImage, path: Path, *, png: bool = False) -> str:
    """Write an image without metadata.

    A JPEG stays a JPEG, freed of everything but its pixels and read back to make sure; all other images are
    encoded as PNG.

    Parameters
    ----------
    plan : Plan
        Decides whether everything becomes a JPEG.
    record : Record
        Whose image it is.
    image : ndarray
        (H, W, 3) uint8.
    path : Path
        Inside the plan's folder, without ending; the folder is made.
    png : bool
        Write a PNG whatever the settings say.

    Returns
    -------
    str
        The path with its ending, relative to the plan's folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    jpeg = path.with_name(f"{path.name}.jpg")
    if not png and (_put_clean_jpeg(record, image, jpeg) or plan.config.images == "jpg"):
        if not exists(jpeg):
            write_image(jpeg, image, durable=False)
        return jpeg.relative_to(plan.folder).as_posix()
    target = path.with_name(f"{path.name}.png")
    write_image(target, image, durable=False)
    return target.relative_to(plan.folder).as_posix()


def _put_clean_jpeg(record: Record, image: ByteImage, path: Path) -> bool:
    """Write the record's own JPEG without its metadata; tell whether that gave the same pixels."""
    if not isinstance(record.image, Path):
        return False
    try:
        cleaned = clean_jpeg(record.image.read_bytes())
    except OSError as error:
        raise DatasetError(f"{record.image} cannot be read: {error.strerror}.") from error
    if cleaned is None:
        return False
    path.write_bytes(cleaned)
    try:
        if np.array_equal(read_image(path), image):
            return True
    except ImageError:
        pass
    path.unlink()
    return False


def put_mask(plan: Plan, labels: LabelImage, path: Path, *, index: bool) -> str:
    """Write a mask as 8-bit PNG: 0 and 255, or class indices.

    Parameters
    ----------
    plan : Plan
        Whose folder the path is in.
    labels : ndarray
        (H, W) uint8.
    path : Path
        With ending; the folder is made.
    index : bool
        Write class indices.

    Returns
    -------
    str
        The path relative to the plan's folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mask(path, labels, style="index" if index else "binary", durable=False)
    return path.relative_to(plan.folder).as_posix()


def put_instances(path: Path, instances: InstanceImage) -> None:
    """Write object numbers as 16-bit PNG.

    Parameters
    ----------
    path : Path
        With ending; the folder is made.
    instances : ndarray
        (H, W) uint16.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(instances).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def put_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((json.dumps(content, ensure_ascii=False) + "\n").encode())


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """One object of an image.

    Parameters
    ----------
    mask : ndarray
        (h, w) uint8 of 0 and 1, no larger than the object: images may hold thousands.
    box : (slice, slice)
        Its rows and columns in the image.
    category : int
        Class index.
    """

    mask: LabelImage
    box: tuple[slice, slice]
    category: int

    def whole(self, shape: tuple[int, ...]) -> LabelImage:
        """Return the mask in the size of its image, (H, W)."""
        whole = np.zeros(shape, np.uint8)
        whole[self.box] = self.mask
        return whole


def objects_of(pixels: Pixels, *, split: bool) -> Iterator[ObjectMask]:
    """Yield the objects of one image; an object of two classes comes twice.

    Parameters
    ----------
    pixels : Pixels
        Of one record.
    split : bool
        If objects are not numbered, count separate parts (8-connected) as objects.
    """
    classes = np.unique(pixels.labels[(pixels.labels > 0) & (pixels.labels != IGNORED)])
    for category in classes.tolist():
        region = pixels.labels == category
        if pixels.instances is not None:
            numbers = np.where(region, pixels.instances, 0).astype(np.int32)
        else:
            numbers = connected_components(region) if split else region.astype(np.int32)
        for number, box in enumerate(ndimage.find_objects(numbers), 1):
            if box is not None:
                yield ObjectMask((numbers[box] == number).astype(np.uint8), box, category)
        loose = region & (numbers == 0)
        box = bounding_box(loose)
        if box is not None:
            yield ObjectMask(loose[box].astype(np.uint8), box, category)


def facts_of(record: Record, key: str = "name") -> dict[str, str]:
    """Return a record's facts as one row of a table.

    Parameters
    ----------
    record : Record
        With final names.
    key : str
        Header of the column of names.

    Returns
    -------
    dict
        Text by header.
    """
    fixed = {
        key: record.name,
        "patient_id": record.patient or "",
        "lesion_id": record.lesion or "",
        "diagnosis": record.diagnosis or "",
        "part": record.part or "",
    }
    further = {**record.metadata, **record.attributes}
    return fixed | {name: value for name, value in further.items() if name not in fixed}


def put_facts(plan: Plan, path: Path, key: str = "name") -> None:
    """Write the facts of all records as CSV; columns that are empty throughout are left out.

    Parameters
    ----------
    plan : Plan
        Whose records.
    path : Path
        The table.
    key : str
        Header of the column of names.
    """
    rows = [facts_of(record, key) for record in plan.records]
    columns = dict.fromkeys(name for row in rows for name in row)
    used = [name for name in columns if name == key or any(row.get(name) for row in rows)]
    write_table(path, rows, used)


def is_image(path: Path) -> bool:
    """Tell by its name whether a file is an image."""
    return is_image_name(path.name)


def part_of(path: Path, root: Path) -> Part | None:
    """Read the part of the set (train, val, test) off the folders that a file lies in, if they say so."""
    return _part_of_folder(os.path.dirname(path), str(root))  # noqa: PTH120


@functools.lru_cache(maxsize=1024)  # most of the 10 000 images of a dataset lie in the same few folders
def _part_of_folder(place: str, root: str) -> Part | None:
    for folder in reversed(Path(place).relative_to(root).parts):
        for words, part in _PART_WORDS:
            if words.search(folder):
                return part
    return None


def read_provenance(folder: Path) -> dict[str, Provenance]:
    """Read who drew which mask, as an earlier export wrote it down.

    Parameters
    ----------
    folder : Path
        The dataset.

    Returns
    -------
    dict
        Provenance by `name_key`; empty when there is no such table.
    """
    path = folder / PROVENANCE_NAME
    if not is_file(path):
        return {}
    return {name_key(row["name"]): _provenance(row) for row in read_table(path) if row.get("name")}


def _provenance(row: Mapping[str, str]) -> Provenance:
    status = row.get("status", "")
    return Provenance(
        annotator=row.get("annotator", ""),
        model=row.get("model", ""),
        corrected=_share(row.get("corrected_share", "")),
        status=status if status in STATUSES else "unreviewed",
        time=row.get("time", ""),
    )


def _share(text: str) -> float | None:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 1 else None
