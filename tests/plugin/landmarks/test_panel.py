"""A morning with landmarks: mark six joints on five images, undo, train, find them in a sixth, and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_lesionseg.config import TrainConfig
from napari_lesionseg.datasets.synthetic import FIGURE_SKELETON, synthetic_figure
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.plugin.landmarks.panel import LandmarksPanel

JOINTS = ("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_hip", "right_hip")
TINY = TrainConfig(
    arch="unet",
    arch_settings={"width": 2, "depth": 1},
    pretrained=False,
    epochs=2,
    batch_size=4,
    sizes=((0.0, 32),),
    precision="float32",
    num_threads=1,
)
WAIT = 120_000


@pytest.fixture
def panel(make_napari_viewer: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> LandmarksPanel:
    viewer = make_napari_viewer()
    for seed in range(6):
        figure = synthetic_figure(seed, (96, 96), people=1)
        viewer.add_image(figure.image, name=figure.name, rgb=True)
    widget = LandmarksPanel(viewer)
    qtbot.addWidget(widget)
    widget.names.setText(", ".join(JOINTS))
    monkeypatch.setattr("napari_lesionseg.plugin.landmarks.panel.training_config", lambda seconds: TINY)
    return widget


def mark_all(panel: LandmarksPanel, seed: int) -> np.ndarray:
    """Click on the joints one after the other, as the mouse does."""
    viewer = panel._viewer
    viewer.layers.selection.active = viewer.layers[f"figure-{seed}"]
    layer = panel.mark()
    assert layer is not None
    assert layer.points.mode == "add"
    person = synthetic_figure(seed, (96, 96), people=1).landmarks[0]
    places = np.array([person.points[FIGURE_SKELETON.names.index(name)] for name in JOINTS])
    for place in places:
        layer.points.add(place)
    return places


def test_mark_undo_train_find_export_and_import_again(
    panel: LandmarksPanel, qtbot: Any, tmp_path: Path
) -> None:
    for seed in range(5):
        places = mark_all(panel, seed)
        layer = panel.landmarks.layers[seed]
        assert list(layer.points.features["label"]) == list(JOINTS)
        assert layer.people[0].points == pytest.approx(places, abs=1e-3)
        assert len(layer.bones.data) == len(JOINTS) - 1
        assert layer.problems == ()
    layer.points.selected_data = {5}
    layer.points.remove_selected()
    assert len(layer.points.data) == 5
    panel.buttons["Undo"].click()
    assert layer.people[0].points == pytest.approx(places, abs=1e-3)
    layer.points.selected_data = {2}
    panel.buttons["Occluded"].click()
    assert layer.people[0].visibility.tolist() == [2, 2, 1, 2, 2, 2]
    assert "ring" in {str(symbol) for symbol in layer.points.symbol}

    panel.train()
    qtbot.waitUntil(lambda: panel.model is not None, timeout=WAIT)
    panel.find_others()
    qtbot.waitUntil(lambda: len(panel.landmarks.layers) == 6, timeout=WAIT)
    found = panel.landmarks.layers[5]
    assert found.image.name == "figure-5"
    assert set(found.points.features["label"]) == set(JOINTS)
    assert ((found.points.features["likelihood"] > 0) & (found.points.features["likelihood"] < 1)).all()

    panel.landmarks.export_to(tmp_path / "joints.json")
    before = [one.people for one in panel.landmarks.layers]
    for one in panel.landmarks.layers:
        one.put([])
    panel.landmarks.import_from(tmp_path / "joints.json")
    for people, one in zip(before, panel.landmarks.layers, strict=True):
        (mine,), (again,) = people, one.people
        assert np.array_equal(mine.points, again.points)
        assert np.array_equal(mine.visibility, again.visibility)
        assert np.array_equal(mine.scores, again.scores)


def test_training_can_be_canceled(panel: LandmarksPanel, qtbot: Any) -> None:
    for seed in range(2):
        mark_all(panel, seed)
    panel.train()
    task = panel._task
    assert task is not None
    errors: list[Exception] = []
    task.failed.connect(errors.append)
    panel.cancel()
    qtbot.waitUntil(lambda: panel._task is None, timeout=WAIT)
    assert panel.model is None
    assert isinstance(errors[0], CancelledError)


def test_points_that_cannot_be_used_are_named(panel: LandmarksPanel) -> None:
    mark_all(panel, 0)
    (layer,) = panel.landmarks.layers
    features = layer.points.features.copy()
    features.loc[0, "label"] = "tail"
    features.loc[2, "label"] = JOINTS[1]
    layer._write(layer.points.data.copy(), features)
    reasons = [problem.reason for problem in layer.problems]
    assert "no landmark 'tail'" in reasons[0]
    assert "marked twice" in reasons[1]
    assert len(layer.points.data) == 6
    assert layer.people[0].labeled.sum() == 4


def test_a_second_person_gets_an_id(panel: LandmarksPanel) -> None:
    mark_all(panel, 0)
    (layer,) = panel.landmarks.layers
    panel.buttons["Next person"].click()
    layer.points.add([5, 5])
    layer.points.add([6, 6])
    assert list(layer.points.features["label"])[-2:] == list(JOINTS[:2])
    assert [person.id for person in layer.people] == ["", "2"]
