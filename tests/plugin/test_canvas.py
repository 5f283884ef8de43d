"""The canvas is drawn by OpenGL: what is in the layers can be seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from napari.viewer import Viewer

from napari_lesionseg.plugin.napari_layers.layers import outline_colors
from napari_lesionseg.types import ByteImage


def test_image_and_outline_are_seen(make_napari_viewer: Callable[..., Viewer], spot: ByteImage) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(spot, rgb=True)
    bare = viewer.screenshot(canvas_only=True, flash=False)
    viewer.add_labels((spot[..., 0] < 100).astype(np.uint8), colormap=outline_colors(), opacity=1)
    outlined = viewer.screenshot(canvas_only=True, flash=False)
    assert _colors(bare) == {(0, 0, 0), (40, 40, 40), (230, 230, 230)}
    assert (40, 40, 40) not in _colors(outlined)


def _colors(screen: ByteImage) -> set[tuple[int, ...]]:
    """Colors that fill more than a hundredth of the screen, which leaves mixed pixels at borders out."""
    colors, counts = np.unique(screen[..., :3].reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(color.tolist()) for color in colors[counts > screen[..., 0].size / 100]}
