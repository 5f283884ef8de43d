"""Simulated gestures of an annotator during training: imperfect boxes, lassos and strokes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from napari_lesionseg.inference.clicks import draw_disc, next_click
from napari_lesionseg.types import Box

Mask = NDArray[np.bool_]

BOX_ERRORS, BOX_ERROR_SHARES = (0.02, 0.05, 0.08, 0.12), (0.15, 0.4, 0.3, 0.15)
LASSO_WIDER = (0.02, 0.16)  # of the equivalent radius
LASSO_WOBBLE = (0.02, 0.08)  # standard deviation of its distance from the outline, likewise
LASSO_SMOOTHING = 0.25  # people do not draw every notch: largest blur of the outline, likewise
STROKE_SHARE = 0.35  # of the corrections; the others are clicks
JITTER = 0.65
STROKE_STEP = 6.0  # pixels between the points of a stroke


def simulate_box(mask: Mask, rng: np.random.Generator) -> Box:
    """Draw a box around a mask, each side a little off."""
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    sides = np.array([rows[0], cols[0], rows[-1] + 1, cols[-1] + 1], float)
    height, width = sides[2:] - sides[:2]
    error = rng.choice(BOX_ERRORS, p=BOX_ERROR_SHARES)
    sides += rng.normal(0, error, 4) * (height, width, height, width)
    top, left, bottom, right = (round(side) for side in sides.tolist())
    return Box(top, left, max(bottom, top + 4), max(right, left + 4))


def simulate_lasso(mask: Mask, rng: np.random.Generator) -> Mask:
    """Fill a rough stroke around a mask: too wide, not smooth, and without the outline's detail."""
    radius = math.sqrt(np.count_nonzero(mask) / math.pi)
    distance = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
    blurred = ndimage.gaussian_filter(distance, rng.uniform(0, LASSO_SMOOTHING) * radius, truncate=2.5)
    wide = rng.uniform(*LASSO_WIDER) + rng.uniform(*LASSO_WOBBLE) * _smooth_noise(mask.shape, radius, rng)
    parts, count = ndimage.label(ndimage.binary_fill_holes(blurred <= radius * wide))
    if count > 1:
        sizes = np.bincount(parts.ravel())
        return np.asarray(parts == 1 + sizes[1:].argmax())
    return parts > 0 if count else mask


def correct(predicted: Mask, truth: Mask, planes: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Draw a click or a stroke on the largest error into planes (2, h, w) of strokes, in place.

    ``predicted`` and ``truth`` have half the resolution of the planes, which is precise enough.
    """
    click = next_click(predicted, truth, rng, JITTER)
    if click is None:
        return
    points = [(click.row, click.col)]
    if rng.random() < STROKE_SHARE:
        wrong = truth & ~predicted if click.positive else predicted & ~truth
        points = _stroke(wrong, click.pixel, rng)
    shape = (planes.shape[1], planes.shape[2])
    for row, col in points:
        planes[0 if click.positive else 1][draw_disc(shape, 2 * row + 0.5, 2 * col + 0.5)] = 1


def _stroke(wrong: Mask, start: tuple[int, int], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Return points along a straight stroke inside the wrong region around ``start``."""
    parts, _ = ndimage.label(wrong)
    places = np.argwhere(parts == parts[start])
    end = places[rng.integers(len(places))]
    steps = int(np.hypot(*(end - start)) // (STROKE_STEP / 2)) + 1
    line = np.linspace(start, end, steps + 1)
    inside = [bool(wrong[round(row), round(col)]) for row, col in line.tolist()]
    return [(row, col) for (row, col), hit in zip(line.tolist(), inside, strict=True) if hit]


def _smooth_noise(shape: tuple[int, ...], radius: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return noise of unit variance (H, W) that changes over about a third of the radius."""
    cells = [max(3, round(side / max(0.35 * radius, 4.0)) + 1) for side in shape]
    coarse = Image.fromarray(rng.standard_normal(cells).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
