"""The keys that move between images and change what is seen, pressed in the window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QLabel, QWidget

from napari_lesionseg.plugin.shortcuts import KEYS, NAPARI_ACTIONS, all_keys
from napari_lesionseg.plugin.workbench.panels.base import OutlinePanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel

SHIFT = Qt.KeyboardModifier.ShiftModifier


def test_keys_step_through_the_list_without_a_decision(window: Any) -> None:
    window.key(Qt.Key.Key_F8)
    window.shown("P2")
    window.key(Qt.Key.Key_F8)
    window.shown("P3")
    window.key(Qt.Key.Key_F7)
    window.shown("P2")
    assert window.reviewed() == []


def test_the_ends_of_the_list_are_named(window: Any) -> None:
    window.key(Qt.Key.Key_F7)
    assert "first image" in window.bar.message.text()
    assert window.name == "P1"
    for name in ("P2", "P3", "P4"):
        window.key(Qt.Key.Key_F8)
        window.shown(name)
    window.key(Qt.Key.Key_F8)
    assert "last image" in window.bar.message.text()


def test_the_last_match_of_a_search_says_what_is_hidden(window: Any) -> None:
    window.bench.panel(QueuePanel).search.setText("P1")
    window.qtbot.waitUntil(lambda: len(window.session.navigation.queue) == 1, timeout=5000)
    window.canvas.setFocus()
    window.look()
    window.key(Qt.Key.Key_W)
    window.qtbot.waitUntil(lambda: "hides 3 unreviewed images" in window.bar.message.text(), timeout=10_000)
    assert window.name == "P1"
    window.key(Qt.Key.Key_F2)
    assert window.bar.message.text() == ""
    window.key(Qt.Key.Key_W)
    window.qtbot.waitUntil(lambda: "hides 3 unreviewed images" in window.bar.message.text(), timeout=10_000)
    window.bench.panel(QueuePanel).search.clear()
    window.qtbot.waitUntil(lambda: len(window.session.navigation.queue) == 4, timeout=5000)
    assert window.bar.message.text() == ""
    window.key(Qt.Key.Key_F8)
    for name in ("P2", "P3", "P4"):
        window.shown(name)
        window.look()
        window.key(Qt.Key.Key_W)
    window.qtbot.waitUntil(lambda: "Every image is reviewed" in window.bar.message.text(), timeout=10_000)


def test_a_key_goes_to_the_next_unreviewed_image(window: Any) -> None:
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P3")
    window.key(Qt.Key.Key_Q)
    window.shown("P2")
    window.key(Qt.Key.Key_Q)
    window.shown("P1")
    window.key(Qt.Key.Key_F8, SHIFT)
    window.shown("P3")
    assert window.reviewed() == ["P1", "P2"]


def test_a_key_zooms_to_the_lesion_and_another_shows_the_whole_image(window: Any) -> None:
    camera = window.viewer.scene.camera
    fitted = camera.zoom
    window.key(Qt.Key.Key_End)
    rows, cols = np.nonzero(window.mask)
    assert camera.zoom > 1.2 * fitted
    middle = ((rows.min() + rows.max()) / 2, (cols.min() + cols.max()) / 2)
    assert camera.center[-2:] == pytest.approx(middle, abs=1)
    corners = [window.at(rows.min(), cols.min()), window.at(rows.max(), cols.max())]
    assert all(window.canvas.rect().contains(corner) for corner in corners)
    window.key(Qt.Key.Key_Home)
    assert camera.zoom == pytest.approx(fitted)


def test_the_models_own_outline_is_shown_while_a_key_is_held(window: Any) -> None:
    window.key(Qt.Key.Key_P)
    window.drag((10, 20), (10, 40))
    window.key(Qt.Key.Key_P)
    painted = window.mask.copy()
    overlay = window.editor.document.overlay
    opacity = window.labels.opacity
    QTest.keyPress(window.canvas, Qt.Key.Key_B)
    window.qtbot.waitUntil(lambda: len(overlay.lasso) > 10)
    rows, cols = np.array(overlay.lasso).T
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (29.5, 89.5, 49.5, 109.5)
    assert window.labels.opacity == 0
    window.look()
    window.bar.approve.click()
    assert "hidden" in window.bar.message.text()
    QTest.keyRelease(window.canvas, Qt.Key.Key_B)
    window.qtbot.waitUntil(lambda: not overlay.lasso)
    assert window.labels.opacity == opacity
    assert np.array_equal(window.mask, painted)
    assert window.reviewed() == []


def test_the_key_of_the_threshold_unfolds_its_section(window: Any) -> None:
    window.bench.fold_settings()
    form = window.bench.panel(OutlinePanel).form
    for _ in range(2):  # folded, and unfolded
        window.key(Qt.Key.Key_R, Qt.KeyboardModifier.AltModifier)
        window.qtbot.waitUntil(form.threshold.slider.hasFocus)
        before = form.threshold.slider.value()
        window.key(Qt.Key.Key_PageDown)
        assert form.threshold.slider.value() < before
        window.canvas.setFocus()


def test_the_table_lists_every_key() -> None:
    listed = [row.key for row in all_keys()]
    assert set(KEYS.values()) | {"F9"} <= set(listed)
    own = [row for row in all_keys() if row.group != "napari"]
    # The keys of landmarks work where there is no outline, and so no correction tool.
    assert len({(row.group == "Landmarks", row.key) for row in own}) == len(own)
    assert {f"napari:{name}" for name in NAPARI_ACTIONS} <= default_shortcuts.keys()


def test_the_tools_of_napari_in_the_table_work(window: Any) -> None:
    for key, mode in ((Qt.Key.Key_2, "paint"), (Qt.Key.Key_1, "erase"), (Qt.Key.Key_4, "fill")):
        window.key(key)
        assert str(window.labels.mode) == mode
    window.key(Qt.Key.Key_6)
    assert str(window.labels.mode) == "pan_zoom"


def test_escape_leads_back_to_the_image_from_all_that_tab_reaches(window: Any) -> None:
    """A slider or button that keeps the focus would take the arrow keys from the tools."""
    reached = [
        widget
        for widget in window.bench.findChildren(QWidget)
        if widget.isVisible() and widget.isEnabled() and widget.focusPolicy() & Qt.FocusPolicy.TabFocus
    ]
    assert {type(widget).__name__ for widget in reached} >= {"QPushButton", "ImageTable", "QLineEdit"}
    for widget in reached:
        widget.setFocus(Qt.FocusReason.TabFocusReason)
        if widget.hasFocus():  # not a widget that a part of it stands for
            window.key(Qt.Key.Key_Escape)
        assert window.canvas.hasFocus(), widget


def test_a_box_can_be_placed_right_after_the_threshold_was_moved(window: Any) -> None:
    panel = window.bench.panel(OutlinePanel)
    window.key(Qt.Key.Key_R, Qt.KeyboardModifier.AltModifier)
    assert panel.form.threshold.slider.hasFocus()
    window.key(Qt.Key.Key_PageUp)
    window.wait(50)  # the outline is redrawn
    threshold = panel.form.threshold.slider.value()
    window.key(Qt.Key.Key_R, SHIFT)
    window.qtbot.waitUntil(lambda: window.editor.document.overlay.box is not None)
    box = window.editor.document.overlay.box
    window.key(Qt.Key.Key_Down)
    assert window.editor.document.overlay.box != box
    assert panel.form.threshold.slider.value() == threshold


def test_letters_reach_the_tools_from_a_button_that_has_the_focus(window: Any) -> None:
    window.bar.approve.setFocus(Qt.FocusReason.TabFocusReason)
    window.key(Qt.Key.Key_R, SHIFT)
    window.qtbot.waitUntil(lambda: window.editor.document.overlay.box is not None)
    assert window.canvas.hasFocus()


def test_an_image_is_shown_again_as_it_was_left(window: Any) -> None:
    camera, first = window.viewer.scene.camera, window.session.image_id
    fitted = camera.zoom
    camera.zoom, camera.center = 3 * fitted, (0, 30, 40)
    window.key(Qt.Key.Key_F8)
    window.qtbot.waitUntil(lambda: window.session.image_id not in (None, first))
    window.qtbot.waitUntil(lambda: camera.zoom < 2 * fitted)
    window.key(Qt.Key.Key_F7)
    window.qtbot.waitUntil(lambda: window.session.image_id == first)
    window.qtbot.waitUntil(lambda: camera.zoom == pytest.approx(3 * fitted))
    assert camera.center == pytest.approx((0, 30, 40))


def test_the_status_bar_names_the_image_that_a_key_has_shown(window: Any) -> None:
    """napari computes it when the mouse moves, which a reader who works by keyboard never does."""
    QTest.mouseMove(window.canvas, window.at(5, 5))
    shown = window.main.findChild(QLabel, "layer_base status")
    window.qtbot.waitUntil(lambda: shown.text().startswith("P1"), timeout=10_000)
    window.key(Qt.Key.Key_F8)
    window.shown("P2")
    assert shown.text().startswith("P2")
