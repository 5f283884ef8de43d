"""What was opened counts as seen once a frame with it is on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QWidget

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench.frames import FrameWatch
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.plugin.workbench.verdict_guard import SEEN_SECONDS, TOO_SOON, Screen

FRAMES = 5


@pytest.fixture
def shown(qtbot: QtBot, make_napari_viewer: Any) -> Iterator[Any]:
    """A window with a dock, whose frames are counted."""
    viewer = make_napari_viewer(show=True)
    dock = QWidget()
    viewer.window.add_dock_widget(dock)
    canvas = viewer.window._qt_viewer.canvas.native
    made = SimpleNamespace(dock=dock, canvas=canvas, watch=FrameWatch(dock), seen=[], frames=[], loaded=True)
    canvas.frameSwapped.connect(lambda: made.frames.append(True))
    paint(qtbot, made)
    yield made
    vars(made).clear()


def paint(qtbot: QtBot, shown: Any) -> None:
    """Show some frames more."""
    for _ in range(FRAMES):
        before = len(shown.frames)
        shown.canvas.update()
        qtbot.waitUntil(lambda: len(shown.frames) > before, timeout=10_000)  # noqa: B023


def wait_for(shown: Any) -> None:
    shown.watch.wait_for(lambda: shown.loaded, lambda: shown.seen.append(True))


def test_the_next_frame_is_told_once(qtbot: QtBot, shown: Any) -> None:
    wait_for(shown)
    assert not shown.seen
    qtbot.waitUntil(lambda: bool(shown.seen), timeout=10_000)
    paint(qtbot, shown)
    assert len(shown.seen) == 1
    wait_for(shown)
    qtbot.waitUntil(lambda: len(shown.seen) == 2, timeout=10_000)


def test_frames_without_what_is_awaited_do_not_count(qtbot: QtBot, shown: Any) -> None:
    shown.loaded = False
    wait_for(shown)
    paint(qtbot, shown)
    assert not shown.seen
    shown.loaded = True
    paint(qtbot, shown)
    assert shown.seen


def test_nothing_counts_while_the_canvas_is_not_painted(qtbot: QtBot, shown: Any) -> None:
    shown.canvas.setUpdatesEnabled(False)
    wait_for(shown)
    for _ in range(FRAMES):
        shown.dock.repaint()  # the window shows a frame, but not of the canvas
        qtbot.wait(20)
    assert not shown.seen
    shown.canvas.setUpdatesEnabled(True)
    qtbot.waitUntil(lambda: bool(shown.seen), timeout=10_000)


def test_the_canvas_is_found_once_there_is_one(qtbot: QtBot, shown: Any) -> None:
    outside = QWidget()
    qtbot.addWidget(outside)
    watch = FrameWatch(outside)
    watch.wait_for(lambda: True, lambda: shown.seen.append(True))
    paint(qtbot, shown)
    assert not shown.seen
    outside.setParent(shown.dock)
    watch.find_canvas()
    qtbot.waitUntil(lambda: bool(shown.seen), timeout=10_000)


def test_an_image_that_is_painted_while_it_is_opened_can_be_approved(qtbot: QtBot, make_study: Any) -> None:
    viewer = ViewerModel()
    session = StudySession(viewer, make_study(), PostprocessConfig())
    guard = session.verdicts.guard
    reasons: list[str] = []

    def paint_at_once(review: object) -> None:  # as a busy window does
        if review is not None:
            reasons.append(guard.check(Screen("image"), time.monotonic() + SEEN_SECONDS).reason)
            guard.note_image()

    session.opened.connect(paint_at_once)
    session.begin()
    qtbot.waitUntil(lambda: session.review is not None, timeout=10_000)
    reasons.append(guard.check(Screen("image"), time.monotonic() + SEEN_SECONDS).reason)
    session.close(discard=True)
    assert reasons == [TOO_SOON, ""]
