"""How the outline in view is made of the network's answers, the clicks, the settings and the hand's work.

Pure functions of a `Snapshot`: they know neither napari nor Qt, and run in any thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.masks.components import Runs, component_at, connected_components
from napari_lesionseg.plugin.editor.prediction_cache import Answer, AnyAnswer, sampled
from napari_lesionseg.plugin.editor.undo_history import Find, Snapshot
from napari_lesionseg.types import Box, Click, LabelImage, Probability

SEEN_PIXELS = 1 << 19
"""Pixels at which the network is shown the outline before a click, at most; it makes fewer of them itself."""


def redrawn(snapshot: Snapshot, active: int = 1) -> Snapshot:
    """Draw the outline of a snapshot anew; pixels set by hand stay as they are.

    Parameters
    ----------
    snapshot : Snapshot
        What to draw; its ``mask`` is the outline so far.
    active : int
        Class of new lesion pixels where the model knows of one class; those that were lesion keep theirs.

    Returns
    -------
    Snapshot
        The same with another mask.
    """
    mask = _of_class(outline(snapshot), snapshot, active)
    if snapshot.hand.any():
        np.copyto(mask, snapshot.mask, where=snapshot.hand)
    return replace(snapshot, mask=mask)


def outline(snapshot: Snapshot) -> LabelImage:
    """Draw what the network says, regardless of what was done by hand.

    Returns
    -------
    ndarray
        (H, W) uint8, a new array.
    """
    level = resolve_threshold(None, snapshot.config, snapshot.level)
    if snapshot.answer is None:
        drawn = np.zeros(snapshot.mask.shape, np.uint8)  # zeros_like would touch every pixel
    else:
        drawn = snapshot.answer.outline(snapshot.config, level, snapshot.clicks)
    every_part = snapshot.config.model_copy(update={"largest_only": False})
    for find in snapshot.finds:
        window = drawn[_slices(find.window)]
        found = find.answer.outline(every_part, level, _shifted(snapshot.clicks, find.window))
        _keep_reaching(found, _inside(find.box, find.window))
        np.copyto(window, found, where=window == 0)
    return drawn


def previous_probability(snapshot: Snapshot) -> Probability | None:
    """Give the outline as the network is to see it before the next click.

    Its own answer, with what it found in boxes, and with certainty where the hand decided.

    Returns
    -------
    ndarray or None
        (h, w) float32 in [0, 1], not larger than `SEEN_PIXELS`; None when there is no outline yet.
    """
    shape = (snapshot.mask.shape[0], snapshot.mask.shape[1])
    shrink = min(1.0, math.sqrt(SEEN_PIXELS / max(1, math.prod(shape))))
    size = (max(1, round(shape[0] * shrink)), max(1, round(shape[1] * shrink)))
    mask = sampled(snapshot.mask, size) > 0
    if snapshot.answer is None:
        return mask.astype(np.float32) if mask.any() else None
    whole = snapshot.answer.probability(None if size == shape else size)
    lesion = whole if whole.ndim == 2 else 1 - whole[0]
    level = resolve_threshold(None, snapshot.config, snapshot.level)
    for find in snapshot.finds:
        part = lesion[_slices(_scaled(find.window, shape, size))]
        if part.size:
            found = find.answer.probability((part.shape[0], part.shape[1]))
            inner = _scaled(_inside(find.box, find.window), find.answer.size, found.shape[-2:])
            np.maximum(part, within(found if found.ndim == 2 else 1 - found[0], inner, level), out=part)
    np.copyto(lesion, mask, where=sampled(snapshot.hand, size))
    return lesion


def with_clicks(snapshot: Snapshot, groups: Sequence[tuple[Click, ...]], answer: AnyAnswer) -> Snapshot:
    """Add gestures of clicks and the answer to them; the mask is not drawn yet.

    A click on what the hand painted that says otherwise gives that part back to the network, and a negative
    click on what was found in a box takes it away.
    """
    clicks = tuple(click for group in groups for click in group)
    return replace(
        snapshot,
        hand=_released(snapshot, clicks),
        clicks=(*snapshot.clicks, *clicks),
        groups=(*snapshot.groups, *(len(group) for group in groups)),
        answers=(*snapshot.answers, *(None for _ in groups[1:]), answer),
        finds=tuple(find for find in snapshot.finds if not _denied(find, snapshot, clicks)),
    )


def without_last_click(snapshot: Snapshot) -> Snapshot:
    """Take the last gesture of clicks away; the mask is not drawn yet."""
    clicks = snapshot.clicks[: len(snapshot.clicks) - snapshot.groups[-1]]
    return replace(snapshot, clicks=clicks, groups=snapshot.groups[:-1], answers=snapshot.answers[:-1])


def learnt(snapshot: Snapshot, answer: AnyAnswer, level: float) -> Snapshot:
    """Add the answer behind a mask that came from elsewhere: what differs from it counts as done by hand."""
    known = replace(snapshot, answers=(*snapshot.answers[:-1], answer), level=level)
    if not snapshot.clicks and known.prediction is None:
        known = replace(known, prediction=answer)
    differs = (outline(known) > 0) != (snapshot.mask > 0)
    return replace(known, hand=snapshot.hand | differs | (snapshot.mask > 1))


def within_budget(answers: tuple[AnyAnswer | None, ...], budget: int) -> tuple[AnyAnswer | None, ...]:
    """Forget the oldest answers beyond a budget of bytes, except the first and the last."""
    kept = list(answers)
    for index in range(1, len(kept) - 1):
        if sum(answer.nbytes for answer in kept if answer is not None) <= budget:
            break
        kept[index] = None
    return tuple(kept)


def nothing(shape: tuple[int, int]) -> Answer:
    """Make the answer that there is no lesion in an image, (H, W)."""
    return Answer(np.zeros((0, 0), dtype=np.float32), 0, 0, shape)


def with_margin(box: Box, shape: tuple[int, int], share: float = 0.5) -> Box:
    """Enlarge a box by a share of its longer side on every side, as far as the image goes."""
    margin = round(share * max(box.bottom - box.top, box.right - box.left))
    return Box(
        max(box.top - margin, 0),
        max(box.left - margin, 0),
        min(box.bottom + margin, shape[0]),
        min(box.right + margin, shape[1]),
    )


def within(probability: Probability, box: Box, level: float) -> Probability:
    """Keep of a probability (h, w) what lies in a box, or belongs to a part that reaches into it.

    Parameters
    ----------
    probability : ndarray
        (h, w) float32.
    box : Box
        In its pixels.
    level : float
        Threshold that says what a part is.
    """
    inner = np.zeros(probability.shape, dtype=bool)
    inner[_slices(box)] = True
    parts = connected_components(probability >= level)
    reaching = np.unique(parts[inner])
    return np.where(inner | np.isin(parts, reaching[reaching > 0]), probability, np.float32(0))


def inside(click: Click, shape: tuple[int, ...]) -> bool:
    """Tell whether a click lies in the image."""
    row, col = click.pixel
    return 0 <= row < shape[0] and 0 <= col < shape[1]


def _keep_reaching(found: LabelImage, box: Box) -> None:
    """Clear, in place, the parts of a mask that do not reach into a box."""
    mask = found > 0
    runs = Runs.of(mask)
    parts = runs.parts(diagonal=True)
    rows = runs.starts // runs.width
    first, last = (at - rows * runs.width - 1 for at in (runs.starts, runs.stops))
    reaching = (rows >= box.top) & (rows < box.bottom) & (first < box.right) & (last > box.left)
    runs.write(mask, ~np.isin(parts, parts[reaching]), False)
    found[~mask] = 0


def _of_class(drawn: LabelImage, snapshot: Snapshot, active: int) -> LabelImage:
    """Give the pixels drawn by a model of one class the class that they have, or the active one."""
    if len(snapshot.answers[0].shape if snapshot.answers[0] is not None else ()) == 3:
        return drawn
    if active == 1 and snapshot.mask.max(initial=0) <= 1:
        return drawn
    return np.where(drawn > 0, np.where(snapshot.mask > 0, snapshot.mask, np.uint8(active)), np.uint8(0))


def _released(snapshot: Snapshot, clicks: Sequence[Click]) -> NDArray[np.bool_]:
    """Give what stays decided by hand when clicks say otherwise about some of it."""
    hand, lesion = snapshot.hand, None
    for click in clicks:
        pixel = click.pixel
        if inside(click, hand.shape) and hand[pixel] and (snapshot.mask[pixel] > 0) != click.positive:
            lesion = snapshot.mask > 0 if lesion is None else lesion
            hand = hand & ~component_at(hand & (lesion == lesion[pixel]), pixel)
    return hand


def _denied(find: Find, snapshot: Snapshot, clicks: Sequence[Click]) -> bool:
    """Tell whether a negative click lies on what was found in a box."""
    level = resolve_threshold(None, snapshot.config, snapshot.level)
    shifted = _shifted([click for click in clicks if not click.positive], find.window)
    return any(
        find.answer.contains(*click.pixel, level) for click in shifted if inside(click, find.answer.size)
    )


def _shifted(clicks: Sequence[Click], window: Box) -> list[Click]:
    return [replace(click, row=click.row - window.top, col=click.col - window.left) for click in clicks]


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)


def _inside(box: Box, window: Box) -> Box:
    """Give a box in the pixels of a window."""
    return Box(box.top - window.top, box.left - window.left, box.bottom - window.top, box.right - window.left)


def _scaled(box: Box, shape: tuple[int, ...], size: tuple[int, ...]) -> Box:
    """Give a box of an image in the pixels of the same image of another size."""
    down, right = size[0] / shape[0], size[1] / shape[1]
    return Box(
        round(box.top * down), round(box.left * right), round(box.bottom * down), round(box.right * right)
    )
