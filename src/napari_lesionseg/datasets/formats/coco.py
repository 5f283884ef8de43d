"""COCO: one JSON file a part with images, categories and objects; masks as run lengths or polygons.

T.-Y. Lin et al., "Microsoft COCO: common objects in context", ECCV 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_lesionseg.datasets.formats.base import Format, Placed, Plan, facts_of, put_image
from napari_lesionseg.datasets.formats.coco_masks import (
    decode_runs,
    draw_polygons,
    encode_runs,
    pack_runs,
    trace_polygons,
    unpack_runs,
)
from napari_lesionseg.datasets.formats.listing import (
    MAX_FILES_SCANNED,
    name_key,
    natural_order,
    part_of,
    read_provenance,
    with_facts,
)
from napari_lesionseg.datasets.records import Dataset, InstanceImage, Pixels, Problem, Provenance, Record
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.archives import contained, read_json, walk
from napari_lesionseg.io.images import MAX_CLASS_INDEX
from napari_lesionseg.masks.components import bounding_box, connected_components
from napari_lesionseg.types import LabelImage

MAX_SIDE = 100_000
_PIXELS = 200_000_000
_LEAST_WORK, _MOST_WORK = 400_000, 20_000_000_000  # pixels painted; the first stands for drawing the smallest
_FACTS = "facts"
_NAMES = ("instances", "_annotations.coco")
_OTHERS = ("panoptic_", "captions_", "person_keypoints_", "image_info_", "croissant.json", "manifest.json")
_HEAD = 64 * 1024
# The first key of a COCO file; what else begins so is refused when it is read.
_KEYS = re.compile(rb'\s*\{\s*"(?:info|licenses|images|categories|annotations)"\s*:')

Side: TypeAlias = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Parsed = TypeVar("Parsed", bound=BaseModel)


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Runs(_Lenient):
    """A mask as run lengths, packed (text) or plain (numbers); `size` is (height, width)."""

    size: tuple[Side, Side]
    counts: str | list[int]


class Image(_Lenient):
    """An entry of ``images``; `facts` is our own, for what COCO has no place for."""

    id: int
    file_name: str = Field(min_length=1, max_length=1000)
    width: Side
    height: Side
    facts: dict[str, str] = Field(default_factory=dict)


class Category(_Lenient):
    """An entry of ``categories``."""

    id: int
    name: str = Field(min_length=1, max_length=200)


class Annotation(_Lenient):
    """An entry of ``annotations``: one object."""

    id: int = 0
    image_id: int
    category_id: int
    segmentation: Runs | Annotated[list[list[float]], Field(min_length=1)]


def recognizes(folder: Path) -> bool:
    """Tell whether a folder holds a COCO file that lists objects."""
    return any(lists_objects(path) for path in islice(walk(folder), MAX_FILES_SCANNED))


def lists_objects(path: Path) -> bool:
    """Tell by its name, or by its beginning, whether a file is a COCO file that lists objects."""
    name = path.name.lower()
    if not name.endswith(".json") or name.startswith(_OTHERS):
        return False
    if name.startswith(_NAMES):
        return True
    try:
        with path.open("rb") as stream:
            return _KEYS.match(stream.read(_HEAD)) is not None
    except OSError:
        return False


def read(folder: Path, files: Sequence[Path] = ()) -> Dataset:
    """List the images of all COCO files below a folder.

    Parameters
    ----------
    folder : Path
        Holds ``annotations/instances_*.json``, ``_annotations.coco.json`` or the like, and the images.
    files : sequence of Path
        Read these alone.

    Returns
    -------
    Dataset
        Categories are numbered from 1 in the order of their ids. Objects are numbered from 1 in the order
        of their ids; where two overlap, the later one is on top. An image without objects has no lesion.

    Raises
    ------
    DatasetError
        When there is no such file, one is damaged, or their categories differ.
    """
    files = files or [path for path in walk(folder) if lists_objects(path)]
    if not files:
        raise DatasetError(f"{folder} holds no COCO file (annotations/instances_*.json).")
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    provenance = read_provenance(folder)
    classes: dict[int, str] | None = None
    for path in files:
        content = _content(path)
        found = _categories(content, path)
        if classes is not None and found != classes:
            raise DatasetError(f"{path} has other categories than the files before it.")
        classes = found
        for record in _records(content, _File(path, folder, provenance), found, problems):
            first = records.setdefault(record.name.casefold(), record)
            problems += [Problem(record.name, "The name was taken before.")] * (first is not record)
    return Dataset("coco", natural_order(records.values()), tuple(problems))


def _content(path: Path) -> dict[str, list[Any]]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path} is not a COCO file.")
    lists = {key: content.get(key, []) for key in ("images", "categories", "annotations")}
    if not all(isinstance(value, list) for value in lists.values()):
        raise DatasetError(f"{path} is not a COCO file.")
    return lists


def _parse(
    model: type[Parsed], entries: Sequence[Any], problems: list[Problem], path: Path
) -> Iterator[Parsed]:
    """Check the entries of a list one by one; broken ones become problems."""
    for number, entry in enumerate(entries):
        try:
            yield model.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"][:3]))
            name = f"{path.name}: {model.__name__.lower()} {number}"
            problems.append(Problem(name, f"The entry is broken ({where}: {first['msg']})."))


def _categories(content: Mapping[str, list[Any]], path: Path) -> dict[int, str]:
    """Return the names of the categories by id, in the order of the ids."""
    problems: list[Problem] = []
    found = {
        category.id: category.name for category in _parse(Category, content["categories"], problems, path)
    }
    if problems or not found or len(found) != len(content["categories"]) or len(found) > MAX_CLASS_INDEX:
        raise DatasetError(f"{path} has no sound list of 1 to {MAX_CLASS_INDEX} categories.")
    return dict(sorted(found.items()))


def _records(
    content: Mapping[str, list[Any]],
    source: _File,
    categories: Mapping[int, str],
    problems: list[Problem],
) -> Iterator[Record]:
    """Yield the sound images of one file."""
    objects: dict[int, list[Annotation]] = {}
    for annotation in _parse(Annotation, content["annotations"], problems, source.path):
        objects.setdefault(annotation.image_id, []).append(annotation)
    broken = _numbers_of_broken(content["annotations"], objects)
    seen = set[int]()
    for image in _parse(Image, content["images"], problems, source.path):
        try:
            if image.id in seen:
                raise DatasetError(f"Two images have the number {image.id}.")
            seen.add(image.id)
            if image.id in broken:
                raise DatasetError("One of its objects is broken or a box alone.")
            yield _record(image, objects.get(image.id, []), source, categories)
        except DatasetError as error:
            problems.append(Problem(image.file_name, str(error)))
    lost = sorted(objects.keys() - seen)
    problems += [Problem(source.path.name, f"There is no image {key} for some objects.") for key in lost]


def _numbers_of_broken(entries: Sequence[Any], objects: Mapping[int, Sequence[Annotation]]) -> set[int]:
    """Return the images of which more objects are listed than could be read."""
    listed = Counter(
        entry["image_id"]
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("image_id"), int)
    )
    return {number for number, count in listed.items() if count > len(objects.get(number, ()))}


def _record(
    image: Image, objects: Sequence[Annotation], source: _File, categories: Mapping[int, str]
) -> Record:
    numbers = {category: index for index, category in enumerate(categories, 1)}
    _check(image, objects, numbers)
    mask = _Mask(image, tuple(sorted(objects, key=lambda annotation: annotation.id)), numbers)
    name = name_key(image.file_name.replace("\\", "/"))
    record = Record(
        Path(image.file_name.replace("\\", "/")).stem,
        source.image(image.file_name),
        mask.labels,
        instances=mask.instances,
        classes=("background", *categories.values()),
        provenance=source.provenance.get(name, Provenance(status="approved" if objects else "no lesion")),
        part=part_of(source.path.with_suffix("") / "x", source.root),
    )
    return with_facts(record, image.facts, ())


@dataclass(frozen=True, slots=True)
class _File:
    """A COCO file, the data set it is in, and what is known of who drew its masks."""

    path: Path
    root: Path
    provenance: Mapping[str, Provenance]

    def image(self, name: str) -> Path:
        """Find an image beside the file, in the root, in ``images``, or in the part's folder below them."""
        part = self.path.stem.removeprefix("instances_").removeprefix("instances")
        for place in ("", "images", part, f"images/{part}"):
            file = contained(self.root / place, name)
            if file.is_file() and file.resolve().is_relative_to(self.root.resolve()):
                return file
        file = contained(self.path.parent, name)
        if file.is_file():
            return file
        raise DatasetError(f"The image {name[:200]!r} is not there.")


def _check(image: Image, objects: Sequence[Annotation], numbers: Mapping[int, int]) -> None:
    """Refuse what cannot be drawn, before any memory is taken."""
    if image.width * image.height > _PIXELS:
        raise DatasetError(f"{image.width} x {image.height} pixels are more than any camera's.")
    if len(objects) * max(image.width * image.height, _LEAST_WORK) > _MOST_WORK:
        raise DatasetError(f"{len(objects)} objects in an image of this size are too many.")
    for annotation in objects:
        mask = annotation.segmentation
        if annotation.category_id not in numbers:
            raise DatasetError(f"An object has the unknown category {annotation.category_id}.")
        if isinstance(mask, Runs) and mask.size != (image.height, image.width):
            raise DatasetError("A mask has another size than its image.")


class _Mask:
    """The objects of one image, drawn when they are asked for."""

    def __init__(self, image: Image, objects: tuple[Annotation, ...], numbers: Mapping[int, int]) -> None:
        self._size = (image.height, image.width)
        self._objects = objects
        self._numbers = numbers

    def labels(self) -> LabelImage:
        """Return class indices, (H, W) uint8."""
        labels = np.zeros(self._size, np.uint8)
        for annotation in self._objects:
            labels[self._draw(annotation) > 0] = self._numbers[annotation.category_id]
        return labels

    def instances(self) -> InstanceImage:
        """Return object numbers, (H, W) uint16."""
        instances = np.zeros(self._size, np.uint16)
        for number, annotation in enumerate(self._objects, 1):
            instances[self._draw(annotation) > 0] = number
        return instances

    def _draw(self, annotation: Annotation) -> LabelImage:
        mask = annotation.segmentation
        if not isinstance(mask, Runs):
            return draw_polygons(mask, *self._size)
        runs = mask.counts
        if isinstance(runs, str):
            runs = unpack_runs(runs, self._size[0] * self._size[1])
        return decode_runs(runs, *self._size)


def write(plan: Plan) -> Iterator[Placed]:
    """Write ``images/<part>/`` and ``annotations/instances_<part>.json``.

    Parameters
    ----------
    plan : Plan
        What to write; `config.polygons` decides how masks are written.

    Yields
    ------
    Placed
        After each record.
    """
    number = 0
    for part, records in plan.parts().items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        file = f"annotations/instances_{part}.json"
        for record in records:
            pixels = plan.load(record)
            placed = put_image(plan, record, pixels.image, plan.folder / "images" / part / record.name)
            number += 1
            images.append(image_entry(number, placed, record, pixels.labels.shape))
            for mask, category in objects_of(pixels, split=plan.config.split_parts):
                annotations.append(_annotation(mask, category, number, polygons=plan.config.polygons))
            yield Placed(record.name, placed, file)
        for index, annotation in enumerate(annotations, 1):
            annotation["id"] = index
        put_json(plan.folder / file, file_head(plan) | {"images": images, "annotations": annotations})


def file_head(plan: Plan) -> dict[str, Any]:
    """Return the entries of a COCO file that do not depend on the images."""
    return {
        "info": {
            "description": plan.info.title,
            "version": "1.0",
            "contributor": ", ".join(plan.info.creators),
        },
        "licenses": [{"id": 1, "name": plan.info.license or "not stated", "url": ""}],
        "categories": [
            {"id": index, "name": name, "supercategory": "skin"}
            for index, name in enumerate(plan.classes)
            if index
        ],
    }


def image_entry(number: int, placed: str, record: Record, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return an entry of ``images``; `placed` is its path, of which COCO wants the name alone."""
    facts = {key: value for key, value in facts_of(record).items() if value and key != "name"}
    return {
        "id": number,
        "file_name": placed.rsplit("/", 1)[-1],
        "width": shape[1],
        "height": shape[0],
        "license": 1,
        _FACTS: facts,
    }


def objects_of(pixels: Pixels, *, split: bool) -> Iterator[tuple[LabelImage, int]]:
    """Yield the mask and the class index of each object.

    Parameters
    ----------
    pixels : Pixels
        Of one record.
    split : bool
        Where objects are not told apart, count separate parts (8-connected) as objects.

    Yields
    ------
    (ndarray, int)
        (H, W) uint8 of 0 and 1, and the class index; an object of two classes comes twice.
    """
    for category in np.unique(pixels.labels[pixels.labels > 0]).tolist():
        region = pixels.labels == category
        numbers = np.where(region, 1 if pixels.instances is None else pixels.instances, 0)
        if pixels.instances is None and split:
            numbers = connected_components(region)
        loose = region & (numbers == 0)
        for number in np.unique(numbers[numbers > 0]).tolist():
            yield (numbers == number).astype(np.uint8), category
        if loose.any():
            yield loose.astype(np.uint8), category


def _annotation(mask: LabelImage, category: int, image: int, *, polygons: bool) -> dict[str, Any]:
    """Return an entry of ``annotations`` but for its id."""
    runs = {"size": list(mask.shape), "counts": pack_runs(encode_runs(mask))}
    shape = {"segmentation": trace_polygons(mask) if polygons else runs}
    return {"image_id": image} | segment_entry(0, mask, category) | shape


def segment_entry(number: int, mask: LabelImage, category: int) -> dict[str, Any]:
    """Return what COCO says of an object, and of a segment, whatever way its mask is written.

    Parameters
    ----------
    number : int
        Its id.
    mask : ndarray
        (H, W) uint8 of 0 and 1, not empty.
    category : int
        Class index.

    Returns
    -------
    dict
        Area in pixels; box as left, top, width and height.
    """
    rows, columns = bounding_box(mask) or (slice(0, 0), slice(0, 0))
    return {
        "id": number,
        "category_id": category,
        "area": int(mask.sum()),
        "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        "iscrowd": 0,
    }


def put_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((json.dumps(content, ensure_ascii=False) + "\n").encode())


FORMAT = Format("coco", "COCO", recognizes, read, write)
