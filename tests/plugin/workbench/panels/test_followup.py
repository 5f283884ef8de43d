"""Following a lesion in the workbench: its visits, and an outline that is carried over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog, QLabel

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.masks.measurements import Scale
from napari_lesionseg.plugin.instances.pixel_size import find_ruler, set_scale
from napari_lesionseg.plugin.workbench.panels.followup import FollowUpPanel
from napari_lesionseg.plugin.workbench.panels.visits import VisitsDialog
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.agreement import dice
from napari_lesionseg.study.datasets import study_records
from napari_lesionseg.study.events import Approved, Described, Identified, Predicted
from napari_lesionseg.study.fields import FieldTemplate, StudyFields
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study

SIZE = (160, 200)
SAMPLE = synthetic_sample(3, SIZE)


@pytest.fixture
def session(
    qtbot: QtBot, tmp_path: Path, network: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StudySession]:
    """Two visits of a lesion, the first of which is approved, and an image of no known lesion."""
    monkeypatch.setattr("os.fsync", lambda file: None)
    later = np.roll(SAMPLE.image, (6, -9), axis=(0, 1))
    images = {"first": SAMPLE.image, "second": later, "third": synthetic_sample(8, SIZE).image}
    study = Study.create(tmp_path / "study", "am", images=images)
    for name, day in (("first", "2026-01-01"), ("second", "2026-03-01")):
        study.record(Identified, image_of(study, name), patient="017", lesion="2")
        StudyFields(study).set(image_of(study, name), {"taken_on": day, "mm_per_pixel": 0.1})
    study.approve(image_of(study, "first"), SAMPLE.mask)
    viewer = ViewerModel()  # a session does not keep its viewer alive
    made = StudySession(viewer, study, PostprocessConfig(min_area=0))
    made.set_model(network)
    yield made
    made.close(discard=True)
    viewer.layers.clear()


def image_of(study: Study, name: str) -> str:
    return next(image for image, state in study.state.images.items() if state.name == name)


def open_image(qtbot: QtBot, session: StudySession, name: str) -> str:
    image_id = image_of(session.study, name)
    session.open_image(image_id)
    qtbot.waitUntil(lambda: session.image_id == image_id, timeout=15000)
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0, timeout=15000)
    return image_id


def mask_of(session: StudySession) -> np.ndarray:
    assert session.editor is not None
    return session.editor.snapshot.mask


def test_the_outline_of_the_last_visit_is_the_first_one(qtbot: QtBot, session: StudySession) -> None:
    said: list[str] = []
    session.verdicts.message.connect(said.append)
    image_id = open_image(qtbot, session, "second")
    carried = np.roll(SAMPLE.mask, (6, -9), axis=(0, 1))
    assert dice(mask_of(session), carried) > 0.97
    assert "This is the outline of the visit of 2026-01-01." in said[-1]
    state = session.study.state.images[image_id]
    assert (state.status, type(state.current)) == (Status.PREDICTED, Predicted)
    assert state.current is not None
    assert state.current.model is None
    assert state.current.carried is not None
    open_image(qtbot, session, "third")  # and back: it is still there
    open_image(qtbot, session, "second")
    assert dice(mask_of(session), carried) > 0.97
    assert session.review is not None
    session.review.approve()
    assert session.save_queue.flush() == ""
    approved = [event for event in session.study.history(image_id) if isinstance(event, Approved)]
    assert [event.carried for event in approved] == [state.current.carried]


def test_the_model_s_own_outline_can_be_had_instead(qtbot: QtBot, session: StudySession) -> None:
    open_image(qtbot, session, "second")
    editor = session.editor
    assert editor is not None
    before = mask_of(session).copy()
    editor.reset(editor.snapshot.initial_prediction)
    qtbot.waitUntil(lambda: not np.array_equal(mask_of(session), before), timeout=15000)
    editor.undo()
    assert np.array_equal(mask_of(session), before)


def test_other_images_begin_with_the_model(qtbot: QtBot, session: StudySession, network: Any) -> None:
    image_id = open_image(qtbot, session, "third")
    current = session.study.state.images[image_id].current
    assert current is not None
    assert (current.carried, current.model) == (None, network.sha256)


@pytest.fixture
def panel(qtbot: QtBot, session: StudySession) -> Iterator[FollowUpPanel]:
    viewer = session.display._layers.viewer
    assert viewer is not None
    made = FollowUpPanel(viewer)
    qtbot.addWidget(made)
    made.show()
    made.set_session(session)
    yield made
    made.set_session(None)


def cells(panel: FollowUpPanel) -> list[list[str]]:
    table = panel.table
    return [
        [table.item(row, column).text() for column in range(table.columnCount())]
        for row in range(table.rowCount())
    ]


def test_visits_are_listed_and_opened(qtbot: QtBot, session: StudySession, panel: FollowUpPanel) -> None:
    open_image(qtbot, session, "third")
    assert "fill in Patient and Lesion" in panel.message.text()
    open_image(qtbot, session, "second")
    qtbot.waitUntil(lambda: len(cells(panel)) == 2, timeout=15000)
    first, second = cells(panel)
    assert (first[0], second[:2]) == ("2026-01-01", ["2026-03-01", "outlined"])
    assert first[1].endswith("mm²")
    assert "no diagnosis" in panel.message.text()
    assert session.review is not None
    session.review.approve()
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0, timeout=15000)
    open_image(qtbot, session, "second")
    qtbot.waitUntil(lambda: len(cells(panel)) == 2 and cells(panel)[1][2].endswith("%"), timeout=15000)
    for place in range(panel.curve.choice.count()):
        panel.curve.choice.setCurrentIndex(place)
        (curve,) = panel.curve.listDataItems()
        assert len(curve.getData()[0]) == 2
    panel.table.cellClicked.emit(0, 0)
    qtbot.waitUntil(lambda: session.image_id == image_of(session.study, "first"), timeout=15000)


def test_nothing_is_drawn_of_a_single_measurement_and_mixed_units_are_explained(
    qtbot: QtBot, session: StudySession, panel: FollowUpPanel
) -> None:
    image_id = open_image(qtbot, session, "second")
    qtbot.waitUntil(lambda: len(cells(panel)) == 2, timeout=15000)
    assert panel.curve.isHidden()
    session.fields.set(image_id, "mm_per_pixel", "")
    assert session.review is not None
    session.review.approve()
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0, timeout=15000)
    open_image(qtbot, session, "second")
    qtbot.waitUntil(lambda: len(cells(panel)) == 2 and cells(panel)[1][1].endswith("px²"), timeout=15000)
    assert panel.message.text().startswith("Some visits have a scale and others none")
    assert panel.curve.isHidden()
    session.fields.set(image_id, "mm_per_pixel", "0.1")
    qtbot.waitUntil(lambda: len(cells(panel)) == 2 and cells(panel)[1][2].endswith("%"), timeout=15000)
    assert not panel.curve.isHidden()
    assert panel.curve.viewRange()[1][0] == pytest.approx(0, abs=0.5)


def test_visits_are_shown_side_by_side(qtbot: QtBot, session: StudySession, panel: FollowUpPanel) -> None:
    open_image(qtbot, session, "second")
    qtbot.waitUntil(lambda: len(cells(panel)) == 2, timeout=15000)
    panel.compare.click()
    (dialog,) = panel.findChildren(VisitsDialog)
    qtbot.waitUntil(lambda: all(not label.pixmap().isNull() for label in dialog.images), timeout=15000)
    texts = [label.text() for label in dialog.findChildren(QLabel)]
    assert any(text.startswith("2026-01-01") for text in texts)
    assert any("mm²" in text for text in texts)
    assert "outlined: not measured" in texts
    dialog.close()


def test_an_image_that_is_given_the_same_lesion_joins_in(
    qtbot: QtBot, session: StudySession, panel: FollowUpPanel
) -> None:
    image_id = open_image(qtbot, session, "third")
    session.fields.identify(image_id, "017", "2")
    qtbot.waitUntil(lambda: len(cells(panel)) == 3, timeout=15000)
    assert cells(panel)[2][0] == "no date"


def test_the_follow_up_is_exported(
    qtbot: QtBot,
    session: StudySession,
    panel: FollowUpPanel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(out), ""))
    panel.export.click()
    qtbot.waitUntil(out.is_file, timeout=15000)
    assert out.read_text(encoding="utf-8").count("\n") == 3


def draw_ruler(panel: FollowUpPanel, length: float) -> None:
    """Draw a line of 100 pixels and say how long it is."""
    panel.scale.draw.click()
    ruler = find_ruler(panel.viewer)
    assert ruler is not None
    ruler.add_lines(np.array([[10.0, 20.0], [10.0, 120.0]]))
    panel.scale.length.setValue(length)
    panel.scale.set.click()


def saved_scale(qtbot: QtBot, session: StudySession) -> object:
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0, timeout=15000)
    assert session.image_id is not None
    return StudyFields(session.study).values(session.image_id).get("mm_per_pixel")


def test_a_ruler_gives_millimeters_in_table_and_export_and_is_undone(
    qtbot: QtBot, session: StudySession, panel: FollowUpPanel, tmp_path: Path
) -> None:
    image_id = open_image(qtbot, session, "first")
    session.fields.set(image_id, "mm_per_pixel", None)
    qtbot.waitUntil(lambda: len(cells(panel)) == 2 and cells(panel)[0][1].endswith("px²"), timeout=15000)
    assert panel.scale.scale.text() == "none: pixels"
    draw_ruler(panel, 5)
    assert panel.scale.scale.text() == "0.05 mm per pixel (ruler)"
    assert find_ruler(panel.viewer) is None  # the next image has other marks
    assert panel.viewer.layers.selection.active is session.editor.labels
    assert saved_scale(qtbot, session) == 0.05
    qtbot.waitUntil(lambda: cells(panel)[0][1].endswith("mm²"), timeout=15000)
    (record, *_) = study_records(session.study)
    assert record.attributes["mm_per_pixel"] == "0.05"
    assert session.fields.undo() == image_id
    assert panel.scale.scale.text() == "none: pixels"
    assert saved_scale(qtbot, session) is None
    kept = [event for event in session.study.history(image_id) if isinstance(event, Described)]
    assert [event.values["mm_per_pixel"] for event in kept[-2:]] == [0.05, None]


def test_each_image_has_its_own_scale(qtbot: QtBot, session: StudySession, panel: FollowUpPanel) -> None:
    open_image(qtbot, session, "third")
    draw_ruler(panel, 20)
    assert saved_scale(qtbot, session) == 0.2
    open_image(qtbot, session, "first")
    assert panel.scale.scale.text() == "0.1 mm per pixel (study)"
    assert saved_scale(qtbot, session) == 0.1
    session.fields.set(session.image_id, "mm_per_pixel", "")
    assert panel.scale.scale.text() == "none: pixels"
    assert saved_scale(qtbot, session) is None
    open_image(qtbot, session, "third")
    assert panel.scale.scale.text() == "0.2 mm per pixel (study)"


def test_a_line_that_was_not_used_does_not_stay_for_the_next_image(
    qtbot: QtBot, session: StudySession, panel: FollowUpPanel
) -> None:
    open_image(qtbot, session, "third")
    panel.scale.draw.click()
    assert find_ruler(panel.viewer) is not None
    open_image(qtbot, session, "first")
    assert find_ruler(panel.viewer) is None


def test_an_impossible_scale_is_one_sentence_and_changes_nothing(
    qtbot: QtBot, session: StudySession, panel: FollowUpPanel
) -> None:
    said: list[str] = []
    session.failed.connect(said.append)
    open_image(qtbot, session, "first")
    assert session.editor is not None
    set_scale(session.editor.image, Scale(500.0), "ruler")
    assert said == ["mm per pixel must be at most 100; 500 is more."]
    assert panel.scale.scale.text() == "0.1 mm per pixel (study)"
    assert saved_scale(qtbot, session) == 0.1


def test_a_template_without_the_field_leaves_scales_alone(
    qtbot: QtBot, session: StudySession, panel: FollowUpPanel
) -> None:
    open_image(qtbot, session, "first")
    none = FieldTemplate(name="none")
    assert session.fields._fields is not None
    session.fields._fields.set_template(none)
    draw_ruler(panel, 5)
    session.changed.emit()
    assert panel.scale.scale.text() == "0.05 mm per pixel (ruler)"
