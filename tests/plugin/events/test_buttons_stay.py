"""No button moves when a message appears, changes or goes, so that the next click hits what it aims at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from qtpy.QtCore import QPoint, QRect, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QComboBox, QWidget
from tests.plugin.conftest import spot_image

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.panels.export import ExportPanel
from napari_lesionseg.plugin.workbench.panels.fields import FieldsPanel
from napari_lesionseg.plugin.workbench.panels.finetune import FinetunePanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel

SHORT = "Saved."
LONG = " ".join(["Approve waits until the outline is ready, which takes longer on a busy computer."] * 3)
PATH = f"/home/am/{'a-long-name-without-spaces' * 6} is not there."

Places = dict[QWidget, QRect]


def places(widget: QWidget) -> Places:
    """Return where the visible buttons and lists are in the window."""
    window = widget.window()
    found = [*widget.findChildren(QAbstractButton), *widget.findChildren(QComboBox)]
    return {
        button: QRect(button.mapTo(window, QPoint()), button.size()) for button in found if button.isVisible()
    }


def moved(before: Places, after: Places) -> list[str]:
    """Return the buttons that are elsewhere; one that appeared or went is not among them."""
    return [
        f"{button.text() if isinstance(button, QAbstractButton) else type(button).__name__}: "
        f"{before[button]} to {after[button]}"
        for button in before
        if button in after and before[button] != after[button]
    ]


def settled(window: Any) -> Places:
    """Return the places once they stay: what is laid out later, on a busy computer much later, moves them."""
    known: Places = {}
    since = 0
    while since < 3:
        window.wait(75)
        found = places(window.bench)
        since = since + 1 if found == known else 0
        known = found
    return known


@pytest.fixture
def stays(window: Any) -> Callable[[str], None]:
    """Check that no button has moved since the last check."""
    window.main.showNormal()
    window.main.resize(1366, 728)
    window.wait(300)
    last = [settled(window)]

    def check(why: str) -> None:
        after = settled(window)
        assert moved(last[0], after) == [], why
        last[0] = after

    return check


@pytest.mark.parametrize("text", [SHORT, LONG, PATH], ids=["short", "long", "path"])
def test_no_button_moves_when_a_message_appears_or_goes(
    window: Any, stays: Callable[[str], None], text: str
) -> None:
    bench, session = window.bench, window.session
    senders: dict[str, Callable[[str], None]] = {
        "of the verdicts": session.verdicts.message.emit,
        "of a tool": window.editor.noted.emit,
        "of a failure": lambda said: window.editor.failed.emit(LesionSegError(said)),
        "of saving": session.save_queue.failed.emit,
        "of fine-tuning": bench.panel(FinetunePanel).notice.emit,
    }
    for name, send in senders.items():
        send(text)
        stays(f"message {name}")
        if name == "of saving":
            session.save_queue.all_saved.emit(True)
        else:
            send("")
        stays(f"message {name} was taken back")


def test_no_button_moves_while_images_are_decided_about(window: Any, stays: Callable[[str], None]) -> None:
    window.shown("P1")
    stays("an outline")
    window.look()
    window.click(window.bar.approve)
    window.shown("P2")
    stays("the pace")
    window.click(window.bar.back)
    window.shown("P1")
    window.qtbot.waitUntil(window.bar.reopen.isEnabled, timeout=15_000)
    stays("a decision")
    window.main.activateWindow()
    window.canvas.setFocus()
    window.key(Qt.Key.Key_F7)
    window.qtbot.waitUntil(lambda: bool(window.bar.message.text()), timeout=15_000)
    stays("a message over a decision")
    window.click(window.bar.reopen)
    window.qtbot.waitUntil(lambda: not window.bar.reopen.isEnabled(), timeout=15_000)
    stays("reopened")


def test_no_button_moves_when_a_tool_says_why_it_cannot_be_used(
    window: Any, stays: Callable[[str], None]
) -> None:
    window.shown("P1")
    tools = window.bench.panel(CorrectSection).tools
    window.canvas.setFocus()
    for key in (Qt.Key.Key_P, Qt.Key.Key_Return, Qt.Key.Key_Escape, Qt.Key.Key_U):
        window.key(key)
        stays(f"after a key: {tools.status.text()}")


@pytest.mark.parametrize("panel_type", [FieldsPanel, ExportPanel, FinetunePanel])
def test_no_button_moves_when_a_section_reports(
    window: Any, stays: Callable[[str], None], panel_type: Any
) -> None:
    panel = window.bench.panel(panel_type)
    window.click(window.bench.sections.headings[panel])
    window.wait(300)
    before = places(window.bench)
    label = panel.report if panel_type is ExportPanel else panel.message
    for text in (SHORT, LONG, PATH, ""):
        label.setText(text)
        window.wait(150)
        assert not moved(before, places(window.bench)), text


def test_no_button_moves_when_images_are_missing(window: Any, stays: Callable[[str], None]) -> None:
    missing = window.bench.panel(QueuePanel).missing
    for names in (("P1",), ()):
        missing._on_checked(names)
        stays(f"{len(names)} missing")


def test_what_is_cut_off_is_in_the_tooltip(window: Any, stays: Callable[[str], None]) -> None:
    label = window.bar.message
    for text in (LONG, PATH, SHORT):
        window.session.verdicts.message.emit(text)
        QTest.qWait(50)
        assert label.text() == text
        assert (text in label.toolTip()) == (text is not SHORT)


def test_the_buttons_of_the_widget_stay_while_it_outlines(
    qtbot: Any, make_napari_viewer: Any, network: Any, plugins: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.window._qt_window.resize(1366, 728)
    viewer.add_image(spot_image(), name="a name that is long enough for two lines of text at least " * 2)
    _, widget = viewer.window.add_plugin_dock_widget("napari-lesionseg", "Segment lesions")
    qtbot.waitUntil(widget.segment.isEnabled, timeout=15_000)
    qtbot.wait(300)
    before = places(widget)
    network.gate.clear()
    QTest.mouseClick(widget.segment, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.progress_bar.isVisible() and network.started.is_set(), timeout=15_000)
    qtbot.wait(150)
    assert moved(before, places(widget)) == []
    network.gate.set()
    qtbot.waitUntil(lambda: widget.status.text().startswith("Outlined"), timeout=15_000)
    qtbot.wait(150)
    assert moved(before, places(widget)) == []
