"""What an annotator asks of an outline with one press: smoother, without holes, along the image's edges.

Every function returns a new mask and leaves its arguments alone. Parts are 8-connected and holes 4-connected,
as in `napari_lesionseg.inference.postprocess`. All of them work inside the bounding box of the outline only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from napari_lesionseg.io.resize import resize_image, resize_plane
from napari_lesionseg.masks.components import (
    Region,
    bounding_box,
    component_at,
    connected_components,
    largest_component,
)
from napari_lesionseg.masks.instances import split_touching
from napari_lesionseg.types import ByteImage, LabelImage

SMOOTHING = 0.03
"""Width of the smoothing, as a share of the outline's diameter."""

SNAP_REACH = 0.08
"""How far an outline may move to an edge, as a share of its diameter."""

SNAP_PIXELS = 120_000
"""Pixels at which edges are looked for; larger parts of an image are shrunk."""


def smooth(mask: LabelImage, label: int = 1) -> LabelImage:
    """Round off what is jagged: the mask is blurred and cut at its middle, which keeps its place and area."""
    own = mask == label
    sigma = max(1.0, SMOOTHING * diameter(own))
    box = bounding_box(own, margin=math.ceil(3 * sigma))
    if box is None:
        return mask.copy()
    blurred = _blur(own[box].astype(np.float32), sigma)
    return _replaced(mask, box, blurred > 0.5, label)


def fill_holes(mask: LabelImage, label: int = 1) -> LabelImage:
    """Close the holes of one class; pixels of other classes in them stay."""
    box = bounding_box(mask == label)
    if box is None:
        return mask.copy()
    return _replaced(mask, box, ndimage.binary_fill_holes(mask[box] == label), label)


def largest_part(mask: LabelImage, label: int = 1) -> LabelImage:
    """Keep the largest connected part of one class; others stay."""
    box = bounding_box(mask == label)
    if box is None:
        return mask.copy()
    return _replaced(mask, box, largest_component(mask[box] == label), label)


def remove_part(mask: LabelImage, row: float, col: float) -> LabelImage:
    """Take away the connected part, of one class, that lies under a point."""
    pixel = (math.floor(row + 0.5), math.floor(col + 0.5))
    if not (0 <= pixel[0] < mask.shape[0] and 0 <= pixel[1] < mask.shape[1]) or mask[pixel] == 0:
        return mask.copy()
    changed = mask.copy()
    changed[component_at(mask == mask[pixel], pixel)] = 0
    return changed


def split(mask: LabelImage, label: int = 1) -> LabelImage:
    """Cut the parts of one class at their narrow points, as `split_touching` does, by a gap of two pixels."""
    box = bounding_box(mask == label)
    if box is None:
        return mask.copy()
    own = mask[box] == label
    pieces = split_touching(connected_components(own))
    # Parts never touch, so a pixel beside one of another number lies where a part was cut.
    most = ndimage.maximum_filter(pieces, size=3, mode="nearest")
    least = ndimage.minimum_filter(np.where(own, pieces, most), size=3, mode="nearest")
    return _replaced(mask, box, own & (most == least), label)


def merge(mask: LabelImage, label: int = 1) -> LabelImage:
    """Join to the largest part of one class the part that lies nearest to it, by a bridge between them."""
    box = bounding_box(mask == label, margin=1)
    if box is None:
        return mask.copy()
    own = mask[box] == label
    parts = connected_components(own)
    sizes = np.bincount(parts.ravel())
    if len(sizes) < 3:
        return mask.copy()
    largest = int(sizes[1:].argmax()) + 1
    distance, nearest = ndimage.distance_transform_edt(parts != largest, return_indices=True)
    distance[(parts == 0) | (parts == largest)] = np.inf
    end = np.unravel_index(int(distance.argmin()), parts.shape)
    start = (nearest[0][end], nearest[1][end])
    width = math.sqrt(float(sizes[parts[end]]) / math.pi)  # half the diameter of the smaller part
    return _replaced(mask, box, own | _bridge(parts.shape, start, end, max(1.5, width / 2)), label)


def snap(image: ByteImage, mask: LabelImage, label: int = 1) -> LabelImage:
    """Move the outline to nearby edges of the image.

    Within a band around the outline the border is put where the image changes most: the watershed of the
    gradient, flooded from what is surely inside and what is surely outside (Beucher and Meyer 1993, "The
    morphological approach to segmentation"). The gradient is that of the one mixture of colors which tells
    the inside from the outside best, so that hairs and gloss weigh little.
    """
    own = mask == label
    reach = max(3.0, SNAP_REACH * diameter(own))
    box = bounding_box(own, margin=math.ceil(2 * reach))
    if box is None:
        return mask.copy()
    shrink = min(1.0, math.sqrt(SNAP_PIXELS / own[box].size))
    shape = tuple(max(8, round(side * shrink)) for side in own[box].shape)
    small = resize_image(np.ascontiguousarray(image[box]), (shape[0], shape[1]))
    inside = resize_plane(own[box].astype(np.float32), (shape[0], shape[1])) > 0.5
    moved = _snapped(small, inside, max(2.0, reach * shrink))
    full = resize_plane(moved, own[box].shape) > 0.5
    return _replaced(mask, box, full, label)


def diameter(region: Region) -> float:
    """Return the diameter in pixels of a disc as large as the largest part of a region."""
    box = bounding_box(region)
    if box is None:
        return 0.0
    return 2 * math.sqrt(np.count_nonzero(largest_component(region[box])) / math.pi)


def _snapped(image: ByteImage, inside: Region, reach: float) -> NDArray[np.float32]:
    """Do the work of `snap` on a small image; gives a soft mask."""
    signed = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    reach = min(reach, float(signed.max()) * 0.6)
    markers = np.zeros(inside.shape, dtype=np.int32)
    markers[signed >= reach] = 1
    markers[signed <= -reach] = 2
    if not ((markers == 1).any() and (markers == 2).any()):
        return inside.astype(np.float32)
    gray = _contrast_mixture(image, signed, reach)
    edges = ndimage.gaussian_gradient_magnitude(gray, sigma=max(1.0, reach / 5))
    # A little is added away from the outline, so that where there is no edge it stays where it is.
    pull = edges.max() * 0.15 * (1 - np.clip(np.abs(signed) / reach, 0, 1))
    pieces = watershed(edges + pull, markers)
    return _blur((pieces == 1).astype(np.float32), max(1.0, reach / 6))


def _contrast_mixture(image: ByteImage, signed: NDArray[np.floating], reach: float) -> NDArray[np.float32]:
    """Mix the colors along the line from the inside's mean to the outside's, scaled by their spread."""
    colors = image.astype(np.float32)
    inner = colors[(signed > 0) & (signed < 2 * reach)]
    outer = colors[(signed < 0) & (signed > -2 * reach)]
    spread = (inner.var(axis=0) + outer.var(axis=0)) / 2 + 1
    weights = (outer.mean(axis=0) - inner.mean(axis=0)) / spread
    weights /= max(float(np.abs(weights).sum()), 1e-6)
    mixed: NDArray[np.float32] = colors @ weights.astype(np.float32)
    return mixed


def _bridge(shape: tuple[int, ...], start: Sequence[Any], end: Sequence[Any], reach: float) -> Region:
    """Return the pixels within a distance of the line between two pixels."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    along = (float(end[0] - start[0]), float(end[1] - start[1]))
    length = along[0] ** 2 + along[1] ** 2
    at = np.clip(((rows - start[0]) * along[0] + (cols - start[1]) * along[1]) / length, 0, 1)
    away = (rows - start[0] - at * along[0]) ** 2 + (cols - start[1] - at * along[1]) ** 2
    return np.asarray(away <= reach**2)


def _blur(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blur as a Gaussian does, by three running means, whose time does not grow with ``sigma``."""
    size = max(1, round(math.sqrt(4 * sigma**2 + 1)))
    size += 1 - size % 2  # even windows would shift the outline
    for _ in range(3):
        values = ndimage.uniform_filter(values, size, mode="nearest")
    return values


def _replaced(mask: LabelImage, box: tuple[slice, slice], own: Region, label: int) -> LabelImage:
    """Return a mask whose class ``label`` has the pixels ``own`` within a box; other classes stay."""
    changed = mask.copy()
    window = changed[box]
    others = (window != 0) & (window != label)
    window[...] = np.where(others, window, np.where(own, np.uint8(label), np.uint8(0)))
    return changed
