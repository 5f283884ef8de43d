"""A network that takes its time: nothing is lost, and nothing is signed before its answer was seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

DELAY_S = 0.5
OUTSIDE = (15, 20)  # not in the outline of an image
GESTURES: dict[str, tuple[Any, Callable[[Any], None]]] = {
    "click": (Qt.Key.Key_C, lambda window: window.click_image(*OUTSIDE)),
    "scribble": (Qt.Key.Key_C, lambda window: window.drag((15, 15), OUTSIDE, (15, 40))),
    "box": (Qt.Key.Key_R, lambda window: window.drag((20, 40), (60, 80))),
    "lasso": (Qt.Key.Key_L, lambda window: window.drag((20, 40), (20, 80), (60, 80), (60, 40))),
}


@pytest.fixture
def slow(window: Any, network: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The window, with a network that has become slow."""
    quick = network.predict

    def predict(*arguments: Any, **more: Any) -> Any:
        time.sleep(DELAY_S)
        return quick(*arguments, **more)

    monkeypatch.setattr(network, "predict", predict)
    return window


@pytest.mark.parametrize("gesture", GESTURES)
def test_a_verdict_after_a_gesture_waits_for_its_outline(slow: Any, gesture: str) -> None:
    key, draw = GESTURES[gesture]
    before = slow.mask.copy()
    slow.canvas.setFocus()
    slow.look()
    slow.key(key)
    draw(slow)
    assert slow.editor.requests.queue
    slow.key(Qt.Key.Key_W)
    assert slow.reviewed() == []
    assert "waits until the outline is ready" in slow.bar.message.text()
    slow.shown("P2")
    assert slow.reviewed() == ["P1"]
    signed = slow.session.study.read_mask(slow.state("P1").image_id)
    if gesture in {"click", "scribble"}:
        assert signed[OUTSIDE]
        assert signed[before > 0].all()
    else:
        assert signed[40, 60]
        assert not signed[65:].any()


def test_keys_pressed_while_the_next_image_is_awaited_sign_nothing(slow: Any) -> None:
    slow.look()
    slow.key(Qt.Key.Key_W)
    for _ in range(4):
        slow.key(Qt.Key.Key_W)
        slow.wait(60)
    slow.shown("P2")
    assert slow.reviewed() == ["P1"]
    slow.look()
    slow.key(Qt.Key.Key_W)
    slow.shown("P3")
    assert slow.reviewed() == ["P1", "P2"]


def test_strokes_drawn_while_the_network_works_are_all_kept(slow: Any) -> None:
    slow.canvas.setFocus()
    slow.key(Qt.Key.Key_C)
    places = [(15, 20), (15, 140), (110, 20)]
    for place in places:
        slow.click_image(*place)
        slow.wait(450)  # else two clicks are a double click
    slow.drag((110, 60), (110, 100))
    slow.qtbot.waitUntil(lambda: not slow.editor.requests.queue, timeout=30_000)
    assert len(slow.editor.snapshot.strokes) == 4
    assert all(slow.mask[place] for place in places)
    assert slow.mask[110, 60:101].all()
    for count in (3, 2, 1, 0):
        slow.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        slow.qtbot.waitUntil(lambda: not slow.editor.requests.queue, timeout=30_000)
        if len(slow.editor.snapshot.strokes) == 0:
            break
        assert len(slow.editor.snapshot.strokes) <= count
    assert np.count_nonzero(slow.mask) == 60 * 60
