"""A morning with landmarks: mark six joints on five images, undo, train, find them in a sixth, and export."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from qtpy.QtCore import Qt, QThreadPool
from qtpy.QtWidgets import QFileDialog
from tests.plugin.canvas_mouse import CanvasMouse, turn_wheel
from tests.plugin.joints import JOINTS, LINES, TINY, figure_of, joints_of

from napari_lesionseg.datasets.landmarks.skeletons import parse_skeleton
from napari_lesionseg.errors import LandmarkError
from napari_lesionseg.models.store import FOLDER_VARIABLE
from napari_lesionseg.plugin.instances.pixel_size import scale_of
from napari_lesionseg.plugin.landmarks import controls, task
from napari_lesionseg.plugin.landmarks import panel as panel_module
from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor, set_scale_from_ruler
from napari_lesionseg.plugin.landmarks.panel import LandmarksPanel
from napari_lesionseg.types import OCCLUDED, VISIBLE, Mark

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


def test_a_fast_drag_of_a_landmark_ends_where_the_button_is_released(
    panel: LandmarksPanel, qtbot: Any
) -> None:
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = mark_all(panel, mouse, 0)
    before = editor.marks
    mouse.drag_fast(np.array(before[0][1:3]), (20.0, 20.0), (14.0, 16.0), (10.0, 12.0))
    assert editor.marks[0][1:3] == pytest.approx((10, 12), abs=0.6)
    mouse.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert editor.marks == before


def test_keys_act_on_the_landmark_that_was_clicked_or_dragged_last(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = mark_all(panel, mouse, 0)
    first, second = (np.array(mark[1:3]) for mark in editor.marks[:2])
    mouse.click(first)  # marks nothing
    assert len(editor.marks) == len(editor.points.data) == len(JOINTS)
    mouse.drag(second, second + 4)
    for state in (OCCLUDED, VISIBLE):
        mouse.press(Qt.Key.Key_H)
        assert editor.marks[1].visibility == state
    mouse.click(first)
    mouse.press(Qt.Key.Key_Delete)
    assert [mark.label for mark in editor.marks] == list(JOINTS[1:])
    assert panel.marking.next.text() == f"Click on: {JOINTS[0]} (5 marked)"
    mouse.press(Qt.Key.Key_H)
    assert [mark.visibility for mark in editor.marks] == [VISIBLE] * 4 + [OCCLUDED]
    mouse.click(first)
    assert {mark.label for mark in editor.marks} == set(JOINTS)


def test_only_the_left_button_marks(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = begin(panel, 0)
    for button in (Qt.MouseButton.RightButton, Qt.MouseButton.MiddleButton):
        mouse.click(np.array([20.0, 20.0]), button)
        assert len(editor.points.data) == len(editor.marks) == editor.history.depth == 0
    mouse.click(np.array([20.0, 20.0]))
    assert [mark.label for mark in editor.marks] == ["left_shoulder"]


def test_landmarks_stay_inside_the_image(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    panel._viewer.scene.camera.zoom /= 2
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = begin(panel, 0)
    told: list[str] = []
    editor.noted.connect(told.append)
    mouse.click(np.array([-9.0, 20.0]))
    assert len(editor.points.data) == len(editor.marks) == editor.history.depth == 0
    assert told == ["Click inside the image to mark left_shoulder."]
    mouse.click(np.array([20.0, 20.0]))
    mouse.drag(np.array([20.0, 20.0]), np.array([30.0, -15.0]))
    assert editor.marks[0][1:3] == pytest.approx((30, -0.5), abs=1)
    assert editor.marks[0].col == -0.5


def type_names(panel: LandmarksPanel, qtbot: Any, text: str) -> None:
    line = panel.names.lineEdit()
    qtbot.mouseClick(line, Qt.MouseButton.LeftButton)
    qtbot.keyClick(line, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClicks(line, text)
    qtbot.keyClick(line, Qt.Key.Key_Return)


def test_the_list_of_landmarks_can_change_while_marking(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = begin(panel, 0)
    mouse.click(np.array([20.0, 20.0]))
    mouse.click(np.array([40.0, 40.0]))
    type_names(panel, qtbot, "left_shoulder, knee")
    assert panel.marking.next.text() == "Click on: knee (2 marked)"
    assert "right_shoulder" in panel.status.text()
    mouse.click(np.array([60.0, 60.0]))
    assert [mark.label for mark in editor.marks] == ["left_shoulder", "right_shoulder", "knee"]
    assert editor.people[0].labeled.tolist() == [True, True]
    type_names(panel, qtbot, "left_shoulder - right_shoulder, knee")
    assert len(editor.bones.data) == 1
    assert editor.people[0].labeled.all()
    type_names(panel, qtbot, "left_shoulder,,")
    assert len(editor.skeleton.names) == 3


def test_the_wheel_leaves_the_names_alone(panel: LandmarksPanel, qtbot: Any) -> None:
    type_names(panel, qtbot, "nose")
    CanvasMouse(panel._viewer, qtbot).canvas.setFocus()
    turn_wheel(panel.names)
    assert panel.names.currentText() == "nose"


def reopen(panel: LandmarksPanel, qtbot: Any) -> LandmarksPanel:
    """Close the panel with the cross of its dock, and open another."""
    close_button = panel.parentWidget().titleBarWidget().close_button
    qtbot.mouseClick(close_button, Qt.MouseButton.LeftButton)
    again = LandmarksPanel(panel._viewer)
    panel._viewer.window.add_dock_widget(again)
    return again


def test_a_panel_that_is_opened_again_goes_on_with_the_marks(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    begin(panel, 0)
    mouse.click(np.array([20.0, 20.0]))
    count = len(panel._viewer.layers)
    again = reopen(panel, qtbot)
    assert parse_skeleton(again.names.currentText()) == parse_skeleton(LINES)
    assert again.marking.next.text() == "Click on: right_shoulder (1 marked)"
    editor = begin(again, 0)
    mouse.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert editor.marks == ()
    again.marking.buttons["redo landmark"].click()
    assert [mark.label for mark in editor.marks] == ["left_shoulder"]
    mouse.click(np.array([40.0, 40.0]))
    mouse.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    mouse.click(np.array([44.0, 40.0]))
    assert [mark.label for mark in editor.marks] == ["left_shoulder", "right_shoulder"]
    assert len(editor.bones.data) == 1
    assert len(again._viewer.layers) == count
    assert len(again.landmarks.collect()[0].images) == 1


def test_an_image_that_is_opened_again_has_its_marks(panel: LandmarksPanel, qtbot: Any) -> None:
    panel._viewer.reset_view()
    mouse = CanvasMouse(panel._viewer, qtbot)
    editor = begin(panel, 0)
    mouse.click(np.array([20.0, 20.0]))
    viewer, image = panel._viewer, editor.image
    viewer.layers.remove(image)
    assert panel.marking.next.text() == "No landmarks are shown."
    mouse.click(np.array([60.0, 60.0]))  # napari's own tool adds a point without a name
    viewer.layers[f"{image.name} landmarks"].data = viewer.layers[f"{image.name} landmarks"].data[:1]
    viewer.add_image(image.data, name=image.name, rgb=True)
    again = begin(panel, 0)
    assert [mark.label for mark in again.marks] == ["left_shoulder"]
    mouse.click(np.array([40.0, 40.0]))
    assert [mark.label for mark in again.marks] == ["left_shoulder", "right_shoulder"]


@pytest.mark.parametrize(
    ("typed", "kind", "written"),
    [
        ("joints", "COCO keypoints (*.json)", "joints.json"),
        ("joints", "DeepLabCut (*.csv)", "joints.csv"),
        ("landmarks.json", "DeepLabCut (*.csv)", "landmarks.csv"),
        ("joints.csv", "COCO keypoints (*.json)", "joints.csv"),
        ("visit.2", "DeepLabCut (*.csv)", "visit.2.csv"),
    ],
)
def test_an_export_has_the_format_that_was_chosen(
    panel: LandmarksPanel,
    qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    typed: str,
    kind: str,
    written: str,
) -> None:
    told: list[str] = []
    monkeypatch.setattr(panel_module, "show_info", told.append)
    monkeypatch.setattr(panel_module, "show_error", told.append)
    write = panel.buttons["Export"]
    qtbot.mouseClick(write, Qt.MouseButton.LeftButton)
    assert told == ["Mark landmarks first."]
    begin(panel, 0).put([Mark("left_hip", 3, 4)], "added")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *arguments: (str(tmp_path / typed), kind))
    press(panel, qtbot, "Export")
    before = (tmp_path / written).read_bytes()
    if typed != written:
        qtbot.mouseClick(write, Qt.MouseButton.LeftButton)
        assert told[1:] == [f"{written} is there already. Choose it in the list of files to replace it."]
    assert (tmp_path / written).read_bytes() == before


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_images_of_one_name_keep_their_own_marks(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: str
) -> None:
    viewer = panel._viewer
    viewer.layers.clear()
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        iio.imwrite(tmp_path / folder / "face.png", figure_of(0).image)
        viewer.open(tmp_path / folder / "face.png", plugin="napari")
    for number, image in enumerate(list(viewer.layers)):
        viewer.layers.selection.active = image
        qtbot.mouseClick(panel.buttons["Mark"], Qt.MouseButton.LeftButton)
        panel.landmarks.editors[number].put([Mark("left_hip", 3 + number, 4)], "added")
    before = [one.marks for one in panel.landmarks.editors]
    export(panel, qtbot, monkeypatch, tmp_path / f"joints.{ending}")
    assert str(tmp_path) not in (tmp_path / f"joints.{ending}").read_text()  # such a path may name a patient
    for one in panel.landmarks.editors:
        one.put([], "removed")
    import_(panel, qtbot, monkeypatch, tmp_path / f"joints.{ending}")
    assert [one.marks for one in panel.landmarks.editors] == before


def test_only_the_image_that_is_marked_is_seen(panel: LandmarksPanel, qtbot: Any) -> None:
    viewer = panel._viewer
    viewer.layers["figure-5"].translate = (0, 96)  # beside the others
    for seed in (0, 3, 0):
        begin(panel, seed)
        seen = {layer.name for layer in viewer.layers if layer.visible}
        assert seen == {*(f"figure-{seed}{kind}" for kind in ("", " skeleton", " landmarks")), "figure-5"}
    assert str(panel.landmarks.editors[0].points.mode) == "add"


class Finder:
    """Finds a landmark as soon as it may, as a model would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, panel: LandmarksPanel, names: str) -> None:
        self.may, self.skeleton, self.name = threading.Event(), parse_skeleton(names), names.split(", ")[0]
        monkeypatch.setattr(task, "find_marks", self.find)
        panel.training.loaded = self  # type: ignore[assignment]

    def find(self, model: object, image: object) -> tuple[Mark, ...]:
        self.may.wait(60)
        return (Mark(self.name, 3, 4, score=0.5),)


def test_what_is_marked_while_a_model_looks_stays(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel._viewer.reset_view()
    panel._viewer.add_image(np.zeros((3, 20, 20)), name="stack")
    mouse = CanvasMouse(panel._viewer, qtbot)
    finder = Finder(monkeypatch, panel, LINES)
    editor = begin(panel, 0)
    find = panel.buttons["Find"]
    qtbot.mouseClick(find, Qt.MouseButton.LeftButton)
    mouse.click(np.array([20.0, 20.0]))
    marks = editor.marks
    panel._viewer.layers.remove("figure-1")
    finder.may.set()
    qtbot.waitUntil(find.isEnabled, timeout=WAIT)
    assert editor.marks == marks
    assert panel.status.text() == "Landmarks found in 4 images. Check and correct them."
    qtbot.mouseClick(find, Qt.MouseButton.LeftButton)
    assert panel.status.text() == "All open images have landmarks already."


def test_finding_can_be_canceled(panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = Finder(monkeypatch, panel, LINES)
    find, cancel = panel.buttons["Find"], panel.work.cancel
    qtbot.mouseClick(find, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(cancel.isVisible, timeout=WAIT)
    assert panel.status.text() == "Finding landmarks in image 1 of 6."
    qtbot.mouseClick(cancel, Qt.MouseButton.LeftButton)
    finder.may.set()
    qtbot.waitUntil(find.isEnabled, timeout=WAIT)
    assert panel.status.text() == "Canceled."
    assert not cancel.isVisible()
    assert panel.landmarks.editors == []


def test_the_list_of_a_model_is_used_unless_anything_is_marked(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Finder(monkeypatch, panel, "nose, chin").may.set()
    find = panel.buttons["Find"]
    qtbot.mouseClick(find, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(panel.landmarks.editors) == 6 and find.isEnabled(), timeout=WAIT)
    assert panel.names.currentText() == "nose, chin"
    assert all(len(one.people) == 1 for one in panel.landmarks.editors)
    panel._viewer.add_image(figure_of(9).image, rgb=True)
    Finder(monkeypatch, panel, "tail, nose").may.set()
    qtbot.mouseClick(find, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: len(panel.landmarks.editors) == 7 and find.isEnabled(), timeout=WAIT)
    assert "not in the list are kept, but neither learned nor exported: tail." in panel.status.text()


def test_training_stops_when_the_panel_is_closed(
    panel: LandmarksPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = TINY.model_copy(update={"epochs": 100_000})
    monkeypatch.setattr(controls, "training_config", lambda seconds: long)
    for seed in range(2):
        begin(panel, seed).put([Mark("left_hip", 3, 4)], "added")
    qtbot.mouseClick(panel.training.train, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: panel.training.progress.value() > 0 or panel.training.is_busy, timeout=WAIT)
    again = reopen(panel, qtbot)
    assert not panel.training.is_busy
    assert len(again.landmarks.marked) == 2
    pool = QThreadPool.globalInstance()
    assert pool is not None
    qtbot.waitUntil(lambda: pool.activeThreadCount() == 0, timeout=WAIT)


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
