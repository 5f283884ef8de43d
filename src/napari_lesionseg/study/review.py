"""Review of annotators' work: accepted, edited or returned; and gold standards that they are measured by.

A reviewer's own verdict settles an image for all annotators: the same outline accepts theirs, another one
edits it. A gold standard is an expert's outline; to all others its image looks like any that is to be done.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

import numpy as np

from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.tables import write_table
from napari_lesionseg.study.agreement import compare, read_verdict
from napari_lesionseg.study.events import (
    Approved,
    GoldStandard,
    GoldWithdrawn,
    MaskOrigin,
    NoLesion,
    Returned,
)
from napari_lesionseg.study.state import ImageState, Status, Verdict
from napari_lesionseg.study.study import Content, Study

KnownDice: TypeAlias = dict[tuple[str, str | None, str | None], float]
"""Dice of two masks, by image and revisions; None stands for "no lesion"."""


@dataclass(frozen=True, slots=True)
class GoldScore:
    """How an annotator's outline, or landmarks, compare with the gold standard."""

    annotator: str
    image: str
    time: datetime  # of the annotator's verdict
    dice: float  # of landmarks, their OKS


@dataclass(frozen=True, slots=True)
class AnnotatorSummary:
    """How far the review of one annotator's work is, and what came of it."""

    annotator: str
    decided: int  # images with a verdict of theirs, without gold standards
    accepted: int
    edited: int
    returned: int  # images that wait for the annotator now
    edit_dice: float | None  # mean over the edited images: the annotator's outline against the reviewer's
    gold: tuple[GoldScore, ...]  # oldest first

    @property
    def waiting(self) -> int:
        """How many images wait for a reviewer."""
        return self.decided - self.accepted - self.edited

    @property
    def gold_dice(self) -> float | None:
        """Mean Dice against the gold standard."""
        return fmean(score.dice for score in self.gold) if self.gold else None


def verdict_to_review(state: ImageState, reviewer: str) -> Verdict | None:
    """Return the latest verdict of another annotator that no reviewer has settled; None if there is none."""
    waiting = [
        verdict
        for verdict in state.verdicts.values()
        if verdict.review_of is None and verdict.annotator != reviewer
        if _review_of(state, verdict) is None
    ]
    return max(waiting, key=lambda verdict: verdict.order, default=None)


def is_to_review(state: ImageState, reviewer: str) -> bool:
    """Whether an image waits for a reviewer: not while it is returned, nor if it only measures annotators."""
    return (
        state.status is not Status.RETURNED
        and state.gold is None
        and verdict_to_review(state, reviewer) is not None
    )


def _review_of(state: ImageState, verdict: Verdict) -> Verdict | None:
    """Return the review that settled a verdict, which came after it."""
    reviews = (v for v in state.verdicts.values() if v.review_of is not None and v.order > verdict.order)
    return max(reviews, key=lambda review: review.order, default=None)


def return_image(study: Study, image_id: str, note: str) -> ImageState:
    """Return an image, with a note, to the annotator who decided about it last."""
    state = study.state.images[image_id]
    others = [v for v in state.verdicts.values() if v.annotator != study.annotator and v.review_of is None]
    verdict = max(others, key=lambda verdict: verdict.order, default=None)
    if verdict is None:
        raise StudyError(
            f"No other annotator has decided about {state.name}; there is nobody to return it to."
        )
    return study.record(Returned, image_id, to=verdict.annotator, note=note)


def mark_gold(study: Study, image_id: str) -> ImageState:
    """Make the annotator's own verdict on an image a gold standard."""
    state = study.state.images[image_id]
    verdict = state.verdicts.get(study.annotator)
    if verdict is None:
        raise StudyError(f"Approve {state.name} first; its outline then becomes the gold standard.")
    approved = verdict if isinstance(verdict, Approved) else None
    content: Content = () if approved is None else approved.as_marks()
    if study.info.landmarks is None:
        content = np.asarray(read_verdict(study, verdict))
    return study.record_mask(GoldStandard, image_id, content, MaskOrigin.of(approved))


def withdraw_gold(study: Study, image_id: str) -> ImageState:
    """Make a gold standard an image like any other; all work on it becomes visible again."""
    return study.record(GoldWithdrawn, image_id)


def mix_in_gold(study: Study, count: int, seed: int = 0) -> tuple[str, ...]:
    """Make some of the annotator's approved images gold standards, drawn at random; return which.

    Only images that no other annotator has decided about are drawn: others have seen them.
    """
    own = study.annotator
    free = [
        image_id
        for image_id, state in study.state.images.items()
        if state.gold is None and state.verdicts.keys() == {own} and isinstance(state.verdicts[own], Approved)
    ]
    if len(free) < count:
        raise StudyError(
            f"{own} has approved {len(free)} images that nobody else has decided about, fewer than {count}."
        )
    drawn = sorted(random.Random(seed).sample(free, count))  # noqa: S311 - nobody is to guess a secret
    for image_id in drawn:
        mark_gold(study, image_id)
    return tuple(drawn)


def summarize_reviews(study: Study, known: KnownDice | None = None) -> list[AnnotatorSummary]:
    """Return a summary for each annotator; the study must be open so that all work can be seen.

    Masks that were compared before are not read again if the same `known` is passed.
    """
    known = {} if known is None else known
    scores = list(gold_scores(study, known))
    states = list(study.state.images.values())
    annotators = {v.annotator for state in states for v in state.verdicts.values() if v.review_of is None}
    annotators |= {to for state in states if (to := _returned_to(study, state))}
    return [_summarize(study, annotator, scores, known) for annotator in sorted(annotators)]


def _summarize(study: Study, annotator: str, scores: list[GoldScore], known: KnownDice) -> AnnotatorSummary:
    decided = accepted = returned = 0
    edits: list[float] = []
    for state in study.state.images.values():
        if state.gold is not None:
            continue
        returned += _returned_to(study, state) == annotator
        verdict = state.verdicts.get(annotator)
        if verdict is None or verdict.review_of is not None:
            continue
        decided += 1
        review = _review_of(state, verdict)
        if review is None:
            continue
        if _revision(review) == _revision(verdict):
            accepted += 1
        else:
            edits.append(_dice(study, verdict, review, known))
    gold = tuple(score for score in scores if score.annotator == annotator)
    edit_dice = fmean(edits) if edits else None
    return AnnotatorSummary(annotator, decided, accepted, len(edits), returned, edit_dice, gold)


def gold_scores(study: Study, known: KnownDice | None = None) -> Iterator[GoldScore]:
    """Yield how all verdicts on gold standards compare with them, the oldest first."""
    known = {} if known is None else known
    found = []
    for state in study.state.images.values():
        if state.gold is None:
            continue
        for annotator, verdict in state.verdicts.items():
            if annotator != state.gold.annotator and verdict.review_of is None:
                score = _dice(study, verdict, state.gold, known)
                found.append(GoldScore(annotator, state.name, verdict.time, score))
    yield from sorted(found, key=lambda score: score.time)


def write_gold_scores(path: Path, scores: list[GoldScore]) -> None:
    """Write scores as CSV, one a line; a `StudyError` if that cannot be done."""
    rows = [
        {"annotator": s.annotator, "image": s.image, "time": s.time.isoformat(), "dice": f"{s.dice:.6f}"}
        for s in scores
    ]
    try:
        write_table(path, rows, ("annotator", "image", "time", "dice"))
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}.") from error


def _returned_to(study: Study, state: ImageState) -> str:
    """Return the annotator that an image was returned to and waits for; empty if it does not."""
    if state.status is not Status.RETURNED:
        return ""
    events = study.history(state.image_id)
    return next((event.to for event in reversed(events) if isinstance(event, Returned)), "")


def _dice(study: Study, verdict: Verdict, other: Verdict | GoldStandard, known: KnownDice) -> float:
    key = verdict.image_id, _revision(verdict), _revision(other)
    if key not in known:
        known[key] = compare(read_verdict(study, verdict), read_verdict(study, other))
    return known[key]


def _revision(verdict: Verdict | GoldStandard) -> str | None:
    """Return the mask of a verdict; None for "no lesion"."""
    return None if isinstance(verdict, NoLesion) else verdict.revision
