"""An outline is as wide on the screen as its layer says, at any zoom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from napari.settings import get_plugin_settings
from napari.viewer import Viewer
from numpy.typing import NDArray

from napari_lesionseg.plugin.napari_layers.layers import CLASSES, new_outline, show_as, update_style
from napari_lesionseg.plugin.napari_layers.overlays import draw_on_screen
from napari_lesionseg.plugin.settings import OutlineStyle, read_outline_style, save_outline_style

GRAY = 200
RADIUS = 300
CENTER = (400, 500)


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Viewer], plugins: Any) -> Viewer:
    made = make_napari_viewer(show=True)
    made.add_image(np.full((800, 1000, 3), GRAY, np.uint8), rgb=True)
    return made


def disc(dtype: Any = np.uint8) -> NDArray[Any]:
    rows, cols = np.ogrid[:800, :1000]
    return (np.hypot(rows - CENTER[0], cols - CENTER[1]) < RADIUS).astype(dtype)


def add_outline(viewer: Viewer, mask: NDArray[Any]) -> Labels:
    labels = new_outline(viewer.layers[0])
    labels.data = mask
    show_as(labels, filled=False)
    viewer.add_layer(labels)
    return labels


def look(viewer: Viewer, row: float, col: float, zoom: float) -> NDArray[np.bool_]:
    """Return where the outline is seen on the screen, with a pixel of the image at its center."""
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, row, col), zoom
    screen = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    return (np.ptp(screen, axis=2) > 30) & (screen.max(axis=2) > 60)


def widths(line: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of the runs of a line of the screen."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]])))
    return [int(width) for width in changes[1::2] - changes[::2]]


@pytest.mark.parametrize("zoom", [0.1, 0.5, 1, 3.3, 10, 40])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_the_outline_is_two_to_three_pixels_wide_at_any_zoom(viewer: Viewer, zoom: float, dtype: Any) -> None:
    add_outline(viewer, disc(dtype))
    seen = look(viewer, CENTER[0], CENTER[1] - RADIUS, zoom)
    row = seen[seen.shape[0] // 2]
    assert len(widths(row)) == (2 if zoom * 2 * RADIUS < len(row) / 2 else 1)
    assert set(widths(row)) <= {2, 3}


def test_the_width_can_be_chosen(viewer: Viewer) -> None:
    labels = add_outline(viewer, disc())
    labels.contour = 8
    seen = look(viewer, CENTER[0], CENTER[1] - RADIUS, 2)
    assert widths(seen[seen.shape[0] // 2])[0] in {7, 8}
    labels.contour = 0
    seen = look(viewer, *CENTER, 1)
    assert seen[seen.shape[0] // 2, seen.shape[1] // 2]


def test_holes_narrower_than_the_outline_are_seen(viewer: Viewer) -> None:
    mask = disc()
    mask[400, 500] = 0
    add_outline(viewer, mask)
    seen = look(viewer, *CENTER, 1)
    middle = seen[seen.shape[0] // 2 - 5 : seen.shape[0] // 2 + 5, seen.shape[1] // 2 - 5 :][:, :10]
    assert middle.any()


def test_touching_classes_have_outlines_of_their_own(viewer: Viewer) -> None:
    mask = np.ones((800, 1000), np.uint8)
    mask[:, 500:] = 2
    add_outline(viewer, mask)
    seen = look(viewer, *CENTER, 1)
    assert sum(widths(seen[seen.shape[0] // 2])) in {5, 6}


def test_the_border_of_the_image_is_no_outline(viewer: Viewer) -> None:
    add_outline(viewer, np.ones((800, 1000), np.uint8))
    assert not look(viewer, *CENTER, 0.5).any()


def test_a_stroke_moves_the_outline(viewer: Viewer) -> None:
    labels = add_outline(viewer, disc())
    before = look(viewer, *CENTER, 0.8)
    labels.brush_size = 60
    labels.paint((CENTER[0], CENTER[1] - RADIUS), 1)
    painted = look(viewer, *CENTER, 0.8)
    assert (before != painted).any()
    assert labels.data[CENTER]
    labels.data_setitem(np.nonzero(labels.data != disc()), 0)
    assert np.array_equal(look(viewer, *CENTER, 0.8), before)


def test_an_outline_drawn_in_3d_and_back_is_as_before(viewer: Viewer) -> None:
    add_outline(viewer, disc())
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    viewer.reset_view()
    seen = look(viewer, *CENTER, 0.8)
    assert len(widths(seen[seen.shape[0] // 2])) == 2
    assert set(widths(seen[seen.shape[0] // 2])) <= {2, 3}


def test_the_style_of_the_preferences_is_used_and_followed(viewer: Viewer) -> None:
    save_outline_style(OutlineStyle("pink", 99, 0.25))
    assert read_outline_style() == OutlineStyle("pink", 10, 0.25)
    labels = add_outline(viewer, disc())
    assert (labels.contour, labels.opacity) == (10, 0.25)
    assert np.allclose(labels.colormap.map(1)[:3] * 255, (204, 121, 167), atol=1)
    get_plugin_settings("napari-lesionseg").outline.color = "white"
    update_style(labels)
    assert np.allclose(labels.colormap.map(1), 1)
    labels.metadata[CLASSES] = ("background", "nevus", "melanoma")
    save_outline_style(OutlineStyle("blue", 2, 1))
    update_style(labels)
    assert labels.contour == 2
    assert np.allclose(labels.colormap.map(1), 1)


def test_a_filled_outline_stays_filled(viewer: Viewer) -> None:
    labels = add_outline(viewer, disc())
    show_as(labels, filled=True)
    save_outline_style(OutlineStyle(width=5))
    update_style(labels)
    assert labels.contour == 0


def test_a_layer_of_lesions_is_drawn_like_an_outline(viewer: Viewer) -> None:
    labels = Labels(disc(np.int32) * 700)
    draw_on_screen(labels)
    labels.contour, labels.opacity = 3, 1
    viewer.add_layer(labels)
    seen = look(viewer, CENTER[0], CENTER[1] - RADIUS, 10)
    assert set(widths(seen[seen.shape[0] // 2])) <= {2, 3}
