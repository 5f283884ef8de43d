from __future__ import annotations

import numpy as np
from tests.plugin.editor.fakes import PLAIN, SHAPE, RecordedEditor, SlowJobs, base_mask, paint

from napari_lesionseg.types import Click


def test_painted_pixels_survive_clicks_and_thresholds(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    paint(predicted, range(35, 39), range(2, 8))
    paint(predicted, range(12, 15), range(22, 26), value=0)
    predicted.add_stroke(Click(3, 50))
    jobs.finish()
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.3}))
    assert predicted.snapshot.mask[35:39, 2:8].all()
    assert not predicted.snapshot.mask[12:15, 22:26].any()
    assert predicted.snapshot.mask[3, 50]
    _, previous = predicted.requests.model.inputs[-1]
    assert (previous[35:39, 2:8] == 1).all()
    assert (previous[12:15, 22:26] == 0).all()


def test_a_stroke_is_one_step(predicted: RecordedEditor) -> None:
    with predicted.labels.block_history():
        for col in range(5, 15, 3):
            predicted.labels.paint((35, col), 1)
    assert predicted.kinds == ["stroke"]
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())


def test_a_polygon_is_one_step(predicted: RecordedEditor) -> None:
    predicted.labels.paint_polygon([(34, 2), (38, 2), (38, 12), (34, 12)], 1)
    assert predicted.kinds == ["stroke"]
    assert predicted.snapshot.mask[36, 8]
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())


def test_a_prediction_during_a_stroke_keeps_both(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 3))
    with predicted.labels.block_history():
        predicted.labels.paint((35, 10), 1)
        jobs.finish()
        predicted.labels.paint((35, 50), 1)
    assert (
        predicted.snapshot.mask[35, 10]
        == predicted.snapshot.mask[35, 50]
        == predicted.snapshot.mask[3, 3]
        == 1
    )


def test_pixels_written_directly_are_recorded(predicted: RecordedEditor) -> None:
    predicted.labels.data[35:38, 5:9] = 1
    assert predicted.requests.can_undo
    predicted.undo()
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())


def test_data_replaced_by_the_same_size_are_a_stroke(predicted: RecordedEditor) -> None:
    predicted.labels.data = np.zeros(SHAPE, dtype=np.int32)
    assert not predicted.snapshot.mask.any()
    predicted.undo()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())


def test_strokes_made_during_a_prediction_stay(editor: RecordedEditor, jobs: SlowJobs) -> None:
    editor.predict()
    paint(editor, range(35, 39), range(2, 8))
    jobs.finish()
    np.testing.assert_array_equal(editor.snapshot.mask[:34], base_mask()[:34])
    assert editor.snapshot.mask[35:39, 2:8].all()


def test_the_active_class_is_painted(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.labels.selected_label = 2
    assert predicted.labels.selected_label == 2
    predicted.add_stroke(Click(3, 50))
    jobs.finish()
    assert predicted.snapshot.mask[3, 50] == 2
    assert predicted.snapshot.mask[20, 30] == 1
