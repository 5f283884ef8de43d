"""In plain napari, nothing moves or reshapes an outline silently, and other layers stay free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.utils.notifications import notification_manager
from napari.viewer import Viewer
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from tests.fakes import prediction_of
from tests.plugin.conftest import spot_image

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.instances.panel import InstancesPanel
from napari_lesionseg.plugin.segment.outlines import ImageEditors, Result

CTRL, ALT, NONE = (
    Qt.KeyboardModifier.ControlModifier,
    Qt.KeyboardModifier.AltModifier,
    Qt.KeyboardModifier.NoModifier,
)
KEYS = {
    "transform": (Qt.Key.Key_7, NONE),
    "grid": (Qt.Key.Key_G, CTRL),
    "roll": (Qt.Key.Key_E, CTRL),
    "transpose": (Qt.Key.Key_T, CTRL),
}


class Napari:
    """A window with an image that *Segment lesions* has outlined."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.image = viewer.add_image(spot_image(), rgb=True, name="IMD003")
        probability = np.where(spot_image()[..., 0] < 100, 0.9, 0.1).astype(np.float32)
        result = Result({(): prediction_of(probability)}, None, PostprocessConfig(min_area=0))
        self.labels: Labels = ImageEditors(viewer).accept(self.image, (40, 60), result).labels
        viewer.layers.selection.active = self.labels

    def key(self, key: Any, modifier: Any = NONE) -> None:
        canvas = self.viewer.window._qt_viewer.canvas.native
        canvas.setFocus()
        QTest.keyClick(canvas, key, modifier)


@pytest.fixture
def window(make_napari_viewer: Callable[..., Viewer]) -> Iterator[Napari]:
    made = Napari(make_napari_viewer(show=True))
    QApplication.setActiveWindow(made.viewer.window._qt_window)
    notification_manager.records.clear()
    yield made
    vars(made).clear()


def messages() -> str:
    return " ".join(record.message for record in notification_manager.records)


@pytest.fixture(params=["outline", "lesions"])
def guarded(request: pytest.FixtureRequest, window: Napari, qtbot: Any) -> Iterator[Labels]:
    """An outline, or a layer of single lesions, that is selected."""
    if request.param == "outline":
        yield window.labels
        return
    panel = InstancesPanel(window.viewer)
    qtbot.addWidget(panel)
    panel.numbering.button.click()
    qtbot.waitUntil(lambda: panel.current is not None and bool(panel.current.model.rows), timeout=30_000)
    assert panel.current is not None
    yield panel.current.labels


@pytest.mark.parametrize("what", KEYS)
def test_a_key_that_moves_layers_changes_nothing_and_says_so(
    window: Napari, guarded: Labels, what: str
) -> None:
    before, extent = guarded.data.copy(), guarded.extent.world.copy()
    window.key(*KEYS[what])
    assert "utline" in messages()
    assert str(guarded.mode) != "transform"
    assert np.allclose(guarded.extent.world, extent)
    assert not window.viewer.canvas.grid.enabled
    assert tuple(window.viewer.dims.order) == (0, 1)
    assert np.array_equal(guarded.data, before)


def test_the_windows_key_of_redo_is_redo(window: Napari, guarded: Labels) -> None:
    before = guarded.data.copy()
    guarded.selected_label = 1
    guarded.paint((2, 2), 1)
    painted = guarded.data.copy()
    window.key(Qt.Key.Key_Z, CTRL)
    assert np.array_equal(guarded.data, before)
    window.key(Qt.Key.Key_Y, CTRL)
    assert np.array_equal(guarded.data, painted)
    assert window.viewer.dims.ndisplay == 2


def test_an_outline_has_no_second_class(window: Napari) -> None:
    window.key(Qt.Key.Key_M)
    assert window.labels.selected_label == 1
    assert "only one class" in messages()


def test_an_outline_is_turned_with_its_image(window: Napari) -> None:
    window.key(Qt.Key.Key_T, CTRL | ALT)
    assert not np.allclose(window.image.affine, np.eye(3))
    assert np.allclose(window.labels.affine, window.image.affine)


def test_other_layers_can_be_seen_in_3d(window: Napari) -> None:
    window.viewer.add_points([[1, 2]])
    window.key(Qt.Key.Key_Y, CTRL)
    assert window.viewer.dims.ndisplay == 3
    window.key(Qt.Key.Key_Y, CTRL)
    assert not messages()


def test_an_outline_follows_its_image(window: Napari) -> None:
    window.image.scale = (0.02, 0.02)
    window.image.translate = (3, 4)
    assert np.allclose(window.labels.extent.world, window.image.extent.world)
    window.labels.translate = (9, 9)
    assert np.allclose(window.labels.extent.world, window.image.extent.world)


def test_a_closed_outline_leaves_the_keys_as_they_were(window: Napari) -> None:
    window.viewer.layers.remove(window.labels)
    window.viewer.layers.selection.active = window.image
    window.key(Qt.Key.Key_Y, CTRL)
    assert window.viewer.dims.ndisplay == 3
    window.viewer.dims.ndisplay = 2
