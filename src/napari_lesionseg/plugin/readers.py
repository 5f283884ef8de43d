"""Opening pictures, masks and folders of them in napari."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.data.decoding import Decoded, DecodingError, decode_stack
from napari_lesionseg.data.io import picture_suffixes, read_mask, to_byte_image
from napari_lesionseg.data.pairing import find_pictures
from napari_lesionseg.errors import PictureError
from napari_lesionseg.plugin.layers import outline_colours

LayerTuple: TypeAlias = tuple[NDArray[Any], dict[str, Any], str]
Paths: TypeAlias = str | Sequence[str]

MAX_PICTURES = 100
"""Pictures of a folder that are opened at once, each as a layer of its own."""

_MASK_ENDINGS = ("_segmentation", "_mask")


def get_reader(path: Paths) -> Callable[[Paths], list[LayerTuple]] | None:
    """Give napari the function that opens a path, or None when it is neither a picture nor a folder.

    Parameters
    ----------
    path : str or sequence of str
        What is to be opened.
    """
    paths = [Path(item) for item in _as_list(path)]
    if all(item.is_dir() or item.suffix.lower() in picture_suffixes for item in paths):
        return read_layers
    return None


def read_layers(path: Paths) -> list[LayerTuple]:
    """Open pictures, masks and folders as layers.

    Files whose name ends in ``_segmentation`` or ``_mask`` become Labels, all others Images. Pages of a TIFF
    become a stack. Grey values of more than 8 bits are kept as they are; everything else becomes colour
    bytes, upright.

    Parameters
    ----------
    path : str or sequence of str
        Files and folders.

    Returns
    -------
    list of (data, options, type)
        Layers; of a folder's pictures only the first one is visible, as they lie on top of each other.

    Raises
    ------
    PictureError, MaskError, PairingError
        If something cannot be read, or a folder holds no pictures.
    """
    return [layer for item in _as_list(path) for layer in _read_path(Path(item))]


def _read_path(path: Path) -> list[LayerTuple]:
    if not path.is_dir():
        return [_read_file(path)]
    pictures = find_pictures(path)
    if len(pictures) > MAX_PICTURES:
        raise PictureError(
            f"{path} holds {len(pictures)} pictures, too many at once; open up to {MAX_PICTURES} of them."
        )
    layers = [_read_file(picture) for picture in pictures]
    for _, options, _ in layers[1:]:
        options["visible"] = False
    return layers


def _read_file(path: Path) -> LayerTuple:
    if path.stem.lower().endswith(_MASK_ENDINGS):
        return read_mask(path), {"name": path.stem, "colormap": outline_colours()}, "labels"
    data = _read_values(path)
    return data, {"name": path.stem, "rgb": data.shape[-1] == 3 and data.dtype == np.uint8}, "image"


def _read_values(path: Path) -> NDArray[Any]:
    """Values of a picture or a stack: (..., H, W, 3) bytes, or (..., H, W) deep grey values."""
    try:
        frames = [_values(frame) for frame in decode_stack(path)]
    except (DecodingError, PictureError) as error:
        raise PictureError(f"{path}: {error}") from error
    return frames[0] if len(frames) == 1 else np.stack(frames)


def _values(frame: Decoded) -> NDArray[Any]:
    if frame.palette is not None:
        colours: NDArray[Any] = frame.palette[frame.array]
        return colours
    if frame.array.ndim == 2 and frame.array.dtype.itemsize > 1:
        return frame.array
    return to_byte_image(frame.array)


def _as_list(path: Paths) -> list[str]:
    return [path] if isinstance(path, str) else list(path)
