"""After a mouse click in the dock, all keys work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDockWidget, QWidget

from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.panels.base import OutlinePanel
from napari_lesionseg.plugin.workbench.panels.finetune import FinetunePanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel

CLICKED: dict[str, Callable[[Any], QWidget]] = {
    "approve": lambda bench: bench.panel(window_bar(bench)).approve,
    "no lesion": lambda bench: bench.panel(window_bar(bench)).no_lesion,
    "reset": lambda bench: bench.panel(OutlinePanel).form.threshold.reset,
    "slider": lambda bench: bench.panel(OutlinePanel).form.threshold.slider,
    "fill holes": lambda bench: bench.panel(OutlinePanel).form.fill_holes,
    "brush": lambda bench: bench.panel(CorrectSection).tools.buttons["brush"],
    "undo": lambda bench: bench.panel(CorrectSection).tools.buttons["undo"],
    "smallest part": lambda bench: bench.panel(OutlinePanel).form.min_area,
    "table": lambda bench: bench.panel(QueuePanel).table.viewport(),
    "keys": lambda bench: bench.panel(CorrectSection).tools.key_list.button,
}


def window_bar(bench: Any) -> Any:
    return type(bench.panels[-1])


@pytest.mark.parametrize("what", CLICKED)
def test_keys_work_after_a_click(window: Any, what: str) -> None:
    window.bench.panel(OutlinePanel).form.threshold.slider.setValue(60)
    window.look()
    window.click(CLICKED[what](window.bench))
    window.wait(300)
    window.qtbot.waitUntil(lambda: window.editor is not None)
    tools = window.bench.panel(CorrectSection).tools
    tools.mouse.start("off")
    window.key(Qt.Key.Key_C)
    window.wait(50)
    assert tools.mouse.mode == "click", f"C was taken by {QApplication.focusWidget()}"
    window.look()
    name = window.name
    window.key(Qt.Key.Key_W)
    window.qtbot.waitUntil(lambda: window.editor is not None and window.name != name)


def test_a_letter_typed_into_a_field_for_numbers_is_a_key(window: Any) -> None:
    field = window.bench.panel(OutlinePanel).form.min_area
    field.setFocus()
    window.key(Qt.Key.Key_7)
    assert window.bench.panel(OutlinePanel).form.min_area.text().startswith(("7", "07"))
    window.key(Qt.Key.Key_C)
    window.wait(50)
    assert window.bench.panel(CorrectSection).tools.mouse.mode == "click"
    assert QApplication.focusWidget() is window.canvas


@pytest.mark.parametrize("key", [Qt.Key.Key_Return, Qt.Key.Key_Escape])
def test_a_field_returns_the_focus(window: Any, key: Any) -> None:
    search = window.bench.panel(QueuePanel).search
    window.click(search)
    assert QApplication.focusWidget() is search
    window.key(key)
    assert QApplication.focusWidget() is window.canvas


def test_tab_does_not_reach_what_is_folded(window: Any) -> None:
    folded = window.bench.panel(FinetunePanel)
    window.bench.setFocus()
    for _ in range(60):
        window.key(Qt.Key.Key_Tab)
        assert not folded.isAncestorOf(QApplication.focusWidget())


def test_verdict_keys_work_while_the_dock_floats(window: Any) -> None:
    dock = window.bench.parentWidget()
    while not isinstance(dock, QDockWidget):
        dock = dock.parentWidget()
    dock.setFloating(True)
    window.wait(200)
    QApplication.setActiveWindow(window.main)
    window.canvas.setFocus()
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    QApplication.setActiveWindow(dock)
    window.bar.approve.setFocus()
    window.look()
    QTest.keyClick(window.bar.approve, Qt.Key.Key_W)
    window.shown("P3")
    dock.setFloating(False)


@pytest.mark.parametrize("key", [Qt.Key.Key_Backspace, Qt.Key.Key_Delete])
def test_the_layers_of_a_study_are_not_deleted(window: Any, key: Any) -> None:
    window.viewer.layers.selection = set(window.viewer.layers)
    window.key(key, Qt.KeyboardModifier.ControlModifier)
    assert len(window.viewer.layers) == 2
    assert window.name == "P1"


def test_another_layer_is_deleted(window: Any) -> None:
    window.viewer.add_points([[5, 5]])
    window.key(Qt.Key.Key_Backspace, Qt.KeyboardModifier.ControlModifier)
    assert len(window.viewer.layers) == 2


@pytest.mark.parametrize("active", ["image", "none"])
def test_a_tool_key_selects_the_outline(window: Any, active: str) -> None:
    window.viewer.layers.selection.active = window.editor.image if active == "image" else None
    window.key(Qt.Key.Key_C)
    assert window.viewer.layers.selection.active is window.labels
    assert window.bench.panel(CorrectSection).tools.mouse.mode == "click"
