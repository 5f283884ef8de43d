"""Nothing that napari offers moves or reshapes the outline of a study silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt

CTRL, ALT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.AltModifier
KEYS = {
    "transform": (Qt.Key.Key_7, Qt.KeyboardModifier.NoModifier),
    "grid": (Qt.Key.Key_G, CTRL),
    "roll": (Qt.Key.Key_E, CTRL),
    "transpose": (Qt.Key.Key_T, CTRL),
    "rotate": (Qt.Key.Key_T, CTRL | ALT),
    "another class": (Qt.Key.Key_M, Qt.KeyboardModifier.NoModifier),
}


@pytest.mark.parametrize("what", KEYS)
def test_a_key_that_moves_layers_changes_nothing_and_says_so(window: Any, what: str) -> None:
    mask, extent = window.mask.copy(), window.labels.extent.world.copy()
    notification_manager.records.clear()
    window.key(*KEYS[what])
    assert any("study" in record.message for record in notification_manager.records)
    assert str(window.labels.mode) != "transform"
    assert np.allclose(window.labels.extent.world, extent)
    assert np.allclose(window.editor.image.affine, np.eye(3))
    assert window.labels.selected_label == 1
    assert not window.viewer.canvas.grid.enabled
    assert tuple(window.viewer.dims.order) == (0, 1)
    assert np.array_equal(window.mask, mask)


def test_the_windows_key_of_redo_is_redo_and_not_3d(window: Any) -> None:
    outline = window.mask.copy()
    window.labels.brush_size = 5
    window.key(Qt.Key.Key_P)
    window.drag((10, 60), (10, 70))
    painted = window.mask.copy()
    assert painted.sum() > outline.sum()
    window.key(Qt.Key.Key_Z, CTRL)
    assert np.array_equal(window.mask, outline)
    window.key(Qt.Key.Key_Y, CTRL)
    assert window.viewer.dims.ndisplay == 2
    assert np.array_equal(window.mask, painted)


def test_3d_by_button_returns_to_2d(window: Any) -> None:
    window.viewer.dims.ndisplay = 3
    assert window.viewer.dims.ndisplay == 2
