"""The form for the fields of an image, as an annotator fills it in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QComboBox, QLineEdit
from tests.plugin.canvas_mouse import turn_wheel

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import StudyError
from napari_lesionseg.plugin.workbench import autosave
from napari_lesionseg.plugin.workbench.panels.fields import FieldsPanel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.events import Described
from napari_lesionseg.study.fields import TEMPLATE_FILE, FieldTemplate, StudyField, StudyFields
from napari_lesionseg.study.queue import Order
from napari_lesionseg.study.study import Study


@pytest.fixture
def session(qtbot: QtBot, make_study: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudySession]:
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(autosave, "RETRY_MS", 20)
    viewer = ViewerModel()  # a session does not keep its viewer alive
    made = StudySession(viewer, make_study(3), PostprocessConfig(min_area=0))
    made.begin()
    qtbot.waitUntil(lambda: made.image_id is not None, timeout=15000)
    yield made
    made.close(discard=True)
    viewer.layers.clear()


@pytest.fixture
def panel(qtbot: QtBot, session: StudySession) -> Iterator[FieldsPanel]:
    made = FieldsPanel(ViewerModel())
    qtbot.addWidget(made)
    made.set_session(session)
    made.show()
    yield made
    made.set_session(None)


def box(panel: FieldsPanel, name: str) -> QComboBox:
    found = panel.widgets[name]
    assert isinstance(found, QComboBox)
    return found


def line(panel: FieldsPanel, name: str) -> QLineEdit:
    found = panel.widgets[name]
    assert isinstance(found, QLineEdit)
    return found


def saved(qtbot: QtBot, session: StudySession) -> dict[str, Any]:
    qtbot.waitUntil(lambda: not session.save_queue.pending, timeout=15000)
    assert session.image_id is not None
    return StudyFields(session.study).values(session.image_id)


def open_image(qtbot: QtBot, session: StudySession, place: int) -> str:
    image_id = list(session.study.state.images)[place]
    session.open_image(image_id)
    qtbot.waitUntil(lambda: session.image_id == image_id, timeout=15000)
    return image_id


def test_the_form_is_filled_in_with_the_keyboard(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    diagnosis, image_type = box(panel, "diagnosis"), box(panel, "image_type")
    diagnosis.setFocus()
    QTest.keyClicks(diagnosis.lineEdit(), "halo nevus")
    QTest.keyClick(diagnosis.lineEdit(), Qt.Key.Key_Return)
    image_type.setFocus()
    QTest.keyClick(image_type, "d")  # the first choice with this letter
    edit = line(panel, "mm_per_pixel")
    edit.setFocus()
    QTest.keyClicks(edit, "0,05")
    QTest.keyClick(edit, Qt.Key.Key_Return)
    assert saved(qtbot, session) == {
        "diagnosis": "halo nevus",
        "image_type": "dermoscopic",
        "mm_per_pixel": 0.05,
    }


def test_a_value_that_does_not_fit_is_named_and_not_saved(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    edit = line(panel, "taken_on")
    edit.setText("2026-02-30")
    edit.editingFinished.emit()
    assert panel.message.text() == "“2026-02-30” is no date; write Taken on as 2026-02-28."
    assert panel.message.text()
    assert saved(qtbot, session) == {}
    edit.setText("2026-02-28")
    edit.editingFinished.emit()
    assert not panel.message.text()
    assert saved(qtbot, session) == {"taken_on": "2026-02-28"}


def test_what_was_typed_wrongly_stays_to_be_corrected(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    edit = line(panel, "taken_on")
    edit.setText("2026-02-30")
    edit.editingFinished.emit()
    choose(panel, "streaks", "regular")  # saves, and shows the form again
    saved(qtbot, session)
    session.changed.emit()
    assert edit.text() == "2026-02-30"
    open_image(qtbot, session, 1)
    assert edit.text() == ""
    assert not panel.message.text()
    open_image(qtbot, session, 0)
    assert edit.text() == "2026-02-30"
    assert edit.styleSheet()
    edit.setText("2026-02-28")
    edit.editingFinished.emit()
    assert saved(qtbot, session) == {"taken_on": "2026-02-28", "streaks": "regular"}
    assert not edit.styleSheet()


def test_patient_and_lesion_are_taken_back_one_after_the_other(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    choose(panel, "streaks", "regular")
    panel.patient.setText("A")
    panel.patient.editingFinished.emit()
    panel.lesion.setText("1")
    panel.lesion.editingFinished.emit()
    for expected in (("A", ""), ("", "")):
        panel.undo.click()
        assert (panel.patient.text(), panel.lesion.text()) == expected
        saved(qtbot, session)
        state = session.study.state.images[session.image_id or ""]
        assert (state.patient or "", state.lesion or "") == expected
    panel.undo.click()
    assert saved(qtbot, session) == {}


def test_the_wheel_scrolls_past_a_field_and_changes_nothing(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    found = box(panel, "streaks")
    turn_wheel(found)
    assert found.currentText() == ""
    assert saved(qtbot, session) == {}


def choose(panel: FieldsPanel, name: str, text: str) -> None:
    found = box(panel, name)
    found.setCurrentText(text)
    found.activated.emit(found.currentIndex())


def test_undo_takes_values_back_on_the_image_that_they_belong_to(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    first = session.image_id
    choose(panel, "streaks", "regular")
    choose(panel, "streaks", "irregular")
    open_image(qtbot, session, 1)
    assert box(panel, "streaks").currentText() == ""
    panel.undo.click()
    qtbot.waitUntil(lambda: session.image_id == first, timeout=15000)
    assert box(panel, "streaks").currentText() == "regular"
    panel.undo.click()
    assert saved(qtbot, session) == {}
    assert not panel.undo.isEnabled()
    events = [event for event in session.study.history(first or "") if isinstance(event, Described)]
    assert [event.values["streaks"] for event in events] == ["regular", "irregular", "regular", None]


def test_what_is_filled_in_shows_at_once_even_if_it_cannot_be_saved_yet(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = session.study.record

    def full(*args: Any, **fields: Any) -> Any:
        raise StudyError("the disk is full")

    monkeypatch.setattr(session.study, "record", full)
    first = session.image_id
    choose(panel, "streaks", "regular")
    qtbot.waitUntil(lambda: bool(session.save_queue.problem), timeout=15000)
    open_image(qtbot, session, 1)
    open_image(qtbot, session, 0)
    assert session.image_id == first
    assert box(panel, "streaks").currentText() == "regular"
    monkeypatch.setattr(session.study, "record", record)
    assert saved(qtbot, session) == {"streaks": "regular"}


@pytest.mark.parametrize("closes", [False, True], ids=["the next image", "closing"])
def test_what_is_being_typed_is_of_the_image_that_it_was_typed_for(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    """A click on Approve leaves the focus where it is."""
    first, edit = session.image_id or "", line(panel, "remarks")
    monkeypatch.setattr(edit, "hasFocus", lambda: True)  # without a window manager, nothing has it
    edit.setText("hair")
    if closes:
        assert session.close() == ""
    else:
        open_image(qtbot, session, 1)
        assert edit.text() == ""
        assert saved(qtbot, session) == {}
    with Study.open(session.study.folder, "am") as again:
        assert StudyFields(again).values(first) == {"remarks": "hair"}


def test_images_of_a_lesion_share_its_diagnosis(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    for place in (0, 1):
        open_image(qtbot, session, place)
        panel.patient.setText("A")
        panel.lesion.setText("1")
        panel.lesion.editingFinished.emit()
        qtbot.waitUntil(lambda: session.state is not None and session.state.lesion == "1", timeout=15000)
    choose(panel, "diagnosis", "melanoma")
    open_image(qtbot, session, 0)
    qtbot.waitUntil(lambda: box(panel, "diagnosis").currentText() == "melanoma", timeout=15000)
    assert (panel.patient.text(), panel.lesion.text()) == ("A", "1")


def test_the_table_can_be_filtered_by_value(qtbot: QtBot, panel: FieldsPanel, session: StudySession) -> None:
    choose(panel, "diagnosis", "basal cell carcinoma")
    for search, count in (("carcinoma", 1), ("diagnosis=basal_cell_carcinoma", 1), ("diagnosis=", 2)):
        session.navigation.sort(Order.NAME, search)
        assert len(session.navigation.queue) == count, search


@pytest.mark.parametrize("name", ["image_type", "diagnosis", "remarks"])
def test_letters_typed_in_the_form_are_no_shortcuts(panel: FieldsPanel, name: str) -> None:
    """W approves an image elsewhere in the window."""
    event = QKeyEvent(QEvent.Type.ShortcutOverride, Qt.Key.Key_W, Qt.KeyboardModifier.NoModifier, "w")
    event.ignore()
    QApplication.sendEvent(panel.widgets[name], event)
    assert event.isAccepted()


def test_a_broken_template_is_named_and_the_study_stays_usable(
    qtbot: QtBot, session: StudySession, make_study: Any
) -> None:
    study: Study = session.study
    (study.folder / TEMPLATE_FILE).write_text("{")
    other = StudySession(ViewerModel(), Study.open(study.folder, "bo"), PostprocessConfig())
    made = FieldsPanel(ViewerModel())
    qtbot.addWidget(made)
    made.set_session(other)
    assert "not a template of fields" in made.message.text()
    assert made.widgets == {}
    made.set_session(None)
    other.close(discard=True)


def test_values_of_fields_that_the_template_lost_are_kept_and_named(
    qtbot: QtBot, panel: FieldsPanel, session: StudySession
) -> None:
    study: Study = session.study
    first = next(iter(study.state.images))
    fields = StudyFields(study)
    fields.set(first, {"streaks": "regular"})
    fields.set_template(FieldTemplate(name="small", fields=(StudyField(name="width", title="W"),)))
    viewer = ViewerModel()  # a session does not keep its viewer alive
    other = StudySession(viewer, Study.open(study.folder, "bo"), PostprocessConfig())
    made = FieldsPanel(viewer)
    qtbot.addWidget(made)
    made.set_session(other)
    open_image(qtbot, other, 0)
    assert made.message.text() == (
        "The template has no field streaks any more; its value is kept, but not exported."
    )
    assert made.message.text()
    open_image(qtbot, other, 1)
    assert not made.message.text()
    assert StudyFields(other.study).values(first) == {"streaks": "regular"}
    made.set_session(None)
    other.close(discard=True)
    viewer.layers.clear()
