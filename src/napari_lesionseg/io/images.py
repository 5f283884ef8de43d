"""Reading and writing images and masks.

Images become color bytes and masks class indices; every file that cannot be read or written is named in a
`ImageError` or `MaskError`. Images and masks are turned by the same EXIF rule, once, at reading.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from napari_lesionseg.errors import ImageError, LesionSegError, MaskError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.decoding import (
    Decoded,
    DecodingError,
    count_further_pages,
    decode,
    decode_shape,
    decode_stack,
)
from napari_lesionseg.io.labels import decoded_labels
from napari_lesionseg.types import IGNORED, MAX_CLASS_INDEX, ByteImage, LabelImage

image_suffixes = frozenset({
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".jpx", ".jxl", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip
"""File name endings of images, in lower case; reading says which of them need another package."""

unread_suffixes = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".dcm", ".dicom", ".dng", ".exr", ".nef", ".nrw", ".orf", ".pcx", ".pef",
    ".psb", ".psd", ".raf", ".raw", ".rw2", ".sgi", ".srw", ".tga", ".xcf",
})  # fmt: skip
"""Endings of images that are not read, in lower case: raw photos, layered images, DICOM and rare formats."""

_MASK_FORMATS = {".png": "PNG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
_IMAGE_FORMATS = {**_MASK_FORMATS, ".jpg": "JPEG", ".jpeg": "JPEG"}
_JPEG_QUALITY = 95
_PNG_LEVEL = 3  # files of dermoscopy images are 4 % larger than at zlib's 6, and written 2.6 times as fast
_OVERSHOOT = 0.1  # resampling filters leave floats a little outside [0, 1]


def read_image(path: str | Path) -> ByteImage:
    """Read an image as color bytes.

    PNG, JPEG, BMP, TIFF (first page), WebP, GIF, AVIF, JPEG 2000, PPM and, with an extra package, HEIC files
    are read, told by their content. The EXIF orientation is
    applied, alpha is dropped, gray is repeated; other depths are scaled as `to_byte_image` says. Color
    profiles are not applied.
    """
    try:
        return _as_image(decode(Path(path)))
    except (DecodingError, ImageError, MemoryError) as error:
        raise ImageError(f"{path}: {error}") from error


def image_shape(path: str | Path) -> tuple[int, int]:
    """Tell an image's size as `read_image` would return it, from a JPEG's header alone.

    Other formats are decoded, which is quick for them.
    """
    try:
        height, width = decode_shape(Path(path))
    except DecodingError as error:
        raise ImageError(f"{path}: {error}") from error
    return height, width


def read_stack(path: str | Path) -> ByteImage:
    """Read all frames of a multi-page TIFF; an image of another format is a stack of one.

    Pages of another size than the first (thumbnails) are left out.
    """
    try:
        frames = [_as_image(frame) for frame in decode_stack(Path(path))]
        if len({frame.shape for frame in frames}) > 1:
            raise ImageError("Its pages are turned in different ways; save them upright.")
        return np.stack(frames)
    except (DecodingError, ImageError, MemoryError) as error:
        raise ImageError(f"{path}: {error}") from error


def unread_pages(path: str | Path) -> str:
    """Say how many further pages or frames of a file `read_image` and `read_mask` leave out; "" for none."""
    count = count_further_pages(Path(path))
    pages = "1 further page is" if count == 1 else f"{count} further pages are"
    return f"Only its first page is used, and {pages} left out; save each page as a file." if count else ""


def to_byte_image(array: ArrayLike) -> ByteImage:
    """Turn an array of any usual kind into color bytes.

    Booleans become 0 and 255. Bytes stay. Other integers are taken as bytes when all are at most 255 (except
    uint16, which always spans 0 to 65535) and as 16-bit otherwise. Floats are taken as 0 to 1, or as 0 to 255
    when the largest is above 1.1; what lies slightly outside is clipped, NaN and infinities become 0.
    """
    values = np.asarray(array)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"An array of shape {values.shape} is not one image; give (H, W), (H, W, 3) or (H, W, 4), "
            "channels last."
        )
    if not values.size:
        raise ImageError(f"An array of shape {values.shape} has no pixels.")
    gray = values.ndim == 2 or values.shape[2] == 1
    colors = _to_bytes(values.reshape(*values.shape[:2], 1) if gray else values[..., :3])
    return np.repeat(colors, 3, axis=2) if gray else np.array(colors, order="C")


def read_mask(path: str | Path, shape: tuple[int, int] | None = None) -> LabelImage:
    """Read a mask as class indices.

    The rule, in this order:

    1. Colors on black: any color is a lesion, 1, with soft edges cut where they are as near to black. VOC's
       border (224, 224, 192) is to be ignored. A palette of grays stands for its grays; the indices of a
       colorful palette whose first color is black, or white without any black, are class indices and kept.
    2. Where some pixels are transparent and all others have one color, the opaque ones are the lesion.
    3. 1-bit files: white is lesion, 1.
    4. JPEG and WebP, whose values are approximate: above 127 is lesion.
    5. No value above 127: class indices (0 and 1, for one class), as they are.
    6. One value, or 0 and another one, such as 0 and 255 or 0 and 65535: above 127 is lesion.
    7. Class indices and 255: pixels of 255 are to be ignored (`types.IGNORED`).
    8. More values, up to 255 (soft borders): above 127 is lesion.
    9. Floats of 0 to 1 with fractions are probabilities: above 0.5 is lesion.

    Refused are colors without a black background, images of which more than a quarter lies between black and
    white (a photograph), areas of gray (classes written as grays), two bright values, dark JPEGs (class
    indices whose values are lost), larger and negative values, and fractions above 1.
    """
    try:
        labels = np.ascontiguousarray(decoded_labels(decode(Path(path))))
    except (DecodingError, MaskError, MemoryError) as error:
        raise MaskError(f"{path}: {error}") from error
    if shape is not None and labels.shape != tuple(shape):
        raise MaskError(
            f"{path}: The mask is {labels.shape[1]} x {labels.shape[0]} pixels, "
            f"its image {shape[1]} x {shape[0]}."
        )
    return labels


def write_mask(
    path: str | Path,
    labels: ArrayLike,
    *,
    style: Literal["binary", "index"] = "binary",
    durable: bool = True,
) -> None:
    """Write a mask in one step, so that a crash leaves the old file or the new one."""
    path = Path(path)
    kind = _MASK_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise MaskError(f"{path}: Masks are saved as .png, .tif or .bmp, which keep every pixel.")
    try:
        values = _checked_labels(np.asarray(labels), style)
    except MaskError as error:
        raise MaskError(f"{path}: {error}") from error
    _write(path, values, kind, MaskError, durable=durable)


def encode_mask(labels: ArrayLike, *, style: Literal["binary", "index"] = "binary") -> bytes:
    """Return the bytes of a PNG file, as `write_mask` writes it."""
    return _encoded(_checked_labels(np.asarray(labels), style), "PNG")


def write_image(path: str | Path, image: ByteImage, *, durable: bool = True) -> None:
    """Write an image in one step, without EXIF or any other metadata."""
    path = Path(path)
    kind = _IMAGE_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: Images are saved as .png, .jpg, .tif or .bmp.")
    try:
        values = to_byte_image(image)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    _write(path, values, kind, ImageError, durable=durable)


def encode_image(image: ByteImage) -> bytes:
    """Return the bytes of a PNG file, as `write_image` writes it."""
    return _encoded(to_byte_image(image), "PNG")


def _write(
    path: Path, values: NDArray[np.uint8], kind: str, failure: type[LesionSegError], *, durable: bool
) -> None:
    """Encode in memory, then write in one step."""
    try:
        payload = _encoded(values, kind)
        if durable:
            write_atomically(path, payload)
        else:
            path.write_bytes(payload)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise failure(f"{path} cannot be written: {reason}.") from error


def _encoded(values: NDArray[np.uint8], kind: str) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": _JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "TIFF":
        options = {"compression": "tiff_adobe_deflate"}
    if kind == "PNG":
        options = {"compress_level": _PNG_LEVEL}
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def _as_image(decoded: Decoded) -> ByteImage:
    """Color bytes of a decoded file."""
    if decoded.palette is not None:
        colors: ByteImage = decoded.palette[decoded.array]
        return colors
    return to_byte_image(decoded.array)


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale values of any kind to 0 to 255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "b":
        return np.where(values, np.uint8(255), np.uint8(0))
    if values.dtype.kind in "iu":
        return _integers_to_bytes(values)
    if values.dtype.kind == "f":
        return _floats_to_bytes(values)
    raise ImageError(f"Values of type {values.dtype} are no image; give 8-bit, 16-bit or float values.")


def _integers_to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale integers by their value range: 8-bit or 16-bit."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"Values from {low} to {high} are no image; scale them to 0 to 255 or 0 to 65535.")
    if high <= 255 and values.dtype.newbyteorder("=") != np.uint16:
        return values.astype(np.uint8)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _floats_to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale floats of [0, 1] or [0, 255]."""
    finite = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low < -_OVERSHOOT or high > 255 + _OVERSHOOT:
        raise ImageError(f"Values from {low:.4g} to {high:.4g} are no image; scale them to 0 to 1.")
    scale = 255.0 if high <= 1 + _OVERSHOOT else 1.0
    scaled: NDArray[np.float32] = np.rint(finite * np.float32(scale))
    return scaled.clip(0, 255).astype(np.uint8)


def _checked_labels(values: NDArray[Any], style: str) -> NDArray[np.uint8]:
    """Return the bytes that stand for labels in a file."""
    if style not in ("binary", "index"):
        raise MaskError(f"The style of a mask is 'binary' or 'index', not {style!r}.")
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biu":
        raise MaskError(f"A mask is (H, W) whole numbers, not {values.shape} of type {values.dtype}.")
    low, high = int(values.min()), int(values.max())
    if low < 0:
        raise MaskError(f"Class indices go from 0 to {MAX_CLASS_INDEX}, not from {low} to {high}.")
    classes = values[values != IGNORED]
    ignored = classes.size < values.size and bool((classes > 0).any())
    if style == "binary" and not ignored:
        return np.where(values > 0, np.uint8(255), np.uint8(0))
    if classes.max(initial=0) > MAX_CLASS_INDEX:
        raise MaskError(f"Class indices go from 0 to {MAX_CLASS_INDEX}, not from {low} to {high}.")
    if classes.size < values.size and not ignored:
        raise MaskError("No pixel has a class; 255 would be read as the lesion.")
    return values.astype(np.uint8)
