"""The outline of a Labels layer, and clicks, scribbles, boxes and cuts drawn over it, as overlays of napari.

An overlay is neither a layer, which would stand in the layer list and be saved with the others, nor pixels.
napari has no public way to add a kind of overlay, so its table of visuals is extended here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from napari._vispy.overlays.base import LayerOverlayMixin, VispySceneOverlay
from napari._vispy.utils.visual import overlay_to_visual
from napari._vispy.visuals.labels import LabelNode
from napari.components.overlays import BrushCircleOverlay
from napari.components.overlays.base import SceneOverlay
from napari.layers import Labels
from numpy.typing import NDArray
from vispy.color import ColorArray
from vispy.scene.visuals import Compound, Line, Markers
from vispy.visuals.shaders import Function

from napari_lesionseg.types import Box, Click, Stroke

if TYPE_CHECKING:
    from napari.components import ViewerModel

# Okabe and Ito's bluish green and vermilion: distinct with every kind of color vision, and by shape.
POSITIVE_COLOR, NEGATIVE_COLOR = "#00b386", "#ff6a00"

_CLICK_SIZE = 11.0
_SCRIBBLE_WIDTH = 4.0
_SEED_SIZE = 10.0
_BOX_MARGIN = 3.0
_HIDDEN = np.zeros((2, 2))
"""Positions for visuals that show nothing yet; vispy does not take empty ones."""

_Corners = tuple[int, int, int, int]
Overlay = TypeVar("Overlay", bound=SceneOverlay)


# A label is seen if another one lies within `width` pixels of the screen. Shaders know how far apart pixels
# of the screen are in the texture, so the outline has the same width at any zoom, and nothing is computed
# when the mask changes. The inner circle of points finds holes that are narrower than the outline.
_OUTLINE_SHADER = """
    vec4 texture_lookup(vec2 texcoord) {
        if (texcoord.x < 0.0 || texcoord.x > 1.0 || texcoord.y < 0.0 || texcoord.y > 1.0) {
            discard;
        }
        vec2 right = dFdx(texcoord), down = dFdy(texcoord);
        vec4 here = texture2D($texture, texcoord);
        if (here.r == 0.0 || $width <= 0.0) {
            return here;
        }
        for (int i = 0; i < 16; i++) {
            float angle = 0.78539816 * float(i);
            float reach = i < 8 ? $width : 0.5 * $width;
            vec2 there = texcoord + reach * (cos(angle) * right + sin(angle) * down);
            if (texture2D($texture, clamp(there, 0.0, 1.0)).r != here.r) {
                return here;
            }
        }
        return vec4(0.0);
    }
"""


class OutlineOverlay(SceneOverlay):
    """Draws the border of each label as wide as the layer's `contour` says, in pixels of the screen."""


class PromptOverlay(SceneOverlay):
    """The clicks and scribbles of one image, oldest first, and the box or lasso being drawn in it."""

    clicks: tuple[tuple[float, float, bool], ...] = ()  # row, column, positive
    scribbles: tuple[tuple[tuple[tuple[float, float], ...], bool], ...] = ()  # rows and columns, positive
    box: _Corners | None = None
    lasso: tuple[tuple[float, float], ...] = ()  # rows and columns

    def show(self, strokes: Sequence[Stroke]) -> None:
        """Show these clicks and scribbles and no others."""
        clicks = [stroke for stroke in strokes if isinstance(stroke, Click)]
        scribbles = [stroke for stroke in strokes if not isinstance(stroke, Click)]
        self.clicks = tuple((click.row, click.col, click.positive) for click in clicks)
        self.scribbles = tuple((tuple(scribble.points), scribble.positive) for scribble in scribbles)

    def show_box(self, box: Box | None) -> None:
        """Show a box, or none."""
        self.box = None if box is None else (box.top, box.left, box.bottom, box.right)

    def show_lasso(self, path: Sequence[tuple[float, float]]) -> None:
        """Show a stroke, or none."""
        self.lasso = tuple(path)

    def clear(self) -> None:
        """Show nothing."""
        self.show([])
        self.show_lasso(())
        self.show_box(None)


class InstanceOverlay(SceneOverlay):
    """Boxes around the selected lesions, and the cut being drawn."""

    boxes: tuple[_Corners, ...] = ()
    path: tuple[tuple[float, float], ...] = ()  # rows and columns

    def show_boxes(self, boxes: Iterable[Box]) -> None:
        """Show these boxes and no others."""
        self.boxes = tuple((box.top, box.left, box.bottom, box.right) for box in boxes)

    def show_path(self, path: Sequence[tuple[float, float]]) -> None:
        """Show the cut being drawn; a single point is the first of two clicks."""
        self.path = tuple(path)


def add_overlay(labels: Labels, kind: type[Overlay]) -> Overlay:
    """Add an overlay to a layer, or return the one of its kind that is there already."""
    overlay: Overlay = labels._overlays.setdefault(_key(kind), kind(visible=True))
    return overlay


def draw_on_screen(labels: Labels) -> None:
    """Let the `contour` of a layer count pixels of the screen rather than of the image."""
    # napari would compute the contour in pixels of the image: hardly visible in an image of 24 megapixels, as
    # thick as the image's pixels where it is magnified, and a second after each stroke.
    vars(labels)["_calculate_contour"] = _no_contour
    add_overlay(labels, OutlineOverlay)


def clear_brush(viewer: ViewerModel) -> None:
    """Take away the dark square that napari 0.9 draws under the mouse, once layers were replaced."""
    for overlay in viewer.canvas.overlays.values():
        if isinstance(overlay, BrushCircleOverlay):
            overlay.box = False  # meant for text, which is read better on it


def _no_contour(labels: NDArray[Any], data_slice: tuple[slice, ...]) -> None:
    """Return None, with which napari shows the labels as they are."""


def remove_overlay(labels: Labels, overlay: SceneOverlay) -> None:
    """Remove an overlay from its layer."""
    key = _key(type(overlay))
    if labels._overlays.get(key) is overlay:
        del labels._overlays[key]


def _key(kind: type[SceneOverlay]) -> str:
    return f"lesionseg_{kind.__name__}"


class _VispyOverlay(LayerOverlayMixin, VispySceneOverlay):
    """Base of both visuals: redraws when a field of its overlay changes."""

    def __init__(self, *visuals: Any, **options: Any) -> None:
        super().__init__(node=Compound(list(visuals)), **options)
        for name, draw in self._drawn_by().items():
            getattr(self.overlay.events, name).connect(draw)
        self.reset()

    def reset(self) -> None:
        """Draw everything."""
        super().reset()
        for draw in self._drawn_by().values():
            draw()

    def close(self) -> None:
        """Disconnect from the overlay."""
        for name, draw in self._drawn_by().items():
            getattr(self.overlay.events, name).disconnect(draw)
        super().close()

    def _drawn_by(self) -> dict[str, Any]:
        """Return the method that draws each field of the overlay."""
        raise NotImplementedError

    def _on_canvas(self, points: Sequence[tuple[float, float]]) -> NDArray[np.floating]:
        """Convert rows and columns of the image to x and y of its texture."""
        # napari downsamples images that are too large for a texture.
        to_data = self.layer._transforms["tile2data"]
        return np.asarray(to_data.inverse(np.asarray(points, dtype=float)))[:, ::-1]


class VispyOutlineOverlay(LayerOverlayMixin, VispySceneOverlay):
    """Replaces the shader of its layer; draws nothing itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(node=Compound([Line(pos=_HIDDEN)]), **options)
        self._lookup = Function(_OUTLINE_SHADER)
        self._lookup["width"] = 0.0
        self.layer.events.contour.connect(self.reset)
        self.reset()

    def reset(self) -> None:
        """Draw the outline as wide as it is now."""
        super().reset()
        self.node.visible = False
        labels = self.node.parent
        if not isinstance(labels, LabelNode):
            return  # in 3D
        if labels._interpolation_fun["nearest"] is not self._lookup:
            labels._interpolation_fun["nearest"] = self._lookup
            labels._need_interpolation_update = True
        # Half a pixel less, so that the outline is never wider than the contour where pixels are cut in two.
        pixel_scale = labels.canvas.pixel_scale if labels.canvas is not None else 1.0
        self._lookup["width"] = max(self.layer.contour - 0.5, 0.0) * pixel_scale
        labels.update()

    def close(self) -> None:
        """Disconnect from the layer."""
        self.layer.events.contour.disconnect(self.reset)
        super().close()


class VispyPromptOverlay(_VispyOverlay):
    """Draws discs for positive clicks, crosses for negative ones, lines for scribbles, and the box."""

    def __init__(self, **options: Any) -> None:
        self._positive, self._negative = Markers(pos=_HIDDEN), Markers(pos=_HIDDEN)
        self._line, self._stroke, self._scribbles = Line(), Line(pos=_HIDDEN), Line(pos=_HIDDEN)
        lines = (self._line, self._stroke, self._scribbles)
        super().__init__(*lines, self._positive, self._negative, **options)

    def _drawn_by(self) -> dict[str, Any]:
        return {
            "clicks": self._draw_points,
            "scribbles": self._draw_scribbles,
            "box": self._draw_box,
            "lasso": self._draw_lasso,
        }

    def _draw_points(self) -> None:
        """Draw the clicks, and the same symbols where scribbles begin."""
        starts = [(*points[0], sign) for points, sign in self.overlay.scribbles]
        for markers, positive, color, symbol in (
            (self._positive, True, POSITIVE_COLOR, "disc"),
            (self._negative, False, NEGATIVE_COLOR, "x"),
        ):
            points = [(row, col) for row, col, sign in (*self.overlay.clicks, *starts) if sign == positive]
            markers.visible = bool(points)
            if points:
                markers.set_data(
                    self._on_canvas(points),
                    face_color=color,
                    edge_color="white" if positive else color,
                    edge_width=1.5,
                    size=_CLICK_SIZE,
                    symbol=symbol,
                )
        self.node.update()

    def _draw_scribbles(self) -> None:
        ends = [
            (end, POSITIVE_COLOR if positive else NEGATIVE_COLOR)
            for points, positive in self.overlay.scribbles
            for side in itertools.pairwise(points)
            for end in side
        ]
        self._scribbles.visible = bool(ends)
        if ends:
            points, colors = zip(*ends, strict=True)
            self._scribbles.set_data(
                self._on_canvas(points),
                color=ColorArray(colors).rgba,
                width=_SCRIBBLE_WIDTH,
                connect="segments",
            )
        self._draw_points()

    def _draw_box(self) -> None:
        self._line.visible = self.overlay.box is not None
        if self.overlay.box is not None:
            top, left, bottom, right = self.overlay.box
            corners = [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
            self._line.set_data(self._on_canvas(corners) - 0.5, color="white", width=2)

    def _draw_lasso(self) -> None:
        path = self.overlay.lasso
        self._stroke.visible = len(path) > 1
        if len(path) > 1:
            self._stroke.set_data(self._on_canvas([*path, path[0]]), color="white", width=2)
        self.node.update()


class VispyInstanceOverlay(_VispyOverlay):
    """Draws the boxes and the cut."""

    def __init__(self, **options: Any) -> None:
        self._boxes, self._cut, self._seeds = Line(pos=_HIDDEN), Line(pos=_HIDDEN), Markers(pos=_HIDDEN)
        super().__init__(self._boxes, self._cut, self._seeds, **options)

    def _drawn_by(self) -> dict[str, Any]:
        return {"boxes": self._draw_boxes, "path": self._draw_path}

    def _draw_boxes(self) -> None:
        self._boxes.visible = bool(self.overlay.boxes)
        if self.overlay.boxes:
            ends = [end for box in self.overlay.boxes for end in _sides(box)]
            self._boxes.set_data(self._on_canvas(ends), color="white", width=1.5, connect="segments")
        self.node.update()

    def _draw_path(self) -> None:
        path = self.overlay.path
        self._cut.visible, self._seeds.visible = len(path) > 1, bool(path)
        if path:
            points = self._on_canvas(path)
            self._seeds.set_data(points[[0, -1]], face_color="white", edge_color="black", size=_SEED_SIZE)
        if len(path) > 1:
            self._cut.set_data(points, color="white", width=2)
        self.node.update()


def _sides(box: _Corners) -> list[tuple[float, float]]:
    """Return both ends of every side of a box, a little outside."""
    top, left, bottom, right = (
        side + shift
        for side, shift in zip(box, (-_BOX_MARGIN, -_BOX_MARGIN, _BOX_MARGIN, _BOX_MARGIN), strict=True)
    )
    corners = [(top, left), (top, right), (bottom, right), (bottom, left), (top, left)]
    return [end for pair in itertools.pairwise(corners) for end in pair]


overlay_to_visual[OutlineOverlay] = VispyOutlineOverlay
overlay_to_visual[PromptOverlay] = VispyPromptOverlay
overlay_to_visual[InstanceOverlay] = VispyInstanceOverlay
