from __future__ import annotations

import numpy as np
import pytest
from tests.plugin.editor.fakes import PLAIN, RecordedEditor, SlowJobs, base_mask

from napari_lesionseg.types import Box, Click, Prompts


def test_a_box_adds_what_is_found_in_it(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    before = predicted.snapshot.mask
    predicted.add_area(Prompts(box=Box(28, 2, 38, 12)), adds=True)
    jobs.finish()
    assert predicted.kinds == ["box"]
    assert np.all(predicted.snapshot.mask >= before)
    assert predicted.snapshot.mask[30:36, 4:10].all()
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.75}))
    assert not predicted.snapshot.mask[30:36, 4:10].any()
    predicted.set_config(PLAIN)
    predicted.add_stroke(Click(3, 50))
    jobs.finish()
    assert predicted.snapshot.mask[30:36, 4:10].all()


def test_what_a_box_added_stays_beside_the_largest_part(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.set_config(PLAIN.model_copy(update={"largest_only": True}))
    predicted.add_area(Prompts(box=Box(30, 0, 40, 10)), adds=True)
    jobs.finish()
    assert predicted.snapshot.mask[35, 5]
    assert predicted.snapshot.mask[20, 30]


def test_a_negative_click_removes_what_a_box_added(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_area(Prompts(box=Box(30, 0, 40, 10)), adds=True)
    jobs.finish()
    predicted.add_stroke(Click(35, 5, positive=False))
    jobs.finish()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())


@pytest.mark.parametrize(
    "box", [Box(5, 5, 7, 30), Box(100, 5, 200, 30), Box(-50, -50, -5, -5), Box(30, 30, 10, 10)]
)
def test_boxes_that_are_too_small_or_outside_are_ignored(
    predicted: RecordedEditor, jobs: SlowJobs, box: Box
) -> None:
    predicted.add_area(Prompts(box=box))
    assert not jobs.waiting
    assert not predicted.errors


@pytest.mark.parametrize("kind", ["box", "lasso"])
def test_a_gesture_replaces_the_outline_and_is_undone_as_one_step(
    predicted: RecordedEditor, jobs: SlowJobs, kind: str
) -> None:
    if kind == "box":
        predicted.add_area(Prompts(box=Box(2, 2, 14, 16)))
    else:
        predicted.add_area(Prompts(lasso=((2, 2), (2, 16), (14, 16), (14, 2))))
    jobs.finish()
    assert predicted.kinds == [kind]
    assert predicted.snapshot.mask[4:12, 4:14].all()
    assert not predicted.snapshot.mask[16:].any()
    predicted.add_stroke(Click(8, 8, positive=False))
    jobs.finish()
    assert not predicted.snapshot.mask[8, 8]
    assert predicted.snapshot.mask[4, 13]
    assert not predicted.snapshot.mask[16:].any()
    predicted.undo()
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
