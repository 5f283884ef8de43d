from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from napari_lesionseg.errors import MaskError
from napari_lesionseg.plugin.napari_layers.labels_writing import (
    same_pixels,
    show_mask,
    write_masks,
)


def square(size: int, shape: tuple[int, int] = (50, 70), value: int = 1) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[5 : 5 + size, 8 : 8 + size] = value
    return mask


@pytest.fixture
def labels() -> Labels:
    return Labels(np.zeros((50, 70), dtype=np.uint8))


def test_a_mask_is_one_step_of_undo(labels: Labels) -> None:
    write_masks(labels, {(): square(10)})
    write_masks(labels, {(): square(20)})
    np.testing.assert_array_equal(labels.data, square(20))
    labels.undo()
    np.testing.assert_array_equal(labels.data, square(10))
    labels.undo()
    assert not labels.data.any()
    labels.redo()
    np.testing.assert_array_equal(labels.data, square(10))


def test_several_classes_are_one_step(labels: Labels) -> None:
    mask = square(20)
    mask[30:40, 40:60] = 2
    write_masks(labels, {(): mask})
    np.testing.assert_array_equal(labels.data, mask)
    labels.undo()
    assert not labels.data.any()


def test_the_data_stay_the_same_array(labels: Labels) -> None:
    data = labels.data
    write_masks(labels, {(): square(10)})
    assert labels.data is data


def test_an_equal_mask_leaves_nothing_to_undo(labels: Labels) -> None:
    write_masks(labels, {(): square(10)})
    assert not write_masks(labels, {(): square(10)})
    labels.undo()
    assert not labels.data.any()


@pytest.mark.parametrize("contour", [0, 2])
def test_hidden_layers_are_written(contour: Any) -> None:
    viewer = ViewerModel()
    hidden = viewer.add_labels(np.zeros((50, 70), dtype=np.uint8), visible=False)
    hidden.contour = contour
    write_masks(hidden, {(): square(20)})
    write_masks(hidden, {(): square(10)})
    np.testing.assert_array_equal(hidden.data, square(10))


def test_a_layer_that_became_a_contour_while_hidden_is_written() -> None:
    labels = ViewerModel().add_labels(square(30))
    labels.visible = False
    labels.contour = 2
    write_masks(labels, {(): square(20)})
    np.testing.assert_array_equal(labels.data, square(20))


def test_it_tells_others_that_it_painted(labels: Labels) -> None:
    painted = []
    labels.events.paint.connect(painted.append)
    write_masks(labels, {(): square(10)})
    assert len(painted) == 1


def test_frames_of_a_stack_are_one_step() -> None:
    labels = Labels(np.zeros((3, 50, 70), dtype=np.uint8))
    write_masks(labels, {(0,): square(10), (2,): square(20)})
    np.testing.assert_array_equal(labels.data, [square(10), square(0), square(20)])
    labels.undo()
    assert not labels.data.any()


@pytest.mark.parametrize(("frame", "shape"), [((), (50, 71)), ((0,), (50, 70))])
def test_a_mask_that_does_not_fit_is_refused(labels: Labels, frame: Any, shape: Any) -> None:
    with pytest.raises(MaskError, match="size of its image"):
        write_masks(labels, {frame: np.ones(shape, dtype=np.uint8)})
    assert not labels.data.any()


def test_the_history_takes_six_bytes_a_pixel(labels: Labels) -> None:
    write_masks(labels, {(): square(30)})
    ((indices, old, new),) = labels._undo_history[-1]
    record = sum(axis.nbytes for axis in indices) + old.nbytes + np.asarray(new).nbytes
    assert record <= 6 * 30 * 30


@pytest.mark.parametrize("contour", [0, 2])
def test_a_mask_is_shown_without_a_history(contour: Any) -> None:
    layer = Labels(np.zeros((40, 60), np.uint8))
    layer.contour = contour
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:45] = 1
    mask[12:20, 25:30] = 3
    painted, updated = [], []
    layer.events.paint.connect(painted.append)
    layer.events.labels_update.connect(updated.append)
    assert show_mask(layer, mask)
    assert not show_mask(layer, mask)
    assert np.array_equal(layer.data, mask)
    assert not layer._undo_history
    assert len(painted) == len(updated) == 1
    shown = layer._slice.image.view.copy()
    layer.refresh()
    assert np.array_equal(shown, layer._slice.image.view)


def test_a_shown_mask_has_to_fit() -> None:
    with pytest.raises(MaskError):
        show_mask(Labels(np.zeros((4, 5), np.uint8)), np.zeros((5, 4), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("place", [(0, 0), (129, 0), (64, 62), (63, 3)])
def test_a_single_pixel_makes_the_difference(dtype: Any, place: Any) -> None:
    one, other = np.zeros((130, 63), dtype), np.zeros((130, 63), np.uint8)
    assert same_pixels(one, other)
    one[place] = 1
    assert not same_pixels(one, other)
    assert not same_pixels(one, other[:, 1:])
