"""Boxes and lassos as evidence about each pixel, and the network's evidence combined with it.

Where a lesion is, and how large, says more about it than a network can on images from a camera it never saw,
and so do the image's own colors. The weights were chosen from a coarse grid on ISIC validation images with
simulated gestures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.errors import PromptError
from napari_lesionseg.inference.clicks import move_stroke, strokes_inside
from napari_lesionseg.inference.postprocess import stroke_pixels
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.lite_unet import COLOR_LIMIT, PRIOR_LIMIT
from napari_lesionseg.types import Box, Click, Prompts, Scribble, Stroke, points_of

MARGIN = 0.5  # of the longer side: what the network sees around a box or a lasso
STROKE_MARGIN = 1.0  # likewise, around an outline that strokes correct, which may be much too small
GRID = 16  # windows around strokes end at sixteenths of the image, so that most of them stay between strokes
MIN_SIDE = 2  # pixels of a box or a lasso
NETWORK_LIMIT = 6.0  # logit: nothing is so certain that it decides alone

# An ellipse in the box, soft at its rim, fitted to boxes with 5 % random error around real lesions.
ELLIPSE_RADIUS, ELLIPSE_SOFTNESS = 0.97, 0.12
# People draw around a lesion, not on its border. How far is a guess: 7 % of the radius, as simulated.
LASSO_EXCESS, LASSO_SOFTNESS = 0.07, 0.06
POINT_REACH = 0.25  # of the equivalent radius: how far from a click the prior begins to count

COLOR_INSIDE = 0.6  # elliptic distance below which a pixel shows the lesion's colors
LASSO_INSIDE = 0.3  # depth in a lasso, in radii, above which a pixel shows the lesion's colors
COLOR_SCALES = (0.6, 1.5, 3.5)  # standard deviations of the blur, at half resolution
COLOR_SAMPLES = 400
SURELY = 0.9  # probability of the previous outline beyond which a pixel shows the lesion's colors
COLOR_MIN_PIXELS = 8  # fewer say nothing about colors
NEWTON_STEPS = 5
RIDGE = 0.02

Point = tuple[float, float]
EXAMPLES = {Click: "Click(120, 200)", Scribble: "Scribble([(120, 200), (130, 240)])"}


class Weights(NamedTuple):
    """How much each piece of evidence counts, as factors of its logit."""

    window: float  # the network on the window: the part for prompts, or else the automatic one
    whole: float  # the automatic network on the whole image
    prior: float
    color: float

    def trusting(self, automatic: float) -> Weights:
        """Return the weights with a trust in the automatic network, 0 to 1, that sum to the same."""
        whole = automatic * self.whole
        return Weights(*(weight / (1 + whole) for weight in self._replace(whole=whole)))


BOX_WEIGHTS = Weights(window=0.25, whole=0.5, prior=1.0, color=0.25)
LASSO_WEIGHTS = Weights(window=0.25, whole=0.0, prior=1.0, color=0.0)
# With a part for prompts, which has learned to weigh a box and the colors by itself. Lassos are the
# exception: even rough ones follow the outline more closely than the network does. Of a box, the weight of
# the whole image is that of an automatic outline which fits it exactly.
PROMPTED_BOX_WEIGHTS = Weights(window=1.0, whole=2.0, prior=0.3, color=0.0)
PROMPTED_LASSO_WEIGHTS = Weights(window=0.25, whole=0.0, prior=1.0, color=0.0)
PROMPTED_STROKE_WEIGHTS = Weights(window=1.0, whole=0.0, prior=0.0, color=0.0)


def weights_of(prompts: Prompts, prompted: bool) -> Weights:
    """Return the weights for prompts; ``prompted``: of a network with a part for them."""
    if prompts.lasso:
        return PROMPTED_LASSO_WEIGHTS if prompted else LASSO_WEIGHTS
    if prompts.box is not None:
        return PROMPTED_BOX_WEIGHTS if prompted else BOX_WEIGHTS
    return PROMPTED_STROKE_WEIGHTS


class Prior(NamedTuple):
    """What a box or lasso says about each pixel of a view, each (h, w)."""

    logit: NDArray[np.float32]
    inside: NDArray[np.bool_]  # pixels that surely show the lesion's colors
    outside: NDArray[np.bool_]  # pixels that surely do not


def read_prompts(
    clicks: Sequence[Click] = (),
    box: Box | Sequence[float] | None = None,
    lasso: Sequence[Point] = (),
    scribbles: Sequence[Scribble] = (),
) -> Prompts:
    """Return the arguments of `segment` as one value; raise a `PromptError` if a number is missing."""
    strokes = (*_read_strokes(scribbles, Scribble), *_read_strokes(clicks, Click))
    return Prompts(strokes, None if box is None else _read_box(box), _read_points(lasso))


def _read_box(box: Box | Sequence[float]) -> Box:
    sides = _read_numbers([box.top, box.left, box.bottom, box.right] if isinstance(box, Box) else box)
    if sides is None or sides.shape != (4,) or not np.isfinite(sides).all():
        raise PromptError("A box needs four finite numbers: top, left, bottom and right.")
    return Box(*(round(side) for side in sides.tolist()))


def _read_strokes(strokes: Sequence[Stroke], kind: type[Stroke]) -> Iterator[Stroke]:
    for stroke in strokes if isinstance(strokes, Iterable) else [None]:
        if not isinstance(stroke, Click | Scribble):
            raise PromptError(f"{kind.__name__}s must be a list, such as [{EXAMPLES[kind]}].")
        points = _read_points(points_of(stroke))
        if not points:
            raise PromptError("A scribble needs at least one point; draw it again.")
        yield stroke if isinstance(stroke, Click) else Scribble(points, bool(stroke.positive))


def check_prompts(prompts: Prompts, shape: tuple[int, int]) -> None:
    """Raise a `PromptError` unless everything can be used on an image (H, W)."""
    points = [*prompts.lasso, *prompts.points]
    if not np.isfinite(np.asarray(points, float)).all():
        raise PromptError("A point has no finite coordinates; draw it again.")
    for stroke in prompts.strokes:
        if isinstance(stroke, Scribble) and not strokes_inside([stroke], shape):
            raise PromptError("The scribble is outside the image; draw it on the image.")
    if prompts.lasso and len(prompts.lasso) < 3:
        raise PromptError("A lasso needs at least three points; draw it around the lesion.")
    bounds = enclosing_box(prompts)
    if bounds is None:
        return
    kind = "lasso" if prompts.lasso else "box"
    box = prompts.box
    if box is not None and (box.bottom < box.top or box.right < box.left):
        raise PromptError("The sides of the box are swapped: they are top, left, bottom and right.")
    if prompts.lasso and box is not None and not _overlap(bounds, box):
        raise PromptError("The box and the lasso do not overlap; draw one of them around the lesion.")
    if min(bounds.bottom - bounds.top, bounds.right - bounds.left) < MIN_SIDE or _is_line(prompts.lasso):
        raise PromptError(f"The {kind} is too small; draw it around the whole lesion.")
    if bounds.bottom <= 0 or bounds.right <= 0 or bounds.top >= shape[0] or bounds.left >= shape[1]:
        raise PromptError(f"The {kind} is outside the image; draw it around the lesion.")


def _overlap(one: Box, other: Box) -> bool:
    down = min(one.bottom, other.bottom) > max(one.top, other.top)
    return down and min(one.right, other.right) > max(one.left, other.left)


def _is_line(points: Sequence[Point]) -> bool:
    """Whether points lie on a line, or within a pixel of one, and so enclose nothing."""
    if not points:
        return False
    centered = np.asarray(points) - np.mean(points, axis=0)
    across = centered @ np.linalg.svd(centered, full_matrices=False)[2][1]
    return bool(np.ptp(across) < 1)


def enclosing_box(prompts: Prompts) -> Box | None:
    """Return the bounding box of the lasso, or else the box; None without either."""
    if not prompts.lasso:
        return prompts.box
    (top, left), (bottom, right) = np.min(prompts.lasso, axis=0), np.max(prompts.lasso, axis=0)
    return Box(math.floor(top + 0.5), math.floor(left + 0.5), math.ceil(bottom + 0.5), math.ceil(right + 0.5))


def prompt_window(prompts: Prompts, shape: tuple[int, int]) -> Box | None:
    """Return the part of an image (H, W) around box or lasso, with a margin; None without either."""
    area = enclosing_box(prompts)
    if area is None:
        return None
    margin = round(MARGIN * max(area.bottom - area.top, area.right - area.left))
    return Box(
        max(area.top - margin, 0),
        max(area.left - margin, 0),
        min(area.bottom + margin, shape[0]),
        min(area.right + margin, shape[1]),
    )


def stroke_window(points: Sequence[Point], outline: NDArray[np.bool_], shape: tuple[int, int]) -> Box:
    """Return the part of an image (H, W) around an outline, at any size, and points in the image."""
    rows, cols = (np.flatnonzero(outline.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Box(0, 0, *shape)
    down, across = shape[0] / outline.shape[0], shape[1] / outline.shape[1]
    top, bottom = rows[0] * down, (rows[-1] + 1) * down
    left, right = cols[0] * across, (cols[-1] + 1) * across
    for row, col in points:
        top, bottom = min(top, row), max(bottom, row + 1)
        left, right = min(left, col), max(right, col + 1)
    margin = STROKE_MARGIN * max(bottom - top, right - left)
    (first_row, last_row), (first_col, last_col) = (
        _on_grid(first - margin, last + margin, side)
        for first, last, side in ((top, bottom, shape[0]), (left, right, shape[1]))
    )
    return Box(first_row, first_col, last_row, last_col)


def _on_grid(first: float, last: float, side: int) -> tuple[int, int]:
    """Widen a range of pixels to sixteenths of a side, and keep it inside."""
    low, high = math.floor(first * GRID / side), math.ceil(last * GRID / side)
    return max(low, 0) * side // GRID, -(-min(high, GRID) * side // GRID)


def fill_area(prompts: Prompts, window: Box, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark what box and lasso enclose, in a view of ``shape`` (h, w) of a window of the image."""
    inside = np.ones(shape, bool)
    if prompts.box is not None:
        top, left = to_view((prompts.box.top - 0.5, prompts.box.left - 0.5), window, shape)
        bottom, right = to_view((prompts.box.bottom - 0.5, prompts.box.right - 0.5), window, shape)
        rows, cols = np.ogrid[: shape[0], : shape[1]]
        inside &= (rows >= top) & (rows < bottom) & (cols >= left) & (cols < right)
    if prompts.lasso:
        canvas = Image.new("1", (shape[1], shape[0]))
        corners = [to_view(point, window, shape)[::-1] for point in prompts.lasso]
        ImageDraw.Draw(canvas).polygon(corners, fill=1)
        inside &= np.asarray(canvas)
    return inside


def area_prior(prompts: Prompts, window: Box, shape: tuple[int, int]) -> Prior:
    """Return what box and lasso say about a view (h, w) of a window; with both, what the lasso says.

    Near a stroke the prior fades, for the network knows better what it means.
    """
    prior = _area_prior(prompts.area, window, shape)
    away = np.ones(shape, bool)
    for stroke in prompts.strokes:
        rows, cols = stroke_pixels(move_stroke(stroke, partial(to_view, window=window, shape=shape)), shape).T
        away[rows, cols] = False
    if away.all():
        return prior
    radius = math.sqrt(max(int(np.count_nonzero(prior.logit > 0)), 1) / math.pi)
    fade = np.minimum(ndimage.distance_transform_edt(away) / (POINT_REACH * radius), 1)
    return prior._replace(logit=(prior.logit * fade).astype(np.float32))


def prompt_planes(
    strokes: NDArray[np.float32], previous: NDArray[np.float32], prior: Prior, colors: Tensor
) -> NDArray[np.float32]:
    """Return the guidance (5, h, w) of a `PromptUNet`.

    ``strokes`` (2, h, w) marks positive and negative strokes, ``previous`` (h, w) is the probability before
    them, 0.5 at the outline, and ``colors`` are `color_features`.
    """
    positive, negative = strokes > 0
    inside, outside = prior.inside | positive, prior.outside | negative
    if not prior.logit.any() and previous.any():
        inside, outside = inside | (previous > SURELY), outside | (previous < 1 - SURELY)
    color = color_logit(colors, inside & ~negative, outside & ~positive)
    return np.stack([*strokes, previous, prior.logit / PRIOR_LIMIT, color / COLOR_LIMIT]).astype(np.float32)


def combine_evidence(
    weights: Weights,
    window: Tensor,
    whole: Tensor | None,
    prior: Prior,
    color: NDArray[np.float32] | None,
) -> Tensor:
    """Return the logit (h, w) of the lesion in a window, 0 at the outline.

    ``window`` and ``whole`` (h, w) are logits of networks, 0 at the outline as well.
    """
    evidence = weights.window * window + weights.prior * torch.from_numpy(prior.logit)
    if whole is not None:
        evidence = evidence + weights.whole * whole
    return evidence if color is None else evidence + weights.color * torch.from_numpy(color)


def share_among_classes(lesion: Tensor, network: Tensor) -> NDArray[np.float32]:
    """Return logits (C, h, w) with a logit (h, w) of the lesion, and of each class what the network says."""
    if len(network) == 1:
        return np.asarray(lesion[None].numpy(), np.float32)
    classes = network[1:] - network[1:].amax(dim=0)
    return np.asarray(torch.cat([torch.zeros_like(classes[:1]), classes + lesion]).numpy(), np.float32)


def view_of_part(logits: Tensor, part: Box, size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Sample logits (C, h, w) of an image of ``size`` at the pixels of a view of a part of it."""
    sides = zip((part.top, part.left), (part.bottom, part.right), size, shape, strict=True)
    rows, cols = (
        2 * (first + (torch.arange(pixels) + 0.5) * (last - first) / pixels) / side - 1
        for first, last, side, pixels in sides
    )
    grid = torch.stack(torch.meshgrid(cols, rows, indexing="xy"), dim=-1)[None]
    return functional.grid_sample(logits[None], grid, padding_mode="border", align_corners=False)[0]


def undo_normalization(planes: Tensor, card: ModelCard) -> Tensor:
    """Return the colors (3, h, w) in [0, 1] of a network's input."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
    return (planes * std + mean).clamp(0, 1)


def color_features(image: Tensor) -> Tensor:
    """Return colors in CIELAB, blurred at three scales: (3, H, W) in [0, 1] to (9, H / 2, W / 2)."""
    lab = _rgb_to_lab(functional.avg_pool2d(image[None], 2, ceil_mode=True))
    features = torch.cat([_blur(lab, scale) for scale in COLOR_SCALES], dim=1)[0]
    mean = features.mean((1, 2), keepdim=True)
    return (features - mean) / (features.std((1, 2), keepdim=True) + 1e-3)


def color_logit(
    features: Tensor, inside: NDArray[np.bool_], outside: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return how likely each pixel (H, W) has the lesion's colors, learned on this image alone.

    A ridge-penalized logistic regression, fitted by Newton's method to pixels (H, W) known to be inside and
    outside; 0 everywhere if there are too few.
    """
    weights = _fit_colors(features, *(torch.from_numpy(mask[::2, ::2].copy()) for mask in (inside, outside)))
    if weights is None:
        return np.zeros(inside.shape, np.float32)
    logit = torch.einsum("chw,c->hw", features, weights[:-1]) + weights[-1]
    full = functional.interpolate(logit[None, None], inside.shape, mode="bilinear", align_corners=False)
    return np.asarray(full[0, 0].clamp(-COLOR_LIMIT, COLOR_LIMIT).numpy())


def _read_points(points: Sequence[Point]) -> tuple[Point, ...]:
    values = _read_numbers(points)
    if values is None or (values.size and (values.ndim != 2 or values.shape[1] != 2)):
        raise PromptError("Points are pairs of a row and a column.")
    return tuple((row, col) for row, col in values.reshape(-1, 2).tolist())


def _read_numbers(values: object) -> NDArray[np.float64] | None:
    """Convert to an array; None for text, gaps and lists of different lengths."""
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        return None


def to_view(point: Point, window: Box, shape: tuple[int, int]) -> Point:
    """Convert a position in the image into one in a view (h, w) of a window."""
    row = (point[0] + 0.5 - window.top) * shape[0] / (window.bottom - window.top) - 0.5
    col = (point[1] + 0.5 - window.left) * shape[1] / (window.right - window.left) - 0.5
    return row, col


@lru_cache(maxsize=4)  # the network and the evidence want the same, and so does each stroke that follows
def _area_prior(prompts: Prompts, window: Box, shape: tuple[int, int]) -> Prior:
    if prompts.lasso:
        return lasso_prior(fill_area(Prompts(lasso=prompts.lasso), window, shape))
    return _box_prior(prompts, window, shape)


def _box_prior(prompts: Prompts, window: Box, shape: tuple[int, int]) -> Prior:
    """Expect an ellipse in the box."""
    box = prompts.box
    if box is None:
        return no_prior(shape)
    top, left = to_view((box.top - 0.5, box.left - 0.5), window, shape)
    bottom, right = to_view((box.bottom - 0.5, box.right - 0.5), window, shape)
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    distance = np.hypot(
        (rows - (top + bottom) / 2) / ((bottom - top) / 2), (cols - (left + right) / 2) / ((right - left) / 2)
    )
    logit = _limited((ELLIPSE_RADIUS - distance) / ELLIPSE_SOFTNESS)
    return Prior(logit, distance < COLOR_INSIDE, ~fill_area(Prompts(box=box), window, shape))


def no_prior(shape: tuple[int, ...]) -> Prior:
    """Return what is known without a box or a lasso: nothing."""
    nothing = np.zeros(shape, bool)
    return Prior(np.zeros(shape, np.float32), nothing, nothing)


def lasso_prior(filled: NDArray[np.bool_]) -> Prior:
    """Expect a lesion a little smaller than the lasso, whose inside is ``filled`` (h, w)."""
    depth = ndimage.distance_transform_edt(filled)
    signed = depth - ndimage.distance_transform_edt(~filled)
    radius = math.sqrt(max(int(np.count_nonzero(filled)), 1) / math.pi)
    logit = _limited((signed / radius - LASSO_EXCESS) / LASSO_SOFTNESS)
    return Prior(logit, depth > LASSO_INSIDE * radius, ~filled)


def _limited(logit: NDArray[np.floating]) -> NDArray[np.float32]:
    limited: NDArray[np.float32] = np.clip(logit, -PRIOR_LIMIT, PRIOR_LIMIT).astype(np.float32)
    return limited


def lesion_margin(logits: Tensor, cut: float) -> Tensor:
    """Return by how much logits (C, h, w) favor the lesion, beyond the threshold."""
    margin = logits[0] if len(logits) == 1 else logits[1:].amax(dim=0) - logits[0]
    return (margin - cut).clamp(-NETWORK_LIMIT, NETWORK_LIMIT)


def _fit_colors(features: Tensor, inside: Tensor, outside: Tensor) -> Tensor | None:
    """Return the weights (10,) of a logistic regression, the intercept last; None with too few pixels."""
    colors = features.flatten(1)  # (9, h * w)
    known = [mask.flatten().nonzero()[:, 0] for mask in (inside, outside)]
    if min(map(len, known)) < COLOR_MIN_PIXELS:
        return None
    # As many from each side, so that the larger does not decide, and evenly spaced, so that it is repeatable.
    chosen = [index[torch.linspace(0, len(index) - 1, COLOR_SAMPLES).long()] for index in known]
    samples = torch.cat([colors[:, index] for index in chosen], dim=1).T.double()
    samples = torch.cat([samples, torch.ones(len(samples), 1, dtype=torch.float64)], dim=1)  # (2 N, 10)
    target = torch.cat([torch.ones(COLOR_SAMPLES), torch.zeros(COLOR_SAMPLES)]).double()
    penalty = torch.eye(samples.shape[1], dtype=torch.float64) * RIDGE
    penalty[-1, -1] = 1e-6
    weights = torch.zeros(samples.shape[1], dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        probability = torch.sigmoid((samples @ weights).clamp(-30, 30))
        gradient = samples.T @ (probability - target) / len(samples) + penalty @ weights
        curvature = probability * (1 - probability) + 1e-6
        hessian = samples.T @ (samples * curvature[:, None]) / len(samples) + penalty
        weights = weights - torch.linalg.solve(hessian, gradient)
    return weights.float()


def _rgb_to_lab(image: Tensor) -> Tensor:
    """Convert sRGB (B, 3, H, W) in [0, 1] to CIELAB under D65."""
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055).clamp_min(1e-6) ** 2.4, image / 12.92)
    to_xyz = image.new_tensor(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    white = image.new_tensor([0.95047, 1.0, 1.08883])
    x, y, z = torch.einsum("ij,bjhw->ibhw", to_xyz / white[:, None], linear)
    fx, fy, fz = (
        torch.where(t > 0.008856, t.clamp_min(1e-6) ** (1 / 3), 7.787 * t + 16 / 116) for t in (x, y, z)
    )
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=1)


def _blur(image: Tensor, scale: float) -> Tensor:
    """Blur each channel (B, C, H, W) by a Gaussian."""
    radius = max(1, round(2.5 * scale))
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * scale**2))
    kernel /= kernel.sum()
    channels = image.shape[1]
    down, across = (kernel.view(1, 1, *size).expand(channels, 1, *size) for size in ((-1, 1), (1, -1)))
    padded = functional.pad(image, (0, 0, radius, radius), mode="replicate")
    blurred = functional.conv2d(padded, down, groups=channels)
    padded = functional.pad(blurred, (radius, radius, 0, 0), mode="replicate")
    return functional.conv2d(padded, across, groups=channels)
