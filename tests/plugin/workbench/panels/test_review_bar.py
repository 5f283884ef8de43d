from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.settings import get_plugin_settings
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QInputDialog

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.shortcuts import REVIEW_KEYS
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.state import Status


@pytest.fixture
def session(qtbot: QtBot, make_study: Any, network: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("os.fsync", lambda file: None)
    viewer = ViewerModel()  # a session does not keep its viewer alive
    made = StudySession(viewer, make_study(3), PostprocessConfig(min_area=0))
    made.set_model(network)
    yield made
    made.close(discard=True)
    viewer.layers.clear()


@pytest.fixture
def panel(qtbot: QtBot, session: Any) -> Iterator[Any]:
    made = ReviewBar(ViewerModel())
    made.set_session(session)
    qtbot.addWidget(made)
    yield made
    made.set_session(None)


def begin(qtbot: QtBot, session: Any) -> None:
    session.begin()
    qtbot.waitUntil(lambda: session.editor is not None)


def test_without_an_image_every_button_is_off_and_says_why(panel: Any) -> None:
    for button in (panel.no_lesion, panel.flag, panel.approve):
        assert not button.isEnabled()
        assert button.toolTip().startswith("Open an image")
    assert not panel.back.isEnabled()


@pytest.mark.parametrize(("name", "status"), [("approve", Status.APPROVED), ("no_lesion", Status.NO_LESION)])
def test_a_button_decides_and_goes_on_and_back_comes_back(
    qtbot: QtBot, session: Any, panel: Any, name: Any, status: Any
) -> None:
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
def test_flagging_asks_for_a_note(
    qtbot: QtBot, session: Any, panel: Any, monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    begin(qtbot, session)
    first = session.image_id
    monkeypatch.setattr(QInputDialog, "getText", lambda *arguments: (" hair? ", given))
    panel.flag.click()
    qtbot.waitUntil(lambda: session.save_queue.unsaved == 0)
    state = session.study.state.images[first]
    assert (state.status is Status.FLAGGED) == given
    assert state.note == ("hair?" if given else "")


def test_keys_are_those_of_the_table_until_the_preferences_change_them(panel: Any) -> None:
    shown = {action: panel.keys.key(action) for action in ("back", "approve", "no lesion", "flag")}
    assert shown.items() <= REVIEW_KEYS.items()
    get_plugin_settings("napari-lesionseg").keys.no_lesion = "Ctrl+L"
    assert panel.keys.key("no lesion") == "Ctrl+L"
    panel.set_session(None)
    get_plugin_settings("napari-lesionseg").keys.no_lesion = "Ctrl+J"
    assert panel.keys.key("no lesion") == "Ctrl+L"


@pytest.fixture
def decided_session(
    qtbot: QtBot, make_study: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
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
def decided_panel(qtbot: QtBot, decided_session: Any) -> Iterator[Any]:
    made = ReviewBar(ViewerModel())
    made.set_session(decided_session)
    qtbot.addWidget(made)
    yield made
    made.set_session(None)


def go_to(qtbot: QtBot, session: Any, place: Any) -> None:
    session.open_image(list(session.study.state.images)[place])
    qtbot.waitUntil(lambda: session.editor is not None)


def test_an_image_without_a_verdict_has_nothing_to_reopen(
    qtbot: QtBot, decided_panel: Any, decided_session: Any
) -> None:
    panel, session = decided_panel, decided_session
    assert not panel.reopen.isEnabled()
    go_to(qtbot, session, 2)
    assert not panel.reopen.isEnabled()


def test_an_approved_image_is_reopened_with_its_outline(
    qtbot: QtBot, decided_panel: Any, decided_session: Any
) -> None:
    panel, session = decided_panel, decided_session
    go_to(qtbot, session, 0)
    assert panel.reopen.isEnabled()
    assert panel.decision.text().startswith("approved by am, ")
    mask = session.editor.snapshot.mask
    panel.reopen.click()
    qtbot.waitUntil(lambda: not panel.reopen.isEnabled())
    assert session.state.status is Status.CORRECTED
    assert np.array_equal(session.editor.snapshot.mask, mask)


def test_a_flag_shows_its_note_and_can_be_withdrawn(
    qtbot: QtBot, decided_panel: Any, decided_session: Any
) -> None:
    panel, session = decided_panel, decided_session
    go_to(qtbot, session, 1)
    assert panel.decision.text().endswith(": hair over the border")
    panel.reopen.click()
    qtbot.waitUntil(lambda: not panel.reopen.isEnabled())
    assert session.state.status is not Status.FLAGGED


def test_the_key_is_that_of_the_preferences(panel: Any) -> None:
    assert panel.keys.key("reopen") == "F2"
    get_plugin_settings("napari-lesionseg").keys.reopen = "Ctrl+R"
    assert panel.keys.key("reopen") == "Ctrl+R"
    assert "Ctrl+R" in panel.reopen.toolTip()
