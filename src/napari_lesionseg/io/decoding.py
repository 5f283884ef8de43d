"""Bytes of an image file into an array as stored, with everything that can go wrong named in one error.

Formats are told by their content, never by their name, and only those listed here are tried.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from napari_lesionseg.errors import how_to_install
from napari_lesionseg.io.folders import why_awaited

READ_FORMATS = "PNG, JPEG, BMP, TIFF, WebP, GIF, AVIF, JPEG 2000, PPM, and HEIC with an extra package"

MAX_PIXELS = 200_000_000
"""Largest image that is read: total-body cameras write 100 megapixels, decompression bombs far more."""

MAX_STACK_PIXELS = 1_000_000_000
"""Largest stack that is read, over all frames: 3 GB as color bytes."""

_ORIENTATION = 0x0112
_EXIF_IFD, _DATE_TAKEN, _DATE = 0x8769, 0x9003, 0x0132
_SIDEWAYS = (5, 6, 7, 8)
_FLIPPED = (2, 3, 4)
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BMP_HEAD = 54  # bytes
_PNG_HEAD = 26  # bytes: the signature, and the first chunk up to the kind of colors
# Pillow's classes are called directly: Image.open would apply a limit that is global to the process.
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (_JPEG_SIGNATURE, JpegImagePlugin.JpegImageFile),
    (_PNG_SIGNATURE, PngImagePlugin.PngImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"\x28\0\0\0", BmpImagePlugin.DibImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"GIF8", GifImagePlugin.GifImageFile),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Jpeg2KImagePlugin.Jpeg2KImageFile),
    (b"\xff\x4f\xff\x51", Jpeg2KImagePlugin.Jpeg2KImageFile),
    *((kind, PpmImagePlugin.PpmImageFile) for kind in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")),
)
_POINTERS = (
    (b"version https://git-lfs", "The file is a pointer of Git LFS; fetch the image with `git lfs pull`."),
    (b"/annex/objects/", "The file is a pointer of git-annex; fetch the image with `git annex get`."),
    (b"<", "The file is a web page or other text, not an image; download the image again."),
)
_RAW = "The file is a raw photo of a camera; save it as TIFF or JPEG."
_REDUCED = 1  # a bit of NewSubfileType: the page is a preview of another one
_TRANSPARENCY = 4  # another bit of it: the page is the mask of another one
_LOSSY = {"JPEG", "WEBP", "JPEG2000", "AVIF", "HEIF"}
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JPEG_XL_SIGNATURES = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_STRAIGHT_MODES = {"1", "L", "RGB", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"}
_ALPHA_MODES = {"LA": "L", "PA": "P", "RGBA": "RGB"}
_CONVERTED_MODES = {"CMYK", "YCbCr", "HSV", "RGBX", "RGBa", "La"}
# What tifffile decodes without further packages; Pillow's libtiff knows the others (LZW, JPEG, fax).
_TIFFFILE_COMPRESSIONS = {1, 8, 32946, 32773, 34925}
_EXTRA_COMPRESSIONS = {
    33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_MAX_CHANNELS = 8  # four colors and some alphas; damaged files may claim thousands
# Of a WebP of one color; the encoder makes 560 lossy and 26 000 lossless pixels of a byte.
_MOST_PIXELS_A_BYTE = {b"VP8 ": 2_000, b"VP8L": 60_000, b"VP8X": 60_000}
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE = 0, 1, 2, 3

# All that Pillow and tifffile were seen to raise on damaged files; warnings, where a caller made them errors.
_DECODING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    tifffile.TiffFileError,  # no ValueError before tifffile 2025.9.20
    zlib.error,
)


# What tifffile logs of damaged files would come on top of the one line that says what is wrong.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class DecodingError(Exception):
    """A file is not an image that can be read; the message is the reason alone, without the path."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as stored, turned upright."""

    array: NDArray[Any]  # (H, W), or (H, W, 3) for colors; any dtype
    palette: NDArray[np.uint8] | None = None  # (256, 3) where `array` holds indices into it
    lossy: bool = False  # values are approximate (JPEG, WebP)
    alpha: NDArray[Any] | None = None  # (H, W), opacity


def decode(path: Path) -> Decoded:
    """Read the first image of a file, turned as its EXIF orientation says."""
    with _named_reasons(), _open(path) as stream:
        signature = _signature(stream)
        if signature.startswith(_TIFF_SIGNATURES):
            if signature[8:10] == b"CR":  # Canon's, whose pages are previews
                raise DecodingError(_RAW)
            return _decode_tiff(stream)
        if signature.startswith(_PNG_SIGNATURE):
            return _decode_png(stream)
        if signature.startswith(b"RIFF"):
            _check_webp(stream)
        if signature.startswith(b"BM"):
            return _decode_bmp(stream)
        return _decode_pillow(_find_reader(signature)(stream))


def decode_shape(path: Path) -> tuple[int, int]:
    """Tell the size `decode` would return; a JPEG's pixels are not decoded for it."""
    with _named_reasons(), _open(path) as stream:
        if not _signature(stream).startswith(_JPEG_SIGNATURE):
            height, width = decode(path).array.shape[:2]
            return height, width
        image = JpegImagePlugin.JpegImageFile(stream)
        _check_size(*image.size)
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
        return (width, height) if turned else (height, width)


def gray_depth(path: Path) -> int:
    """Tell by its header how many bits a PNG has for a pixel's gray; 0 for any other regular file."""
    try:
        with path.open("rb", buffering=0) as stream:
            head = stream.read(_PNG_HEAD)
    except OSError:
        return 0
    is_gray = head.startswith(_PNG_SIGNATURE) and head[12:16] == b"IHDR" and head[25:] == b"\0"
    return head[24] if is_gray else 0


def holds_image(path: Path) -> bool:
    """Tell by its first bytes whether a file is an image of a kind that no text is taken for."""
    try:
        with path.open("rb") as stream:
            signature = stream.read(12)
    except OSError:
        return False
    certain = (start for start, _ in _READERS if len(start) > 2 and start != b"RIFF")
    box = signature[4:8] == b"ftyp" and signature[8:12] in (*_AVIF_BRANDS, *_HEIF_BRANDS)
    return box or signature.startswith((*_TIFF_SIGNATURES, *certain))


def date_taken(path: Path) -> str | None:
    """Return the date on which a camera took an image, as 2026-03-01; None if the file does not say."""
    try:
        with _named_reasons(), _open(path) as stream:
            exif = _find_reader(_signature(stream))(stream).getexif()
            text = exif.get_ifd(_EXIF_IFD).get(_DATE_TAKEN) or exif.get(_DATE)
            return datetime.strptime(str(text)[:10], "%Y:%m:%d").date().isoformat()
    except (DecodingError, OSError, ValueError):
        return None


def is_flipped(path: Path) -> bool:
    """Tell whether the EXIF orientation turns an image upside down or over, which keeps its size."""
    try:
        with _named_reasons(), _open(path) as stream:
            exif = _find_reader(_signature(stream))(stream).getexif()
            return exif.get(_ORIENTATION) in _FLIPPED
    except DecodingError:
        return False


def decode_stack(path: Path) -> list[Decoded]:
    """Read every frame of a multi-page TIFF; any other image is a stack of one.

    Pages of another size than the first (thumbnails, pyramid levels) are left out.
    """
    with _named_reasons(), _open(path) as stream:
        if _signature(stream).startswith(_TIFF_SIGNATURES):
            return _decode_tiff_stack(stream)
    return [decode(path)]


def count_further_pages(path: Path) -> int:
    """Count the pages and frames that `decode` leaves out; 0 where the file cannot be read.

    Thumbnails, pyramid levels and transparency masks are none, and neither is what phones and cameras put
    behind a JPEG: previews and gain maps.
    """
    try:
        with _named_reasons(), _open(path) as stream:
            signature = _signature(stream)
            if signature.startswith(_JPEG_SIGNATURE):
                return 0
            if signature.startswith(_TIFF_SIGNATURES):
                return _count_further_tiff_pages(stream)
            if signature.startswith(_PNG_SIGNATURE):
                return _count_further_png_frames(stream)
            if signature.startswith(b"RIFF"):
                _check_webp(stream)
            image = _find_reader(signature)(stream)
            return max(int(getattr(image, "n_frames", 1)) - 1, 0)
    except DecodingError:
        return 0


def _count_further_tiff_pages(stream: BinaryIO) -> int:
    with tifffile.TiffFile(stream) as tiff:
        first = _page(tiff, 0)
        planes = tiff.series[0].size // first.size if tiff.is_imagej else 0
        if planes > len(tiff.pages):
            return planes - 1
        pages = [_page(tiff, index) for index in range(1, len(tiff.pages))]
        return sum(
            not page.subfiletype & (_REDUCED | _TRANSPARENCY)
            and (page.imagewidth >= first.imagewidth or page.imagelength >= first.imagelength)
            for page in pages
        )


def _count_further_png_frames(stream: BinaryIO) -> int:
    """Read the number of frames of an animated PNG, whose `acTL` comes before the pixels."""
    stream.seek(len(_PNG_SIGNATURE))
    while len(head := stream.read(8)) == 8 and head[4:] != b"IDAT":
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"acTL":
            return max(int.from_bytes(stream.read(4), "big") - 1, 0)
        stream.seek(length + 4, 1)
    return 0


def _find_reader(signature: bytes) -> Callable[[BinaryIO], ImageFile.ImageFile]:
    """Return Pillow's class for the format that a file's first bytes stand for."""
    for start, reader in _READERS:
        if signature.startswith(start):
            return reader
    if signature.startswith(_JPEG_XL_SIGNATURES):
        raise DecodingError("The file is a JPEG XL image, which is not read; save it as PNG or JPEG.")
    if signature[4:8] == b"ftyp" and signature[8:12] in _AVIF_BRANDS:
        return AvifImagePlugin.AvifImageFile
    if signature[4:8] == b"ftyp" and signature[8:12] in _HEIF_BRANDS:
        return _heif_reader()
    for start, reason in _POINTERS:
        if signature.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(start):
            raise DecodingError(reason)
    if signature[128:132] == b"DICM":
        raise DecodingError("The file is in DICOM format; convert it with `lesionseg import`.")
    raise DecodingError(f"The file is not an image that is read ({READ_FORMATS}).")


def _heif_reader() -> Callable[[BinaryIO], ImageFile.ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise DecodingError(
            "The file is a HEIC photo; save it as JPEG, or add the package that reads it: "
            f"{how_to_install('heic')}."
        ) from error
    reader: Callable[[BinaryIO], ImageFile.ImageFile] = HeifImageFile
    return reader


def _check_webp(stream: BinaryIO) -> None:
    """Refuse a WebP that claims too many pixels: Pillow takes their memory while it opens the file."""
    head = stream.read(30)
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[start : start + 3], "little") + 1 for start in (24, 27))
    elif kind == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(head[start : start + 2], "little") & 0x3FFF for start in (26, 28))
    _check_size(width, height)
    if width * height > _MOST_PIXELS_A_BYTE.get(kind, 0) * size:
        raise DecodingError(
            f"The file is damaged or incomplete ({size} bytes for {width} x {height} pixels)."
        )


def _decode_png(stream: BinaryIO) -> Decoded:
    """Decode a PNG; texts and profiles, which are not needed, may be larger than Pillow allows."""
    try:
        return _decode_pillow(PngImagePlugin.PngImageFile(stream))
    except ValueError as error:
        if "MAX_TEXT" not in str(error) and "ecompressed data too large" not in str(error):
            raise
    stream.seek(0)
    return _decode_pillow(PngImagePlugin.PngImageFile(_without_texts(stream)))


def _decode_bmp(stream: BinaryIO) -> Decoded:
    """Decode a BMP; of one with two colors in more than a bit a pixel, Pillow would take every eighth bit."""
    head = stream.read(_BMP_HEAD)
    bits, colors = int.from_bytes(head[28:30], "little"), int.from_bytes(head[46:50], "little")
    stream.seek(0)
    if len(head) < _BMP_HEAD or bits not in (4, 8) or colors not in (1, 2):
        return _decode_pillow(BmpImagePlugin.BmpImageFile(stream))
    payload = bytearray(stream.read())
    payload[46:50] = bytes(4)  # as many colors as the bits allow, the further ones being other bytes
    decoded = _decode_pillow(BmpImagePlugin.BmpImageFile(io.BytesIO(payload)))
    if decoded.palette is not None:
        decoded.palette[colors:] = 0
    return decoded


def _without_texts(stream: BinaryIO) -> BinaryIO:
    """Return a PNG without its texts and profiles."""
    kept = io.BytesIO()
    kept.write(stream.read(len(_PNG_SIGNATURE)))
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind in _TEXT_CHUNKS:
            stream.seek(length + 4, 1)
        else:
            kept.write(head + stream.read(length + 4))
    kept.seek(0)
    return kept


@contextlib.contextmanager
def _named_reasons() -> Iterator[None]:
    """Turn what decoders raise into a DecodingError of one line."""
    try:
        yield
    except _DECODING_ERRORS as error:
        raise DecodingError(_reason(error)) from error


def _open(path: Path) -> BinaryIO:
    """Open a file; refuse folders, and pipes and devices, which may never end."""
    if why := why_awaited(path):
        raise DecodingError(why)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise DecodingError("The link leads to a file that is not there; fetch it first.") from None
        raise
    if stat.S_ISDIR(mode):
        raise DecodingError("This is a folder, not an image.")
    if not stat.S_ISREG(mode):
        raise DecodingError("The file is not a regular file.")
    return path.open("rb")


def _reason(error: BaseException) -> str:
    """Say in one line, for the user, why a file could not be read."""
    if isinstance(error, OSError) and error.strerror:
        return f"The file cannot be opened: {error.strerror}."
    if isinstance(error, MemoryError):
        return "The file is too large for this computer's memory."
    if isinstance(error, Image.DecompressionBombError):
        return "The file is too large to be read."
    detail = " ".join(str(error).split())
    return (
        f"The file is damaged or incomplete ({detail})." if detail else "The file is damaged or incomplete."
    )


def _signature(stream: BinaryIO) -> bytes:
    """Return the first bytes, by which formats are told, and rewind."""
    signature = stream.read(132)
    stream.seek(0)
    if not signature:
        raise DecodingError("The file is empty.")
    return signature


def _check_size(width: int, height: int, frames: int = 1) -> None:
    """Refuse sizes no camera writes, before any memory is taken."""
    if width < 1 or height < 1:
        raise DecodingError("The file is damaged or incomplete (it has no pixels).")
    if width * height > MAX_PIXELS:
        raise DecodingError(
            f"The file is too large: {width} x {height} pixels, and at most {MAX_PIXELS // 10**6} megapixels "
            "are read."
        )
    if width * height * frames > MAX_STACK_PIXELS:
        raise DecodingError(
            f"The file is too large: {frames} frames of {width} x {height} pixels, and at most "
            f"{MAX_STACK_PIXELS // 10**6} megapixels are read."
        )


def _decode_pillow(image: ImageFile.ImageFile) -> Decoded:
    """Decode through Pillow."""
    _check_size(*image.size)
    image.load()
    array, palette = _stored_values(image)
    alpha = _alpha(image)
    orientation = _orientation(image)
    if alpha is not None:
        alpha = upright(alpha, orientation)
    return Decoded(upright(array, orientation), palette, image.format in _LOSSY, alpha)


def _alpha(image: Image.Image) -> NDArray[Any] | None:
    """Return the opacity of an image that has an alpha channel, or transparent colors in its palette."""
    if image.mode in _ALPHA_MODES:
        return np.asarray(image.getchannel("A"))
    transparent = image.info.get("transparency")
    if image.mode != "P" or transparent is None:
        return None
    table = np.full(256, 255, np.uint8)
    if isinstance(transparent, bytes):
        table[: len(transparent)] = np.frombuffer(transparent[:256], np.uint8)
    else:
        table[int(transparent) & 255] = 0
    return np.asarray(table[np.asarray(image)])


def _orientation(image: Image.Image) -> object:
    """Return the EXIF orientation of a loaded image; damaged EXIF is no reason to refuse whole pixels.

    Asked for after loading, since a PNG may hold its EXIF behind the pixels, and Pillow turns a TIFF by
    itself while it loads and then forgets the tag.
    """
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except _DECODING_ERRORS:
        return 1


def _stored_values(image: Image.Image) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Take the values and the palette out of a Pillow image of any mode, without alpha."""
    if image.mode in _ALPHA_MODES:
        colors = np.asarray(image)[..., :-1]
        array = colors[..., 0] if colors.shape[-1] == 1 else colors
        return array, _palette(image) if image.mode == "PA" else None
    if image.mode == "P":
        return np.asarray(image), _palette(image)
    if image.mode in _STRAIGHT_MODES:
        return np.asarray(image), None
    if image.mode in _CONVERTED_MODES:
        return np.asarray(image.convert("RGB")), None
    raise DecodingError(f"The file has colors of a kind that is not read ({image.mode}); save it as RGB.")


def _palette(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image's palette, filled up with black."""
    table = np.zeros((256, 3), np.uint8)
    stored = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    table[: len(stored)] = stored
    return table


def upright(array: NDArray[Any], orientation: object) -> NDArray[Any]:
    """Turn stored rows and columns the way the camera was held."""
    if orientation in _SIDEWAYS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _decode_tiff(stream: BinaryIO) -> Decoded:
    """Decode a TIFF's first page."""
    with tifffile.TiffFile(stream) as tiff:
        page = _page(tiff, 0)
        if page.subfiletype & _REDUCED and page.subifds:  # as in DNG, NEF and ARW
            raise DecodingError(_RAW)
        _check_complete(page)
        if _needs_pillow(page):
            stream.seek(0)
            return _decode_pillow(TiffImagePlugin.TiffImageFile(stream))
        return _decode_page(page)


def _decode_tiff_stack(stream: BinaryIO) -> list[Decoded]:
    """Decode all pages of the first page's size."""
    with tifffile.TiffFile(stream) as tiff:
        first = _page(tiff, 0)
        planes = _imagej_planes(tiff, first)
        if planes is not None:
            return planes
        pages = [_page(tiff, index) for index in range(len(tiff.pages))]
        size = (first.imagewidth, first.imagelength)
        kept = [index for index, page in enumerate(pages) if (page.imagewidth, page.imagelength) == size]
        _check_size(*size, frames=len(kept))
        for index in kept:
            _check_complete(pages[index])
        if _needs_pillow(first):
            stream.seek(0)
            return _decode_pillow_frames(TiffImagePlugin.TiffImageFile(stream), kept)
        return [_decode_page(pages[index]) for index in kept]


def _imagej_planes(tiff: tifffile.TiffFile, first: Any) -> list[Decoded] | None:
    """Return the planes of an ImageJ stack, which may lie behind a single page entry."""
    frames = tiff.series[0].size // first.size if tiff.is_imagej else 0
    if frames <= len(tiff.pages):
        return None
    _check_size(first.imagewidth, first.imagelength, frames)
    _check_complete(first)
    return [Decoded(plane) for plane in tiff.series[0].asarray().reshape(-1, *first.shape)]


def _decode_pillow_frames(image: ImageFile.ImageFile, indices: list[int]) -> list[Decoded]:
    """Decode some frames of a TIFF through Pillow."""
    frames = []
    for index in indices:
        image.seek(index)
        frames.append(_decode_pillow(image))
    return frames


def _page(tiff: tifffile.TiffFile, index: int) -> Any:
    """Return one page with all its tags, its size checked."""
    if not len(tiff.pages):
        raise DecodingError("The file is damaged or incomplete (it has no pixels).")
    page = tiff.pages[index]
    page = page.aspage() if isinstance(page, tifffile.TiffFrame) else page
    _check_size(page.imagewidth, page.imagelength)
    if page.samplesperpixel > _MAX_CHANNELS:
        raise DecodingError(
            f"The file has {page.samplesperpixel} channels; images have 1 to {_MAX_CHANNELS}."
        )
    return page


def _needs_pillow(page: Any) -> bool:
    """Tell whether a page is of a kind that tifffile alone does not decode into colors."""
    name = _extra_compression(int(page.compression))
    if name is not None:
        if importlib.util.find_spec("imagecodecs") is None:
            raise DecodingError(
                f"The file is compressed with {name}; save it without compression, "
                f"or add the package that reads it: {how_to_install('codecs')}."
            )
        if int(page.compression) not in tifffile.TIFF.DECOMPRESSORS:
            raise DecodingError(
                f"The file is compressed with {name}, which is not read; save it without compression."
            )
        return False
    return (
        page.compression not in _TIFFFILE_COMPRESSIONS
        or page.photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE)
        or page.bitspersample not in (1, 8, 16, 32, 64)
    )


def _extra_compression(number: int) -> str | None:
    """Return the name of a compression that neither Pillow nor tifffile decodes alone; None: one does."""
    if number in _EXTRA_COMPRESSIONS:
        return _EXTRA_COMPRESSIONS[number]
    if number in _TIFFFILE_COMPRESSIONS or number in TiffImagePlugin.COMPRESSION_INFO:
        return None
    try:
        return tifffile.COMPRESSION(number).name.replace("_", " ")
    except ValueError:
        raise DecodingError(
            f"The file has the compression {number}, which is not read; save it without."
        ) from None


def _decode_page(page: Any) -> Decoded:
    """Decode one page through tifffile."""
    array = np.asarray(page.asarray())
    if page.axes == "SYX":
        array = np.moveaxis(array, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise DecodingError(f"The file is not a flat image (its axes are {page.axes}).")
    alpha = None
    if array.ndim == 3:
        colors = 3 if page.photometric == _RGB else 1
        alpha = array[..., colors] if array.shape[2] == colors + 1 else None
        array = array[..., :3] if colors == 3 else array[..., 0]
    # tifffile marks the booleans it writes as white-is-zero, but means True by 1.
    if page.photometric == _MIN_IS_WHITE and not (array.dtype == bool and page.software == "tifffile.py"):
        array = ~array if array.dtype.kind in "bu" else -array
    tag = page.tags.get(_ORIENTATION)
    orientation = 1 if tag is None else int(tag.value)
    palette = _tiff_palette(page) if page.photometric == _PALETTE else None
    return Decoded(
        upright(array, orientation), palette, alpha=None if alpha is None else upright(alpha, orientation)
    )


def _check_complete(page: Any) -> None:
    """Refuse a page whose pixels are not all in the file: they would be shown black."""
    end = page.parent.filehandle.size
    if len(page.dataoffsets) < math.prod(page.chunked):
        raise DecodingError("The file is damaged or incomplete (pixels are missing).")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if not count or offset + count > end:
            raise DecodingError("The file is damaged or incomplete (pixels are missing).")


def _tiff_palette(page: Any) -> NDArray[np.uint8]:
    """Return a TIFF's color table, which is stored with 16 bits, as bytes."""
    table = np.zeros((256, 3), np.uint8)
    stored = (np.asarray(page.colormap).T >> 8).astype(np.uint8)[:256]
    table[: len(stored)] = stored
    return table
