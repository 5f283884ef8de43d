from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_lesionseg.errors import ImageError
from napari_lesionseg.plugin.napari_layers import layers
from napari_lesionseg.plugin.napari_layers.layers import (
    fits,
    frames_of,
    image_shape,
    new_outline,
    place_like,
    protect,
    read_frame,
    show_as,
    shown_frame,
)
from napari_lesionseg.types import ByteImage


def test_colors_are_read_as_they_are(spot: ByteImage) -> None:
    image = Image(spot, rgb=True)
    assert image_shape(image) == (40, 60)
    assert frames_of(image) == [()]
    np.testing.assert_array_equal(read_frame(image, ()), spot)


def test_a_frame_is_a_copy(spot: ByteImage) -> None:
    image = Image(spot, rgb=True)
    frame = read_frame(image, ())
    assert not np.shares_memory(frame, image.data)
    assert frame.flags.writeable


def test_alpha_is_dropped(spot: ByteImage) -> None:
    with_alpha = np.dstack([spot, np.full(spot.shape[:2], 90, dtype=np.uint8)])
    np.testing.assert_array_equal(read_frame(Image(with_alpha, rgb=True), ()), spot)


def test_gray_is_repeated(spot: ByteImage) -> None:
    image = Image(spot[..., 0])
    assert image_shape(image) == (40, 60)
    np.testing.assert_array_equal(read_frame(image, ()), spot)


def test_gray_bytes_keep_their_values_whatever_the_contrast(spot: ByteImage) -> None:
    image = Image(spot[..., 0], contrast_limits=(100, 120))
    np.testing.assert_array_equal(read_frame(image, ()), spot)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
def test_deeper_gray_is_scaled_by_the_contrast_limits(kind: Any) -> None:
    values = np.array([[0, 1000, 2000], [3000, 4000, 9000]], dtype=kind)
    frame = read_frame(Image(values, contrast_limits=(1000, 4000)), ())
    np.testing.assert_array_equal(frame[..., 0], [[0, 0, 85], [170, 255, 255]])


def test_undefined_values_are_black() -> None:
    values = np.array([[np.nan, 0.5], [np.inf, 1.0]])
    frame = read_frame(Image(values, contrast_limits=(0, 1)), ())
    np.testing.assert_array_equal(frame[..., 1], [[0, 128], [0, 255]])


def test_flat_float_images_are_black() -> None:
    assert not read_frame(Image(np.zeros((5, 6))), ()).any()


@pytest.mark.parametrize(("kind", "scale"), [(np.uint16, 257), (np.float32, 1 / 255)])
def test_deeper_colors_are_scaled(spot: ByteImage, kind: Any, scale: Any) -> None:
    image = Image((spot * np.float64(scale)).astype(kind), rgb=True)
    np.testing.assert_allclose(read_frame(image, ()).astype(int), spot, atol=1)


def test_stacks_are_read_frame_by_frame(spot: ByteImage) -> None:
    stack = np.stack([spot, 255 - spot, spot // 2])
    image = Image(stack, rgb=True)
    assert image_shape(image) == (3, 40, 60)
    assert frames_of(image) == [(0,), (1,), (2,)]
    for frame in frames_of(image):
        np.testing.assert_array_equal(read_frame(image, frame), stack[frame])


def test_stacks_of_stacks_have_pairs_as_frames(spot: ByteImage) -> None:
    image = Image(np.zeros((2, 3, 40, 60), dtype=np.uint8))
    assert frames_of(image) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_only_the_wanted_frame_of_lazy_data_is_computed(spot: ByteImage) -> None:
    computed = []

    def load(block_info: Any = None) -> Any:
        computed.append(block_info[None]["chunk-location"][0])
        return spot[None]

    stack = da.map_blocks(
        load, chunks=((1,) * 5, 40, 60, 3), dtype=np.uint8, meta=np.empty((0,) * 4, np.uint8)
    )
    image = Image(stack, rgb=True)
    computed.clear()
    np.testing.assert_array_equal(read_frame(image, (3,)), spot)
    assert set(computed) == {3}


def test_lazy_data_that_cannot_be_read_are_named(spot: ByteImage) -> None:
    broken = []

    def load(block_info: Any = None) -> Any:
        if broken:
            raise OSError("share went away")
        return spot

    lazy = da.map_blocks(load, chunks=(40, 60, 3), dtype=np.uint8, meta=np.empty((0,) * 3, np.uint8))
    image = Image(lazy, rgb=True, name="remote", cache=False)
    broken.append(True)
    with pytest.raises(ImageError, match="“remote” cannot be read: share went away"):
        read_frame(image, ())


def test_the_largest_level_of_a_pyramid_is_read(spot: ByteImage) -> None:
    image = Image([spot, spot[::2, ::2]], rgb=True, multiscale=True)
    assert image_shape(image) == (40, 60)
    np.testing.assert_array_equal(read_frame(image, ()), spot)


def test_huge_images_are_refused_before_they_are_read() -> None:
    huge = da.zeros((60_000, 50_000, 3), dtype=np.uint8, chunks=(4096, 4096, 3))
    small = da.zeros((600, 500, 3), dtype=np.uint8)
    image = Image([huge, small], rgb=True, multiscale=True, name="slide")
    with pytest.raises(ImageError, match="“slide” has 3000 megapixels, more than 200; open a crop"):
        read_frame(image, ())


def test_negative_colors_are_refused_by_name() -> None:
    image = Image(np.full((5, 5, 3), -7, dtype=np.int16), rgb=True, name="odd")
    with pytest.raises(ImageError, match="“odd”"):
        read_frame(image, ())


def test_an_outline_lies_where_its_image_lies(spot: ByteImage) -> None:
    image = Image(
        np.stack([spot, spot]),
        rgb=True,
        name="IMD002",
        scale=(2, 0.5, 0.25),
        translate=(1, 20, 30),
        rotate=15,
        shear=[0.1, 0.2, 0],
        affine=np.diag([1, 2, 2, 1]),
        units=("s", "mm", "mm"),
        axis_labels=("time", "y", "x"),
    )
    labels = new_outline(image)
    assert labels.name == "IMD002 outline"
    assert labels.data.shape == (2, 40, 60)
    assert labels.data.dtype == np.uint8
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(image, name))
    np.testing.assert_array_equal(labels.affine.affine_matrix, image.affine.affine_matrix)
    assert labels.units == image.units
    assert labels.axis_labels == image.axis_labels
    corner = (1, 39, 59)
    np.testing.assert_allclose(labels.data_to_world(corner), image.data_to_world(corner))


def test_an_outline_follows_its_image(spot: ByteImage) -> None:
    image = Image(spot, rgb=True)
    labels = new_outline(image)
    image.scale, image.translate, image.affine = (3, 3), (5, 6), np.diag([2, 2, 1])
    place_like(labels, image)
    np.testing.assert_allclose(labels.data_to_world((7, 9)), image.data_to_world((7, 9)))


def test_only_an_outline_of_the_same_size_fits(spot: ByteImage) -> None:
    image = Image(spot, rgb=True)
    labels = new_outline(image)
    assert fits(labels, image)
    labels.data = np.zeros((41, 60), dtype=np.uint8)
    assert not fits(labels, image)
    labels.data = da.zeros((40, 60), dtype=np.uint8)
    assert not fits(labels, image)


def test_protected_layers_stay_when_the_selected_ones_are_deleted(spot: ByteImage) -> None:
    viewer, refused = ViewerModel(), []
    image, other = viewer.add_image(spot, rgb=True), viewer.add_points([[1, 2]])
    end = protect(viewer, lambda: [image], lambda: refused.append(True))
    viewer.layers.selection = {image, other}
    viewer.layers.remove_selected()
    assert list(viewer.layers) == [image]
    assert refused == [True]
    end()
    viewer.layers.selection = {image}
    viewer.layers.remove_selected()
    assert not viewer.layers
    assert refused == [True]


def test_an_outline_is_shown_as_a_contour_or_filled(spot: ByteImage) -> None:
    labels = new_outline(Image(spot, rgb=True))
    show_as(labels, filled=False)
    assert (labels.contour, labels.opacity) == (3, 1)
    show_as(labels, filled=True)
    assert (labels.contour, labels.opacity) == (0, layers.FILLED_OPACITY)


def test_every_class_has_a_color_of_its_own() -> None:
    colors = layers.outline_colors()
    drawn = {tuple(colors.map(index).round(3)) for index in range(1, len(layers.CLASS_COLORS) + 1)}
    assert len(drawn) == len(layers.CLASS_COLORS)
    assert colors.map(0)[3] == 0
    np.testing.assert_array_equal(colors.map(99), [1, 1, 1, 1])


@pytest.mark.parametrize(("step", "frame"), [(0, 0), (2, 2)])
def test_the_shown_frame_follows_the_slider(spot: ByteImage, step: Any, frame: Any) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.stack([spot] * 3), rgb=True, scale=(5, 1, 1), translate=(10, 0, 0))
    viewer.dims.set_current_step(0, step)
    assert shown_frame(image, viewer) == (frame,)


def test_a_single_image_shows_its_only_frame(spot: ByteImage) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(spot, rgb=True)
    viewer.add_image(np.stack([spot] * 3), rgb=True)
    assert shown_frame(image, viewer) == ()
