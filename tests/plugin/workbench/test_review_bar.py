from __future__ import annotations

import pytest
from napari.components import ViewerModel
from napari.settings import get_plugin_settings
from qtpy.QtWidgets import QInputDialog

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.shortcuts import REVIEW_KEYS
from napari_lesionseg.plugin.workbench.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.state import Status


@pytest.fixture
def session(qtbot, make_study, network, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)
    viewer = ViewerModel()  # a session does not keep its viewer alive
    made = StudySession(viewer, make_study(3), PostprocessConfig(min_area=0))
    made.set_model(network)
    yield made
    made.close(discard=True)
    viewer.layers.clear()


@pytest.fixture
def panel(qtbot, session):
    made = ReviewBar(session)
    qtbot.addWidget(made)
    return made


def begin(qtbot, session):
    session.begin()
    qtbot.waitUntil(lambda: session.editor is not None)


def test_without_an_image_every_button_is_off_and_says_why(panel):
    for button in (panel.no_lesion, panel.flag, panel.approve):
        assert not button.isEnabled()
        assert button.toolTip().startswith("Open an image")
    assert not panel.back.isEnabled()


@pytest.mark.parametrize(("name", "status"), [("approve", Status.APPROVED), ("no_lesion", Status.NO_LESION)])
def test_a_button_signs_and_goes_on_and_back_comes_back(qtbot, session, panel, name, status):
    begin(qtbot, session)
    first = session.image_id
    getattr(panel, name).click()
    qtbot.waitUntil(lambda: session.editor is not None and session.image_id != first)
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0)
    assert session.study.state.images[first].status is status
    panel.back.click()
    qtbot.waitUntil(lambda: session.editor is not None and session.image_id == first)
    assert not panel.back.isEnabled()


@pytest.mark.parametrize("given", [True, False])
def test_flagging_asks_for_a_note(qtbot, session, panel, monkeypatch, given):
    begin(qtbot, session)
    first = session.image_id
    monkeypatch.setattr(QInputDialog, "getText", lambda *arguments: (" hair? ", given))
    panel.flag.click()
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0)
    state = session.study.state.images[first]
    assert (state.status is Status.FLAGGED) == given
    assert state.note == ("hair?" if given else "")


def test_keys_are_those_of_the_table_until_the_preferences_change_them(panel):
    buttons = {"back": panel.back, "approve": panel.approve, "no lesion": panel.no_lesion, "flag": panel.flag}
    shown = {action: button.shortcut().toString() for action, button in buttons.items()}
    assert shown.items() <= REVIEW_KEYS.items()
    get_plugin_settings("napari-lesionseg").keys.no_lesion = "Ctrl+L"
    assert panel.no_lesion.shortcut().toString() == "Ctrl+L"
    panel.close_session()
    get_plugin_settings("napari-lesionseg").keys.no_lesion = "Ctrl+J"
    assert panel.no_lesion.shortcut().toString() == "Ctrl+L"
