"""Prompts are collected while the network is held."""

from __future__ import annotations

import numpy as np
from tests.plugin.editor.fakes import RecordedEditor, SlowJobs, apply_tool, base_mask

from napari_lesionseg.types import Box, Click, Prompts, Scribble

BOX = Prompts(box=Box(2, 2, 16, 20))


def network_inputs(editor: RecordedEditor) -> int:
    assert editor.requests.model is not None
    return len(editor.requests.model.inputs)  # type: ignore[attr-defined]


def test_the_network_runs_once_for_all_that_was_collected(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    runs = network_inputs(predicted)
    apply_tool(predicted, "hold")
    predicted.add_area(BOX)
    predicted.add_stroke(Click(8, 8, positive=False))
    predicted.add_stroke(Scribble(((4, 4), (4, 9))))
    assert not jobs.waiting
    assert not predicted.kinds
    overlay = predicted.document.overlay
    assert overlay.box == (2, 2, 16, 20)
    assert overlay.clicks == ((8, 8, False),)
    assert overlay.scribbles == ((((4, 4), (4, 9)), True),)
    apply_tool(predicted, "hold")
    jobs.finish()
    assert network_inputs(predicted) == runs + 1
    assert predicted.kinds == ["box"]
    snapshot = predicted.snapshot
    assert not snapshot.mask[8, 8]
    assert snapshot.mask[14, 18]
    assert not snapshot.mask[17:].any()
    assert snapshot.mask[4, 4:10].all()
    assert len(snapshot.strokes) == 2
    assert overlay.box is None
    predicted.remove_last_stroke()
    jobs.finish()
    assert predicted.snapshot.strokes == (Click(8, 8, positive=False),)
    predicted.undo()
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())


def test_undo_takes_back_what_was_collected_last(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.requests.hold(True)
    predicted.add_area(BOX)
    predicted.add_stroke(Click(8, 8, positive=False))
    predicted.undo()
    assert predicted.document.overlay.clicks == ()
    assert predicted.document.overlay.box is not None
    predicted.undo()
    assert predicted.document.overlay.box is None
    predicted.requests.hold(False)
    assert not jobs.waiting


def test_another_lesion_is_added_on_its_own(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.requests.hold(True)
    predicted.add_area(Prompts(box=Box(30, 0, 40, 10)), adds=True)
    predicted.add_stroke(Click(3, 50))
    predicted.requests.hold(False)
    jobs.finish()
    assert predicted.kinds == ["box", "click"]
    assert predicted.snapshot.mask[35, 5]
    assert predicted.snapshot.mask[3, 50]
    assert predicted.snapshot.mask[20, 30]


def test_a_box_is_shown_until_the_network_answers(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_area(BOX)
    assert predicted.document.overlay.box is not None
    jobs.finish()
    assert predicted.document.overlay.box is None
