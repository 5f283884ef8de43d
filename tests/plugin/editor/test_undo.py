from __future__ import annotations

import numpy as np
from napari.layers import Labels
from tests.plugin.editor.fakes import RecordedEditor, SlowJobs, base_mask, paint

from napari_lesionseg.types import Click


def test_a_stroke_made_after_a_pending_click_is_undone_first(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.add_clicks([Click(3, 3)])
    paint(predicted, range(35, 38), range(50, 55))
    predicted.undo()
    assert not predicted.snapshot.mask[35, 50]
    jobs.finish()
    assert predicted.snapshot.clicks == (Click(3, 3),)


def test_undo_of_the_layer_is_undo_of_the_editor(predicted: RecordedEditor) -> None:
    paint(predicted, range(35, 38), range(5, 9))
    predicted.labels.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    predicted.labels.undo()
    assert not predicted.snapshot.mask.any()
    predicted.labels.redo()
    predicted.labels.redo()
    assert predicted.snapshot.mask[35, 5]
    assert predicted.kinds[-4:] == ["undo", "undo", "redo", "redo"]


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
