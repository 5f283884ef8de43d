"""A morning with landmarks: mark six joints on five images, undo, train, find them in a sixth, and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog
from tests.plugin.canvas_mouse import CanvasMouse
from tests.plugin.joints import JOINTS, LINES, TINY, figure_of, joints_of

from napari_lesionseg.errors import LandmarkError
from napari_lesionseg.models.store import FOLDER_VARIABLE
from napari_lesionseg.plugin.instances.pixel_size import scale_of
from napari_lesionseg.plugin.landmarks import controls
from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor, set_scale_from_ruler
from napari_lesionseg.plugin.landmarks.panel import LandmarksPanel
from napari_lesionseg.types import OCCLUDED, Mark

WAIT = 120_000


@pytest.fixture
def panel(
    make_napari_viewer: Any, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LandmarksPanel:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(controls, "training_config", lambda seconds: TINY)
    viewer = make_napari_viewer(show=True)
    for seed in range(6):
        figure = figure_of(seed)
        viewer.add_image(figure.image, name=figure.name, rgb=True)
    widget = LandmarksPanel(viewer)
    viewer.window.add_dock_widget(widget)
    widget.names.setEditText(LINES)
    return widget


def export(panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, path: Path) -> str:
    """Press Export, and return what the panel says then."""
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *arguments: (str(path), ""))
    return press(panel, qtbot, "Export")


def import_(panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, path: Path) -> str:
    """Press Import, and return what the panel says then."""
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *arguments: (str(path), ""))
    return press(panel, qtbot, "Import")


def press(panel: LandmarksPanel, qtbot: Any, name: str) -> str:
    button = panel.buttons[name]
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    assert not button.isEnabled()
    qtbot.waitUntil(button.isEnabled, timeout=WAIT)
    return str(panel.status.text())


def begin(panel: LandmarksPanel, seed: int) -> LandmarkEditor:
    viewer = panel._viewer
    for layer in viewer.layers:
        layer.visible = layer.name.startswith(f"figure-{seed}")
    viewer.layers.selection.active = viewer.layers[f"figure-{seed}"]
    panel.buttons["Mark"].click()
    editor = panel.landmarks.shown
    assert editor is not None
    return editor


def mark_all(panel: LandmarksPanel, mouse: CanvasMouse, seed: int) -> LandmarkEditor:
    editor = begin(panel, seed)
    for place in joints_of(seed):
        mouse.click(place)
    return editor


def test_a_morning_with_landmarks(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    for seed in range(5):
        editor = mark_all(panel, mouse, seed)
        assert [mark.label for mark in editor.marks] == list(JOINTS)
        assert editor.people[0].points == pytest.approx(joints_of(seed), abs=0.6)
        assert len(editor.bones.data) == 2
        assert panel.marking.next.text() == "Complete (6 marked)"
        mouse.click(np.array([2.0, 2.0]))  # one click too many
        assert len(editor.marks) == len(editor.points.data) == 6

    complete = editor.marks
    mouse.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    mouse.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert editor.marks == complete[:4]
    assert panel.marking.next.text() == "Click on: left_hip (4 marked)"
    both = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    mouse.press(Qt.Key.Key_Z, both)
    assert editor.marks == complete[:5]
    panel.marking.buttons["redo landmark"].click()
    assert editor.marks == complete
    mouse.press(Qt.Key.Key_H)
    assert editor.marks[-1].visibility == OCCLUDED
    assert str(editor.points.symbol[-1]) == "ring"

    mouse.drag(np.array(complete[0][1:3]), np.array([10.0, 12.0]))
    assert editor.marks[0][1:3] == pytest.approx((10, 12), abs=0.6)
    assert len(editor.bones.data) == 2
    mouse.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)  # the drag is one step
    assert editor.marks[0] == complete[0]
    assert editor.marks[-1].visibility == OCCLUDED

    panel.training.train.click()
    qtbot.waitUntil(lambda: panel.training.loaded is not None, timeout=WAIT)
    assert panel.training.models.currentText() == "landmarks"
    panel.buttons["Find"].click()
    qtbot.waitUntil(lambda: len(panel.landmarks.editors) == 6, timeout=WAIT)
    found = panel.landmarks.editors[5]
    assert found.image.name == "figure-5"
    assert all(0 < mark.score < 1 for mark in found.marks)
    found.put([Mark("left_hip", 4.0, 5.0, score=0.25)], "prediction")  # the tiny network may find nothing

    export(panel, qtbot, monkeypatch, tmp_path / "joints.json")
    before = [one.marks for one in panel.landmarks.editors]
    for one in panel.landmarks.editors:
        one.put([], "removed")
    import_(panel, qtbot, monkeypatch, tmp_path / "joints.json")
    again = [one.marks for one in panel.landmarks.editors]
    assert [rounded(marks) for marks in before] == again


def rounded(marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """Files hold positions of single precision."""
    return tuple(
        mark._replace(row=float(np.float32(mark.row)), col=float(np.float32(mark.col))) for mark in marks
    )


def test_training_can_be_canceled(panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    long = TINY.model_copy(update={"epochs": 100_000})
    monkeypatch.setattr(controls, "training_config", lambda seconds: long)
    for seed in range(2):
        begin(panel, seed).put([Mark("left_hip", 3, 4)], "added")
    panel.training.train.click()
    assert panel.training.cancel.isVisibleTo(panel)
    panel.training.cancel.click()
    qtbot.waitUntil(lambda: not panel.training.is_busy, timeout=WAIT)
    assert panel.training.loaded is None
    assert "No model was saved" in panel.training.status.text()
    panel.training.train.click()
    qtbot.waitUntil(lambda: panel.training.progress.value() > 0 or panel.training.is_busy, timeout=WAIT)
    panel.training.finish.click()
    qtbot.waitUntil(lambda: panel.training.loaded is not None, timeout=WAIT)


def test_points_that_cannot_be_used_are_kept_and_named(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    editor = begin(panel, 0)
    editor.put([Mark("left_hip", 3, 4), Mark("tail", 5, 6), Mark("left_hip", 7, 8)], "added")
    said = export(panel, qtbot, monkeypatch, tmp_path / "joints.json")
    assert "no landmark 'tail'" in said
    assert "marked twice" in said
    assert len(editor.points.data) == 3
    assert editor.people[0].labeled.sum() == 1


def test_an_import_keeps_points_that_the_skeleton_lacks(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin(panel, 0).put([Mark("left_hip", 3, 4)], "added")
    export(panel, qtbot, monkeypatch, tmp_path / "joints.csv")
    text = (tmp_path / "joints.csv").read_text().replace("left_hip", "tail")
    (tmp_path / "joints.csv").write_text(text)
    said = import_(panel, qtbot, monkeypatch, tmp_path / "joints.csv")
    assert "no landmark 'tail'" in said
    assert panel.landmarks.editors[0].marks[0].label == "tail"


def test_a_damaged_file_is_one_sentence(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torn.json").write_text('{"images": [')
    assert "torn.json" in import_(panel, qtbot, monkeypatch, tmp_path / "torn.json")
    assert panel.landmarks.editors == []


def test_a_second_person_gets_an_id_and_a_color(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = mark_all(panel, mouse, 0)
    mouse.press(Qt.Key.Key_N)
    mouse.click(np.array([5.0, 5.0]))
    mouse.press(Qt.Key.Key_Period)
    mouse.click(np.array([8.0, 8.0]))
    assert [mark.label for mark in editor.marks[-2:]] == ["left_shoulder", "left_elbow"]
    assert [person.id for person in editor.people] == ["", "2"]
    assert panel.marking.next.text().endswith("(8 marked, 2 people)")
    assert not np.allclose(editor.points.face_color[0], editor.points.face_color[-1])


def test_a_click_on_a_landmark_that_was_chosen_again_moves_it(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = begin(panel, 0)
    mouse.click(np.array([20.0, 20.0]))
    mouse.press(Qt.Key.Key_Comma)
    mouse.click(np.array([40.0, 40.0]))
    assert [mark.label for mark in editor.marks] == ["left_shoulder"]
    assert editor.marks[0][1:3] == pytest.approx((40, 40), abs=0.6)
    assert panel.marking.next.text() == "Click on: right_shoulder (1 marked)"


def test_the_ends_of_a_ruler_set_the_scale(panel: LandmarksPanel) -> None:
    panel.names.setEditText("ruler_start - ruler_end")
    editor = begin(panel, 0)
    with pytest.raises(LandmarkError, match="ruler_start and ruler_end"):
        set_scale_from_ruler(editor, 10)
    editor.put([Mark("ruler_start", 10, 10), Mark("ruler_end", 40, 50)], "added")
    panel.ruler.length.setValue(10)
    panel.ruler.button.click()
    known = scale_of(editor.image)
    assert known is not None
    assert known.scale.millimeters == pytest.approx(0.2)
    assert "0.2 mm" in panel.status.text()


def test_names_that_cannot_be_used_are_explained(panel: LandmarksPanel) -> None:
    panel.names.setEditText("eye,, nose")
    with pytest.raises(LandmarkError, match="A name is missing"):
        panel.mark()
    assert panel.landmarks.editors == []
