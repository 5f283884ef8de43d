"""A study of landmarks in the workbench: marked, approved, learned, found and exported, by mouse and keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QInputDialog
from tests.plugin.canvas_mouse import CanvasMouse
from tests.plugin.joints import JOINTS, LINES, TINY, figure_of, joints_of

from napari_lesionseg.datasets.landmarks.skeletons import parse_skeleton
from napari_lesionseg.models.store import FOLDER_VARIABLE
from napari_lesionseg.plugin.instances.pixel_size import scale_of
from napari_lesionseg.plugin.landmarks import controls
from napari_lesionseg.plugin.workbench import image_review
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.plugin.workbench.open_study import NewStudy, make_study
from napari_lesionseg.plugin.workbench.panels.fields import FieldsPanel
from napari_lesionseg.plugin.workbench.panels.landmarks import LandmarkPanel
from napari_lesionseg.plugin.workbench.panels.queue import STATUS, QueuePanel
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.panels.start import NewStudyDialog
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.landmarks import current_marks
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import OCCLUDED, Mark

LONG = 180_000
CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture(autouse=True)
def quick(network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(controls, "training_config", lambda seconds: TINY)
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(image_review, "PAUSE_MS", 20)
    monkeypatch.setattr(QInputDialog, "getText", lambda *arguments: ("blurred", True))


@pytest.fixture
def plan(tmp_path: Path) -> NewStudy:
    images = {f"figure-{n}": figure_of(n).image for n in range(7)}
    return NewStudy(tmp_path / "joints", "am", images=images, landmarks=LINES)


class Annotator:
    """Someone at the workbench."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self._qtbot = viewer, qtbot
        self.bench = Workbench(viewer)
        viewer.window.add_dock_widget(self.bench)
        self.mouse = CanvasMouse(viewer, qtbot)

    @property
    def session(self) -> Any:
        return self.bench.session

    @property
    def editor(self) -> Any:
        return self.session.editor

    @property
    def panel(self) -> LandmarkPanel:
        return self.bench.panel(LandmarkPanel)

    def wait(self, name: str | None = None) -> None:
        def there() -> bool:
            shown = self.session is not None and self.session.editor is not None
            return shown and name in (None, self.session.state.name)

        self._qtbot.waitUntil(there, timeout=LONG)
        self._qtbot.waitUntil(lambda: self.session.save_queue.unsaved == 0, timeout=LONG)

    def mark(self) -> None:
        for place in joints_of(int(self.session.state.name.removeprefix("figure-"))):
            self.mouse.click(place)

    def press(self, key: Any, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
        self.viewer.window._qt_window.activateWindow()
        self._qtbot.waitUntil(
            lambda: QApplication.activeWindow() is self.viewer.window._qt_window, timeout=LONG
        )
        self.mouse.press(key, modifier)

    def states(self) -> list[Status]:
        return [state.status for state in self.session.study.state.images.values()]


@pytest.fixture
def annotator(make_napari_viewer: Any, qtbot: Any) -> Annotator:
    return Annotator(make_napari_viewer(show=True), qtbot)


def test_six_joints_on_five_images(annotator: Annotator, qtbot: Any, plan: NewStudy, tmp_path: Path) -> None:
    bench = annotator.bench
    bench.start.make(plan)
    annotator.wait("figure-0")
    assert not bench.panel(CorrectSection).isVisibleTo(bench)
    assert annotator.panel.isVisibleTo(bench)
    assert bench.panel(ReviewBar).no_lesion.text() == "None visible"
    errors: list[str] = []
    annotator.session.failed.connect(errors.append)
    annotator.press(Qt.Key.Key_W)
    assert errors == ["No landmark is marked; mark one, or choose None visible."]
    assert annotator.states()[0] is Status.UNREVIEWED

    annotator.mark()
    complete = annotator.editor.marks
    assert [mark.label for mark in complete] == list(JOINTS)
    annotator.press(Qt.Key.Key_Z, CTRL)
    assert len(annotator.editor.marks) == 5
    annotator.press(Qt.Key.Key_Z, CTRL | SHIFT)
    assert annotator.editor.marks == complete
    annotator.press(Qt.Key.Key_H)
    assert annotator.editor.marks[-1].visibility == OCCLUDED
    assert len(annotator.editor.bones.data) == 2
    annotator.wait()
    first = next(iter(annotator.session.study.state.images.values()))
    assert first.status is Status.CORRECTED
    assert current_marks(first) == annotator.editor.marks

    for number in range(5):
        annotator.wait(f"figure-{number}")
        if number:
            annotator.mark()
        annotator.press(Qt.Key.Key_W)
    annotator.wait("figure-5")
    annotator.press(Qt.Key.Key_Q)
    annotator.wait("figure-4")
    annotator.mouse.click(annotator.editor.marks[0][1:3])  # selects it
    annotator.mouse.click((2.0, 2.0))  # all are marked
    annotator.wait()
    assert annotator.states()[4] is Status.APPROVED
    annotator.press(Qt.Key.Key_F8)
    annotator.wait("figure-5")
    annotator.press(Qt.Key.Key_F4)
    annotator.wait("figure-6")
    assert annotator.states() == [Status.APPROVED] * 5 + [Status.FLAGGED, Status.UNREVIEWED]
    annotator.press(Qt.Key.Key_Q)
    annotator.wait("figure-5")
    annotator.press(Qt.Key.Key_F2)
    annotator.wait()
    assert annotator.states()[5] is Status.UNREVIEWED

    annotator.panel.training.train.click()
    qtbot.waitUntil(lambda: annotator.panel.training.loaded is not None, timeout=LONG)
    assert annotator.panel.training.models.currentText() == "joints landmarks"
    review = annotator.session.review
    qtbot.waitUntil(lambda: not review.screen().computing, timeout=LONG)
    annotator.editor.put([Mark("left_hip", 4.0, 5.0, score=0.25)], "occluded")
    annotator.wait()
    annotator.press(Qt.Key.Key_W)
    annotator.wait("figure-6")
    annotator.press(Qt.Key.Key_F3)
    qtbot.waitUntil(lambda: annotator.states()[6] is Status.NO_LESION, timeout=LONG)
    table = bench.panel(QueuePanel).model
    assert table is not None
    qtbot.waitUntil(lambda: table.data(table.index(6, STATUS)) == "none visible", timeout=LONG)
    assert bench.panel(QueuePanel).progress.text().endswith("1 none visible")

    file = tmp_path / "joints.json"
    annotator.panel.export_to(file)
    qtbot.waitUntil(lambda: "7 approved images written" in annotator.panel.status.text(), timeout=LONG)
    before = {s.name: current_marks(s) for s in annotator.session.study.state.images.values()}
    assert bench.close_study(ask=False)
    bench.start.make(NewStudy(tmp_path / "again", "bo", images=plan.images, landmarks=LINES))
    annotator.wait("figure-0")
    annotator.panel.import_from(file)
    qtbot.waitUntil(lambda: "Landmarks of 6 images read" in annotator.panel.status.text(), timeout=LONG)
    after = {s.name: current_marks(s) for s in annotator.session.study.state.images.values()}
    single = {
        name: tuple(
            mark._replace(row=float(np.float32(mark.row)), col=float(np.float32(mark.col))) for mark in marks
        )
        for name, marks in before.items()
    }
    assert after == single
    annotator.wait("figure-0")
    assert annotator.editor.marks == single["figure-0"]


def test_a_model_marks_the_images_that_nobody_has_touched(
    annotator: Annotator, qtbot: Any, plan: NewStudy
) -> None:
    class Model:
        sha256 = "ab" * 32
        skeleton = parse_skeleton(LINES)

        def predict(self, image: Any) -> list[Any]:
            from napari_lesionseg.types import make_landmarks

            return [make_landmarks(np.full((6, 2), 7.0), scores=np.full(6, 0.5))]

    annotator.bench.start.make(plan)
    annotator.wait("figure-0")
    annotator.mouse.click([20.0, 20.0])
    annotator.session.set_model(Model())
    annotator.session.predict_all()
    qtbot.waitUntil(lambda: annotator.states().count(Status.PREDICTED) == 6, timeout=LONG)
    annotator.wait()
    assert len(annotator.editor.marks) == 1  # the annotator's own
    annotator.session.next()
    annotator.wait("figure-1")
    assert [mark.score for mark in annotator.editor.marks] == [0.5] * 6
    assert annotator.session.state.quality == pytest.approx(0.5)
    annotator.press(Qt.Key.Key_W)
    annotator.wait("figure-2")
    assert annotator.states()[1] is Status.APPROVED


def test_work_is_there_again_after_the_study_was_closed(
    annotator: Annotator, qtbot: Any, plan: NewStudy
) -> None:
    annotator.bench.start.make(plan)
    annotator.wait("figure-0")
    annotator.mark()
    marks = annotator.editor.marks
    assert annotator.bench.close_study(ask=False)
    annotator.bench.open_folder(plan.folder)
    annotator.wait("figure-0")
    assert annotator.editor.marks == marks
    assert annotator.panel.marking.next.text() == "Complete (6 marked)"


def test_a_reviewer_sees_and_accepts_landmarks(annotator: Annotator, qtbot: Any, plan: NewStudy) -> None:
    with make_study(plan) as study:
        image = next(iter(study.state.images))
        study.approve(image, [Mark("left_hip", 4.0, 5.0)])
    annotator.bench.annotator.setText("lead")
    annotator.bench.open_folder(plan.folder, reviewer=True)
    annotator.wait("figure-0")
    assert annotator.session.study.is_reviewer
    assert len(annotator.editor.marks) == 1
    annotator.press(Qt.Key.Key_W)
    qtbot.waitUntil(lambda: annotator.session.study.state.images[image].annotator == "lead", timeout=LONG)
    with Study.open(plan.folder, "am") as again:
        assert set(again.state.images[image].verdicts) == {"am", "lead"}


def test_the_ends_of_a_ruler_fill_in_the_scale_of_the_image(
    annotator: Annotator, qtbot: Any, plan: NewStudy
) -> None:
    annotator.bench.start.make(replace(plan, landmarks="ruler"))
    annotator.wait("figure-0")
    panel, session = annotator.panel, annotator.session
    annotator.mouse.click([10.0, 10.0])
    panel.ruler.button.click()  # one end is missing
    assert session.fields.values(session.image_id) == {}
    annotator.editor.put([Mark("ruler_start", 10, 10), Mark("ruler_end", 40, 50)], "added")
    panel.ruler.length.setValue(10)
    panel.ruler.button.click()
    assert "a pixel is 0.2 mm wide" in panel.status.text()
    assert "Undo takes it back" in panel.status.text()
    annotator.wait()
    assert StudyFields(session.study).values(session.image_id) == {"mm_per_pixel": 0.2}
    annotator.bench.panel(FieldsPanel).undo.click()
    annotator.wait()
    assert StudyFields(session.study).values(session.image_id) == {}
    assert scale_of(annotator.editor.image) is None


def test_other_landmarks_are_no_ruler(annotator: Annotator, plan: NewStudy) -> None:
    annotator.bench.start.make(plan)
    annotator.wait("figure-0")
    assert annotator.panel.ruler.isHidden()


def test_the_task_is_chosen_for_a_new_study(qtbot: Any, plan: NewStudy, tmp_path: Path) -> None:
    dialog = NewStudyDialog("am", plan.images)
    qtbot.addWidget(dialog)
    dialog.folder.set_path(tmp_path / "new")
    assert dialog.plan.landmarks == ""
    assert not dialog.landmarks.isEnabled()
    dialog.task.setCurrentText("Landmarks")
    assert dialog.landmarks.isEnabled()
    assert not dialog.classes.isEnabled()
    dialog.landmarks.setEditText("eye,, nose")
    assert "A name is missing" in dialog.problem.text()
    assert not dialog.make.isEnabled()
    dialog.landmarks.setEditText("nose, eye - ear")
    assert dialog.make.isEnabled()
    with make_study(dialog.plan) as study:
        assert study.info.landmarks == parse_skeleton("nose, eye - ear")
