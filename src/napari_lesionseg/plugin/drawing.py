"""How the outline in view is made of the network's answers, the clicks, the settings and the hand's work.

Pure functions of a `Snapshot`: they know neither napari nor Qt, and run in any thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.engine.mask_tools import part_at
from napari_lesionseg.engine.postprocessing import postprocess, resolve_threshold
from napari_lesionseg.plugin.answers import Answer
from napari_lesionseg.plugin.history import Find, Snapshot
from napari_lesionseg.types import Box, Click, LabelImage, Probability

DRAFT_PIXELS = 1 << 20
"""Pixels that a draft looks at, at most; what is smaller is drawn in full at once."""


def redrawn(snapshot: Snapshot, active: int = 1, every: int = 1) -> Snapshot:
    """Draw the outline of a snapshot anew; pixels set by hand stay as they are.

    Parameters
    ----------
    snapshot : Snapshot
        What to draw; its ``mask`` is the outline so far.
    active : int
        Class of new lesion pixels where the model knows of one class; those that were lesion keep theirs.
    every : int
        Above 1: a draft, of which only every so many rows and columns are looked at, regardless of clicks.

    Returns
    -------
    Snapshot
        The same with another mask.
    """
    mask = _of_class(outline(snapshot, every), snapshot, active)
    if snapshot.hand.any():
        np.copyto(mask, snapshot.mask, where=snapshot.hand)
    return replace(snapshot, mask=mask)


def draft_step(snapshot: Snapshot) -> int:
    """Tell of how many rows and columns a draft of a snapshot looks at one; 1: it need not be a draft."""
    part = 0 if snapshot.answer is None else math.prod(snapshot.answer.part.shape[-2:])
    return max(1, math.ceil(math.sqrt(part / DRAFT_PIXELS)))


def outline(snapshot: Snapshot, every: int = 1) -> LabelImage:
    """Draw what the network says, regardless of what was done by hand; `every` as for `redrawn`.

    Returns
    -------
    ndarray
        (H, W) uint8, a new array.
    """
    level = resolve_threshold(None, snapshot.config, snapshot.level)
    drawn = np.zeros(snapshot.mask.shape, np.uint8)  # zeros_like would touch every pixel
    if snapshot.answer is not None and every > 1:
        _sketch(drawn, snapshot.answer, snapshot.config, level, every)
    elif snapshot.answer is not None:
        _draw(drawn, snapshot.answer, snapshot.config, level, snapshot.clicks)
    every_part = snapshot.config.model_copy(update={"largest_only": False})
    for find in snapshot.finds:
        window = drawn[_slices(find.window)]
        found = np.zeros_like(window)
        _draw(found, find.answer, every_part, level, _shifted(snapshot.clicks, find.window))
        np.copyto(window, found, where=window == 0)
    return drawn


def previous_probability(snapshot: Snapshot) -> Probability | None:
    """Give the outline as the network is to see it before the next click.

    Its own answer, with what it found in boxes, and with certainty where the hand decided.

    Returns
    -------
    ndarray or None
        (H, W) float32 in [0, 1]; None when there is no outline yet.
    """
    if snapshot.answer is None:
        return None if not snapshot.mask.any() else (snapshot.mask > 0).astype(np.float32)
    whole = snapshot.answer.probability()
    lesion = whole if whole.ndim == 2 else 1 - whole[0]
    for find in snapshot.finds:
        found = find.answer.probability()
        window = lesion[_slices(find.window)]
        np.maximum(window, found if found.ndim == 2 else 1 - found[0], out=window)
    np.copyto(lesion, snapshot.mask > 0, where=snapshot.hand)
    return lesion


def with_clicks(snapshot: Snapshot, groups: Sequence[tuple[Click, ...]], answer: Answer) -> Snapshot:
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


def learnt(snapshot: Snapshot, answer: Answer, level: float) -> Snapshot:
    """Add the answer behind a mask that came from elsewhere: what differs from it counts as done by hand."""
    known = replace(snapshot, answers=(*snapshot.answers[:-1], answer), level=level)
    if not snapshot.clicks and known.prediction is None:
        known = replace(known, prediction=answer)
    differs = (outline(known) > 0) != (snapshot.mask > 0)
    return replace(known, hand=snapshot.hand | differs | (snapshot.mask > 1))


def within_budget(answers: tuple[Answer | None, ...], budget: int) -> tuple[Answer | None, ...]:
    """Forget the oldest answers beyond a budget of bytes, except the first and the last."""
    kept = list(answers)
    for index in range(1, len(kept) - 1):
        if sum(answer.nbytes for answer in kept if answer is not None) <= budget:
            break
        kept[index] = None
    return tuple(kept)


def nothing(shape: tuple[int, int]) -> Answer:
    """Make the answer that there is no lesion in a picture, (H, W)."""
    return Answer(np.zeros((0, 0), dtype=np.float32), 0, 0, shape)


def with_margin(box: Box, shape: tuple[int, int], share: float = 0.5) -> Box:
    """Enlarge a box by a share of its longer side on every side, as far as the picture goes."""
    margin = round(share * max(box.bottom - box.top, box.right - box.left))
    return Box(
        max(box.top - margin, 0),
        max(box.left - margin, 0),
        min(box.bottom + margin, shape[0]),
        min(box.right + margin, shape[1]),
    )


def within(probability: Probability, box: Box, window: Box, level: float) -> Probability:
    """Keep of a window's answer what lies in a box, or belongs to a part that reaches into it.

    Parameters
    ----------
    probability : ndarray
        (h, w), or (C, h, w), for the window.
    box, window : Box
        In pixels of the picture; the window contains the box.
    level : float
        Threshold that says what a part is.
    """
    lesion = probability if probability.ndim == 2 else 1 - probability[0]
    inner = np.zeros(lesion.shape, dtype=bool)
    top, left = box.top - window.top, box.left - window.left
    inner[top : top + box.bottom - box.top, left : left + box.right - box.left] = True
    parts, _ = ndimage.label(lesion >= level, structure=np.ones((3, 3), dtype=bool))
    reaching = np.unique(parts[inner])
    kept = inner | np.isin(parts, reaching[reaching > 0])
    if probability.ndim == 2:
        return np.where(kept, probability, np.float32(0))
    background = np.zeros((len(probability), 1, 1), dtype=np.float32)
    background[0] = 1
    return np.where(kept, probability, background)


def inside(click: Click, shape: tuple[int, ...]) -> bool:
    """Tell whether a click lies in the picture."""
    row, col = click.pixel
    return 0 <= row < shape[0] and 0 <= col < shape[1]


def _draw(
    drawn: LabelImage, answer: Answer, config: PostprocessConfig, level: float, clicks: Sequence[Click]
) -> None:
    """Draw an answer into an empty mask, in place."""
    height, width = answer.part.shape[-2:]
    window = Box(answer.top, answer.left, answer.top + height, answer.left + width)
    if all(_agrees(answer, click, level) for click in clicks):
        # Nothing is drawn outside the part; how large a disc a click stands for does not matter here.
        if height and width:
            drawn[_slices(window)] = postprocess(answer.part, config, level, _shifted(clicks, window))
    else:
        drawn[...] = postprocess(answer.probability(), config, level, clicks)


def _sketch(drawn: LabelImage, answer: Answer, config: PostprocessConfig, level: float, every: int) -> None:
    """Draw an answer into an empty mask from every so many of its rows and columns, in place."""
    height, width = answer.part.shape[-2:]
    coarse = config.model_copy(update={"min_area": config.min_area // every**2})
    small = postprocess(np.ascontiguousarray(answer.part[..., ::every, ::every]), coarse, level)
    rows, cols = (np.flatnonzero(small.any(axis=axis)) for axis in (1, 0))
    if rows.size:
        top, left = int(rows[0]), int(cols[0])
        lesion = small[top : rows[-1] + 1, left : cols[-1] + 1].repeat(every, axis=0).repeat(every, axis=1)
        window = drawn[answer.top : answer.top + height, answer.left : answer.left + width]
        window = window[top * every :, left * every :][: lesion.shape[0], : lesion.shape[1]]
        window[...] = lesion[: window.shape[0], : window.shape[1]]


def _agrees(answer: Answer, click: Click, level: float) -> bool:
    """Tell whether an answer, before it is cleaned, agrees with a click."""
    row, col = click.pixel
    if not inside(click, answer.shape[-2:]):
        return True
    row, col = row - answer.top, col - answer.left
    height, width = answer.part.shape[-2:]
    if not (0 <= row < height and 0 <= col < width):
        return not click.positive
    if answer.part.ndim == 2:
        return bool(answer.part[row, col] >= level) == click.positive
    return False  # several classes: left to `postprocess`


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
            hand = hand & ~part_at(hand & (lesion == lesion[pixel]), pixel)
    return hand


def _denied(find: Find, snapshot: Snapshot, clicks: Sequence[Click]) -> bool:
    """Tell whether a negative click lies on what was found in a box."""
    level = resolve_threshold(None, snapshot.config, snapshot.level)
    shifted = _shifted([click for click in clicks if not click.positive], find.window)
    return any(not _agrees(find.answer, click, level) for click in shifted)


def _shifted(clicks: Sequence[Click], window: Box) -> list[Click]:
    return [replace(click, row=click.row - window.top, col=click.col - window.left) for click in clicks]


def _slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)
