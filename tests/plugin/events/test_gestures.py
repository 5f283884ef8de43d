"""Clicks, boxes, lassos, scribbles and the brush, by mouse and keyboard in a real window."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from tests.plugin.canvas_mouse import CanvasMouse

from napari_lesionseg.inference.postprocess import stroke_pixels
from napari_lesionseg.plugin.workbench.classes import CorrectSection
from napari_lesionseg.types import Box, Scribble

GESTURES = {
    "box": (Qt.Key.Key_R, ((20, 40), (50, 70), (60, 80))),
    "lasso": (Qt.Key.Key_L, ((20, 40), (20, 80), (60, 80), (60, 40))),
}


@pytest.mark.parametrize("kind", GESTURES)
def test_a_gesture_draws_the_outline_again_and_is_one_step(window: Any, kind: str) -> None:
    key, places = GESTURES[kind]
    before, label = window.mask.copy(), window.labels.selected_label
    assert before[75, 95]
    window.canvas.setFocus()
    window.key(key)
    window.drag(*places)
    window.qtbot.waitUntil(lambda: not window.mask[75, 95], timeout=10_000)
    assert window.mask[45, 65]
    assert not window.mask[63:].any()
    assert not window.mask[:, 83:].any()
    assert window.labels.selected_label == label
    assert str(window.labels.mode) == "pan_zoom"
    window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    window.qtbot.waitUntil(lambda: np.array_equal(window.mask, before), timeout=10_000)


def test_a_drag_with_the_click_tool_is_a_scribble_undone_at_once(window: Any) -> None:
    before = window.mask.copy()
    window.canvas.setFocus()
    window.key(Qt.Key.Key_N)
    window.drag((50, 70), (55, 75), (60, 80))
    window.qtbot.waitUntil(lambda: bool(window.editor.snapshot.strokes), timeout=10_000)
    (scribble,) = window.editor.snapshot.strokes
    assert isinstance(scribble, Scribble)
    assert not scribble.positive
    rows, cols = stroke_pixels(scribble, window.mask.shape).T
    assert len(rows) >= 10
    assert not window.mask[rows, cols].any()
    window.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    window.qtbot.waitUntil(lambda: np.array_equal(window.mask, before), timeout=10_000)


CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
ALT, PLAIN = Qt.KeyboardModifier.AltModifier, Qt.KeyboardModifier.NoModifier


def test_a_box_is_placed_by_keyboard_alone(window: Any) -> None:
    before, overlay = window.mask.copy(), window.editor.document.overlay
    window.canvas.setFocus()
    window.key(Qt.Key.Key_R, SHIFT)
    assert overlay.box == (30, 50, 90, 110)
    assert "Enter" in window.bench.panel(CorrectSection).tools.status.text()
    for key, modifier in ((Qt.Key.Key_Up, PLAIN), (Qt.Key.Key_Left, PLAIN), (Qt.Key.Key_Down, ALT)):
        for _ in range(2):
            window.key(key, modifier)
    assert overlay.box == (26, 40, 74, 100)
    window.key(Qt.Key.Key_Return)
    done(window)
    assert overlay.box is None
    assert window.editor.snapshot.area.box == Box(26, 40, 74, 100)
    assert window.mask[45, 65]
    assert not window.mask[74:].any()
    undo(window)
    window.qtbot.waitUntil(lambda: np.array_equal(window.mask, before), timeout=10_000)


@pytest.mark.parametrize("away", [Qt.Key.Key_Escape, Qt.Key.Key_0])
def test_a_box_by_keyboard_is_put_away_and_the_keys_are_given_back(window: Any, away: Any) -> None:
    keys, overlay = dict(window.labels.keymap), window.editor.document.overlay
    window.canvas.setFocus()
    window.key(Qt.Key.Key_R, SHIFT)
    assert overlay.box is not None
    window.key(away)
    window.qtbot.waitUntil(lambda: overlay.box is None, timeout=10_000)
    assert window.labels.keymap == keys


def done(window: Any) -> None:
    """Wait until the network has answered."""
    window.qtbot.waitUntil(lambda: not window.editor.requests.queue, timeout=20_000)


def undo(window: Any) -> None:
    window.key(Qt.Key.Key_Z, CTRL)


@pytest.mark.parametrize("kind", GESTURES)
def test_with_shift_a_gesture_adds_one_lesion(window: Any, kind: str) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_R)
    window.drag((25, 45), (40, 80), (50, 115))
    done(window)
    upper = window.mask.copy()
    assert not upper[52:].any()
    if kind == "lasso":
        window.key(Qt.Key.Key_L)
        window.drag((60, 45), (60, 115), (95, 115), (95, 45), modifier=SHIFT)
    else:
        window.drag((60, 45), (80, 80), (95, 115), modifier=SHIFT)
    done(window)
    assert np.array_equal(window.mask[:55], upper[:55])
    assert window.mask[65:85, 60:100].all()
    undo(window)
    assert np.array_equal(window.mask, upper)


def test_right_click_and_left_click_are_undone_one_by_one(window: Any) -> None:
    outlines = [window.mask.copy()]
    window.canvas.setFocus()
    window.key(Qt.Key.Key_C)
    window.click_image(10, 20)
    done(window)
    assert window.mask[10, 20]
    outlines.append(window.mask.copy())
    window.click_image(60, 80, Qt.MouseButton.RightButton)
    done(window)
    assert not window.mask[60, 80]
    undo(window)
    assert np.array_equal(window.mask, outlines[1])
    undo(window)
    assert np.array_equal(window.mask, outlines[0])


def test_a_mixture_of_prompts_is_undone_step_by_step(window: Any) -> None:
    outlines = [window.mask.copy()]
    window.canvas.setFocus()

    def step(key: Any, *places: tuple[float, float]) -> None:
        window.key(key)
        if len(places) == 1:
            window.click_image(*places[0])
        else:
            window.drag(*places)
        done(window)
        assert not np.array_equal(window.mask, outlines[-1])
        outlines.append(window.mask.copy())

    step(*(Qt.Key.Key_R, (20, 40), (50, 70), (70, 90)))
    step(*(Qt.Key.Key_C, (33, 43)))
    step(*(Qt.Key.Key_N, (50, 70), (55, 75), (60, 80)))
    step(*(Qt.Key.Key_L, (28, 45), (28, 80), (60, 80), (60, 45)))
    for outline in reversed(outlines[:-1]):
        undo(window)
        assert np.array_equal(window.mask, outline)
    for outline in outlines[1:]:
        window.key(Qt.Key.Key_Z, CTRL | SHIFT)
        assert np.array_equal(window.mask, outline)


def test_clear_then_a_box_finds_only_what_is_in_the_box(window: Any) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_0)
    assert not window.mask.any()
    window.key(Qt.Key.Key_R)
    window.drag((40, 60), (50, 70), (60, 80))
    done(window)
    assert window.mask[50, 70]
    outside = window.mask.copy()
    outside[38:63, 58:83] = 0
    assert not outside.any()


def test_held_prompts_are_answered_at_once(window: Any) -> None:
    before, steps = window.mask.copy(), window.editor.document.history.depth
    window.canvas.setFocus()
    window.key(Qt.Key.Key_I)
    window.key(Qt.Key.Key_R)
    window.drag((20, 40), (50, 70), (70, 90))
    window.key(Qt.Key.Key_N)
    window.click_image(50, 70)
    window.wait(100)
    assert np.array_equal(window.mask, before)
    assert window.bench.panel(CorrectSection).tools.buttons["hold"].isChecked()
    window.look()
    window.key(Qt.Key.Key_W)  # nothing is signed before what was collected is outlined
    window.wait(100)
    assert window.name == "P1"
    window.key(Qt.Key.Key_I)
    done(window)
    assert window.editor.document.history.depth == steps + 1
    assert not window.mask[50, 70]
    assert window.mask[45, 65]
    assert not window.mask[75, 95]


def test_a_fast_stroke_of_the_brush_ends_where_the_button_is_released(window: Any) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_P)
    assert not window.mask[100, 20:140].any()
    CanvasMouse(window.viewer, window.qtbot).drag_fast((100, 20), (100, 50), (100, 90), (100, 135))
    assert window.mask[100, 25:130].all()
    window.key(Qt.Key.Key_Z, CTRL)
    window.qtbot.waitUntil(lambda: not window.mask[100].any(), timeout=10_000)


@pytest.mark.parametrize("key", [Qt.Key.Key_R, Qt.Key.Key_L, Qt.Key.Key_N])
def test_a_fast_box_lasso_or_scribble_ends_where_the_button_is_released(window: Any, key: Any) -> None:
    window.canvas.setFocus()
    window.key(key)
    CanvasMouse(window.viewer, window.qtbot).drag_fast((20, 40), (25, 80), (50, 82), (60, 60))
    window.qtbot.waitUntil(lambda: last_place(window.editor.snapshot) is not None, timeout=10_000)
    assert np.hypot(*np.subtract(last_place(window.editor.snapshot), (60, 60))) < 2


def test_a_fast_lasso_keeps_its_corners(window: Any) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_L)
    corners = [(20, 40), (20, 120), (100, 120), (100, 40)]
    sides = itertools.pairwise(corners)
    way = [np.add(start, share * np.subtract(end, start)) for start, end in sides for share in (0, 0.3, 0.6)]
    CanvasMouse(window.viewer, window.qtbot).drag_fast(*way, corners[-1])
    window.qtbot.waitUntil(lambda: last_place(window.editor.snapshot) is not None, timeout=10_000)
    kept = np.array(window.editor.snapshot.area.lasso)
    for corner in corners:
        assert np.hypot(*(kept - corner).T).min() < 2


def last_place(snapshot: Any) -> tuple[float, float] | None:
    """Return where the gesture ended; None as long as there is none."""
    area, strokes = snapshot.area, snapshot.strokes
    if area.box is not None:
        return area.box.bottom - 1, area.box.right - 1
    places = area.lasso or [place for stroke in strokes for place in stroke.points]
    return places[-1] if places else None


def test_the_image_is_visible_under_the_brush(window: Any) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_P)
    for key, name in ((Qt.Key.Key_F8, "P2"), (Qt.Key.Key_F7, "P1")):
        QTest.mouseMove(window.canvas, window.at(60, 70))
        window.key(key)
        window.shown(name)
    QTest.mouseMove(window.canvas, window.at(60, 80))
    window.wait(300)
    here, shown = window.at(60, 80), window.canvas.grabFramebuffer()
    middle = shown.pixelColor(round(here.x() * shown.devicePixelRatio()), round(here.y()))
    assert abs(middle.red() - 40) < 4


def test_the_brush_keeps_its_size_on_the_screen(window: Any) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_P)
    brush = window.bench.panel(CorrectSection).tools.paint.brush
    camera = window.viewer.scene.camera
    assert window.labels.brush_size == round(brush.value() / camera.zoom)
    zoom = camera.zoom
    window.scroll(60, 80, -4)
    window.qtbot.waitUntil(lambda: camera.zoom < zoom, timeout=10_000)
    assert window.labels.brush_size == round(brush.value() / camera.zoom)
    size = brush.value()
    window.key(Qt.Key.Key_BracketRight)
    window.key(Qt.Key.Key_BracketRight)
    assert brush.value() > size
    assert window.labels.brush_size == round(brush.value() / camera.zoom)
    window.key(Qt.Key.Key_BracketLeft)
    assert size < brush.value()
    window.labels.brush_size = 10  # as napari's own slider does
    assert brush.value() == round(10 * camera.zoom)


def test_the_outline_is_made_wider_and_fainter_by_keys(window: Any) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_Up, SHIFT)
    window.key(Qt.Key.Key_Up, SHIFT)
    window.key(Qt.Key.Key_Down, SHIFT)
    window.key(Qt.Key.Key_Left, SHIFT)
    assert (window.labels.contour, round(window.labels.opacity, 2)) == (4, 0.9)
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    assert (window.labels.contour, round(window.labels.opacity, 2)) == (4, 0.9)


@pytest.mark.parametrize("key", [Qt.Key.Key_R, Qt.Key.Key_C, Qt.Key.Key_P])
def test_a_tool_that_stays_selected_says_so_at_the_next_image(window: Any, key: Any) -> None:
    window.canvas.setFocus()
    window.key(Qt.Key.Key_R)
    window.look()
    window.key(Qt.Key.Key_W)
    window.shown("P2")
    tools = window.bench.panel(CorrectSection).tools
    assert tools.status.text().startswith("Box is still selected; press R to stop.")
    window.canvas.setFocus()
    window.key(key)
    assert not tools.buttons["box"].isChecked()
    assert "Box is still selected" not in tools.status.text()


@pytest.mark.parametrize(
    ("key", "modifier", "text"),
    [
        (Qt.Key.Key_Z, CTRL | SHIFT, "There is nothing to redo"),
        (Qt.Key.Key_U, Qt.KeyboardModifier.NoModifier, "The outline has only one part."),
        (Qt.Key.Key_O, Qt.KeyboardModifier.NoModifier, "The outline has no holes."),
        (Qt.Key.Key_Period, Qt.KeyboardModifier.NoModifier, "There is only one class."),
    ],
)
def test_a_key_without_effect_says_why(window: Any, key: Any, modifier: Any, text: str) -> None:
    window.canvas.setFocus()
    window.key(key, modifier)
    assert window.bench.panel(CorrectSection).tools.status.text() == text
