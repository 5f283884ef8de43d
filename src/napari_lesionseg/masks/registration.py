"""Moves a mask from an earlier image of a lesion to a later one, after finding how the camera moved.

Key points of both images (SIFT) are matched, and the similarity (shift, turn, zoom) that most matches agree
on is found with RANSAC, as scikit-image has them. Of the methods that were compared on changed copies of real
images, this was the most exact, and the only one that always found an answer: see
``benchmarks/registration.py`` and the table in ``docs/development/benchmarks.md``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2gray
from skimage.exposure import equalize_adapthist
from skimage.feature import SIFT, match_descriptors
from skimage.measure import ransac
from skimage.transform import SimilarityTransform, warp

from napari_lesionseg.errors import MaskError
from napari_lesionseg.io.resize import resize_image
from napari_lesionseg.types import ByteImage, LabelImage

SIDE = 320
"""Pixels of the longer side at which images are compared."""

MIN_MATCHES = 8
"""Matches that must agree; with fewer, chance may have put them together."""

MAX_ZOOM = 3.0
_RATIO = 0.8  # of the distances of the best and the second-best match (Lowe 2004)
_SMALLEST = 32  # pixels; below, SIFT has nothing to look at
_CLOSE = 4.0  # pixels at `SIDE` by which matches that agree may differ


def register(earlier: ByteImage, later: ByteImage) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that takes (x, y, 1) in the earlier image to the later one.

    Raises `MaskError` when the images have too little in common.
    """
    (first, scale), (second, other) = _key_points(earlier), _key_points(later)
    unlike = MaskError("The images have too little in common to carry the outline over.")
    if min(len(first[0]), len(second[0])) < MIN_MATCHES:
        raise unlike
    matches = match_descriptors(first[1], second[1], cross_check=True, max_ratio=_RATIO)
    if len(matches) < MIN_MATCHES:
        raise unlike
    pairs = first[0][matches[:, 0]], second[0][matches[:, 1]]
    model, agreeing = ransac(
        pairs, SimilarityTransform, min_samples=3, residual_threshold=_CLOSE, max_trials=1000, rng=0
    )
    if agreeing is None or agreeing.sum() < MIN_MATCHES or not 1 / MAX_ZOOM < model.scale < MAX_ZOOM:
        raise unlike
    shrink, enlarge = np.diag([scale, scale, 1]), np.diag([1 / other, 1 / other, 1])
    full: NDArray[np.float64] = enlarge @ model.params @ shrink
    return full


def move_mask(labels: LabelImage, matrix: NDArray[np.float64], shape: tuple[int, int]) -> LabelImage:
    """Return a mask (H, W) as it is seen in the later image, of the given shape."""
    back = np.linalg.inv(matrix)
    moved = np.zeros(shape, np.uint8)
    for value in np.unique(labels[labels > 0]):  # one by one: between classes 1 and 3 there is no class 2
        plane = warp((labels == value).astype(np.float32), back, output_shape=shape, order=1)
        moved[plane > 0.5] = value
    return moved


def _key_points(image: ByteImage) -> tuple[tuple[NDArray[np.float64], NDArray[np.uint8]], float]:
    """Return key points (N, 2) as x and y, their descriptors (N, 128), and how much the image was shrunk."""
    scale: float = min(1.0, SIDE / max(image.shape[:2]))
    shape = (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    if min(shape) < _SMALLEST:
        return (np.zeros((0, 2)), np.zeros((0, 128), np.uint8)), scale
    # Without equalized contrast, every second dermoscopic image had too few key points.
    gray = equalize_adapthist(rgb2gray(resize_image(image, shape)))
    detector: Any = SIFT()
    try:
        detector.detect_and_extract(gray)
    except RuntimeError:  # none was found
        return (np.zeros((0, 2)), np.zeros((0, 128), np.uint8)), scale
    return (detector.keypoints[:, ::-1].astype(np.float64), detector.descriptors), scale
