from __future__ import annotations

import dataclasses
import threading

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
from napari.components import ViewerModel
from napari.layers import Labels
from scipy import ndimage

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import DeviceError, LesionSegError, MaskError, ModelNotFoundError
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.plugin.editor import editor as editor_module
from napari_lesionseg.plugin.editor import request_queue
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.prediction_cache import Answer
from napari_lesionseg.plugin.editor.tools import TOOLS
from napari_lesionseg.plugin.napari_layers.layers import new_outline
from napari_lesionseg.types import Box, Click

PLAIN = PostprocessConfig(threshold=0.5, fill_holes=False, largest_only=False, min_area=0)
SHAPE = (40, 60)
REACH = 4


def base_probability(shape=SHAPE) -> np.ndarray:
    """A lesion in rows 10 to 29 and columns 20 to 44, with a less certain rim of three pixels."""
    probability = np.full(shape, 0.1, dtype=np.float32)
    probability[7:33, 17:48] = 0.4
    probability[10:30, 20:45] = 0.9
    return probability


def stamped(probability: np.ndarray, clicks) -> np.ndarray:
    """What the network says of clicks: each changes a square around it."""
    stamped = probability.copy()
    for click in clicks:
        row, col = int(click.row), int(click.col)
        square = np.s_[max(row - REACH, 0) : row + REACH + 1, max(col - REACH, 0) : col + REACH + 1]
        stamped[square] = 0.8 if click.positive else 0.2
    for click in clicks:
        stamped[int(click.row), int(click.col)] = 0.8 if click.positive else 0.2
    return stamped


class Encoded:
    def __init__(self, model: Network, image: np.ndarray) -> None:
        self.model, self.shape = model, image.shape[:2]

    def predict(self, clicks=(), previous=None) -> np.ndarray:
        self.model.asked.append((tuple(clicks), previous))
        self.model.started.set()
        if not self.model.gate.wait(timeout=20):
            raise TimeoutError("the test never opened the gate")
        if self.model.error is not None:
            raise self.model.error
        return stamped(base_probability(self.shape), clicks)

    def answer(self, clicks=(), previous=None) -> Answer:
        return Answer.of(self.predict(clicks, previous))


class EncodedPart:
    """A part of the image, all of which is lesion but a rim."""

    def __init__(self, image: np.ndarray) -> None:
        self.shape = image.shape[:2]

    def answer(self) -> Answer:
        found = np.full(self.shape, 0.05, dtype=np.float32)
        found[2:-2, 2:-2] = 0.7
        return Answer.of(found)


class Network:
    """Stands for the network; what it is asked is kept."""

    def __init__(self) -> None:
        self.card = ModelCard(name="fake", threshold=0.5)
        self.asked, self.encoded, self.parts = [], 0, []
        self.gate, self.started = threading.Event(), threading.Event()
        self.gate.set()
        self.error = None

    def encode(self, image, whole=None):
        if image.shape[:2] != SHAPE:
            self.parts.append((image.shape, whole))
            return EncodedPart(image)
        self.encoded += 1
        return Encoded(self, image)


class SlowJobs:
    """Jobs that run when the test says so, in the test's own thread."""

    def __init__(self) -> None:
        self.waiting = []

    def __call__(self, title, function, *arguments, done, failed):
        job = SlowJob(lambda: function(*arguments), done, failed)
        self.waiting.append(job)
        return job

    def answer(self) -> None:
        """Let the oldest job that is still wanted finish."""
        job = self.waiting.pop(0)
        try:
            value = job.work()
        except LesionSegError as error:
            if job.wanted:
                job.failed(error)
            return
        if job.wanted:
            job.done(value)

    def finish(self) -> None:
        while self.waiting:
            self.answer()


class SlowJob:
    def __init__(self, work, done, failed) -> None:
        self.work, self.done, self.failed, self.wanted = work, done, failed, True

    def close(self) -> None:
        self.wanted = False


def make(config=PLAIN, model="new", shape=SHAPE):
    viewer = ViewerModel()
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    sample = viewer.add_image(image, rgb=True, name="IMD003")
    labels = new_outline(sample)
    viewer.add_layer(labels)
    return MaskEditor(viewer, sample, labels, config=config, model=Network() if model == "new" else model)


@pytest.fixture
def jobs(monkeypatch) -> SlowJobs:
    slow = SlowJobs()
    monkeypatch.setattr(request_queue, "run_task", slow)
    return slow


@pytest.fixture
def editor(jobs):
    made = make()
    made.kinds, made.errors = [], []
    made.changed.connect(made.kinds.append)
    made.failed.connect(made.errors.append)
    yield made
    made.close()


@pytest.fixture
def predicted(editor, jobs):
    editor.predict()
    jobs.finish()
    editor.kinds.clear()
    return editor


def base_mask(threshold=0.5) -> np.ndarray:
    return (base_probability() >= threshold).astype(np.uint8)


def paint(editor, rows, cols, value=1) -> None:
    """Paint as napari's own tools do: through the layer, which says so."""
    at = np.array([(row, col) for row in rows for col in cols]).T
    editor.labels.data_setitem(tuple(at), value)


def test_a_prediction_is_drawn_and_undone(editor, jobs):
    editor.predict()
    assert editor.is_busy
    jobs.finish()
    np.testing.assert_array_equal(editor.labels.data, base_mask())
    assert editor.kinds == ["prediction"]
    assert not editor.is_busy
    editor.undo()
    assert not editor.labels.data.any()
    assert editor.probability is None
    editor.redo()
    np.testing.assert_array_equal(editor.mask, base_mask())
    assert editor.probability.max() == np.float32(0.9)


def test_busy_is_told_once_each_way(editor, jobs):
    told = []
    editor.busy.connect(told.append)
    editor.predict()
    editor.add_click(5, 5)
    jobs.finish()
    assert told == [True, False]


def test_the_mask_is_a_copy(predicted):
    predicted.mask[:] = 7
    np.testing.assert_array_equal(predicted.labels.data, base_mask())


def test_a_prefetched_answer_needs_no_run(editor, jobs):
    encoded = editor.model.encode(np.zeros((*SHAPE, 3), dtype=np.uint8))
    editor.set_prediction(base_probability(), encoded)
    np.testing.assert_array_equal(editor.mask, base_mask())
    assert not editor.model.asked
    editor.add_click(3, 3)
    jobs.finish()
    assert editor.model.encoded == 1


def test_an_answer_for_another_image_is_refused(editor):
    editor.set_prediction(base_probability((41, 60)))
    assert isinstance(editor.errors[0], MaskError)
    assert not editor.mask.any()


def test_the_threshold_is_moved_without_the_network(predicted):
    asked = len(predicted.model.asked)
    for threshold in (0.45, 0.42, 0.38):
        predicted.set_config(PLAIN.model_copy(update={"threshold": threshold}))
    np.testing.assert_array_equal(predicted.mask, base_mask(0.38))
    assert len(predicted.model.asked) == asked
    assert predicted.kinds == ["threshold"] * 3
    predicted.undo()
    np.testing.assert_array_equal(predicted.mask, base_mask())
    assert predicted.config == PLAIN


def test_a_click_is_answered_and_the_next_one_builds_on_it(predicted, jobs):
    predicted.add_click(3, 3)
    jobs.finish()
    assert predicted.mask[3, 3] == 1
    predicted.add_click(20, 30, positive=False)
    jobs.finish()
    assert predicted.mask[20, 30] == 0
    clicks, previous = predicted.model.asked[-1]
    assert clicks == (Click(3, 3), Click(20, 30, positive=False))
    assert previous[3, 3] == np.float32(0.8)


def test_after_undo_the_click_is_gone_and_the_next_builds_on_what_was(predicted, jobs):
    predicted.add_click(3, 3)
    jobs.finish()
    predicted.undo()
    assert predicted.clicks == ()
    assert predicted.overlay.clicks == ()
    np.testing.assert_array_equal(predicted.mask, base_mask())
    predicted.add_click(35, 50)
    jobs.finish()
    clicks, previous = predicted.model.asked[-1]
    assert clicks == (Click(35, 50),)
    assert previous[3, 3] < 0.2


def test_clicks_are_shown_at_once_before_they_are_answered(predicted, jobs):
    predicted.add_click(3, 3)
    assert predicted.overlay.clicks == ((3, 3, True),)
    assert predicted.clicks == ()
    jobs.finish()
    assert predicted.clicks == (Click(3, 3),)


def test_clicks_outside_the_image_are_ignored(predicted, jobs):
    for row, col in [(-1, 5), (5, -0.6), (SHAPE[0], 5), (5, 1e9)]:
        predicted.add_click(row, col)
    assert not jobs.waiting
    assert not predicted.can_redo


def test_clicks_made_meanwhile_are_asked_together(predicted, jobs):
    for col in (3, 20, 50):
        predicted.add_click(3, col)
    jobs.finish()
    assert len(predicted.model.asked) == 3  # the prediction, the first click, the other two
    assert predicted.clicks == tuple(Click(3, col) for col in (3, 20, 50))
    predicted.undo()
    assert predicted.clicks == (Click(3, 3),)


def test_a_click_still_on_its_way_is_what_undo_takes_back(predicted, jobs):
    predicted.add_click(3, 3)
    predicted.add_click(3, 50)
    predicted.undo()
    predicted.undo()
    jobs.finish()
    assert predicted.clicks == ()
    np.testing.assert_array_equal(predicted.mask, base_mask())
    assert predicted.can_undo


def test_a_stroke_made_after_a_click_on_its_way_is_undone_first(predicted, jobs):
    predicted.add_click(3, 3)
    paint(predicted, range(35, 38), range(50, 55))
    predicted.undo()
    assert not predicted.mask[35, 50]
    jobs.finish()
    assert predicted.clicks == (Click(3, 3),)


def test_a_scribble_is_a_row_of_clicks_and_one_step(predicted, jobs):
    predicted.add_scribble([(3, float(col)) for col in range(5, 50)])
    jobs.finish()
    assert len(predicted.clicks) > 5
    assert all(predicted.mask[click.pixel] for click in predicted.clicks)
    predicted.undo()
    assert predicted.clicks == ()


def test_taking_the_last_click_back_needs_no_network(predicted, jobs):
    predicted.add_click(3, 3)
    jobs.finish()
    first = predicted.mask
    predicted.add_scribble([(35, 5), (35, 40)])
    jobs.finish()
    asked = len(predicted.model.asked)
    predicted.remove_last_click()
    np.testing.assert_array_equal(predicted.mask, first)
    assert predicted.clicks == (Click(3, 3),)
    predicted.remove_last_click()
    predicted.remove_last_click()
    np.testing.assert_array_equal(predicted.mask, base_mask())
    assert len(predicted.model.asked) == asked
    predicted.undo()
    np.testing.assert_array_equal(predicted.mask, first)


def test_a_click_on_its_way_is_what_backspace_takes_back(predicted, jobs):
    predicted.add_click(3, 3)
    predicted.remove_last_click()
    jobs.finish()
    assert predicted.clicks == ()
    assert not predicted.can_redo


def test_what_the_hand_painted_survives_clicks_and_thresholds(predicted, jobs):
    paint(predicted, range(35, 39), range(2, 8))
    paint(predicted, range(12, 15), range(22, 26), value=0)
    predicted.add_click(3, 50)
    jobs.finish()
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.3}))
    assert predicted.mask[35:39, 2:8].all()
    assert not predicted.mask[12:15, 22:26].any()
    assert predicted.mask[3, 50]
    _, previous = predicted.model.asked[-1]
    assert (previous[35:39, 2:8] == 1).all()
    assert (previous[12:15, 22:26] == 0).all()


def test_a_click_that_says_otherwise_gives_the_painted_part_back(predicted, jobs):
    paint(predicted, range(35, 39), range(2, 8))
    paint(predicted, range(35, 39), range(50, 58))
    predicted.add_click(36, 4, positive=False)
    jobs.finish()
    assert not predicted.mask[35:39, 2:8].any()
    assert predicted.mask[35:39, 50:58].all()


def test_a_stroke_is_one_step(predicted):
    with predicted.labels.block_history():
        for col in range(5, 15, 3):
            predicted.labels.paint((35, col), 1)
    assert predicted.kinds == ["stroke"]
    predicted.undo()
    np.testing.assert_array_equal(predicted.mask, base_mask())


def test_a_polygon_is_one_step(predicted):
    predicted.labels.paint_polygon([(34, 2), (38, 2), (38, 12), (34, 12)], 1)
    assert predicted.kinds == ["stroke"]
    assert predicted.mask[36, 8]
    predicted.undo()
    np.testing.assert_array_equal(predicted.mask, base_mask())


def test_an_answer_within_a_stroke_loses_neither(predicted, jobs):
    predicted.add_click(3, 3)
    with predicted.labels.block_history():
        predicted.labels.paint((35, 10), 1)
        jobs.finish()
        predicted.labels.paint((35, 50), 1)
    assert predicted.mask[35, 10] == predicted.mask[35, 50] == predicted.mask[3, 3] == 1


def test_undo_of_the_layer_is_undo_of_the_editor(predicted):
    paint(predicted, range(35, 38), range(5, 9))
    predicted.labels.undo()
    np.testing.assert_array_equal(predicted.mask, base_mask())
    predicted.labels.undo()
    assert not predicted.mask.any()
    predicted.labels.redo()
    predicted.labels.redo()
    assert predicted.mask[35, 5]
    assert predicted.kinds[-4:] == ["undo", "undo", "redo", "redo"]


def test_the_keys_of_napari_lead_to_the_editor(predicted):
    paint(predicted, range(35, 38), range(5, 9))
    bound = {str(key): function for key, function in Labels.class_keymap.items()}
    bound["Ctrl+Z"](predicted.labels)
    np.testing.assert_array_equal(predicted.mask, base_mask())
    bound["Ctrl+Shift+Z"](predicted.labels)
    assert predicted.mask[35, 5]


def test_naparis_own_history_stays_empty_and_comes_back(predicted):
    paint(predicted, range(35, 38), range(5, 9))
    assert not predicted.labels._undo_history
    before = predicted.mask
    predicted.close()
    paint(predicted, range(3), range(5, 9))
    predicted.labels.undo()
    np.testing.assert_array_equal(predicted.labels.data, before)
    assert predicted.kinds == ["stroke"]


def test_pixels_written_behind_its_back_are_noticed(predicted):
    predicted.labels.data[35:38, 5:9] = 1
    assert predicted.can_undo
    predicted.undo()
    np.testing.assert_array_equal(predicted.mask, base_mask())


def test_data_replaced_by_the_same_size_are_a_stroke(predicted):
    predicted.labels.data = np.zeros(SHAPE, dtype=np.int32)
    assert not predicted.mask.any()
    predicted.undo()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_can_be_taken_back(predicted, jobs, tool):
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.95}))
    predicted.set_config(PLAIN)
    paint(predicted, range(15, 18), range(30, 33), value=0)
    paint(predicted, range(36, 38), range(2, 5))
    paint(predicted, range(18, 22), range(45, 52))
    before = predicted.mask
    predicted.apply_tool(tool, 37, 3)
    jobs.finish()
    if tool not in ("split", "snap"):
        assert not np.array_equal(predicted.mask, before)
    if not np.array_equal(predicted.mask, before):
        assert predicted.kinds[-1] == "tool"
        predicted.undo()
    np.testing.assert_array_equal(predicted.mask, before)


def test_a_tool_that_changes_nothing_is_no_step(predicted):
    predicted.apply_tool("largest_part")
    predicted.apply_tool("remove_part", 0, 0)
    predicted.apply_tool("remove_part")
    assert predicted.kinds == []


def test_an_unknown_tool_is_a_mistake_of_the_programmer(predicted):
    with pytest.raises(ValueError, match="smooth"):
        predicted.apply_tool("_drop_work")


def test_removed_parts_stay_away_when_the_threshold_moves(predicted, jobs):
    predicted.add_click(3, 55)
    jobs.finish()
    predicted.apply_tool("largest_part")
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.6}))
    assert not predicted.mask[:8, 50:].any()


def test_back_to_the_prediction_drops_clicks_and_strokes(predicted, jobs):
    paint(predicted, range(35, 39), range(2, 8))
    predicted.add_click(3, 50)
    jobs.finish()
    predicted.apply_tool("back_to_prediction")
    np.testing.assert_array_equal(predicted.mask, base_mask())
    assert predicted.clicks == ()
    predicted.undo()
    assert predicted.clicks == (Click(3, 50),)
    assert predicted.mask[35, 2]


def test_no_lesion_stays_so_until_something_is_clicked(predicted, jobs):
    predicted.apply_tool("clear")
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.3}))
    assert not predicted.mask.any()
    predicted.add_click(20, 30)
    jobs.finish()
    assert predicted.mask[20, 30]
    predicted.undo()
    predicted.apply_tool("back_to_prediction")
    np.testing.assert_array_equal(predicted.mask, base_mask(0.3))


def test_a_box_adds_what_is_found_in_it(predicted, jobs):
    before = predicted.mask
    predicted.box(Box(28, 2, 38, 12))
    jobs.finish()
    assert predicted.kinds == ["box"]
    assert np.all(predicted.mask >= before)
    assert predicted.mask[30:36, 4:10].all()
    (height, width, _), whole = predicted.model.parts[0]
    assert isinstance(whole, Encoded)  # who looks at the part is decided by the whole image
    assert 10 < height < 40
    assert 10 < width < 60
    predicted.set_config(PLAIN.model_copy(update={"threshold": 0.75}))
    assert not predicted.mask[30:36, 4:10].any()
    predicted.set_config(PLAIN)
    predicted.add_click(3, 50)
    jobs.finish()
    assert predicted.mask[30:36, 4:10].all()


def test_what_a_box_added_stays_beside_the_largest_part(predicted, jobs):
    predicted.set_config(PLAIN.model_copy(update={"largest_only": True}))
    predicted.box(Box(30, 0, 40, 10))
    jobs.finish()
    assert predicted.mask[35, 5]
    assert predicted.mask[20, 30]


def test_a_negative_click_takes_away_what_a_box_added(predicted, jobs):
    predicted.box(Box(30, 0, 40, 10))
    jobs.finish()
    predicted.add_click(35, 5, positive=False)
    jobs.finish()
    np.testing.assert_array_equal(predicted.mask, base_mask())


@pytest.mark.parametrize(
    "box", [Box(5, 5, 7, 30), Box(100, 5, 200, 30), Box(-50, -50, -5, -5), Box(30, 30, 10, 10)]
)
def test_slips_of_the_box_do_nothing(predicted, jobs, box):
    predicted.box(box)
    assert not jobs.waiting
    assert not predicted.errors


def test_strokes_made_while_the_network_predicts_stay(editor, jobs):
    editor.predict()
    paint(editor, range(35, 39), range(2, 8))
    jobs.finish()
    np.testing.assert_array_equal(editor.mask[:34], base_mask()[:34])
    assert editor.mask[35:39, 2:8].all()


def test_a_restored_outline_is_the_base_of_the_history(predicted, jobs):
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[20:30, 5:15] = 1
    predicted.restore(mask, [Click(25, 10)], PLAIN.model_copy(update={"threshold": 0.7}))
    np.testing.assert_array_equal(predicted.mask, mask)
    assert predicted.clicks == (Click(25, 10),)
    assert predicted.config.threshold == 0.7
    assert not predicted.can_undo
    assert predicted.kinds == ["restored"]
    assert predicted.overlay.clicks == ((25, 10, True),)


def test_corrections_of_a_restored_outline_survive_clicks(editor, jobs):
    mask = base_mask()
    mask[35:39, 2:8] = 1
    mask[12:15, 22:26] = 0
    editor.restore(mask)
    editor.add_click(3, 50)
    jobs.finish()
    assert editor.mask[35:39, 2:8].all()
    assert not editor.mask[12:15, 22:26].any()
    assert editor.mask[3, 50]
    editor.undo()
    np.testing.assert_array_equal(editor.mask, mask)
    assert not editor.can_undo


def test_the_threshold_of_a_restored_outline_can_be_moved(editor, jobs):
    mask = base_mask()
    mask[35:39, 2:8] = 1
    editor.restore(mask)
    editor.set_config(PLAIN.model_copy(update={"threshold": 0.3}))
    jobs.finish()
    expected = base_mask(0.3)
    expected[35:39, 2:8] = 1
    np.testing.assert_array_equal(editor.mask, expected)
    editor.undo()
    np.testing.assert_array_equal(editor.mask, mask)


def test_the_last_of_restored_clicks_can_be_taken_back(editor, jobs):
    clicks = [Click(3, 3), Click(3, 50)]
    editor.restore((stamped(base_probability(), clicks) >= 0.5).astype(np.uint8), clicks)
    editor.remove_last_click()
    jobs.finish()
    assert editor.clicks == (Click(3, 3),)
    np.testing.assert_array_equal(editor.mask, stamped(base_probability(), clicks[:1]) >= 0.5)


def test_a_prepared_answer_behind_a_restored_outline_changes_nothing(editor, jobs):
    mask = base_mask()
    mask[35:39, 2:8] = 1
    editor.restore(mask)
    editor.set_prediction(base_probability(), draw=False)
    np.testing.assert_array_equal(editor.mask, mask)
    editor.apply_tool("back_to_prediction")
    np.testing.assert_array_equal(editor.mask, base_mask())
    assert not jobs.waiting


def test_without_a_model_the_brush_works_and_clicks_say_why_not(jobs):
    editor, errors = make(model=None), []
    editor.failed.connect(errors.append)
    editor.predict()
    editor.add_click(3, 3)
    assert [type(error) for error in errors] == [ModelNotFoundError] * 2
    paint(editor, range(3), range(3))
    editor.undo()
    assert not editor.mask.any()
    editor.set_model(Network())
    editor.predict()
    jobs.finish()
    np.testing.assert_array_equal(editor.mask, base_mask())


def test_another_model_looks_at_the_image_anew(predicted, jobs):
    other = Network()
    predicted.set_model(other)
    predicted.add_click(3, 3)
    jobs.finish()
    assert other.encoded == 1


def test_a_changed_image_is_looked_at_anew(predicted, jobs):
    predicted.image.data = np.zeros((*SHAPE, 3), dtype=np.uint8)
    predicted.add_click(3, 3)
    jobs.finish()
    assert predicted.model.encoded == 2


def test_when_the_network_fails_the_click_goes_and_the_rest_stays(predicted, jobs):
    predicted.model.error = DeviceError("There is not enough memory.")
    predicted.add_click(3, 3)
    predicted.add_click(3, 50)
    jobs.finish()
    assert [str(error) for error in predicted.errors] == ["There is not enough memory."]
    assert predicted.overlay.clicks == ()
    assert not predicted.is_busy
    np.testing.assert_array_equal(predicted.mask, base_mask())
    predicted.model.error = None
    predicted.add_click(3, 3)
    jobs.finish()
    assert predicted.clicks == (Click(3, 3),)


@pytest.mark.parametrize("gone", ["labels", "image", "all"])
def test_answers_for_what_was_closed_are_dropped(predicted, jobs, gone):
    predicted.add_click(3, 3)
    viewer = predicted.viewer
    viewer.layers.clear() if gone == "all" else viewer.layers.remove(getattr(predicted, gone))
    jobs.finish()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())
    assert not predicted.errors


def everything(editor) -> None:
    editor.predict()
    editor.add_click(3, 3)
    editor.remove_last_click()
    editor.box(Box(5, 5, 30, 30))
    editor.set_config(PLAIN.model_copy(update={"threshold": 0.2}))
    for tool in TOOLS:
        editor.apply_tool(tool, 3, 3)
    editor.set_prediction(base_probability())
    editor.undo()
    editor.redo()


def test_nothing_is_written_into_a_deleted_layer(predicted, jobs):
    predicted.viewer.layers.remove(predicted.labels)
    everything(predicted)
    jobs.finish()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())
    assert all(isinstance(error, MaskError) for error in predicted.errors)
    assert predicted.errors


def test_nothing_is_written_into_a_reshaped_layer(predicted, jobs):
    predicted.add_click(3, 3)
    predicted.labels.data = np.full((30, 30), 3, dtype=np.uint8)
    jobs.finish()
    everything(predicted)
    jobs.finish()
    assert (predicted.labels.data == 3).all()
    assert predicted.mask.shape == SHAPE


def test_nothing_is_written_into_a_layer_made_a_stack(predicted, jobs):
    predicted.labels.data = np.full((2, *SHAPE), 3, dtype=np.uint8)
    everything(predicted)
    jobs.finish()
    assert (predicted.labels.data == 3).all()


def test_after_closing_nothing_happens_any_more(predicted, jobs):
    predicted.add_click(3, 3)
    predicted.close()
    predicted.close()
    jobs.finish()
    everything(predicted)
    jobs.finish()
    np.testing.assert_array_equal(predicted.labels.data, base_mask())
    assert not predicted.errors
    assert predicted.kinds == []


def test_renaming_and_duplicating_change_nothing(predicted, jobs):
    predicted.labels.name = "mine"
    twin = Labels(predicted.labels.data.copy(), name="mine")
    predicted.viewer.add_layer(twin)
    predicted.add_click(3, 3)
    jobs.finish()
    assert predicted.mask[3, 3]
    np.testing.assert_array_equal(twin.data, base_mask())


def test_a_stack_is_refused():
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((3, 40, 60, 3), dtype=np.uint8), rgb=True)
    labels = new_outline(image)
    viewer.add_layer(labels)
    with pytest.raises(MaskError, match="not stacks"):
        MaskEditor(viewer, image, labels, config=PLAIN, model=None)


def test_the_active_class_is_painted(predicted, jobs):
    predicted.active_class = 2
    assert predicted.labels.selected_label == 2
    predicted.add_click(3, 50)
    jobs.finish()
    assert predicted.mask[3, 50] == 2
    assert predicted.mask[20, 30] == 1


def test_a_real_thread_answers(qtbot):
    editor = make()
    changed = []
    editor.changed.connect(changed.append)
    editor.predict()
    qtbot.waitUntil(lambda: changed == ["prediction"], timeout=20_000)
    np.testing.assert_array_equal(editor.mask, base_mask())
    editor.add_click(3, 3)
    qtbot.waitUntil(lambda: len(changed) == 2, timeout=20_000)
    assert editor.mask[3, 3]
    editor.close()


def test_a_real_thread_that_answers_too_late_is_not_heard(qtbot):
    editor = make()
    network = editor.model
    network.gate.clear()
    editor.predict()
    qtbot.waitUntil(network.started.is_set, timeout=20_000)
    editor.viewer.layers.clear()
    editor.close()
    network.gate.set()
    qtbot.wait(50)
    assert not editor.labels.data.any()


@dataclasses.dataclass
class Seen:
    """What the user should see, and what stands behind it, in plain arrays."""

    mask: np.ndarray
    hand: np.ndarray
    clicks: tuple = ()
    threshold: float = 0.5
    source: str = "none"  # "none", "network" or "nothing"

    def probability(self) -> np.ndarray:
        if self.source != "network":
            return np.zeros(SHAPE)
        return stamped(base_probability(), self.clicks)

    def redraw(self) -> Seen:
        drawn = (self.probability() >= self.threshold).astype(np.uint8)
        return dataclasses.replace(self, mask=np.where(self.hand, self.mask, drawn))


NO_HAND = np.zeros(SHAPE, dtype=bool)
SPOTS = st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))


class Correcting(RuleBasedStateMachine):
    """Whatever is done in whatever order, the layer shows what a plain model of arrays says."""

    jobs: SlowJobs

    def __init__(self) -> None:
        super().__init__()
        self.jobs.waiting.clear()
        self.editor = make()
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
    def click(self, spot, positive) -> None:
        if self.now.source == "none" and self.now.mask.any() and not self.flying:
            return  # asks for the answer behind the strokes first: tested apart
        if any(request[0] == "prediction" for request in self.flying):
            return
        self.editor.add_click(*spot, positive)
        self.waiting.append(("click", Click(*map(float, spot), positive), len(self.past)))
        self.pump()

    @precondition(lambda self: self.flying)
    @rule()
    def answer(self) -> None:
        while not self.jobs.waiting[0].wanted:
            self.jobs.waiting.pop(0)
        self.jobs.answer()
        flown, self.flying = self.flying, []
        if flown[0][0] == "prediction":
            since = self.now.mask != flown[0][3].mask
            fresh = dataclasses.replace(self.now, hand=since, clicks=(), source="network")
            self.step(fresh.redraw(), "prediction")
        else:
            hand = self.now.hand
            for _, click, _ in flown:
                value = self.now.mask[click.pixel] > 0
                if hand[click.pixel] and value != click.positive:
                    same, _ = ndimage.label(hand & ((self.now.mask > 0) == value), np.ones((3, 3)))
                    hand = hand & (same != same[click.pixel])
            clicks = (*self.now.clicks, *(click for _, click, _ in flown))
            then = dataclasses.replace(self.now, hand=hand, clicks=clicks, source="network")
            self.step(then.redraw(), "click")
            for click in {click.pixel: click for click in clicks[-len(flown) :]}.values():
                assert (self.editor.labels.data[click.pixel] > 0) == click.positive
        self.pump()

    @rule(spot=SPOTS, size=st.integers(1, 12), value=st.integers(0, 1))
    def paint(self, spot, size, value) -> None:
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
    def move_threshold(self, threshold) -> None:
        if self.now.source == "none" and self.now.mask.any():
            return
        self.editor.set_config(PLAIN.model_copy(update={"threshold": threshold}))
        if threshold != self.now.threshold:
            then = dataclasses.replace(self.now, threshold=threshold)
            self.step(then.redraw() if self.now.source != "none" else then, "threshold")

    @rule(spot=SPOTS)
    def remove_part(self, spot) -> None:
        self.editor.apply_tool("remove_part", *spot)
        parts, _ = ndimage.label(self.now.mask, np.ones((3, 3)))
        if parts[spot]:
            self.stroke(np.where(parts == parts[spot], 0, self.now.mask).astype(np.uint8), "tool")

    @rule()
    def clear(self) -> None:
        self.editor.apply_tool("clear")
        self.flying, self.waiting = [], []
        nothing = Seen(np.zeros(SHAPE, np.uint8), NO_HAND, (), self.now.threshold, "nothing")
        self.step(nothing, "tool")

    @rule()
    def undo(self) -> None:
        self.editor.undo()
        if self.waiting and self.waiting[-1][2] >= len(self.past):
            self.waiting.pop()
        elif self.flying and not self.waiting and self.flying[-1][2] >= len(self.past):
            self.flying = []
        elif self.past:
            self.future.append(self.now)
            self.now, self.last = self.past.pop(), ""

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
        if len(self.now.clicks) != len(self.editor._now.groups) or None in self.editor._now.answers[:-1]:
            return  # merged clicks ask the network again: tested apart
        self.editor.remove_last_click()
        if self.now.clicks:
            then = dataclasses.replace(self.now, clicks=self.now.clicks[:-1])
            if not then.clicks and self.editor._now.answer is self.editor._now.answers[0]:
                then = dataclasses.replace(then, source=self.source_before_clicks())
            self.step(then.redraw(), "click")

    def source_before_clicks(self) -> str:
        answer = self.editor._now.answer
        if answer is None:
            return "none"
        return "network" if answer.part.size else "nothing"

    def teardown(self) -> None:
        self.editor.close()

    @invariant()
    def what_is_seen_is_right(self) -> None:
        np.testing.assert_array_equal(self.editor.labels.data, self.now.mask)
        assert self.editor.clicks == self.now.clicks
        assert self.editor.config.threshold == self.now.threshold
        assert self.editor.can_undo == bool(self.past or self.flying or self.waiting)
        assert self.editor.can_redo == bool(self.future)
        assert self.editor.is_busy == bool(self.flying)


def test_whatever_is_done_the_outline_is_what_it_should_be(jobs, monkeypatch):
    monkeypatch.setattr(Correcting, "jobs", jobs, raising=False)
    run_state_machine_as_test(
        Correcting,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, phases=[Phase.reuse, Phase.generate]
        ),
    )


@pytest.mark.parametrize("name", ["smooth", "snap"])
def test_large_outlines_are_reshaped_in_another_thread(monkeypatch, predicted, jobs, name):
    monkeypatch.setattr(editor_module, "AT_ONCE_PIXELS", 0)
    before = predicted.mask
    predicted.apply_tool(name)
    assert np.array_equal(predicted.mask, before)
    assert predicted.is_busy
    predicted.labels.paint((2, 2), 1)
    painted = predicted.mask
    jobs.finish()
    after = predicted.mask
    assert after[2, 2] == 1
    assert not np.array_equal(after, painted)
    predicted.undo()
    assert np.array_equal(predicted.mask, painted)


def test_a_tool_that_is_at_work_can_be_taken_back(monkeypatch, predicted, jobs):
    monkeypatch.setattr(editor_module, "AT_ONCE_PIXELS", 0)
    before = predicted.mask
    predicted.apply_tool("smooth")
    predicted.undo()
    jobs.finish()
    assert np.array_equal(predicted.mask, before)
    assert not predicted.is_busy


def test_reshaping_in_another_thread_needs_no_model(monkeypatch, jobs):
    monkeypatch.setattr(editor_module, "AT_ONCE_PIXELS", 0)
    editor = make(model=None)
    with editor.labels.block_history():
        editor.labels.data_setitem(np.nonzero(base_probability() > 0.5), 1)
    editor.apply_tool("smooth")
    jobs.finish()
    assert not editor.mask[10, 20]
    assert editor.mask[20, 30]
