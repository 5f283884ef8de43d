"""A verdict is about an outline that was seen, however it is given."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication, QLabel

from napari_lesionseg.plugin import shortcuts
from napari_lesionseg.plugin.workbench import verdict_guard
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.study.state import Status


def test_the_line_at_the_bottom_says_that_all_is_saved(window: Any) -> None:
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    window.saved()
    label = window.bar.save_status
    window.qtbot.waitUntil(lambda: label.text() == "saved", timeout=10_000)
    assert QLabel.text(label) == "saved"  # not cut off
    assert label.visibleRegion().boundingRect().width() >= label.fontMetrics().horizontalAdvance("saving")
    assert not label.geometry().intersects(window.bar.reopen.geometry())


def test_the_key_approves_an_outline_that_was_seen(window: Any) -> None:
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    assert window.reviewed() == ["P1"]


def test_a_double_click_approves_one_image(window: Any) -> None:
    window.look()
    window.double_click(window.bar.approve)
    window.shown("P2")
    window.look()
    assert window.reviewed() == ["P1"]


class PressedNow(QKeyEvent):
    """What Qt sends first when W is pressed."""

    def __init__(self, at: int) -> None:
        super().__init__(QKeyEvent.Type.ShortcutOverride, Qt.Key.Key_W, Qt.KeyboardModifier.NoModifier, "w")
        self.at = at

    def timestamp(self) -> int:
        return self.at


def test_a_key_pressed_before_the_image_appeared_does_not_approve_it(window: Any) -> None:
    """On a busy computer, keys wait; the image may appear, and be drawn, before the second one is handled."""
    window.wait(2000)  # so that a key may take its time on the way
    handle = window.main.windowHandle()
    QTest.keyClick(handle, Qt.Key.Key_F9)
    QTest.keyClick(handle, Qt.Key.Key_W)
    window.shown("P2")
    window.look()
    keys = window.bar.keys
    keys._key_lag._quickest -= 30_000  # as if this one took half a minute longer than others
    keys.eventFilter(handle, PressedNow(round(1000 * time.monotonic() - keys._key_lag._quickest) - 30_000))
    keys._shortcuts[list(keys._handlers).index("approve")].activated.emit()
    assert "just appeared" in window.bar.message.text()
    assert window.reviewed() == ["P1"]
    keys._key_lag._quickest += 30_000
    window.wait(2000)
    QTest.keyClick(handle, Qt.Key.Key_W)
    window.shown("P3")


@pytest.mark.skipif(shutil.which("xdotool") is None, reason="needs xdotool")
def test_a_click_made_while_the_window_hung_does_not_approve_the_next_image(window: Any) -> None:
    """The second of two clicks may be handled long after the next image has appeared."""
    point = window.bar.approve.mapToGlobal(window.bar.approve.rect().center())
    clicked = []

    def use_mouse(*words: str) -> None:
        subprocess.run(["xdotool", *words], check=True, timeout=20)

    def click_again(image_id: str) -> None:
        """Hang before the next image is drawn, while the mouse is clicked again; not as a double click."""
        time.sleep(QApplication.doubleClickInterval() / 1000 + 0.1)
        clicked.append(image_id)
        use_mouse("click", "1")
        time.sleep(verdict_guard.SEEN_SECONDS + 0.2)

    window.session.verdicts.given.connect(click_again)
    for offset in (20, 0):  # moves tell how long the mouse takes when nothing hangs
        use_mouse("mousemove", str(point.x() + offset), str(point.y()))
        window.look()
    use_mouse("click", "1")
    window.shown("P2")
    window.wait(2000)
    assert "just appeared" in window.bar.message.text()
    assert (len(clicked), window.reviewed()) == (1, ["P1"])
    window.session.verdicts.given.disconnect(click_again)
    use_mouse("click", "1")
    window.shown("P3")
    assert window.reviewed() == ["P1", "P2"]


def test_a_double_click_on_any_button_decides_once(window: Any) -> None:
    buttons = [button for button in window.bench.findChildren(QAbstractButton) if button.isVisible()]
    asking = ("\N{HORIZONTAL ELLIPSIS}", "\N{MIDLINE HORIZONTAL ELLIPSIS}")  # these open a dialog or a menu
    tried = [button for button in buttons if button.text() and not button.text().endswith(asking)]
    assert len(tried) > 30
    for button in tried:
        before = len(window.reviewed())
        if button.isVisible() and button.isEnabled():
            window.double_click(button)
        window.wait(50)
        assert len(window.reviewed()) <= before + 1, button.text()
        window.qtbot.waitUntil(lambda: window.editor is not None, timeout=20_000)


def test_an_image_that_has_just_appeared_is_not_approved(window: Any) -> None:
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    window.key(Qt.Key.Key_W)
    assert "just appeared" in window.bar.message.text()
    window.look()
    assert window.name == "P2"
    assert window.reviewed() == ["P1"]


def test_an_image_that_the_window_has_not_drawn_is_not_approved(window: Any) -> None:
    window.look()
    window.canvas.setUpdatesEnabled(False)  # as if drawing took long
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    window.wait(1000 * verdict_guard.SEEN_SECONDS + 200)
    window.key(Qt.Key.Key_W)
    assert "just appeared" in window.bar.message.text()
    assert window.reviewed() == ["P1"]
    window.canvas.setUpdatesEnabled(True)
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P3")


def test_a_held_key_approves_one_image(window: Any) -> None:
    window.look()
    target = window.canvas
    QTest.keyPress(target, Qt.Key.Key_W)
    for _ in range(60):
        repeated = QKeyEvent(
            QKeyEvent.Type.KeyPress, Qt.Key.Key_W, Qt.KeyboardModifier.NoModifier, "w", autorep=True
        )
        QApplication.sendEvent(QApplication.focusWidget() or target, repeated)
        window.wait(25)
    QTest.keyRelease(target, Qt.Key.Key_W)
    assert window.reviewed() == ["P1"]


def test_a_held_key_that_is_reported_as_pressed_again_approves_one_image(
    window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X sends a release before each repeat; on a busy computer, Qt does not see that they belong together."""
    monkeypatch.setattr(shortcuts, "REPEAT_MS", 10_000)  # the tests may run on a busy computer as well
    window.look()
    handle = window.main.windowHandle()
    QTest.keyPress(handle, Qt.Key.Key_W)
    window.shown("P2")
    for _ in range(20):
        QTest.keyRelease(handle, Qt.Key.Key_W)
        QTest.keyPress(handle, Qt.Key.Key_W)
        window.wait(40)
    QTest.keyRelease(handle, Qt.Key.Key_W)
    assert window.reviewed() == ["P1"]
    monkeypatch.setattr(shortcuts, "REPEAT_MS", 20)
    window.look()
    QTest.keyClick(handle, Qt.Key.Key_W)
    window.shown("P3")
    assert window.reviewed() == ["P1", "P2"]


@pytest.mark.parametrize("hide", ["layer", "opacity", "image"])
def test_an_outline_that_is_hidden_is_not_approved(window: Any, hide: str) -> None:
    window.look()
    if hide == "layer":
        window.labels.visible = False
    elif hide == "opacity":
        window.labels.opacity = 0
    else:
        window.editor.image.visible = False
    window.look()
    window.key(Qt.Key.Key_W)
    assert "hidden" in window.bar.message.text()
    window.look()
    assert window.name == "P1"
    assert window.reviewed() == []


def test_a_verdict_during_a_click_waits_for_its_answer(window: Any, network: Any) -> None:
    window.look()
    before = int(window.mask.sum())
    window.key(Qt.Key.Key_C)
    network.gate.clear()
    window.click_image(15, 20)
    assert window.editor.requests.queue.is_busy
    window.key(Qt.Key.Key_W)
    window.look()
    assert window.name == "P1"
    assert "waits" in window.bar.message.text()
    network.gate.set()
    window.shown("P2")
    assert window.status("P1") is Status.APPROVED
    study = window.session.study
    approved = study.read_mask(window.state("P1").image_id, "approved")
    assert approved.sum() > before


def test_a_verdict_that_waits_is_cancelled_with_the_click(window: Any, network: Any) -> None:
    window.look()
    window.key(Qt.Key.Key_C)
    network.gate.clear()
    window.click_image(15, 20)
    window.key(Qt.Key.Key_W)
    window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    network.gate.set()
    window.look()
    window.look()
    assert window.name == "P1"
    assert window.reviewed() == []


def test_no_lesion_counts_only_once_the_image_was_seen(window: Any) -> None:
    window.look()
    window.key(Qt.Key.Key_F3)
    window.shown("P2")
    window.key(Qt.Key.Key_F3)
    window.look()
    assert window.reviewed() == ["P1"]


def test_the_last_image_is_not_approved_again(window: Any) -> None:
    for following in ("P2", "P3", "P4", "P4"):
        window.look()
        window.key(Qt.Key.Key_W)
        window.shown(following)
    assert len(window.reviewed()) == 4
    when = window.state("P4").when
    window.look()
    window.key(Qt.Key.Key_W)
    assert "last image" in window.bar.message.text()
    window.saved()
    assert window.state("P4").when == when
    window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    window.shown("P4")
    assert window.reviewed() == ["P1", "P2", "P3"]


def test_the_last_image_can_be_approved_after_it_was_reopened(window: Any) -> None:
    for following in ("P2", "P3", "P4", "P4"):
        window.look()
        window.key(Qt.Key.Key_W)
        window.shown(following)
    assert window.status("P4") is Status.APPROVED
    window.key(Qt.Key.Key_F2)
    assert window.status("P4") is not Status.APPROVED
    window.look()
    window.key(Qt.Key.Key_W)
    assert window.status("P4") is Status.APPROVED


def test_a_verdict_on_the_only_image_left_is_undone_and_given_again(window: Any) -> None:
    window.bench.panel(QueuePanel).search.setText("P1")  # as if there were no other image
    for _ in range(2):
        window.look()
        window.key(Qt.Key.Key_W)
        assert window.status("P1") is Status.APPROVED
        window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        window.qtbot.waitUntil(lambda: window.editor is not None)
        assert window.status("P1") is not Status.APPROVED
