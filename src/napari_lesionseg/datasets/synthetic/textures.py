"""Noise and patterns that skin, lesions and cloth are made of; all float32, all from a seeded generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.datasets.synthetic.artifacts.drawing import enlarge

Field: TypeAlias = NDArray[np.float32]
"""One value for each pixel, shape (H, W)."""


def noise(rng: np.random.Generator, size: tuple[int, int], scale: float, octaves: int = 3) -> Field:
    """Draw smooth noise: random grids added up, each twice as fine and half as strong as the last."""
    height, width = size
    total: Field = np.zeros(size, dtype=np.float32)
    power = 0.0
    for octave in range(octaves):
        step, weight = max(1.0, scale / 2**octave), 0.5**octave
        rows, cols = int(height / step) + 2, int(width / step) + 2
        grid = rng.standard_normal((rows, cols), dtype=np.float32)
        total += np.float32(weight) * enlarge(grid, width, height)
        power += weight**2
    return total / np.float32(0.72 * power**0.5)


def smoothstep(value: Field, low: float, high: float) -> Field:
    """Ramp smoothly from 0 at `low` to 1 at `high`."""
    ramp = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), dtype=np.float32)


def ridges(value: Field, width: float) -> Field:
    """Turn noise into thin winding lines along its zero crossings: 1 on the line, 0 away from it."""
    return np.asarray(np.exp(-((value / np.float32(width)) ** 2)), dtype=np.float32)


@dataclass(frozen=True)
class Cells:
    """A plane tiled by irregular cells around scattered seeds (Worley's cellular texture, SIGGRAPH 1996)."""

    nearest: Field
    edge: Field
    value: Field


def cells(
    rng: np.random.Generator,
    size: tuple[int, int],
    spacing: float,
    *,
    stretch: float = 1.0,
    angle: float = 0.0,
    warp: float = 0.25,
    jitter: float = 0.8,
) -> Cells:
    """Tile the plane."""
    v, u = _tilted(size, spacing, stretch, angle)
    u += np.float32(warp) * noise(rng, size, 2.5 * spacing, 1)
    v += np.float32(warp) * noise(rng, size, 2.5 * spacing, 1)
    row, col = np.floor(v), np.floor(u)
    v, u = v - row, u - col  # within the square of the grid, 0 to 1
    shape = (int(np.ptp(row)) + 3, int(np.ptp(col)) + 3)
    seat = ((row - row.min() + 1) * shape[1] + (col - col.min() + 1)).astype(np.int32)
    seeds = rng.uniform(0.5 - jitter / 2, 0.5 + jitter / 2, (2, *shape)).astype(np.float32)
    seeds[1] += np.float32(0.5) * (np.arange(shape[0])[:, None] % 2) - np.float32(0.25)  # rows stand in gaps
    first, second, owner = _two_nearest(v, u, seat, seeds)
    names = rng.random(shape[0] * shape[1], dtype=np.float32)
    return Cells(nearest=first, edge=second - first, value=names[owner])


def _tilted(size: tuple[int, int], spacing: float, stretch: float, angle: float) -> tuple[Field, Field]:
    """Coordinates across and along `angle`, in units of the spacing."""
    rows, cols = np.ogrid[: size[0], : size[1]]
    across = (rows * np.cos(angle) - cols * np.sin(angle)) / spacing
    along = (cols * np.cos(angle) + rows * np.sin(angle)) / (spacing * stretch)
    return across.astype(np.float32), along.astype(np.float32)


def _two_nearest(
    v: Field, u: Field, seat: NDArray[np.int32], seeds: NDArray[np.float32]
) -> tuple[Field, Field, NDArray[np.int32]]:
    """Distances to the nearest two seeds among the 3 x 3 squares around each pixel, and which is nearest."""
    first = np.full(v.shape, np.inf, dtype=np.float32)
    second, owner = first.copy(), seat.copy()
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            other = seat + np.int32(down * seeds.shape[2] + right)
            dv = seeds[0].ravel()[other] + np.float32(down) - v
            du = seeds[1].ravel()[other] + np.float32(right) - u
            squared = dv * dv + du * du
            np.minimum(second, np.maximum(first, squared), out=second)
            np.copyto(owner, other, where=squared < first)
            np.minimum(first, squared, out=first)
    return np.sqrt(first), np.sqrt(second), owner
