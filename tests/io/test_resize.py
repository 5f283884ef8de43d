from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from napari_lesionseg.io.resize import (
    MAX_ASPECT,
    STRIDE,
    normalize,
    resize_image,
    resize_labels,
    resize_plane,
    working_shape,
)

SIDES = st.integers(1, 20_000)


@given(height=SIDES, width=SIDES, size=st.integers(32, 1024))
def test_working_shape_is_usable_and_of_about_the_wanted_size(height: int, width: int, size: int) -> None:
    shape = working_shape((height, width), size)
    assert all(side % STRIDE == 0 and side >= STRIDE for side in shape)
    # each side is rounded to the nearest multiple of 32
    aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
    wanted = (size / aspect**0.5, size * aspect**0.5)
    assert all(
        abs(side - max(want, STRIDE)) <= STRIDE / 2 + 1e-6 for side, want in zip(shape, wanted, strict=True)
    )
    assert working_shape((width, height), size) == shape[::-1]


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((256, 256), 256, (256, 256)),
        ((560, 768), 256, (224, 288)),
        ((4000, 6000), 320, (256, 384)),
        ((1, 1), 256, (256, 256)),
        ((1, 9000), 256, (128, 512)),
        ((9000, 1), 256, (512, 128)),
    ],
)
def test_working_shapes(shape: tuple[int, int], size: int, expected: tuple[int, int]) -> None:
    assert working_shape(shape, size) == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (33, 47), (600, 800)])
@pytest.mark.parametrize("wanted", [(32, 64), (7, 5), (300, 1)])
def test_resizing_keeps_plain_images_plain(shape: tuple[int, int], wanted: tuple[int, int]) -> None:
    image = np.full((*shape, 3), (10, 100, 250), np.uint8)
    resized = resize_image(image, wanted)
    assert resized.shape == (*wanted, 3)
    assert resized.dtype == np.uint8
    assert np.array_equal(np.unique(resized.reshape(-1, 3), axis=0), [[10, 100, 250]])


def test_shrinking_averages() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[::2] = 200  # stripes a pixel wide become their mean, not one of them
    assert abs(resize_image(image, (8, 8)).astype(int)[1:-1] - 100).max() <= 2


def test_geometry_is_kept() -> None:
    rows, cols = np.mgrid[:120, :160]
    image = np.stack([rows, cols, 0 * rows], axis=-1).astype(np.uint8)
    resized = resize_image(image, (60, 80)).astype(float)
    np.testing.assert_allclose(resized[5:-5, 40, 0], np.arange(60)[5:-5] * 2 + 0.5, atol=1)
    np.testing.assert_allclose(resized[30, 5:-5, 1], np.arange(80)[5:-5] * 2 + 0.5, atol=1)


def test_views_are_resized_as_their_copies() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for view in (image[::-1], image[:, ::2], image.transpose(1, 0, 2), image[..., ::-1]):
        assert np.array_equal(resize_image(view, (16, 16)), resize_image(view.copy(), (16, 16)))


def test_labels_are_never_mixed() -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 3, 255], np.uint8), (41, 57))
    resized = resize_labels(labels, (100, 20))
    assert resized.shape == (100, 20)
    assert resized.dtype == np.uint8
    assert set(np.unique(resized)) == {0, 3, 255}
    assert resize_labels(labels, (41, 57)) is labels


def test_labels_stay_on_their_image() -> None:
    image, labels = np.zeros((200, 300, 3), np.uint8), np.zeros((200, 300), np.uint8)
    image[60:140, 90:210], labels[60:140, 90:210] = 255, 1
    small, marks = resize_image(image, (64, 96)), resize_labels(labels, (64, 96))
    assert ((small[..., 0] > 127) != (marks > 0)).mean() < 0.02


def test_normalize() -> None:
    image = np.array([[[0, 128, 255]]], np.uint8)
    planes = normalize(image, (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    assert planes.shape == (3, 1, 1)
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    np.testing.assert_allclose(planes.ravel(), [-2, (128 / 255 - 0.5) * 2, 0.5], atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 14), (40, 33), (70, 10)])
def test_planes_are_resized_as_by_torch(shape: tuple[int, int], rng: np.random.Generator) -> None:
    plane = rng.random((9, 14), np.float32)
    expected = functional.interpolate(
        torch.from_numpy(plane)[None, None], shape, mode="bilinear", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(resize_plane(plane, shape), expected[0, 0].numpy(), atol=1e-5)


def test_a_part_of_a_plane_is_resized_as_in_the_whole(rng: np.random.Generator) -> None:
    plane = rng.random((9, 14), np.float32)
    part = resize_plane(plane, (10, 42), (9 * 7 / 31, 0, 9 * 17 / 31, 14))
    np.testing.assert_allclose(part, resize_plane(plane, (31, 42))[7:17], atol=1e-5)
