"""Connected components of masks, and the boxes around them.

Parts are 8-connected and holes 4-connected, the pair under which an outline separates inside from outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from napari_lesionseg.types import IGNORED, LabelImage

Region = NDArray[np.bool_]

LARGE_PART = 0.1  # of the largest part of its class
SEVERAL = 0.1  # share of masks

_MARGIN = 2  # columns between one row and the next, so that no run touches one of a row it is not next to
_STRIP = 64  # rows processed at once, so that they stay in the processor's cache


def bounding_box(mask: NDArray[np.generic], margin: int = 0) -> tuple[slice, slice] | None:
    """Return the rows and columns of all that is not 0, with a margin within the image; None for nothing."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    cols = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return (
        slice(max(int(rows[0]) - margin, 0), min(int(rows[-1]) + 1 + margin, mask.shape[0])),
        slice(max(int(cols[0]) - margin, 0), min(int(cols[-1]) + 1 + margin, mask.shape[1])),
    )


def connected_components(mask: NDArray[Any], *, diagonal: bool = True) -> NDArray[np.int32]:
    """Return the parts of a mask, numbered from 1 in the order of their first pixel; classes stay apart.

    With ``diagonal``, pixels that share no more than a corner belong together.
    """
    values = mask.view(np.uint8) if mask.dtype == bool else mask
    parts = measure.label(values, background=0, connectivity=1 + diagonal)
    return np.asarray(parts, dtype=np.int32)


def largest_component(region: Region, *, diagonal: bool = True) -> Region:
    """Keep the largest part, the first of several; nothing stays nothing."""
    parts = connected_components(region, diagonal=diagonal)
    return np.asarray(parts == np.bincount(parts.ravel())[1:].argmax() + 1) if parts.any() else region


def have_several_parts(masks: Iterable[LabelImage]) -> bool:
    """Whether more than a few masks have several large parts of a class, so that the largest is not all."""
    counts = [_count_large_parts(labels) for labels in masks if labels.any()]
    return sum(count > 1 for count in counts) > SEVERAL * len(counts)


def _count_large_parts(labels: LabelImage) -> int:
    """Count the large parts of the class that has most of them."""
    most = 0
    for value in np.unique(labels[(labels > 0) & (labels != IGNORED)]):
        sizes = np.bincount(connected_components(labels == value).ravel())[1:]
        most = max(most, int(np.count_nonzero(sizes >= LARGE_PART * sizes.max())))
    return most


def component_at(region: Region, pixel: tuple[int, int]) -> Region:
    """Keep the part that a pixel inside the image lies on; nothing where it lies on none."""
    part = np.zeros_like(region)
    box = bounding_box(region)
    if box is None or not region[pixel]:
        return part
    parts = connected_components(region[box])
    part[box] = parts == parts[pixel[0] - box[0].start, pixel[1] - box[1].start]
    return part


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a mask, the stretches of set pixels in each row, in the order of reading.

    A smooth mask of millions of pixels has a few thousand runs. Joining them takes a tenth of the time of
    `connected_components`, and only the pixels of parts that are removed or filled are ever looked up.
    """

    starts: NDArray[np.intp]
    """First pixel of each run (N,), counted through rows of ``width`` pixels."""
    stops: NDArray[np.intp]
    """The pixel after its last."""
    width: int
    """Pixels of a row with its margin."""

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Runs:
        """Find the runs of a mask, (H, W)."""
        height, width = mask.shape
        wide: LabelImage = np.zeros((_STRIP, width + _MARGIN), np.uint8)
        found = [np.zeros(0, np.intp)]
        for top in range(0, height, _STRIP):
            strip = mask[top : top + _STRIP]
            wide[: len(strip), 1:-1] = strip
            flat = wide[: len(strip)].reshape(-1)
            found.append(np.flatnonzero(flat[1:] != flat[:-1]) + (1 + top * (width + _MARGIN)))
        edges = np.concatenate(found)
        return cls(edges[0::2], edges[1::2], width + _MARGIN)

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Pixels of each run."""
        return self.stops - self.starts

    def parts(self, *, diagonal: bool) -> NDArray[np.intp]:
        """Return the number of each run's part, from 0 in the order of the parts' first pixels."""
        from scipy import sparse  # slow to import, and datasets are read without it
        from scipy.sparse import csgraph

        reach = int(diagonal)
        first = np.searchsorted(self.stops, self.starts + self.width - reach, "right")
        last = np.searchsorted(self.starts, self.stops + self.width + reach, "left")
        counts = last - first
        above = np.repeat(np.arange(len(counts)), counts)
        below = np.arange(len(above)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        joined = sparse.coo_matrix(
            (np.ones(len(above), np.uint8), (above, below)), shape=(len(counts), len(counts))
        )
        _, numbers = csgraph.connected_components(joined, directed=False)
        return np.asarray(numbers, np.intp)

    def at(self, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the indices of the runs that hold pixels of the mask."""
        return np.searchsorted(self.starts, rows * self.width + cols + 1, "right") - 1

    def chosen(self, which: NDArray[np.bool_]) -> Runs:
        """Keep some of the runs, (N,) bool."""
        return Runs(self.starts[which], self.stops[which], self.width)

    def gaps(self, height: int) -> Runs:
        """Return the runs of what is not set, in a mask with an empty frame of one pixel around it."""
        wider = self.width + 2
        begins = np.arange(height + 2) * wider + 1
        starts = np.concatenate([begins, self.stops + 2 * (self.stops // self.width) + wider + 1])
        stops = np.concatenate(
            [begins + self.width, self.starts + 2 * (self.starts // self.width) + wider + 1]
        )
        return Runs(np.sort(starts), np.sort(stops), wider)

    def without_frame(self) -> Runs:
        """Return the runs, none of which touches the frame, as they are in the mask without it."""
        rows = self.starts // self.width
        shift = 2 * rows + self.width - 1
        return Runs(self.starts - shift, self.stops - shift, self.width - 2)

    def write(self, mask: NDArray[np.bool_], chosen: NDArray[np.bool_], value: bool) -> None:
        """Set the pixels of chosen runs (N,) in place, in a C-contiguous mask of the original shape."""
        starts, lengths = self.starts[chosen], self.lengths[chosen]
        own = starts - starts // self.width * _MARGIN - 1  # counted without the margins
        offsets = np.repeat(own - (np.cumsum(lengths) - lengths), lengths)
        mask.reshape(-1)[offsets + np.arange(len(offsets))] = value
