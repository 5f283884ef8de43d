"""Looking through images before an export: what must stay out, and what shows the same thing twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.datasets.formats.base import ExportConfig
from napari_lesionseg.datasets.records import SIGNED, Pixels, Problem, Record, file_of
from napari_lesionseg.datasets.splits import find_duplicates, image_hash
from napari_lesionseg.errors import DatasetError, ImageError
from napari_lesionseg.masks.components import largest_component
from napari_lesionseg.types import IGNORED, ByteImage, LabelImage

_MAY_BE_MASK = (
    "It is of few flat colors, and may be a mask; name masks as their images, or with _mask behind that."
)
_SAMPLE = 100_000  # pixels
_FEW_COLORS = 8
_NEARLY = 32  # so near to black or white the pixels of a soft or lossy mask lie
_MOSTLY, _LEAST = 0.9, 0.01


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: `done` of `total` entries of a stage are through, `name` the latest."""

    stage: Literal["unpacking", "checking", "writing", "hashing"]
    done: int
    total: int
    name: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What may be exported."""

    records: tuple[Record, ...]
    sizes: Mapping[str, tuple[int, int]]
    duplicates: tuple[tuple[str, ...], ...]
    problems: tuple[Problem, ...]
    ignored: tuple[str, ...] = ()  # names of images with pixels to be ignored


@dataclass(slots=True)
class _Tally:
    kept: list[Record] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    hashes: dict[str, NDArray[np.uint64]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check_records(
    records: Sequence[Record], config: ExportConfig, *, bare: bool = False
) -> Iterator[Step | Checked]:
    """Read every image and mask once, and decide which may be exported.

    Left out are images that cannot be read, whose mask has another size, that nobody has signed (unless the
    settings include them), and whose mask is empty though a lesion was signed.
    """
    tally = _Tally()
    for number, record in enumerate(_distinct(records, tally.problems), 1):
        _check(record, config, tally, bare=bare)
        yield Step("checking", number, len(records), record.name)
    duplicates = find_duplicates(tally.hashes)
    kept = _without_copies(tally, duplicates, config)
    if not kept:
        reason = f" The first reason: {tally.problems[0].reason}" if tally.problems else ""
        raise DatasetError(f"None of {len(records)} images can be exported.{reason}")
    if len({record.classes for record in kept}) > 1:
        raise DatasetError("The images have different classes; export them in separate datasets.")
    groups = () if config.duplicates == "skip" else tuple(duplicates)
    yield Checked(tuple(kept), tally.sizes, groups, tuple(tally.problems), tuple(tally.ignored))


def _distinct(records: Sequence[Record], problems: list[Problem]) -> Iterator[Record]:
    """Give an image that has the name of one before it a number behind its name."""
    seen = set[str]()
    for record in records:
        name, copy = record.name, 1
        while name.casefold() in seen:
            copy += 1
            name = f"{record.name}_{copy}"
        seen.add(name.casefold())
        if copy > 1:
            problems.append(
                Problem(
                    record.name,
                    f"Another image has the same name; this one is called {name}.",
                    left_out=False,
                )
            )
        yield record if copy == 1 else replace(record, name=name)


def _check(record: Record, config: ExportConfig, tally: _Tally, *, bare: bool) -> None:
    """Put a record among the kept ones, or say why not."""
    try:
        _check_status(record, config, bare=bare)
        pixels = prepare(record, config)
        _check_content(record, pixels, config)
    except DatasetError as error:
        if config.unapproved == "refuse" and record.provenance.status not in SIGNED:
            raise DatasetError(f"{record.name}: {error}") from error
        mask = file_of(record.mask) if isinstance(error.__cause__, ImageError) else None
        also = "" if mask is None else f" Its mask {mask.name} is left out with it."
        tally.problems.append(Problem(record.name, f"{error}{also}"))
        return
    tally.kept.append(record)
    tally.sizes[record.name] = (pixels.labels.shape[0], pixels.labels.shape[1])
    if doubt := pixels.doubt:
        tally.problems.append(Problem(record.name, doubt, left_out=False))
    if pixels.has_ignored:
        tally.ignored.append(record.name)
    tally.hashes[record.name] = image_hash(pixels.image)


def _check_status(record: Record, config: ExportConfig, *, bare: bool) -> None:
    what = "outline" if record.skeleton is None else "landmarks"
    if not record.is_annotated and not bare:
        raise DatasetError(f"The image has no {what} yet.")
    if config.unapproved != "include" and record.provenance.status not in SIGNED:
        subject = "outline is" if record.skeleton is None else "landmarks are"
        raise DatasetError(f"The {subject} not signed by an annotator ({record.provenance.status}).")


def _check_content(record: Record, pixels: Pixels, config: ExportConfig) -> None:
    """Compare what the mask shows with what the annotator signed."""
    if record.skeleton is not None:
        return  # an image without landmarks of the skeleton is an example, too
    if record.mask is None and looks_like_mask(pixels.image):
        raise DatasetError(_MAY_BE_MASK)
    empty = pixels.is_empty
    if record.provenance.status == "no lesion" and not empty:
        raise DatasetError("The image is signed as having no lesion, but its mask is not empty.")
    if empty and record.provenance.status == "approved" and config.unapproved != "include":
        raise DatasetError("The mask is empty, but the image is not signed as having no lesion.")


def looks_like_mask(image: ByteImage) -> bool:
    """Whether an image (H, W, 3) is of few flat colors with black, or of soft black and white."""
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _SAMPLE))
    sample = image[::step, ::step].astype(np.int32)
    packed = sample[..., 0] << 16 | sample[..., 1] << 8 | sample[..., 2]
    colors = np.unique(packed)
    if 2 <= len(colors) <= _FEW_COLORS:
        return bool(colors[0] == 0)
    if np.ptp(sample, axis=2).max() > _NEARLY:
        return False
    black, white = (sample < _NEARLY).all(axis=2).mean(), (sample > 255 - _NEARLY).all(axis=2).mean()
    return bool(black + white > _MOSTLY and min(black, white) > _LEAST)


def _without_copies(tally: _Tally, duplicates: Sequence[Sequence[str]], config: ExportConfig) -> list[Record]:
    """Treat copies as the settings say, and name them in any case."""
    for group in duplicates:
        if config.duplicates == "refuse":
            raise DatasetError(f"{', '.join(group)} are copies of the same image; remove all but one.")
        skipped = config.duplicates == "skip"
        reason = f"The image is a copy of {group[0]}, {'left out' if skipped else 'kept in the same part'}."
        tally.problems += [Problem(name, reason, left_out=skipped) for name in group[1:]]
    dropped = {name for group in duplicates for name in group[1:]} if config.duplicates == "skip" else set()
    return [record for record in tally.kept if record.name not in dropped]


def prepare(record: Record, config: ExportConfig) -> Pixels:
    """Load a record's pixels as they are to be written."""
    pixels = record.load(bare=True)
    return _one_region(pixels) if config.single_region and not pixels.is_empty else pixels


def _one_region(pixels: Pixels) -> Pixels:
    """Keep the largest part (8-connected) and close its holes with the lesion's class."""
    largest = largest_component((pixels.labels > 0) & (pixels.labels != IGNORED))
    region = ndimage.binary_fill_holes(largest)
    labels: LabelImage = np.where(largest, pixels.labels, region.astype(np.uint8))
    instances = pixels.instances
    if instances is not None:
        main = np.bincount(instances[largest]).argmax()
        instances = np.where(largest, instances, np.where(region, main, 0)).astype(np.uint16)
    regions = {name: (mask & region).astype(np.uint8) for name, mask in pixels.regions.items()}
    return Pixels(pixels.image, labels, instances, regions)
