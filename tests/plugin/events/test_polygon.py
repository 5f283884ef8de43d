"""Drawing a polygon."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Qt


def test_undo_removes_the_last_corner_of_a_polygon(window: Any) -> None:
    outline = window.mask.copy()
    window.key(Qt.Key.Key_G)
    for row, col in ((10, 20), (10, 60), (25, 60)):
        window.click_image(row, col)
        window.wait(500)  # else two clicks are a double click
    points = window.labels._overlays["polygon"].points
    assert len(points) == 4
    window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert window.labels._overlays["polygon"].points[:-1] == points[:2]
    for _ in range(3):
        window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert window.labels._overlays["polygon"].points == []
    assert np.array_equal(window.mask, outline)
