"""Methods without training, for comparison with the model.

Needs OpenCV: ``pip install ".[benchmarks]"``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.filters import gaussian, threshold_otsu

from napari_lesionseg.masks.components import connected_components
from napari_lesionseg.types import ByteImage, Probability


@dataclass(frozen=True, slots=True)
class BaselineCard:
    """What `napari_lesionseg.evaluation.evaluate.evaluate` needs to know about a method."""

    name: str
    threshold: float = 0.5
    classes: tuple[str, ...] = ("background", "lesion")


@dataclass(frozen=True, slots=True)
class Otsu:
    """Otsu's threshold of the smoothed blue channel; the lesion is what is darker.

    Pigment takes away more blue than red, so lesions stand out most in the blue channel.

    Parameters
    ----------
    sigma : float
        Smoothing in per cent of the diagonal of the image, against hairs.
    softness : float
        Gray levels from the threshold to a probability of 0.73; it moves no outline at a threshold of 0.5.
    central : bool
        Keep the part with most of a Gaussian about the center of the image, so that dark corners, which are
        often the largest part, do not win.
    """

    sigma: float = 0.5
    softness: float = 10.0
    central: bool = False

    @property
    def card(self) -> BaselineCard:
        """What it is."""
        return BaselineCard("Otsu, central part" if self.central else "Otsu")

    @property
    def sha256(self) -> None:
        """It has no file."""
        return None

    def predict(self, image: ByteImage) -> Probability:
        """Return a soft step at Otsu's threshold.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3), uint8

        Returns
        -------
        ndarray, shape (H, W), float32
        """
        sigma = self.sigma / 100 * np.hypot(*image.shape[:2])
        blue = gaussian(image[..., 2].astype(np.float32), sigma=sigma, preserve_range=True)
        darkness = (threshold_otsu(blue) - blue) / self.softness
        if self.central:
            darkness = np.where(central_part(darkness >= 0), darkness, -np.abs(darkness))
        return (1 / (1 + np.exp(-darkness))).astype(np.float32)


def central_part(mask: np.ndarray, spread: float = 0.25) -> np.ndarray:
    """Pick the connected part that weighs most under a Gaussian about the center.

    Parameters
    ----------
    mask : ndarray, shape (H, W), bool
    spread : float
        Standard deviation of the Gaussian, as a share of the height and of the width.
    """
    height, width = mask.shape
    rows, cols = np.ogrid[:height, :width]
    distance = ((rows + 0.5) / height - 0.5) ** 2 + ((cols + 0.5) / width - 0.5) ** 2
    parts = connected_components(mask)
    weights = np.bincount(parts[mask], np.exp(-distance / (2 * spread**2))[mask], minlength=2)
    return parts == weights.argmax()


@dataclass(frozen=True, slots=True)
class GrabCut:
    """GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004) started from a centered rectangle.

    Parameters
    ----------
    margin : float
        Share of the sides that lies outside the rectangle on each side.
    side : int
        The longer side in pixels at which the work is done; the answer is enlarged to the image.
    rounds : int
        Iterations of fitting and cutting.
    """

    margin: float = 0.1
    side: int = 256
    rounds: int = 5

    @property
    def card(self) -> BaselineCard:
        """What it is."""
        return BaselineCard("GrabCut")

    @property
    def sha256(self) -> None:
        """It has no file."""
        return None

    def predict(self, image: ByteImage) -> Probability:
        """Return 1 inside the cut and 0 outside.

        Parameters
        ----------
        image : ndarray, shape (H, W, 3), uint8

        Returns
        -------
        ndarray, shape (H, W), float32
        """
        height, width = image.shape[:2]
        scale = min(1.0, self.side / max(height, width))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        inside = self._cut(np.ascontiguousarray(small[..., ::-1])).astype(np.float32)
        return cv2.resize(inside, (width, height), interpolation=cv2.INTER_LINEAR)

    def _cut(self, image: ByteImage) -> np.ndarray:
        rows, cols = image.shape[:2]
        top, left = round(self.margin * rows), round(self.margin * cols)
        mask = np.zeros((rows, cols), np.uint8)
        models = np.zeros((2, 1, 65), np.float64)
        cv2.setRNGSeed(0)  # the mixture models start from random clusters
        cv2.grabCut(
            image,
            mask,
            (left, top, cols - 2 * left, rows - 2 * top),
            models[0],
            models[1],
            self.rounds,
            cv2.GC_INIT_WITH_RECT,
        )
        return (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
