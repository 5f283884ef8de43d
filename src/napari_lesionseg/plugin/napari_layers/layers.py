"""Between napari's layers and plain arrays: pictures out, outlines in.

Arrays that leave this module are copies, so that worker threads never see a layer's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_lesionseg.io.decoding import MAX_PIXELS
from napari_lesionseg.io.images import to_byte_image
from napari_lesionseg.errors import PictureError
from napari_lesionseg.plugin.napari_layers.contours import draw_quickly
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.types import ByteImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

OUTLINE_OPACITY = 1.0
FILLED_OPACITY = 0.4

# Okabe and Ito's palette, "Color universal design" (2008): told apart with every kind of colour vision. Sky
# blue comes first because skin and lesions hold no blue.
CLASS_COLOURS = ("#56b4e9", "#f0e442", "#009e73", "#e69f00", "#cc79a7", "#0072b2", "#d55e00")


def picture_shape(picture: Image) -> tuple[int, ...]:
    """Tell the shape (..., H, W) of a picture at full size, without its colour channels."""
    shape: tuple[int, ...] = tuple(_full_size(picture).shape)
    return shape[:-1] if picture.rgb else shape


def frames_of(picture: Image) -> list[Frame]:
    """List the frames of a picture: one per leading index; a single picture has the frame ()."""
    return list(np.ndindex(*picture_shape(picture)[:-2]))


def shown_frame(picture: Image, viewer: ViewerModel) -> Frame:
    """Tell which frame of a picture the viewer shows; the nearest one when it shows none."""
    lead = picture_shape(picture)[:-2]
    position = picture.world_to_data(viewer.dims.point)[: len(lead)]
    return tuple(int(np.clip(round(at), 0, size - 1)) for at, size in zip(position, lead, strict=True))


def check_picture(picture: Image) -> None:
    """Refuse what cannot be outlined, with a sentence that says what to do.

    Raises
    ------
    PictureError
        For empty pictures, and frames of more than 200 megapixels.
    """
    shape = picture_shape(picture)
    height, width = shape[-2:]
    if not all(shape):
        raise PictureError(f"“{picture.name}” has no pixels; open another picture.")
    if height * width > MAX_PIXELS:
        raise PictureError(
            f"“{picture.name}” has {height * width / 1e6:.0f} megapixels, more than {MAX_PIXELS / 1e6:.0f}; "
            "open a crop or a smaller version of it."
        )


def read_frame(picture: Image, frame: Frame) -> ByteImage:
    """Copy one frame of a picture as colour bytes; to be called on the main thread.

    Of a multiscale picture the largest level is taken, alpha is dropped, grey is repeated. Grey values other
    than bytes are scaled by the layer's contrast limits, so that the network sees what the reader sees; lazy
    (dask) data are read for this frame alone.

    Parameters
    ----------
    picture : napari.layers.Image
        The picture.
    frame : Frame
        One of `frames_of`.

    Returns
    -------
    ndarray
        (H, W, 3) uint8, a new array.

    Raises
    ------
    PictureError
        If `check_picture` refuses the picture, or its data cannot be read.
    """
    check_picture(picture)
    try:
        values = np.asarray(_full_size(picture)[frame])
    except (OSError, ValueError, IndexError) as error:
        raise PictureError(f"“{picture.name}” cannot be read: {error}") from error
    if not picture.rgb and values.dtype.kind != "b" and values.dtype != np.uint8:
        low, high = picture.contrast_limits
        values = _stretch(values, float(low), float(high))
    try:
        return to_byte_image(values)
    except PictureError as error:
        raise PictureError(f"“{picture.name}”: {error}.") from error


def new_outline(picture: Image) -> Labels:
    """Make an empty outline for a picture, at the same place in the world."""
    labels = Labels(
        np.zeros(picture_shape(picture), dtype=np.uint8),
        name=f"{picture.name} outline",
        colormap=outline_colours(),
        **_placement(picture),
    )
    draw_quickly(labels)
    return labels


def place_like(labels: Labels, picture: Image) -> None:
    """Move an outline to where its picture now is."""
    for name, value in _placement(picture).items():
        if not _equal(getattr(labels, name), value):
            setattr(labels, name, value)


def fits(labels: Labels, picture: Image) -> bool:
    """Tell whether a layer can take the outline of a picture: same shape, and held in memory."""
    return isinstance(labels.data, np.ndarray) and labels.data.shape == picture_shape(picture)


def show_as(labels: Labels, *, filled: bool) -> None:
    """Show an outline as a contour, or filled."""
    contour = 0 if filled else contour_width(labels.data.shape)
    if labels.contour != contour:  # napari draws all of it anew even where it is the same
        labels.contour = contour
    labels.opacity = FILLED_OPACITY if filled else OUTLINE_OPACITY


def contour_width(shape: Sequence[int]) -> int:
    """Tell how many pixels wide a contour has to be to be seen when the whole picture is in view."""
    return int(np.clip(round(max(shape[-2:]) / 1000) + 1, 2, 8))


def outline_colours() -> DirectLabelColormap:
    """Colours of the classes; what lies beyond the palette is white."""
    colours: dict[int | None, str] = dict(enumerate(CLASS_COLOURS, start=1))
    return DirectLabelColormap(color_dict={None: "white", 0: "transparent"} | colours)


def _full_size(picture: Image) -> Any:
    """Level 0 of a multiscale picture, the data of any other."""
    return picture.data[0] if picture.multiscale else picture.data


def _placement(picture: Image) -> dict[str, Any]:
    return {
        name: getattr(picture, name)
        for name in ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    }


def _equal(left: Any, right: Any) -> bool:
    if hasattr(left, "affine_matrix"):
        left, right = left.affine_matrix, right.affine_matrix
    return bool(np.array_equal(left, right))


def _stretch(values: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Scale values so that the contrast limits become 0 and 1."""
    if high <= low:
        return np.zeros(values.shape, dtype=np.float32)
    finite = np.nan_to_num(values.astype(np.float32), nan=low, posinf=low, neginf=low)
    scaled: NDArray[np.float32] = np.clip((finite - np.float32(low)) / np.float32(high - low), 0, 1)
    return scaled
