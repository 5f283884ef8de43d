from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_lesionseg.errors import ImageError
from napari_lesionseg.plugin.instances import measuring, pixel_size
from napari_lesionseg.plugin.instances.measurements_panel import MeasurementsPanel
from napari_lesionseg.plugin.instances.panel import InstancesPanel


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PAUSE_MS", 5)


@pytest.fixture
def viewer() -> ViewerModel:
    made = ViewerModel()
    made.add_image(np.full((60, 80, 3), (100, 60, 45), np.uint8), rgb=True, name="arm")
    numbers = np.zeros((60, 80), np.int32)
    numbers[10:30, 10:50] = 2
    numbers[40:60, 60:70] = 5
    made.add_labels(numbers, name="arm lesions")
    return made


@pytest.fixture
def panel(qtbot: QtBot, viewer: ViewerModel) -> MeasurementsPanel:
    made = MeasurementsPanel(viewer)
    qtbot.addWidget(made)
    made.show()
    return made


def measure(qtbot: QtBot, panel: MeasurementsPanel) -> None:
    panel.measure.click()
    finish(qtbot, panel)


def finish(qtbot: QtBot, panel: MeasurementsPanel) -> None:
    qtbot.waitUntil(lambda: not panel.model.is_running, timeout=20_000)


def heads(panel: MeasurementsPanel) -> list[str]:
    model = panel.table.lesions
    return [model.headerData(place, Qt.Orientation.Horizontal) for place in range(model.columnCount())]


def shown(panel: MeasurementsPanel, number: Any) -> dict[str, str]:
    model = panel.table.lesions
    row = model.numbers.index(number)
    return {head: model.data(model.index(row, place)) for place, head in enumerate(heads(panel))}


def draw_ruler(viewer: ViewerModel, panel: MeasurementsPanel, *line: Any) -> Any:
    panel.form.draw.click()
    ruler = pixel_size.find_ruler(viewer)
    ruler.add_lines([np.array(line, float)])
    return ruler


def test_in_pixels_until_a_scale_is_set(qtbot: QtBot, panel: MeasurementsPanel, viewer: ViewerModel) -> None:
    assert panel.form.scale.text() == "none: pixels"
    assert "lengths are in pixels" in panel.status.text()
    measure(qtbot, panel)
    row = shown(panel, 2)
    assert row["Area (px²)"] == "800"
    assert row["Longest (px)"] == "45"
    assert row["Shortest (px)"] == "20"
    assert row["Asymmetry"] == "0.00"
    assert row["Colors"] == "1"
    assert row["Which"] == "dark brown"
    assert row["Cut off"] == "no"
    assert shown(panel, 5)["Cut off"] == "yes"
    assert "lengths are in pixels" in panel.status.text()
    features = viewer.layers["arm lesions"].features.set_index("index")
    assert features.loc[2, "area_px2"] == 800
    assert "area_mm2" not in features


def test_millimeters_by_a_line_along_a_ruler(
    qtbot: QtBot, panel: MeasurementsPanel, viewer: ViewerModel
) -> None:
    measure(qtbot, panel)
    draw_ruler(viewer, panel, (5, 10), (5, 60))
    assert viewer.layers.selection.active.name == "ruler"
    panel.form.length.setValue(5)
    panel.form.set.click()
    finish(qtbot, panel)  # what was measured is measured again
    assert panel.form.scale.text() == "0.1 mm per pixel (ruler)"
    row = shown(panel, 2)
    assert row["Area (mm²)"] == "8.00"
    assert row["Shortest (mm)"] == "2.00"
    features = viewer.layers["arm lesions"].features.set_index("index")
    assert features.loc[2, "area_mm2"] == pytest.approx(8)
    assert "area_px2" not in features
    assert "in millimeters" in panel.status.text()
    panel.form.clear.click()
    finish(qtbot, panel)
    assert shown(panel, 2)["Area (px²)"] == "800"


def test_the_line_is_measured_in_pixels_of_the_image_wherever_it_lies(qtbot: QtBot) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(
        np.zeros((60, 80, 3), np.uint8), rgb=True, scale=(2, 2), translate=(7, 9), rotate=30
    )
    ruler = viewer.add_shapes(ndim=2)
    ends = [image.data_to_world(point) for point in ((5, 10), (5, 50))]
    ruler.add_lines([np.array(ends)])
    assert pixel_size.scale_of_ruler(ruler, image, 10).millimeters == pytest.approx(0.25)


def test_without_a_line_it_says_so(panel: MeasurementsPanel, viewer: ViewerModel) -> None:
    panel.form.set.click()
    assert "Draw a line along the ruler first" in panel.status.text()
    panel.form.draw.click()
    panel.form.set.click()
    assert "Draw a line along the ruler first" in panel.status.text()
    assert panel.form.scale.text() == "none: pixels"
    ruler = pixel_size.find_ruler(viewer)
    ruler.add_rectangles([np.array([[0, 0], [9, 9]])])
    with pytest.raises(ImageError, match="Draw a line"):
        pixel_size.scale_of_ruler(ruler, viewer.layers["arm"], 10)


def test_a_layer_in_millimeters_brings_its_scale(qtbot: QtBot) -> None:
    viewer = ViewerModel()
    options = {"scale": (50, 50), "units": ("um", "um")}
    viewer.add_image(np.zeros((60, 80, 3), np.uint8), rgb=True, name="slide", **options)
    viewer.add_labels(np.pad(np.ones((20, 20), np.uint8), ((10, 30), (10, 50))), **options)
    panel = MeasurementsPanel(viewer)
    qtbot.addWidget(panel)
    assert panel.form.scale.text() == "0.05 mm per pixel (image)"
    assert not panel.form.clear.isEnabled()
    measure(qtbot, panel)
    assert shown(panel, 1)["Area (mm²)"] == "1.00"


def test_pixels_that_are_not_square_are_refused(qtbot: QtBot) -> None:
    viewer = ViewerModel()
    options = {"scale": (0.1, 0.2), "units": ("mm", "mm")}
    viewer.add_image(np.zeros((60, 80, 3), np.uint8), rgb=True, **options)
    viewer.add_labels(np.ones((60, 80), np.uint8), **options)
    panel = MeasurementsPanel(viewer)
    qtbot.addWidget(panel)
    assert "not square" in panel.status.text()
    assert panel.form.scale.text() == "none: pixels"


def test_the_scale_of_a_dicom_file(
    qtbot: QtBot, panel: MeasurementsPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"photo.dcm": (0.05, 0.05), "plain.dcm": None}
    monkeypatch.setattr(pixel_size, "read_spacing", lambda path: told[path.name])
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *arguments: ("/x/photo.dcm", ""))
    panel.form.dicom.click()
    assert panel.form.scale.text() == "0.05 mm per pixel (DICOM file)"
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *arguments: ("/x/plain.dcm", ""))
    panel.form.dicom.click()
    assert "does not say how large" in panel.status.text()


def test_another_image_in_the_layer_has_no_scale(panel: MeasurementsPanel, viewer: ViewerModel) -> None:
    draw_ruler(viewer, panel, (5, 10), (5, 60))
    panel.form.set.click()
    assert pixel_size.scale_of(viewer.layers["arm"]) is not None
    viewer.layers["arm"].data = np.zeros((60, 80, 3), np.uint8)
    assert pixel_size.scale_of(viewer.layers["arm"]) is None


def test_changed_lesions_have_to_be_measured_again(
    qtbot: QtBot, panel: MeasurementsPanel, viewer: ViewerModel
) -> None:
    layer = viewer.layers["arm lesions"]
    measure(qtbot, panel)
    layer.contour = 2  # only redrawn
    layer.refresh()
    qtbot.waitUntil(lambda: not panel.model._pause.is_running)
    assert panel.model.rows
    layer.paint((45, 30), 5)
    qtbot.waitUntil(lambda: not panel.model.rows)
    assert "Measure them again" in panel.status.text()
    assert not panel.save.isEnabled()
    assert "area_px2" not in layer.features
    measure(qtbot, panel)
    assert "Measure them again" not in panel.status.text()
    assert int(shown(panel, 5)["Area (px²)"]) > 200


def test_both_tables_share_the_features(qtbot: QtBot, panel: MeasurementsPanel, viewer: ViewerModel) -> None:
    lesions = InstancesPanel(viewer)
    qtbot.addWidget(lesions)
    qtbot.waitUntil(lambda: bool(lesions.current.model.rows))
    measure(qtbot, panel)
    lesions.current.model.refresh()
    qtbot.waitUntil(lambda: not lesions.current.is_busy)
    features = viewer.layers["arm lesions"].features.set_index("index")
    assert features.loc[2, "area"] == features.loc[2, "area_px2"] == 800
    assert features.loc[5, "class_name"] == "lesion"
    assert features.loc[5, "cut_off"]
    panel.table.select([5])
    panel.table.chosen.emit()
    assert lesions.table.selected == (5,)


def test_csv(
    qtbot: QtBot,
    panel: MeasurementsPanel,
    viewer: ViewerModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure(qtbot, panel)
    path = tmp_path / "arm.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *arguments: (str(path), ""))
    panel.save.click()
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["image"], row["index"], row["area"], row["unit"]) for row in rows] == [
        ("arm", "2", "800", "px"),
        ("arm", "5", "200", "px"),
    ]
    assert "Saved as arm.csv" in panel.status.text()


def test_without_a_layer_nothing_is_offered(qtbot: QtBot) -> None:
    panel = MeasurementsPanel(ViewerModel())
    qtbot.addWidget(panel)
    for button in (
        panel.measure,
        panel.save,
        panel.form.draw,
        panel.form.set,
        panel.form.dicom,
        panel.form.clear,
    ):
        assert not button.isEnabled()
    assert panel.status.text() == "Open or draw an outline first."
