"""Boxes around the selected lesions, and the cut being drawn, as an overlay of their layer.

See `napari_lesionseg.plugin.napari_layers.overlays` for why they are an overlay.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from napari._vispy.overlays.base import LayerOverlayMixin, VispySceneOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari.components.overlays.base import SceneOverlay
from napari.layers import Labels
from numpy.typing import NDArray
from vispy.scene.visuals import Compound, Line, Markers

from napari_lesionseg.types import Box

COLOR = "white"
_NAME = "lesionseg_lesions"
_MARGIN = 3.0
_SIZE = 10.0
_NOWHERE = np.zeros((2, 2))


class LesionOverlay(SceneOverlay):
    """What is shown.

    Attributes
    ----------
    boxes : tuple of (int, int, int, int)
        Top, left, bottom and right of the selected lesions.
    path : tuple of (float, float)
        Rows and columns of the cut.
    """

    boxes: tuple[tuple[int, int, int, int], ...] = ()
    path: tuple[tuple[float, float], ...] = ()


class VispyLesions(LayerOverlayMixin, VispySceneOverlay):
    """The boxes and the cut as they are drawn."""

    def __init__(self, **options: Any) -> None:
        self._boxes, self._cut, self._seeds = Line(pos=_NOWHERE), Line(pos=_NOWHERE), Markers(pos=_NOWHERE)
        super().__init__(node=Compound([self._boxes, self._cut, self._seeds]), **options)
        self.overlay.events.boxes.connect(self._on_boxes_change)
        self.overlay.events.path.connect(self._on_path_change)
        self.reset()

    def reset(self) -> None:
        """Draw everything."""
        super().reset()
        self._on_boxes_change()
        self._on_path_change()

    def close(self) -> None:
        """Let go of the overlay."""
        self.overlay.events.boxes.disconnect(self._on_boxes_change)
        self.overlay.events.path.disconnect(self._on_path_change)
        super().close()

    def _on_boxes_change(self) -> None:
        self._boxes.visible = bool(self.overlay.boxes)
        if self.overlay.boxes:
            ends = [end for box in self.overlay.boxes for end in _sides(box)]
            self._boxes.set_data(self._on_canvas(ends), color=COLOR, width=1.5, connect="segments")
        self.node.update()

    def _on_path_change(self) -> None:
        path = self.overlay.path
        self._cut.visible, self._seeds.visible = len(path) > 1, bool(path)
        if path:
            places = self._on_canvas(path)
            self._seeds.set_data(places[[0, -1]], face_color=COLOR, edge_color="black", size=_SIZE)
        if len(path) > 1:
            self._cut.set_data(places, color=COLOR, width=2)
        self.node.update()

    def _on_canvas(self, places: Sequence[tuple[float, float]]) -> NDArray[np.floating]:
        """Rows and columns of the image as x and y of what the graphics card holds of it."""
        shrunk = self.layer._transforms["tile2data"]  # images too large for a texture are held smaller
        return np.asarray(shrunk.inverse(np.asarray(places, dtype=float)))[:, ::-1]


overlay_to_visual[LesionOverlay] = VispyLesions


class LesionMarks:
    """The boxes and the cut over one layer.

    Parameters
    ----------
    labels : napari.layers.Labels
        The layer of the lesions.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self.overlay = LesionOverlay(visible=True)
        labels._overlays[_NAME] = self.overlay

    def show_boxes(self, boxes: Iterable[Box]) -> None:
        """Show boxes, and no others."""
        self.overlay.boxes = tuple((box.top, box.left, box.bottom, box.right) for box in boxes)

    def show_path(self, path: Sequence[tuple[float, float]]) -> None:
        """Show the cut being drawn; a single point is the first of two clicks."""
        self.overlay.path = tuple(path)

    def close(self) -> None:
        """Take everything away."""
        self.show_boxes(())
        self.show_path(())
        if self._labels._overlays.get(_NAME) is self.overlay:
            del self._labels._overlays[_NAME]


def _sides(box: tuple[int, int, int, int]) -> Iterable[tuple[float, float]]:
    """Give both ends of every side of a box, a little outside."""
    top, left, bottom, right = (
        side + shift for side, shift in zip(box, (-_MARGIN, -_MARGIN, _MARGIN, _MARGIN), strict=True)
    )
    corners = [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
    return [end for pair in itertools.pairwise(corners) for end in pair]
