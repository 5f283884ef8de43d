"""The widget with a network of the real kind, whose weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytestqt.qtbot import QtBot

import napari_lesionseg as ls
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.plugin.segment import task
from napari_lesionseg.plugin.segment.task import MIN_WORKING_SIZE, ModelChoice
from napari_lesionseg.plugin.widgets.model_picker import available_models


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one model, named ``random``."""
    torch.manual_seed(3)
    card = ModelCard(name="random", working_size=96, threshold=0.5)
    payload = checkpoint_bytes(build_network("lite-unet"), card)
    (tmp_path / "random.safetensors").write_bytes(payload)
    (tmp_path / "broken.safetensors").write_bytes(payload[: len(payload) // 2])
    monkeypatch.setenv("LESIONSEG_MODELS", str(tmp_path))


def test_the_survey_finds_models_and_devices() -> None:
    found = available_models()
    problems = {model.name: model.problem for model in found.models if not model.shipped}
    assert problems["random"] == ""
    assert problems["broken"]
    assert found.devices["cpu"].startswith("CPU, ")
    assert "auto" in found.devices


@pytest.mark.parametrize(("asked", "given"), [(0, 96), (128, 128), (1, MIN_WORKING_SIZE)])
def test_the_working_size_can_be_chosen(asked: Any, given: Any) -> None:
    model = task.load(ModelChoice("random", "cpu", asked))
    assert model.card.working_size == given
    image = synthetic_sample(1, (50, 70)).image
    assert model.predict(image).shape == (50, 70)


def test_the_viewer_and_python_draw_the_same_outline(make_napari_viewer: Any, qtbot: QtBot) -> None:
    image = synthetic_sample(1, (90, 120)).image
    viewer = make_napari_viewer()
    viewer.add_image(image, rgb=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-lesionseg", "Segment lesions")
    qtbot.waitUntil(lambda: widget.models.model.findText("random") >= 0, timeout=60_000)
    widget.models.model.setCurrentText("random")
    widget.models.device.setCurrentIndex(1)
    widget.segment.click()
    qtbot.waitUntil(widget.segment.isEnabled, timeout=60_000)
    model = ls.load_model("random", device="cpu")
    np.testing.assert_array_equal(viewer.layers[1].data, ls.segment(image, model=model))
    widget.controls.threshold.slider.setValue(48)
    qtbot.waitUntil(lambda: not widget.controls._unsettled, timeout=60_000)
    np.testing.assert_array_equal(viewer.layers[1].data, ls.segment(image, model=model, threshold=0.52))
    assert viewer.layers[1].data.any()
