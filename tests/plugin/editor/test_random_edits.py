from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from scipy import ndimage
from tests.plugin.editor.fakes import (
    PLAIN,
    SHAPE,
    SlowJobs,
    apply_tool,
    base_probability,
    make_editor,
    paint,
    stamped,
)

from napari_lesionseg.inference.postprocess import stroke_pixels, stroked_pixels
from napari_lesionseg.types import Click, Scribble


@dataclasses.dataclass
class Seen:
    """What the user should see, and what stands behind it, in plain arrays."""

    mask: np.ndarray
    hand: np.ndarray
    strokes: tuple = ()
    threshold: float = 0.5
    source: str = "none"  # "none", "network" or "nothing"

    def probability(self) -> np.ndarray:
        if self.source != "network":
            return np.zeros(SHAPE)
        return stamped(base_probability(), self.strokes)

    def redraw(self) -> Seen:
        drawn = (self.probability() >= self.threshold).astype(np.uint8)
        return dataclasses.replace(self, mask=np.where(self.hand, self.mask, drawn))


def first_outline(seen: Seen) -> Seen:
    """Put the first prediction below what was painted before it."""
    return dataclasses.replace(seen, strokes=(), source="network").redraw()


NO_HAND = np.zeros(SHAPE, dtype=bool)
SPOTS = st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))


class Correcting(RuleBasedStateMachine):
    """Whatever is done in whatever order, the layer shows what a plain model of arrays says."""

    jobs: SlowJobs

    def __init__(self) -> None:
        super().__init__()
        self.jobs.waiting.clear()
        self.editor = make_editor()
        self.now = Seen(np.zeros(SHAPE, dtype=np.uint8), NO_HAND)
        self.past, self.future, self.last = [], [], ""
        self.flying, self.waiting = [], []

    def step(self, seen: Seen, kind: str) -> None:
        if not (kind == self.last == "threshold" and self.past and not self.future):
            self.past.append(self.now)
        self.now, self.future, self.last = seen, [], kind

    def pump(self) -> None:
        if not self.flying and self.waiting:
            if self.waiting[0][0] == "prediction":
                self.flying, self.waiting = [(*self.waiting[0], self.now)], self.waiting[1:]
            else:
                clicks = [request for request in self.waiting if request[0] == "click"]
                self.flying, self.waiting = clicks, []

    @rule()
    def predict(self) -> None:
        self.editor.predict()
        self.flying, self.waiting = [], [("prediction", (), len(self.past))]
        self.pump()

    @rule(spot=SPOTS, positive=st.booleans())
    def click(self, spot: Any, positive: Any) -> None:
        if self.now.source == "none" and self.now.mask.any() and not self.flying:
            return  # asks for the answer behind the strokes first: tested apart
        if any(request[0] == "prediction" for request in self.flying):
            return
        self.editor.add_stroke(Click(*spot, positive))
        self.waiting.append(("click", Click(*map(float, spot), positive), len(self.past)))
        self.pump()

    @rule(first=SPOTS, last=SPOTS, positive=st.booleans())
    def scribble(self, first: Any, last: Any, positive: Any) -> None:
        if self.now.source == "none" and self.now.mask.any() and not self.flying:
            return  # as for clicks
        if any(request[0] == "prediction" for request in self.flying):
            return
        drawn = Scribble((first, last), positive)
        self.editor.add_stroke(drawn)
        self.waiting.append(("click", drawn, len(self.past)))
        self.pump()

    @precondition(lambda self: self.flying)
    @rule()
    def answer(self) -> None:
        while not self.jobs.waiting[0].wanted:
            self.jobs.waiting.pop(0)
        self.jobs.finish_one()
        flown, self.flying, depth = self.flying, [], len(self.past)
        if flown[0][0] == "prediction":
            before, since = flown[0][3], self.now.mask != flown[0][3].mask
            if self.now.source == "none":
                self.past = [first_outline(seen) for seen in self.past]
                self.now, self.future, self.last = first_outline(self.now), [], ""
                if not before.hand.any():
                    self.pump()
                    return
            fresh = dataclasses.replace(self.now, hand=since, strokes=(), source="network")
            self.step(fresh.redraw(), "prediction")
        else:
            hand = self.now.hand
            drawn = [stroke for _, stroke, _ in flown]
            for stroke in drawn:
                for pixel in map(tuple, stroke_pixels(stroke, SHAPE).tolist()):
                    value = self.now.mask[pixel] > 0
                    if hand[pixel] and value != stroke.positive:
                        same, _ = ndimage.label(hand & ((self.now.mask > 0) == value), np.ones((3, 3)))
                        hand = hand & (same != same[pixel])
            strokes = (*self.now.strokes, *drawn)
            then = dataclasses.replace(self.now, hand=hand, strokes=strokes, source="network")
            self.step(then.redraw(), "click")
            pixels, positive = stroked_pixels(drawn, SHAPE)
            rows, cols = pixels.T
            assert np.array_equal(self.editor.labels.data[rows, cols] > 0, positive)
        # The step of the answer comes before what was asked for since, not after it.
        self.waiting = [
            (kind, stroke, len(self.past) if since == depth else since)
            for kind, stroke, since in self.waiting
        ]
        self.pump()

    @rule(spot=SPOTS, size=st.integers(1, 12), value=st.integers(0, 1))
    def paint(self, spot: Any, size: Any, value: Any) -> None:
        rows = range(spot[0], min(spot[0] + size, SHAPE[0]))
        cols = range(spot[1], min(spot[1] + size, SHAPE[1]))
        paint(self.editor, rows, cols, value)
        mask = self.now.mask.copy()
        mask[rows.start : rows.stop, cols.start : cols.stop] = value
        self.stroke(mask, "stroke")

    def stroke(self, mask: np.ndarray, kind: str) -> None:
        changed = mask != self.now.mask
        if changed.any():
            self.step(dataclasses.replace(self.now, mask=mask, hand=self.now.hand | changed), kind)

    @rule(threshold=st.sampled_from([0.3, 0.45, 0.5, 0.7]))
    def move_threshold(self, threshold: Any) -> None:
        if self.now.source == "none" and self.now.mask.any():
            return
        self.editor.set_config(PLAIN.model_copy(update={"threshold": threshold}))
        if threshold != self.now.threshold:
            then = dataclasses.replace(self.now, threshold=threshold)
            self.step(then.redraw() if self.now.source != "none" else then, "threshold")

    @rule(spot=SPOTS)
    def remove_part(self, spot: Any) -> None:
        apply_tool(self.editor, "remove_part", *spot)
        parts, _ = ndimage.label(self.now.mask, np.ones((3, 3)))
        if parts[spot]:
            self.stroke(np.where(parts == parts[spot], 0, self.now.mask).astype(np.uint8), "tool")

    @rule()
    def clear(self) -> None:
        apply_tool(self.editor, "clear")
        self.flying, self.waiting = [], []
        nothing = Seen(np.zeros(SHAPE, np.uint8), NO_HAND, (), self.now.threshold, "nothing")
        self.step(nothing, "tool")

    @rule()
    def undo(self) -> None:
        self.editor.undo()
        if self.waiting and self.waiting[-1][2] >= len(self.past):
            self.waiting.pop()
        elif self.flying and not self.waiting and self.flying[-1][2] >= len(self.past):
            self.send_again(self.flying[:-1])
        elif self.past:
            self.future.append(self.now)
            self.now, self.last = self.past.pop(), ""
            self.send_again([*self.flying, *self.waiting])  # the mask that they were about was undone

    def send_again(self, requests: list) -> None:
        self.flying, self.waiting = [], [request[:3] for request in requests]
        self.pump()

    @rule()
    def redo(self) -> None:
        self.editor.redo()
        if self.future:
            self.flying, self.waiting = [], []
            self.past.append(self.now)
            self.now, self.last = self.future.pop(), ""

    @precondition(lambda self: not self.flying and not self.waiting)
    @rule()
    def backspace(self) -> None:
        if None in self.editor.snapshot.predictions[:-1]:
            return  # merged clicks ask the network again: tested apart
        self.editor.remove_last_stroke()
        if self.now.strokes:
            then = dataclasses.replace(self.now, strokes=self.now.strokes[:-1])
            if not then.strokes and self.editor.snapshot.prediction is self.editor.snapshot.predictions[0]:
                then = dataclasses.replace(then, source=self.source_before_clicks())
            self.step(then.redraw(), "click")

    def source_before_clicks(self) -> str:
        prediction = self.editor.snapshot.prediction
        if prediction is None:
            return "none"
        return "network" if prediction.logits.size > 1 else "nothing"

    def teardown(self) -> None:
        self.editor.close()

    @invariant()
    def what_is_seen_is_right(self) -> None:
        np.testing.assert_array_equal(self.editor.labels.data, self.now.mask)
        assert self.editor.snapshot.strokes == self.now.strokes
        assert self.editor.requests.config.threshold == self.now.threshold
        assert self.editor.requests.can_undo == bool(self.past or self.flying or self.waiting)
        assert self.editor.document.can_redo == bool(self.future)
        assert self.editor.requests.queue.is_busy == bool(self.flying)


def test_any_sequence_of_edits_matches_a_plain_model(jobs: SlowJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Correcting, "jobs", jobs, raising=False)
    run_state_machine_as_test(
        Correcting,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, phases=[Phase.reuse, Phase.generate]
        ),
    )
