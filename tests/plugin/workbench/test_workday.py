"""Any sequence of work in a session, with kills and reopenings, against plain arrays of what was seen."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench import image_review
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.events import Approved
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Click

SHAPE = (40, 60)
PLAIN = PostprocessConfig(fill_holes=False, largest_only=False, min_area=0, threshold=0.5)
SPOT = np.zeros(SHAPE, np.uint8)
SPOT[10:30, 20:45] = 1
NOTHING = np.zeros(SHAPE, np.uint8)
LONG_PAUSE_MS = 600_000
PLACES = st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))
NUMBERS = st.integers(0, 2)
Steps = tuple[list[np.ndarray], list[np.ndarray]]


def random_image(number: int) -> np.ndarray:
    """Draw a bright image with a dark spot, of which the fake network is sure."""
    image = np.full((*SHAPE, 3), 230, np.uint8)
    image[SPOT > 0] = 40
    image[0, number] = 200
    return image


class Workday(RuleBasedStateMachine):
    """An annotator at work; what she saw last of each image is what she finds again.

    Nothing is saved by itself here but what an image that is left had, so it is known what a kill leaves.
    """

    qtbot = network = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.session = None

    @initialize()
    def begin(self) -> None:
        images = {f"P{number}": random_image(number) for number in range(3)}
        study = Study.create(self.folder / "study", "am", images=images)
        self.ids = list(study.state.images)
        self.by_hand: dict[str, np.ndarray] = {}
        self.saved: dict[str, np.ndarray] = {}
        self.hidden: dict[str, tuple[np.ndarray | None, Steps]] = {}
        self.signed: list[tuple[str, np.ndarray]] = []
        self.open(study)

    def open(self, study: Study) -> None:
        self.steps: dict[str, Steps] = {}
        self.verdicts: list[tuple[str, str]] = []  # the image, and the one that came after it
        self.verdict_is_last = False
        self.viewer = ViewerModel()
        self.session = StudySession(self.viewer, study, PLAIN)
        self.session.set_model(self.network)
        self.session.begin()
        self.arrive()

    @property
    def editor(self) -> Any:
        return self.session.editor

    @property
    def mask(self) -> np.ndarray:
        """A copy: the snapshot itself must not change."""
        return self.editor.snapshot.mask.copy()

    @property
    def here(self) -> str:
        return self.session.image_id

    def wait(self) -> None:
        """Let everything finish that was begun."""
        session = self.session
        self.qtbot.waitUntil(
            lambda: (
                session.editor is not None
                and not session.editor.requests.queue.is_busy
                and not session.save_queue.pending
            ),
            timeout=20_000,
        )

    @property
    def past(self) -> list[np.ndarray]:
        """What undo leads to, the next one last."""
        return self.steps.setdefault(self.here, ([], []))[0]

    @property
    def future(self) -> list[np.ndarray]:
        """What redo leads to, the next one last."""
        return self.steps.setdefault(self.here, ([], []))[1]

    def arrive(self) -> None:
        self.wait()
        self.threshold, self.moved = self.editor.requests.config.threshold, False
        if self.here in self.hidden:  # what it hides keeps its steps only while it is on the screen
            self.hidden[self.here] = (self.hidden[self.here][0], ([], []))

    def expected(self, name: str) -> np.ndarray:
        """Say what is to be seen of an image: the annotator's outline, else what the network says."""
        return self.by_hand.get(name, SPOT)

    def step(self, before: np.ndarray, *, moved: bool = False) -> None:
        self.wait()
        if not (moved and self.moved):
            self.past.append(before)
        self.future.clear()
        self.moved = moved
        self.changed(self.mask)

    def changed(self, mask: np.ndarray) -> None:
        """Note what is to be seen of the image on the screen from now on."""
        self.by_hand[self.here] = mask
        self.hidden.pop(self.here, None)
        self.verdict_is_last = False

    def leave(self) -> None:
        """Note that what is on the screen goes to the disk."""
        if self.here in self.by_hand:
            self.saved[self.here] = self.by_hand[self.here]

    @rule(place=PLACES, size=st.integers(1, 9), value=st.integers(0, 1))
    def paint(self, place: Any, size: Any, value: Any) -> None:
        before, mask = self.mask, self.mask
        window = mask[place[0] : place[0] + size, place[1] : place[1] + size]
        window[...] = value
        rows, cols = np.nonzero(mask != before)
        if rows.size:
            self.editor.labels.data_setitem((rows, cols), value)
            self.step(before)
            assert np.array_equal(self.mask, mask)

    @rule(place=PLACES, positive=st.booleans())
    def click(self, place: Any, positive: Any) -> None:
        before = self.mask
        self.editor.add_stroke(Click(*place, positive))
        self.step(before)
        assert (self.mask[place] > 0) == positive

    @rule(threshold=st.sampled_from([0.3, 0.5, 0.9]))
    def move_threshold(self, threshold: Any) -> None:
        if threshold != self.threshold:
            before, self.threshold = self.mask, threshold
            self.session.display.set_config(PLAIN.model_copy(update={"threshold": threshold}))
            self.step(before, moved=True)

    @rule()
    def predict(self) -> None:
        before, touched = self.mask, self.here in self.by_hand
        self.editor.predict()
        self.step(before)
        if not touched:
            del self.by_hand[self.here]
        assert np.array_equal(self.mask, SPOT if self.threshold < 0.8 else NOTHING)

    @rule()
    def undo(self) -> None:
        assert self.editor.requests.can_undo == bool(self.past)
        if self.verdict_comes_first():
            self.undo_verdict()
        elif self.past:
            self.future.append(self.mask)
            self.editor.undo()
            self.went_to(self.past.pop())

    def verdict_comes_first(self) -> bool:
        """Whether undo takes back the verdict that led to this image."""
        if not self.verdicts or self.verdicts[-1][1] != self.here:
            return False
        return not self.past or (self.verdict_is_last and self.verdicts[-1][0] == self.here)

    def undo_verdict(self) -> None:
        name, _ = self.verdicts.pop()
        self.leave()
        self.editor.undo()
        self.qtbot.waitUntil(lambda: self.here == name, timeout=20_000)
        self.verdict_is_last = False
        self.bring_back()
        self.arrive()

    @rule()
    def redo(self) -> None:
        assert self.editor.document.can_redo == bool(self.future)
        if self.future:
            self.past.append(self.mask)
            self.editor.redo()
            self.went_to(self.future.pop())

    def went_to(self, mask: np.ndarray) -> None:
        self.wait()
        self.moved, self.threshold = False, self.editor.requests.config.threshold
        self.changed(mask)

    @rule(number=NUMBERS)
    def go_to(self, number: Any) -> None:
        if self.ids[number] != self.here:
            self.leave()
            self.session.open_image(self.ids[number])
            self.qtbot.waitUntil(lambda: self.here == self.ids[number], timeout=20_000)
            self.arrive()

    @rule()
    def approve(self) -> None:
        name, mask = self.here, self.mask
        if mask.any():
            self.changed(mask)
            self.signed.append((name, mask))
            self.on(self.session.review.approve)

    @rule()
    def no_lesion(self) -> None:
        self.hidden.setdefault(self.here, (self.by_hand.get(self.here), self.steps.get(self.here, ([], []))))
        self.leave()
        self.by_hand[self.here], self.steps[self.here] = NOTHING, ([], [])
        self.on(self.session.review.no_lesion)

    @rule()
    def flag(self) -> None:
        self.bring_back()
        self.on(lambda: self.session.review.flag("hair?"))

    @rule()
    def reopen(self) -> None:
        self.bring_back()
        self.leave()
        self.verdicts = [verdict for verdict in self.verdicts if verdict[0] != self.here]
        self.verdict_is_last = False
        self.session.verdicts.reopen()
        self.wait()

    def bring_back(self) -> None:
        """Put the outline that "no lesion" hid in its place again."""
        if self.here in self.hidden:
            mask, self.steps[self.here] = self.hidden.pop(self.here)
            self.by_hand.pop(self.here)
            self.saved.pop(self.here, None)
            if mask is not None:
                self.by_hand[self.here] = mask

    def on(self, verdict: Any) -> None:
        """Give a verdict about the image, which leads to the next one if there is one."""
        self.leave()
        name = self.here
        verdict()
        self.qtbot.waitUntil(lambda: self.here is not None, timeout=20_000)
        if self.here != name:
            self.arrive()
        else:
            self.wait()
            self.moved = False
        self.verdicts.append((name, self.here))
        self.verdict_is_last = True

    @rule()
    def save(self) -> None:
        self.leave()
        self.session.display.save()
        assert self.session.save_queue.flush() == ""
        assert self.session.save_queue.unsaved == 0

    @rule()
    def close_and_reopen(self) -> None:
        self.leave()
        name = self.here
        assert self.session.close() == ""
        self.open(Study.open(self.folder / "study", "am"))
        assert self.here == name

    @precondition(lambda self: self.session is not None)
    @rule()
    def kill(self) -> None:
        """What was saved is there; what was in hand, of this image alone, may be lost."""
        self.session.close(discard=True)
        self.by_hand = dict(self.saved)
        self.open(Study.open(self.folder / "study", "am"))

    @invariant()
    def what_was_seen_is_seen(self) -> None:
        if self.session is not None:
            np.testing.assert_array_equal(self.mask, self.expected(self.here))
            for name, mask in self.saved.items():
                np.testing.assert_array_equal(self.session.study.read_mask(name), mask)
            for name, mask in self.signed:
                kept = [entry for entry in self.session.study.history(name) if isinstance(entry, Approved)]
                assert any(np.array_equal(self.session.study.read_revision(entry), mask) for entry in kept)

    def teardown(self) -> None:
        if self.session is not None:
            self.session.close(discard=True)
        shutil.rmtree(self.folder)


@pytest.fixture
def workday(qtbot: QtBot, network: Any, monkeypatch: pytest.MonkeyPatch) -> type[Workday]:
    """The machine with a network, in which nothing is saved after a pause."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(image_review, "PAUSE_MS", LONG_PAUSE_MS)
    monkeypatch.setattr(Workday, "qtbot", qtbot)
    monkeypatch.setattr(Workday, "network", network)
    return Workday


def test_whatever_happens_the_annotator_finds_the_same_outlines(workday: type[Workday]) -> None:
    run_state_machine_as_test(
        workday,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            deadline=None,
            phases=[Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


FOUND: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "undo takes back a flag of the last image before its last step": [
        ("no_lesion", {}),
        ("no_lesion", {}),
        ("flag", {}),
        ("no_lesion", {}),
        ("click", {"place": (0, 58), "positive": False}),
        ("flag", {}),
        ("undo", {}),
        ("undo", {}),
    ],
    "steps are kept while another image is shown": [
        ("click", {"place": (0, 58), "positive": True}),
        ("go_to", {"number": 1}),
        ("go_to", {"number": 0}),
        ("undo", {}),
        ("redo", {}),
    ],
    "a move of the slider after a return is a step of its own": [
        ("move_threshold", {"threshold": 0.9}),
        ("go_to", {"number": 1}),
        ("go_to", {"number": 0}),
        ("move_threshold", {"threshold": 0.3}),
        ("undo", {}),
    ],
    "undo brings back the steps of an outline that no lesion hid": [
        ("click", {"place": (0, 58), "positive": True}),
        ("no_lesion", {}),
        ("undo", {}),
        ("undo", {}),
        ("redo", {}),
    ],
}
"""Sequences that once failed."""


@pytest.mark.parametrize("found", FOUND)
def test_a_sequence_that_failed_once(workday: type[Workday], found: str) -> None:
    state = workday()
    try:
        state.begin()
        for name, arguments in FOUND[found]:
            getattr(state, name)(**arguments)
            state.what_was_seen_is_seen()
    finally:
        state.teardown()
