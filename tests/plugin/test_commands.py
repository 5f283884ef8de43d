from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.settings import get_settings
from PIL import Image
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_lesionseg.cli import app as cli_app
from napari_lesionseg.cli.main import main
from napari_lesionseg.plugin import commands
from napari_lesionseg.plugin.segment.widget import SegmentWidget
from napari_lesionseg.plugin.settings import remember_annotator
from napari_lesionseg.plugin.workbench import annotator
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage


@pytest.fixture
def started(make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch, network: Any) -> Any:
    """Viewers that were opened, without waiting for anybody to close them."""
    viewers = []

    def make(**more: Any) -> Any:
        viewers.append(make_napari_viewer(**more))
        return viewers[-1]

    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(commands.napari, "Viewer", make)
    monkeypatch.setattr(commands.napari, "run", lambda: None)
    return viewers


@pytest.fixture
def folder(tmp_path: Path, spot: Any) -> Any:
    made = tmp_path / "nevi"
    made.mkdir()
    Image.fromarray(spot).save(made / "a.png")
    return made


def bench_of(viewer: Any) -> Workbench:
    return viewer.window._qt_window.findChild(Workbench)


def test_alone_it_opens_the_workbench_without_a_study(started: Any) -> None:
    commands.open_viewer()
    assert bench_of(started[0]).session is None
    assert started[0].title == "LesionSeg"


@pytest.mark.parametrize("command", [[], ["app"]])
def test_the_command_opens_a_folder(
    qtbot: QtBot, started: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    monkeypatch.setattr(cli_app, "why_no_viewer", lambda: "")
    assert main([*command, str(folder)]) == 0
    bench = bench_of(started[0])
    qtbot.waitUntil(lambda: bench.session is not None and bench.session.editor is not None, timeout=15000)
    assert bench.session.state.name == "a"


def test_images_are_shown_with_their_masks(
    started: Any, folder: Path, tmp_path: Path, spot: ByteImage
) -> None:
    mask = tmp_path / "a_mask.png"
    Image.fromarray((spot[..., 0] < 100).astype(np.uint8) * 255).save(mask)
    commands.open_viewer(None, [folder / "a.png"], [mask])
    kinds = [type(layer).__name__ for layer in started[0].layers]
    assert kinds == ["Image", "Labels"]


@pytest.mark.parametrize("widget", [Workbench, SegmentWidget])
def test_images_open_without_a_question_unless_the_user_chose_a_reader(
    widget: Any, make_napari_viewer: Any, network: Any, plugins: Any, folder: Path, monkeypatch: Any
) -> None:
    """As when a file is dropped on napari with one of the plugin's widgets open."""

    def ask(*arguments: Any, **more: Any) -> None:
        raise AssertionError("napari asked for a reader")

    monkeypatch.setattr("napari._qt.qt_viewer.handle_gui_reading", ask)
    chosen, viewer = get_settings().plugins, make_napari_viewer()
    before = chosen.extension2reader
    try:
        chosen.extension2reader = {"*.bmp": "another"}
        viewer.window.add_dock_widget(widget(viewer))
        viewer.window._qt_viewer._qt_open([str(folder / "a.png")], stack=False)
        assert [layer.name for layer in viewer.layers] == ["a"]
        assert chosen.extension2reader["*.bmp"] == "another"
    finally:
        chosen.extension2reader = before


def test_a_reviewer_is_asked_for_a_name_though_that_of_the_annotator_is_remembered(
    qtbot: QtBot, started: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Study.create(folder / "lesionseg-study", "am", paths=folder):
        pass
    monkeypatch.setattr(cli_app, "why_no_viewer", lambda: "")
    dialog = SimpleNamespace(getText=lambda parent, title, question, text: ("chief", True))
    monkeypatch.setattr(annotator, "QInputDialog", dialog)
    remember_annotator("am")
    assert main(["app", str(folder), "--review"]) == 0
    bench = bench_of(started[0])
    qtbot.waitUntil(lambda: bench.session is not None, timeout=15000)
    assert (bench.session.study.annotator, bench.session.study.is_reviewer) == ("chief", True)
    bench.change_annotator()
    qtbot.waitUntil(lambda: bench.session is not None, timeout=15000)
    assert bench.session.study.is_reviewer
    assert bench.close_study(ask=False)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_the_viewer_and_loses_nothing(
    qtbot: QtBot,
    started: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    name: str,
    code: int,
) -> None:
    """The outline was drawn right before, and waits to be saved."""

    def draw_and_stop() -> None:
        bench = bench_of(started[0])
        qtbot.waitUntil(lambda: bench.session is not None and bench.session.editor is not None, timeout=15000)
        outline = next(layer for layer in started[0].layers if isinstance(layer, Labels))
        outline.paint((20, 20), 1)
        QTimer.singleShot(0, lambda: signal.raise_signal(getattr(signal, name)))
        QApplication.exec()

    monkeypatch.setattr(cli_app, "has_display", lambda: True)
    monkeypatch.setattr(commands.napari, "run", draw_and_stop)
    assert main(["app", str(folder), "--annotator", "am"]) == code
    assert capsys.readouterr().err == "lesionseg: Stopped.\n"
    with Study.open(folder / STUDY_FOLDER, "am") as study:
        assert [state.status for state in study.state.images.values()] == [Status.CORRECTED]
