"""How a mask is composed from predictions, clicks, scribbles, settings and manual edits.

Pure functions of a `Snapshot`, which run in any thread. No napari or Qt in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.inference.postprocess import stroke_pixels
from napari_lesionseg.masks.components import component_at
from napari_lesionseg.plugin.editor.undo_history import Snapshot
from napari_lesionseg.types import NO_PROMPTS, Box, Click, LabelImage, Probability, Stroke

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction

_Value = TypeVar("_Value", bound=np.generic)

PREVIOUS_PIXELS = 1 << 19
"""Most pixels at which the network is shown the mask before a click; it shrinks the mask anyway."""

NEGLIGIBLE = 1e-6
"""Probability below which a pixel is as good as cleared."""


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
        drawn = snapshot.prediction.to_mask(snapshot.config, snapshot.threshold, snapshot.strokes)
    for found in snapshot.added:
        part = found.to_mask(snapshot.config, snapshot.threshold, snapshot.strokes)
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
        strokes=(),
        predictions=(prediction,),
        area=NO_PROMPTS,
        added=(),
    )


def with_area(snapshot: Snapshot, prediction: Prediction, strokes: Sequence[Stroke] = ()) -> Snapshot:
    """Return a snapshot of the prediction of a box or lasso and of strokes; not redrawn yet."""
    return replace(
        without_edits(snapshot, prediction),
        area=prediction.prompts.area,
        strokes=tuple(strokes),
        predictions=(*(None for _ in strokes), prediction),
    )


def previous_probability(snapshot: Snapshot) -> Probability | None:
    """Return the mask as the network sees it before the next stroke, (h, w); None if it is empty or cleared.

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


def with_strokes(snapshot: Snapshot, strokes: Sequence[Stroke], prediction: Prediction) -> Snapshot:
    """Add clicks and scribbles and their prediction; the mask is not redrawn yet.

    A stroke that contradicts a manual part returns that part to the network, and a negative click on what was
    found in a box removes it.
    """
    return replace(
        snapshot,
        manual_mask=_released(snapshot, strokes),
        strokes=(*snapshot.strokes, *strokes),
        predictions=(*snapshot.predictions, *(None for _ in strokes[1:]), prediction),
        added=tuple(found for found in snapshot.added if not _denied(found, snapshot, strokes)),
    )


def without_last_stroke(snapshot: Snapshot) -> Snapshot:
    """Remove the last click or scribble; the mask is not redrawn yet."""
    return replace(snapshot, strokes=snapshot.strokes[:-1], predictions=snapshot.predictions[:-1])


def with_prediction(snapshot: Snapshot, prediction: Prediction, model_threshold: float) -> Snapshot:
    """Add the prediction to a mask made elsewhere: pixels that differ from it count as manual."""
    known = replace(
        snapshot, predictions=(*snapshot.predictions[:-1], prediction), model_threshold=model_threshold
    )
    if not snapshot.strokes and known.initial_prediction is None:
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


def clipped(box: Box, shape: tuple[int, ...]) -> Box:
    """Clip a box to the image."""
    return Box(max(box.top, 0), max(box.left, 0), min(box.bottom, shape[0]), min(box.right, shape[1]))


def _with_classes(drawn: LabelImage, snapshot: Snapshot, active: int) -> LabelImage:
    """Give pixels drawn by a model of one class the class that they have, or the active one."""
    if any(len(prediction.shape) == 3 for prediction in snapshot.all_predictions()):
        return drawn
    if active == 1 and snapshot.mask.max(initial=0) <= 1:
        return drawn
    return np.where(drawn > 0, np.where(snapshot.mask > 0, snapshot.mask, np.uint8(active)), np.uint8(0))


def _released(snapshot: Snapshot, strokes: Sequence[Stroke]) -> NDArray[np.bool_]:
    """Return the manual pixels without the parts that strokes contradict."""
    manual, lesion = snapshot.manual_mask, None
    for stroke in strokes:
        rows, cols = stroke_pixels(stroke, manual.shape).T
        wrong = manual[rows, cols] & ((snapshot.mask[rows, cols] > 0) != stroke.positive)
        for pixel in zip(rows[wrong].tolist(), cols[wrong].tolist(), strict=True):
            if manual[pixel]:  # not released with an earlier pixel of the same part
                lesion = snapshot.mask > 0 if lesion is None else lesion
                manual = manual & ~component_at(manual & (lesion == lesion[pixel]), pixel)
    return manual


def _denied(found: Prediction, snapshot: Snapshot, strokes: Sequence[Stroke]) -> bool:
    """Whether a negative click is on what was found in a box or lasso; scribbles only correct it."""
    pixels = [stroke.pixel for stroke in strokes if isinstance(stroke, Click) and not stroke.positive]
    return any(
        found.contains(row, col, snapshot.threshold)
        for row, col in pixels
        if 0 <= row < found.size[0] and 0 <= col < found.size[1]
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
