"""How large a pixel of an image is on the skin: from a ruler, a DICOM file, or the layer itself."""

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
from napari_lesionseg.errors import ImageError
from napari_lesionseg.masks.measurements import Scale
from napari_lesionseg.plugin.napari_layers.layers import image_shape

if TYPE_CHECKING:
    from napari.components import ViewerModel

RULER = "ruler"
"""Name of the layer that a line along a ruler is drawn in."""

RULER_COLOR = "#f0e442"


@dataclass(frozen=True, slots=True)
class KnownScale:
    """A scale, and where it comes from: "ruler", "DICOM file" or "image"."""

    scale: Scale
    source: str


_scales: weakref.WeakKeyDictionary[Image, KnownScale] = weakref.WeakKeyDictionary()
_watched: weakref.WeakSet[Image] = weakref.WeakSet()


def scale_of(image: Image | None) -> KnownScale | None:
    """Give the scale of an image: the one that was set, or else that of its layer's units of length.

    Raises
    ------
    ImageError
        If the layer says that pixels are not square.
    """
    if image is None:
        return None
    return _scales.get(image) or _scale_of_units(image)


def set_scale(image: Image, scale: Scale | None, source: str = "") -> None:
    """Set the scale of an image, or take it away; another image in the same layer begins without one."""
    if scale is None:
        _scales.pop(image, None)
        return
    _scales[image] = KnownScale(scale, source)
    if image not in _watched:
        _watched.add(image)
        image.events.data.connect(partial(_forget, weakref.ref(image)))


def scale_of_file(path: Path, image: Image) -> Scale:
    """Read the scale from the DICOM file that an image came from.

    Raises
    ------
    ImageError
        If the file cannot be read, or does not tell, or pixels are not square.
    DatasetError
        If the package pydicom is missing.
    """
    spacing = read_spacing(path)
    if spacing is None:
        raise ImageError(f"{path.name} does not say how large its pixels are; draw a line along a ruler.")
    return Scale.from_spacing(*spacing)


def add_ruler(viewer: ViewerModel, image: Image) -> Shapes:
    """Put a layer above an image in which a line along a ruler can be drawn at once."""
    known = find_ruler(viewer)
    if known is None:
        width = max(1.0, max(image_shape(image)[-2:]) / 400)
        known = Shapes(
            name=RULER,
            ndim=2,
            edge_color=RULER_COLOR,
            edge_width=width,
            scale=image.scale[-2:],
            translate=image.translate[-2:],
            units=image.units[-2:],
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


def scale_of_ruler(shapes: Shapes, image: Image, millimeters: float) -> Scale:
    """Take the scale from the line that was drawn last.

    Parameters
    ----------
    shapes : napari.layers.Shapes
        Where it was drawn.
    image : napari.layers.Image
        What it was drawn over.
    millimeters : float
        What the ruler says between its ends.

    Raises
    ------
    ImageError
        If there is no line, or it has no length.
    """
    lines = [
        data for data, kind in zip(shapes.data, shapes.shape_type, strict=True) if kind in {"line", "path"}
    ]
    if not lines:
        raise ImageError("Draw a line along the ruler first, from one mark to another.")
    ends = [_in_pixels(shapes, image, lines[-1][place]) for place in (0, -1)]
    return Scale.from_line(ends[0], ends[1], millimeters)


def _in_pixels(shapes: Shapes, image: Image, point: Any) -> tuple[float, float]:
    """Bring a point of the drawing to row and column of the image."""
    world = np.asarray(shapes.data_to_world(point))[-2:]
    lead = np.zeros(image.ndim - 2)
    row, col = image.world_to_data(np.concatenate([lead, world]))[-2:]
    return float(row), float(col)


def _scale_of_units(image: Image) -> KnownScale | None:
    try:
        sides = [
            (float(side) * unit).to("millimeter").magnitude
            for side, unit in zip(image.scale[-2:], image.units[-2:], strict=True)
        ]
    except pint.DimensionalityError:  # pixels, which have no length
        return None
    return KnownScale(Scale.from_spacing(*sides), "image")


def _forget(image: weakref.ref[Image]) -> None:
    layer = image()
    if layer is not None:
        _scales.pop(layer, None)
