from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.mouse import ClickTool
from napari_lesionseg.plugin.napari_layers.layers import new_outline
from napari_lesionseg.types import Box

SCALE = 2.0


class Event(SimpleNamespace):
    """A mouse event as napari's canvas sends it, over an image scaled by two."""

    def __init__(self, kind, place, button=1, modifiers=()):
        row, col = place
        super().__init__(
            type=f"mouse_{kind}",
            position=(row * SCALE, col * SCALE),
            pos=(col * 3, row * 3),
            button=button,
            modifiers=modifiers,
            is_dragging=True,
            handled=False,
        )

    @property
    def __wrapped__(self):
        return self

    @__wrapped__.setter
    def __wrapped__(self, event):
        self.__dict__.update(event.__dict__)


@pytest.fixture
def editor(monkeypatch):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 60, 3), dtype=np.uint8), rgb=True, scale=(SCALE, SCALE))
    labels = new_outline(image)
    viewer.add_layer(labels)
    made = MaskEditor(viewer, image, labels, config=PostprocessConfig(), model=None)
    made.calls = []
    for name in ("add_click", "add_scribble", "box", "preview", "apply_tool"):
        monkeypatch.setattr(made, name, lambda *arguments, name=name: made.calls.append((name, *arguments)))
    yield made
    made.close()


@pytest.fixture
def tool(editor):
    made = ClickTool(editor)
    yield made
    made.close()


def drag(editor, *places, **options) -> list[Event]:
    """Press at the first place, move over the others, let go."""
    events = [Event("press", places[0], **options)]
    mouse_press_callbacks(editor.labels, events[0])
    for place in places[1:]:
        events.append(Event("move", place, **options))
        mouse_move_callbacks(editor.labels, events[-1])
    events.append(Event("release", places[-1], **options))
    mouse_release_callbacks(editor.labels, events[-1])
    return events


def test_the_left_button_says_what_belongs(editor, tool):
    tool.start("click")
    drag(editor, (12.5, 30.0))
    assert editor.calls == [("add_click", 12.5, 30.0, True)]


@pytest.mark.parametrize("options", [{"button": 2}, {"modifiers": ("Alt",)}])
def test_the_right_button_and_alt_say_the_opposite(editor, tool, options):
    tool.start("click")
    drag(editor, (12, 30), **options)
    tool.start("click", positive=False)
    drag(editor, (13, 31), **options)
    assert [call[-1] for call in editor.calls] == [False, True]


def test_a_trembling_hand_clicks(editor, tool):
    tool.start("click")
    drag(editor, (12, 30), (12, 31), (12, 30))
    assert editor.calls == [("add_click", 12.0, 30.0, True)]


def test_a_drag_is_a_scribble_and_is_shown_while_drawn(editor, tool):
    tool.start("click")
    drag(editor, (12, 30), (12, 35), (12, 40))
    assert [call[0] for call in editor.calls] == ["preview", "preview", "add_scribble"]
    assert editor.calls[-1][1] == [(12, 30), (12, 35), (12, 40)]


def test_the_image_does_not_move_while_clicking(editor, tool):
    tool.start("click")
    event = Event("press", (12, 30))
    mouse_press_callbacks(editor.labels, event)
    assert event.handled


def test_a_box_is_drawn_from_any_corner_and_cut_at_the_border(editor, tool):
    tool.start("box")
    press = Event("press", (30, 50))
    mouse_press_callbacks(editor.labels, press)
    mouse_move_callbacks(editor.labels, Event("move", (-7, 20)))
    assert editor.overlay.box == (0, 20, 31, 51)
    mouse_release_callbacks(editor.labels, Event("release", (-7, 20)))
    assert editor.calls == [("box", Box(0, 20, 31, 51))]
    assert editor.overlay.box is None


def test_parts_are_removed_by_a_click(editor, tool):
    tool.start("remove")
    drag(editor, (12, 30))
    assert editor.calls == [("apply_tool", "remove_part", 12.0, 30.0)]


@pytest.mark.parametrize("mode", ["paint", "erase", "fill", "polygon"])
def test_taking_a_brush_ends_clicking(editor, tool, mode):
    told = []
    tool.changed.connect(lambda: told.append(tool.mode))
    tool.start("click")
    editor.labels.mode = mode
    assert told == ["click", "off"]
    drag(editor, (12, 30), (20, 30))
    assert editor.calls == []


def test_clicking_leaves_the_brush(editor, tool):
    editor.labels.mode = "paint"
    tool.start("click")
    drag(editor, (12, 30))
    assert not editor.labels.data.any()


def test_off_the_mouse_is_naparis(editor, tool):
    event = Event("press", (12, 30))
    mouse_press_callbacks(editor.labels, event)
    assert not event.handled
    assert editor.calls == []


def test_while_panning_nothing_is_clicked(editor, tool):
    tool.start("click")
    tool.panning = True
    assert not drag(editor, (12, 30))[0].handled
    assert editor.calls == []


def test_naparis_zooms_are_held_back_while_clicking(editor, tool):
    viewer = editor.viewer
    before = [*viewer.mouse_double_click_callbacks], [*viewer.mouse_drag_callbacks]
    tool.start("click")
    tool.start("box")
    names = {
        callback.__name__ for callback in [*viewer.mouse_double_click_callbacks, *viewer.mouse_drag_callbacks]
    }
    assert not names & {"double_click_to_zoom", "drag_to_zoom"}
    tool.start("off")
    assert ([*viewer.mouse_double_click_callbacks], [*viewer.mouse_drag_callbacks]) == before


def test_closed_it_leaves_nothing_behind(editor):
    callbacks = [*editor.labels.mouse_drag_callbacks]
    zooms = [*editor.viewer.mouse_drag_callbacks]
    tool = ClickTool(editor)
    tool.start("click")
    tool.close()
    assert [*editor.labels.mouse_drag_callbacks] == callbacks
    assert [*editor.viewer.mouse_drag_callbacks] == zooms
    editor.labels.mode = "paint"
    assert tool.mode == "off"
