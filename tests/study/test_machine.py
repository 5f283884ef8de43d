"""Any sequence of work, kills, faults and a second annotator, against a plain model of what must be seen."""

from __future__ import annotations

import errno
import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scenario import Seen, World, read_world
from seam import Tap, fail_at

from conftest import MEMORY, SHAPE, noise
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.events import Described, Returned
from napari_lesionseg.study.study import Study, find_damage

numbers = st.integers(0, 2)
seeds = st.integers(0, 5)


def labels_of(seed: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[seed : seed + 4, 2 : 6 + seed] = 1
    return labels


def once(world: World) -> World:
    """Count an approval that was written again once: the first one may be there though it failed."""
    return {
        image_id: replace(seen, approved=tuple(outline for outline, _ in itertools.groupby(seen.approved)))
        for image_id, seen in world.items()
    }


class Workday(RuleBasedStateMachine):
    """What one annotator does, with another at times, and what both must see."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(dir=MEMORY))
        self.fault: int | None = None

    @initialize()
    def begin(self) -> None:
        images = {f"nevus {n}": noise(n) for n in range(3)}
        self.study = Study.create(self.scratch / "study", "am", images=images)
        self.world: World = {image_id: Seen() for image_id in self.study.state.images}
        self.drawn: set[str] = set()

    def act(self, name: str, image_id: str, *args: object) -> None:
        """Do something, after it failed once where a fault is waiting."""
        if name == "record":
            self._act(lambda: self.study.record(args[0], image_id, **args[1]))
        else:
            self._act(lambda: getattr(self.study, name)(image_id, *args))

    def _act(self, do: Callable[[], object]) -> None:
        if self.fault is not None:
            before, (point, error) = self.study.state, divmod(self.fault, 3)
            listener = fail_at(point, (errno.ENOSPC, errno.EIO, errno.EACCES)[error], lasting=True)
            self.fault = None
            try:
                with Tap(self.study.folder, listener):
                    do()
            except StudyError:
                assert self.study.state is before
            else:
                return
        do()

    def image_id(self, number: int) -> str:
        return list(self.world)[number]

    def see(self, image_id: str, **change: object) -> None:
        self.world[image_id] = replace(self.world[image_id], **change)

    @rule(number=numbers, seed=seeds)
    def predict(self, number: int, seed: int) -> None:
        image_id = self.image_id(number)
        self.act("record_prediction", image_id, labels_of(seed))
        if image_id not in self.drawn:
            self.see(image_id, outline=labels_of(seed).tobytes())
        if self.world[image_id].status == "unreviewed":
            self.see(image_id, status="predicted")

    @rule(number=numbers, seed=seeds)
    def correct(self, number: int, seed: int) -> None:
        image_id = self.image_id(number)
        self.act("save_correction", image_id, labels_of(seed))
        self.drawn.add(image_id)
        status = self.world[image_id].status
        waits = status in ("flagged", "returned")
        self.see(image_id, status=status if waits else "corrected", outline=labels_of(seed).tobytes())

    @rule(number=numbers, seed=seeds)
    def approve(self, number: int, seed: int) -> None:
        image_id, drawn = self.image_id(number), labels_of(seed).tobytes()
        self.act("approve", image_id, labels_of(seed))
        self._approved(image_id, drawn)

    @rule(number=numbers)
    def approve_as_it_is(self, number: int) -> None:
        image_id = self.image_id(number)
        outline = self.world[image_id].outline
        if outline is not None:
            self.act("approve", image_id)
            self._approved(image_id, outline)

    def _approved(self, image_id: str, outline: bytes) -> None:
        self.drawn.add(image_id)
        approved = (*self.world[image_id].approved, outline)
        self.see(image_id, status="approved", outline=outline, note="", approved=approved)

    @rule(number=numbers)
    def no_lesion(self, number: int) -> None:
        self.act("no_lesion", self.image_id(number))
        self.see(self.image_id(number), status="no lesion", note="")

    @rule(number=numbers, note=st.text(max_size=5))
    def flag(self, number: int, note: str) -> None:
        self.act("flag", self.image_id(number), note)
        self.see(self.image_id(number), status="flagged", note=note)

    @rule(number=numbers, value=st.sampled_from(["nevus", "melanoma", "halo nevus"]))
    def describe(self, number: int, value: str) -> None:
        image_id = self.image_id(number)
        self.act("record", image_id, Described, {"values": {"diagnosis": value}})
        self.see(image_id, values=(("diagnosis", value),))

    @rule(number=numbers, note=st.text(max_size=5))
    def return_to_am(self, number: int, note: str) -> None:
        image_id = self.image_id(number)
        self.act("record", image_id, Returned, {"to": "am", "note": note})
        self.see(image_id, status="returned", note=note)

    @rule(number=numbers)
    def reopen(self, number: int) -> None:
        image_id = self.image_id(number)
        self.act("reopen", image_id)
        state = self.study.state.images[image_id]
        expected = "unreviewed" if self.world[image_id].outline is None else "corrected"
        guess = state.predicted and self.study.read_revision(state.predicted).tobytes()
        if expected == "corrected" and guess == self.world[image_id].outline:
            expected = "predicted"
        self.see(image_id, status=expected, note="")

    @precondition(lambda self: self.fault is None)
    @rule(fault=st.integers(0, 40))
    def let_the_next_step_fail(self, fault: int) -> None:
        self.fault = fault

    @rule(torn=st.binary(max_size=30), number=numbers)
    def kill(self, torn: bytes, number: int) -> None:
        """Leave what a killed writer leaves: half a line, half a mask, without closing the study."""
        for file in (self.study.folder / "events").iterdir():
            with file.open("ab") as stream:
                stream.write(torn.replace(b"\n", b""))
        masks = self.study.folder / "masks" / self.image_id(number)
        masks.mkdir(exist_ok=True)
        (masks / ".0123456789abcdef.png.12345-0123456789ab.tmp").write_bytes(torn)
        self.open("am")

    @rule()
    def leave_and_come_back(self) -> None:
        self.study.close()
        self.open("am")

    @rule()
    def hand_over(self) -> None:
        """Another annotator continues."""
        self.open("bo" if self.study.annotator == "am" else "am")

    def open(self, annotator: str) -> None:
        self.study = Study.open(self.study.folder, annotator)
        assert self.study.problems == ()
        assert not list(self.study.folder.rglob("*.tmp"))

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        if hasattr(self, "study"):
            assert once(read_world(self.study)) == once(self.world)

    def teardown(self) -> None:
        if hasattr(self, "study"):
            again = Study.open(self.study.folder, "cy")
            assert once(read_world(again)) == once(self.world)
            assert find_damage(again) == ()
        shutil.rmtree(self.scratch)


TestWorkday = Workday.TestCase
TestWorkday.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
