from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from numpy.typing import NDArray
from PIL import Image

from napari_lesionseg.errors import ImageError, MaskError
from napari_lesionseg.io import atomic
from napari_lesionseg.io.images import (
    image_shape,
    image_suffixes,
    read_image,
    read_mask,
    read_stack,
    to_byte_image,
    unread_pages,
    write_image,
    write_mask,
)
from napari_lesionseg.io.pairing import find_images, find_pairs

BLOB = np.zeros((20, 30), bool)
BLOB[5:15, 8:25] = True


def saved(path: Path, values: NDArray[np.generic], **options: object) -> Path:
    """Write with the libraries, not with the functions under test."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, **options)
    elif path.suffix == ".jpg":
        Image.fromarray(values).save(path, quality=90, subsampling=0, **options)
    else:
        Image.fromarray(values).save(path, **options)
    return path


class TestByteImage:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    color = np.repeat(gray[..., None], 3, axis=2)

    @pytest.mark.parametrize(
        "values",
        [
            gray,
            gray[..., None],
            np.dstack([gray] * 3),
            np.dstack([gray] * 3 + [np.full_like(gray, 9)]),
            gray.astype(np.uint16) * 257,
            (gray.astype(np.uint16) * 257).astype(">u2"),
            gray.astype(np.int64),
            gray.astype(np.int32) * 257,
            gray / 255,
            (gray / 255).astype(np.float32),
            gray.astype(np.float64),
            gray.tolist(),
        ],
        ids=lambda values: (
            f"{values.dtype} {values.shape} to {values.max()}" if hasattr(values, "dtype") else "list"
        ),
    )
    def test_every_usual_kind_gives_the_same_image(self, values: NDArray[np.generic]) -> None:
        image = to_byte_image(values)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, self.color)

    def test_half_precision_is_as_near_as_it_can_be(self) -> None:
        np.testing.assert_allclose(to_byte_image((self.gray / 255).astype(np.float16)), self.color, atol=1)

    def test_booleans_are_black_and_white(self) -> None:
        np.testing.assert_array_equal(to_byte_image(BLOB)[..., 1], BLOB * 255)

    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
    def test_the_result_shares_nothing_with_the_input(self, shape: tuple[int, ...]) -> None:
        values = np.full(shape, 7, np.uint8)
        image = to_byte_image(values)
        image[:] = 0
        assert (values == 7).all()
        assert not np.shares_memory(image, values)

    def test_a_view_of_any_order_is_read_right(self) -> None:
        values = np.dstack([self.gray, self.gray.T, self.gray[::-1]])
        np.testing.assert_array_equal(to_byte_image(values[::-1, ::2]), values[::-1, ::2])

    def test_what_is_not_finite_is_black(self) -> None:
        values = np.array([[np.nan, np.inf, -np.inf, 0.5, 1.0]])
        assert to_byte_image(values)[0, :, 0].tolist() == [0, 0, 0, 128, 255]
        assert not to_byte_image(np.full((3, 3), np.nan)).any()

    def test_overshoot_is_clipped(self) -> None:
        assert to_byte_image(np.array([[-0.05, 0.0, 1.0, 1.05]]))[0, :, 0].tolist() == [0, 0, 255, 255]

    def test_a_dark_16_bit_image_is_not_stretched(self) -> None:
        assert to_byte_image(np.full((2, 2), 200, np.uint16)).max() == 1

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            (np.zeros(5), r"shape \(5,\)"),
            (np.zeros((3, 20, 20)), "channels last"),
            (np.zeros((2, 20, 20, 3)), "not one image"),
            (np.zeros((20, 20, 2)), "not one image"),
            (np.zeros((0, 20)), "no pixels"),
            (np.zeros((20, 0, 3), np.uint8), "no pixels"),
            (np.full((4, 4), -1), "from -1"),
            (np.full((4, 4), 70000), "to 70000"),
            (np.array([[-2.0, 3.0]]), "scale them to 0 to 1"),
            (np.array([[0.0, 4000.0]]), "scale them to 0 to 1"),
            (np.zeros((4, 4), complex), "complex128"),
            (np.full((4, 4), "x"), "<U1"),
            (np.full((4, 4), None), "object"),
        ],
    )
    def test_what_is_no_image_is_refused(self, values: NDArray[np.generic], reason: str) -> None:
        with pytest.raises(ImageError, match=reason):
            to_byte_image(values)


class TestReadMask:
    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("1-bit.png", BLOB),
            ("1-bit.bmp", BLOB),
            ("1-bit.tif", BLOB),
            ("0 and 255.png", BLOB * np.uint8(255)),
            ("0 and 1.png", BLOB.astype(np.uint8)),
            ("0 and 200.png", BLOB * np.uint8(200)),
            ("100 and 200.png", np.where(BLOB, np.uint8(200), np.uint8(100))),
            ("16-bit.png", BLOB * np.uint16(65535)),
            ("16-bit 255.png", BLOB * np.uint16(255)),
            ("lossy.jpg", BLOB * np.uint8(255)),
            ("rgb.bmp", np.dstack([BLOB * np.uint8(255)] * 3)),
            ("red.png", np.dstack([BLOB * np.uint8(255), *[BLOB * np.uint8(0)] * 2])),
            ("blue.jpg", np.dstack([*[BLOB * np.uint8(0)] * 2, BLOB * np.uint8(254)])),
            ("rgba.png", np.dstack([BLOB * np.uint8(255)] * 3 + [np.full(BLOB.shape, 255, np.uint8)])),
            ("32-bit.tif", BLOB.astype(np.uint32)),
            ("signed.tif", BLOB.astype(np.int16) * 255),
            ("float.tif", BLOB.astype(np.float32)),
            ("float 255.tif", BLOB * np.float32(255)),
            ("probability.tif", np.where(BLOB, 0.8, 0.3).astype(np.float32)),
        ],
    )
    def test_one_lesion_however_it_is_stored(
        self, tmp_path: Path, name: str, values: NDArray[np.generic]
    ) -> None:
        mask = read_mask(saved(tmp_path / name, values), shape=BLOB.shape)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, BLOB)

    @pytest.mark.parametrize(("value", "expected"), [(0, 0), (1, 1), (255, 1)])
    def test_masks_of_one_value(self, tmp_path: Path, value: int, expected: int) -> None:
        path = saved(tmp_path / "x.png", np.full((6, 7), value, np.uint8))
        np.testing.assert_array_equal(read_mask(path), np.full((6, 7), expected))

    def test_soft_borders_are_cut_at_127(self, tmp_path: Path) -> None:
        soft = np.tile(np.r_[np.zeros(40), 1, 60, 127, 128, 190, 254, np.full(40, 255)], (20, 1))
        np.testing.assert_array_equal(read_mask(saved(tmp_path / "x.png", soft.astype(np.uint8))), soft > 127)

    @pytest.mark.parametrize("name", ["x.png", "x.tif"])
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    def test_class_indices_are_kept(self, tmp_path: Path, name: str, kind: type[np.generic]) -> None:
        indices = np.add.outer(np.arange(3), np.arange(4)).astype(kind)
        np.testing.assert_array_equal(read_mask(saved(tmp_path / name, indices)), indices)

    def test_indices_of_a_color_palette_are_kept(self, tmp_path: Path) -> None:
        indices = np.add.outer(np.arange(3), np.arange(4)).astype(np.uint8)
        image = Image.fromarray(indices)
        image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9, 200, 200, 0])
        image.save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), indices)

    def test_a_gray_palette_stands_for_its_grays(self, tmp_path: Path) -> None:
        image = Image.fromarray((~BLOB).astype(np.uint8))
        image.putpalette([255, 255, 255, 0, 0, 0])
        image.save(tmp_path / "white is 0.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "white is 0.png"), BLOB)

    @pytest.mark.parametrize(
        "values", [[0, 2, 255], [0, 1, 2, 255], [0, 1, 255], [0, 127, 255], [1, 255], [2, 255], [1, 3, 255]]
    )
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    def test_255_among_class_indices_is_ignored(self, tmp_path: Path, values: list[int], suffix: str) -> None:
        mask = np.array([values] * 3, np.uint8)
        path = tmp_path / f"void{suffix}"
        Image.fromarray(mask).save(path)
        np.testing.assert_array_equal(read_mask(path), mask)
        for style in ("binary", "index"):
            write_mask(path, read_mask(path), style=style)
            np.testing.assert_array_equal(read_mask(path), mask)

    def test_255_of_a_palette_is_ignored(self, tmp_path: Path) -> None:
        image = Image.fromarray(np.array([[0, 2, 255]], np.uint8))
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [224, 224, 192] * 253)
        image.save(tmp_path / "voc.png")
        assert read_mask(tmp_path / "voc.png").tolist() == [[0, 2, 255]]

    @pytest.mark.parametrize("palette", [[0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0]])
    def test_black_is_the_background_of_two_colors(self, tmp_path: Path, palette: list[int]) -> None:
        image = Image.fromarray(BLOB ^ np.uint8(palette[0] > 0))
        image.putpalette(palette)
        image.save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), BLOB)

    @pytest.mark.parametrize("color", [(255, 255, 255), (0, 0, 0), (200, 30, 30)])
    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_of_one_color_the_opaque_pixels_are_the_lesion(
        self, tmp_path: Path, color: tuple[int, int, int], suffix: str
    ) -> None:
        mask = np.full((*BLOB.shape, 4), (*color, 0), np.uint8)
        mask[..., 3] = BLOB * 255
        Image.fromarray(mask).save(tmp_path / f"x{suffix}")
        np.testing.assert_array_equal(read_mask(tmp_path / f"x{suffix}"), BLOB)

    def test_colors_and_transparency_must_show_the_same(self, tmp_path: Path) -> None:
        both = np.dstack([BLOB * np.uint8(255)] * 4)
        Image.fromarray(both).save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), BLOB)
        both[..., 3] = both[::-1, ::-1, 3][:, ::-1]
        both[0, :, 3], both[-1, :, 3] = 255, 0
        both[-1, :, :3] = 255
        Image.fromarray(both).save(tmp_path / "x.png")
        with pytest.raises(MaskError, match="transparency"):
            read_mask(tmp_path / "x.png")

    def test_ignored_pixels_alone_are_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(MaskError, match="No pixel has a class"):
            write_mask(tmp_path / "x.png", np.array([[0, 255]], np.uint8), style="index")

    def test_white_may_be_zero_in_tiff(self, tmp_path: Path) -> None:
        Image.fromarray(BLOB).save(tmp_path / "fax.tif", compression="group4", tiffinfo={262: 0})
        np.testing.assert_array_equal(read_mask(tmp_path / "fax.tif"), BLOB)
        inverted = saved(
            tmp_path / "x.tif", np.where(BLOB, np.uint8(0), np.uint8(255)), photometric="miniswhite"
        )
        np.testing.assert_array_equal(read_mask(inverted), BLOB)
        bilevel = saved(tmp_path / "y.tif", ~BLOB, photometric="miniswhite", software="scanner")
        np.testing.assert_array_equal(read_mask(bilevel), BLOB)

    @pytest.mark.parametrize(
        ("name", "values", "reason"),
        [
            ("bright.png", np.array([[128, 255]], np.uint8), "bright"),
            ("photo.png", np.arange(256, dtype=np.uint8).reshape(16, 16), "photograph"),
            ("photo.jpg", np.arange(256, dtype=np.uint8).reshape(16, 16), "photograph"),
            ("instances.tif", np.arange(400, dtype=np.uint16).reshape(20, 20), "up to 399"),
            ("negative.tif", np.array([[-1, 0, 1]], np.int16), "below 0"),
            ("nan.tif", np.array([[np.nan, 0, 1]], np.float32), "undefined"),
            ("fractions.tif", np.array([[0.5, 0, 90]], np.float32), "fractions up to 90"),
        ],
    )
    def test_what_is_no_mask_is_refused(
        self, tmp_path: Path, name: str, values: NDArray[np.generic], reason: str
    ) -> None:
        path = saved(tmp_path / name, values)
        with pytest.raises(MaskError, match=reason) as raised:
            read_mask(path)
        assert str(path) in str(raised.value)

    def test_another_size_than_the_image_is_refused(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "x.png", BLOB)
        with pytest.raises(MaskError, match=r"x\.png: The mask is 30 x 20 pixels, its image 20 x 30"):
            read_mask(path, shape=(30, 20))


class TestWriteMask:
    @given(
        labels=stn.arrays(
            np.uint8, stn.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 127)
        ),
        suffix=st.sampled_from([".png", ".tif", ".tiff", ".bmp", ".PNG"]),
    )
    def test_what_is_written_is_read(self, labels: NDArray[np.uint8], suffix: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"skjønn mask{suffix}"
            write_mask(path, labels)
            np.testing.assert_array_equal(read_mask(path), labels > 0)
            write_mask(path, labels, style="index")
            np.testing.assert_array_equal(read_mask(path, shape=labels.shape), labels)
            assert list(Path(folder).iterdir()) == [path]

    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    @pytest.mark.parametrize("labels", [BLOB, BLOB * 3, BLOB.astype(np.uint64) * 2**40])
    def test_a_binary_mask_is_8_bit_black_and_white(
        self, tmp_path: Path, suffix: str, labels: NDArray[np.generic]
    ) -> None:
        write_mask(tmp_path / f"x{suffix}", labels)
        with Image.open(tmp_path / f"x{suffix}") as stored:
            assert stored.mode == "L"
            np.testing.assert_array_equal(np.asarray(stored), BLOB * 255)

    @pytest.mark.parametrize(
        ("labels", "style", "reason"),
        [
            (np.full((2, 2), 128), "index", "from 0 to 127"),
            (np.full((2, 2), -1), "binary", "not from -1"),
            (np.zeros((2, 2)), "binary", "whole numbers"),
            (np.zeros((2, 2, 3), np.uint8), "binary", "whole numbers"),
            (np.zeros((0, 2), np.uint8), "index", "whole numbers"),
            (np.zeros((2, 2), np.uint8), "soft", "'soft'"),
        ],
    )
    def test_what_is_no_mask_is_not_written(
        self, tmp_path: Path, labels: NDArray[np.generic], style: str, reason: str
    ) -> None:
        with pytest.raises(MaskError, match=reason):
            write_mask(tmp_path / "x.png", labels, style=style)  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for path in (tmp_path / "nowhere" / "x.png", tmp_path / "file" / "x.png"):
            with pytest.raises(MaskError, match=r"x\.png cannot be written: No"):
                write_mask(path, BLOB)
        with pytest.raises(MaskError, match=r"x\.jpg: Masks are saved as \.png"):
            write_mask(tmp_path / "x.jpg", BLOB)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
    def test_a_full_disk_keeps_the_old_mask(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        write_mask(tmp_path / "x.png", BLOB)

        def refused(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(atomic.os, "replace", refused)
        with pytest.raises(MaskError, match=rf"x\.png cannot be written: {os.strerror(number)}"):
            write_mask(tmp_path / "x.png", ~BLOB)
        np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), BLOB)


class TestWriteImage:
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
    def test_what_is_written_is_read(self, tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
        image = rng.integers(0, 256, (9, 14, 3)).astype(np.uint8)
        write_image(tmp_path / f"x{suffix}", image)
        np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}"), image)

    def test_nothing_of_the_camera_is_kept(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = 6, "camera of A. Patient"
        buffer = io.BytesIO()
        Image.new("RGB", (8, 4), (90, 60, 50)).save(buffer, "JPEG", exif=exif, comment=b"A. Patient")
        (tmp_path / "in.jpg").write_bytes(buffer.getvalue())
        for name in ("out.jpg", "out.png"):
            write_image(tmp_path / name, read_image(tmp_path / "in.jpg"))
            assert b"Patient" not in (tmp_path / name).read_bytes()
            with Image.open(tmp_path / name) as stored:
                assert stored.size == (4, 8)
                assert not stored.getexif()

    def test_jpeg_is_near(self, tmp_path: Path) -> None:
        image = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (1, 64, 3))
        write_image(tmp_path / "x.jpeg", image)
        np.testing.assert_allclose(read_image(tmp_path / "x.jpeg"), image, atol=4)

    def test_failures_are_named(self, tmp_path: Path) -> None:
        image = np.zeros((2, 2, 3), np.uint8)
        with pytest.raises(ImageError, match=r"x\.gif: Images are saved as"):
            write_image(tmp_path / "x.gif", image)
        with pytest.raises(ImageError, match=r"x\.png cannot be written: No such"):
            write_image(tmp_path / "nowhere" / "x.png", image)
        with pytest.raises(ImageError, match=r"x\.png: An array of shape"):
            write_image(tmp_path / "x.png", np.zeros(4))
        with pytest.raises(ImageError, match=r"x\.jpg cannot be written"):
            write_image(tmp_path / "x.jpg", np.zeros((1, 70000, 3), np.uint8))
        assert list(tmp_path.iterdir()) == []


def test_suffixes_are_lower_case_and_with_a_dot() -> None:
    assert {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"} <= image_suffixes
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in image_suffixes)


@pytest.mark.parametrize(
    "folder", ["ph2-sample", "pad-smartphone", "isic2017-val-256", "isic2017-val-fullres"]
)
def test_real_masks_are_binary_and_fit_their_images(real_data: Path, folder: str) -> None:
    darker = []
    for pair in find_pairs(real_data / folder).pairs[:30]:
        image = read_image(pair.image)
        mask = read_mask(pair.mask, shape=image.shape[:2])
        assert np.unique(mask).tolist() == [0, 1], pair.stem
        darker.append(image[mask == 1].mean() < image[mask == 0].mean())
    # Most lesions are darker than the skin around them, unless images and masks are turned or mixed up.
    assert np.mean(darker) > 0.7


def test_real_photographs_are_not_taken_for_masks(real_data: Path) -> None:
    refused = 0
    paths = find_images(real_data / "isic2017-val-256")[:40] + find_images(real_data / "ph2-sample")
    for path in paths:
        try:
            read_mask(path)
        except MaskError:
            refused += 1
    assert refused >= 0.9 * len(paths)


def test_a_stack_of_one_real_image(real_data: Path) -> None:
    path = find_images(real_data / "ph2-sample")[0]
    np.testing.assert_array_equal(read_stack(path), read_image(path)[None])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_it_is_the_shape_that_reading_gives(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image{suffix}"
    Image.fromarray(np.zeros((5, 8, 3), np.uint8)).save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    assert image_shape(path) == read_image(path).shape[:2]


def test_a_jpeg_is_not_decoded_for_it(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert image_shape(path) == (300, 400)
    with pytest.raises(ImageError):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"x\.jpg"):
        image_shape(tmp_path / "x.jpg")


def animated(path: Path, kind: str, **options: Any) -> Path:
    frames = [Image.new("RGB", (20, 12), color) for color in ("red", "green", "blue")]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    return path


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "AVIF"])
def test_further_pages_are_counted(tmp_path: Path, kind: str) -> None:
    path = animated(tmp_path / "several", kind)
    assert unread_pages(path).startswith("Only its first page is used, and 2 further pages are left out")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "AVIF", "JPEG", "BMP"])
def test_one_page_is_nothing_to_name(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (20, 12), "red").save(tmp_path / "one", kind)
    assert unread_pages(tmp_path / "one") == ""


def test_thumbnails_and_pyramids_are_no_further_pages(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((40, 60, 3), np.uint8), photometric="rgb")
        tiff.write(np.zeros((20, 30, 3), np.uint8), photometric="rgb", subfiletype=1)
        tiff.write(np.zeros((10, 15, 3), np.uint8), photometric="rgb")
    assert unread_pages(path) == ""


def test_planes_of_an_imagej_stack_are_pages(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((5, 12, 20), np.uint8), imagej=True)
    assert "4 further pages" in unread_pages(path)


def test_pages_of_a_damaged_file_are_not_counted(tmp_path: Path) -> None:
    path = animated(tmp_path / "several", "GIF")
    path.write_bytes(path.read_bytes()[:9])
    assert unread_pages(path) == ""
