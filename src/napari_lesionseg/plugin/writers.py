"""Saving outlines from napari, whose own writer makes 32-bit TIFF of them and writes no PNG at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.images import write_mask
from napari_lesionseg.types import IGNORED, MAX_CLASS_INDEX

_TIFF_SUFFIXES = {".tif", ".tiff"}


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Save a Labels layer.

    Outlines of one kind become 0 and 255, several classes their indices, both with 8 bits; 255 beside indices
    marks pixels to be ignored. Stacks and labels
    above 127 (numbered parts, rather than classes) go into a TIFF, one page a frame, with their own numbers.
    Multiscale layers are saved at full size.
    """
    labels = np.asarray(data[0] if attributes.get("multiscale") else data)
    highest = int(labels.max(initial=0))
    classes = int(labels.max(initial=0, where=labels != IGNORED))
    if labels.ndim == 2 and classes <= MAX_CLASS_INDEX and (classes or highest <= MAX_CLASS_INDEX):
        write_mask(path, labels, style="binary" if highest <= 1 else "index")
    elif Path(path).suffix.lower() in _TIFF_SUFFIXES:
        _write_tiff(Path(path), labels, highest)
    else:
        what = f"{labels.shape[0]} frames" if labels.ndim > 2 else f"labels up to {highest}"
        raise MaskError(f"{path}: a PNG cannot hold {what}; save it as .tif instead.")
    return [path]


def _write_tiff(path: Path, labels: NDArray[Any], highest: int) -> None:
    kind = np.min_scalar_type(highest)
    values = labels.astype(kind)
    if highest <= 1:
        values *= np.uint8(255)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="minisblack", compression="zlib", metadata=None)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise MaskError(f"{path}: cannot be written: {error.strerror or error}.") from error
