from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from napari.layers import Labels
from napari.layers.labels._labels_utils import get_contours

from napari_lesionseg.plugin.napari_layers import contours
from napari_lesionseg.plugin.napari_layers.contours import contour_of, draw_quickly


@pytest.fixture
def lesion() -> np.ndarray:
    rows, cols = np.mgrid[:90, :70]
    wavy = 25 + 6 * np.sin(np.arctan2(rows - 44, cols - 30) * 5)
    mask = (np.hypot(rows - 44, cols - 30) < wavy).astype(np.uint8)
    mask[40:44, 20:24] = 0
    mask[2, 60] = 1
    return mask


@pytest.mark.parametrize("thickness", [1, 2, 4])
@pytest.mark.parametrize("tile", [1, 16, 256])
def test_it_looks_as_napari_draws_it(lesion, thickness, tile, monkeypatch):
    monkeypatch.setattr(contours, "_TILE", tile)
    expected = get_contours(lesion, thickness, 0)
    assert np.array_equal(contour_of(lesion, thickness), expected)
    assert expected.any()


def test_nothing_has_no_contour():
    assert not contour_of(np.zeros((5, 7), np.uint8), 3).any()


def test_the_border_of_the_image_is_no_contour():
    assert not contour_of(np.ones((9, 9), np.uint8), 2).any()


def test_touching_classes_are_told_apart():
    labels = np.ones((6, 8), np.uint8)
    labels[:, 4:] = 2
    assert np.array_equal(np.unique(contour_of(labels, 1)[:, 4]), [2])


def displayed(layer: Labels) -> np.ndarray:
    return layer._slice.image.view


@pytest.mark.parametrize("contour", [0, 1, 3])
def test_a_layer_shows_the_same_after_any_edit(lesion, contour):
    ours, naparis = Labels(lesion.copy()), Labels(lesion.copy())
    draw_quickly(ours)
    for layer in (ours, naparis):
        layer.contour = contour
        layer.paint((60, 30), 1)
        layer.fill((0, 0), 1)
        layer.undo()
        layer.data_setitem((np.array([44, 45]), np.array([30, 30])), 0)
    assert np.array_equal(displayed(ours), displayed(naparis))


@pytest.mark.parametrize("dtype", [np.int32, np.uint16])
def test_other_types_are_drawn_by_napari(lesion, dtype):
    ours, naparis = Labels(lesion.astype(dtype)), Labels(lesion.astype(dtype))
    draw_quickly(ours)
    ours.contour = naparis.contour = 2
    assert np.array_equal(displayed(ours), displayed(naparis))


def test_a_layer_is_not_kept_alive(lesion):
    layer = Labels(lesion)
    draw_quickly(layer)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None
