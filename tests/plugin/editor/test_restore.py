from __future__ import annotations

import numpy as np
from tests.fakes import prediction_of
from tests.plugin.editor.fakes import (
    PLAIN,
    SHAPE,
    RecordedEditor,
    SlowJobs,
    apply_tool,
    base_mask,
    base_probability,
    stamped,
)

from napari_lesionseg.plugin.editor.editor import saved_history
from napari_lesionseg.types import Click


def test_a_restored_mask_starts_a_new_history(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[20:30, 5:15] = 1
    predicted.restore(
        saved_history(predicted, mask, [Click(25, 10)], PLAIN.model_copy(update={"threshold": 0.7}))
    )
    np.testing.assert_array_equal(predicted.snapshot.mask, mask)
    assert predicted.snapshot.strokes == (Click(25, 10),)
    assert predicted.requests.config.threshold == 0.7
    assert not predicted.requests.can_undo
    assert predicted.kinds == ["restored"]
    assert predicted.document.overlay.clicks == ((25, 10, True),)


def test_corrections_of_a_restored_mask_survive_clicks(editor: RecordedEditor, jobs: SlowJobs) -> None:
    mask = base_mask()
    mask[35:39, 2:8] = 1
    mask[12:15, 22:26] = 0
    editor.restore(saved_history(editor, mask))
    editor.add_stroke(Click(3, 50))
    jobs.finish()
    assert editor.snapshot.mask[35:39, 2:8].all()
    assert not editor.snapshot.mask[12:15, 22:26].any()
    assert editor.snapshot.mask[3, 50]
    editor.undo()
    np.testing.assert_array_equal(editor.snapshot.mask, mask)
    assert not editor.requests.can_undo


def test_the_threshold_of_a_restored_outline_can_be_moved(editor: RecordedEditor, jobs: SlowJobs) -> None:
    mask = base_mask()
    mask[35:39, 2:8] = 1
    editor.restore(saved_history(editor, mask))
    editor.set_config(PLAIN.model_copy(update={"threshold": 0.3}))
    jobs.finish()
    expected = base_mask(0.3)
    expected[35:39, 2:8] = 1
    np.testing.assert_array_equal(editor.snapshot.mask, expected)
    editor.undo()
    np.testing.assert_array_equal(editor.snapshot.mask, mask)


def test_the_last_restored_click_can_be_removed(editor: RecordedEditor, jobs: SlowJobs) -> None:
    clicks = [Click(3, 3), Click(3, 50)]
    editor.restore(
        saved_history(editor, (stamped(base_probability(), clicks) >= 0.5).astype(np.uint8), clicks)
    )
    editor.remove_last_stroke()
    jobs.finish()
    assert editor.snapshot.strokes == (Click(3, 3),)
    np.testing.assert_array_equal(editor.snapshot.mask, stamped(base_probability(), clicks[:1]) >= 0.5)


def test_a_prefetched_prediction_does_not_change_a_restored_mask(
    editor: RecordedEditor, jobs: SlowJobs
) -> None:
    mask = base_mask()
    mask[35:39, 2:8] = 1
    editor.restore(saved_history(editor, mask))
    editor.set_prediction(prediction_of(base_probability()), draw=False)
    np.testing.assert_array_equal(editor.snapshot.mask, mask)
    apply_tool(editor, "back_to_prediction")
    np.testing.assert_array_equal(editor.snapshot.mask, base_mask())
    assert not jobs.waiting
