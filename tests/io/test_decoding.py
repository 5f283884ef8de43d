"""Files of every kind and every damage; what comes out is checked against numpy."""

from __future__ import annotations

import io
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from napari_lesionseg.errors import ImageError, MaskError
from napari_lesionseg.io import decoding
from napari_lesionseg.io.decoding import DecodingError, decode, decode_shape, decode_stack
from napari_lesionseg.io.images import read_image, read_mask, read_stack

ORIENTATION = 0x0112
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.transpose(a, (1, 0, 2)),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.fixture
def colors(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blocks of 8 pixels, which JPEG keeps nearly."""
    return np.kron(rng.integers(0, 256, (3, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: NDArray[np.generic], **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def save(folder: Path, name: str, contents: bytes) -> Path:
    (folder / name).write_bytes(contents)
    return folder / name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "TIFF LZW", "tifffile"])
def test_exif_orientation_is_applied_once(
    tmp_path: Path, colors: NDArray[np.uint8], kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    contents = {
        "PNG": lambda: encoded(colors, "PNG", exif=exif),
        "JPEG": lambda: encoded(colors, "JPEG", exif=exif, quality=100, subsampling=0),
        "WEBP": lambda: encoded(colors, "WEBP", exif=exif, lossless=True),
        "TIFF": lambda: encoded(colors, "TIFF", exif=exif),
        "TIFF LZW": lambda: encoded(colors, "TIFF", exif=exif, compression="tiff_lzw"),
        "tifffile": lambda: tiff(
            colors, photometric="rgb", extratags=[(ORIENTATION, "H", 1, orientation, True)]
        ),
    }[kind]()
    path = save(tmp_path, "turned", contents)
    expected = UPRIGHT[orientation](colors)
    image = read_image(path)
    np.testing.assert_allclose(image, expected, atol=4 if kind == "JPEG" else 0)
    assert image.flags.c_contiguous
    assert image.flags.writeable
    np.testing.assert_array_equal(read_stack(path)[0], image)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_means_nothing_is_ignored(
    tmp_path: Path, colors: NDArray[np.uint8], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(
            read_image(save(tmp_path, "x", encoded(colors, kind, exif=exif))), colors
        )


def test_a_mask_is_turned_like_its_image(tmp_path: Path) -> None:
    stored = np.zeros((8, 12), np.uint8)
    stored[:3, :5] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    mask = read_mask(save(tmp_path, "mask.png", encoded(stored, "PNG", "L", exif=exif)), shape=(12, 8))
    np.testing.assert_array_equal(mask, np.rot90(stored, -1) == 255)
    assert mask.flags.c_contiguous


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in ("PNG", "TIFF") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")]
    + [("WEBP", mode) for mode in ("RGB", "RGBA")],
)
def test_every_mode_becomes_color_bytes(
    tmp_path: Path, colors: NDArray[np.uint8], kind: str, mode: str
) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = np.asarray(Image.fromarray(colors).convert(mode).convert("RGB"))
    image = read_image(save(tmp_path, "x", encoded(colors, kind, mode, **options)))
    np.testing.assert_array_equal(image, expected)


def test_alpha_is_dropped_not_blended(tmp_path: Path, colors: NDArray[np.uint8]) -> None:
    alpha = np.full((*colors.shape[:2], 1), 7, np.uint8)
    layered = np.concatenate([colors, alpha], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(layered, "RGBA").save(buffer, "PNG")
    np.testing.assert_array_equal(read_image(save(tmp_path, "x.png", buffer.getvalue())), colors)
    for planar in ("contig", "separate"):
        stored = layered if planar == "contig" else np.moveaxis(layered, -1, 0)
        contents = tiff(stored, photometric="rgb", planarconfig=planar, extrasamples=["unassalpha"])
        np.testing.assert_array_equal(read_image(save(tmp_path, "x.tif", contents)), colors)


def test_cmyk_is_converted(tmp_path: Path, colors: NDArray[np.uint8]) -> None:
    for kind in ("JPEG", "TIFF"):
        image = read_image(save(tmp_path, "x", encoded(colors, kind, "CMYK")))
        np.testing.assert_allclose(image.mean(axis=(0, 1)), colors.mean(axis=(0, 1)), atol=6)


def test_sixteen_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    files = {
        "png": buffer.getvalue(),
        "gray": tiff(ramp),
        "big endian": tiff(ramp, byteorder=">"),
        "rgb": tiff(np.dstack([ramp] * 3), photometric="rgb"),
        "packed": tiff(ramp, compression="zlib", predictor=True),
        "white is 0": tiff(~ramp, photometric="miniswhite"),
        "big": tiff(ramp, bigtiff=True),
        "tiled": tiff(ramp, tile=(16, 16)),
        "float": tiff((ramp / 65535).astype(np.float32)),
    }
    for name, contents in files.items():
        np.testing.assert_array_equal(read_image(save(tmp_path, name, contents)), expected, err_msg=name)


def test_a_tiff_palette_is_looked_up(tmp_path: Path, rng: np.random.Generator) -> None:
    table = rng.integers(0, 256, (3, 256)).astype(np.uint8)
    indices = rng.integers(0, 256, (9, 7)).astype(np.uint8)
    contents = tiff(indices, photometric="palette", colormap=table.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(save(tmp_path, "x.tif", contents)), table.T[indices])


@pytest.mark.parametrize("name", ["x.jpg", "x.PNG", "no suffix", "bilde æøå 1.tif"])
def test_formats_are_told_by_content_and_names_may_be_any(
    tmp_path: Path, colors: NDArray[np.uint8], name: str
) -> None:
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(read_image(save(tmp_path, name, encoded(colors, kind))), colors)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_one_pixel_is_an_image(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, "x", encoded(np.full((1, 1, 3), 80, np.uint8), kind))
    np.testing.assert_allclose(read_image(path), np.full((1, 1, 3), 80), atol=2)


def test_a_stack_gives_all_frames_and_an_image_the_first(tmp_path: Path, rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (4, 20, 30, 3)).astype(np.uint8)
    gray = frames[..., 0]
    lzw = io.BytesIO()
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(lzw, "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    files = {
        "plain": (tiff(frames, photometric="rgb"), frames),
        "lzw": (lzw.getvalue(), frames),
        "gray": (tiff(gray, photometric="minisblack"), np.repeat(gray[..., None], 3, axis=3)),
        "imagej": (tiff(gray, imagej=True), np.repeat(gray[..., None], 3, axis=3)),
        "imagej rgb": (tiff(frames, imagej=True), frames),
        "png": (encoded(frames[0], "PNG"), frames[:1]),
    }
    for name, (contents, expected) in files.items():
        path = save(tmp_path, name, contents)
        np.testing.assert_array_equal(read_stack(path), expected, err_msg=name)
        np.testing.assert_array_equal(read_image(path), expected[0], err_msg=name)


def test_an_imagej_stack_with_one_page_entry_is_read_whole(tmp_path: Path, rng: np.random.Generator) -> None:
    planes = rng.integers(0, 256, (5, 8, 9)).astype(np.uint8)
    whole = tiff(planes, imagej=True)
    # ImageJ writes one page entry for stacks beyond 4 GB: cut the chain of entries after the first.
    with tifffile.TiffFile(io.BytesIO(whole)) as opened:
        page = opened.pages[0]
        link = page.offset + 2 + 12 * len(page.tags)
    contents = whole[:link] + b"\0\0\0\0" + whole[link + 4 :]
    np.testing.assert_array_equal(read_stack(save(tmp_path, "x.tif", contents))[..., 0], planes)


def test_thumbnails_in_a_stack_are_left_out(tmp_path: Path, colors: NDArray[np.uint8]) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(colors, photometric="rgb")
        writer.write(colors[::4, ::4], photometric="rgb")
        writer.write(colors, photometric="rgb")
    assert read_stack(tmp_path / "x.tif").shape == (2, *colors.shape)


def test_pages_turned_in_different_ways_are_refused(tmp_path: Path, colors: NDArray[np.uint8]) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(colors, photometric="rgb")
        writer.write(colors, photometric="rgb", extratags=[(ORIENTATION, "H", 1, 6, True)])
    with pytest.raises(ImageError, match="turned in different ways"):
        read_stack(tmp_path / "x.tif")


def test_a_header_that_claims_more_strips_than_there_are_is_refused(tmp_path: Path) -> None:
    contents = bytearray(tiff(np.zeros((64, 64), np.uint8), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(contents)) as opened:
        start = opened.pages[0].tags["ImageLength"].valueoffset
    contents[start : start + 4] = (1_000_000).to_bytes(4, "little")
    with pytest.raises(ImageError, match="pixels are missing"):
        read_image(save(tmp_path, "x.tif", bytes(contents)))


def test_what_is_no_image_is_named(tmp_path: Path, colors: NDArray[np.uint8]) -> None:
    png = encoded(colors, "PNG")
    bad = {
        "text.jpg": (b"this is not an image at all", "is not an image"),
        "empty.png": (b"", "is empty"),
        "short.jpg": (b"\xff\xd8\xff", "is damaged"),
        "truncated.png": (png[: len(png) // 2], "is damaged"),
        "truncated.jpg": (encoded(colors, "JPEG")[:400], "is damaged"),
        "truncated.bmp": (encoded(colors, "BMP")[:400], "is damaged"),
        "truncated.webp": (encoded(colors, "WEBP")[:100], "is damaged"),
        "truncated.tif": (tiff(colors, photometric="rgb")[:-100], "pixels are missing"),
        "sound.webp": (b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24), "is damaged"),
        "movie.gif": (b"GIF89a" + bytes(50), "is damaged"),
        "figure.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n" + bytes(50), "is not an image"),
        "no width.png": (png[:16] + bytes(4) + png[20:], "is damaged"),
        "volume.tif": (tiff(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16)), "axes"),
        "channels.tif": (tiff(np.zeros((4, 4, 99), np.uint8), planarconfig="contig"), "99 channels"),
        "complex.tif": (tiff(np.zeros((4, 4), np.complex64)), "complex64"),
        "lab.tif": (encoded(colors, "TIFF", "LAB"), "LAB"),
    }
    for name, (contents, reason) in bad.items():
        path = save(tmp_path, name, contents)
        for read, error in ((read_image, ImageError), (read_mask, MaskError), (read_stack, ImageError)):
            with pytest.raises(error) as raised:
                read(path)
            assert str(raised.value).startswith(f"{path}: "), name
            assert reason in str(raised.value), name
            assert "\n" not in str(raised.value), name


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: The file cannot be opened: No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(MaskError, match="is a folder"):
        read_mask(tmp_path)
    with pytest.raises(ImageError, match="cannot be opened"):
        read_image(tmp_path / ("n" * 300))
    with pytest.raises(ImageError, match="damaged"):
        read_image("a\0b.png")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "locked.png", b"x")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ImageError, match=r"locked\.png: The file cannot be opened: Permission denied"):
        read_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.png")


def bomb(kind: str) -> bytes:
    """A small file whose header claims 20000 x 20000 pixels."""
    tiny = np.zeros((8, 8, 3), np.uint8)
    size = 20000
    if kind == "PNG":
        contents = bytearray(encoded(tiny, "PNG"))
        contents[16:24] = size.to_bytes(4, "big") * 2
        contents[29:33] = zlib.crc32(contents[12:29]).to_bytes(4, "big")
    elif kind == "BMP":
        contents = bytearray(encoded(tiny, "BMP"))
        contents[18:26] = size.to_bytes(4, "little") * 2
    elif kind == "JPEG":
        contents = bytearray(encoded(tiny, "JPEG"))
        start = contents.index(b"\xff\xc0") + 5
        contents[start : start + 4] = size.to_bytes(2, "big") * 2
    else:
        shape = (size, size)
        contents = bytearray(tiff(np.zeros((8, 8), np.uint8)))
        with tifffile.TiffFile(io.BytesIO(contents)) as opened:
            for tag, value in zip(("ImageLength", "ImageWidth"), shape, strict=True):
                found = opened.pages[0].tags[tag]
                contents[found.valueoffset : found.valueoffset + 4] = value.to_bytes(4, "little")
    return bytes(contents)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "TIFF"])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ImageError, match="too large: 20000 x 20000"):
        read_image(save(tmp_path, "bomb", bomb(kind)))


def test_a_total_body_photograph_is_not_taken_for_a_bomb(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("1", (10000, 9000)).save(tmp_path / "body.png")
    assert read_image(tmp_path / "body.png").shape == (9000, 10000, 3)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_stack_is_limited_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_STACK_PIXELS", 100)
    path = save(tmp_path, "x.tif", tiff(np.zeros((5, 5, 5), np.uint8), photometric="minisblack"))
    with pytest.raises(ImageError, match="too large: 5 frames of 5 x 5"):
        read_stack(path)
    assert read_image(path).shape == (5, 5, 3)


def test_damaged_exif_does_not_hide_whole_pixels(tmp_path: Path, colors: NDArray[np.uint8]) -> None:
    path = save(tmp_path, "x.png", encoded(colors, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"))
    np.testing.assert_array_equal(read_image(path), colors)


def test_too_little_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "x.png", encoded(np.zeros((4, 4, 3), np.uint8), "PNG"))

    def none_left(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "_decode_pillow", none_left)
    with pytest.raises(ImageError, match="too large for this computer's memory"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of many damages that it can read past
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "LZW", "zlib", "ImageJ"])
def test_no_damage_raises_anything_else(
    tmp_path: Path, colors: NDArray[np.uint8], rng: np.random.Generator, kind: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole = {
        "LZW": lambda: encoded(colors, "TIFF", compression="tiff_lzw", exif=exif),
        "zlib": lambda: tiff(colors, photometric="rgb", compression="zlib", predictor=True),
        "ImageJ": lambda: tiff(np.moveaxis(colors, -1, 0), imagej=True),
    }.get(kind, lambda: encoded(colors, kind, exif=exif) if kind != "BMP" else encoded(colors, kind))()
    refused = 0
    for attempt in range(60):
        damaged = bytearray(whole if attempt % 3 else whole[: rng.integers(1, len(whole))])
        for _ in range(rng.integers(1, 20)):
            # Half of the hits go to the header, where they do most.
            damaged[rng.integers(min(len(damaged), 200 if rng.random() < 0.5 else len(whole)))] = (
                rng.integers(256)
            )
        path = save(tmp_path, "x", bytes(damaged))
        for read in (decode, decode_stack):
            try:
                read(path)
            except DecodingError:
                refused += 1
    assert refused > 20


@pytest.mark.parametrize("suffix", ["avif", "gif", "jp2", "j2k", "jfif", "dib", "heic"])
def test_other_formats_are_read_as_images(tmp_path: Path, suffix: str) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif", reason="needs the extra heic").register_heif_opener()
    image = Image.new("RGB", (40, 24), (200, 40, 40))
    path = tmp_path / f"x.{suffix}"
    image.save(path, "JPEG" if suffix == "jfif" else None)
    found = read_image(path)
    assert found.shape == (24, 40, 3)
    assert np.abs(found.astype(int) - (200, 40, 40)).max() < 12
    assert decode_shape(path) == (24, 40)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cJXL " + bytes(40), "JPEG XL"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "damaged"),
        (b"\0\0\0\x18ftypavif" + bytes(40), "damaged"),
        (b"GIF89a", "damaged"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, payload: bytes, reason: str) -> None:
    if b"heic" in payload:
        pytest.importorskip("pillow_heif", reason="needs the extra heic")
    path = tmp_path / "x.jpg"
    path.write_bytes(payload)
    with pytest.raises(ImageError, match=reason):
        read_image(path)


def test_a_heic_photo_without_the_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(ImageError, match=r"napari-lesionseg\[heic\]"):
        read_image(tmp_path / "x.heic")


@pytest.mark.parametrize("kind", ["text", "compressed text", "profile"])
def test_large_texts_and_profiles_of_a_png_do_not_matter(tmp_path: Path, kind: str) -> None:
    image = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3))
    large = "x" * 3_000_000
    info = PngInfo()
    if kind != "profile":
        info.add_itxt("XML:com.adobe.xmp", large * 30 if kind == "text" else large, zip=kind != "text")
    image.save(tmp_path / "x.png", pnginfo=info, icc_profile=large.encode() if kind == "profile" else None)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), np.asarray(image))


@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "jpegxl", "lerc", "png", "jpegxr"])
def test_rare_compressions_of_tiff_are_read_or_named(
    tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imagecodecs", reason="needs the extra codecs")
    image = np.full((32, 48, 3), (200, 40, 40), np.uint8)
    tifffile.imwrite(tmp_path / "x.tif", image, compression=compression)
    assert np.abs(read_image(tmp_path / "x.tif").astype(int) - image).max() < 12
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"napari-lesionseg\[codecs\]"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("number", [9999, 34713])
def test_compressions_of_tiff_that_nothing_reads_are_named(tmp_path: Path, number: int) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((32, 48, 3), np.uint8))
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(number)
    with pytest.raises(ImageError, match="compress") as caught:
        read_image(tmp_path / "x.tif")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}])
def test_a_webp_that_claims_more_than_it_holds_takes_no_memory(
    tmp_path: Path, options: dict[str, object]
) -> None:
    path = tmp_path / "a.webp"
    Image.new("RGB", (2000, 1500), "red").save(path, **options)
    assert decode(path).array.shape == (1500, 2000, 3)
    payload = bytearray(path.read_bytes()[:200])
    payload[21:25] = b"\xff\xff\xff\xff"
    payload[26:30] = b"\xff\x3f\xff\x3f"
    path.write_bytes(payload)
    with pytest.raises(DecodingError, match=r"too large|bytes for"):
        decode(path)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"/annex/objects/MD5E-s12345--0123456789abcdef.jpg\n", "git annex get"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>404", "web page"),
        (b"\n <?xml version='1.0'?><svg/>", "web page or other text"),
        (b"\0" * 128 + b"DICM" + b"\0" * 99, "lesionseg import"),
        (b"\xff\x0a" + b"x" * 99, "JPEG XL"),
        (b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 99, "raw photo"),
    ],
)
def test_what_is_no_image_is_told_apart(tmp_path: Path, payload: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(payload)
    with pytest.raises(DecodingError, match=reason):
        decode(tmp_path / "a.jpg")


def test_the_preview_of_a_raw_photo_is_not_the_image(tmp_path: Path) -> None:
    """DNG, NEF and ARW files are TIFFs with a small preview first, and the photo below it."""
    with tifffile.TiffWriter(tmp_path / "a.nef") as writer:
        preview = np.zeros((12, 16, 3), np.uint8)
        writer.write(preview, subifds=1, subfiletype=1, photometric="rgb")
        writer.write(np.zeros((96, 128), np.uint16), photometric="minisblack")
    with pytest.raises(DecodingError, match="raw photo"):
        decode(tmp_path / "a.nef")
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:  # whose levels lie below the photo
        writer.write(np.full((96, 128, 3), 7, np.uint8), subifds=1, photometric="rgb")
        writer.write(preview, subfiletype=1, photometric="rgb")
    assert decode(tmp_path / "pyramid.tif").array.shape == (96, 128, 3)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
@pytest.mark.parametrize("ending", ["ppm", "pgm", "pbm", "pnm"])
def test_portable_pixmaps_are_read(tmp_path: Path, mode: str, ending: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    converted = wide if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    converted.save(tmp_path / f"a.{ending}", "PPM")
    assert np.array_equal(decode(tmp_path / f"a.{ending}").array, np.asarray(converted))
