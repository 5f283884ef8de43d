from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from napari_lesionseg.datasets.cleaning import clean_jpeg, safe_name

SECRET = b"Jane Doe 1960"


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).resize(
        (53, 37), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    small.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_secrets() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x0112] = 1
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    payload = jpeg(exif=exif, comment=SECRET, icc_profile=profile, dpi=(300, 300))
    unknown = b"\xff\xed" + (len(SECRET) + 2).to_bytes(2, "big") + SECRET
    return payload[:2] + unknown + payload[2:] + jpeg(comment=SECRET)


def pixels(payload: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"))


def test_everything_but_the_pixels_goes() -> None:
    payload = with_secrets()
    assert payload.count(SECRET) >= 4
    cleaned = clean_jpeg(payload)
    assert cleaned is not None
    assert SECRET not in cleaned
    assert b"Exif" not in cleaned
    assert b"ICC_PROFILE" not in cleaned
    assert np.array_equal(pixels(cleaned), pixels(payload))
    assert not Image.open(io.BytesIO(cleaned)).getexif()
    assert clean_jpeg(cleaned) == cleaned


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"progressive": True}),
        ("RGB", {"restart_marker_blocks": 2, "optimize": True}),
        ("L", {}),
        ("CMYK", {}),
        ("RGB", {"subsampling": 0, "quality": 100, "keep_rgb": True}),
    ],
)
def test_all_kinds_of_jpeg_keep_their_pixels(mode: str, options: dict[str, object]) -> None:
    payload = jpeg(mode, **options)
    cleaned = clean_jpeg(payload)
    assert cleaned is not None
    assert np.array_equal(pixels(cleaned), pixels(payload))


def test_the_thumbnail_in_the_first_header_goes() -> None:
    payload = jpeg()
    assert payload[2:4] == b"\xff\xe0"
    thumbnail = (
        payload[:4] + (16 + 12).to_bytes(2, "big") + payload[6:18] + b"\2\2" + b"SECRETSECRET" + payload[20:]
    )
    cleaned = clean_jpeg(thumbnail)
    assert cleaned is not None
    assert b"SECRET" not in cleaned
    assert np.array_equal(pixels(cleaned), pixels(payload))


def test_what_is_not_understood_is_left_alone() -> None:
    payload = jpeg()
    assert clean_jpeg(b"") is None
    assert clean_jpeg(b"\x89PNG\r\n") is None
    assert clean_jpeg(payload[: len(payload) // 2]) is None
    assert clean_jpeg(payload[:2] + b"\xff\xd8" + payload[2:]) is None
    assert clean_jpeg(payload[:2] + b"\xff\xe1\0\1" + payload[2:]) is None


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=10), st.integers(0, 300))
def test_damaged_files_never_raise_and_never_grow(flips: list[tuple[int, int]], cut: int) -> None:
    payload = bytearray(with_secrets())
    for place, value in flips:
        payload[place % len(payload)] = value
    cleaned = clean_jpeg(bytes(payload[: len(payload) - cut]))
    assert cleaned is None or len(cleaned) <= len(payload)


@given(st.text())
def test_safe_names_are_plain(name: str) -> None:
    safe = safe_name(name)
    assert safe
    assert len(safe) <= 81
    assert not safe.startswith(".")
    assert not set(safe) & set('/\\:*?"<>| \0')
    assert safe_name(safe) == safe


@pytest.mark.parametrize(
    ("name", "safe"), [("a b/c", "a_b_c"), ("NUL", "_NUL"), ("com1.x", "_com1.x"), ("æ-1", "æ-1")]
)
def test_names_stay_readable(name: str, safe: str) -> None:
    assert safe_name(name) == safe
