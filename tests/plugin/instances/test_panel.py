from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from tests.fakes import prediction_of
from tests.plugin.canvas_mouse import CanvasMouse
from tests.plugin.conftest import numbered_spot
from tests.plugin.editor.test_mouse import Event

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.instances import model as model_module
from napari_lesionseg.plugin.instances.layer_links import image_of, outline_of
from napari_lesionseg.plugin.instances.panel import InstancesPanel
from napari_lesionseg.plugin.napari_layers.layers import new_outline
from napari_lesionseg.plugin.segment.outlines import ImageEditors, Result
from napari_lesionseg.plugin.segment.widget import SegmentWidget

SCALE = 2.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "PAUSE_MS", 5)


@pytest.fixture
def viewer() -> ViewerModel:
    made = ViewerModel()
    made.add_image(np.full((60, 80, 3), 200, np.uint8), rgb=True, name="arm", scale=(SCALE, SCALE))
    return made


def numbers() -> np.ndarray:
    """Lesion 2, which is 20 x 40, and lesion 5, which is 10 x 10."""
    made = np.zeros((60, 80), np.int32)
    made[10:30, 10:50] = 2
    made[40:50, 60:70] = 5
    return made


@pytest.fixture
def labels(viewer: ViewerModel) -> Any:
    return viewer.add_labels(numbers(), name="arm lesions", scale=(SCALE, SCALE))


@pytest.fixture
def panel(qtbot: QtBot, viewer: ViewerModel, labels: Any) -> InstancesPanel:
    made = InstancesPanel(viewer)
    qtbot.addWidget(made)
    made.show()
    settle(qtbot, made)
    return made


def settle(qtbot: QtBot, panel: InstancesPanel) -> None:
    qtbot.waitUntil(lambda: panel.current is not None and bool(panel.current.model.rows), timeout=10000)
    wait_idle(qtbot, panel)


def wait_idle(qtbot: QtBot, panel: InstancesPanel) -> None:
    qtbot.waitUntil(lambda: not panel.current.is_busy and not panel.current.model.is_waiting, timeout=10000)


def listed(panel: InstancesPanel) -> list[int]:
    return panel.table.lesions.numbers


def cell(panel: InstancesPanel, number: Any, title: Any) -> str:
    model = panel.table.lesions
    heads = [model.headerData(place, Qt.Orientation.Horizontal) for place in range(model.columnCount())]
    return model.data(model.index(listed(panel).index(number), heads.index(title)))


def select(panel: InstancesPanel, *chosen: Any) -> None:
    panel.table.select(chosen)
    panel._on_chosen()


def press(qtbot: QtBot, panel: InstancesPanel, action: Any) -> None:
    assert panel.buttons[action].isEnabled(), panel.buttons[action].toolTip()
    panel.buttons[action].click()
    wait_idle(qtbot, panel)


def drag(layer: Any, *places: Any, **options: Any) -> None:
    """Press at the first place, move over the others, release."""
    mouse_press_callbacks(layer, Event("press", places[0], **options))
    for place in places[1:]:
        mouse_move_callbacks(layer, Event("move", place, **options))
    mouse_release_callbacks(layer, Event("release", places[-1], **options))


def test_without_a_layer_it_says_what_to_do(qtbot: QtBot, viewer: ViewerModel) -> None:
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    assert panel.status.text() == "Open or draw an outline first."
    for button in panel.buttons.values():
        assert not button.isEnabled()
        assert "first" in button.toolTip()


def test_every_number_is_a_row_and_its_features(panel: InstancesPanel, labels: Labels) -> None:
    assert listed(panel) == [2, 5]
    assert cell(panel, 2, "Area") == "800"
    assert cell(panel, 2, "Center") == "20, 30"
    assert cell(panel, 2, "Rows") == "10\N{EN DASH}29"
    assert cell(panel, 5, "Columns") == "60\N{EN DASH}69"
    assert cell(panel, 5, "Certainty") == "\N{EN DASH}"
    features = labels.features.set_index("index")
    assert features.loc[2, "area"] == 800
    assert tuple(features.loc[5, ["top", "left", "bottom", "right"]]) == (40, 60, 50, 70)
    assert features.loc[5, "class_name"] == "lesion"
    assert panel.status.text() == "2 lesions."


def test_features_of_others_stay_with_their_lesions(qtbot: QtBot, viewer: ViewerModel) -> None:
    own = {"index": [5, 2], "note": ["old", "new"]}
    layer = viewer.add_labels(numbers(), features=own)
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    settle(qtbot, panel)
    features = layer.features.set_index("index")
    assert features["note"].to_dict() == {2: "new", 5: "old"}
    assert features["area"].to_dict() == {2: 800, 5: 100}


def test_a_row_selects_its_lesion(panel: InstancesPanel, labels: Labels) -> None:
    select(panel, 5)
    assert labels.selected_label == 5
    assert labels._overlays["lesionseg_InstanceOverlay"].boxes == ((40, 60, 50, 70),)
    panel.go_to(5)
    assert panel._viewer.scene.camera.center[-2:] == pytest.approx((44.5 * SCALE, 64.5 * SCALE))


def test_a_click_on_a_lesion_selects_its_row(panel: InstancesPanel, labels: Labels) -> None:
    drag(labels, (45, 65))
    assert panel.table.selected == (5,)
    drag(labels, (20, 20), modifiers=("Shift",))
    assert panel.table.selected == (2, 5)
    drag(labels, (55, 5))  # on the skin
    assert panel.table.selected == (2, 5)
    labels.selected_label = 5
    assert panel.table.selected == (5,)


def test_cut_by_a_line_and_undo(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    press(qtbot, panel, "cut")
    assert "Click once in each part" in panel.status.text()
    drag(labels, (5, 20), (20, 20), (35, 20))
    wait_idle(qtbot, panel)
    assert listed(panel) == [2, 5, 6]
    assert labels.data[20, 40] == 2
    assert labels.data[20, 12] == 6
    assert panel.table.selected == (2, 6)
    labels.undo()
    wait_idle(qtbot, panel)
    assert np.array_equal(labels.data, numbers())
    assert listed(panel) == [2, 5]
    labels.redo()
    wait_idle(qtbot, panel)
    assert listed(panel) == [2, 5, 6]


def test_a_fast_cut_ends_where_the_button_is_released(qtbot: QtBot, make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer(show=True)
    labels = viewer.add_labels(numbers(), name="lesions")
    panel = InstancesPanel(viewer)
    viewer.window.add_dock_widget(panel)
    settle(qtbot, panel)
    press(qtbot, panel, "cut")
    CanvasMouse(viewer, qtbot).drag_fast((5, 20), (8, 20), (12, 20), (35, 20))
    wait_idle(qtbot, panel)
    assert listed(panel) == [2, 5, 6]
    assert labels.data[28, 40] == 2
    assert labels.data[28, 12] == 6


def test_cut_between_two_clicks(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    press(qtbot, panel, "cut")
    drag(labels, (20, 14))
    assert labels._overlays["lesionseg_InstanceOverlay"].path == ((20.0, 14.0),)
    drag(labels, (20, 45))
    wait_idle(qtbot, panel)
    assert labels.data[20, 14] == 2
    assert labels.data[20, 45] == 6
    assert labels._overlays["lesionseg_InstanceOverlay"].path == ()
    panel.buttons["cut"].click()
    assert not panel.current.tool.cutting


def test_a_cut_that_cuts_nothing_says_so(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    press(qtbot, panel, "cut")
    drag(labels, (55, 2), (58, 8))
    assert "crosses no lesion" in panel.status.text()
    drag(labels, (20, 20), (20, 30))
    wait_idle(qtbot, panel)
    assert "does not cut lesion 2" in panel.status.text()
    drag(labels, (20, 14))
    drag(labels, (45, 65))
    assert "inside one lesion" in panel.status.text()
    assert np.array_equal(labels.data, numbers())


def test_the_brush_ends_cutting(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    press(qtbot, panel, "cut")
    labels.mode = "paint"
    assert not panel.current.tool.cutting
    assert not panel.buttons["cut"].isChecked()


def test_join_delete_and_undo(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    assert "Select two or more lesions" in panel.buttons["join"].toolTip()
    select(panel, 2, 5)
    press(qtbot, panel, "join")
    assert set(np.unique(labels.data)) == {0, 2}
    assert panel.table.selected == (2,)
    press(qtbot, panel, "undo")
    assert np.array_equal(labels.data, numbers())
    select(panel, 5)
    press(qtbot, panel, "delete")
    assert listed(panel) == [2]
    press(qtbot, panel, "undo")
    assert listed(panel) == [2, 5]


def test_a_deleted_number_never_comes_back(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    select(panel, 5)
    press(qtbot, panel, "delete")
    press(qtbot, panel, "cut")
    drag(labels, (5, 20), (35, 20))
    wait_idle(qtbot, panel)
    assert listed(panel) == [2, 6]


def test_a_number_typed_over_renumbers(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    model = panel.table.lesions
    index = model.index(listed(panel).index(5), 0)
    assert model.flags(index) & Qt.ItemFlag.ItemIsEditable
    model.setData(index, 9, Qt.ItemDataRole.EditRole)
    wait_idle(qtbot, panel)
    assert listed(panel) == [2, 9]
    model.setData(model.index(listed(panel).index(9), 0), 2, Qt.ItemDataRole.EditRole)
    wait_idle(qtbot, panel)
    assert "Number 2 is taken" in panel.status.text()


def test_keys_pressed_on_the_canvas_work(qtbot: QtBot, make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer(show=True)
    labels = viewer.add_labels(numbers())
    panel = InstancesPanel(viewer)
    viewer.window.add_dock_widget(panel)
    settle(qtbot, panel)
    canvas = viewer.window._qt_viewer.canvas.native
    qtbot.keyClick(canvas, Qt.Key_K)
    assert panel.current.tool.cutting
    qtbot.keyClick(canvas, Qt.Key_Escape)
    assert not panel.current.tool.cutting
    select(panel, 2, 5)
    qtbot.keyClick(canvas, Qt.Key_U)
    wait_idle(qtbot, panel)
    assert listed(panel) == [2]
    assert labels.data[45, 65] == 2
    select(panel, 2)
    qtbot.keyClick(canvas, Qt.Key_K, Qt.ShiftModifier)
    wait_idle(qtbot, panel)
    select(panel, *listed(panel))
    qtbot.keyClick(canvas, Qt.Key_D)
    wait_idle(qtbot, panel)
    assert listed(panel) == []
    panel._close_layer()


def test_keys_that_were_bound_before_come_back(qtbot: QtBot, viewer: ViewerModel, labels: Labels) -> None:
    pressed = []
    labels.bind_key("D", lambda layer: pressed.append("mine"))
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    panel._close_layer()
    labels.keymap[next(key for key in labels.keymap if str(key) == "D")](labels)
    assert pressed == ["mine"]


def test_painting_brings_the_table_up_to_date(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    labels.brush_size = 1
    labels.paint((55, 5), 7)
    qtbot.waitUntil(lambda: 7 in listed(panel))
    assert cell(panel, 7, "Area") == "1"


def test_measurements_of_changed_lesions_are_forgotten(
    qtbot: QtBot, panel: InstancesPanel, labels: Labels
) -> None:
    features = labels.features.copy()
    features["perimeter_px"] = [10.0, 20.0]
    labels.features = features
    labels.paint((45, 65), 2)
    qtbot.waitUntil(lambda: cell(panel, 5, "Area") != "100")
    kept = labels.features.set_index("index")["perimeter_px"]
    assert np.isnan(float(kept[5]))


def test_an_outline_that_is_drawn_later_is_not_taken_for_lesions(
    qtbot: QtBot, viewer: ViewerModel, network: Any
) -> None:
    viewer.layers[0].data = numbered_spot(1)
    panel, widget = InstancesPanel(viewer), SegmentWidget(viewer)
    for made in (panel, widget):
        qtbot.addWidget(made)
    qtbot.waitUntil(widget.segment.isEnabled, timeout=15_000)
    qtbot.mouseClick(widget.segment, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.status.text().startswith("Outlined"), timeout=15_000)
    assert panel.layers.layer is viewer.layers[1]
    assert panel.current is None
    assert "have no numbers yet" in panel.status.text()
    assert not panel.buttons["cut"].isEnabled()


def test_an_outline_is_numbered_in_a_layer_of_its_own(qtbot: QtBot, viewer: ViewerModel) -> None:
    image = viewer.layers[0]
    outline = new_outline(image)
    outline.data = (numbers() > 0).astype(np.uint8)
    outline.metadata["classes"] = ("background", "nevus", "melanoma")
    viewer.add_layer(outline)
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    assert panel.current is None
    assert "have no numbers yet" in panel.status.text()
    panel.numbering.button.click()
    settle(qtbot, panel)
    layer = panel.current.labels
    assert layer.name == "arm lesions"
    assert tuple(layer.scale) == (SCALE, SCALE)
    assert outline_of(layer, viewer) is outline
    assert image_of(layer, viewer) is image
    assert listed(panel) == [1, 2]
    assert cell(panel, 1, "Class") == "nevus"


@pytest.fixture
def linked(qtbot: QtBot, viewer: ViewerModel) -> Any:
    """A panel on lesions that were numbered from an outline."""
    outline = new_outline(viewer.layers[0])
    outline.data = (numbers() > 0).astype(np.uint8)
    outline.metadata["classes"] = ("background", "nevus", "melanoma")
    viewer.add_layer(outline)
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    panel.show()
    panel.numbering.button.click()
    settle(qtbot, panel)
    return panel, outline


def test_lesions_follow_their_outline(qtbot: QtBot, linked: Any) -> None:
    panel, outline = linked
    assert not panel.follow.isVisibleTo(panel)
    press(qtbot, panel, "cut")
    drag(panel.current.labels, (5, 20), (35, 20))
    wait_idle(qtbot, panel)
    assert listed(panel) == [1, 2, 3]
    outline.data_setitem((np.array([55, 55]), np.array([5, 6])), 1)
    qtbot.waitUntil(lambda: panel.follow.isVisibleTo(panel))
    panel.follow.click()
    qtbot.waitUntil(lambda: len(listed(panel)) == 4)
    wait_idle(qtbot, panel)
    assert listed(panel) == [1, 2, 3, 4]
    qtbot.waitUntil(lambda: not panel.follow.isVisibleTo(panel))
    assert panel.current.labels.data[55, 5] == 4
    assert not panel.follow.isVisibleTo(panel)


def test_the_class_of_a_lesion_is_written_into_the_outline(qtbot: QtBot, linked: Any) -> None:
    panel, outline = linked
    select(panel, 2)
    assert panel.classes.currentText() == "nevus"
    panel.classes.setCurrentIndex(1)
    panel.classes.activated.emit(1)
    wait_idle(qtbot, panel)
    assert cell(panel, 2, "Class") == "melanoma"
    assert (outline.data[40:50, 60:70] == 2).all()
    assert (outline.data[10:30, 10:50] == 1).all()
    outline.undo()
    panel.current.model.refresh()
    wait_idle(qtbot, panel)
    assert cell(panel, 2, "Class") == "nevus"


def test_the_network_s_confidence_is_shown(qtbot: QtBot, viewer: ViewerModel) -> None:
    probability = np.where(numbers() == 5, 0.75, np.where(numbers() == 2, 0.5, 0)).astype(np.float32)
    config = PostprocessConfig(threshold=0.4, largest_only=False, min_area=0)
    result = Result({(): prediction_of(probability)}, None, config)
    ImageEditors(viewer).accept(viewer.layers[0], (60, 80), result)
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    panel.numbering.button.click()
    settle(qtbot, panel)
    assert cell(panel, 1, "Certainty") == "0.50"
    assert cell(panel, 2, "Certainty") == "0.75"


def test_an_outline_that_is_corrected_counts_as_an_outline(
    qtbot: QtBot, viewer: ViewerModel, network: Any
) -> None:
    outline = new_outline(viewer.layers[0])
    viewer.add_layer(outline)
    editor = MaskEditor(
        viewer, viewer.layers[0], outline, config=PostprocessConfig(min_area=0), model=network
    )
    editor.set_prediction(prediction_of(np.where(numbers() > 0, 0.9, 0).astype(np.float32)))
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    assert panel.current is None
    panel.numbering.button.click()
    settle(qtbot, panel)
    assert cell(panel, 1, "Certainty") == "0.90"
    editor.close()


def test_of_a_stack_the_frame_that_is_shown_is_listed(qtbot: QtBot) -> None:
    viewer = ViewerModel()
    stack = np.zeros((2, 60, 80), np.int32)
    stack[0] = numbers()
    stack[1, :5, :5] = 3
    layer = viewer.add_labels(stack)
    viewer.dims.set_point(0, 1)
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    settle(qtbot, panel)
    assert listed(panel) == [3]
    viewer.dims.set_point(0, 0)
    qtbot.waitUntil(lambda: listed(panel) == [2, 5])
    wait_idle(qtbot, panel)
    select(panel, 5)
    press(qtbot, panel, "delete")
    assert listed(panel) == [2]
    assert (layer.data[1] == stack[1]).all()


def test_what_is_on_the_disk_is_listed_but_not_edited(qtbot: QtBot, viewer: ViewerModel) -> None:
    viewer.add_labels(da.from_array(numbers(), chunks=(30, 30)))
    panel = InstancesPanel(viewer)
    qtbot.addWidget(panel)
    settle(qtbot, panel)
    assert listed(panel) == [2, 5]
    assert not panel.buttons["cut"].isEnabled()
    assert "cannot be edited" in panel.buttons["cut"].toolTip()
    assert not panel.table.lesions.editable


def test_a_change_during_an_edit_wins(qtbot: QtBot, panel: InstancesPanel, labels: Labels) -> None:
    select(panel, 5)
    panel.current.editor.delete([5])
    labels.data_setitem((np.array([0]), np.array([0])), 8)
    wait_idle(qtbot, panel)
    assert "changed in the meantime" in panel.status.text() or labels.data[45, 65] == 5
    assert labels.data[0, 0] == 8
    assert labels.data[45, 65] == 5


def test_closing_the_layer_or_the_panel_leaves_nothing_behind(
    qtbot: QtBot, panel: InstancesPanel, viewer: ViewerModel, labels: Labels
) -> None:
    viewer.layers.remove(labels)
    assert panel.current is None
    assert panel.table.lesions.rowCount() == 0
    again = viewer.add_labels(numbers())
    settle(qtbot, panel)
    panel._close_layer()
    assert "lesionseg_InstanceOverlay" not in again._overlays
    assert not again.mouse_drag_callbacks
