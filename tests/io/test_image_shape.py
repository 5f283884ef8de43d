from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.io.images import picture_shape, read_picture
from napari_lesionseg.errors import PictureError


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_it_is_the_shape_that_reading_gives(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(np.zeros((5, 8, 3), np.uint8)).save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    assert picture_shape(path) == read_picture(path).shape[:2]


def test_a_jpeg_is_not_decoded_for_it(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert picture_shape(path) == (300, 400)
    with pytest.raises(PictureError):
        read_picture(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=r"x\.jpg"):
        picture_shape(tmp_path / "x.jpg")
