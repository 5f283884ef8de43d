from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.key_bindings import coerce_keybinding

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import MaskError
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.panel import CorrectPanel
from napari_lesionseg.plugin.napari_layers.layers import new_outline, show_as
from napari_lesionseg.plugin.shortcuts import key_of

MODES = {"brush": "paint", "eraser": "erase", "fill": "fill", "polygon": "polygon"}


@pytest.fixture
def editor(network):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 60, 3), dtype=np.uint8), rgb=True)
    labels = new_outline(image)
    show_as(labels, filled=False)
    viewer.add_layer(labels)
    made = MaskEditor(viewer, image, labels, config=PostprocessConfig(min_area=0), model=network)
    yield made
    made.close()


@pytest.fixture
def outlined(editor):
    probability = np.zeros((40, 60), dtype=np.float32)
    probability[10:30, 20:45] = 0.9
    editor.set_prediction(probability)
    return editor


@pytest.fixture
def panel(qtbot, outlined) -> CorrectPanel:
    made = CorrectPanel(outlined.viewer, outlined)
    qtbot.addWidget(made)
    made.show()
    return made


def press(editor, key):
    return editor.labels.keymap[coerce_keybinding(key)](editor.labels)


def test_alone_everything_is_off_and_says_why(qtbot):
    panel = CorrectPanel(ViewerModel())
    qtbot.addWidget(panel)
    for button in panel.buttons.values():
        assert not button.isEnabled()
        assert button.toolTip().startswith("Open an image first")


def test_every_button_tells_its_key(panel):
    for action, button in panel.buttons.items():
        assert button.toolTip().endswith(f"({key_of(action)})")


def test_buttons_that_need_an_outline_say_so(qtbot, editor):
    panel = CorrectPanel(editor.viewer, editor)
    qtbot.addWidget(panel)
    assert not panel.buttons["smooth"].isEnabled()
    assert "Nothing is outlined" in panel.buttons["smooth"].toolTip()
    assert panel.buttons["brush"].isEnabled()
    editor.labels.data_setitem((np.array([5]), np.array([5])), 1)
    assert panel.buttons["smooth"].isEnabled()


def test_without_a_model_clicks_say_so(qtbot, outlined):
    outlined.set_model(None)
    panel = CorrectPanel(outlined.viewer, outlined)
    qtbot.addWidget(panel)
    assert "Choose a model" in panel.buttons["click: belongs"].toolTip()
    assert panel.buttons["back to the model"].isEnabled()


def test_undo_and_redo_follow_the_history(panel, outlined):
    undo, redo = panel.buttons["undo"], panel.buttons["redo"]
    assert undo.isEnabled()
    assert not redo.isEnabled()
    undo.click()
    assert not outlined.mask.any()
    assert not undo.isEnabled()
    redo.click()
    assert outlined.mask.any()


@pytest.mark.parametrize(("action", "mode"), MODES.items())
def test_brushes_are_taken_and_left(panel, outlined, action, mode):
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
        ("click: belongs", "click", True),
        ("click: does not belong", "click", False),
        ("look into a box", "box", True),
        ("remove part under the mouse", "remove", True),
    ],
)
def test_the_mouse_is_taken_and_given_back(panel, outlined, action, mode, positive):
    outlined.viewer.layers.selection.active = outlined.image
    button = panel.buttons[action]
    button.click()
    assert (panel.tool.mode, panel.tool.positive) == (mode, positive)
    assert outlined.viewer.layers.selection.active is outlined.labels
    assert [name for name, other in panel.buttons.items() if other.isChecked()] == [action]
    button.click()
    assert panel.tool.mode == "off"
    assert not button.isChecked()


def test_a_brush_of_naparis_own_buttons_is_shown(panel, outlined):
    panel.buttons["click: belongs"].click()
    outlined.labels.mode = "paint"
    assert panel.buttons["brush"].isChecked()
    assert not panel.buttons["click: belongs"].isChecked()


def test_tools_are_applied_by_button_and_key(panel, outlined):
    panel.buttons["no outline"].click()
    assert not outlined.mask.any()
    press(outlined, "Y")
    assert outlined.mask.any()


def test_the_part_under_the_mouse_goes(panel, outlined):
    outlined.viewer.cursor.position = (20, 30)
    press(outlined, "D")
    assert not outlined.mask.any()


def test_holding_keys_hides_and_fills(panel, outlined):
    labels = outlined.labels
    before = labels.contour, labels.opacity
    for key, shown in (("H", (before[0], 0)), ("A", (0, 0.4))):
        held = press(outlined, key)
        next(held)
        assert (labels.contour, labels.opacity) == pytest.approx(shown)
        with pytest.raises(StopIteration):
            next(held)
        assert (labels.contour, labels.opacity) == before


def test_the_image_moves_while_a_key_is_held(panel, outlined):
    outlined.labels.mode = "paint"
    held = press(outlined, "Space")
    next(held)
    assert str(outlined.labels.mode) == "pan_zoom"
    assert panel.tool.panning
    with pytest.raises(StopIteration):
        next(held)
    assert str(outlined.labels.mode) == "paint"


def test_classes_are_chosen_where_there_are_several(panel, outlined):
    assert not panel.classes.isVisible()
    panel.set_classes(["lesion", "naevus", "ulcer"])
    assert panel.classes.isVisible()
    press(outlined, ".")
    assert (panel.classes.currentText(), outlined.active_class) == ("naevus", 2)
    press(outlined, ".")
    press(outlined, ".")
    assert outlined.active_class == 1


def test_all_keys_are_listed(panel):
    assert not panel.key_list.isVisible()
    panel.show_keys.click()
    assert panel.key_list.isVisible()
    assert "Backspace" in panel.key_list.text()


def test_errors_are_shown_until_something_is_done(panel, outlined):
    outlined.failed.emit(MaskError("It went wrong."))
    assert panel.status.text() == "It went wrong."
    outlined.apply_tool("clear")
    assert not panel.status.text()


def test_another_image_takes_the_place_of_the_first(panel, outlined):
    panel.buttons["click: belongs"].click()
    panel.set_editor(None)
    assert not outlined.labels.keymap
    assert not panel.buttons["undo"].isEnabled()
    outlined.undo()
    assert not panel.buttons["redo"].isEnabled()


def test_the_next_image_is_clicked_at_without_taking_the_tool_again(panel, outlined):
    panel.buttons["click: does not belong"].click()
    panel.set_editor(None)
    panel.set_editor(outlined)
    assert (panel.tool.mode, panel.tool.positive) == ("click", False)
    panel.buttons["click: does not belong"].click()
    panel.set_editor(None)
    panel.set_editor(outlined)
    assert panel.tool.mode == "off"


def test_a_destroyed_panel_lets_go(qtbot, outlined):
    panel = CorrectPanel(outlined.viewer, outlined)
    with qtbot.waitSignal(panel.destroyed):
        panel.deleteLater()
    assert not outlined.labels.keymap
    outlined.apply_tool("clear")
    outlined.labels.mode = "paint"


def test_it_is_narrow_enough_for_a_dock(panel):
    panel.show_keys.click()
    assert panel.minimumSizeHint().width() <= 340
