"""The editors of the images in a viewer, and how predictions get into them. No Qt in here.

Layers are kept as objects, never by name: they can be renamed, duplicated and deleted at any time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Layer

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ImageError
from napari_lesionseg.plugin.editor.editor import MaskEditor, editor_of, open_editor
from napari_lesionseg.plugin.editor.requests import own_threshold
from napari_lesionseg.plugin.editor.stack_editor import StackEditor
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame
from napari_lesionseg.plugin.napari_layers.layers import image_shape, new_outline, place_like, show_as

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import Model


@dataclass(frozen=True, slots=True)
class Result:
    """The predictions of all frames of an image."""

    predictions: Mapping[Frame, Prediction]
    model: Model | None
    config: PostprocessConfig


class ImageEditors:
    """The images of a viewer, and the editors of their masks."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer: Callable[[], Any] = weakref.ref(viewer)
        self._filled = False

    def images(self) -> list[Image]:
        """Return the images in the viewer, in its order."""
        return [layer for layer in self._layers() if isinstance(layer, Image)]

    def selected_images(self) -> list[Image]:
        """Return the images that are selected, themselves or by their outlines, in the viewer's order."""
        viewer = self._viewer()
        chosen = {self.image_of(layer) for layer in viewer.layers.selection} if viewer else set()
        return [image for image in self.images() if image in chosen]

    def image_of(self, layer: Layer | None) -> Image | None:
        """Return the image that a layer is, or is the outline of."""
        editor = editor_of(layer) if isinstance(layer, Labels) else None
        return editor.image if editor is not None else layer if isinstance(layer, Image) else None

    def editor_for(self, image: Image) -> MaskEditor | StackEditor | None:
        """Return the editor of an image's mask."""
        editors = (editor_of(layer) for layer in self._layers() if isinstance(layer, Labels))
        return next((editor for editor in editors if editor is not None and editor.image is image), None)

    @property
    def filled(self) -> bool:
        """Whether outlines are shown filled rather than as contours."""
        return self._filled

    @filled.setter
    def filled(self, filled: bool) -> None:
        self._filled = filled
        for layer in self._layers():
            if isinstance(layer, Labels) and editor_of(layer) is not None:
                show_as(layer, filled=filled)

    def check(self, image: Image, shape: tuple[int, ...]) -> None:
        """Raise an ImageError if an image was closed or changed since it had a shape."""
        if image not in self._layers():
            raise ImageError(f"“{image.name}” was closed before its outline was ready.")
        if image_shape(image) != shape:
            raise ImageError(f"“{image.name}” was changed before its outline was ready; segment it again.")

    def accept(self, image: Image, shape: tuple[int, ...], result: Result) -> MaskEditor | StackEditor:
        """Draw a result as one undoable step, in a new Labels layer if there is none that fits.

        Raises an ImageError, and draws nothing, if the image no longer has the shape.
        """
        self.check(image, shape)
        editor = self._usable_editor(image)
        if editor is not None:
            _draw(editor, result)
            return editor
        labels = self._add_labels(image)
        editor = open_editor(self._viewer(), image, labels, result.config)
        _draw(editor, result)
        labels.visible = image.visible
        show_as(labels, filled=self._filled)
        return editor

    def redraw(self, image: Image, config: PostprocessConfig, frames: Iterable[Frame] | None = None) -> bool:
        """Redraw frames of an image's mask, or all, from its predictions; return whether there were any.

        Until `settle`, all redraws are one step of undo.
        """
        editor = self.editor_for(image)
        if editor is None or not editor.document.layer.usable or editor.document.snapshot.prediction is None:
            return False
        if isinstance(editor, StackEditor):
            editor.set_config(config, frames)
        else:
            editor.set_config(config)
        return True

    def settle(self, image: Image) -> None:
        """End a series of redraws: the next one is a new step."""
        editor = self.editor_for(image)
        if editor is not None:
            editor.document.history.end_merging()

    def _layers(self) -> list[Layer]:
        viewer = self._viewer()
        return list(viewer.layers) if viewer is not None else []

    def _usable_editor(self, image: Image) -> MaskEditor | StackEditor | None:
        """Return the image's editor, its layer moved to the image, or None if the layer does not fit."""
        editor = self.editor_for(image)
        if editor is None:
            return None
        if not editor.document.layer.usable:
            editor.close()
            return None
        place_like(editor.labels, image)
        return editor

    def _add_labels(self, image: Image) -> Labels:
        """Insert an empty Labels layer right above the image."""
        labels, layers = new_outline(image), self._viewer().layers
        selected = set(layers.selection)
        layers.insert(layers.index(image) + 1, labels)
        layers.selection = selected  # napari had selected the new layer instead
        return labels


def _draw(editor: MaskEditor | StackEditor, result: Result) -> None:
    if isinstance(editor, StackEditor):
        editor.set_predictions(result.predictions, result.config, own_threshold(result.model))
    else:
        editor.requests.set_model(result.model)
        editor.set_prediction(result.predictions[()], config=result.config)
