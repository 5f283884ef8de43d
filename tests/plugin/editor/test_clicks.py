from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.plugin.editor.fakes import SHAPE, RecordedEditor, SlowJobs, apply_tool, base_mask, paint

from napari_lesionseg.inference.postprocess import stroke_pixels
from napari_lesionseg.types import Click, Scribble


def test_the_next_click_builds_on_the_last_prediction(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    assert predicted.snapshot.mask[3, 3] == 1
    predicted.add_stroke(Click(20, 30, positive=False))
    jobs.finish()
    assert predicted.snapshot.mask[20, 30] == 0
    clicks, previous = predicted.requests.model.inputs[-1]
    assert clicks == (Click(3, 3), Click(20, 30, positive=False))
    assert previous[3, 3] == pytest.approx(0.8)


def test_undo_removes_the_click_and_the_next_one_builds_on_the_state_before(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    predicted.undo()
    assert predicted.snapshot.strokes == ()
    assert predicted.document.overlay.clicks == ()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    predicted.add_stroke(Click(35, 50))
    jobs.finish()
    clicks, previous = predicted.requests.model.inputs[-1]
    assert clicks == (Click(35, 50),)
    assert previous[3, 3] < 0.2


def test_clicks_are_shown_before_their_prediction(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 3))
    assert predicted.document.overlay.clicks == ((3, 3, True),)
    assert predicted.snapshot.strokes == ()
    jobs.finish()
    assert predicted.snapshot.strokes == (Click(3, 3),)


def test_clicks_outside_the_image_are_ignored(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    for row, col in [(-1, 5), (5, -0.6), (SHAPE[0], 5), (5, 1e9)]:
        predicted.add_stroke(Click(row, col))
    assert not jobs.waiting
    assert not predicted.document.can_redo


def test_clicks_made_meanwhile_are_sent_together(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    for col in (3, 20, 50):
        predicted.add_stroke(Click(3, col))
    jobs.finish()
    assert len(predicted.requests.model.inputs) == 3  # the prediction, the first click, the other two
    assert predicted.snapshot.strokes == tuple(Click(3, col) for col in (3, 20, 50))
    predicted.undo()
    assert predicted.snapshot.strokes == (Click(3, 3),)


def test_undo_cancels_a_click_without_a_prediction(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 3))
    predicted.add_stroke(Click(3, 50))
    predicted.undo()
    predicted.undo()
    jobs.finish()
    assert predicted.snapshot.strokes == ()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    assert not predicted.requests.can_undo


@pytest.mark.parametrize("way", ["undo", "remove_last_stroke"])
def test_of_clicks_sent_together_only_the_last_is_taken_back(
    predicted: RecordedEditor, jobs: SlowJobs, way: str
) -> None:
    """Both were, once the network worked on them or a step before them was undone."""
    first, second, third = Click(5, 5), Click(8, 50), Click(30, 30)
    predicted.add_stroke(first)
    predicted.add_stroke(second)
    predicted.add_stroke(third)
    jobs.finish_one()  # the second and the third are sent together
    getattr(predicted, way)()
    assert predicted.document.pending.strokes == (second,)
    jobs.finish()
    assert predicted.snapshot.strokes == (first, second)
    assert not predicted.requests.queue.is_busy


@pytest.mark.parametrize("positive", [True, False])
def test_every_pixel_of_a_scribble_is_honored_and_undone_in_one_step(
    predicted: RecordedEditor, jobs: SlowJobs, positive: bool
) -> None:
    line = Scribble(((3.0, 5.0), (20.0, 50.0), (36.0, 30.0)), positive)
    predicted.add_stroke(line)
    jobs.finish()
    rows, cols = stroke_pixels(line, SHAPE).T
    assert len(rows) > 45
    assert (predicted.snapshot.mask[rows, cols] == positive).all()
    predicted.undo()
    assert predicted.snapshot.strokes == ()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())


def test_a_scribble_after_a_click_counts_where_they_meet(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(20, 30))
    predicted.add_stroke(Scribble(((20.0, 10.0), (20.0, 50.0)), positive=False))
    jobs.finish()
    assert not predicted.snapshot.mask[20, 10:51].any()
    predicted.add_stroke(Click(20, 30))
    jobs.finish()
    assert predicted.snapshot.mask[20, 30]


def test_a_scribble_that_leaves_the_image_counts_where_it_is_inside(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.add_stroke(
        Scribble(((3.0, 50.0), (3.0, 59.0), (3.0, 1e6), (-1e6, 0.0), (38.0, 3.0), (38.0, 9.0)))
    )
    jobs.finish()
    assert predicted.snapshot.mask[3, 50:].all()
    assert predicted.snapshot.mask[38, 3:10].all()


def test_removing_the_last_click_does_not_need_the_network(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    first = predicted.snapshot.mask
    predicted.add_stroke(Scribble(((35.0, 5.0), (35.0, 40.0))))
    jobs.finish()
    asked = len(predicted.requests.model.inputs)
    predicted.remove_last_stroke()
    np.testing.assert_array_equal(predicted.snapshot.mask, first)
    assert predicted.snapshot.strokes == (Click(3, 3),)
    predicted.remove_last_stroke()
    predicted.remove_last_stroke()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    assert len(predicted.requests.model.inputs) == asked
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, first)


def test_removing_the_last_click_cancels_one_without_a_prediction(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.add_stroke(Click(3, 3))
    predicted.remove_last_stroke()
    jobs.finish()
    assert predicted.snapshot.strokes == ()
    assert not predicted.document.can_redo


def test_a_contradicting_click_returns_the_painted_part_to_the_network(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    paint(predicted, range(35, 39), range(2, 8))
    paint(predicted, range(35, 39), range(50, 58))
    predicted.add_stroke(Click(36, 4, positive=False))
    jobs.finish()
    assert not predicted.snapshot.mask[35:39, 2:8].any()
    assert predicted.snapshot.mask[35:39, 50:58].all()


def test_after_clear_the_network_does_not_see_its_old_answer(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    network: Any = predicted.requests.model
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    assert network.inputs[-1][1] is not None
    apply_tool(predicted, "clear")
    assert not predicted.snapshot.mask.any()
    predicted.add_stroke(Click(20, 30))
    jobs.finish()
    assert network.inputs[-1] == ((Click(20, 30),), None)
    assert predicted.snapshot.mask[20, 30]


def test_what_was_painted_after_clear_is_seen_by_the_network(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    network: Any = predicted.requests.model
    apply_tool(predicted, "clear")
    paint(predicted, range(5, 9), range(5, 9))
    predicted.add_stroke(Click(20, 30))
    jobs.finish()
    previous = network.inputs[-1][1]
    assert previous[5:9, 5:9].min() == 1
    assert previous[15:25, 25:35].max() < 0.01
