"""Clicks and the box being drawn, shown over the outline.

They are an overlay of the outline's layer: neither a layer of their own, which would stand in the list and be
saved with the others, nor pixels. napari has no public way to add a kind of overlay, so its table of visuals
is extended here, in this one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari._vispy.overlays.base import LayerOverlayMixin, VispySceneOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari.components.overlays.base import SceneOverlay
from napari.layers import Labels
from numpy.typing import NDArray
from vispy.scene.visuals import Compound, Line, Markers

from napari_lesionseg.types import Box, Click

BELONGS, DOES_NOT = "#00b386", "#ff6a00"
"""After Okabe and Ito's bluish green and vermilion: told apart by every color vision, and by shape."""

_NAME = "lesionseg_marks"
_SIZE = 11.0
_NOWHERE = np.zeros((1, 2))


class MarksOverlay(SceneOverlay):
    """What is shown: clicks, oldest first, and a box.

    Attributes
    ----------
    clicks : tuple of (float, float, bool)
        Row, column, and whether it belongs.
    box : tuple of int, optional
        Top, left, bottom, right.
    """

    clicks: tuple[tuple[float, float, bool], ...] = ()
    box: tuple[int, int, int, int] | None = None


class VispyMarks(LayerOverlayMixin, VispySceneOverlay):
    """The marks as they are drawn: a disc belongs, a cross does not."""

    def __init__(self, **options: Any) -> None:
        self._belonging, self._not, self._line = Markers(pos=_NOWHERE), Markers(pos=_NOWHERE), Line()
        super().__init__(node=Compound([self._line, self._belonging, self._not]), **options)
        self.overlay.events.clicks.connect(self._on_clicks_change)
        self.overlay.events.box.connect(self._on_box_change)
        self.reset()

    def reset(self) -> None:
        """Draw everything."""
        super().reset()
        self._on_clicks_change()
        self._on_box_change()

    def close(self) -> None:
        """Let go of the overlay."""
        self.overlay.events.clicks.disconnect(self._on_clicks_change)
        self.overlay.events.box.disconnect(self._on_box_change)
        super().close()

    def _on_clicks_change(self) -> None:
        for markers, positive, color, symbol in (
            (self._belonging, True, BELONGS, "disc"),
            (self._not, False, DOES_NOT, "x"),
        ):
            places = [(row, col) for row, col, belongs in self.overlay.clicks if belongs == positive]
            markers.visible = bool(places)
            if places:
                markers.set_data(
                    self._on_canvas(places),
                    face_color=color,
                    edge_color="white" if positive else color,
                    edge_width=1.5,
                    size=_SIZE,
                    symbol=symbol,
                )
        self.node.update()

    def _on_box_change(self) -> None:
        self._line.visible = self.overlay.box is not None
        if self.overlay.box is not None:
            top, left, bottom, right = self.overlay.box
            corners = [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
            self._line.set_data(self._on_canvas(corners) - 0.5, color="white", width=2)

    def _on_canvas(self, places: Sequence[tuple[float, float]]) -> NDArray[np.floating]:
        """Rows and columns of the image as x and y of what the graphics card holds of it."""
        points = np.asarray(places, dtype=float)
        # Images too large for a texture are held smaller.
        shrunk = self.layer._transforms["tile2data"]
        return np.asarray(shrunk.inverse(points))[:, ::-1]


overlay_to_visual[MarksOverlay] = VispyMarks


class Overlays:
    """The clicks of one image, and the box being drawn in it.

    Parameters
    ----------
    labels : napari.layers.Labels
        The outline they belong to.
    """

    def __init__(self, labels: Labels) -> None:
        known = labels._overlays.get(_NAME)
        self.overlay = known if isinstance(known, MarksOverlay) else MarksOverlay(visible=True)
        if known is not self.overlay:
            labels._overlays[_NAME] = self.overlay

    def show(self, clicks: Sequence[Click]) -> None:
        """Show these clicks and no others."""
        self.overlay.clicks = tuple((click.row, click.col, click.positive) for click in clicks)

    def show_box(self, box: Box | None) -> None:
        """Show a box, or none."""
        self.overlay.box = None if box is None else (box.top, box.left, box.bottom, box.right)

    def close(self) -> None:
        """Show nothing any more; the layer keeps the empty overlay, which takes long to be made."""
        self.show([])
        self.show_box(None)
