"""Work in a study, a plain model of what must be there afterwards, and the check that compares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from napari_lesionseg.study.events import Approved, Identified, MaskEvent, MaskOrigin, Returned
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.review import mark_gold
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Click, Scribble

SHAPE = (12, 17)


@dataclass(frozen=True)
class Seen:
    """What an annotator expects to see of one image."""

    status: str = "unreviewed"
    outline: bytes | None = None
    note: str = ""
    approved: tuple[bytes, ...] = ()
    values: tuple[tuple[str, object], ...] = ()  # of the fields, by name
    lesion: str | None = None
    gold: bytes | None = None


World = dict[str, Seen]
Step = Callable[[Study], object]


@dataclass
class Work:
    """Steps, and the world as it must be before the first and after each."""

    steps: list[Step] = field(default_factory=list)
    worlds: list[World] = field(default_factory=list)


def draw(rng: np.random.Generator) -> np.ndarray:
    """Some outline that is not empty."""
    labels = (rng.random(SHAPE) < 0.4).astype(np.uint8)
    labels[0, 0] = 1
    return labels


def plan(images: list[str], rounds: int, seed: int = 0, before: World | None = None) -> Work:
    """Plan work on images: predict, correct, describe, approve, return, flag and all else that is saved."""
    rng = np.random.default_rng(seed)
    work = Work(worlds=[before if before is not None else {image_id: Seen() for image_id in images}])
    for number in range(rounds):
        image_id = images[number % len(images)]
        for step, change in _one_round(image_id, rng):
            work.steps.append(step)
            world = work.worlds[-1]
            work.worlds.append({**world, image_id: change(world[image_id])})
    return work


def _one_round(image_id: str, rng: np.random.Generator) -> Iterator[tuple[Step, Callable[[Seen], Seen]]]:
    guess, first, second, third = draw(rng), draw(rng), draw(rng), draw(rng)
    origin = MaskOrigin(
        model="a" * 64,
        threshold=0.5,
        quality=0.8,
        strokes=(Click(3.5, 2.0), Scribble(((1.0, 1.0), (4.0, 2.0)), False)),
    )
    yield (
        lambda study: study.record_prediction(image_id, guess, MaskOrigin(model="a" * 64, quality=0.6)),
        lambda seen: (
            replace(seen, status="predicted", outline=guess.tobytes())
            if seen.status == "unreviewed"
            else seen
        ),
    )
    yield (
        lambda study: study.save_correction(image_id, first, origin),
        lambda seen: replace(
            seen, status="flagged" if seen.status == "flagged" else "corrected", outline=first.tobytes()
        ),
    )
    yield (
        lambda study: StudyFields(study).set(image_id, {"diagnosis": "nevus", "mm_per_pixel": 0.05}),
        lambda seen: replace(seen, values=(("diagnosis", "nevus"), ("mm_per_pixel", 0.05))),
    )
    yield (
        lambda study: study.approve(image_id, second),
        lambda seen: replace(
            seen,
            status="approved",
            outline=second.tobytes(),
            note="",
            approved=(*seen.approved, second.tobytes()),
        ),
    )
    yield (
        lambda study: mark_gold(study, image_id),
        lambda seen: replace(seen, gold=second.tobytes()),
    )
    yield (
        lambda study: study.record(Returned, image_id, to="am", note="too wide"),
        lambda seen: replace(seen, status="returned", note="too wide"),
    )
    yield (
        lambda study: study.record(Identified, image_id, patient="A", lesion=image_id[:8]),
        lambda seen: replace(seen, lesion=image_id[:8]),
    )
    yield (
        lambda study: study.flag(image_id, "hair?"),
        lambda seen: replace(seen, status="flagged", note="hair?"),
    )
    yield (
        lambda study: study.no_lesion(image_id),
        lambda seen: replace(seen, status="no lesion", note=""),
    )
    yield (
        lambda study: StudyFields(study).set(image_id, {"diagnosis": None}),
        lambda seen: replace(seen, values=(("mm_per_pixel", 0.05),)),
    )
    yield (
        lambda study: study.reopen(image_id),
        lambda seen: replace(seen, status="corrected", note=""),
    )
    yield (
        lambda study: study.save_correction(image_id, third, origin),
        lambda seen: replace(seen, status="corrected", outline=third.tobytes()),
    )
    yield (
        lambda study: study.approve(image_id),
        lambda seen: replace(
            seen, status="approved", outline=third.tobytes(), approved=(*seen.approved, third.tobytes())
        ),
    )


def read_world(study: Study) -> World:
    """See what a study holds."""
    return {image_id: _see(study, image_id) for image_id in study.state.images}


def _see(study: Study, image_id: str) -> Seen:
    state = study.state.images[image_id]
    outline = None if state.current is None else study.read_revision(state.current).tobytes()
    if state.status is Status.NO_LESION:
        shown = study.read_mask(image_id)
        assert shown is not None
        assert not shown.any()
    entries = study.history(image_id)
    for entry in entries:
        if isinstance(entry, MaskEvent):
            study.read_revision(entry)
    approved = tuple(study.read_revision(entry).tobytes() for entry in entries if isinstance(entry, Approved))
    values = tuple(sorted(StudyFields(study).values(image_id).items()))
    gold = None if state.gold is None else study.read_revision(state.gold).tobytes()
    return Seen(state.status.value, outline, state.note, approved, values, state.lesion, gold)


def differences(folder: Path, work: Work, done: int) -> list[str]:
    """Open a study after a crash and return what is wrong.

    Parameters
    ----------
    folder
        The study.
    work
        What was being done.
    done
        Steps that were reported as done; the next may have been begun.
    """
    wrong = []
    with Study.open(folder, "am") as study:
        if study.problems:
            wrong.append(f"problems: {[str(problem) for problem in study.problems]}")
        world = read_world(study)
        allowed = work.worlds[done : done + 2]
        if world not in allowed:
            wrong.append(f"after {done} steps there is neither the old nor the new state")
        for image_id, seen in work.worlds[done].items():
            missing = set(seen.approved) - set(world[image_id].approved)
            if missing:
                wrong.append(f"{len(missing)} approved outlines of {image_id} are lost")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tmp"))
    if left:
        wrong.append(f"temporary files are left: {left}")
    return wrong
