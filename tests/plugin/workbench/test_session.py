from __future__ import annotations

import copy
import errno
import gc
import shutil
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from pytestqt.qtbot import QtBot

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench import autosave, image_review, predictions
from napari_lesionseg.plugin.workbench.panels.review_bar import describe_decision
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.plugin.workbench.viewer_layers import apply_view, describe_view
from napari_lesionseg.study.events import Corrected, Predicted, StudyClass
from napari_lesionseg.study.queue import Order
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Box, Click, Prompts, Scribble

CONFIG = PostprocessConfig(min_area=0)
SPOT = 20 * 25


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_review, "PAUSE_MS", 5)
    monkeypatch.setattr(autosave, "RETRY_MS", 20)
    monkeypatch.setattr("os.fsync", lambda file: None)  # tested with the study; takes seconds on a busy disk


class Desk:
    """A session with what a test needs to watch it."""

    def __init__(self, qtbot: QtBot, study: Any, model: Any, viewer: Any = None) -> None:
        self.qtbot = qtbot
        self.viewer = viewer if viewer is not None else ViewerModel()
        self.session = StudySession(self.viewer, study, CONFIG)
        self.study = study
        self.signs, self.loud, self.told = [], [], []
        self.session.save_queue.all_saved.connect(self.signs.append)
        self.session.save_queue.failed.connect(self.loud.append)
        self.session.failed.connect(self.told.append)
        self.session.set_model(model)

    def begin(self) -> Desk:
        self.session.begin()
        return self.shown()

    def shown(self, name: str | None = None) -> Desk:
        session = self.session

        def there() -> bool:
            state = session.state
            return session.editor is not None and state is not None and name in (None, state.name)

        self.qtbot.waitUntil(there)
        return self

    def saved(self) -> Desk:
        self.qtbot.waitUntil(lambda: self.session.save_queue.unsaved == 0)
        return self

    def open(self, name: str) -> Desk:
        self.session.open_image(self.id(name))
        return self.shown(name)

    def id(self, name: str) -> str:
        return next(key for key, state in self.study.state.images.items() if state.name == name)

    def state(self, name: str) -> Any:
        return self.study.state.images[self.id(name)]

    def paint(self, row: int = 2, col: int = 2) -> None:
        self.editor.labels.brush_size = 3
        self.editor.labels.paint((row, col), 1)

    @property
    def editor(self) -> Any:
        return self.session.editor

    @property
    def mask(self) -> Any:
        return self.session.editor.snapshot.mask

    @property
    def name(self) -> Any:
        return self.session.state.name


@pytest.fixture
def open_desk(qtbot: QtBot, make_study: Any, network: Any) -> Iterator[Any]:
    desks = []

    def open_one(*arguments: Any, model: Any = network, viewer: Any = None, **more: Any) -> Desk:
        desks.append(Desk(qtbot, make_study(*arguments, **more), model, viewer))
        return desks[-1]

    yield open_one
    for desk in desks:
        if desk.session is not None:
            desk.session.close(discard=True)


@pytest.fixture
def desk(open_desk: Any) -> Desk:
    return open_desk().begin()


def facts(study: Study) -> Any:
    return {
        state.name: (state.status, state.note, state.annotator, state.current and state.current.revision)
        for state in study.state.images.values()
    }


# ------------------------------------------------------------------------------------------ the rounds


def test_a_prediction_is_saved_as_predicted(desk: Desk) -> None:
    desk.saved()
    state = desk.state("P1")
    assert state.status is Status.PREDICTED
    assert state.current.model == "fa" * 32
    assert state.current.threshold == pytest.approx(0.6)
    assert state.quality is not None
    assert desk.study.read_mask(state.image_id).sum() == SPOT
    assert desk.signs[-1] is True


def test_the_prediction_is_kept_when_it_is_edited_at_once(desk: Desk) -> None:
    desk.paint()
    desk.session.review.approve()
    desk.saved()
    state = desk.state("P1")
    assert desk.study.read_mask(state.image_id, "predicted").sum() == SPOT
    assert desk.study.read_mask(state.image_id, "corrected").sum() > SPOT
    assert desk.study.read_mask(state.image_id, "approved").sum() > SPOT


def test_an_edited_outline_is_saved_as_corrected(desk: Desk) -> None:
    desk.saved()
    desk.paint()
    desk.saved()
    state = desk.state("P1")
    assert state.status is Status.CORRECTED
    assert np.array_equal(desk.study.read_mask(state.image_id), desk.mask)
    assert desk.mask.sum() > SPOT
    assert desk.study.read_mask(state.image_id, "predicted").sum() == SPOT


def test_a_click_is_saved_with_the_outline(qtbot: QtBot, desk: Desk) -> None:
    desk.editor.add_stroke(Click(2, 2))
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    desk.saved()
    outline = desk.state("P1").current
    assert isinstance(outline, Corrected)
    assert outline.as_strokes() == (Click(2, 2),)


def test_a_scribble_is_saved_and_shown_again(qtbot: QtBot, open_desk: Any) -> None:
    desk = open_desk(1).begin()
    scribble = Scribble(((2.0, 2.0), (2.0, 40.0), (30.0, 45.0)), positive=False)
    desk.editor.add_stroke(scribble)
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    desk.saved()
    mask = desk.mask
    assert desk.session.close() == ""
    again = open_desk().begin()
    assert again.editor.snapshot.strokes == (scribble,)
    assert again.editor.document.overlay.scribbles == ((scribble.points, False),)
    assert np.array_equal(again.mask, mask)


def test_boxes_are_saved_with_the_outline(qtbot: QtBot, desk: Desk) -> None:
    desk.editor.add_area(Prompts(box=Box(2, 3, 20, 30)))
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    desk.editor.add_area(Prompts(lasso=((2.0, 3.0), (2.0, 30.0), (20.0, 30.0))), adds=True)
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    desk.saved()
    outline = desk.state("P1").current
    assert isinstance(outline, Corrected)
    box, lasso = outline.areas
    assert box.box == (2, 3, 20, 30)
    assert lasso.lasso == ((2.0, 3.0), (2.0, 30.0), (20.0, 30.0))


def test_the_next_click_after_a_restart_belongs_to_the_saved_box(qtbot: QtBot, open_desk: Any) -> None:
    desk = open_desk(1).begin()
    box = Prompts(box=Box(2, 3, 30, 40))
    desk.editor.add_area(box)
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    desk.saved()
    mask = desk.mask
    assert desk.session.close() == ""
    again = open_desk().begin()
    assert again.editor.snapshot.areas == (box,)
    assert np.array_equal(again.mask, mask)
    again.editor.add_stroke(Click(10, 10))
    qtbot.waitUntil(lambda: not again.editor.requests.queue.is_busy)
    assert again.editor.snapshot.strokes == (Click(10, 10),)
    assert again.editor.snapshot.prediction.prompts.area == box


def test_a_prediction_requested_after_an_edit_is_saved(qtbot: QtBot, open_desk: Any, network: Any) -> None:
    desk = open_desk(model=None).begin()
    desk.paint()
    desk.saved()
    desk.session.set_model(network)
    desk.editor.predict()
    qtbot.waitUntil(lambda: desk.mask.sum() == SPOT)
    desk.saved()
    assert desk.study.read_mask(desk.id("P1")).sum() == SPOT


def test_everything_comes_back_as_it_was(qtbot: QtBot, open_desk: Any) -> None:
    desk = open_desk(6).begin()
    desk.session.review.approve()
    desk.shown("P2").session.review.flag("hair?")
    desk.shown("P3").session.review.no_lesion()
    desk.shown("P4").paint()
    desk.editor.add_stroke(Click(35, 55))
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    desk.editor.undo()
    desk.viewer.scene.camera.zoom = 3.5
    desk.viewer.scene.camera.center = (0.0, 12.0, 31.0)
    before, mask, clicks = facts(desk.study), desk.mask, desk.editor.snapshot.strokes
    assert desk.session.close() == ""
    assert not desk.viewer.layers
    before["P4"] = (Status.CORRECTED, "", "am", before["P4"][3])

    again = open_desk().begin()
    assert again.name == "P4"
    assert np.array_equal(again.mask, mask)
    assert again.editor.snapshot.strokes == clicks
    assert again.viewer.scene.camera.zoom == pytest.approx(3.5)
    assert again.viewer.scene.camera.center == pytest.approx((0, 12, 31))
    found = facts(again.study)
    assert [found[name][0] for name in ("P1", "P2", "P3", "P4")] == [
        Status.APPROVED,
        Status.FLAGGED,
        Status.NO_LESION,
        Status.CORRECTED,
    ]
    assert found["P2"][1] == "hair?"
    again.saved()
    assert {name: found[name] for name in ("P1", "P2", "P3")} == {
        name: facts(again.study)[name] for name in ("P1", "P2", "P3")
    }


def test_an_image_without_lesion_comes_back_empty(desk: Desk) -> None:
    desk.session.review.no_lesion()
    desk.shown("P2").saved().open("P1")
    assert not desk.mask.any()
    assert desk.saved().state("P1").status is Status.NO_LESION


def test_nothing_is_approved_that_is_empty(open_desk: Any) -> None:
    desk = open_desk(model=None).begin()
    desk.session.review.approve()
    assert desk.told == ["The outline is empty. Draw one, or choose No lesion."]
    assert desk.name == "P1"


def test_an_approved_image_that_is_changed_is_corrected_and_can_be_approved_again(desk: Desk) -> None:
    desk.session.review.approve()
    desk.shown("P2").saved().open("P1")
    desk.paint()
    desk.saved()
    assert desk.state("P1").status is Status.CORRECTED
    desk.session.review.approve()
    desk.saved()
    assert desk.state("P1").status is Status.APPROVED
    assert desk.study.read_mask(desk.id("P1"), "approved").sum() > SPOT


def test_the_last_image_stays_and_can_be_changed_after_its_verdict(open_desk: Any) -> None:
    desk = open_desk(1).begin()
    desk.session.review.approve()
    desk.saved()
    assert desk.state("P1").status is Status.APPROVED
    desk.paint()
    desk.saved()
    assert desk.state("P1").status is Status.CORRECTED
    desk.session.review.no_lesion()
    desk.saved()
    assert desk.state("P1").status is Status.NO_LESION
    assert not desk.mask.any()


def test_a_verdict_is_taken_back(desk: Desk) -> None:
    desk.session.review.approve()
    desk.shown("P2").saved().open("P1")
    desk.session.review.reopen()
    desk.saved()
    assert desk.state("P1").status is Status.PREDICTED
    assert desk.session.next()


def test_back_walks_the_way_it_came(desk: Desk) -> None:
    assert desk.session.navigation.before(desk.session.image_id) is None
    assert not desk.session.back()
    desk.session.review.approve()
    desk.shown("P2").session.review.approve()
    desk.shown("P3").session.back()
    desk.shown("P2").session.back()
    desk.shown("P1")
    assert desk.session.navigation.before(desk.session.image_id) is None


def test_the_queue_is_filtered_and_sorted(desk: Desk) -> None:
    desk.session.review.flag("hair")
    desk.shown("P2").saved()
    desk.session.navigation.sort(Order.NAME, statuses={Status.FLAGGED})
    assert [state.name for state in desk.session.navigation.queue] == ["P1"]
    desk.session.navigation.sort(Order.NAME, search="p3")
    assert [state.name for state in desk.session.navigation.queue] == ["P3"]
    desk.session.review.approve()
    desk.shown("P3")


def test_the_threshold_is_moved_for_this_image_only(desk: Desk) -> None:
    desk.session.display.set_config(CONFIG.model_copy(update={"threshold": 0.05}))
    assert desk.mask.all()
    desk.session.review.approve()
    desk.shown("P2")
    assert desk.mask.sum() == SPOT
    assert desk.saved().state("P2").status is Status.PREDICTED
    desk.session.back()
    desk.shown("P1")
    assert desk.editor.requests.config.threshold == pytest.approx(0.05)


def test_the_class_painted_last_is_not_that_of_the_next_image(
    qtbot: QtBot, make_study: Any, network: Any
) -> None:
    classes = [StudyClass(name=name, color="#000000") for name in ("lesion", "ulcer")]
    viewer = ViewerModel()
    session = StudySession(viewer, make_study(2, classes=classes), PostprocessConfig(min_area=0))
    session.set_model(network)
    session.begin()
    qtbot.waitUntil(lambda: session.editor is not None)
    first = session.image_id
    session.editor.labels.selected_label = 2
    session.next()
    qtbot.waitUntil(lambda: session.editor is not None and session.image_id != first)
    assert session.editor.document.active_class == 1
    assert set(np.unique(session.editor.snapshot.mask)) == {0, 1}
    session.close(discard=True)


def test_labels_that_the_study_does_not_have_count_as_lesion(desk: Desk) -> None:
    desk.editor.labels.paint((2, 2), 7)
    desk.saved()
    assert desk.study.read_mask(desk.id("P1")).max() == 1
    assert not desk.loud


# ------------------------------------------------------------------------------- when saving fails


def test_a_failed_save_is_reported_and_saved_later(qtbot: QtBot, trouble: Any, desk: Desk) -> None:
    desk.saved()
    trouble.on = True
    desk.paint()
    qtbot.waitUntil(lambda: bool(desk.loud))
    assert desk.loud[0] == "the disk is full"
    assert desk.signs[-1] is False
    assert desk.session.save_queue.problem
    trouble.on = False
    desk.saved()
    assert desk.signs[-1] is True
    assert not desk.session.save_queue.problem
    assert desk.state("P1").status is Status.CORRECTED


def test_work_goes_on_while_the_disk_is_full_and_nothing_is_lost(
    qtbot: QtBot, trouble: Any, desk: Desk
) -> None:
    desk.saved()
    trouble.on = True
    desk.paint()
    desk.editor.add_stroke(Click(35, 55))
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    first, clicks = desk.mask, desk.editor.snapshot.strokes
    desk.session.review.approve()
    second = desk.shown("P2").mask
    desk.session.review.flag("hair")
    desk.shown("P3").open("P1")
    assert np.array_equal(desk.mask, first)
    assert desk.editor.snapshot.strokes == clicks
    desk.open("P2")
    assert np.array_equal(desk.mask, second)
    qtbot.waitUntil(lambda: bool(desk.loud))
    assert desk.state("P1").status is Status.PREDICTED
    trouble.on = False
    desk.saved()
    assert desk.state("P1").status is Status.APPROVED
    assert desk.state("P2").status is Status.FLAGGED
    assert np.array_equal(desk.study.read_mask(desk.id("P1")), first)


def test_a_prediction_that_is_not_saved_yet_stays_a_prediction(
    qtbot: QtBot, trouble: Any, desk: Desk
) -> None:
    desk.saved()
    trouble.on = True
    desk.open("P2")
    qtbot.waitUntil(lambda: bool(desk.loud))
    desk.open("P1").open("P2")
    trouble.on = False
    desk.saved()
    assert desk.state("P2").status is Status.PREDICTED


def test_closing_says_what_is_not_saved_and_stays_open(qtbot: QtBot, trouble: Any, desk: Desk) -> None:
    desk.saved()
    trouble.on = True
    desk.paint()
    mask = desk.mask
    assert desk.session.close() == "the disk is full"
    assert np.array_equal(desk.mask, mask)
    trouble.on = False
    qtbot.waitUntil(lambda: desk.state("P1").status is Status.CORRECTED)
    assert desk.session.close() == ""


def test_a_folder_that_disappears_and_comes_back(qtbot: QtBot, desk: Desk) -> None:
    desk.saved()
    away = desk.study.folder.with_name("away")
    desk.study.folder.rename(away)
    desk.paint()
    qtbot.waitUntil(lambda: bool(desk.loud))
    desk.session.poller.poll()
    qtbot.waitUntil(lambda: bool(desk.told))
    desk.session.poller.poll()
    qtbot.waitUntil(lambda: not desk.session.poller.is_busy)
    assert len(desk.told) == 1
    if desk.study.folder.exists():
        shutil.rmtree(desk.study.folder)
    away.rename(desk.study.folder)
    desk.saved()
    assert desk.state("P1").status is Status.CORRECTED


def test_a_full_disk(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, desk: Desk) -> None:
    desk.saved()

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        desk.paint()
        mask = desk.mask
        qtbot.waitUntil(lambda: bool(desk.loud))
        desk.session.review.approve()
        desk.shown("P2").open("P1")
        assert np.array_equal(desk.mask, mask)
        assert "full" in desk.loud[0]
    desk.saved()
    assert desk.state("P1").status is Status.APPROVED
    assert np.array_equal(desk.study.read_mask(desk.id("P1")), mask)


def test_what_comes_late_is_saved_in_order(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, desk: Desk) -> None:
    desk.saved()
    gate, begun = threading.Event(), threading.Event()
    approve = Study.approve

    def slow(*arguments: Any, **more: Any) -> Any:
        begun.set()
        gate.wait(10)
        return approve(*arguments, **more)

    monkeypatch.setattr(Study, "approve", slow)
    desk.session.review.approve()
    qtbot.waitUntil(begun.is_set)
    desk.shown("P2").open("P1")
    desk.paint()
    mask = desk.mask
    desk.open("P2").open("P1")
    assert np.array_equal(desk.mask, mask)
    gate.set()
    desk.saved()
    assert desk.state("P1").status is Status.CORRECTED
    assert np.array_equal(desk.study.read_mask(desk.id("P1")), mask)
    desk.open("P2").open("P1")
    assert np.array_equal(desk.mask, mask)


# ------------------------------------------------------------------------------------- the layers


def layers_of(desk: Desk) -> Any:
    return desk.editor.image, desk.editor.labels


@pytest.mark.parametrize("which", [0, 1])
def test_a_deleted_layer_closes_the_image_with_its_work_saved(qtbot: QtBot, desk: Desk, which: Any) -> None:
    desk.paint()
    mask = desk.mask
    desk.viewer.layers.remove(layers_of(desk)[which])
    qtbot.waitUntil(lambda: not desk.viewer.layers)
    assert desk.editor is None
    assert desk.session.image_id is None
    desk.saved()
    assert np.array_equal(desk.study.read_mask(desk.id("P1")), mask)
    desk.open("P1")
    assert np.array_equal(desk.mask, mask)
    assert len(desk.viewer.layers) == 2


def test_all_layers_are_deleted_at_once(qtbot: QtBot, desk: Desk) -> None:
    desk.paint()
    mask = desk.mask
    desk.viewer.layers.clear()
    qtbot.waitUntil(lambda: not desk.viewer.layers)
    desk.saved()
    assert np.array_equal(desk.study.read_mask(desk.id("P1")), mask)


def test_deleting_the_selected_layers_keeps_those_of_the_study(desk: Desk) -> None:
    other = Image(np.zeros((9, 9, 3), np.uint8), rgb=True, name="other")
    desk.viewer.layers.append(other)
    desk.viewer.layers.select_all()
    desk.viewer.layers.remove_selected()
    assert other not in desk.viewer.layers
    assert len(desk.viewer.layers) == 2
    assert desk.editor is not None


def test_the_next_image_comes_though_a_layer_was_deleted_just_now(qtbot: QtBot, desk: Desk) -> None:
    desk.viewer.layers.remove(desk.editor.labels)
    desk.open("P2")
    qtbot.waitUntil(lambda: len(desk.viewer.layers) == 2)
    assert desk.mask.sum() == SPOT


def test_renamed_and_duplicated_layers_change_nothing(desk: Desk) -> None:
    image_id, labels = layers_of(desk)
    image_id.name, labels.name = "x", "y"
    desk.viewer.layers.append(Labels(np.ones((40, 60), np.uint8), name="P1 outline"))
    desk.viewer.layers.append(Image(np.zeros((9, 9, 3), np.uint8), rgb=True, name="P1"))
    desk.session.review.approve()
    desk.shown("P2").saved()
    assert desk.study.read_mask(desk.id("P1")).sum() == SPOT
    assert (desk.editor.image, desk.editor.labels) == (image_id, labels)
    assert len(desk.viewer.layers) == 4


def test_a_reshaped_layer_is_never_written(desk: Desk) -> None:
    desk.paint()
    mask = desk.mask
    desk.editor.labels.data = np.ones((7, 8), np.uint8)
    desk.session.review.approve()
    desk.shown("P2").saved()
    assert np.array_equal(desk.study.read_mask(desk.id("P1")), mask)
    assert desk.mask.sum() == SPOT


def test_fifty_images_take_two_layers_and_are_released(open_desk: Any, network: Any) -> None:
    desk = open_desk(50).begin()
    seen = []
    for _ in range(49):
        name = desk.name
        seen.append((weakref.ref(desk.editor), weakref.ref(desk.editor.image.data)))
        desk.session.review.approve()
        desk.qtbot.waitUntil(lambda name=name: desk.editor is not None and desk.name != name, timeout=10000)
        assert len(desk.viewer.layers) == 2
    desk.saved()
    network.seen.clear()
    gc.collect()
    alive = [(editor, image) for editor, image in seen if editor() is not None or image() is not None]
    assert len(alive) <= predictions.AHEAD
    assert all(state.status is Status.APPROVED for state in list(desk.study.state.images.values())[:49])


def test_a_session_that_was_closed_leaves_nothing(qtbot: QtBot, open_desk: Any) -> None:
    desk = open_desk().begin()
    assert desk.session.close() == ""
    kept = weakref.ref(desk.session)
    desk.session = None
    gc.collect()
    qtbot.waitUntil(lambda: gc.collect() >= 0 and kept() is None)


# ----------------------------------------------------------------------------- models, other annotators


def test_another_model_predicts_what_nobody_edited(qtbot: QtBot, desk: Desk, network: Any) -> None:
    desk.saved()
    other = type(network)()
    other.sha256 = "bb" * 32
    desk.session.set_model(other)
    qtbot.waitUntil(lambda: len(other.seen) > 0 and not desk.editor.requests.queue.is_busy)
    desk.saved()
    assert desk.state("P1").current.model == other.sha256
    desk.paint()
    mask = desk.mask
    desk.session.set_model(network)
    qtbot.waitUntil(lambda: not desk.editor.requests.queue.is_busy)
    assert np.array_equal(desk.mask, mask)
    desk.session.review.approve()
    desk.shown("P2").saved()
    assert desk.state("P2").current.model == network.sha256


def test_the_same_model_is_not_asked_again_about_what_it_outlined(
    qtbot: QtBot, desk: Desk, network: Any, open_desk: Any
) -> None:
    desk.saved()
    assert desk.session.close() == ""
    again = open_desk(model=None).begin()
    assert again.mask.sum() == SPOT
    before = len(again.study.history(again.id("P1")))
    again.session.set_model(network)
    qtbot.waitUntil(lambda: not again.editor.requests.queue.is_busy)
    again.saved()
    assert len(again.study.history(again.id("P1"))) == before


def test_a_failing_model_is_reported_and_another_image_opens(
    qtbot: QtBot, open_desk: Any, network: Any
) -> None:
    network.error = RuntimeError("broken")
    desk = open_desk()
    desk.session.begin()
    qtbot.waitUntil(lambda: bool(desk.told))
    assert "broken" in desk.told[0]
    network.error = None
    desk.open("P2")
    desk.open("P1")


@pytest.mark.parametrize("blinded", [False, True])
def test_another_annotators_work_is_seen_unless_blinded(
    qtbot: QtBot, open_desk: Any, make_study: Any, blinded: Any
) -> None:
    desk = open_desk(blinded=blinded).begin()
    desk.saved()
    with make_study(annotator="bo") as other:
        other.save_correction(desk.id("P3"), np.ones((40, 60), np.uint8))
        other.approve(desk.id("P3"))
    changes = []
    desk.session.changed.connect(lambda: changes.append(1))
    desk.session.poller.poll()
    qtbot.waitUntil(lambda: not desk.session.poller.is_busy)
    assert (desk.state("P3").status is Status.APPROVED) != blinded
    assert desk.state("P3").annotator == (None if blinded else "bo")
    desk.open("P3")
    assert desk.mask.sum() == (SPOT if blinded else 40 * 60)


@pytest.mark.parametrize("verdict", ["approved", "no lesion"])
def test_an_image_approved_by_another_annotator_shows_that_annotators_outline(
    qtbot: QtBot, desk: Desk, make_study: Any, verdict: str
) -> None:
    desk.saved()
    with make_study(annotator="bo") as other:
        if verdict == "approved":
            other.approve(desk.id("P1"), np.ones((40, 60), np.uint8))
        else:
            other.no_lesion(desk.id("P1"))
    desk.session.poller.poll()
    qtbot.waitUntil(lambda: not desk.session.poller.is_busy)
    desk.shown("P1")
    qtbot.waitUntil(lambda: desk.mask.sum() == (40 * 60 if verdict == "approved" else 0))
    assert describe_decision(desk.session.state).startswith(f"{verdict} by bo")


def test_work_on_an_image_that_another_annotator_approves_stays_on_the_screen(
    qtbot: QtBot, desk: Desk, make_study: Any
) -> None:
    desk.saved()
    desk.paint()
    desk.saved()
    mask = desk.mask
    with make_study(annotator="bo") as other:
        other.approve(desk.id("P1"), np.ones((40, 60), np.uint8))
    desk.session.poller.poll()
    qtbot.waitUntil(lambda: not desk.session.poller.is_busy)
    desk.shown("P1")
    assert np.array_equal(desk.mask, mask)
    assert image_review.changed_by_another(desk.session.review)
    desk.session.review.approve()
    desk.saved()
    assert desk.state("P1").annotator == "am"
    assert np.array_equal(desk.study.read_mask(desk.id("P1")), mask)


def test_an_image_that_cannot_be_read_is_reported(qtbot: QtBot, desk: Desk) -> None:
    desk.saved()
    path = desk.study.image_path(desk.id("P4"))
    path.unlink()
    desk.session.open_image(desk.id("P4"))
    qtbot.waitUntil(lambda: bool(desk.told))
    assert "P4" in desk.told[0]
    desk.open("P2")


def test_a_view_is_described_and_taken_again(qtbot: QtBot) -> None:
    viewer = ViewerModel()
    viewer.scene.camera.zoom = 2.5
    view = describe_view(viewer)
    apply_view(viewer, {"center": "nonsense", "zoom": -1})
    apply_view(viewer, {"center": [1, 2, "x"], "zoom": 3})
    assert describe_view(viewer) == view
    other = ViewerModel()
    apply_view(other, view)
    assert describe_view(other) == view


def test_the_first_answer_of_a_model_that_came_late_is_a_prediction(
    qtbot: QtBot, open_desk: Any, network: Any
) -> None:
    desk = open_desk(model=None).begin()
    assert not desk.mask.any()
    desk.session.set_model(network)
    qtbot.waitUntil(lambda: desk.mask.any())
    desk.saved()
    assert isinstance(desk.state("P1").current, Predicted)


def test_no_lesion_taken_back_shows_the_outline_again(desk: Desk, open_desk: Any) -> None:
    first = desk.id("P1")
    desk.open("P1")
    desk.paint()
    drawn = desk.mask
    desk.session.review.no_lesion()
    desk.saved()
    desk.open("P1")
    assert not desk.mask.any()
    desk.session.review.reopen()
    desk.saved()
    assert np.array_equal(desk.mask, drawn)
    assert desk.study.state.images[first].status is Status.CORRECTED
    desk.session.review.no_lesion()
    desk.saved()
    desk.open("P1")
    desk.session.review.flag("no, look again")
    desk.saved()
    desk.open("P1")
    assert np.array_equal(desk.mask, drawn)


def test_images_keep_all_parts_if_the_masks_of_the_model_did(open_desk: Any, network: Any) -> None:
    desk = open_desk(2).begin()
    display = desk.session.display
    assert display.config.largest_only
    other = copy.copy(network)
    other.card = network.card.model_copy(update={"largest_only": False})
    desk.session.set_model(other)
    assert not display.config.largest_only
    display.set_config(display.config.model_copy(update={"largest_only": True}))
    desk.session.set_model(copy.copy(other))
    assert display.config.largest_only, "what the user chose since was lost"
