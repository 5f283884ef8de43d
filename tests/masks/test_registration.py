"""Finding how the camera moved between two images of a lesion, and moving an outline along."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.transform import SimilarityTransform, warp

from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks.registration import move_mask, register
from napari_lesionseg.study.agreement import dice


def photograph_again(
    image: np.ndarray, mask: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn, zoom and shift an image about its center, in other light; return its true matrix too."""
    center = np.array(image.shape[1::-1]) / 2
    motion = (
        SimilarityTransform(translation=-center)
        + SimilarityTransform(rotation=np.deg2rad(degrees), scale=scale)
        + SimilarityTransform(translation=center + shift)
    )
    moved = warp(image, motion.inverse, mode="reflect") ** 1.3 * (0.9, 0.8, 0.85)
    labels = warp(mask, motion.inverse, order=0, preserve_range=True)
    return (255 * moved).astype(np.uint8), labels.astype(np.uint8), motion.params


@pytest.mark.parametrize(
    ("degrees", "scale", "shift"),
    [(0, 1, (12, -7)), (35, 1, (0, 0)), (-90, 0.8, (10, 5)), (10, 1.3, (-9, 4))],
)
def test_an_outline_follows_the_lesion(degrees: float, scale: float, shift: tuple[float, float]) -> None:
    sample = synthetic_sample(3, (240, 320))
    later, truth, motion = photograph_again(sample.image, sample.mask, degrees, scale, shift)
    matrix = register(sample.image, later)
    assert np.allclose(matrix[:2, :2], motion[:2, :2], atol=0.03)
    moved = move_mask(sample.mask, matrix, later.shape[:2])
    assert moved.dtype == np.uint8
    assert dice(moved > 0, truth > 0) > 0.95


def test_images_of_other_sizes_are_registered() -> None:
    sample = synthetic_sample(3, (240, 320))
    large = np.kron(sample.image, np.ones((2, 2, 1), np.uint8))
    moved = move_mask(sample.mask, register(sample.image, large), large.shape[:2])
    assert dice(moved > 0, np.kron(sample.mask, np.ones((2, 2), np.uint8)) > 0) > 0.95


def test_classes_stay_apart() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[10:20, 10:30], labels[12:16, 12:20] = 1, 2
    moved = move_mask(labels, np.array([[1, 0, 5], [0, 1, 3], [0, 0, 1.0]]), (40, 60))
    assert np.array_equal(moved[3:, 5:], labels[:-3, :-5])
    assert set(np.unique(moved)) == {0, 1, 2}


@pytest.mark.parametrize(
    "other",
    [
        synthetic_sample(8, (240, 320)).image,
        np.full((240, 320, 3), 128, np.uint8),
        np.zeros((3, 4, 3), np.uint8),
        np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8),
    ],
    ids=["another lesion", "gray", "tiny", "noise"],
)
def test_images_that_have_nothing_in_common_are_refused(other: np.ndarray) -> None:
    with pytest.raises(MaskError, match="too little in common"):
        register(synthetic_sample(3, (240, 320)).image, other)
