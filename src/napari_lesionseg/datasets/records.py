"""What a dataset is, whatever its convention: images, their masks, and their annotators.

A record holds paths or small functions, never pixels of its own accord, so that thousands of them are light;
the pixels come when `Record.load` is called, one image at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.splits import Part, SplitItem
from napari_lesionseg.errors import DatasetError, ImageError, MaskError
from napari_lesionseg.io.decoding import DecodingError, decode, is_flipped
from napari_lesionseg.io.images import read_image, read_mask, unread_pages
from napari_lesionseg.io.pairing import natural_key
from napari_lesionseg.masks.plausibility import find_doubt
from napari_lesionseg.types import IGNORED, MAX_CLASS_INDEX, ByteImage, LabelImage, Landmarks

Status: TypeAlias = Literal[
    "approved", "no lesion", "corrected", "predicted", "flagged", "returned", "unreviewed"
]
"""How far an annotator got with an image."""

SIGNED: frozenset[Status] = frozenset({"approved", "no lesion"})
"""The states in which an annotator has signed the outline."""

STATUSES: tuple[Status, ...] = get_args(Status)

Source: TypeAlias = Path | NDArray[Any] | Callable[[], NDArray[Any]]
"""A file, an array, or a function that makes the array when it is called."""

InstanceImage: TypeAlias = NDArray[np.uint16]
"""Number of the object each pixel belongs to, shape (H, W), 0 = none."""

LESION_CLASSES = ("background", "lesion")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who drew a mask, and with what help.

    Parameters
    ----------
    annotator : str
        Name or initials of the annotator who signed, "" when unknown.
    model : str
        Name or hash of the model that drew the first outline, "" for none.
    corrected : float or None
        Share of the image's pixels that the annotator changed after the model, 0 to 1; None when unknown.
    status : str
        One of `STATUSES`.
    time : str
        When it was signed, ISO 8601, "" when unknown.
    """

    annotator: str = ""
    model: str = ""
    corrected: float | None = None
    status: Status = "approved"
    time: str = ""


NOT_OUTLINED = Provenance(status="unreviewed")
"""Of images that have no outline yet."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """The arrays of one record, checked against each other.

    Parameters
    ----------
    image : ndarray
        (H, W, 3) uint8.
    labels : ndarray
        (H, W) uint8, class indices, and `IGNORED`.
    instances : ndarray or None
        (H, W) uint16, if objects are numbered.
    regions : mapping
        Further masks by name, (H, W) uint8 of 0 and 1, which may overlap.
    """

    image: ByteImage
    labels: LabelImage
    instances: InstanceImage | None
    regions: Mapping[str, LabelImage]

    @property
    def is_empty(self) -> bool:
        """Whether no pixel has a class; ignored pixels have none."""
        return not ((self.labels > 0) & (self.labels != IGNORED)).any()

    @property
    def has_ignored(self) -> bool:
        """Whether some pixels are to be ignored in training and measuring."""
        return bool((self.labels == IGNORED).any())

    @property
    def doubt(self) -> str:
        """What is doubtful about the mask, see `find_doubt`; "" if nothing is."""
        return find_doubt(self.labels)

    def without_ignored(self) -> Pixels:
        """Return the pixels with background in place of what is ignored."""
        return replace(self, labels=np.where(self.labels == IGNORED, 0, self.labels).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One image of a dataset with all that is known of it.

    Parameters
    ----------
    name : str
        Name without ending, unique in the set.
    image, mask : Source
        The image, and its classes. A mask of None means that nobody has outlined it.
    instances : Source, optional
        Numbered objects.
    regions : mapping
        Further masks by name that may overlap, such as dermoscopic attributes and colors.
    classes : tuple of str
        Names of the class indices, background first.
    patient, lesion, diagnosis : str or None
        As the source has them.
    metadata : mapping
        Further facts, as text.
    people : tuple of Landmarks, optional
        Landmarks of each person, in place of a mask; None: nobody has marked any.
    skeleton : Skeleton, optional
        What the landmarks are called; None for records of masks.
    attributes : mapping
        What annotators filled in, as text by the name of the field. Unlike `metadata`, it is exported whole.
    provenance : Provenance
        The annotator.
    part : str or None
        The part of the set it was in.
    origin : Path or None
        The file the image came from, where `image` is not that file.
    """

    name: str
    image: Source
    mask: Source | None = None
    instances: Source | None = None
    regions: Mapping[str, Source] = field(default_factory=dict)
    classes: tuple[str, ...] = LESION_CLASSES
    patient: str | None = None
    lesion: str | None = None
    diagnosis: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    people: tuple[Landmarks, ...] | None = None
    skeleton: Skeleton | None = None
    provenance: Provenance = Provenance()
    part: Part | None = None
    origin: Path | None = None

    @property
    def is_annotated(self) -> bool:
        """Whether it has a mask or landmarks."""
        return self.mask is not None or self.people is not None

    def split_item(self) -> SplitItem:
        """Return what a split must know about this record."""
        return SplitItem(self.name, self.patient, self.lesion, self.diagnosis)

    def load(self, *, bare: bool = False) -> Pixels:
        """Read the image and its masks, and check that they fit each other.

        Parameters
        ----------
        bare : bool
            Give an image without an outline an empty one, instead of an error.

        Returns
        -------
        Pixels
            Arrays of one height and width.

        Raises
        ------
        DatasetError
            When a file cannot be read, sizes differ, or a class has no name.
        """
        try:
            return self._load(bare=bare)
        except (ImageError, MaskError) as error:
            raise DatasetError(str(error)) from error

    def _load(self, *, bare: bool) -> Pixels:
        image = self.load_image()
        shape = image.shape[:2]
        if self.mask is None and not bare:
            raise DatasetError("The image has no outline yet.")
        labels = np.zeros(shape, np.uint8) if self.mask is None else _labels(self.mask, shape)
        highest = int(labels.max(initial=0, where=labels != IGNORED))
        if highest >= len(self.classes):
            raise DatasetError(
                f"The mask holds class {highest}, but only 0 to {len(self.classes) - 1} have names."
            )
        instances = None if self.instances is None else _instances(self.instances, shape)
        regions = {name: _region(_labels(mask, shape)) for name, mask in self.regions.items()}
        return Pixels(image, labels, instances, regions)

    def load_image(self) -> ByteImage:
        """Read the image (H, W, 3) alone."""
        if isinstance(self.image, Path):
            return read_image(self.image)
        image = self.image() if callable(self.image) else self.image
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise DatasetError(f"An image must be (H, W, 3) bytes, not {image.shape} of {image.dtype}.")
        return image


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry of a dataset that was left out or that needs a look.

    Parameters
    ----------
    name : str
        The entry or file.
    reason : str
        One sentence.
    left_out : bool
        False if the entry was kept.
    """

    name: str
    reason: str
    left_out: bool = True


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was found in a folder.

    Parameters
    ----------
    format : str
        Name of the convention.
    records : sequence of Record
        The entries, in natural order of their names.
    problems : tuple of Problem
        Entries that were left out, and why.
    files : frozenset of Path
        The files that are used, or named among the problems.
    """

    format: str
    records: Sequence[Record]
    problems: tuple[Problem, ...] = ()
    files: frozenset[Path] = frozenset()


def file_of(source: Source | None) -> Path | None:
    """Return the file of a mask, which may be the first argument of what reads it."""
    if isinstance(source, functools.partial) and source.args:
        source = source.args[0]
    return source if isinstance(source, Path) else None


TURNED = "The image is turned by its EXIF orientation; look whether its mask is turned, too."


def is_turned_alone(image: Path, mask: Path | None) -> bool:
    """Whether an image is turned though its mask, of the same size either way, may not be."""
    return is_flipped(image) and (mask is None or not is_flipped(mask))


def image_problems(record: Record) -> Iterator[Problem]:
    """Name an image of which only the first of several pages is used."""
    if isinstance(record.image, Path) and (unread := unread_pages(record.image)):
        yield Problem(record.image.name, unread)


def mask_problems(record: Record) -> Iterator[Problem]:
    """Name a mask of which only the first of several pages is used, or that may not fit its image."""
    mask = file_of(record.mask)
    if mask is not None and (unread := unread_pages(mask)):
        yield Problem(mask.name, unread)
    if isinstance(record.image, Path) and record.mask is not None and is_turned_alone(record.image, mask):
        yield Problem(record.name, TURNED, left_out=False)


def natural_order(records: Iterable[Record]) -> tuple[Record, ...]:
    """Sort records by name, numbers by their value."""
    return tuple(sorted(records, key=lambda record: natural_key(record.name)))


def _region(labels: LabelImage) -> LabelImage:
    return np.asarray((labels > 0) & (labels != IGNORED), dtype=np.uint8)


def region_of(labels: LabelImage, index: int) -> LabelImage:
    """Return one class of a mask as 0 and 1, shape (H, W)."""
    region: LabelImage = (labels == index).astype(np.uint8)
    return region


def _are_classes(array: NDArray[Any]) -> bool:
    return bool(array.max(initial=0, where=array != IGNORED) <= MAX_CLASS_INDEX)


def _array(source: NDArray[Any] | Callable[[], NDArray[Any]], shape: tuple[int, ...]) -> NDArray[Any]:
    array = source() if callable(source) else source
    if array.shape != shape:
        raise DatasetError(
            f"The mask is {array.shape[-1]} x {array.shape[0]} pixels, its image {shape[1]} x {shape[0]}."
        )
    return array


def _labels(source: Source, shape: tuple[int, ...]) -> LabelImage:
    if isinstance(source, Path):
        return read_mask(source, (shape[0], shape[1]))
    array = _array(source, shape)
    if array.dtype.kind not in "biu" or int(array.min()) < 0 or not _are_classes(array):
        raise DatasetError(f"Class indices are whole numbers from 0 to {MAX_CLASS_INDEX}.")
    return array.astype(np.uint8)


def _instances(source: Source, shape: tuple[int, ...]) -> InstanceImage:
    if not isinstance(source, Path):
        return _array(source, shape).astype(np.uint16)
    try:
        array = decode(source).array
    except DecodingError as error:
        raise DatasetError(f"{source}: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "bui" or array.shape != shape:
        raise DatasetError(f"{source}: Objects are numbered in a gray image of the size of its photograph.")
    return array.astype(np.uint16)
