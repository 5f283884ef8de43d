"""Training batches: small images in memory, in a reproducible order, prefetched by a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.config import AugmentConfig
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.resize import resize_image, resize_labels
from napari_lesionseg.training.augmentation import TrainingSample, augment
from napari_lesionseg.types import ByteImage, LabelImage, Pair

PREFETCHED = 3
Made = TypeVar("Made")
Augmentation: TypeAlias = Callable[
    [ByteImage, NDArray[Any], AugmentConfig, int, np.random.Generator], TrainingSample
]


class CachedPair(NamedTuple):
    """An image and its labels, shrunk to what training needs."""

    stem: str
    image: ByteImage
    labels: NDArray[Any]
    """Class indices, uint8 (H, W); or landmarks, float32 (P, K, 3): row, column and visibility of each."""


class Batch(NamedTuple):
    """Images and labels of one step."""

    images: Tensor
    """uint8, shape (B, 3, S, S)."""
    labels: Tensor
    """uint8, shape (B, S, S); or landmarks, float32 (B, P, K, 3), NaN where there is none."""


def shrink_pair(stem: str, image: ByteImage, labels: LabelImage, side: int) -> CachedPair:
    """Shrink an image and its labels so that the longer side is at most ``side`` pixels; never enlarge."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    shape = (max(1, round(height * factor)), max(1, round(width * factor)))
    return CachedPair(stem, resize_image(image, shape), resize_labels(labels, shape))


def read_pair(pair: Pair, side: int) -> CachedPair:
    """Read an image and its mask from disk, shrunk to at most ``side`` pixels."""
    image = read_image(pair.image)
    height, width = image.shape[:2]
    return shrink_pair(pair.stem, image, read_mask(pair.mask, (height, width)), side)


class BatchSource:
    """Batches of a run; the batch of a step depends only on the seed and the step, so runs can be resumed.

    Of several processes, each makes every ``parts``-th image of a batch, from the ``part``-th on.
    """

    def __init__(
        self,
        pairs: Sequence[CachedPair],
        config: AugmentConfig,
        batch_size: int,
        seed: int,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        self._pairs, self._config, self._batch_size, self._seed = pairs, config, batch_size, seed
        self._part, self._parts = part, parts
        self.augment: Augmentation = augment

    @property
    def steps_per_pass(self) -> int:
        """Steps in which every image is used once."""
        return max(1, -(-len(self._pairs) // self._batch_size))

    def batch(self, step: int, size: int) -> Batch:
        """Make the batch of ``step`` at ``size`` pixels a side."""
        first = step * self._batch_size
        mine = range(first + self._part, first + self._batch_size, self._parts)
        samples = [self._sample(position, size) for position in mine]
        return Batch(torch.stack([s.image for s in samples]), torch.stack([s.labels for s in samples]))

    def _sample(self, position: int, size: int) -> TrainingSample:
        pair, rng = self._pair_at(position)
        return self.augment(pair.image, pair.labels, self._config, size, rng)

    def _pair_at(self, position: int) -> tuple[CachedPair, np.random.Generator]:
        """Return a pair, and the random generator of its sample."""
        turn, place = divmod(position, len(self._pairs))
        order = np.random.default_rng((self._seed, turn)).permutation(len(self._pairs))
        return self._pairs[order[place]], np.random.default_rng((self._seed, 1, position))

    def prefetch(
        self, first: int, last: int, size_of: Callable[[int], int], depth: int = PREFETCHED
    ) -> Iterator[Batch]:
        """Yield the batches of steps ``first`` to ``last`` - 1, prefetched by one thread."""
        return prefetch(self.batch, first, last, size_of, depth)


def prefetch(
    make: Callable[[int, int], Made],
    first: int,
    last: int,
    size_of: Callable[[int], int],
    depth: int = PREFETCHED,
) -> Iterator[Made]:
    """Yield ``make(step, size)`` of steps ``first`` to ``last`` - 1, prefetched by one thread."""
    with ThreadPoolExecutor(1, "batches", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            ahead = [pool.submit(make, n, size_of(n)) for n in range(first, min(last, first + depth))]
            for step in range(first, last):
                if step + depth < last:
                    ahead.append(pool.submit(make, step + depth, size_of(step + depth)))
                yield ahead.pop(0).result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
