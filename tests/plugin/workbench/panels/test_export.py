from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.landmarks import read_landmarks
from napari_lesionseg.datasets.landmarks.skeletons import parse_skeleton
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.plugin.workbench.panels.export import ExportPanel, ExportTask
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import Mark

WAIT = 20_000


@pytest.fixture
def panel(qtbot: QtBot, make_napari_viewer: Any, make_study: Any) -> Iterator[Any]:
    study = make_study(4)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:45] = 1
    for image in list(study.state.images)[:3]:
        study.approve(image, mask)
    session = StudySession(make_napari_viewer(), study, PostprocessConfig())
    panel = ExportPanel(ViewerModel())
    panel.set_session(session)
    qtbot.addWidget(panel)
    yield panel
    panel.set_session(None)
    session.close(discard=True)


def test_approved_images_are_written_and_the_rest_is_named(qtbot: QtBot, panel: Any, tmp_path: Path) -> None:
    assert "3 approved" in panel.export.toolTip()
    panel.start(tmp_path / "set")
    assert not panel.export.isEnabled()
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert panel.report.text().startswith("3 images written")
    assert "P4" in panel.report.toolTip()
    masks = list((tmp_path / "set").rglob("*_segmentation.png"))
    assert [int(read_mask(mask).sum()) for mask in masks] == [500] * 3


def test_what_was_left_out_is_shown_with_the_reason(qtbot: QtBot, panel: Any, tmp_path: Path) -> None:
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    lines = panel.report.text().splitlines()
    assert "1 left out:" in lines
    assert lines[lines.index("1 left out:") + 1].startswith("P4: ")


def test_what_needs_a_look_is_shown_though_it_was_written(qtbot: QtBot, panel: Any, tmp_path: Path) -> None:
    study = panel.session.study
    second = list(study.state.images)[1]
    ring = np.zeros((40, 60), np.uint8)
    ring[5:35, 5:55] = 1
    ring[7:33, 7:53] = 0
    study.approve(second, ring)
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    text = panel.report.text()
    assert " to check:\nP2: The mask has a line around the lesion" in text


def test_the_key_of_new_names_is_kept_beside_the_data_set(qtbot: QtBot, panel: Any, tmp_path: Path) -> None:
    panel._form.widgets["pseudonymize"].value = "all"
    (tmp_path / "set-key.csv").write_text("of another export")
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    key = tmp_path / "set-key-2.csv"
    assert str(key) in panel.report.text()
    assert {line.split(",")[0] for line in key.read_text().splitlines()[1:]} >= {"P1", "P2", "P3"}
    assert (tmp_path / "set-key.csv").read_text() == "of another export"


def test_without_room_for_the_key_nothing_is_exported(
    qtbot: QtBot, panel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("napari_lesionseg.datasets.export.write_table", fail)
    shown = []
    monkeypatch.setattr("napari_lesionseg.plugin.workbench.panels.export.show_error", shown.append)
    panel._form.widgets["pseudonymize"].value = "all"
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert "No space left on device" in "".join([*map(str, shown), panel.report.text()])
    assert list(tmp_path.glob("set*")) == []


def test_without_new_names_there_is_no_key(qtbot: QtBot, panel: Any, tmp_path: Path) -> None:
    panel._form.widgets["pseudonymize"].value = "nothing"
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert list(tmp_path.glob("*.csv")) == []


def test_the_folder_is_opened(
    qtbot: QtBot, panel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    assert not panel.open_folder.isEnabled()
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert panel.open_folder.isEnabled()
    panel.open_folder.click()
    assert opened == [str(tmp_path / "set")]


@pytest.mark.parametrize("convention", ["isic", "coco", "folder", "imagefolder", "nnunet"])
def test_every_format_can_be_chosen(qtbot: QtBot, panel: Any, tmp_path: Path, convention: Any) -> None:
    panel.format.setCurrentIndex(panel.format.findData(convention))
    panel.start(tmp_path / "Dataset")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert panel.report.text().startswith("3 images written")


def test_one_part_without_holes_on_request(
    qtbot: QtBot, make_napari_viewer: Any, make_study: Any, tmp_path: Path
) -> None:
    study = make_study(1)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:45] = 1
    mask[15:20, 25:30] = 0
    mask[2:4, 2:4] = 1
    study.approve(next(iter(study.state.images)), mask)
    session = StudySession(make_napari_viewer(), study, PostprocessConfig())
    panel = ExportPanel(ViewerModel())
    panel.set_session(session)
    qtbot.addWidget(panel)
    panel._form.native("single_region").setChecked(True)
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    (written,) = (tmp_path / "set").rglob("*_segmentation.png")
    assert int(read_mask(written).sum()) == 500
    panel.set_session(None)
    session.close(discard=True)


def test_dicom_asks_for_the_photographs(
    qtbot: QtBot, panel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    camera = tmp_path / "camera"
    camera.mkdir()
    study = panel.session.study
    for image, state in study.state.images.items():
        dataset = pydicom.Dataset()
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.7"
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            setattr(dataset, keyword, pydicom.uid.generate_uid())
        dataset.Modality, dataset.PatientID = "XC", state.name
        dataset.set_pixel_data(study.read_image(image), "RGB", 8)
        dataset.save_as(camera / f"{state.name}.dcm", enforce_file_format=True)
    answers = {"getExistingDirectory": str(camera), "getSaveFileName": (str(tmp_path / "set"), "")}
    for name, answer in answers.items():
        monkeypatch.setattr(QFileDialog, name, lambda *_, answer=answer: answer)
    panel.format.setCurrentIndex(panel.format.findData("dicom"))
    panel.export.click()
    qtbot.waitUntil(lambda: panel.task is None, timeout=4 * WAIT)  # highdicom is large
    assert panel.report.text().startswith("3 images written")
    assert len(list((tmp_path / "set").rglob("*_segmentation.dcm"))) == 3


def test_a_folder_in_use_is_refused_and_kept(qtbot: QtBot, panel: Any, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert "set" in panel.report.text()
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
    assert panel.export.isEnabled()


def test_a_canceled_export_leaves_nothing_behind(qtbot: QtBot, panel: Any, tmp_path: Path) -> None:
    panel.start(tmp_path / "set")
    panel.task.cancel()
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert "canceled" in panel.report.text()
    assert list(tmp_path.glob("*set*")) == []


def test_a_canceled_export_is_cleared_before_it_fails(tmp_path: Path, make_study: Any) -> None:
    study, out = make_study(2), tmp_path / "out" / "set"
    out.parent.mkdir()
    for image in study.state.images:
        study.no_lesion(image)

    class CancelInTheMiddle(ExportTask):
        def report(self, progress: Any) -> None:
            if list(out.parent.iterdir()):
                self.cancel()
            super().report(progress)

    task = CancelInTheMiddle(study, out, "isic", ExportConfig())
    with pytest.raises(CancelledError) as error:
        task._export(study, out, "isic", ExportConfig(), None)
    assert error.value.__traceback__ is not None  # it keeps what was at work alive
    assert task.is_cancelled
    assert list(out.parent.iterdir()) == []
    study.close()


def test_without_a_verdict_there_is_nothing_to_export(
    qtbot: QtBot, make_napari_viewer: Any, make_study: Any
) -> None:
    session = StudySession(make_napari_viewer(), make_study(2), PostprocessConfig())
    panel = ExportPanel(ViewerModel())
    panel.set_session(session)
    qtbot.addWidget(panel)
    assert not panel.export.isEnabled()
    assert panel.export.toolTip() == "Approve some images first"
    panel.set_session(None)
    session.close(discard=True)


@pytest.fixture
def landmark_panel(qtbot: QtBot, make_napari_viewer: Any, tmp_path: Path) -> Iterator[ExportPanel]:
    rng = np.random.default_rng(1)
    images = {f"face{n}": rng.integers(0, 255, (40, 60, 3), np.uint8) for n in range(3)}
    eyes = parse_skeleton("eyes")
    study = Study.create(tmp_path / "faces", "am", images=images, landmarks=eyes)
    for n, image in enumerate(list(study.state.images)[:2]):
        study.approve(image, [Mark("left_eye", 10.25 + n, 12), Mark("right_eye", 11, 30)])
    session = StudySession(make_napari_viewer(), study, PostprocessConfig())
    panel = ExportPanel(ViewerModel())
    qtbot.addWidget(panel)
    panel.set_session(session)
    yield panel
    panel.set_session(None)
    session.close(discard=True)


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("COCO keypoints", "annotations/keypoints.json"),
        ("DeepLabCut", "labeled-data/images/CollectedData_lesionseg.csv"),
    ],
)
def test_landmarks_are_written_with_their_images(
    qtbot: QtBot, landmark_panel: ExportPanel, tmp_path: Path, title: str, file: str
) -> None:
    panel = landmark_panel
    assert [panel.format.itemText(n) for n in range(panel.format.count())] == ["COCO keypoints", "DeepLabCut"]
    assert panel._form.native("single_region").isHidden()
    panel.format.setCurrentText(title)
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.task is None, timeout=WAIT)
    assert panel.report.text().startswith("2 images written")
    assert "face2" in panel.report.toolTip()
    dataset = read_landmarks(tmp_path / "set" / file)
    rows = [float(entry.people[0].points[0, 0]) for entry in dataset.images]
    assert rows == [10.25, 11.25]
    assert len(list((tmp_path / "set").rglob("*.png"))) == 2


def test_outlines_are_not_offered_as_landmarks(panel: ExportPanel) -> None:
    titles = [panel.format.itemText(n) for n in range(panel.format.count())]
    assert "DeepLabCut" not in titles
    assert panel.format.currentData() == "isic"
    assert not panel._form.native("single_region").isHidden()
