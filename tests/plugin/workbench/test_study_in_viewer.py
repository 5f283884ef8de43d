"""Ten real images in the window that `lesionseg STUDY` opens, with the network that comes along.

Everything is done by mouse and keys, as an annotator does it: worked on, closed, reopened.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QInputDialog

from napari_lesionseg.cli.main import main
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.plugin import commands
from napari_lesionseg.plugin.workbench import image_review
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.study.state import Status
from napari_lesionseg.types import Scribble

LONG = 60_000
LEFT, RIGHT = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton
PLAIN, CTRL = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier


class Hand:
    """An annotator's hand on the mouse and the keys of one window."""

    def __init__(self, qtbot: QtBot, viewer: Any) -> None:
        self.qtbot, self.viewer = qtbot, viewer
        self.window = viewer.window._qt_window
        self.canvas = viewer.window._qt_viewer.canvas.native
        self.bench = self.window.findChild(Workbench)

    @property
    def session(self) -> Any:
        return self.bench.session

    @property
    def editor(self) -> Any:
        return self.bench.session.editor

    def wait(self, name: Any = None) -> None:
        """Wait until an image is shown with its outline, saved, and the network has nothing to do."""

        def there() -> bool:
            session = self.session
            if (
                session is None
                or session.editor is None
                or self.bench.panel(ModelPanel).models.loaded is None
            ):
                return False
            return (
                not session.editor.requests.queue.is_busy
                and name in (None, session.state.name)
                and session.model is not None
            )

        self.qtbot.waitUntil(there, timeout=LONG)
        self.qtbot.waitUntil(lambda: self.session.save_queue.unsaved == 0, timeout=LONG)

    def at(self, row: Any, col: Any) -> QPoint:
        """Find the place on the canvas of a pixel of the image."""
        camera = self.viewer.scene.camera
        height, width = self.canvas.height(), self.canvas.width()
        center_row, center_col = camera.center[-2:]
        return QPoint(
            round(width / 2 + (col - center_col) * camera.zoom),
            round(height / 2 + (row - center_row) * camera.zoom),
        )

    def click(self, row: Any, col: Any, button: Any = LEFT) -> None:
        self.qtbot.mouseMove(self.canvas, self.at(row, col))
        self.qtbot.mouseClick(self.canvas, button, PLAIN, self.at(row, col))
        self.qtbot.waitUntil(lambda: not self.editor.requests.queue.is_busy, timeout=LONG)

    def move_to(self, row: Any, col: Any) -> None:
        """Move the held mouse until the viewer has noticed; it leaves out moves that come too quickly."""
        here = self.at(row, col)

        def noticed() -> bool:
            where = QPointF(here), QPointF(self.canvas.mapToGlobal(here))
            move = QMouseEvent(QEvent.Type.MouseMove, *where, Qt.MouseButton.NoButton, LEFT, PLAIN)
            QApplication.sendEvent(self.canvas, move)
            return np.allclose(self.viewer.cursor.position[-2:], (row, col), atol=2)

        self.qtbot.waitUntil(noticed, timeout=LONG)

    def drag(self, *places: Any) -> None:
        """Press at the first place, move through the others, release at the last."""
        self.qtbot.mouseMove(self.canvas, self.at(*places[0]))
        self.qtbot.mousePress(self.canvas, LEFT, PLAIN, self.at(*places[0]))
        for place in places[1:]:
            self.move_to(*place)
        self.qtbot.mouseRelease(self.canvas, LEFT, PLAIN, self.at(*places[-1]))
        self.qtbot.waitUntil(lambda: not self.editor.requests.queue.is_busy, timeout=LONG)

    def press(self, key: Any, modifier: Any = PLAIN) -> None:
        self.window.activateWindow()
        self.qtbot.waitUntil(lambda: QApplication.activeWindow() is self.window, timeout=LONG)
        self.qtbot.keyClick(self.canvas, key, modifier)
        if self.editor is not None:
            self.qtbot.waitUntil(
                lambda: self.editor is None or not self.editor.requests.queue.is_busy, timeout=LONG
            )

    def take(self, action: Any, key: Any) -> None:
        """Take a tool by its key, unless it is still taken from the image before."""
        if not self.bench.panel(CorrectSection).tools.buttons[action].isChecked():
            self.press(key)
        assert self.bench.panel(CorrectSection).tools.buttons[action].isChecked()

    def facts(self) -> Any:
        """Say what the study knows of every image."""
        return [
            (state.name, state.status, state.note, None if state.current is None else state.current.revision)
            for state in self.session.study.state.images.values()
        ]


@pytest.fixture
def nevi(real_data: Any, tmp_path: Path) -> Any:
    found = sorted((real_data / "ph2-sample").rglob("*_Dermoscopic_Image/*.bmp"))[:10]
    if len(found) < 10:
        pytest.skip(f"fewer than ten images of PH2 under {real_data}")
    folder = tmp_path / "nevi"
    folder.mkdir()
    for path in found:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def lesionseg(qtbot: QtBot, make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command, without waiting for anybody to close its window."""
    if not any(entry.shipped and not entry.problem for entry in ModelStore().list()):
        pytest.skip("the model that comes with the program is not in this checkout")
    opened = []

    def make(**more: Any) -> Any:
        opened.append(make_napari_viewer(show=True, **more))
        return opened[-1]

    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(image_review, "PAUSE_MS", 20)
    monkeypatch.setattr(commands.napari, "Viewer", make)
    monkeypatch.setattr(commands.napari, "run", lambda: None)
    monkeypatch.setattr(QInputDialog, "getText", lambda *arguments: ("hair over the border", True))

    def run(folder: Any) -> Any:
        assert main([str(folder)]) == 0
        hand = Hand(qtbot, opened[-1])
        hand.wait()
        return hand

    return run


def test_ten_images_are_worked_on_and_come_back_as_they_were(qtbot: QtBot, lesionseg: Any, nevi: Any) -> None:
    hand = lesionseg(nevi)
    names = [state.name for state in hand.session.navigation.queue]
    assert len(names) == 10
    work = [approve_as_it_is, approve_after_clicks, approve_painted, undo_and_approve, flag, no_lesion]
    work += [approve_after_a_scribble, approve_after_a_tool, approve_reopen_and_approve]
    for name, act in zip(names, work, strict=False):
        hand.wait(name)
        assert hand.editor.document.has_mask
        act(hand)
    hand.wait(names[9])
    hand.take("brush", Qt.Key.Key_P)
    hand.drag((20, 30), (20, 60))
    hand.viewer.scene.camera.zoom = 2.25
    mask, clicks = hand.editor.snapshot.mask, hand.editor.snapshot.strokes
    assert mask[20, 45] == 1
    qtbot.waitUntil(lambda: hand.session.save_queue.unsaved == 0)
    before = hand.facts()
    hand.viewer.close()
    assert hand.session is None

    again = lesionseg(nevi / STUDY_FOLDER)
    assert again.session.state.name == names[9]
    assert np.array_equal(again.editor.snapshot.mask, mask)
    assert again.editor.snapshot.strokes == clicks
    assert again.viewer.scene.camera.zoom == pytest.approx(2.25)
    assert again.facts() == before
    statuses = [status for _, status, _, _ in before]
    expected = [Status.APPROVED] * 9 + [Status.CORRECTED]
    expected[4:6] = [Status.FLAGGED, Status.NO_LESION]
    assert statuses == expected
    assert before[4][2] == "hair over the border"


def approve_as_it_is(hand: Any) -> None:
    hand.press(Qt.Key.Key_W)


def approve_after_clicks(hand: Any) -> None:
    hand.take("positive_click", Qt.Key.Key_C)
    hand.click(12, 14)
    assert hand.editor.snapshot.mask[12, 14] == 1
    hand.click(12, 14, RIGHT)
    assert hand.editor.snapshot.mask[12, 14] == 0
    assert len(hand.editor.snapshot.strokes) == 2
    hand.press(Qt.Key.Key_W)


def approve_painted(hand: Any) -> None:
    hand.take("brush", Qt.Key.Key_P)
    hand.drag((40, 60), (40, 90), (60, 90))
    assert hand.editor.snapshot.mask[40, 75] == 1
    hand.press(Qt.Key.Key_W)


def undo_and_approve(hand: Any) -> None:
    mask = hand.editor.snapshot.mask
    hand.take("brush", Qt.Key.Key_P)
    hand.drag((40, 60), (40, 90))
    hand.take("negative_click", Qt.Key.Key_N)
    rows, cols = np.nonzero(mask)
    hand.click(rows[len(rows) // 2], cols[len(rows) // 2])
    assert not np.array_equal(hand.editor.snapshot.mask, mask)
    hand.press(Qt.Key.Key_Z, CTRL)
    hand.press(Qt.Key.Key_Z, CTRL)
    assert np.array_equal(hand.editor.snapshot.mask, mask)
    hand.press(Qt.Key.Key_W)


def flag(hand: Any) -> None:
    hand.press(Qt.Key.Key_F4)


def no_lesion(hand: Any) -> None:
    hand.press(Qt.Key.Key_F3)


def approve_after_a_scribble(hand: Any) -> None:
    hand.take("positive_click", Qt.Key.Key_C)
    hand.drag((30, 40), (30, 90), (30, 140))
    assert isinstance(hand.editor.snapshot.strokes[0], Scribble)
    assert hand.editor.snapshot.mask[30, 40:141].all()
    hand.press(Qt.Key.Key_W)


def approve_after_a_tool(hand: Any) -> None:
    hand.press(Qt.Key.Key_S)
    hand.press(Qt.Key.Key_O)
    hand.press(Qt.Key.Key_W)


def approve_reopen_and_approve(hand: Any) -> None:
    name = hand.session.state.name
    hand.press(Qt.Key.Key_W)
    hand.qtbot.waitUntil(
        lambda: hand.session.state is not None and hand.session.state.name != name, timeout=LONG
    )
    hand.wait()
    hand.press(Qt.Key.Key_Q)
    hand.wait(name)
    assert hand.session.state.status is Status.APPROVED
    hand.press(Qt.Key.Key_F2)
    hand.qtbot.waitUntil(lambda: not hand.session.state.status.done, timeout=LONG)
    hand.press(Qt.Key.Key_W)
