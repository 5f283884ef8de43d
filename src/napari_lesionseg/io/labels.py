"""What the values and colors of a decoded mask mean: one rule for every reader."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.io.decoding import Decoded
from napari_lesionseg.types import IGNORED, MAX_CLASS_INDEX, LabelImage

VOID_COLOR = 0xE0E0C0
"""The color of PASCAL VOC's border, whose pixels are to be ignored."""

MAX_COLORS = 32
"""Most colors that stand for classes; more are soft edges, or a photograph."""

_NEARLY = 32  # so near to black or white a soft or lossy mask's pixels lie
_FEW_GRAYS = 16  # soft edges have more
_BLEND = 12  # most levels by which a color of a soft edge misses the line between the two colors
_MANY = 4096  # colors in a sample of a photograph
_SAMPLE = 100_000  # pixels
_BLOCK = 4  # pixels; JPEG has blocks of 8
_EVEN = 0.004  # share of blocks


def decoded_labels(decoded: Decoded) -> LabelImage:
    """Return the class indices (H, W) of a decoded file, by the rule of `images.read_mask`."""
    return labels_by_colors(decoded, mask_colors(decoded))


def labels_by_colors(decoded: Decoded, colors: NDArray[np.uint32] | None) -> LabelImage:
    """Return the class indices (H, W) of a decoded file whose `mask_colors` are known already."""
    if colors is not None:
        return _color_labels(colors)
    opaque = _opaque(decoded)
    if opaque is not None:
        return _transparent_labels(decoded, opaque)
    array = decoded.array
    if decoded.palette is not None:
        if _holds_indices(decoded):
            return array.astype(np.uint8)
        array = decoded.palette[array]
    if array.ndim == 3:
        for channel in range(array.shape[2]):
            _check_black_and_white(array[..., channel])
        _check_background(array)
        array = _brightest(array)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if decoded.lossy:
        _check_bright(array)
        _check_lossy_grays(array)
        return _black_and_white(array)
    return _gray_labels(array)


def mask_colors(decoded: Decoded, known: Collection[int] = ()) -> NDArray[np.uint32] | None:
    """Return the colors of a mask (H, W) as 0xRRGGBB, soft edges cut; None where it has no colors.

    Transparent pixels are black. Pixels of a soft edge get the nearest of the mask's own colors: those that
    cover areas, and thin lines in colors that are no blend of two others. With `known` colors, grays are
    colors like any other.
    """
    array = decoded.array
    if decoded.palette is not None and not _holds_indices(decoded):
        array = decoded.palette[array]
    if array.ndim != 3 or array.dtype != np.uint8 or decoded.lossy:
        return None
    if not known and (array[..., 0] == array[..., 1]).all() and (array[..., 1] == array[..., 2]).all():
        return None
    wide = array.astype(np.uint32)
    packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    step = max(1, packed.size // _SAMPLE)
    if len(np.unique(packed.ravel()[::step])) > _MANY:
        return None
    opaque = _opaque(decoded)
    if opaque is not None:
        packed = np.where(opaque, packed, 0)
    values = np.unique(packed)
    inverse = np.searchsorted(values, packed)  # half the time of `return_inverse`, which sorts places
    own = _own_colors(values, _cover_areas(inverse, len(values)), known)
    if not 0 < own.sum() <= MAX_COLORS or (not known and not any(map(_is_color, values[own].tolist()))):
        return None
    if np.count_nonzero(own[inverse]) * 2 < packed.size:
        return None
    channels = _channels(values)
    distances = ((channels[:, None] - channels[own][None]) ** 2).sum(axis=2)
    return np.asarray(values[own][distances.argmin(axis=1)][inverse], dtype=np.uint32)


def _own_colors(
    values: NDArray[np.uint32], areas: NDArray[np.bool_], known: Collection[int]
) -> NDArray[np.bool_]:
    """Tell which of the sorted colors are the mask's own, and no blends at soft edges."""
    own = areas | np.isin(values, list(known))
    if len(values) > MAX_COLORS:
        return own
    channels = _channels(values)
    pairs = list(itertools.combinations(channels[own], 2))
    for place in np.flatnonzero(~own):
        own[place] = not any(_is_blend(channels[place], first, second) for first, second in pairs)
    return own


def _is_blend(color: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    """Whether a color is near the line between two others."""
    way = (second - first).astype(float)
    share = float(np.clip((color - first) @ way / (way @ way), 0, 1))
    return bool(np.abs(first + share * way - color).max() <= _BLEND)


def _channels(values: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.int64)


def _cover_areas(indices: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Tell which of the values 0 to `count` - 1 cover a square of 3 x 3 pixels somewhere; edges do not."""
    if min(indices.shape) < 3:
        return np.zeros(count, bool)
    right = indices[:, 1:] == indices[:, :-1]
    two = right[1:] & right[:-1] & (indices[1:, :-1] == indices[:-1, :-1])
    three = two[1:, 1:] & two[1:, :-1] & two[:-1, 1:] & two[:-1, :-1]
    return np.bincount(indices[:-2, :-2][three], minlength=count) > 0


def _is_color(value: int) -> bool:
    return not (value >> 16 == (value >> 8) & 255 == value & 255)


def _color_labels(colors: NDArray[np.uint32]) -> LabelImage:
    """Return lesion, 1, where there is a color, and `IGNORED` at VOC's border."""
    found = np.unique(colors)
    if 0 not in found and len(found) > 1:
        names = ", ".join(f"#{value:06x}" for value in found[:4].tolist())
        raise MaskError(
            f"Its colors ({names}) are on no black background; save the lesion as white on black."
        )
    labels: LabelImage = (colors != 0).astype(np.uint8)
    labels[colors == VOID_COLOR] = IGNORED
    return labels


def _holds_indices(decoded: Decoded) -> bool:
    """Whether a file with a palette holds class indices, not colors or grays."""
    if decoded.palette is None:
        return False
    used = np.flatnonzero(np.bincount(decoded.array.ravel()))  # ten times as fast as np.unique
    colors = decoded.palette[used]
    if (colors == colors[:, :1]).all():  # of grays, only 255 behind small indices shows it, as VOC's border
        ramp = (colors[:, 0] == used).all()
        return len(used) > 2 and used[-1] == IGNORED and used[-2] <= MAX_CLASS_INDEX and not ramp
    black = used[~colors.any(axis=1)]
    white = used[(colors == 255).all(axis=1)]
    if not len(black) and len(white) and 0 not in white:
        return False  # colors on white: whatever reduced them to a palette has sorted them in its own way
    unusual = (used > MAX_CLASS_INDEX) & (used != IGNORED)
    return len(used) <= MAX_COLORS and not unusual.any() and (not len(black) or 0 in black)


def _opaque(decoded: Decoded) -> NDArray[np.bool_] | None:
    """Return where an image is opaque, (H, W); None when all of it is alike."""
    alpha = decoded.alpha
    if alpha is None or alpha.min() == alpha.max():
        return None
    return np.asarray(alpha > alpha.max() / 2)


def _transparent_labels(decoded: Decoded, opaque: NDArray[np.bool_]) -> LabelImage:
    """Return the opaque pixels, of one color, as the lesion; else colors and opacity must show the same."""
    flat = decoded.array.reshape(*opaque.shape, -1)
    if (flat[opaque] == flat[opaque][:1]).all():
        if not flat[opaque][0].any() and flat[~opaque].any():
            raise MaskError("It is black with transparent holes; save the lesion as white on black.")
        return opaque.astype(np.uint8)
    labels = decoded_labels(Decoded(decoded.array, decoded.palette, decoded.lossy))
    if ((labels > 0) & (labels != IGNORED) & ~opaque).any():
        raise MaskError(
            "Its colors and its transparency show different shapes; save it without transparency."
        )
    return labels


def _gray_labels(array: NDArray[Any]) -> LabelImage:
    """Return the class indices of lossless gray values."""
    if array.dtype.kind not in "uif":
        raise MaskError(f"Values of type {array.dtype} stand for no class.")
    low, high = array.min(), array.max()
    if not (low >= 0 and np.isfinite(high)):
        raise MaskError("It holds values below 0 or undefined ones, which stand for no class.")
    if array.dtype.kind == "f" and (array % 1).any():
        if high > 1:
            raise MaskError(f"It holds fractions up to {high:.4g}; probabilities go from 0 to 1.")
        return (array > 0.5).astype(np.uint8)
    if high <= MAX_CLASS_INDEX:
        return array.astype(np.uint8)
    are_two = ((array == low) | (array == high)).all()
    if low == high or (are_two and not low):
        return (array > 127).astype(np.uint8)
    if high == IGNORED and not ((array > MAX_CLASS_INDEX) & (array != IGNORED)).any():
        return array.astype(np.uint8)
    if not are_two:
        return _black_and_white(array)
    if low > MAX_CLASS_INDEX:
        raise MaskError(f"Both of its values ({low}, {high}) are bright; save the lesion as white on black.")
    return (array > 127).astype(np.uint8)


def _black_and_white(array: NDArray[Any]) -> LabelImage:
    """Cut soft or approximate black and white at 127."""
    high = array.max()
    if high > 255:
        raise MaskError(f"It holds several values up to {high}; class indices go to {MAX_CLASS_INDEX}.")
    _check_black_and_white(array)
    _check_areas_of_gray(array)
    return (array > 127).astype(np.uint8)


def _brightest(array: NDArray[Any]) -> NDArray[Any]:
    """Return the highest of the channels (H, W, C), ten times as fast as `max` along so short an axis."""
    return functools.reduce(np.maximum, (array[..., channel] for channel in range(array.shape[2])))


def _check_black_and_white(array: NDArray[Any]) -> None:
    """Refuse gray values of which too many lie between black and the brightest."""
    between = np.count_nonzero((array >= _NEARLY) & (array <= int(array.max()) - _NEARLY))
    if between * 4 > array.size:
        raise MaskError("More than a quarter of it is neither black nor white; it may be a photograph.")


def _check_bright(array: NDArray[Any]) -> None:
    """Refuse lossy values of which most that are not black are no white, either."""
    high = array.max()
    dark = np.count_nonzero((array > _NEARLY) & (array <= MAX_CLASS_INDEX))
    if 0 < high <= MAX_CLASS_INDEX or dark > np.count_nonzero(array > MAX_CLASS_INDEX):
        raise MaskError("It is too dark for black and white, and a JPEG does not keep class indices.")


def _check_lossy_grays(array: NDArray[Any]) -> None:
    """Refuse lossy values with areas of gray, which stand for classes; soft edges are never even."""
    height, width = (side // _BLOCK * _BLOCK for side in array.shape)
    if not height or not width:
        return
    blocks = array[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    high, low = blocks.max(axis=(1, 3)), blocks.min(axis=(1, 3))
    even = (low > 2 * _NEARLY) & (high < 255 - 2 * _NEARLY) & (high - low < _NEARLY // 2)
    if even.mean() > _EVEN:
        raise MaskError(
            f"It has areas of gray ({int(np.median(low[even]))}) that are neither background nor lesion."
        )


def _check_background(array: NDArray[Any]) -> None:
    """Refuse colors (H, W, 3) that leave hardly any pixel black, as on white."""
    bright = _brightest(array) > MAX_CLASS_INDEX
    if bright.mean() > 0.95:
        shares = (array[bright] > MAX_CLASS_INDEX).mean(axis=0)
        if ((shares > 0.01) & (shares < 0.99)).any():
            raise MaskError("Its colors are on no black background; save the lesion as white on black.")


def _check_areas_of_gray(array: NDArray[Any]) -> None:
    """Refuse areas of few grays, which stand for classes, or for what is to be ignored."""
    counts = np.bincount(array.astype(np.uint8).ravel(), minlength=256)
    grays = np.flatnonzero(counts[_NEARLY : int(array.max()) - _NEARLY + 1]) + _NEARLY
    if 0 < len(grays) <= _FEW_GRAYS and _cover_areas(array.astype(np.int64), 256)[grays].any():
        names = ", ".join(map(str, grays[:4]))
        raise MaskError(f"It has areas of gray ({names}) that are neither background nor lesion.")
