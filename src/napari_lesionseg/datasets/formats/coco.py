"""COCO: one JSON file a part with images, categories and objects; masks as run lengths or polygons.

Polygons are written along the edges of the pixels, so that pycocotools draws exactly the mask they came from.

T.-Y. Lin et al., "Microsoft COCO: common objects in context", ECCV 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_api
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from scipy import ndimage

from napari_lesionseg.datasets.facts import (
    IMAGE_KEYS,
    agreed_attributes,
    find_tables,
    further_facts,
    name_key,
    read_facts,
    with_facts,
)
from napari_lesionseg.datasets.formats.base import (
    MAX_FILES_SCANNED,
    ExportConfig,
    Format,
    ObjectMask,
    Placed,
    Plan,
    facts_of,
    objects_of,
    part_of,
    put_image,
    put_json,
    read_provenance,
)
from napari_lesionseg.datasets.records import (
    NOT_OUTLINED,
    Dataset,
    InstanceImage,
    Problem,
    Provenance,
    Record,
    natural_order,
)
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import FolderScan, contained, spelled, stays_inside
from napari_lesionseg.io.tables import read_json
from napari_lesionseg.types import MAX_CLASS_INDEX, LabelImage

MAX_SIDE = 100_000
MAX_PIXELS = 200_000_000
MAX_OBJECTS = 65_535
"""Most objects in one image: their numbers have 16 bits."""

MAX_LENGTH = 2_000_000
"""Longest outline that is drawn, over all polygons of a mask, in pixels."""

_FAR = 1e6
_MOST_WORK = 4_000_000_000  # pixels painted, over all objects of an image
_OUTLINE_WORK = 25  # pixels that are painted while one pixel of an outline is drawn
_MOST_INDICES = 4_000_000
_MOST_DIGITS = 7  # of 5 bits: 34 bits, while an image has fewer than 28
_FACTS = "facts"
_NAMES = ("instances", "_annotations.coco")
_OTHERS = ("panoptic_", "captions_", "person_keypoints_", "image_info_", "croissant.json", "manifest.json")
_HEAD = 64 * 1024
# The first key of a COCO file; what else begins so is refused when it is read.
_KEYS = re.compile(rb'\s*\{\s*"(?:info|licenses|images|categories|annotations)"\s*:')

Side: TypeAlias = Annotated[int, Field(ge=1, le=MAX_SIDE)]
_ID = TypeAdapter(int)
Parsed = TypeVar("Parsed", bound=BaseModel)


class Lenient(BaseModel):
    """Base of the entries of COCO files, whose further keys are not needed."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class RunLengthMask(Lenient):
    """A mask as run lengths, packed (text) or plain (numbers); `size` is (height, width)."""

    size: tuple[Side, Side]
    counts: str | list[int]


class Image(Lenient):
    """An entry of ``images``; `facts` is our own, for what COCO has no place for."""

    id: int
    file_name: str = Field(min_length=1, max_length=1000)
    width: Side
    height: Side
    facts: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _keep_further_keys(cls, entry: Any) -> Any:
        """Take patients and the like as facts, which other programs write beside COCO's own keys."""
        if not isinstance(entry, dict) or entry.keys() <= IMAGE_KEYS:
            return entry
        facts, told = further_facts(entry), entry.get(_FACTS, {})
        return {**entry, _FACTS: facts | told if isinstance(told, dict) else told}


class Category(Lenient):
    """An entry of ``categories``."""

    id: int
    name: str = Field(min_length=1, max_length=200)
    supercategory: str = ""


class Annotation(Lenient):
    """An entry of ``annotations``: one object."""

    id: int = 0
    image_id: int
    category_id: int
    segmentation: RunLengthMask | Annotated[list[list[float]], Field(min_length=1)]
    attributes: Any = None  # by name, as CVAT writes them


def recognizes(scan: FolderScan) -> bool:
    """Tell whether a folder holds a COCO file that lists objects."""
    return any(map(lists_objects, scan.with_suffix(".json")[:MAX_FILES_SCANNED]))


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


def read(scan: FolderScan, files: Sequence[Path] = ()) -> Dataset:
    """List the images of all COCO files below a folder.

    Parameters
    ----------
    scan : FolderScan
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
    folder = scan.root
    files = files or list(filter(lists_objects, scan.with_suffix(".json")))
    if not files:
        raise DatasetError(f"{folder} holds no COCO file (annotations/instances_*.json).")
    records: dict[str, Record] = {}
    problems: list[Problem] = []
    repeated = set[str]()
    provenance = read_provenance(folder)
    classes: dict[int, str] | None = None
    contents = {path: read_content(path) for path in files}
    used = _used_categories(contents.values())
    for path, content in contents.items():
        if any("segments_info" in entry for entry in content["annotations"] if isinstance(entry, dict)):
            raise DatasetError(f"{path} lists panoptic segments; read it with --format coco-panoptic.")
        found = name_categories(content, path, used)
        if classes is not None and found != classes:
            raise DatasetError(f"{path} has other categories than the files before it.")
        classes = found
        for record in _records(content, CocoFile(path, folder, provenance), found, problems):
            if records.setdefault(str(record.image), record) is not record:
                repeated.add(str(record.image))
    for key in repeated:
        reason = "Several entries have this file, and each may lack objects of the others; all are left out."
        problems.append(Problem(records.pop(key).name, reason))
    lost = [Path(key) for key in repeated]
    tables = find_tables(scan)
    facts = read_facts(tables, [record.name for record in records.values()])
    described = [facts.applied(record) for record in records.values()]
    images = [record.image for record in described if isinstance(record.image, Path)]
    done = frozenset([*files, *tables, *images, *lost])
    return Dataset("coco", natural_order(described), (*problems, *facts.problems), done)


def read_content(path: Path) -> dict[str, list[Any]]:
    """Return the lists of images, categories and annotations of a COCO file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path} is not a COCO file.")
    lists = {key: content.get(key, []) for key in ("images", "categories", "annotations")}
    if not all(isinstance(value, list) for value in lists.values()):
        raise DatasetError(f"{path} is not a COCO file.")
    return lists


def parse_entries(
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


def _used_categories(contents: Iterable[Mapping[str, list[Any]]]) -> set[int | None]:
    """Return the ids of the categories that any object has."""
    entries = (entry for content in contents for entry in content["annotations"] if isinstance(entry, dict))
    return {as_number(entry.get("category_id")) for entry in entries}


def name_categories(
    content: Mapping[str, list[Any]], path: Path, used: Container[int | None]
) -> dict[int, str]:
    """Return the names of the categories by id, in the order of the ids; each has a name of its own."""
    problems: list[Problem] = []
    found = {
        category.id: category for category in parse_entries(Category, content["categories"], problems, path)
    }
    if problems or not found or len(found) != len(content["categories"]) or len(found) > MAX_CLASS_INDEX:
        raise DatasetError(f"{path} has no sound list of 1 to {MAX_CLASS_INDEX} categories.")
    groups = {category.supercategory for category in found.values()}
    names: dict[int, str] = {}
    for key, category in sorted(found.items()):
        # Roboflow lists the name of the project as a category, other tools the background.
        project = category.name in groups and category.supercategory in ("", "none")
        placeholder = project or category.name.casefold() == "background"
        if key in used or not placeholder:
            taken = category.name in {"background", *names.values()}
            names[key] = f"{category.name} {key}" if taken else category.name
    if not names:
        raise DatasetError(f"{path} has no category but the background.")
    return names


def _records(
    content: Mapping[str, list[Any]],
    source: CocoFile,
    categories: Mapping[int, str],
    problems: list[Problem],
) -> Iterator[Record]:
    """Yield the sound images of one file."""
    objects: dict[int, list[Annotation]] = {}
    for annotation in parse_entries(Annotation, content["annotations"], problems, source.path):
        objects.setdefault(annotation.image_id, []).append(annotation)
    broken = _numbers_of_broken(content["annotations"], objects)
    if not content["annotations"]:  # as in lists of images to be outlined
        reason = "It lists no objects, so its images count as not outlined."
        problems.append(Problem(source.path.name, reason, left_out=False))
    seen = set[int]()
    for image in parse_entries(Image, content["images"], problems, source.path):
        try:
            if image.id in seen:
                raise DatasetError(f"Two images have the number {image.id}.")
            seen.add(image.id)
            if image.id in broken:
                raise DatasetError("One of its objects is broken or a box alone.")
            record = _record(image, _distinct(objects.get(image.id, [])), source, categories)
            told = source.provenance.get(name_key(record.name), NOT_OUTLINED)
            known = content["annotations"] or told.status == "no lesion"
            yield record if known else replace(record, mask=None, instances=None, provenance=NOT_OUTLINED)
        except DatasetError as error:
            problems.append(Problem(image.file_name, str(error)))
    lost = sorted(objects.keys() - seen)
    problems += [Problem(source.path.name, f"There is no image {key} for some objects.") for key in lost]


def _distinct(objects: Iterable[Annotation]) -> list[Annotation]:
    """Leave out objects that are listed again."""
    found: dict[tuple[int, str], Annotation] = {}
    for annotation in objects:
        found.setdefault((annotation.category_id, repr(annotation.segmentation)), annotation)
    return list(found.values())


def _numbers_of_broken(entries: Sequence[Any], objects: Mapping[int, Sequence[Annotation]]) -> set[int]:
    """Return the images of which more objects are listed than could be read."""
    ids = (entry.get("image_id") for entry in entries if isinstance(entry, dict))
    listed = Counter(number for number in map(as_number, ids) if number is not None)
    return {number for number, count in listed.items() if count > len(objects.get(number, ()))}


def as_number(value: Any) -> int | None:
    """Return an id as a number, which text and decimals may hold as well."""
    try:
        return _ID.validate_python(value)
    except ValidationError:
        return None


def _record(
    image: Image, objects: Sequence[Annotation], source: CocoFile, categories: Mapping[int, str]
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
    agreed = agreed_attributes(annotation.attributes for annotation in objects)
    return with_facts(record, {**agreed, **image.facts})


@dataclass(frozen=True, slots=True)
class CocoFile:
    """A COCO file, the dataset it is in, and what is known of who drew its masks."""

    path: Path
    root: Path
    provenance: Mapping[str, Provenance]

    def image(self, name: str) -> Path:
        """Find an image beside the file, in the root, in ``images``, or in the part's folder below them."""
        part = re.sub("^(?:instances|panoptic|(?:person_)?keypoints)_?", "", self.path.stem)
        places = [self.root / place for place in ("", "images", part, f"images/{part}")]
        for place in [*places, self.path.parent]:
            # macOS writes file names in decomposed Unicode, and most programs write JSON in composed.
            file = spelled(contained(place, name))
            if file is not None and stays_inside(file, self.root):
                return file
        raise DatasetError(f"The image {name[:200]!r} is not there.")


def _check(image: Image, objects: Sequence[Annotation], numbers: Mapping[int, int]) -> None:
    """Refuse what cannot be drawn, before any memory is taken."""
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(f"{image.width} x {image.height} pixels are more than any camera's.")
    if len(objects) > MAX_OBJECTS:
        raise DatasetError(f"{len(objects)} objects are more than an image can hold ({MAX_OBJECTS}).")
    for annotation in objects:
        mask = annotation.segmentation
        if annotation.category_id not in numbers:
            raise DatasetError(f"An object has the unknown category {annotation.category_id}.")
        if isinstance(mask, RunLengthMask) and mask.size != (image.height, image.width):
            raise DatasetError("A mask has another size than its image.")


class _Mask:
    """The objects of one image, drawn when they are asked for."""

    def __init__(self, image: Image, objects: tuple[Annotation, ...], numbers: Mapping[int, int]) -> None:
        self._size = (image.height, image.width)
        self._objects = objects
        self._numbers = numbers

    def labels(self) -> LabelImage:
        """Return class indices, (H, W) uint8."""
        labels = np.zeros(self._size, np.uint8, order="F")
        for annotation, lengths in self._drawn():
            _paint(labels, lengths, self._numbers[annotation.category_id])
        return np.ascontiguousarray(labels)

    def instances(self) -> InstanceImage:
        """Return object numbers, (H, W) uint16."""
        instances = np.zeros(self._size, np.uint16, order="F")
        for number, (_, lengths) in enumerate(self._drawn(), 1):
            _paint(instances, lengths, number)
        if len(np.unique(instances[instances > 0])) < len(self._objects):
            raise DatasetError(
                "An object is wholly covered by later ones, of which one mask holds only these."
            )
        return np.ascontiguousarray(instances)

    def _drawn(self) -> Iterator[tuple[Annotation, NDArray[np.int64]]]:
        """Yield the run lengths of each object, until they are more work than any image is worth."""
        work = 0.0
        for annotation in self._objects:
            mask = annotation.segmentation
            if isinstance(mask, RunLengthMask):
                lengths = _run_lengths(mask.counts, *self._size)
            else:
                lengths = _polygon_lengths(mask, *self._size)
                work += _OUTLINE_WORK * sum(map(_length, mask))
            area = int(lengths[1::2].sum())
            if not area or (not isinstance(mask, RunLengthMask) and _are_shares(mask)):
                raise DatasetError("An object covers no pixel; its outline is outside, or in other units.")
            work += area
            if work > _MOST_WORK:
                raise DatasetError("The objects are too many, too large or too ragged to be drawn.")
            yield annotation, lengths


def _are_shares(polygons: Sequence[Sequence[float]]) -> bool:
    """Whether outlines are in shares of the width and height, not in pixels."""
    numbers = [number for polygon in polygons for number in polygon]
    return min(numbers) >= 0 and max(numbers) <= 1 and any(number % 1 for number in numbers)


def _paint(image: NDArray[Any], lengths: NDArray[np.int64], value: int) -> None:
    """Set the foreground of run lengths; `image` is in column order. The work grows with the foreground."""
    flat = image.T.reshape(-1)
    starts, sizes = np.cumsum(lengths)[: lengths.size // 2 * 2 : 2], lengths[1::2]
    if sizes.sum() > _MOST_INDICES:
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            flat[start : start + size] = value
    else:
        flat[np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())] = value


def draw_runs(counts: str | Sequence[int], height: int, width: int) -> LabelImage:
    """Draw the mask that run lengths stand for.

    Parameters
    ----------
    counts : str or sequence of int
        Background and foreground by turns, down the columns, background first: packed into text as COCO does
        it, or plain numbers.
    height, width : int
        Of the image.

    Returns
    -------
    ndarray
        (H, W) uint8 of 0 and 1.

    Raises
    ------
    DatasetError
        When the lengths are damaged, negative, or do not fill the image.
    """
    mask = np.zeros((height, width), np.uint8, order="F")
    _paint(mask, _run_lengths(counts, height, width), 1)
    return mask


def _run_lengths(counts: str | Sequence[int], height: int, width: int) -> NDArray[np.int64]:
    """Return run lengths that are sure to fill the image."""
    size = height * width
    if isinstance(counts, str):
        lengths = _unpacked(counts)
    elif all(type(length) is int and 0 <= length <= size for length in counts):
        lengths = np.array(counts, np.int64)
    else:
        lengths = np.array([-1])
    if ((lengths < 0) | (lengths > size)).any() or lengths.sum() != size:
        raise DatasetError(f"The run lengths of a mask do not fill its {width} x {height} pixels.")
    return lengths


def _unpacked(text: str) -> NDArray[np.int64]:
    """Return the run lengths in COCO's text: 5 bits a character, differences to the run before last.

    pycocotools reads beyond a text that is damaged, so it is not asked.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        codes = np.array([-1])
    if not codes.size:
        return codes
    last = np.flatnonzero(codes & 0x20 == 0)  # of each number
    sizes = np.diff(last, prepend=-1)
    damaged = codes.min() < 0 or codes.max() > 63 or not last.size or last[-1] != codes.size - 1
    if damaged or sizes.max(initial=0) > _MOST_DIGITS:
        raise DatasetError("The packed run lengths of a mask are damaged.")
    shifts = 5 * (np.arange(codes.size) - np.repeat(last - sizes + 1, sizes))
    values: NDArray[np.int64] = np.add.reduceat((codes & 0x1F) << shifts, last - sizes + 1)
    values -= np.where(codes[last] & 0x10, 1 << 5 * sizes, 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def draw_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> LabelImage:
    """Draw the union of polygons.

    Parameters
    ----------
    polygons : sequence of sequences of float
        Each ``x0, y0, x1, y1, ...`` with at least three points; (0, 0) is the image's corner.
    height, width : int
        Of the image.

    Returns
    -------
    ndarray
        (H, W) uint8, 1 inside any of them.

    Raises
    ------
    DatasetError
        When one is no polygon, or together they are absurdly long.
    """
    mask = np.zeros((height, width), np.uint8, order="F")
    _paint(mask, _polygon_lengths(polygons, height, width), 1)
    return mask


def _polygon_lengths(polygons: Sequence[Sequence[float]], height: int, width: int) -> NDArray[np.int64]:
    """Return the run lengths of the union of polygons."""
    # pycocotools takes memory for every fifth of a pixel of the outline, however far outside it runs.
    if sum(map(_length, polygons)) > MAX_LENGTH:
        raise DatasetError("The outline of a mask is too long to be drawn.")
    if not polygons:
        return np.array([height * width])
    runs = mask_api.frPyObjects([list(polygon) for polygon in polygons], height, width)
    return _unpacked(mask_api.merge(runs)["counts"].decode("ascii"))


def _length(polygon: Sequence[float]) -> float:
    """Return the length of a polygon's outline in pixels, along the longer axis of each edge."""
    if len(polygon) < 6 or len(polygon) % 2:
        raise DatasetError("A polygon needs at least three points of two numbers.")
    corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    if not (np.abs(corners) < _FAR).all():  # false for NaN as well
        raise DatasetError("A polygon lies far outside its image.")
    return float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())


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
            annotations += [
                _annotation(found, number, pixels.labels.shape, plan.config)
                | ({"attributes": dict(record.attributes)} if record.attributes else {})
                for found in objects_of(pixels, split=plan.config.split_parts)
            ]
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


def _annotation(
    found: ObjectMask, image: int, shape: tuple[int, ...], config: ExportConfig
) -> dict[str, Any]:
    """Return an entry of ``annotations`` but for its id."""
    rows, columns = found.box
    if config.polygons:
        segmentation: Any = trace_polygons(found.mask, (rows.start, columns.start))
    else:
        segmentation = encode_mask(found.mask, (rows.start, columns.start), shape)
    return {"image_id": image} | segment_entry(0, found) | {"segmentation": segmentation}


def segment_entry(number: int, found: ObjectMask) -> dict[str, Any]:
    """Return what COCO says of an object, and of a segment, whatever way its mask is written.

    Parameters
    ----------
    number : int
        Its id.
    found : ObjectMask
        The object.

    Returns
    -------
    dict
        Area in pixels; box as left, top, width and height.
    """
    rows, columns = found.box
    return {
        "id": number,
        "category_id": found.category,
        "area": int(found.mask.sum()),
        "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        "iscrowd": 0,
    }


def encode_mask(
    mask: LabelImage, corner: tuple[int, int] = (0, 0), shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Return a mask as COCO's packed run lengths.

    Parameters
    ----------
    mask : ndarray
        (h, w) of 0 and 1.
    corner : (int, int)
        Row and column of its top left pixel in the image.
    shape : (int, int), optional
        Height and width of the image, those of the mask when left out.
    """
    height, width = shape or mask.shape
    columns = np.pad(mask.T.astype(np.int8), ((0, 0), (1, 1)))  # (w, h + 2)
    steps = np.diff(columns, axis=1)
    offset = corner[1] * height + corner[0]
    starts, stops = (np.argwhere(steps == sign) @ (height, 1) + offset for sign in (1, -1))
    joined = starts[1:] == stops[:-1]  # from the bottom of a column to the top of the next
    starts, stops = starts[np.r_[True, ~joined][: starts.size]], stops[np.r_[~joined, True][: stops.size]]
    bounds = np.stack([starts, stops], axis=1).ravel()
    counts = np.diff(bounds, prepend=0, append=height * width).tolist()
    packed = mask_api.frPyObjects(
        {"size": [height, width], "counts": counts if counts[-1] else counts[:-1]}, height, width
    )
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def trace_polygons(
    mask: NDArray[np.bool_] | LabelImage, corner: tuple[int, int] = (0, 0)
) -> list[list[float]]:
    """Outline a mask along the edges of its pixels.

    Parameters
    ----------
    mask : ndarray
        (H, W); not 0 is foreground.
    corner : (int, int)
        Row and column of its top left pixel in the image.

    Returns
    -------
    list of list of float
        One polygon ``x0, y0, x1, y1, ...`` for each part (pixels that share an edge). A hole is joined to its
        outline by a cut of no width.
    """
    parts, count = ndimage.label(np.asarray(mask, dtype=bool))
    polygons = []
    for number, box in enumerate(ndimage.find_objects(parts, max_label=count), 1):
        loops = _loops(parts[box] == number)
        offset = np.array([box[1].start + corner[1], box[0].start + corner[0]])
        polygons.append((_joined(loops) + offset).astype(float).ravel().tolist())
    return polygons


def _loops(part: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the closed paths round one part, (N, 2) corners x, y; the outer one first."""
    following = _edges(part)
    loops = []
    for start in sorted(following):  # the leftmost corner is on the outer path, which so comes first
        while start in following:
            loops.append(_corners(_follow(following, start)))
    return loops


def _edges(part: NDArray[np.bool_]) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the edges between inside and outside, as ways from corner to corner, inside on the right."""
    padded = np.pad(part, 1).astype(np.int8)
    down = np.diff(padded, axis=0)[:, 1:-1]  # +1: enters the part going down, its upper edge
    right = np.diff(padded, axis=1)[1:-1]
    ways: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Lists, since numbers of NumPy one by one take half of the time.
    for (row, column), value in zip(np.argwhere(down).tolist(), down[down != 0].tolist(), strict=True):
        ends = ((column, row), (column + 1, row))
        start, stop = ends if value > 0 else ends[::-1]
        ways.setdefault(start, []).append(stop)
    for (row, column), value in zip(np.argwhere(right).tolist(), right[right != 0].tolist(), strict=True):
        ends = ((column, row + 1), (column, row))
        start, stop = ends if value > 0 else ends[::-1]
        ways.setdefault(start, []).append(stop)
    return ways


def _follow(
    ways: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int]
) -> list[tuple[int, int]]:
    """Walk until the corner is met again, turning right where paths meet, so that they do not cross."""
    path = [start]
    before: tuple[int, int] | None = None
    while len(path) == 1 or path[-1] != start:
        here = path[-1]
        choices = ways[here]
        choice = choices[0] if len(choices) == 1 or before is None else _right_turn(before, here, choices)
        choices.remove(choice)
        if not choices:
            del ways[here]
        before = here
        path.append(choice)
    return path[:-1]


def _right_turn(
    before: tuple[int, int], here: tuple[int, int], choices: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Return the corner to the right; y points down, so right of (dx, dy) is (-dy, dx)."""
    dx, dy = here[0] - before[0], here[1] - before[1]
    right = (here[0] - dy, here[1] + dx)
    return right if right in choices else choices[0]


def _corners(path: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Drop the points at which a path goes straight on."""
    points = np.array(path, dtype=np.int64)
    straight: NDArray[np.bool_] = (
        points - np.roll(points, 1, axis=0) == np.roll(points, -1, axis=0) - points
    ).all(axis=1)
    corners: NDArray[np.int64] = points[~straight]
    return corners


def _joined(loops: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Make one closed path of an outline and its holes, going to each hole and back the same way."""
    outline = loops[0]
    for hole in loops[1:]:
        gap = np.abs(outline[:, None] - hole[None]).sum(axis=2)
        at, entry = np.unravel_index(int(gap.argmin()), gap.shape)
        round_trip = np.concatenate([np.roll(hole, -int(entry), axis=0), hole[entry : entry + 1]])
        outline = np.concatenate([outline[: at + 1], round_trip, outline[at:]])
    return outline


FORMATS = (Format("coco", "COCO", recognizes, read, write),)
