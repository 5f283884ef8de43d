"""What a model's training images look like, and how images of another kind are told from them.

An image is described by a few numbers (`SegmentationNetwork.describe`): how strongly the network's finest
filters answer, and how much that varies over the image. Cameras, lighting and distance change them; what is
outlined hardly does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from napari_lesionseg.config import Settings

SHRINKAGE = 0.1
"""Share of the unit matrix in the correlation, which is estimated from finitely many images: regularized
discriminant analysis (Friedman 1989, doi:10.1080/01621459.1989.10478752)."""
DIGITS = 6
RESOLUTION = 1e-4
"""Variances below this share of a number's own are lost to `DIGITS`, or come of too few images."""


class DomainStatistics(Settings):
    """Mean and covariance of the descriptions of a model's training images."""

    model_config = ConfigDict(allow_inf_nan=False)

    images: int = Field(ge=2, description="Images that were described.")
    mean: tuple[float, ...] = Field(min_length=1, max_length=1000)
    covariance: tuple[float, ...] = Field(description="The lower triangle, row by row, diagonal included.")

    @model_validator(mode="after")
    def _fits(self) -> DomainStatistics:
        size = len(self.mean)
        if len(self.covariance) != size * (size + 1) // 2:
            raise ValueError("the covariance must be the lower triangle of a matrix of the mean's size")
        if min(self._matrix().diagonal()) <= 0:
            raise ValueError("variances must be positive")
        if np.linalg.eigvalsh(self._correlation()[0])[0] < -RESOLUTION * size:
            raise ValueError("no images can have this covariance")
        return self

    @classmethod
    def of(cls, descriptions: NDArray[np.float32]) -> DomainStatistics | None:
        """Sum up descriptions of shape (images, numbers).

        Returns
        -------
        DomainStatistics or None
            None if there are fewer than two images, or a number is the same for all of them.
        """
        exact = descriptions.astype(np.float64)
        if len(exact) < 2 or not exact.std(axis=0).all():
            return None
        lower = np.tril_indices(exact.shape[1])
        covariance = np.atleast_2d(np.cov(exact.T))[lower]
        return cls(images=len(exact), mean=_rounded(exact.mean(axis=0)), covariance=_rounded(covariance))

    def direction_to(self, descriptions: NDArray[np.float32]) -> Direction:
        """Find the direction in which images differ most clearly from those that were trained on.

        Parameters
        ----------
        descriptions : ndarray, shape (images, numbers)
            Of images of another kind, one or more.

        Notes
        -----
        Fisher's linear discriminant with the covariance of the training images, which are many, for both
        kinds: five images are enough for a mean, not for a covariance.
        """
        (correlation, spread), center = self._correlation(), descriptions.mean(axis=0, dtype=np.float64)
        regular = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(center))
        discriminant = np.linalg.solve(regular, (center - self.mean) / spread)
        variance = discriminant @ correlation @ discriminant
        deviation = np.sqrt(np.maximum(variance, RESOLUTION * discriminant @ discriminant))
        weight = discriminant / np.maximum(deviation, np.finfo(np.float64).tiny) / spread
        whitening = np.linalg.inv(np.linalg.cholesky(regular)).T / spread[:, None]
        single = np.float32
        return Direction(
            weight.astype(single), float(-weight @ self.mean), center.astype(single), whitening.astype(single)
        )

    def _correlation(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the correlations, and the standard deviation of every number."""
        covariance = self._matrix()
        spread = np.sqrt(covariance.diagonal())
        return covariance / np.outer(spread, spread), spread

    def _matrix(self) -> NDArray[np.float64]:
        size = len(self.mean)
        matrix = np.zeros((size, size))
        matrix[np.tril_indices(size)] = self.covariance
        return matrix + np.tril(matrix, -1).T


class Direction(NamedTuple):
    """Where the images of another kind lie, seen from those of training.

    ``weight @ description + bias`` is how far an image is from those, in standard deviations.
    """

    weight: NDArray[np.float32]
    bias: float
    center: NDArray[np.float32]
    """Mean description of the other kind."""
    whitening: NDArray[np.float32]
    """``(description - center) @ whitening`` has about the unit matrix as its covariance."""

    def distances(self, descriptions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distance of each image, shape (images,)."""
        return np.asarray(descriptions @ self.weight + self.bias, np.float32)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Keep enough digits for every use, and cards short."""
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)
