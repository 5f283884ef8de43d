from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QApplication
from superqt.utils._qthreading import WorkerBase
from tests.fakes import prediction_of
from tests.plugin.editor.fakes import (
    EDITS,
    PLAIN,
    SHAPE,
    Network,
    RecordedEditor,
    SlowJobs,
    apply_tool,
    base_mask,
    base_probability,
    make_editor,
    paint,
)

from napari_lesionseg.errors import DeviceError, MaskError, ModelNotFoundError
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.napari_layers.layers import new_outline
from napari_lesionseg.types import Box, Click, Prompts


def test_a_prediction_is_drawn_as_the_base_of_the_history(editor: RecordedEditor, jobs: SlowJobs) -> None:
    editor.predict()
    assert editor.requests.queue.is_busy
    jobs.finish()
    np.testing.assert_array_equal(editor.labels.data, base_mask())
    assert editor.kinds == ["prediction"]
    assert not editor.requests.queue.is_busy
    assert not editor.requests.can_undo
    assert editor.snapshot.prediction.probability().max() == pytest.approx(0.9)


def test_busy_is_emitted_once_each_way(editor: RecordedEditor, jobs: SlowJobs) -> None:
    told = []
    editor.busy.connect(told.append)
    editor.predict()
    editor.add_stroke(Click(5, 5))
    jobs.finish()
    assert told == [True, False]


def test_a_prefetched_prediction_does_not_need_the_network(editor: RecordedEditor, jobs: SlowJobs) -> None:
    encoded = editor.requests.model.encode(np.zeros((*SHAPE, 3), dtype=np.uint8))
    editor.set_prediction(prediction_of(base_probability()), encoded)
    np.testing.assert_array_equal(editor.snapshot.mask, base_mask())
    assert not editor.requests.model.inputs
    editor.add_stroke(Click(3, 3))
    jobs.finish()
    assert editor.requests.model.encoded == 1


def test_a_prediction_of_another_image_is_rejected(editor: RecordedEditor) -> None:
    editor.set_prediction(prediction_of(base_probability((41, 60))))
    assert isinstance(editor.errors[0], MaskError)
    assert not editor.snapshot.mask.any()


def test_without_a_model_painting_works_and_clicks_report_why_not(jobs: SlowJobs) -> None:
    editor, errors = make_editor(model=None), []
    editor.failed.connect(errors.append)
    editor.predict()
    editor.add_stroke(Click(3, 3))
    assert [type(error) for error in errors] == [ModelNotFoundError] * 2
    paint(editor, range(3), range(3))
    editor.undo()
    assert not editor.snapshot.mask.any()
    editor.requests.set_model(Network())
    editor.predict()
    jobs.finish()
    np.testing.assert_array_equal(editor.snapshot.mask, base_mask())


def test_another_model_encodes_the_image_again(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    other = Network()
    predicted.requests.set_model(other)
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    assert other.encoded == 1


def test_a_changed_image_is_encoded_again(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.image.data = np.zeros((*SHAPE, 3), dtype=np.uint8)
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    assert predicted.requests.model.encoded == 2


def test_if_the_network_fails_only_the_pending_clicks_are_lost(
    predicted: RecordedEditor, jobs: SlowJobs
) -> None:
    predicted.requests.model.error = DeviceError("There is not enough memory.")
    predicted.add_stroke(Click(3, 3))
    predicted.add_stroke(Click(3, 50))
    jobs.finish()
    assert [str(error) for error in predicted.errors] == ["There is not enough memory."]
    assert predicted.document.overlay.clicks == ()
    assert not predicted.requests.queue.is_busy
    np.testing.assert_array_equal(predicted.snapshot.mask, base_mask())
    predicted.requests.model.error = None
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    assert predicted.snapshot.strokes == (Click(3, 3),)


@pytest.mark.parametrize("gone", ["labels", "image", "all"])
def test_predictions_of_closed_layers_are_discarded(
    predicted: RecordedEditor, jobs: SlowJobs, gone: str
) -> None:
    predicted.add_stroke(Click(3, 3))
    viewer = predicted.viewer
    viewer.layers.clear() if gone == "all" else viewer.layers.remove(getattr(predicted, gone))
    jobs.finish()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())
    assert not predicted.errors


def everything(editor: RecordedEditor) -> None:
    editor.predict()
    editor.add_stroke(Click(3, 3))
    editor.remove_last_stroke()
    editor.add_area(Prompts(box=Box(5, 5, 30, 30)))
    editor.set_config(PLAIN.model_copy(update={"threshold": 0.2}))
    for tool in EDITS:
        apply_tool(editor, tool, 3, 3)
    editor.set_prediction(prediction_of(base_probability()))
    editor.undo()
    editor.redo()


def test_nothing_is_written_into_a_deleted_layer(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.viewer.layers.remove(predicted.labels)
    everything(predicted)
    jobs.finish()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())
    assert all(isinstance(error, MaskError) for error in predicted.errors)
    assert predicted.errors


def test_nothing_is_written_into_a_reshaped_layer(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 3))
    predicted.labels.data = np.full((30, 30), 3, dtype=np.uint8)
    jobs.finish()
    everything(predicted)
    jobs.finish()
    assert (predicted.labels.data == 3).all()
    assert predicted.snapshot.mask.shape == SHAPE


def test_nothing_is_written_into_a_layer_made_a_stack(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.labels.data = np.full((2, *SHAPE), 3, dtype=np.uint8)
    everything(predicted)
    jobs.finish()
    assert (predicted.labels.data == 3).all()


def test_a_closed_editor_does_nothing(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.add_stroke(Click(3, 3))
    predicted.close()
    predicted.close()
    jobs.finish()
    everything(predicted)
    jobs.finish()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())
    assert not predicted.errors
    assert predicted.kinds == []


def test_renaming_and_duplicating_change_nothing(predicted: RecordedEditor, jobs: SlowJobs) -> None:
    predicted.labels.name = "mine"
    duplicate = Labels(predicted.labels.data.copy(), name="mine")
    predicted.viewer.add_layer(duplicate)
    predicted.add_stroke(Click(3, 3))
    jobs.finish()
    assert predicted.snapshot.mask[3, 3]
    np.testing.assert_array_equal(duplicate.data, base_mask())


def test_a_stack_is_rejected() -> None:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((3, 40, 60, 3), dtype=np.uint8), rgb=True)
    labels = new_outline(image)
    viewer.add_layer(labels)
    with pytest.raises(MaskError, match="single images"):
        MaskEditor(viewer, image, labels, config=PLAIN, model=None)


def test_predictions_come_from_a_real_thread(qtbot: QtBot) -> None:
    editor = make_editor()
    changed = []
    editor.changed.connect(changed.append)
    editor.predict()
    qtbot.waitUntil(lambda: changed == ["prediction"], timeout=20_000)
    np.testing.assert_array_equal(editor.snapshot.mask, base_mask())
    editor.add_stroke(Click(3, 3))
    qtbot.waitUntil(lambda: len(changed) == 2, timeout=20_000)
    assert editor.snapshot.mask[3, 3]
    editor.close()


def test_a_late_prediction_of_a_real_thread_is_discarded(qtbot: QtBot) -> None:
    editor = make_editor()
    network = editor.requests.model
    network.gate.clear()
    editor.predict()
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    editor.viewer.layers.clear()
    editor.close()
    network.gate.set()
    qtbot.waitUntil(lambda: not WorkerBase._worker_set, timeout=20_000)
    QApplication.processEvents()
    qtbot.wait(50)
    assert not editor.labels.data.any()
