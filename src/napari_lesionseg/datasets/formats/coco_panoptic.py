"""COCO panoptic: every pixel belongs to one numbered segment, written as the colors of a PNG.

A segment's number is R + 256 G + 65536 B; 0 is what nobody outlined. ``annotations/panoptic_<part>.json``
lists the segments of the PNGs in ``annotations/panoptic_<part>/``.

A. Kirillov et al., "Panoptic segmentation", CVPR 2019; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from napari_lesionseg.datasets.facts import find_tables, name_key, read_facts, with_facts
from napari_lesionseg.datasets.formats.base import (
    Format,
    Placed,
    Plan,
    objects_of,
    part_of,
    put_image,
    put_json,
    read_provenance,
)
from napari_lesionseg.datasets.formats.coco import (
    MAX_OBJECTS,
    MAX_PIXELS,
    CocoFile,
    Image,
    Lenient,
    as_number,
    file_head,
    image_entry,
    name_categories,
    parse_entries,
    read_content,
    segment_entry,
)
from napari_lesionseg.datasets.records import (
    Dataset,
    InstanceImage,
    Pixels,
    Problem,
    Provenance,
    Record,
    natural_order,
)
from napari_lesionseg.errors import DatasetError, MaskError
from napari_lesionseg.io.decoding import DecodingError, decode
from napari_lesionseg.io.folders import FolderScan, contained, spelled, stays_inside
from napari_lesionseg.io.images import write_image
from napari_lesionseg.types import ByteImage, LabelImage

_HIGHEST = 256**3 - 1


class Segment(Lenient):
    """An entry of ``segments_info``."""

    id: int = Field(ge=1, le=_HIGHEST)
    category_id: int


class Annotation(Lenient):
    """An entry of ``annotations``: the segments of one image."""

    image_id: int
    file_name: str = Field(min_length=1, max_length=1000)
    segments_info: list[Segment]


def is_panoptic(path: Path) -> bool:
    """Whether a file lists panoptic segments, by its name."""
    return path.name.lower().startswith("panoptic") and path.suffix.lower() == ".json"


def recognizes(scan: FolderScan) -> bool:
    """Whether a folder holds a file that lists panoptic segments."""
    return any(map(is_panoptic, scan.with_suffix(".json")))


def read(scan: FolderScan, files: Sequence[Path] = ()) -> Dataset:
    """List the images of all panoptic files below a folder.

    Parameters
    ----------
    scan : FolderScan
        Holds ``annotations/panoptic_*.json``, folders of PNGs of the same names, and the images.
    files : sequence of Path
        Read these alone.

    Returns
    -------
    Dataset
        Categories are numbered from 1 in the order of their ids, segments likewise. An image without segments
        has no lesion.

    Raises
    ------
    DatasetError
        When there is no such file, one is damaged, or their categories differ.
    """
    folder = scan.root
    files = files or list(filter(is_panoptic, scan.with_suffix(".json")))
    if not files:
        raise DatasetError(f"{folder} holds no file of panoptic segments (annotations/panoptic_*.json).")
    problems: list[Problem] = []
    records: dict[str, list[Record]] = {}
    masks: list[Path] = []
    provenance = read_provenance(folder)
    contents = {path: read_content(path) for path in files}
    used = {as_number(segment.get("category_id")) for segment in _segments(contents)}
    categories: dict[int, str] | None = None
    for path, content in contents.items():
        found = name_categories(content, path, used)
        if categories is not None and found != categories:
            raise DatasetError(f"{path} has other categories than the files before it.")
        categories = found
        source = CocoFile(path, folder, provenance)
        for record, mask in _records(content, source, found, problems):
            records.setdefault(str(record.image), []).append(record)
            masks.append(mask)
    problems += [
        Problem(several[0].name, "Several entries have this file; all are left out.")
        for several in records.values()
        if len(several) > 1
    ]
    tables = find_tables(scan)
    only = [several[0] for several in records.values() if len(several) == 1]
    facts = read_facts(tables, [record.name for record in only])
    done = frozenset([*files, *tables, *masks, *map(Path, records)])
    described = natural_order(map(facts.applied, only))
    return Dataset("coco-panoptic", described, (*problems, *facts.problems), done)


def _segments(contents: Mapping[Path, Mapping[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the entries of ``segments_info`` of all files, however broken the others are."""
    for content in contents.values():
        for entry in content["annotations"]:
            listed = entry.get("segments_info") if isinstance(entry, dict) else None
            if isinstance(listed, list):
                yield from (segment for segment in listed if isinstance(segment, dict))


def _records(
    content: Mapping[str, list[Any]],
    source: CocoFile,
    categories: Mapping[int, str],
    problems: list[Problem],
) -> Iterator[tuple[Record, Path]]:
    """Yield the sound images of one file, with their PNGs."""
    annotations: dict[int, list[Annotation]] = {}
    for annotation in parse_entries(Annotation, content["annotations"], problems, source.path):
        annotations.setdefault(annotation.image_id, []).append(annotation)
    images: dict[int, list[Image]] = {}
    for image in parse_entries(Image, content["images"], problems, source.path):
        images.setdefault(image.id, []).append(image)
    for number, listed in images.items():
        try:
            found = annotations.pop(number, [])
            if len(listed) > 1 or len(found) != 1:
                raise DatasetError(f"{len(listed)} images and {len(found)} masks have the number {number}.")
            mask = _find_mask(found[0].file_name, source)
            yield _record(listed[0], found[0], mask, source, categories), mask
        except DatasetError as error:
            problems.append(Problem(listed[0].file_name, str(error)))
    for number, lost in annotations.items():
        problems.append(Problem(lost[0].file_name, f"There is no image with the number {number}."))


def _find_mask(name: str, source: CocoFile) -> Path:
    """Find a PNG in the folder named like its list, or beside the list."""
    for place in (source.path.with_suffix(""), source.path.parent):
        file = spelled(contained(place, name))
        if file is not None and stays_inside(file, source.root):
            return file
    raise DatasetError(f"The mask {name[:200]!r} is not in the folder {source.path.stem}.")


def _record(
    image: Image, annotation: Annotation, mask: Path, source: CocoFile, categories: Mapping[int, str]
) -> Record:
    numbers = {category: index for index, category in enumerate(categories, 1)}
    segments = {segment.id: numbers.get(segment.category_id) for segment in annotation.segments_info}
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(f"{image.width} x {image.height} pixels are more than any camera's.")
    if len(segments) > MAX_OBJECTS or len(segments) != len(annotation.segments_info):
        raise DatasetError(f"Two segments have one number, or there are more than {MAX_OBJECTS}.")
    if None in segments.values():
        raise DatasetError("A segment has an unknown category.")
    drawn = functools.partial(_draw, mask, tuple(sorted(segments)))
    classes = [segments[number] or 0 for number in sorted(segments)]
    name = image.file_name.replace("\\", "/")
    record = Record(
        Path(name).stem,
        source.image(image.file_name),
        functools.partial(_labels, drawn, classes),
        instances=functools.partial(_instances, drawn),
        classes=("background", *categories.values()),
        provenance=source.provenance.get(
            name_key(name), Provenance(status="approved" if segments else "no lesion")
        ),
        part=part_of(source.path.with_suffix("") / "x", source.root),
    )
    return with_facts(record, image.facts)


def _draw(path: Path, numbers: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the place of every pixel's segment among `numbers` from 1, shape (H, W); 0 is none."""
    try:
        decoded = decode(path)
    except DecodingError as error:
        raise MaskError(f"{path}: {error}") from error
    array = decoded.array if decoded.palette is None else decoded.palette[decoded.array]
    if array.ndim != 3 or array.dtype != np.uint8 or decoded.lossy:
        raise MaskError(f"{path}: Its pixels are not the numbers of segments, in 24-bit color.")
    wide = array.astype(np.uint32)
    values, places = np.unique(wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16, return_inverse=True)
    drawn = set(values.tolist()) - {0}
    if drawn != set(numbers):
        odd = min(drawn ^ set(numbers))
        raise MaskError(
            f"{path}: Segment {odd} is {'drawn but not listed' if odd in drawn else 'not drawn'}."
        )
    # Zero is there or not; all other values are the numbers, in the same order.
    found: NDArray[np.intp] = places.reshape(array.shape[:2]) + int(values[0] != 0)
    return found


def _labels(draw: Callable[[], NDArray[np.intp]], classes: Sequence[int]) -> LabelImage:
    """Return class indices, (H, W)."""
    labels: LabelImage = np.array([0, *classes], np.uint8)[draw()]
    return labels


def _instances(draw: Callable[[], NDArray[np.intp]]) -> InstanceImage:
    """Return object numbers, (H, W)."""
    instances: InstanceImage = draw().astype(np.uint16)
    return instances


def write(plan: Plan) -> Iterator[Placed]:
    """Write ``images/<part>/``, ``annotations/panoptic_<part>/`` and ``annotations/panoptic_<part>.json``.

    Parameters
    ----------
    plan : Plan
        What to write.

    Yields
    ------
    Placed
        After each record.
    """
    number = 0
    head = file_head(plan)
    head["categories"] = [category | {"isthing": 1} for category in head["categories"]]
    for part, records in plan.parts().items():
        folder = plan.folder / "annotations" / f"panoptic_{part}"
        folder.mkdir(parents=True)
        images, annotations = [], []
        for record in records:
            pixels = plan.load(record)
            placed = put_image(plan, record, pixels.image, plan.folder / "images" / part / record.name)
            number += 1
            images.append(image_entry(number, placed, record, pixels.labels.shape))
            colors, segments = segments_of(pixels, split=plan.config.split_parts)
            mask = folder / f"{record.name}.png"
            write_image(mask, colors, durable=False)
            annotations.append({"image_id": number, "file_name": mask.name, "segments_info": segments})
            yield Placed(record.name, placed, mask.relative_to(plan.folder).as_posix())
        put_json(folder.with_suffix(".json"), head | {"images": images, "annotations": annotations})


def segments_of(pixels: Pixels, *, split: bool) -> tuple[ByteImage, list[dict[str, Any]]]:
    """Return the numbers of the objects of one image as colors, (H, W, 3), and COCO's ``segments_info``."""
    numbers = np.zeros(pixels.labels.shape, np.uint32)
    segments = []
    for number, found in enumerate(objects_of(pixels, split=split), 1):
        numbers[found.box][found.mask > 0] = number
        segments.append(segment_entry(number, found))
    return np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1).astype(np.uint8), segments


FORMATS = (Format("coco-panoptic", "COCO panoptic", recognizes, read, write),)
