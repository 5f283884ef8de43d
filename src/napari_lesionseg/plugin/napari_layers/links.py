"""What belongs to a Labels layer: its image, its outline, the network's prediction, and its features.

Layers are held weakly and as objects, never by name.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks.instances import InstanceMap
from napari_lesionseg.masks.measurements import Measurement
from napari_lesionseg.plugin.editor.editor import editor_of
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import image_shape
from napari_lesionseg.types import Probability

if TYPE_CHECKING:
    from napari.components import ViewerModel

CLASSES = "classes"
"""Name in a layer's metadata under which the names of its classes stand, the background first."""

_ONE_CLASS = ("background", "lesion")
_MEASURED = frozenset(Measurement.__dataclass_fields__) - {"index", "area"}

_outlines: weakref.WeakKeyDictionary[Labels, weakref.ref[Labels]] = weakref.WeakKeyDictionary()
_used: weakref.WeakKeyDictionary[Labels, int] = weakref.WeakKeyDictionary()


def link(lesions: Labels, outline: Labels) -> None:
    """Note that lesions were numbered from an outline."""
    _outlines[lesions] = weakref.ref(outline)


def outline_of(lesions: Labels, viewer: ViewerModel) -> Labels | None:
    """Give the outline, a layer of classes, that lesions were numbered from, if it still fits them."""
    found = _outlines[lesions]() if lesions in _outlines else None
    usable = found is not None and found in viewer.layers and found.data.shape == lesions.data.shape
    return found if usable else None


def image_of(labels: Labels, viewer: ViewerModel) -> Image | None:
    """Give the image that a layer lies on: that of its outline, or the next one below of its size."""
    base = outline_of(labels, viewer) or labels
    editor = editor_of(base)
    image = editor.image if editor is not None else None
    if image is not None and image in viewer.layers:
        return image
    layers = list(viewer.layers)
    order = [*reversed(layers[: layers.index(labels)]), *layers] if labels in layers else layers
    fitting = (layer for layer in order if isinstance(layer, Image) and _covers(layer, labels))
    return next(fitting, None)


def probability_of(labels: Labels, viewer: ViewerModel, frame: Frame) -> Probability | None:
    """Give what the network said about a layer's image, if that is known: (H, W) or (C, H, W)."""
    base = outline_of(labels, viewer) or labels
    editor = editor_of(base)
    prediction = editor.document.snapshot.prediction_of(frame) if editor is not None else None
    return None if prediction is None else prediction.probability()


def is_outline(labels: Labels, viewer: ViewerModel) -> bool:
    """Tell whether a layer holds classes, as all outlines drawn here do, rather than single lesions."""
    return editor_of(labels) is not None or CLASSES in labels.metadata


def class_names(labels: Labels, viewer: ViewerModel) -> tuple[str, ...]:
    """Name the classes of a layer, or of the outline behind it, the background first."""
    base = outline_of(labels, viewer) or labels
    names = base.metadata.get(CLASSES, _ONE_CLASS)
    return tuple(str(name) for name in names)


def shown_frame_of(labels: Labels, viewer: ViewerModel) -> Frame:
    """Tell which frame of a stack the viewer shows; () for a single image."""
    lead = full_size(labels).shape[:-2]
    position = labels.world_to_data(viewer.dims.point)[: len(lead)]
    return tuple(int(np.clip(round(at), 0, size - 1)) for at, size in zip(position, lead, strict=True))


def read_numbers(labels: Labels, frame: Frame) -> InstanceMap:
    """Copy one frame of a layer; of a multiscale layer, the largest level. To be called on the main thread.

    Raises
    ------
    MaskError
        If the data cannot be read.
    """
    try:
        values = np.array(full_size(labels)[frame])
    except (OSError, ValueError, IndexError) as error:
        raise MaskError(f"“{labels.name}” cannot be read: {error}") from error
    return values.astype(np.uint8) if values.dtype.kind == "b" else np.maximum(values, 0)


def next_number(labels: Labels, ids: InstanceMap) -> int:
    """Give a number that no lesion of the layer ever had."""
    _used[labels] = max(_used.get(labels, 1), int(ids.max(initial=0)) + 1)
    return _used[labels]


def put_features(labels: Labels, columns: Mapping[str, NDArray[Any]], owned: Collection[str] = ()) -> None:
    """Write columns into a layer's features; other columns stay with the numbers they belong to.

    Parameters
    ----------
    labels : napari.layers.Labels
        The layer.
    columns : mapping of str to ndarray
        Columns of one length, one of them ``index``; empty where there are no lesions.
    owned : collection of str
        Further columns to take out first, those of an earlier writing.
    """
    old = labels.features.copy()
    if "index" not in old:
        old.insert(0, "index", range(len(old)))
    table: Any = type(old)
    new = table({"index": np.zeros(0, int)} if not columns else dict(columns))
    shared = [name for name in old.columns if name != "index" and (name in new or name in owned)]
    others = old.drop(columns=shared).drop_duplicates("index")
    labels.features = new.merge(others, on="index", how="left") if len(others.columns) > 1 else new


def is_measured(column: str) -> bool:
    """Tell whether a column of the features holds a measurement, as `measurement_columns` names them."""
    name = column.removesuffix("_px").removesuffix("_mm").removesuffix("_px2").removesuffix("_mm2")
    return name in _MEASURED or (name == "area" and column != "area")


def full_size(labels: Labels) -> Any:
    """Give the largest level of a multiscale layer, the data of any other."""
    return labels.data[0] if labels.multiscale else labels.data


def _covers(image: Image, labels: Labels) -> bool:
    return image_shape(image)[-2:] == tuple(full_size(labels).shape)[-2:]
