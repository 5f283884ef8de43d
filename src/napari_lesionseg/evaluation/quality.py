"""Estimate the quality of an outline from the probabilities alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from napari_lesionseg.types import Probability

LEAST_BACKGROUND = 0.01
"""Share of an image. Of the outlines that annotators drew for ISIC, 0.1 % leave twice as much or less."""


def quality_estimate(probability: Probability, threshold: float) -> float:
    """Estimate the Jaccard index of the thresholded outline without knowing the truth.

    Parameters
    ----------
    probability : ndarray, shape (H, W) or (C, H, W)
        Probability of the lesion, or of each class with the background first.
    threshold : float
        In (0, 1).

    Returns
    -------
    float
        In [0, 1]; near 1 where the network is sure of nearly every pixel. 0 if nothing reaches the threshold:
        an annotator should look whether there is no lesion. A lesion that leaves less than 1 % of the image
        is rated lower, down to 0 for the whole image: without skin, there is nothing to compare it with.

    Notes
    -----
    With the probabilities p and their mask m, the sum of m p over that of m + p - m p: the expected overlap
    over the expected union. It is the Jaccard form of the soft Dice confidence of Borges, Pacheco and Silva,
    arXiv:2402.10665, and as good as the probabilities are calibrated.
    """
    lesion = _lesion(probability)
    mask = lesion >= threshold
    area = int(np.count_nonzero(mask))
    if area == 0:
        return 0.0
    total = float(lesion.sum(dtype=np.float64))
    overlap = float(lesion.sum(dtype=np.float64, where=mask))
    expected = overlap / (area + total - overlap)
    return expected if probability.ndim == 3 else expected * min(1, (1 - area / mask.size) / LEAST_BACKGROUND)


def boundary_entropy(probability: Probability, threshold: float, width: int = 5) -> float:
    """Measure how unsure the network is along the outline.

    Parameters
    ----------
    probability : ndarray, shape (H, W) or (C, H, W)
        Probability of the lesion, or of each class with the background first.
    threshold : float
        In (0, 1).
    width : int
        How many pixels on each side of the outline are examined.

    Returns
    -------
    float
        Mean entropy in bits: 0 for a sharp outline, 1 where every pixel could as well be the other. 0 if
        there is no outline.
    """
    lesion = _lesion(probability)
    mask = lesion >= threshold
    band = _dilated(mask, width) & _dilated(~mask, width)
    if not band.any():
        return 0.0
    values = lesion[band].astype(np.float64)
    entropy = special.entr(values) + special.entr(1 - values)
    return float(entropy.mean() / np.log(2))


def _lesion(probability: Probability) -> Probability:
    return 1 - probability[0] if probability.ndim == 3 else probability


def _dilated(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, iterations=width))
