"""How large a pixel of an image is on the skin: from a ruler, a DICOM file, or the layer itself."""

from __future__ import annotations

from dataclasses import dataclass
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
    """A scale, and where it comes from: "ruler", "DICOM file", "study" or "image"."""

    scale: Scale
    source: str


_SCALE = "lesionseg_scale"
"""Name of the scale in the metadata of an image."""


def scale_of(image: Image | None) -> KnownScale | None:
    """Return the scale that was set, or that of the layer's units; an ImageError if not square."""
    if image is None:
        return None
    return image.metadata.get(_SCALE) or _scale_of_units(image)


def set_scale(image: Image, scale: Scale | None, source: str = "") -> None:
    """Set or remove the scale of an image; another image in the same layer starts without one.

    `image.events.metadata` is emitted.
    """
    metadata = {name: value for name, value in image.metadata.items() if name != _SCALE}
    if scale is not None:
        metadata[_SCALE] = KnownScale(scale, source)
        image.events.data.connect(_remove_scale)  # connected once, however often
    image.metadata = metadata  # writing into the mapping would emit nothing


def scale_of_file(path: Path, image: Image) -> Scale:
    """Read the scale from the DICOM file of an image; an ImageError if it has none or cannot be read."""
    spacing = read_spacing(path)
    if spacing is None:
        raise ImageError(f"{path.name} does not say how large its pixels are; draw a line along a ruler.")
    return Scale.from_spacing(*spacing)


def add_ruler(viewer: ViewerModel, image: Image) -> Shapes:
    """Add a layer above an image, ready to draw a line along a ruler."""
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


def remove_ruler(viewer: ViewerModel) -> None:
    """Remove the layer that `add_ruler` made."""
    for layer in [one for one in viewer.layers if isinstance(one, Shapes) and one.name == RULER]:
        viewer.layers.remove(layer)


def scale_of_ruler(shapes: Shapes, image: Image, millimeters: float) -> Scale:
    """Compute the scale from the last line of a layer over an image; an ImageError if there is none."""
    lines = [
        data for data, kind in zip(shapes.data, shapes.shape_type, strict=True) if kind in {"line", "path"}
    ]
    if not lines:
        raise ImageError("Draw a line along the ruler first, from one mark to another.")
    ends = [_in_pixels(shapes, image, lines[-1][place]) for place in (0, -1)]
    return Scale.from_line(ends[0], ends[1], millimeters)


def _in_pixels(shapes: Shapes, image: Image, point: Any) -> tuple[float, float]:
    """Convert a point of the drawing to row and column of the image."""
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


def _remove_scale(event: Any) -> None:
    """Remove the scale of an image whose layer now shows another one."""
    set_scale(event.source, None)
