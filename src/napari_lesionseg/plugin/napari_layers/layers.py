"""Between napari's layers and plain arrays: images out, outlines in.

Arrays that leave this module are copies, so that threads never see the memory of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_lesionseg.datasets.records import LESION_CLASSES
from napari_lesionseg.errors import ImageError
from napari_lesionseg.io.decoding import MAX_PIXELS
from napari_lesionseg.io.images import to_byte_image
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.overlays import draw_on_screen
from napari_lesionseg.plugin.settings import read_outline_style
from napari_lesionseg.types import ByteImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

FILLED_OPACITY = 0.4

CLASSES = "classes"
"""Name in a layer's metadata under which the names of its classes stand, the background first."""

# Okabe and Ito's palette, "Color universal design" (2008): distinct with every kind of color vision. Sky
# blue comes first because skin and lesions hold no blue.
COLORS = {
    "sky blue": "#56b4e9",
    "yellow": "#f0e442",
    "green": "#009e73",
    "orange": "#e69f00",
    "pink": "#cc79a7",
    "blue": "#0072b2",
    "red": "#d55e00",
}
CLASS_COLORS = tuple(COLORS.values())


def image_shape(image: Image) -> tuple[int, ...]:
    """Return the shape (..., H, W) of an image at full size, without its color channels."""
    shape: tuple[int, ...] = tuple(_full_size(image).shape)
    return shape[:-1] if image.rgb else shape


def frames_of(image: Image) -> list[Frame]:
    """Return the frames of an image: one per leading index; a single image has the frame ()."""
    return list(np.ndindex(*image_shape(image)[:-2]))


def shown_frame(image: Image, viewer: ViewerModel) -> Frame:
    """Return the frame of an image that the viewer shows, or the nearest one."""
    lead = image_shape(image)[:-2]
    position = image.world_to_data(viewer.dims.point)[: len(lead)]
    return tuple(int(np.clip(round(at), 0, size - 1)) for at, size in zip(position, lead, strict=True))


def check_image(image: Image) -> None:
    """Raise an ImageError for images without pixels, and frames of more than 200 megapixels."""
    shape = image_shape(image)
    height, width = shape[-2:]
    if not all(shape):
        raise ImageError(f"“{image.name}” has no pixels; open another image.")
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"“{image.name}” has {height * width / 1e6:.0f} megapixels, more than {MAX_PIXELS / 1e6:.0f}; "
            "open a crop or a smaller version of it."
        )


def read_frame(image: Image, frame: Frame) -> ByteImage:
    """Copy one frame of an image as color bytes (H, W, 3); call it on the main thread.

    Alpha is dropped and gray repeated. Gray values other than bytes are scaled by the layer's contrast
    limits, so that the network sees what the annotator sees.
    """
    check_image(image)
    try:
        values = np.asarray(_full_size(image)[frame])
    except (OSError, ValueError, IndexError) as error:
        raise ImageError(f"“{image.name}” cannot be read: {error}.") from error
    if not image.rgb and values.dtype.kind != "b" and values.dtype != np.uint8:
        low, high = image.contrast_limits
        values = _stretch(values, float(low), float(high))
    try:
        return to_byte_image(values)
    except ImageError as error:
        raise ImageError(f"“{image.name}”: {error}.") from error


def new_outline(image: Image) -> Labels:
    """Make an empty outline for an image, at the same place in the world."""
    labels = Labels(
        np.zeros(image_shape(image), dtype=np.uint8),
        name=f"{image.name} outline",
        colormap=outline_colors(),
        metadata={CLASSES: LESION_CLASSES},  # else a list of layers takes it for numbered lesions
        **placement(image),
    )
    draw_on_screen(labels)
    return labels


def place_like(labels: Labels, image: Image) -> None:
    """Move an outline to where its image now is."""
    for name, value in placement(image).items():
        if not _equal(getattr(labels, name), value):
            setattr(labels, name, value)


def fits(labels: Labels, image: Image) -> bool:
    """Whether a layer can take the outline of an image: same shape, and held in memory."""
    return isinstance(labels.data, np.ndarray) and labels.data.shape == image_shape(image)


def protect(
    viewer: ViewerModel, kept: Callable[[], Collection[Layer]], refused: Callable[[], None]
) -> Callable[[], object]:
    """Keep some layers when the selected ones are deleted; return a function that ends this.

    `refused` is called when one of them was selected.
    """
    # napari has no event before layers are deleted. Its key, button and menu all call this method.
    layers: Any = viewer.layers

    def remove_selected() -> None:
        selected = list(layers.selection)
        if any(layer in kept() for layer in selected):
            refused()
        for layer in selected:
            if layer not in kept() and layer in layers:
                layers.remove(layer)

    vars(layers)["remove_selected"] = remove_selected
    return partial(vars(layers).pop, "remove_selected", None)


def show_as(labels: Labels, *, filled: bool) -> None:
    """Show an outline as a line, in the style of the preferences, or filled."""
    style = read_outline_style()
    contour = 0 if filled else style.width
    if labels.contour != contour:  # napari redraws all of it even if it is the same
        labels.contour = contour
    labels.opacity = FILLED_OPACITY if filled else style.opacity


def update_style(labels: Labels) -> None:
    """Draw an outline as the preferences say now; the colors of several classes stay."""
    if labels.contour:
        show_as(labels, filled=False)
    if len(labels.metadata.get(CLASSES, ())) <= 2:
        labels.colormap = outline_colors()


def outline_colors() -> DirectLabelColormap:
    """Return the colors of the classes, that of the preferences first; further classes are white."""
    chosen = read_outline_style().color
    first = COLORS.get(chosen, chosen)  # black and white are names of their own
    others = [color for color in CLASS_COLORS if color != first]
    colors: dict[int | None, str] = dict(enumerate([first, *others], start=1))
    return DirectLabelColormap(color_dict={None: "white", 0: "transparent"} | colors)


def _full_size(image: Image) -> Any:
    """Return level 0 of a multiscale image, the data of any other."""
    return image.data[0] if image.multiscale else image.data


def placement(image: Image) -> dict[str, Any]:
    """Return where an image is in the world, as arguments of another layer."""
    return {
        name: getattr(image, name)
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
