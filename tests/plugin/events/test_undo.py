"""Ctrl+Z takes back what was done last, verdicts included, and never the model's first outline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.study.state import Status

CTRL = Qt.KeyboardModifier.ControlModifier


def paint(window: Any) -> None:
    """Paint a stroke above the lesion."""
    window.editor.labels.brush_size = 5
    window.key(Qt.Key.Key_P)
    window.drag((10, 60), (10, 70), (10, 80))
    window.key(Qt.Key.Key_P)


def verdict(window: Any, key: Any, following: str) -> None:
    window.look()
    window.key(key)
    window.shown(following)


@pytest.mark.parametrize("key", [Qt.Key.Key_W, Qt.Key.Key_F3])
def test_undo_right_after_a_verdict_takes_it_back_and_returns(window: Any, key: Any) -> None:
    outline = window.mask.copy()
    verdict(window, key, "P2")
    assert window.status("P1").done
    window.key(Qt.Key.Key_Z, CTRL)
    window.shown("P1")
    assert not window.status("P1").done
    assert np.array_equal(window.mask, outline)


def test_undo_after_a_verdict_goes_on_with_the_history_of_that_image(window: Any) -> None:
    outline = window.mask.copy()
    paint(window)
    painted = window.mask.copy()
    assert painted.sum() > outline.sum()
    verdict(window, Qt.Key.Key_W, "P2")
    verdict(window, Qt.Key.Key_W, "P3")
    window.key(Qt.Key.Key_Z, CTRL)
    window.shown("P2")
    window.key(Qt.Key.Key_Z, CTRL)
    window.shown("P1")
    assert np.array_equal(window.mask, painted)
    window.key(Qt.Key.Key_Z, CTRL)
    assert np.array_equal(window.mask, outline)
    window.key(Qt.Key.Key_Z, CTRL | Qt.KeyboardModifier.ShiftModifier)
    assert np.array_equal(window.mask, painted)
    assert window.reviewed() == []


def test_the_button_takes_back_a_verdict_too(window: Any) -> None:
    button = window.bench.panel(CorrectSection).tools.buttons["undo"]
    for name in ("P1", "P2", "P3", "P4"):
        window.shown(name)
        window.look()
        window.key(Qt.Key.Key_W)
        window.qtbot.waitUntil(lambda name=name: window.state(name).status.done, timeout=10_000)
        window.qtbot.waitUntil(button.isEnabled, timeout=10_000)
    window.click(button)
    window.qtbot.waitUntil(lambda: not window.state("P4").status.done, timeout=10_000)


def test_undo_never_removes_the_first_outline(window: Any) -> None:
    outline = window.mask.copy()
    for _ in range(3):
        window.key(Qt.Key.Key_Z, CTRL)
    assert outline.any()
    assert np.array_equal(window.mask, outline)
    assert window.name == "P1"


def test_undo_of_an_edit_comes_before_undo_of_a_verdict(window: Any) -> None:
    verdict(window, Qt.Key.Key_W, "P2")
    outline = window.mask.copy()
    paint(window)
    window.key(Qt.Key.Key_Z, CTRL)
    assert window.name == "P2"
    assert np.array_equal(window.mask, outline)
    window.key(Qt.Key.Key_Z, CTRL)
    window.shown("P1")
    assert window.status("P1") is not Status.APPROVED


def test_the_history_survives_going_back_to_an_image(window: Any) -> None:
    outline = window.mask.copy()
    paint(window)
    verdict(window, Qt.Key.Key_W, "P2")
    window.key(Qt.Key.Key_Q)
    window.shown("P1")
    assert window.mask.sum() > outline.sum()
    window.key(Qt.Key.Key_Z, CTRL)
    assert np.array_equal(window.mask, outline)
