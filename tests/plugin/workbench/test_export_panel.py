from __future__ import annotations

import threading

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.plugin.workbench.export_panel import ExportPanel, _export
from napari_lesionseg.plugin.workbench.session import StudySession

WAIT = 20_000


@pytest.fixture
def panel(qtbot, make_napari_viewer, make_study):
    study = make_study(4)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:45] = 1
    for image in list(study.state.images)[:3]:
        study.approve(image, mask)
    session = StudySession(make_napari_viewer(), study, PostprocessConfig())
    panel = ExportPanel(session)
    qtbot.addWidget(panel)
    yield panel
    panel.close_session()
    session.close(discard=True)


def test_what_was_signed_is_written_and_the_rest_is_named(qtbot, panel, tmp_path):
    assert "3 signed" in panel.export.toolTip()
    panel.start(tmp_path / "set")
    assert not panel.export.isEnabled()
    qtbot.waitUntil(lambda: panel.run is None, timeout=WAIT)
    assert panel.report.text().startswith("3 images written")
    assert "P4" in panel.report.toolTip()
    masks = list((tmp_path / "set").rglob("*_segmentation.png"))
    assert [int(read_mask(mask).sum()) for mask in masks] == [500] * 3


@pytest.mark.parametrize("convention", ["isic", "coco", "folder", "imagefolder", "nnunet"])
def test_every_format_can_be_chosen(qtbot, panel, tmp_path, convention):
    panel.format.setCurrentIndex(panel.format.findData(convention))
    panel.start(tmp_path / "Dataset")
    qtbot.waitUntil(lambda: panel.run is None, timeout=WAIT)
    assert panel.report.text().startswith("3 images written")


def test_one_part_without_holes_on_request(qtbot, make_napari_viewer, make_study, tmp_path):
    study = make_study(1)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:45] = 1
    mask[15:20, 25:30] = 0
    mask[2:4, 2:4] = 1
    study.approve(next(iter(study.state.images)), mask)
    session = StudySession(make_napari_viewer(), study, PostprocessConfig())
    panel = ExportPanel(session)
    qtbot.addWidget(panel)
    panel.single_region.setChecked(True)
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.run is None, timeout=WAIT)
    (written,) = (tmp_path / "set").rglob("*_segmentation.png")
    assert int(read_mask(written).sum()) == 500
    panel.close_session()
    session.close(discard=True)


def test_dicom_asks_for_the_photographs(qtbot, panel, tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    camera = tmp_path / "camera"
    camera.mkdir()
    study = panel._session.study
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
    qtbot.waitUntil(lambda: panel.run is None, timeout=4 * WAIT)  # highdicom is large
    assert panel.report.text().startswith("3 images written")
    assert len(list((tmp_path / "set").rglob("*_segmentation.dcm"))) == 3


def test_a_folder_in_use_is_refused_and_kept(qtbot, panel, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    panel.start(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.run is None, timeout=WAIT)
    assert "set" in panel.report.text()
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
    assert panel.export.isEnabled()


def test_giving_up_leaves_nothing_behind(qtbot, panel, tmp_path):
    panel.start(tmp_path / "set")
    panel.run.give_up()
    qtbot.waitUntil(lambda: panel.run is None, timeout=WAIT)
    assert "given up" in panel.report.text()
    assert list(tmp_path.glob("*set*")) == []


def test_an_export_that_was_given_up_is_cleared_before_it_is_told(tmp_path, make_study):
    study, given_up, out = make_study(2), threading.Event(), tmp_path / "out" / "set"
    out.parent.mkdir()
    for image in study.state.images:
        study.no_lesion(image)

    def give_up_in_the_middle(step):
        if list(out.parent.iterdir()):
            given_up.set()

    with pytest.raises(CancelledError) as error:
        _export(study, out, "isic", ExportConfig(), None, give_up_in_the_middle, given_up)
    assert error.value.__traceback__ is not None  # it keeps what was at work alive
    assert given_up.is_set()
    assert list(out.parent.iterdir()) == []
    study.close()


def test_without_a_verdict_there_is_nothing_to_export(qtbot, make_napari_viewer, make_study):
    session = StudySession(make_napari_viewer(), make_study(2), PostprocessConfig())
    panel = ExportPanel(session)
    qtbot.addWidget(panel)
    assert not panel.export.isEnabled()
    assert panel.export.toolTip() == "Approve some images first"
    panel.close_session()
    session.close(discard=True)
