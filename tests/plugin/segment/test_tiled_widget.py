from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.plugin.instances.panel import InstancesPanel
from napari_lesionseg.plugin.napari_layers.layers import CLASSES
from napari_lesionseg.plugin.segment.tiled_task import TiledTask
from napari_lesionseg.plugin.segment.tiled_widget import TiledWidget

HEIGHT, WIDTH = 8192, 12288
"""A hundred megapixels."""


class Darkness:
    """Says that dark is lesion, from what it sees in each window."""

    def __init__(self) -> None:
        self.card = ModelCard(name="dark", mean=(0, 0, 0), std=(1, 1, 1), working_size=64)
        self.device = torch.device("cpu")
        self.sha256 = "da" * 32
        self.gate = threading.Event()
        self.gate.set()
        self.windows = 0

    @property
    def device_model(self) -> Darkness:
        return self

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert self.gate.wait(timeout=60)
        self.windows += len(images)
        return (images,)

    def decode(self, features: tuple[torch.Tensor, ...], guidance: None) -> torch.Tensor:
        return 40 * (0.4 - features[0].mean(dim=1, keepdim=True))

    def predict(self, image: Any, clicks: Any = (), previous: Any = None) -> Any:
        return (image.mean(axis=2) < 100).astype(np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Darkness:
    made = Darkness()
    monkeypatch.setattr("napari_lesionseg.plugin.segment.task.load", lambda choice: made)
    found = SimpleNamespace(models=(), devices={})
    monkeypatch.setattr("napari_lesionseg.plugin.widgets.model_picker.available_models", lambda: found)
    return made


class Body:
    """A photograph that exists only where it is read: skin, with a dark lesion in every 2048 x 2048."""

    def __init__(self) -> None:
        self.array = da.map_blocks(
            self._block,
            chunks=((1024,) * 8, (1024,) * 12, (3,)),
            dtype=np.uint8,
            meta=np.zeros((0, 0, 0), np.uint8),
        )

    def _block(self, block_info: Any = None) -> Any:
        (top, _), (left, _), _ = block_info[None]["array-location"]
        pixels = np.full((1024, 1024, 3), 200, np.uint8)
        if top % 2048 == 0 and left % 2048 == 0:
            pixels[300:700, 300:700] = 50
        return pixels


def small_image(shape: Any = (600, 900)) -> np.ndarray:
    image = np.full((*shape, 3), 200, np.uint8)
    image[90:210, 290:430] = 120  # hardly dark
    image[100:200, 300:420] = 50
    return image


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


def make(qtbot: QtBot, viewer: ViewerModel) -> TiledWidget:
    widget = TiledWidget(viewer)
    qtbot.addWidget(widget)
    widget.show()
    return widget


def wait_for(qtbot: QtBot, widget: Any) -> None:
    qtbot.waitUntil(lambda: not widget._at_work(), timeout=240_000)


def test_the_status_line_asks_for_an_image(qtbot: QtBot, viewer: ViewerModel, model: Darkness) -> None:
    widget = make(qtbot, viewer)
    assert not widget.segment.isEnabled()
    assert "Open an image first" in widget.status.text()
    assert "Open an image first" in widget.segment.toolTip()


def test_a_hundred_megapixels_from_the_disk_tile_by_tile(
    qtbot: QtBot, viewer: ViewerModel, model: Darkness
) -> None:
    viewer.add_image(Body().array, rgb=True, name="body", contrast_limits=(0, 255))
    widget = make(qtbot, viewer)
    assert "100.7 megapixels" in widget.status.text()
    widget.form.width_of_lesions.setValue(800)
    seen = []
    widget.segment.click()
    qtbot.waitUntil(lambda: isinstance(widget._task, TiledTask), timeout=60_000)
    widget._task.progressed.connect(seen.append)
    wait_for(qtbot, widget)
    assert len(seen) > 10
    assert seen == [(place + 1, len(seen)) for place in range(len(seen))]
    outline = widget.outline.labels
    assert outline.name == "body outline"
    assert outline.data.shape == (HEIGHT, WIDTH)
    assert outline.contour > 0  # the GPU draws it, at any size
    assert outline.metadata[CLASSES] == ("background", "lesion")
    lesion = outline.data[300:700, 300:700].mean()
    assert lesion > 0.9
    assert np.count_nonzero(outline.data) == pytest.approx(24 * 400 * 400, rel=0.1)
    assert "Outlined" in widget.status.text()


def test_cancel_changes_nothing(qtbot: QtBot, viewer: ViewerModel, model: Darkness) -> None:
    viewer.add_image(Body().array, rgb=True, name="body", contrast_limits=(0, 255))
    widget = make(qtbot, viewer)
    widget.form.width_of_lesions.setValue(800)
    model.gate.clear()
    widget.segment.click()
    qtbot.waitUntil(lambda: isinstance(widget._task, TiledTask), timeout=60_000)
    assert not widget.segment.isEnabled()
    assert "Wait" in widget.segment.toolTip()
    widget.cancel.click()
    assert widget.status.text() == "Stopping after the current part."
    model.gate.set()
    wait_for(qtbot, widget)
    assert "Canceled; nothing was changed" in widget.status.text()
    assert [layer.name for layer in viewer.layers] == ["body"]
    assert model.windows < 3
    assert widget.segment.isEnabled()


def test_another_threshold_redraws_without_the_network(
    qtbot: QtBot, viewer: ViewerModel, model: Darkness
) -> None:
    viewer.add_image(small_image(), rgb=True, name="arm")
    widget = make(qtbot, viewer)
    widget.segment.click()
    wait_for(qtbot, widget)
    asked, outline = model.windows, widget.outline.labels
    before = outline.data.copy()
    widget.form.smallest.setValue(1000)
    widget.form.threshold.slider.setValue(96)
    qtbot.waitUntil(lambda: not np.array_equal(outline.data, before), timeout=20_000)
    assert model.windows == asked
    assert widget.outline.labels is outline
    outline.undo()
    assert np.array_equal(outline.data, before)


def test_another_threshold_keeps_what_was_painted_and_another_run_does_not(
    qtbot: QtBot, viewer: ViewerModel, model: Darkness
) -> None:
    viewer.add_image(small_image(), rgb=True, name="arm")
    widget = make(qtbot, viewer)
    widget.segment.click()
    wait_for(qtbot, widget)
    outline = widget.outline.labels
    before = outline.data.copy()
    empty = tuple(np.argwhere(before == 0)[0])
    outline.data_setitem(tuple(np.array([at]) for at in empty), 1)
    widget.form.threshold.slider.setValue(96)
    qtbot.waitUntil(lambda: outline.data.sum() > before.sum() + 1, timeout=60_000)
    assert outline.data[empty] == 1
    widget.form.threshold.slider.setValue(4)
    qtbot.waitUntil(lambda: outline.data.sum() == before.sum() + 1, timeout=60_000)
    assert outline.data[empty] == 1
    widget.segment.click()
    wait_for(qtbot, widget)
    assert outline.data[empty] == 0
    outline.undo()
    assert outline.data[empty] == 1


def test_one_large_lesion_is_predicted_at_a_small_level_of_a_multiscale_image(
    qtbot: QtBot, viewer: ViewerModel, model: Darkness
) -> None:
    full = small_image()
    viewer.add_image([full, full[::2, ::2]], rgb=True, name="arm", multiscale=True)
    widget = make(qtbot, viewer)
    widget.form.whole.setChecked(True)
    assert not widget.form.width_of_lesions.isEnabled()
    widget.segment.click()
    wait_for(qtbot, widget)
    assert widget.outline.labels.data.shape == full.shape[:2]
    assert np.count_nonzero(widget.outline.labels.data) == pytest.approx(100 * 120, rel=0.05)


def test_unsupported_images_are_reported(qtbot: QtBot, viewer: ViewerModel, model: Darkness) -> None:
    widget = make(qtbot, viewer)
    viewer.add_image(np.zeros((3, 64, 64, 3), np.uint8), rgb=True, name="film")
    widget.segment.click()
    wait_for(qtbot, widget)
    assert "is a stack" in widget.status.text()
    viewer.add_image(np.zeros((64, 64), np.float32), name="gray")
    widget.segment.click()
    wait_for(qtbot, widget)
    assert "Only 8-bit" in widget.status.text()


def test_an_image_closed_meanwhile_gets_no_outline(
    qtbot: QtBot, viewer: ViewerModel, model: Darkness
) -> None:
    viewer.add_image(small_image(), rgb=True, name="arm")
    widget = make(qtbot, viewer)
    model.gate.clear()
    widget.segment.click()
    qtbot.waitUntil(lambda: isinstance(widget._task, TiledTask), timeout=60_000)
    viewer.layers.clear()
    model.gate.set()
    wait_for(qtbot, widget)
    assert "was closed" in widget.status.text()
    assert not viewer.layers


def test_the_lesions_of_a_large_outline_can_be_numbered(
    qtbot: QtBot, viewer: ViewerModel, model: Darkness
) -> None:
    viewer.add_image(small_image(), rgb=True, name="arm")
    widget = make(qtbot, viewer)
    widget.segment.click()
    wait_for(qtbot, widget)
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    assert panel.current is None
    panel.numbering.button.click()
    qtbot.waitUntil(lambda: panel.current is not None and len(panel.current.model.rows) == 1, timeout=20_000)
