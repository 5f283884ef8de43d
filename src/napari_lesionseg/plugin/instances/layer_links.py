"""What belongs to a Labels layer: its image, its outline, the prediction, and its features.

Links are kept in the layer's metadata, weakly and by object: names change, and layers are removed.
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
from napari_lesionseg.plugin.napari_layers.layers import CLASSES, image_shape
from napari_lesionseg.types import Probability

if TYPE_CHECKING:
    from napari.components import ViewerModel

_ONE_CLASS = ("background", "lesion")
_MEASURED = frozenset(Measurement.__dataclass_fields__) - {"index", "area"}

_OUTLINE, _NEXT_NUMBER = "lesionseg_outline", "lesionseg_next_number"


def link(lesions: Labels, outline: Labels) -> None:
    """Record that lesions were numbered from an outline."""
    lesions.metadata[_OUTLINE] = weakref.ref(outline)


def outline_of(lesions: Labels, viewer: ViewerModel) -> Labels | None:
    """Return the outline, a layer of classes, that lesions were numbered from, if it still fits them."""
    found = lesions.metadata[_OUTLINE]() if _OUTLINE in lesions.metadata else None
    usable = found is not None and found in viewer.layers and found.data.shape == lesions.data.shape
    return found if usable else None


def image_of(labels: Labels, viewer: ViewerModel) -> Image | None:
    """Return the image of a layer: that of its outline, or the next one below with its size."""
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
    """Return the prediction for the image of a layer, if there is one: (H, W) or (C, H, W)."""
    base = outline_of(labels, viewer) or labels
    editor = editor_of(base)
    prediction = editor.document.snapshot.prediction_of(frame) if editor is not None else None
    return None if prediction is None else prediction.probability()


def is_outline(labels: Labels, viewer: ViewerModel) -> bool:
    """Whether a layer holds classes, as all outlines drawn here do, rather than single lesions."""
    return editor_of(labels) is not None or CLASSES in labels.metadata


def class_names(labels: Labels, viewer: ViewerModel) -> tuple[str, ...]:
    """Return the class names of a layer, or of its outline, the background first."""
    base = outline_of(labels, viewer) or labels
    names = base.metadata.get(CLASSES, _ONE_CLASS)
    return tuple(str(name) for name in names)


def shown_frame_of(labels: Labels, viewer: ViewerModel) -> Frame:
    """Return the frame of a stack that the viewer shows; () for a single image."""
    lead = full_size(labels).shape[:-2]
    position = labels.world_to_data(viewer.dims.point)[: len(lead)]
    return tuple(int(np.clip(round(at), 0, size - 1)) for at, size in zip(position, lead, strict=True))


def read_numbers(labels: Labels, frame: Frame) -> InstanceMap:
    """Copy one frame of a layer, at full size; a MaskError if it cannot be read. Call on the main thread."""
    try:
        values = np.array(full_size(labels)[frame])
    except (OSError, ValueError, IndexError) as error:
        raise MaskError(f"“{labels.name}” cannot be read: {error}.") from error
    return values.astype(np.uint8) if values.dtype.kind == "b" else np.maximum(values, 0)


def next_number(labels: Labels, ids: InstanceMap) -> int:
    """Return a number that no lesion of the layer ever had."""
    number: int = max(labels.metadata.get(_NEXT_NUMBER, 1), int(ids.max(initial=0)) + 1)
    labels.metadata[_NEXT_NUMBER] = number
    return number


def put_features(labels: Labels, columns: Mapping[str, NDArray[Any]], owned: Collection[str] = ()) -> None:
    """Set columns of a layer's features, one of them ``index``; other columns stay with their numbers.

    `owned` columns are removed first where `columns` has none of them, as when there are no lesions left.
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
    """Whether a column of the features holds a measurement, named by `measurement_columns`."""
    name = column.removesuffix("_px").removesuffix("_mm").removesuffix("_px2").removesuffix("_mm2")
    return name in _MEASURED or (name == "area" and column != "area")


def full_size(labels: Labels) -> Any:
    """Return the largest level of a multiscale layer, the data of any other."""
    return labels.data[0] if labels.multiscale else labels.data


def _covers(image: Image, labels: Labels) -> bool:
    return image_shape(image)[-2:] == tuple(full_size(labels).shape)[-2:]
