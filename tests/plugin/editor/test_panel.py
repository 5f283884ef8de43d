from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.key_bindings import coerce_keybinding
from pytestqt.qtbot import QtBot
from qtpy.compat import isalive
from tests.fakes import prediction_of
from tests.plugin.conftest import FakeModel
from tests.plugin.editor.fakes import apply_tool

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import MaskError
from napari_lesionseg.plugin.editor import panel as panel_module
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.panel import CorrectPanel
from napari_lesionseg.plugin.napari_layers.layers import new_outline, show_as
from napari_lesionseg.plugin.shortcuts import key_of

MODES = {"brush": "paint", "eraser": "erase", "fill": "fill", "polygon": "polygon"}


@pytest.fixture
def editor(network: FakeModel) -> Iterator[MaskEditor]:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 60, 3), dtype=np.uint8), rgb=True)
    labels = new_outline(image)
    show_as(labels, filled=False)
    viewer.add_layer(labels)
    made = MaskEditor(viewer, image, labels, config=PostprocessConfig(min_area=0), model=network)
    yield made
    made.close()


@pytest.fixture
def outlined(editor: MaskEditor) -> MaskEditor:
    probability = np.zeros((40, 60), dtype=np.float32)
    probability[10:30, 20:45] = 0.9
    editor.set_prediction(prediction_of(probability))
    return editor


@pytest.fixture
def panel(qtbot: QtBot, outlined: MaskEditor) -> CorrectPanel:
    made = CorrectPanel(outlined.viewer, outlined)
    qtbot.addWidget(made)
    made.show()
    return made


def press(editor: MaskEditor, key: str) -> Any:
    return editor.labels.keymap[coerce_keybinding(key)](editor.labels)


def test_buttons_of_a_row_are_side_by_side_wherever_they_are_listed(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = sorted(panel_module._BUTTONS, key=lambda tool: tool.id)
    monkeypatch.setattr(panel_module, "_BUTTONS", tuple(mixed))
    panel = CorrectPanel(ViewerModel())
    qtbot.addWidget(panel)
    panel.show()
    for row in {tool.row for tool in mixed}:
        assert len({panel.buttons[tool.id].y() for tool in mixed if tool.row == row}) == 1


def test_without_an_image_every_button_says_why_it_is_disabled(qtbot: QtBot) -> None:
    panel = CorrectPanel(ViewerModel())
    qtbot.addWidget(panel)
    for button in panel.buttons.values():
        assert not button.isEnabled()
        assert button.toolTip().startswith("Open an image first")


def test_every_tooltip_shows_the_key(panel: CorrectPanel) -> None:
    for action, button in panel.buttons.items():
        assert button.toolTip().endswith(f"({key_of(action)})")


def test_buttons_that_need_an_outline_say_so(qtbot: QtBot, editor: MaskEditor) -> None:
    panel = CorrectPanel(editor.viewer, editor)
    qtbot.addWidget(panel)
    assert not panel.buttons["smooth"].isEnabled()
    assert "There is no outline" in panel.buttons["smooth"].toolTip()
    assert panel.buttons["brush"].isEnabled()
    editor.labels.data_setitem((np.array([5]), np.array([5])), 1)
    assert panel.buttons["smooth"].isEnabled()


def test_without_a_model_clicks_say_so(qtbot: QtBot, outlined: MaskEditor) -> None:
    outlined.requests.set_model(None)
    panel = CorrectPanel(outlined.viewer, outlined)
    qtbot.addWidget(panel)
    assert "Choose a model" in panel.buttons["positive_click"].toolTip()
    assert panel.buttons["back_to_prediction"].isEnabled()


def test_undo_and_redo_follow_the_history(panel: CorrectPanel, outlined: MaskEditor) -> None:
    undo, redo = panel.buttons["undo"], panel.buttons["redo"]
    assert not undo.isEnabled()
    panel.buttons["clear"].click()
    assert undo.isEnabled()
    assert not redo.isEnabled()
    undo.click()
    assert outlined.snapshot.mask.any()
    assert not undo.isEnabled()
    redo.click()
    assert not outlined.snapshot.mask.any()


@pytest.mark.parametrize(("action", "mode"), MODES.items())
def test_brushes_are_selected_and_deselected(
    panel: CorrectPanel, outlined: MaskEditor, action: str, mode: str
) -> None:
    button = panel.buttons[action]
    button.click()
    assert str(outlined.labels.mode) == mode
    assert button.isChecked()
    button.click()
    assert str(outlined.labels.mode) == "pan_zoom"
    assert not button.isChecked()


@pytest.mark.parametrize(
    ("action", "mode", "positive"),
    [
        ("positive_click", "click", True),
        ("negative_click", "click", False),
        ("box", "box", True),
        ("remove_part", "remove", True),
    ],
)
def test_mouse_tools_are_selected_and_deselected(
    panel: CorrectPanel, outlined: MaskEditor, action: str, mode: str, positive: bool
) -> None:
    outlined.viewer.layers.selection.active = outlined.image
    button = panel.buttons[action]
    button.click()
    assert (panel.mouse.mode, panel.mouse.positive) == (mode, positive)
    assert outlined.viewer.layers.selection.active is outlined.labels
    assert [name for name, other in panel.buttons.items() if other.isChecked()] == [action]
    button.click()
    assert panel.mouse.mode == "off"
    assert not button.isChecked()


def test_a_brush_chosen_in_napari_is_shown(panel: CorrectPanel, outlined: MaskEditor) -> None:
    panel.buttons["positive_click"].click()
    outlined.labels.mode = "paint"
    assert panel.buttons["brush"].isChecked()
    assert not panel.buttons["positive_click"].isChecked()


def test_tools_are_applied_by_button_and_key(panel: CorrectPanel, outlined: MaskEditor) -> None:
    panel.buttons["clear"].click()
    assert not outlined.snapshot.mask.any()
    press(outlined, "Y")
    assert outlined.snapshot.mask.any()


def test_the_part_under_the_mouse_goes(panel: CorrectPanel, outlined: MaskEditor) -> None:
    outlined.viewer.cursor.position = (20, 30)
    press(outlined, "D")
    assert not outlined.snapshot.mask.any()


def test_holding_keys_hides_and_fills(panel: CorrectPanel, outlined: MaskEditor) -> None:
    labels = outlined.labels
    before = labels.contour, labels.opacity
    for key, shown in (("H", (before[0], 0)), ("A", (0, 0.4))):
        held = press(outlined, key)
        next(held)
        assert (labels.contour, labels.opacity) == pytest.approx(shown)
        with pytest.raises(StopIteration):
            next(held)
        assert (labels.contour, labels.opacity) == before


def test_the_image_moves_while_a_key_is_held(panel: CorrectPanel, outlined: MaskEditor) -> None:
    outlined.labels.mode = "paint"
    held = press(outlined, "Space")
    next(held)
    assert str(outlined.labels.mode) == "pan_zoom"
    assert panel.mouse.panning
    with pytest.raises(StopIteration):
        next(held)
    assert str(outlined.labels.mode) == "paint"


def test_classes_are_chosen_where_there_are_several(panel: CorrectPanel, outlined: MaskEditor) -> None:
    assert not panel.paint.classes.isVisible()
    panel.set_classes(["lesion", "naevus", "ulcer"])
    assert panel.paint.classes.isVisible()
    press(outlined, ".")
    assert (panel.paint.classes.currentText(), outlined.document.active_class) == ("naevus", 2)
    press(outlined, ".")
    press(outlined, ".")
    assert outlined.document.active_class == 1


def test_all_keys_are_listed(panel: CorrectPanel) -> None:
    assert not panel.key_list.isVisible()
    panel.key_list.button.click()
    assert panel.key_list.isVisible()
    assert "Backspace" in panel.key_list.text()


def test_errors_are_shown_until_something_is_done(panel: CorrectPanel, outlined: MaskEditor) -> None:
    outlined.failed.emit(MaskError("It went wrong."))
    assert panel.status.text() == "It went wrong."
    apply_tool(outlined, "clear")
    assert not panel.status.text()


def test_a_panel_without_an_editor_releases_the_layer(panel: CorrectPanel, outlined: MaskEditor) -> None:
    panel.buttons["positive_click"].click()
    panel.set_editor(None)
    assert not outlined.labels.keymap
    assert not panel.buttons["undo"].isEnabled()
    outlined.undo()
    assert not panel.buttons["redo"].isEnabled()


def test_the_mouse_tool_stays_selected_for_the_next_image(panel: CorrectPanel, outlined: MaskEditor) -> None:
    panel.buttons["negative_click"].click()
    panel.set_editor(None)
    panel.set_editor(outlined)
    assert (panel.mouse.mode, panel.mouse.positive) == ("click", False)
    panel.buttons["negative_click"].click()
    panel.set_editor(None)
    panel.set_editor(outlined)
    assert panel.mouse.mode == "off"


def test_a_destroyed_panel_releases_the_layer(qtbot: QtBot, outlined: MaskEditor) -> None:
    panel = CorrectPanel(outlined.viewer, outlined)
    panel.deleteLater()
    qtbot.waitUntil(lambda: not isalive(panel))
    assert not outlined.labels.keymap
    apply_tool(outlined, "clear")
    outlined.labels.mode = "paint"


def test_it_is_narrow_enough_for_a_dock(panel: CorrectPanel) -> None:
    panel.key_list.button.click()
    assert panel.minimumSizeHint().width() <= 340


def test_a_gesture_is_suggested_once_if_the_outline_may_be_poor(qtbot: QtBot, editor: MaskEditor) -> None:
    panel = CorrectPanel(editor.viewer, editor)
    qtbot.addWidget(panel)
    unsure = np.full((40, 60), 0.4, np.float32)
    unsure[10:30, 20:45] = 0.61
    editor.set_prediction(prediction_of(unsure))
    assert panel.status.text() == "Poor outline? Press L and draw roughly around the lesion."
    editor.set_config(PostprocessConfig(min_area=0, threshold=0.5))
    assert panel.status.text() == ""
    editor.set_prediction(prediction_of(unsure))
    assert panel.status.text() == ""


def test_nothing_is_suggested_for_a_sure_or_corrected_outline(qtbot: QtBot, outlined: MaskEditor) -> None:
    panel = CorrectPanel(outlined.viewer, outlined)
    qtbot.addWidget(panel)
    assert panel.status.text() == ""
    unsure = np.full((40, 60), 0.4, np.float32)
    unsure[10:30, 20:45] = 0.61
    outlined.labels.data_setitem((np.array([5]), np.array([5])), 1)
    outlined.set_prediction(prediction_of(unsure), draw=False)
    panel.set_editor(outlined)
    assert panel.status.text() == ""
