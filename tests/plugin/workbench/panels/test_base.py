from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QLabel, QVBoxLayout
from tests.architecture_page import run_example

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.session import StudySession


def test_the_panel_on_the_architecture_page_follows_the_study(
    qtbot: QtBot, make_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    page = run_example("class CountPanel", tmp_path, Panel=Panel, QLabel=QLabel, QVBoxLayout=QVBoxLayout)
    viewer = ViewerModel()
    session = StudySession(viewer, make_study(3), PostprocessConfig())
    panel = page["CountPanel"](viewer)
    qtbot.addWidget(panel)
    panel.set_session(session)
    assert panel.folded
    assert panel.text.text() == "0 done"
    session.save_queue.save_no_lesion(next(iter(session.study.state.images)), (40, 60))
    qtbot.waitUntil(lambda: panel.text.text() == "1 done", timeout=30_000)
    panel.set_session(None)
    session.changed.emit()  # nobody listens any more
    session.close(discard=True)
