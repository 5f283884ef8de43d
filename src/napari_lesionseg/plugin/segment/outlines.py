"""Which outline belongs to which image, and how it was made. No Qt in here.

Layers are held as objects, never by name: they can be renamed, duplicated and deleted at any time.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Layer
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError
from napari_lesionseg.inference.postprocess import resolve_threshold
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame, MergedEdit, write_masks
from napari_lesionseg.plugin.napari_layers.layers import fits, image_shape, new_outline, place_like, show_as
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.prediction import Prediction


CACHE_BUDGET = 1 << 30
"""Memory in bytes for the predictions of all images."""


class PredictionCache:
    """The predictions of the images used last; over the budget, those not used for longest are dropped."""

    def __init__(self, budget: int = CACHE_BUDGET) -> None:
        self.budget = budget
        self._predictions: OrderedDict[Hashable, Mapping[Frame, Prediction]] = OrderedDict()

    def put(self, image: Hashable, predictions: Mapping[Frame, Prediction]) -> None:
        """Keep the predictions for all frames of an image in place of its former ones."""
        self._predictions[image] = dict(predictions)
        self._predictions.move_to_end(image)
        while self._predictions and self.nbytes > self.budget:
            self._predictions.popitem(last=False)

    def get(self, image: Hashable) -> Mapping[Frame, Prediction]:
        """Return an image's predictions by frame; empty if they were dropped."""
        if image in self._predictions:
            self._predictions.move_to_end(image)
        return self._predictions.get(image, {})

    def remove(self, image: Hashable) -> None:
        """Remove an image."""
        self._predictions.pop(image, None)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(kept.nbytes for frames in self._predictions.values() for kept in frames.values())


@dataclass
class Outline:
    """The outline of one image.

    Parameters
    ----------
    labels : napari.layers.Labels
        Where it is drawn.
    model : str
        Name of the model that answered.
    model_threshold : float
        That model's own threshold.
    config : PostprocessConfig
        The settings it was drawn with last.
    drawn : dict of Frame to PostprocessConfig
        The settings each frame was drawn with.
    """

    labels: Labels
    model: str
    model_threshold: float
    config: PostprocessConfig
    drawn: dict[Frame, PostprocessConfig]
    merged_edit: MergedEdit | None = None

    @property
    def threshold(self) -> float:
        """The threshold in force."""
        return resolve_threshold(None, self.config, self.model_threshold)


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of an image: the network's predictions and the masks made of them, frame by frame."""

    predictions: Mapping[Frame, Prediction]
    masks: Mapping[Frame, LabelImage]
    model: str
    model_threshold: float
    config: PostprocessConfig


class Session:
    """The outlines of a viewer's images.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer; held weakly, so that it can be closed.

    Attributes
    ----------
    outlined : psygnal.Signal
        Emitted with the image when its outline was written by the network or redrawn.
    forgotten : psygnal.Signal
        Emitted with the image when it or its outline was removed from the viewer.
    """

    outlined = Signal(object)
    forgotten = Signal(object)

    def __init__(self, viewer: ViewerModel, store: PredictionCache | None = None) -> None:
        self._viewer = weakref.ref(viewer)
        self._outlines: dict[Image, Outline] = {}
        self._store = store or PredictionCache()
        self._filled = False
        viewer.layers.events.removed.connect(self._on_removed)

    def images(self) -> list[Image]:
        """List the images in the viewer, in its order."""
        return [layer for layer in self._layers() if isinstance(layer, Image)]

    def outline_of(self, image: Image) -> Outline | None:
        """Give an image's outline, if it has one."""
        return self._outlines.get(image)

    def prediction_of(self, image: Image, frame: Frame = ()) -> Prediction | None:
        """Give what the network said about a frame of an image, as long as it is kept."""
        return self._store.get(image).get(frame)

    def image_of(self, layer: Layer | None) -> Image | None:
        """Give the image that a layer is, or is the outline of."""
        if isinstance(layer, Image):
            return layer
        owners = (image for image, outline in self._outlines.items() if outline.labels is layer)
        return next(owners, None)

    def selected_images(self) -> list[Image]:
        """List the images that are selected, themselves or by their outlines, in the viewer's order."""
        viewer = self._viewer()
        chosen = {self.image_of(layer) for layer in viewer.layers.selection} if viewer else set()
        return [image for image in self.images() if image in chosen]

    @property
    def filled(self) -> bool:
        """Whether outlines are shown filled rather than as contours."""
        return self._filled

    @filled.setter
    def filled(self, filled: bool) -> None:
        self._filled = filled
        for outline in self._outlines.values():
            show_as(outline.labels, filled=filled)

    def has(self, image: Image) -> bool:
        """Tell whether an image is in the viewer."""
        return image in self._layers()

    def check(self, image: Image, shape: tuple[int, ...]) -> None:
        """Raise a ImageError if an image was closed or changed since it had a shape."""
        if not self.has(image):
            raise ImageError(f"“{image.name}” was closed before its outline was ready.")
        if image_shape(image) != shape:
            raise ImageError(f"“{image.name}” was changed before its outline was ready; segment it again.")

    def accept(self, image: Image, shape: tuple[int, ...], result: Result) -> Outline:
        """Draw a result into the image's outline as one undoable edit; a new outline is made at need.

        Parameters
        ----------
        image : napari.layers.Image
            The image.
        shape : tuple of int
            Its shape when the network was asked.
        result : Result
            One mask for every frame.

        Raises
        ------
        ImageError
            If the image was closed or changed in the meantime; nothing is written then.
        """
        self.check(image, shape)
        labels = self._usable_labels(image)
        new = labels is None
        if labels is None:
            labels = self._add_labels(image)
        write_masks(labels, result.masks)
        if new:
            self._show_new(image, labels)
        drawn = dict.fromkeys(result.masks, result.config)
        outline = Outline(labels, result.model, result.model_threshold, result.config, drawn)
        self._outlines[image] = outline
        self._store.put(image, result.predictions)
        self.outlined.emit(image)
        return outline

    def can_redraw(self, image: Image) -> bool:
        """Tell whether an image's outline can be drawn anew without the network."""
        outline = self._outlines.get(image)
        return outline is not None and fits(outline.labels, image) and bool(self._store.get(image))

    def redraw(self, image: Image, config: PostprocessConfig, frames: Iterable[Frame] | None = None) -> bool:
        """Draw an outline anew from the kept predictions; until `settle`, all redraws are one step of undo.

        Parameters
        ----------
        image : napari.layers.Image
            An image that `can_redraw`.
        config : PostprocessConfig
            The new settings.
        frames : iterable of Frame, optional
            The frames to draw; all when not given.

        Returns
        -------
        bool
            True when the outline changed.
        """
        outline = self._outlines.get(image)
        predictions = self._store.get(image)
        if outline is None or not self.can_redraw(image):
            return False
        outline.config = config
        chosen = predictions.keys() if frames is None else predictions.keys() & set(frames)
        masks = {
            frame: predictions[frame].to_mask(config, outline.threshold)
            for frame in chosen
            if outline.drawn.get(frame) != config
        }
        outline.drawn |= dict.fromkeys(masks, config)
        outline.merged_edit = outline.merged_edit or MergedEdit(outline.labels)
        changed = outline.merged_edit.write(masks)
        if changed:
            self.outlined.emit(image)
        return changed

    def settle(self, image: Image) -> None:
        """End a row of redraws: the next one is a step of undo of its own."""
        outline = self._outlines.get(image)
        if outline is not None and outline.merged_edit is not None:
            outline.merged_edit.commit()
            outline.merged_edit = None

    def close(self) -> None:
        """Forget everything and stop listening to the viewer."""
        viewer = self._viewer()
        if viewer is not None:
            viewer.layers.events.removed.disconnect(self._on_removed)
        for image in list(self._outlines):
            self._forget(image)

    def _layers(self) -> list[Layer]:
        viewer = self._viewer()
        return list(viewer.layers) if viewer is not None else []

    def _usable_labels(self, image: Image) -> Labels | None:
        """Give the image's outline layer, brought to where the image is, if it is still usable."""
        known = self._outlines.get(image)
        if known is None or known.labels not in self._layers() or not fits(known.labels, image):
            return None
        place_like(known.labels, image)
        return known.labels

    def _add_labels(self, image: Image) -> Labels:
        """Put a new outline right above the image."""
        labels = new_outline(image)
        layers = self._layers()
        viewer: Any = self._viewer()
        selected = set(viewer.layers.selection)
        viewer.layers.insert(layers.index(image) + 1, labels)
        viewer.layers.selection = selected  # napari had selected the new layer instead
        return labels

    def _show_new(self, image: Image, labels: Labels) -> None:
        """Show a new outline as the others are, and hide it if its image is hidden.

        This comes after the writing, as napari takes a second for the contour of 24 megapixels.
        """
        labels.visible = image.visible
        show_as(labels, filled=self._filled)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        for image, outline in list(self._outlines.items()):
            if layer is image or layer is outline.labels:
                self._forget(image)

    def _forget(self, image: Image) -> None:
        self._outlines.pop(image, None)
        self._store.remove(image)
        self.forgotten.emit(image)


_sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(viewer: ViewerModel) -> Session:
    """Give the one session of a viewer, made at first need: all widgets of a window share it."""
    if viewer not in _sessions:
        _sessions[viewer] = Session(viewer)
    return _sessions[viewer]
