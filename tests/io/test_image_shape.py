from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.errors import ImageError
from napari_lesionseg.io.images import image_shape, read_image


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
