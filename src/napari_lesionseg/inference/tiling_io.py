"""Images and predictions too large for the memory: read and written in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.lib.format import dtype_to_descr, open_memmap, write_array_header_1_0
from numpy.typing import NDArray

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError, MaskError
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.masks.components import connected_components
from napari_lesionseg.types import ByteImage, Probability

Stored: TypeAlias = Literal["uint8", "float16", "float32"]
"""How probabilities are kept; in uint8, 255 stands for 1."""

_STRIP_PIXELS = 4_000_000  # at once where an image is gone through in strips
_CHUNK = 2**24  # bytes
_BYTE = np.float32(255)


class Readable(Protocol):
    """An image of which parts can be read: a numpy, dask or zarr array, an HDF5 dataset and their like.

    Its shape is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), its type uint8; a fourth channel is left out.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and perhaps channels."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the values."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Return a part that numpy can convert to an array."""
        ...


class Writable(Protocol):
    """Where probabilities go: any array that takes values by slices, such as that of `new_output`.

    Its shape is (H, W) for one class, (C, H, W) for C classes. In uint8, 255 stands for 1.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Classes if there are several, height and width."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the values: uint8, float16 or float32."""
        ...

    def __setitem__(self, index: Any, value: Any, /) -> None:
        """Take the values of a part."""
        ...


class NpyFile:
    """An array in a ``.npy`` file that is mapped into memory only while something is written to it.

    Its space on the disk is taken at once: a full disk is known before the work, not in the midst of it.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        size = math.prod(shape) * self.dtype.itemsize
        try:
            with path.open("wb") as stream:
                header = {"descr": dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
                write_array_header_1_0(stream, header)
                for start in range(0, size, _CHUNK):
                    stream.write(bytes(min(_CHUNK, size - start)))
        except OSError as error:
            raise MaskError(f"The probabilities cannot be written to {path}: {error.strerror}.") from error

    def __setitem__(self, index: Any, value: Any) -> None:
        mapped = open_memmap(self.path, "r+")
        mapped[index] = value
        mapped.flush()

    def mapped(self) -> NDArray[Any]:
        """Return the array, mapped from disk, to read from."""
        return np.load(self.path, mmap_mode="r")  # type: ignore[no-any-return]


def new_output(
    shape: tuple[int, int], out_channels: int = 1, *, store: Stored = "uint8", path: Path | None = None
) -> NDArray[Any] | NpyFile:
    """Return zeros for probabilities, in memory or in a ``.npy`` file; uint8 is exact to 0.002."""
    full = shape if out_channels == 1 else (out_channels, *shape)
    return np.zeros(full, store) if path is None else NpyFile(path, full, store)


def as_probability(stored: NDArray[Any]) -> Probability:
    """Turn stored values, or a part of them, into probabilities in [0, 1]."""
    values = stored.astype(np.float32)
    return values / _BYTE if stored.dtype == np.uint8 else values


def threshold_strips(stored: NDArray[Any], threshold: float, out: Writable) -> None:
    """Write the mask (H, W) of stored probabilities to ``out``, strip by strip and without cleaning."""
    plain = PostprocessConfig(fill_holes=False, largest_only=False, min_area=0)
    for strip in strips_of(stored.shape[-2], stored.shape[-1]):
        out[strip] = postprocess(as_probability(stored[..., strip, :]), plain, threshold)


def remove_specks(mask: NDArray[np.uint8], smallest: int) -> None:
    """Remove parts of fewer than ``smallest`` pixels from a mask (H, W) in place, strip by strip.

    The result is that of the whole mask at once: a part that reaches into a strip from more than ``smallest``
    rows away has at least as many pixels. Touching parts of different classes count as one.
    """
    for strip in strips_of(*mask.shape):
        top = max(0, strip.start - smallest)
        window = mask[top : strip.stop + smallest]
        parts = connected_components(window > 0)
        sizes = np.bincount(parts.ravel())
        small = sizes < smallest
        small[0] = False
        small[np.unique(parts[0])] &= top == 0
        small[np.unique(parts[-1])] &= strip.stop + smallest >= len(mask)
        own = slice(strip.start - top, strip.stop - top)
        window[own][small[parts[own]]] = 0


def put_part(out: Writable, part: tuple[slice, slice], probability: Probability) -> None:
    """Write probabilities (C, h, w) to some rows and columns of the output."""
    values = probability if len(out.shape) == 3 else probability[0]
    if out.dtype == np.uint8:
        values = values * _BYTE
        np.rint(values, out=values)
    out[(..., *part)] = values.astype(out.dtype, copy=False)


def choose_level(levels: Sequence[Readable], longest: int) -> int:
    """Return the index of the smallest level whose longer side has at least ``longest`` pixels, else 0."""
    fitting = [place for place, level in enumerate(levels) if max(level.shape[:2]) >= longest]
    return fitting[-1] if fitting else 0


def strips_of(height: int, width: int, step: int = 1) -> list[slice]:
    """Cut a height into strips of at most four megapixels, in multiples of ``step`` rows."""
    rows = max(1, _STRIP_PIXELS // (width * step)) * step
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def check_image(image: Readable) -> tuple[int, int]:
    """Return height and width of an image."""
    shape = tuple(int(side) for side in image.shape)
    channels = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or channels not in (1, 3, 4) or min(shape) == 0 or image.dtype != np.uint8:
        raise ImageError(
            "Only 8-bit color or gray images can be segmented in tiles, "
            f"not {image.dtype} of shape {shape}; convert the image first."
        )
    return shape[0], shape[1]


def check_output(out: Writable, shape: tuple[int, int], out_channels: int) -> None:
    """Raise `MaskError` if an array cannot hold the probabilities of an image."""
    wanted = shape if out_channels == 1 else (out_channels, *shape)
    if tuple(out.shape) != wanted or out.dtype not in (np.uint8, np.float16, np.float32):
        raise MaskError(
            f"These probabilities need an array of shape {wanted} in uint8, float16 or float32, "
            f"not one of {tuple(out.shape)} in {out.dtype}."
        )


def as_bytes(part: Any) -> ByteImage:
    """Return a part of an image as (h, w, 3) in memory."""
    pixels = np.asarray(part)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.ascontiguousarray(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)))
