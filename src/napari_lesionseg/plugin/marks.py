"""Clicks shown as small points over the outline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Points

from napari_lesionseg.types import Click

if TYPE_CHECKING:
    from napari.components import ViewerModel

BELONGS, DOES_NOT = "#009e73", "#d55e00"
"""Okabe and Ito's bluish green and vermilion: told apart with every kind of colour vision."""

_SYMBOLS = {True: "disc", False: "x"}


class ClickMarks:
    """Points for the clicks of one picture, in a layer that is there only while there are clicks.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Where they are shown.
    labels : napari.layers.Labels
        The outline they belong to; they are placed as it is.
    """

    def __init__(self, viewer: ViewerModel, labels: Labels) -> None:
        self._viewer, self._labels = viewer, labels
        self._layer: Points | None = None

    def show(self, clicks: Sequence[Click]) -> None:
        """Show these clicks and no others."""
        layers: Any = self._viewer.layers
        if not clicks or self._labels not in layers:
            self.close()
            return
        if self._layer is None or self._layer not in layers:
            self._layer = self._new_layer()
            with _same_selection(layers):
                layers.insert(layers.index(self._labels) + 1, self._layer)
        self._layer.data = np.array([(click.row, click.col) for click in clicks])
        colours = [BELONGS if click.positive else DOES_NOT for click in clicks]
        self._layer.face_color = colours
        self._layer.symbol = [_SYMBOLS[click.positive] for click in clicks]
        self._layer.selected_data = set()

    def close(self) -> None:
        """Take the points away."""
        layer, self._layer = self._layer, None
        layers: Any = self._viewer.layers
        if layer is not None and layer in layers:
            with _same_selection(layers):
                layers.remove(layer)

    def _new_layer(self) -> Points:
        labels = self._labels
        return Points(
            ndim=2,
            name="clicks",
            size=9,
            border_color="white",
            border_width=0.15,
            canvas_size_limits=(7, 11),
            affine=labels.affine,
            scale=labels.scale,
            translate=labels.translate,
            rotate=labels.rotate,
            shear=labels.shear,
            units=labels.units,
        )


@contextmanager
def _same_selection(layers: Any) -> Iterator[None]:
    """Leave the selection of layers as it is: the outline stays the one that is drawn into."""
    selected, active = set(layers.selection), layers.selection.active
    yield
    kept = {layer for layer in selected if layer in layers}
    layers.selection.clear()
    layers.selection.update(kept)
    if active in kept:
        layers.selection.active = active
        layers.selection.update(kept)
