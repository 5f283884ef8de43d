from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from skimage.draw import ellipse

from napari_lesionseg.io.images import read_mask
from napari_lesionseg.masks.plausibility import INVERTED, UNFILLED, find_doubt


def filled(shape: tuple[int, int] = (560, 768)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[ellipse(shape[0] // 2, shape[1] // 2, shape[0] // 5, shape[1] // 5)] = 1
    return mask


def line(mask: np.ndarray, width: int) -> np.ndarray:
    """Leave only a line along the border."""
    return mask & ~binary_erosion(mask, iterations=width)


@pytest.mark.parametrize("width", [1, 2, 5, 12])
@pytest.mark.parametrize("size", [(64, 80), (560, 768), (3000, 4000)])
def test_a_line_around_a_lesion_is_named(width: int, size: tuple[int, int]) -> None:
    mask = filled(size)
    assert find_doubt(mask) == ""
    if width <= min(size) / 40:
        assert find_doubt(line(mask, width)) == UNFILLED


def test_a_line_with_gaps_is_named() -> None:
    mask = line(filled((900, 1200)), 1)
    rows, _ = np.nonzero(mask)
    mask[rows[len(rows) // 3] + np.arange(3), : mask.shape[1] // 2] = 0
    assert find_doubt(mask) == UNFILLED


def test_lines_around_several_lesions_are_named() -> None:
    mask = np.zeros((400, 400), np.uint8)
    for row, col in ((80, 80), (300, 120), (200, 320)):
        mask[ellipse(row, col, 50, 40)] = 1
    assert find_doubt(mask) == ""
    assert find_doubt(line(mask, 3)) == UNFILLED


def test_a_lesion_all_around_the_border_is_named() -> None:
    assert find_doubt(1 - filled()) == INVERTED


def test_usual_masks_raise_no_doubt() -> None:
    whole, empty = np.ones((60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    hole = filled()
    hole[ellipse(280, 384, 60, 80)] = 0  # as somebody leaves out hair or an ulcer
    other = np.where(filled() > 0, 2, 1).astype(np.uint8)
    crescent = filled() & ~np.roll(filled(), 20, axis=1)
    framed = filled()
    framed[:20] = framed[-20:] = framed[:, :20] = framed[:, -20:] = 255  # as a dark corner that is ignored
    scene = np.ones((60, 80), np.uint8)
    scene[:, 40:] = 2  # several classes around something unknown
    scene[20:40, 20:60] = 0
    masks = (whole, empty, hole, other, crescent, framed, scene)
    assert [find_doubt(mask) for mask in masks] == [""] * len(masks)


def test_no_real_mask_is_doubtful(real_data) -> None:
    masks = sorted((real_data / "isic-crop512-val").rglob("*_segmentation.png"))
    masks += sorted((real_data / "ph2-sample").rglob("*_lesion.bmp"))
    assert len(masks) > 100
    assert [path.name for path in masks if find_doubt(read_mask(path))] == []
