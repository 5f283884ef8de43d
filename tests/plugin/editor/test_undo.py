from __future__ import annotations

import numpy as np
from napari.layers import Labels
from tests.plugin.editor.fakes import RecordedEditor, SlowJobs, base_mask, paint

from napari_lesionseg.types import Click


def test_a_stroke_made_after_a_pending_click_is_undone_first(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.add_stroke(Click(3, 3))
    paint(predicted, range(35, 38), range(50, 55))
    predicted.undo()
    assert not predicted.snapshot.mask[35, 50]
    jobs.finish()
    assert predicted.snapshot.strokes == (Click(3, 3),)


def test_undo_of_the_layer_is_undo_of_the_editor(predicted: RecordedEditor) -> None:
    paint(predicted, range(35, 38), range(5, 9))
    predicted.labels.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    predicted.labels.redo()
    assert predicted.snapshot.mask[35, 5]
    assert predicted.kinds[-2:] == ["undo", "redo"]


def test_the_keys_of_napari_lead_to_the_editor(predicted: RecordedEditor) -> None:
    paint(predicted, range(35, 38), range(5, 9))
    bound = {str(key): function for key, function in Labels.class_keymap.items()}
    bound["Ctrl+Z"](predicted.labels)
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    bound["Ctrl+Shift+Z"](predicted.labels)
    assert predicted.snapshot.mask[35, 5]


def test_the_history_of_napari_stays_empty_until_the_editor_is_closed(predicted: RecordedEditor) -> None:
    paint(predicted, range(35, 38), range(5, 9))
    assert not predicted.labels._undo_history
    before = predicted.snapshot.mask
    predicted.close()
    paint(predicted, range(3), range(5, 9))
    predicted.labels.undo()
    np.testing.assert_array_equal(predicted.labels.data, before)
    assert predicted.kinds == ["stroke"]


def test_undo_never_removes_the_first_outline(predicted: RecordedEditor) -> None:
    paint(predicted, range(35, 38), range(5, 9))
    for _ in range(3):
        predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    assert not predicted.requests.can_undo


def test_strokes_painted_before_the_first_outline_are_undone_above_it(
    editor: RecordedEditor, jobs: SlowJobs
) -> None:
    paint(editor, range(3), range(5, 9))
    editor.document.record_painting()
    editor.predict()
    paint(editor, range(35, 38), range(50, 55))
    jobs.finish()
    since = base_mask()
    since[35:38, 50:55] = 1  # what was painted before is replaced, as whenever a prediction is asked for
    np.testing.assert_array_equal(editor.snapshot.mask, since)
    editor.undo()
    both = since.copy()
    both[:3, 5:9] = 1
    np.testing.assert_array_equal(editor.snapshot.mask, both)
    editor.undo()
    first = base_mask()
    first[:3, 5:9] = 1
    np.testing.assert_array_equal(editor.snapshot.mask, first)
    editor.undo()
    np.testing.assert_array_equal(editor.snapshot.mask, base_mask())
    editor.undo()
    np.testing.assert_array_equal(editor.snapshot.mask, base_mask())
    editor.redo()
    editor.redo()
    np.testing.assert_array_equal(editor.snapshot.mask, both)


def test_strokes_painted_while_the_first_outline_is_computed_stay(
    editor: RecordedEditor, jobs: SlowJobs
) -> None:
    editor.predict()
    paint(editor, range(35, 38), range(50, 55))
    jobs.finish()
    both = base_mask()
    both[35:38, 50:55] = 1
    np.testing.assert_array_equal(editor.snapshot.mask, both)
    editor.undo()
    np.testing.assert_array_equal(editor.snapshot.mask, base_mask())
    assert not editor.requests.can_undo


def test_a_prediction_asked_for_again_is_a_step(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    paint(predicted, range(35, 38), range(5, 9))
    painted = predicted.snapshot.mask
    predicted.predict()
    jobs.finish()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, painted)


def test_of_two_clicks_the_last_is_undone_first_though_only_the_first_is_answered(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.add_stroke(Click(3, 3))
    predicted.add_stroke(Click(36, 50))
    jobs.finish_one()
    predicted.undo()
    jobs.finish()
    assert predicted.snapshot.strokes == (Click(3, 3),)
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())


def test_a_click_in_progress_is_sent_again_when_what_it_built_on_is_undone(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    predicted.add_stroke(Click(36, 50))
    paint(predicted, range(35, 38), range(10, 15))
    predicted.undo()
    jobs.finish()
    assert predicted.snapshot.strokes == (Click(3, 3), Click(36, 50))
    assert predicted.snapshot.mask[36, 50]
    assert not predicted.snapshot.mask[36, 12]
