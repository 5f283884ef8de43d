"""Opening images, masks, folders and datasets of them in napari."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from napari.utils.notifications import show_info, show_warning
from numpy.typing import NDArray

from napari_lesionseg.datasets.formats import coco, dicom
from napari_lesionseg.datasets.formats.dicom_files import read_photograph
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.records import Dataset, Problem, Record
from napari_lesionseg.errors import DatasetError, ImageError
from napari_lesionseg.io.decoding import Decoded, DecodingError, decode_stack
from napari_lesionseg.io.folders import is_dir
from napari_lesionseg.io.images import image_suffixes, read_mask, to_byte_image, unread_pages
from napari_lesionseg.io.pairing import find_images
from napari_lesionseg.plugin.napari_layers.layers import FILLED_OPACITY, outline_colors

LayerTuple: TypeAlias = tuple[NDArray[Any], dict[str, Any], str]
Paths: TypeAlias = str | Sequence[str]

MAX_IMAGES = 100
"""Images of a folder that are opened at once, each as a layer of its own."""

MAX_PIXELS = 400_000_000
"""Pixels of a folder's images that are opened at once: with their outlines, 1.6 GB."""

_MASK = re.compile(r".+_(?:segmentation|mask|attribute_\w+)", re.IGNORECASE)


def get_reader(path: Paths) -> Callable[[Paths], list[LayerTuple]] | None:
    """Return the function that opens a path, or None if this plugin does not read it."""
    return read_layers if all(_is_ours(Path(item)) for item in _as_list(path)) else None


def _is_ours(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return coco.lists_objects(path)
    return is_dir(path) or suffix in image_suffixes or suffix in dicom.SUFFIXES


def read_layers(path: Paths) -> list[LayerTuple]:
    """Open images, masks, folders and datasets as layers.

    Files whose name ends in ``_segmentation``, ``_mask`` or ``_attribute_<name>`` become Labels, all others
    Images. Pages of a TIFF become a stack. Gray values of more than 8 bits are kept as they are; everything
    else becomes color bytes, upright. Of a folder that is a dataset (PH2, ISIC, COCO, DICOM, images with
    masks), and of a COCO file, each image comes with its outline.
    """
    return [layer for item in _as_list(path) for layer in _read_path(Path(item))]


def _read_path(path: Path) -> list[LayerTuple]:
    if is_dir(path):
        return _read_folder(path)
    if path.suffix.lower() == ".json":
        return _read_dataset(path, read_dataset(path))
    layer = _read_file(path)
    if unread := _unread(path, layer):
        show_warning(f"{path.name}: {unread}")
    return [layer]


def _unread(path: Path, layer: LayerTuple) -> str:
    """Say that a file has more pages than its layer, which is a stack where all of them were read."""
    data, options, _ = layer
    is_stack = data.ndim > (3 if options.get("rgb") else 2)
    return "" if is_stack else unread_pages(path)


def _read_folder(path: Path) -> list[LayerTuple]:
    """Open a folder as a dataset, or as the images in it where it is none."""
    try:
        dataset = read_dataset(path)
    except DatasetError:
        dataset = Dataset("images", [Record(file.stem, file) for file in find_images(path)])
    return _read_dataset(path, dataset)


def _read_dataset(path: Path, dataset: Dataset) -> list[LayerTuple]:
    """Open a dataset's images with their outlines, as many as there is room for."""
    layers: list[LayerTuple] = []
    problems = list(dataset.problems)
    opened = pixels = 0
    for record in dataset.records:
        if opened == MAX_IMAGES or pixels > MAX_PIXELS:
            break
        opened += 1
        try:
            found = _read_record(record, visible=not layers)
        except (DatasetError, ImageError) as error:
            problems.append(Problem(record.name, str(error)))
            continue
        if isinstance(record.image, Path) and (unread := _unread(record.image, found[0])):
            problems.append(Problem(record.name, unread))
        pixels += math.prod(found[0][0].shape[:2])
        layers += found
    if not layers:
        reasons = (f" {problem.name}: {problem.reason}" for problem in problems)
        raise DatasetError(f"{path} has no image that can be read.{next(reasons, '')}")
    _tell(path, problems, opened, len(dataset.records))
    return layers


def _read_record(record: Record, *, visible: bool) -> list[LayerTuple]:
    """Open one image, and the outline that belongs to it."""
    if record.mask is None and isinstance(record.image, Path):
        data, options, kind = _read_file(record.image)
        return [(data, options | {"visible": visible}, kind)]
    pixels = record.load(bare=True)
    image: LayerTuple = (pixels.image, {"name": record.name, "rgb": True, "visible": visible}, "image")
    if record.mask is None:
        return [image]
    options = {
        "name": f"{record.name} outline",
        "colormap": outline_colors(),
        "opacity": FILLED_OPACITY,
        "visible": visible,
    }
    return [image, (pixels.labels, options, "labels")]


def _tell(path: Path, problems: Sequence[Problem], opened: int, total: int) -> None:
    """Report what was left out."""
    if opened < total:
        show_info(
            f"The first {opened} of {total} images in {path.name} are open. "
            "The workbench opens the folder as a whole, one image after the other."
        )
    if problems:
        more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
        show_warning(f"Left out of {path.name}: {problems[0].name}: {problems[0].reason}{more}")


def _read_file(path: Path) -> LayerTuple:
    if path.suffix.lower() in dicom.SUFFIXES:
        return read_photograph(path), {"name": path.stem, "rgb": True}, "image"
    if _MASK.fullmatch(path.stem):
        return read_mask(path), {"name": path.stem, "colormap": outline_colors()}, "labels"
    data = _read_values(path)
    return data, {"name": path.stem, "rgb": data.shape[-1] == 3 and data.dtype == np.uint8}, "image"


def _read_values(path: Path) -> NDArray[Any]:
    """Values of an image or a stack: (..., H, W, 3) bytes, or (..., H, W) deep gray values."""
    try:
        frames = [_values(frame) for frame in decode_stack(path)]
    except (DecodingError, ImageError) as error:
        raise ImageError(f"{path}: {error}") from error
    return frames[0] if len(frames) == 1 else np.stack(frames)


def _values(frame: Decoded) -> NDArray[Any]:
    if frame.palette is not None:
        colors: NDArray[Any] = frame.palette[frame.array]
        return colors
    if frame.array.ndim == 2 and frame.array.dtype.itemsize > 1:
        return frame.array
    return to_byte_image(frame.array)


def _as_list(path: Paths) -> list[str]:
    return [path] if isinstance(path, str) else list(path)
