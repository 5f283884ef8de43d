"""The threshold belongs to its image."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt

from napari_lesionseg.plugin.workbench.panels.base import OutlinePanel


def move(window: Any, steps: int) -> None:
    """Move the threshold with the arrow keys of the slider."""
    window.bench.panel(OutlinePanel).form.threshold.slider.setFocus()
    for _ in range(steps):
        window.key(Qt.Key.Key_Right)
    window.wait(700)
    window.canvas.setFocus()


def test_an_image_opens_with_the_threshold_its_outline_was_made_with(window: Any) -> None:
    shown = window.bench.panel(OutlinePanel).form.threshold
    move(window, 8)
    moved = shown.threshold
    assert moved is not None
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    assert shown.threshold is None
    window.saved()
    window.session.display._reviews.histories.clear()
    window.key(Qt.Key.Key_Q)
    window.shown("P1")
    assert shown.threshold == moved
    assert window.editor.snapshot.threshold == moved


def test_moving_the_threshold_keeps_what_was_painted(window: Any) -> None:
    window.labels.brush_size = 5
    window.key(Qt.Key.Key_P)
    window.drag((10, 60), (10, 70), (10, 80))
    assert window.mask[10, 70]
    move(window, 8)
    assert window.bench.panel(OutlinePanel).form.threshold.threshold is not None
    assert window.mask[10, 70]
