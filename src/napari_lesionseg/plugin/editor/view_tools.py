"""Tools that change only what is seen of an image and its outline, never the outline itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from skimage.measure import find_contours

from napari_lesionseg.masks.components import bounding_box

if TYPE_CHECKING:
    from napari_lesionseg.plugin.editor.tools import ToolContext

AROUND = 0.25
"""Part of a lesion's size that is shown around it."""


def fit(context: ToolContext) -> None:
    """Show the whole image."""
    context.editor.viewer.reset_view()


def zoom_to_lesion(context: ToolContext) -> None:
    """Show the outline as large as the window allows, with some skin around it."""
    editor = context.editor
    box = bounding_box(editor.snapshot.mask)
    if box is None:
        return
    viewer, camera = editor.viewer, editor.viewer.scene.camera
    viewer.reset_view()
    extent = np.array([part.stop - part.start for part in box], float)
    sides = np.array(editor.snapshot.mask.shape, float)
    center = np.array([(part.start + part.stop - 1) / 2 for part in box])
    camera.zoom *= float((sides / (extent * (1 + 2 * AROUND))).min())
    camera.center = (camera.center[0], *editor.labels.data_to_world(center)[-2:])


def show_original(context: ToolContext) -> Iterator[None]:
    """Show the model's own outline in place of the present one, while a key is held."""
    labels, overlay = context.editor.labels, context.editor.document.overlay
    opacity = labels.opacity
    labels.opacity = 0  # so no verdict is given about an outline that is not seen
    overlay.show_lasso(_original_outline(context))
    yield
    overlay.show_lasso(())
    labels.opacity = opacity


def _original_outline(context: ToolContext) -> list[tuple[float, float]]:
    """Return the longest contour of the model's own outline, (row, column) points."""
    snapshot = context.editor.snapshot
    prediction = snapshot.initial_prediction
    if prediction is None:
        return []
    mask = prediction.to_mask(snapshot.config, snapshot.threshold)
    padded = np.pad(mask > 0, 1).astype(float)
    contours: list[NDArray[np.float64]] = find_contours(padded, 0.5)
    longest = max(contours, key=len, default=np.zeros((0, 2)))
    return [(float(row) - 1, float(col) - 1) for row, col in longest]
