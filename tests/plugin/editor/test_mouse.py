from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.mouse import EditMouse
from napari_lesionseg.plugin.editor.tools import REMOVE_PART, MaskEdit
from napari_lesionseg.plugin.napari_layers.layers import new_outline
from napari_lesionseg.types import Box, Click, Prompts, Scribble, Stroke

SCALE = 2.0


class Event(SimpleNamespace):
    """A mouse event as napari's canvas sends it, over an image scaled by two."""

    def __init__(
        self, kind: str, place: tuple[float, float], button: int = 1, modifiers: tuple[str, ...] = ()
    ) -> None:
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
    def __wrapped__(self) -> Event:
        return self

    @__wrapped__.setter
    def __wrapped__(self, event: Event) -> None:
        self.__dict__.update(event.__dict__)


class CalledEditor(MaskEditor):
    """Records the calls of the mouse instead of editing."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.calls: list[tuple[Any, ...]] = []

    def add_stroke(self, stroke: Stroke) -> None:
        self.calls.append(("add_stroke", stroke))

    def add_area(self, area: Prompts, *, adds: bool = False) -> None:
        self.calls.append(("add_area", area, adds))

    def apply(self, edit: MaskEdit, point: tuple[float, float] | None = None) -> None:
        self.calls.append(("apply", edit, point))


@pytest.fixture
def editor() -> Iterator[CalledEditor]:
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros((40, 60, 3), dtype=np.uint8), rgb=True, scale=(SCALE, SCALE))
    labels = new_outline(image)
    viewer.add_layer(labels)
    made = CalledEditor(viewer, image, labels, config=PostprocessConfig(), model=None)
    yield made
    made.close()


@pytest.fixture
def mouse(editor: CalledEditor) -> Iterator[EditMouse]:
    made = EditMouse(editor)
    yield made
    made.close()


def drag(editor: MaskEditor, *places: tuple[float, float], **options: Any) -> list[Event]:
    """Press at the first place, move over the others, release."""
    events = [Event("press", places[0], **options)]
    mouse_press_callbacks(editor.labels, events[0])
    for place in places[1:]:
        events.append(Event("move", place, **options))
        mouse_move_callbacks(editor.labels, events[-1])
    events.append(Event("release", places[-1], **options))
    mouse_release_callbacks(editor.labels, events[-1])
    return events


def test_the_left_button_marks_lesion(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("click")
    drag(editor, (12.5, 30.0))
    assert editor.calls == [("add_stroke", Click(12.5, 30.0))]


@pytest.mark.parametrize("options", [{"button": 2}, {"modifiers": ("Alt",)}])
def test_the_right_button_and_alt_do_the_opposite(
    editor: CalledEditor, mouse: EditMouse, options: dict[str, Any]
) -> None:
    mouse.start("click")
    drag(editor, (12, 30), **options)
    mouse.start("click", positive=False)
    drag(editor, (13, 31), **options)
    assert [call[-1].positive for call in editor.calls] == [False, True]


def test_a_small_movement_is_still_a_click(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("click")
    drag(editor, (12, 30), (12, 31), (12, 30))
    assert editor.calls == [("add_stroke", Click(12.0, 30.0))]


def test_a_drag_is_a_scribble_and_is_shown_while_drawn(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("click")
    mouse_press_callbacks(editor.labels, Event("press", (12, 30)))
    mouse_move_callbacks(editor.labels, Event("move", (12, 40)))
    mouse_move_callbacks(editor.labels, Event("move", (20, 50)))
    path = ((12, 30), (12, 40), (20, 50))
    assert editor.document.overlay.scribbles == ((path, True),)
    mouse_release_callbacks(editor.labels, Event("release", (20, 50)))
    assert editor.calls == [("add_stroke", Scribble(path))]
    assert editor.document.overlay.scribbles == ()


@pytest.mark.parametrize("mode", ["click", "lasso"])
def test_a_path_of_a_fast_mouse_keeps_only_the_points_of_its_shape(
    editor: CalledEditor, mouse: EditMouse, mode: Any
) -> None:
    mouse.start(mode)
    angles = np.linspace(0, 5.5, 5_000)
    wobble = np.random.default_rng(0).normal(0, 0.8, (len(angles), 2))
    places = np.stack([20 + 15 * np.sin(angles), 30 + 20 * np.cos(angles)], axis=1) + wobble
    drag(editor, *map(tuple, places.tolist()))
    drawn = editor.calls[0][1]
    path = drawn.points if isinstance(drawn, Scribble) else drawn.lasso
    assert 10 < len(path) <= 2000
    assert np.hypot(*(np.array(path[-1]) - places[-1])) < 1e-6


def test_the_image_does_not_move_while_clicking(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("click")
    event = Event("press", (12, 30))
    mouse_press_callbacks(editor.labels, event)
    assert event.handled


def test_a_box_is_drawn_from_any_corner_and_cut_at_the_border(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("box")
    press = Event("press", (30, 50))
    mouse_press_callbacks(editor.labels, press)
    mouse_move_callbacks(editor.labels, Event("move", (-7, 20)))
    assert editor.document.overlay.box == (0, 20, 31, 51)
    mouse_release_callbacks(editor.labels, Event("release", (-7, 20)))
    assert editor.calls == [("add_area", Prompts(box=Box(0, 20, 31, 51)), False)]
    assert editor.document.overlay.box is None


def test_a_lasso_is_drawn_in_one_stroke_and_shift_adds(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("lasso")
    mouse_press_callbacks(editor.labels, Event("press", (10, 10)))
    mouse_move_callbacks(editor.labels, Event("move", (10, 40)))
    assert editor.document.overlay.lasso == ((10, 10), (10, 40))
    mouse_release_callbacks(editor.labels, Event("release", (10, 40)))
    assert editor.document.overlay.lasso == ()
    drag(editor, (10, 10), (10, 40), (30, 20), modifiers=("Shift",))
    mouse.start("box")
    drag(editor, (10, 10), (19, 29), modifiers=("Shift",))
    assert editor.calls[1:] == [
        ("add_area", Prompts(lasso=((10, 10), (10, 40), (30, 20))), True),
        ("add_area", Prompts(box=Box(10, 10, 20, 30)), True),
    ]


def test_parts_are_removed_by_a_click(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("remove")
    drag(editor, (12, 30))
    assert editor.calls == [("apply", REMOVE_PART, (12.0, 30.0))]


@pytest.mark.parametrize("mode", ["paint", "erase", "fill", "polygon"])
def test_choosing_a_brush_ends_clicking(editor: CalledEditor, mouse: EditMouse, mode: str) -> None:
    told = []
    mouse.changed.connect(lambda: told.append(mouse.mode))
    mouse.start("click")
    editor.labels.mode = mode
    assert told == ["click", "off"]
    drag(editor, (12, 30), (20, 30))
    assert editor.calls == []


def test_clicking_deselects_the_brush(editor: CalledEditor, mouse: EditMouse) -> None:
    editor.labels.mode = "paint"
    mouse.start("click")
    drag(editor, (12, 30))
    assert not editor.labels.data.any()


def test_when_off_the_mouse_belongs_to_napari(editor: CalledEditor, mouse: EditMouse) -> None:
    event = Event("press", (12, 30))
    mouse_press_callbacks(editor.labels, event)
    assert not event.handled
    assert editor.calls == []


def test_while_panning_nothing_is_clicked(editor: CalledEditor, mouse: EditMouse) -> None:
    mouse.start("click")
    mouse.panning = True
    assert not drag(editor, (12, 30))[0].handled
    assert editor.calls == []


def test_the_zooms_of_napari_are_suspended_while_clicking(editor: CalledEditor, mouse: EditMouse) -> None:
    viewer = editor.viewer
    before = [*viewer.mouse_double_click_callbacks], [*viewer.mouse_drag_callbacks]
    mouse.start("click")
    mouse.start("box")
    names = {
        callback.__name__ for callback in [*viewer.mouse_double_click_callbacks, *viewer.mouse_drag_callbacks]
    }
    assert not names & {"double_click_to_zoom", "drag_to_zoom"}
    mouse.start("off")
    assert ([*viewer.mouse_double_click_callbacks], [*viewer.mouse_drag_callbacks]) == before


def test_a_closed_mouse_leaves_nothing_behind(editor: CalledEditor) -> None:
    callbacks = [*editor.labels.mouse_drag_callbacks]
    zooms = [*editor.viewer.mouse_drag_callbacks]
    mouse = EditMouse(editor)
    mouse.start("click")
    mouse.close()
    assert [*editor.labels.mouse_drag_callbacks] == callbacks
    assert [*editor.viewer.mouse_drag_callbacks] == zooms
    editor.labels.mode = "paint"
    assert mouse.mode == "off"
