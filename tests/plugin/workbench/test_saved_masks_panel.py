from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.settings import get_plugin_settings

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench.saved_masks_panel import SavedMasksPanel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.state import Status


@pytest.fixture
def session(qtbot, make_study, network, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)
    viewer = ViewerModel()  # a session does not keep its viewer alive
    study = make_study(3)
    first, second, _ = study.state.images
    study.approve(first, np.ones((40, 60), np.uint8))
    study.flag(second, "hair over the border")
    made = StudySession(viewer, study, PostprocessConfig(min_area=0))
    made.set_model(network)
    yield made
    made.close(discard=True)
    viewer.layers.clear()


@pytest.fixture
def panel(qtbot, session):
    made = SavedMasksPanel(session)
    qtbot.addWidget(made)
    yield made
    made.close_session()


def go_to(qtbot, session, place):
    session.open_image(list(session.study.state.images)[place])
    qtbot.waitUntil(lambda: session.editor is not None)


def test_an_image_without_a_verdict_has_nothing_to_reopen(qtbot, panel, session):
    assert panel.isHidden()
    go_to(qtbot, session, 2)
    assert panel.isHidden()


def test_a_signed_image_is_reopened_with_its_outline(qtbot, panel, session):
    go_to(qtbot, session, 0)
    assert not panel.isHidden()
    assert panel.text.text().startswith("approved by am, ")
    mask = session.editor.snapshot.mask
    panel.reopen.click()
    qtbot.waitUntil(panel.isHidden)
    assert session.state.status is Status.CORRECTED
    assert np.array_equal(session.editor.snapshot.mask, mask)


def test_a_flag_tells_its_note_and_can_be_taken_back(qtbot, panel, session):
    go_to(qtbot, session, 1)
    assert panel.text.text().endswith(": hair over the border")
    panel.reopen.click()
    qtbot.waitUntil(panel.isHidden)
    assert session.state.status is not Status.FLAGGED


def test_the_key_is_that_of_the_preferences(panel):
    assert panel.reopen.shortcut().toString() == "F2"
    get_plugin_settings("napari-lesionseg").keys.reopen = "Ctrl+R"
    assert panel.reopen.shortcut().toString() == "Ctrl+R"
    assert "Ctrl+R" in panel.reopen.toolTip()
