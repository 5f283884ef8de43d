"""How large a pixel of a picture is on the skin: from a ruler, a DICOM file, or the layer itself."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pint
from napari.layers import Image, Shapes

from napari_lesionseg.datasets.formats.dicom_files import read_spacing
from napari_lesionseg.masks.measurements import Scale
from napari_lesionseg.errors import PictureError
from napari_lesionseg.plugin.napari_layers.layers import picture_shape

if TYPE_CHECKING:
    from napari.components import ViewerModel

RULER = "ruler"
"""Name of the layer that a line along a ruler is drawn in."""

RULER_COLOUR = "#f0e442"


@dataclass(frozen=True, slots=True)
class KnownScale:
    """A scale, and where it comes from: "ruler", "DICOM file" or "picture"."""

    scale: Scale
    source: str


_scales: weakref.WeakKeyDictionary[Image, KnownScale] = weakref.WeakKeyDictionary()
_watched: weakref.WeakSet[Image] = weakref.WeakSet()


def scale_of(picture: Image | None) -> KnownScale | None:
    """Give the scale of a picture: the one that was set, or else that of its layer's units of length.

    Raises
    ------
    PictureError
        If the layer says that pixels are not square.
    """
    if picture is None:
        return None
    return _scales.get(picture) or _scale_of_units(picture)


def set_scale(picture: Image, scale: Scale | None, source: str = "") -> None:
    """Set the scale of a picture, or take it away; another picture in the same layer begins without one."""
    if scale is None:
        _scales.pop(picture, None)
        return
    _scales[picture] = KnownScale(scale, source)
    if picture not in _watched:
        _watched.add(picture)
        picture.events.data.connect(partial(_forget, weakref.ref(picture)))


def scale_of_file(path: Path, picture: Image) -> Scale:
    """Read the scale from the DICOM file that a picture came from.

    Raises
    ------
    PictureError
        If the file cannot be read, or does not tell, or pixels are not square.
    DatasetError
        If the package pydicom is missing.
    """
    spacing = read_spacing(path)
    if spacing is None:
        raise PictureError(f"{path.name} does not say how large its pixels are; draw a line along a ruler.")
    return Scale.from_spacing(*spacing)


def add_ruler(viewer: ViewerModel, picture: Image) -> Shapes:
    """Put a layer above a picture in which a line along a ruler can be drawn at once."""
    known = find_ruler(viewer)
    if known is None:
        width = max(1.0, max(picture_shape(picture)[-2:]) / 400)
        known = Shapes(
            name=RULER,
            ndim=2,
            edge_color=RULER_COLOUR,
            edge_width=width,
            scale=picture.scale[-2:],
            translate=picture.translate[-2:],
            units=picture.units[-2:],
        )
        viewer.add_layer(known)
    viewer.layers.selection.active = known
    known.mode = "add_line"
    return known


def find_ruler(viewer: ViewerModel) -> Shapes | None:
    """Find the layer of the line: the active one if it has lines, else the one made for it."""
    active = viewer.layers.selection.active
    if isinstance(active, Shapes):
        return active
    made = (layer for layer in viewer.layers if isinstance(layer, Shapes) and layer.name == RULER)
    return next(made, None)


def scale_of_ruler(shapes: Shapes, picture: Image, millimetres: float) -> Scale:
    """Take the scale from the line that was drawn last.

    Parameters
    ----------
    shapes : napari.layers.Shapes
        Where it was drawn.
    picture : napari.layers.Image
        What it was drawn over.
    millimetres : float
        What the ruler says between its ends.

    Raises
    ------
    PictureError
        If there is no line, or it has no length.
    """
    lines = [
        data for data, kind in zip(shapes.data, shapes.shape_type, strict=True) if kind in {"line", "path"}
    ]
    if not lines:
        raise PictureError("Draw a line along the ruler first, from one mark to another.")
    ends = [_in_pixels(shapes, picture, lines[-1][place]) for place in (0, -1)]
    return Scale.from_line(ends[0], ends[1], millimetres)


def _in_pixels(shapes: Shapes, picture: Image, point: Any) -> tuple[float, float]:
    """Bring a point of the drawing to row and column of the picture."""
    world = np.asarray(shapes.data_to_world(point))[-2:]
    lead = np.zeros(picture.ndim - 2)
    row, col = picture.world_to_data(np.concatenate([lead, world]))[-2:]
    return float(row), float(col)


def _scale_of_units(picture: Image) -> KnownScale | None:
    try:
        sides = [
            (float(side) * unit).to("millimeter").magnitude
            for side, unit in zip(picture.scale[-2:], picture.units[-2:], strict=True)
        ]
    except pint.DimensionalityError:  # pixels, which have no length
        return None
    return KnownScale(Scale.from_spacing(*sides), "picture")


def _forget(picture: weakref.ref[Image]) -> None:
    layer = picture()
    if layer is not None:
        _scales.pop(layer, None)
