"""How a mask is composed from predictions, clicks, settings and manual edits.

Pure functions of a `Snapshot`, which run in any thread. No napari or Qt in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.masks.components import component_at
from napari_lesionseg.masks.morphology import thin_path
from napari_lesionseg.plugin.editor.undo_history import Snapshot
from napari_lesionseg.types import NO_PROMPTS, Box, Click, LabelImage, Probability

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction

_Value = TypeVar("_Value", bound=np.generic)

PREVIOUS_PIXELS = 1 << 19
"""Most pixels at which the network is shown the mask before a click; it shrinks the mask anyway."""

NEGLIGIBLE = 1e-6
"""Probability below which a pixel is as good as cleared."""

CLICK_SPACING = 1 / 50
"""Distance between the clicks along a drawn line, as a fraction of the image's diagonal."""


def compose_mask(snapshot: Snapshot, active: int = 1) -> Snapshot:
    """Redraw the mask of a snapshot; manual pixels stay.

    A model of one class draws new lesion pixels in the active class; those that were lesion keep theirs.
    """
    mask = _with_classes(predicted_mask(snapshot), snapshot, active)
    if snapshot.manual_mask.any():
        np.copyto(mask, snapshot.mask, where=snapshot.manual_mask)
    return replace(snapshot, mask=mask)


def predicted_mask(snapshot: Snapshot) -> LabelImage:
    """Draw the predictions, (H, W) uint8, a new array, regardless of manual edits."""
    if snapshot.prediction is None:
        drawn = np.zeros(snapshot.mask.shape, np.uint8)  # zeros_like would touch every pixel
    else:
        drawn = snapshot.prediction.to_mask(snapshot.config, snapshot.threshold, snapshot.clicks)
    for found in snapshot.added:
        part = found.to_mask(snapshot.config, snapshot.threshold, snapshot.clicks)
        np.copyto(drawn, part, where=drawn == 0)
    return drawn


def without_edits(
    snapshot: Snapshot, prediction: Prediction, manual_mask: NDArray[np.bool_] | None = None
) -> Snapshot:
    """Return a snapshot of a prediction alone, and of the manual pixels that are to stay."""
    mask = np.zeros(snapshot.mask.shape, np.uint8)
    if manual_mask is None:
        manual_mask = np.zeros(mask.shape, bool)
    else:
        np.copyto(mask, snapshot.mask, where=manual_mask)
    return replace(
        snapshot,
        mask=mask,
        manual_mask=manual_mask,
        clicks=(),
        click_counts=(),
        predictions=(prediction,),
        area=NO_PROMPTS,
        added=(),
    )


def with_area(
    snapshot: Snapshot, prediction: Prediction, gestures: Sequence[tuple[Click, ...]] = ()
) -> Snapshot:
    """Return a snapshot of the prediction of a box or lasso and gestures of clicks; not redrawn yet."""
    return replace(
        without_edits(snapshot, prediction),
        area=prediction.prompts.area,
        clicks=tuple(click for gesture in gestures for click in gesture),
        click_counts=tuple(len(gesture) for gesture in gestures),
        predictions=(*(None for _ in gestures), prediction),
    )


def previous_probability(snapshot: Snapshot) -> Probability | None:
    """Return the mask as the network sees it before the next click, (h, w); None if it is empty or cleared.

    That is its own probability, with what was found in boxes, and certainty at manual pixels.
    """
    shape = (snapshot.mask.shape[0], snapshot.mask.shape[1])
    shrink = min(1.0, math.sqrt(PREVIOUS_PIXELS / max(1, math.prod(shape))))
    size = (max(1, round(shape[0] * shrink)), max(1, round(shape[1] * shrink)))
    mask = _sampled(snapshot.mask, size) > 0
    if snapshot.prediction is None:
        return mask.astype(np.float32) if mask.any() else None
    whole = snapshot.prediction.probability(None if size == shape else size)
    lesion = whole if whole.ndim == 2 else 1 - whole[0]
    for found in snapshot.added:
        inner = found.probability(None if size == shape else size)
        np.maximum(lesion, inner if inner.ndim == 2 else 1 - inner[0], out=lesion)
    np.copyto(lesion, mask, where=_sampled(snapshot.manual_mask, size))
    return lesion if lesion.max(initial=0) > NEGLIGIBLE else None


def with_clicks(
    snapshot: Snapshot, gestures: Sequence[tuple[Click, ...]], prediction: Prediction
) -> Snapshot:
    """Add gestures of clicks and their prediction; the mask is not redrawn yet.

    A click that contradicts a manual part returns that part to the network, and a negative click on what was
    found in a box removes it.
    """
    clicks = tuple(click for gesture in gestures for click in gesture)
    return replace(
        snapshot,
        manual_mask=_released(snapshot, clicks),
        clicks=(*snapshot.clicks, *clicks),
        click_counts=(*snapshot.click_counts, *(len(gesture) for gesture in gestures)),
        predictions=(*snapshot.predictions, *(None for _ in gestures[1:]), prediction),
        added=tuple(found for found in snapshot.added if not _denied(found, snapshot, clicks)),
    )


def without_last_click(snapshot: Snapshot) -> Snapshot:
    """Remove the last gesture of clicks; the mask is not redrawn yet."""
    clicks = snapshot.clicks[: len(snapshot.clicks) - snapshot.click_counts[-1]]
    return replace(
        snapshot,
        clicks=clicks,
        click_counts=snapshot.click_counts[:-1],
        predictions=snapshot.predictions[:-1],
    )


def with_prediction(snapshot: Snapshot, prediction: Prediction, model_threshold: float) -> Snapshot:
    """Add the prediction to a mask made elsewhere: pixels that differ from it count as manual."""
    known = replace(
        snapshot, predictions=(*snapshot.predictions[:-1], prediction), model_threshold=model_threshold
    )
    if not snapshot.clicks and known.initial_prediction is None:
        known = replace(known, initial_prediction=prediction)
    differs = (predicted_mask(known) > 0) != (snapshot.mask > 0)
    return replace(known, manual_mask=snapshot.manual_mask | differs | (snapshot.mask > 1))


def within_budget(predictions: tuple[Prediction | None, ...], budget: int) -> tuple[Prediction | None, ...]:
    """Drop the oldest predictions beyond a budget of bytes, except the first and the last."""
    kept = list(predictions)
    for index in range(1, len(kept) - 1):
        if sum(prediction.nbytes for prediction in kept if prediction is not None) <= budget:
            break
        kept[index] = None
    return tuple(kept)


def clicks_along(
    points: Sequence[tuple[float, float]], positive: bool, shape: tuple[int, ...]
) -> list[Click]:
    """Return the clicks of a line drawn in an image of a shape (H, W)."""
    spacing = CLICK_SPACING * float(np.hypot(shape[0], shape[1]))
    return [Click(row, col, positive) for row, col in thin_path(points, spacing)]


def clipped(box: Box, shape: tuple[int, ...]) -> Box:
    """Clip a box to the image."""
    return Box(max(box.top, 0), max(box.left, 0), min(box.bottom, shape[0]), min(box.right, shape[1]))


def is_inside(click: Click, shape: tuple[int, ...]) -> bool:
    """Whether a click is in the image."""
    row, col = click.pixel
    return 0 <= row < shape[0] and 0 <= col < shape[1]


def _with_classes(drawn: LabelImage, snapshot: Snapshot, active: int) -> LabelImage:
    """Give pixels drawn by a model of one class the class that they have, or the active one."""
    if any(len(prediction.shape) == 3 for prediction in snapshot.all_predictions()):
        return drawn
    if active == 1 and snapshot.mask.max(initial=0) <= 1:
        return drawn
    return np.where(drawn > 0, np.where(snapshot.mask > 0, snapshot.mask, np.uint8(active)), np.uint8(0))


def _released(snapshot: Snapshot, clicks: Sequence[Click]) -> NDArray[np.bool_]:
    """Return the manual pixels without the parts that clicks contradict."""
    manual, lesion = snapshot.manual_mask, None
    for click in clicks:
        pixel = click.pixel
        if is_inside(click, manual.shape) and manual[pixel] and (snapshot.mask[pixel] > 0) != click.positive:
            lesion = snapshot.mask > 0 if lesion is None else lesion
            manual = manual & ~component_at(manual & (lesion == lesion[pixel]), pixel)
    return manual


def _denied(found: Prediction, snapshot: Snapshot, clicks: Sequence[Click]) -> bool:
    """Whether a negative click is on what was found in a box or lasso."""
    return any(
        found.contains(*click.pixel, snapshot.threshold)
        for click in clicks
        if not click.positive and is_inside(click, found.size)
    )


def _sampled(values: NDArray[_Value], size: tuple[int, int]) -> NDArray[_Value]:
    """Sample an array (H, W) at the centers of fewer pixels; the array itself at its own size."""
    if values.shape == size:
        return values
    rows, cols = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp)
        for new, old in zip(size, values.shape, strict=True)
    )
    sampled: NDArray[_Value] = values[rows[:, None], cols]
    return sampled
