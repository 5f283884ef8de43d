"""Boxes, lassos and scribbles drawn with the mouse in a real window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

GESTURES = {
    "box": (Qt.Key.Key_R, ((20, 40), (50, 70), (60, 80))),
    "lasso": (Qt.Key.Key_L, ((20, 40), (20, 80), (60, 80), (60, 40))),
}


@pytest.mark.parametrize("kind", GESTURES)
def test_a_gesture_draws_the_outline_again_and_is_one_step(window: Any, kind: str) -> None:
    key, places = GESTURES[kind]
    before, label = window.mask.copy(), window.labels.selected_label
    assert before[75, 95]
    window.canvas.setFocus()
    window.key(key)
    window.drag(*places)
    window.qtbot.waitUntil(lambda: not window.mask[75, 95], timeout=10_000)
    assert window.mask[45, 65]
    assert not window.mask[63:].any()
    assert not window.mask[:, 83:].any()
    assert window.labels.selected_label == label
    assert str(window.labels.mode) == "pan_zoom"
    window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    window.qtbot.waitUntil(lambda: np.array_equal(window.mask, before), timeout=10_000)


def test_a_drag_with_the_click_tool_is_a_scribble_undone_at_once(window: Any) -> None:
    before = window.mask.copy()
    window.canvas.setFocus()
    window.key(Qt.Key.Key_N)
    window.drag((50, 70), (55, 75), (60, 80))
    window.qtbot.waitUntil(lambda: len(window.editor.snapshot.clicks) > 1, timeout=10_000)
    assert window.editor.snapshot.click_counts == (len(window.editor.snapshot.clicks),)
    assert not any(window.mask[click.pixel] for click in window.editor.snapshot.clicks)
    window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    window.qtbot.waitUntil(lambda: np.array_equal(window.mask, before), timeout=10_000)
