from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QItemSelectionModel, Qt
from qtpy.QtWidgets import QFileDialog

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.workbench.panels import queue_columns
from napari_lesionseg.plugin.workbench.panels.queue import (
    AGREE,
    ANNOTATOR,
    IMAGE,
    QUALITY,
    STATUS,
    STATUS_COLORS,
    QueuePanel,
)
from napari_lesionseg.plugin.workbench.panels.queue_columns import SIDE, Thumbnails, make_thumbnail
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.events import MaskOrigin
from napari_lesionseg.study.queue import Order
from napari_lesionseg.study.state import Status
from napari_lesionseg.study.study import Study

OUTLINE = np.ones((40, 60), np.uint8)


@pytest.fixture
def study(make_study: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("os.fsync", lambda file: None)
    made = make_study(12)
    ids = list(made.state.images)
    made.approve(ids[0], OUTLINE, MaskOrigin(quality=0.94))
    made.flag(ids[1], "hair?")
    made.record_prediction(ids[2], OUTLINE, MaskOrigin(quality=0.4))
    return made


@pytest.fixture
def session(qtbot: QtBot, study: Any) -> Iterator[Any]:
    viewer = ViewerModel()  # a session does not keep its viewer alive
    made = StudySession(viewer, study, PostprocessConfig(min_area=0))
    yield made
    made.close(discard=True)
    viewer.layers.clear()


@pytest.fixture
def panel(qtbot: QtBot, session: Any) -> Iterator[Any]:
    made = QueuePanel(ViewerModel())
    made.set_session(session)
    qtbot.addWidget(made)
    yield made
    made.set_session(None)


def names(panel: Any) -> list[str]:
    model = panel.model
    return [model.data(model.index(row, IMAGE)) for row in range(model.rowCount())]


def cell(panel: Any, row: Any, column: Any, role: Any = Qt.ItemDataRole.DisplayRole) -> Any:
    return panel.model.data(panel.model.index(row, column), role)


def test_rows_say_name_status_how_sure_and_who(panel: Any) -> None:
    assert names(panel) == [f"P{number}" for number in range(1, 13)]
    assert [cell(panel, 0, column) for column in (STATUS, QUALITY, ANNOTATOR)] == ["approved", "0.94", "am"]
    assert cell(panel, 1, STATUS) == "flagged “hair?”"
    assert "hair?" in cell(panel, 1, STATUS, Qt.ItemDataRole.ToolTipRole)
    assert cell(panel, 5, QUALITY) == ""
    color = cell(panel, 0, STATUS, Qt.ItemDataRole.ForegroundRole)
    assert color == STATUS_COLORS[Status.APPROVED]


def test_images_of_one_name_are_told_apart(qtbot: QtBot, tmp_path: Path) -> None:
    for place, name in enumerate(("a/IMD1.png", "b/IMD1.bmp", "b/IMD2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), (place, 90, 90)).save(tmp_path / name)
    with Study.create(tmp_path / "study", "am", paths=[tmp_path / "a", tmp_path / "b"]) as study:
        viewer = ViewerModel()
        session, shown = StudySession(viewer, study, PostprocessConfig()), QueuePanel(ViewerModel())
        qtbot.addWidget(shown)
        shown.set_session(session)
        assert sorted(names(shown)) == ["IMD2", "a/IMD1.png", "b/IMD1.bmp"]
        assert "a/IMD1.png" in cell(shown, 0, IMAGE, Qt.ItemDataRole.ToolTipRole)
        shown.set_session(None)
        session.close(discard=True)


def test_progress_says_how_far_the_study_is(panel: Any, study: Study) -> None:
    assert panel.progress.text() == "1 of 12 approved, 1 flagged"
    study.approve(list(study.state.images)[5], OUTLINE)
    panel.session.changed.emit()
    assert panel.progress.value() == 2


def test_search_filter_and_sort(panel: Any, session: Any) -> None:
    panel.search.setText("HAIR")
    assert names(panel) == ["P2"]
    panel.search.clear()
    panel.filter.setCurrentText("approved")
    assert names(panel) == ["P1"]
    panel.filter.setCurrentText("to do")
    assert names(panel) == [f"P{number}" for number in range(3, 13)]
    panel.filter.setCurrentText("all")
    panel.sort.setCurrentText(Order.QUALITY.value)
    assert names(panel)[:2] == ["P3", "P1"]
    assert session.navigation._order is Order.QUALITY


def test_every_status_can_be_filtered(panel: Any) -> None:
    shown = {panel.filter.itemText(index) for index in range(panel.filter.count())}
    assert {status.words for status in Status} < shown


def test_the_image_on_the_screen_is_the_selected_row(qtbot: QtBot, panel: Any, session: Any) -> None:
    session.begin()
    qtbot.waitUntil(lambda: session.editor is not None)
    row = panel.model.row_of(session.image_id)
    assert [index.row() for index in panel.table.selectionModel().selectedRows()] == [row]
    panel.filter.setCurrentText("approved")
    assert panel.table.selectionModel().selectedRows() == []


def test_enter_opens_an_image(qtbot: QtBot, panel: Any, session: Any) -> None:
    panel.table.activated.emit(panel.model.index(3, 0))
    qtbot.waitUntil(lambda: session.editor is not None)
    assert session.state.name == "P4"


def test_a_change_of_a_row_keeps_the_selection(panel: Any, study: Study, session: Any) -> None:
    flags = QItemSelectionModel.SelectionFlag.ClearAndSelect | QItemSelectionModel.SelectionFlag.Rows
    panel.table.selectionModel().setCurrentIndex(panel.model.index(4, 0), flags)
    resets, changed = [], []
    panel.model.modelReset.connect(lambda: resets.append(1))
    panel.model.dataChanged.connect(lambda first, last: changed.append((first.row(), last.row())))
    study.approve(panel.model.image_at(7), OUTLINE)
    panel.model.refresh()
    assert not resets
    assert changed == [(7, 7)]


def test_thumbnails_come_and_bear_the_outline(qtbot: QtBot, panel: Any, study: Study) -> None:
    assert cell(panel, 0, IMAGE, Qt.ItemDataRole.DecorationRole) is None
    qtbot.waitUntil(lambda: cell(panel, 0, IMAGE, Qt.ItemDataRole.DecorationRole) is not None)
    shown = cell(panel, 0, IMAGE, Qt.ItemDataRole.DecorationRole)
    (size,) = shown.availableSizes()
    assert max(size.width(), size.height()) == SIDE
    ids = list(study.state.images)
    assert not np.array_equal(make_thumbnail(study, ids[0]), make_thumbnail(study, ids[6]))


def test_thumbnails_are_bounded(qtbot: QtBot, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_columns, "MAX_THUMBNAILS", 3)
    monkeypatch.setattr(queue_columns, "MAX_WAITING", 5)
    made = Thumbnails(study)
    ready = []
    made.ready.connect(ready.append)
    for state in study.state.images.values():
        made.of(state)
    qtbot.waitUntil(lambda: len(ready) == 6)  # the one that was begun, and five that waited
    assert len(made._kept) == 3
    made.close()


def test_an_image_that_cannot_be_read_has_no_small_image(qtbot: QtBot, panel: Any, study: Study) -> None:
    study.image_path(panel.model.image_at(8)).unlink()
    cell(panel, 8, IMAGE, Qt.ItemDataRole.DecorationRole)
    qtbot.waitUntil(lambda: cell(panel, 8, IMAGE, Qt.ItemDataRole.DecorationRole) is not None)
    assert cell(panel, 8, IMAGE, Qt.ItemDataRole.DecorationRole).isNull()


def test_what_the_model_drew_is_called_outlined(panel: Any) -> None:
    assert cell(panel, 2, STATUS) == "outlined"
    panel.search.setText("outlined")
    assert names(panel) == ["P3"]


def test_a_click_on_a_column_sorts_by_it(panel: Any) -> None:
    header = panel.table.horizontalHeader()
    for column, order in ((QUALITY, Order.QUALITY), (STATUS, Order.STATUS), (IMAGE, Order.NAME)):
        header.sectionClicked.emit(column)
        assert panel.sort.currentText() == order.value
    header.sectionClicked.emit(ANNOTATOR)
    assert panel.sort.currentText() == Order.NAME.value


def sign_as(study: Any, annotator: Any, place: Any, outline: Any) -> None:
    with Study.open(study.folder, annotator) as other:
        other.approve(list(other.state.images)[place], outline)


def test_agreement_is_shown_once_there_are_two_annotators(
    qtbot: QtBot, panel: Any, study: Study, session: Any
) -> None:
    assert panel.table.isColumnHidden(AGREE)
    assert not panel.table.isColumnHidden(QUALITY)
    half = OUTLINE.copy()
    half[:20] = 0
    sign_as(study, "bo", 0, half)
    study.refresh()
    session.changed.emit()
    assert not panel.table.isColumnHidden(AGREE)
    assert panel.table.isColumnHidden(QUALITY), "no room was left for the names"
    assert cell(panel, 0, AGREE) == ""
    qtbot.waitUntil(lambda: cell(panel, 0, AGREE) == "0.67")
    assert cell(panel, 1, AGREE) == ""
    study.approve(panel.model.image_at(0), half)
    session.changed.emit()
    qtbot.waitUntil(lambda: cell(panel, 0, AGREE) == "1.00")


def test_blinded_annotators_see_no_agreement(
    qtbot: QtBot, make_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    study = make_study(2, blinded=True)
    study.approve(next(iter(study.state.images)), OUTLINE)
    sign_as(study, "bo", 0, OUTLINE)
    study.refresh()
    viewer = ViewerModel()
    session = StudySession(viewer, study, PostprocessConfig(min_area=0))
    panel = QueuePanel(viewer)
    panel.set_session(session)
    qtbot.addWidget(panel)
    assert not panel.table.isColumnHidden(AGREE)
    assert cell(panel, 0, AGREE) == "-"
    assert "each other" in cell(panel, 0, AGREE, Qt.ItemDataRole.ToolTipRole)
    assert cell(panel, 0, ANNOTATOR) == "am"
    panel.set_session(None)
    session.close(discard=True)


def test_columns_say_what_they_are(panel: Any) -> None:
    for column in range(panel.model.columnCount()):
        assert panel.model.headerData(column, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)


def test_images_that_were_moved_are_located(
    qtbot: QtBot, make_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    photos, moved = tmp_path / "photos", tmp_path / "moved"
    photos.mkdir()
    for number in range(2):
        Image.fromarray(np.full((40, 60, 3), 200 + number, np.uint8)).save(photos / f"P{number}.png")
    study = Study.create(tmp_path / "study", "am", paths=photos)
    photos.rename(moved)
    viewer = ViewerModel()
    session = StudySession(viewer, study, PostprocessConfig(min_area=0))
    panel = QueuePanel(viewer)
    qtbot.addWidget(panel)
    panel.set_session(session)
    qtbot.waitUntil(lambda: not panel.missing.isHidden())
    assert panel.missing.text.text() == "2 images are missing. Were they moved?"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(moved))
    panel.missing.locate.click()
    qtbot.waitUntil(panel.missing.isHidden)
    assert not study.missing_images()
    panel.set_session(None)
    session.close(discard=True)
