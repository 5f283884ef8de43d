"""Which outline belongs to which picture, and how it was made. No Qt in here.

Layers are held as objects, never by name: they can be renamed, duplicated and deleted at any time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Layer
from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.errors import PictureError
from napari_lesionseg.plugin.editor.prediction_cache import Answer, AnswerStore
from napari_lesionseg.plugin.napari_layers.labels_writing import Frame, Gesture, write_masks
from napari_lesionseg.plugin.napari_layers.layers import fits, new_outline, picture_shape, place_like, show_as
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from napari.components import ViewerModel


@dataclass
class Outline:
    """The outline of one picture.

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
    gesture: Gesture | None = None

    @property
    def threshold(self) -> float:
        """The threshold in force."""
        return resolve_threshold(None, self.config, self.model_threshold)


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a picture: the network's answers and the masks made of them, frame by frame."""

    answers: Mapping[Frame, Answer]
    masks: Mapping[Frame, LabelImage]
    model: str
    model_threshold: float
    config: PostprocessConfig


class Session:
    """The outlines of a viewer's pictures.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer; held weakly, so that it can be closed.

    Attributes
    ----------
    outlined : psygnal.Signal
        Emitted with the picture when its outline was written by the network or redrawn.
    forgotten : psygnal.Signal
        Emitted with the picture when it or its outline was removed from the viewer.
    """

    outlined = Signal(object)
    forgotten = Signal(object)

    def __init__(self, viewer: ViewerModel, store: AnswerStore | None = None) -> None:
        self._viewer = weakref.ref(viewer)
        self._outlines: dict[Image, Outline] = {}
        self._store = store or AnswerStore()
        self._filled = False
        viewer.layers.events.removed.connect(self._on_removed)

    def pictures(self) -> list[Image]:
        """List the pictures in the viewer, in its order."""
        return [layer for layer in self._layers() if isinstance(layer, Image)]

    def outline_of(self, picture: Image) -> Outline | None:
        """Give a picture's outline, if it has one."""
        return self._outlines.get(picture)

    def answer_of(self, picture: Image, frame: Frame = ()) -> Answer | None:
        """Give what the network said about a frame of a picture, as long as it is kept."""
        return self._store.get(picture).get(frame)

    def picture_of(self, layer: Layer | None) -> Image | None:
        """Give the picture that a layer is, or is the outline of."""
        if isinstance(layer, Image):
            return layer
        owners = (picture for picture, outline in self._outlines.items() if outline.labels is layer)
        return next(owners, None)

    def selected_pictures(self) -> list[Image]:
        """List the pictures that are selected, themselves or by their outlines, in the viewer's order."""
        viewer = self._viewer()
        chosen = {self.picture_of(layer) for layer in viewer.layers.selection} if viewer else set()
        return [picture for picture in self.pictures() if picture in chosen]

    @property
    def filled(self) -> bool:
        """Whether outlines are shown filled rather than as contours."""
        return self._filled

    @filled.setter
    def filled(self, filled: bool) -> None:
        self._filled = filled
        for outline in self._outlines.values():
            show_as(outline.labels, filled=filled)

    def has(self, picture: Image) -> bool:
        """Tell whether a picture is in the viewer."""
        return picture in self._layers()

    def check(self, picture: Image, shape: tuple[int, ...]) -> None:
        """Raise a PictureError if a picture was closed or changed since it had a shape."""
        if not self.has(picture):
            raise PictureError(f"“{picture.name}” was closed before its outline was ready.")
        if picture_shape(picture) != shape:
            raise PictureError(
                f"“{picture.name}” was changed before its outline was ready; segment it again."
            )

    def accept(self, picture: Image, shape: tuple[int, ...], result: Result) -> Outline:
        """Draw a result into the picture's outline as one undoable edit; a new outline is made at need.

        Parameters
        ----------
        picture : napari.layers.Image
            The picture.
        shape : tuple of int
            Its shape when the network was asked.
        result : Result
            One mask for every frame.

        Raises
        ------
        PictureError
            If the picture was closed or changed in the meantime; nothing is written then.
        """
        self.check(picture, shape)
        labels = self._usable_labels(picture)
        new = labels is None
        if labels is None:
            labels = self._add_labels(picture)
        write_masks(labels, result.masks)
        if new:
            self._show_new(picture, labels)
        drawn = dict.fromkeys(result.masks, result.config)
        outline = Outline(labels, result.model, result.model_threshold, result.config, drawn)
        self._outlines[picture] = outline
        self._store.put(picture, result.answers)
        self.outlined.emit(picture)
        return outline

    def can_redraw(self, picture: Image) -> bool:
        """Tell whether a picture's outline can be drawn anew without the network."""
        outline = self._outlines.get(picture)
        return outline is not None and fits(outline.labels, picture) and bool(self._store.get(picture))

    def redraw(
        self, picture: Image, config: PostprocessConfig, frames: Iterable[Frame] | None = None
    ) -> bool:
        """Draw an outline anew from the kept answers; until `settle`, all redraws are one step of undo.

        Parameters
        ----------
        picture : napari.layers.Image
            A picture that `can_redraw`.
        config : PostprocessConfig
            The new settings.
        frames : iterable of Frame, optional
            The frames to draw; all when not given.

        Returns
        -------
        bool
            True when the outline changed.
        """
        outline = self._outlines.get(picture)
        answers = self._store.get(picture)
        if outline is None or not self.can_redraw(picture):
            return False
        outline.config = config
        chosen = answers.keys() if frames is None else answers.keys() & set(frames)
        masks = {
            frame: postprocess(answers[frame].probability(), config, outline.threshold)
            for frame in chosen
            if outline.drawn.get(frame) != config
        }
        outline.drawn |= dict.fromkeys(masks, config)
        outline.gesture = outline.gesture or Gesture(outline.labels)
        changed = outline.gesture.write(masks)
        if changed:
            self.outlined.emit(picture)
        return changed

    def settle(self, picture: Image) -> None:
        """End a row of redraws: the next one is a step of undo of its own."""
        outline = self._outlines.get(picture)
        if outline is not None and outline.gesture is not None:
            outline.gesture.finish()
            outline.gesture = None

    def close(self) -> None:
        """Forget everything and stop listening to the viewer."""
        viewer = self._viewer()
        if viewer is not None:
            viewer.layers.events.removed.disconnect(self._on_removed)
        for picture in list(self._outlines):
            self._forget(picture)

    def _layers(self) -> list[Layer]:
        viewer = self._viewer()
        return list(viewer.layers) if viewer is not None else []

    def _usable_labels(self, picture: Image) -> Labels | None:
        """Give the picture's outline layer, brought to where the picture is, if it is still usable."""
        known = self._outlines.get(picture)
        if known is None or known.labels not in self._layers() or not fits(known.labels, picture):
            return None
        place_like(known.labels, picture)
        return known.labels

    def _add_labels(self, picture: Image) -> Labels:
        """Put a new outline right above the picture."""
        labels = new_outline(picture)
        layers = self._layers()
        viewer: Any = self._viewer()
        selected = set(viewer.layers.selection)
        viewer.layers.insert(layers.index(picture) + 1, labels)
        viewer.layers.selection = selected  # napari had selected the new layer instead
        return labels

    def _show_new(self, picture: Image, labels: Labels) -> None:
        """Show a new outline as the others are, and hide it if its picture is hidden.

        This comes after the writing, as napari takes a second for the contour of 24 megapixels.
        """
        labels.visible = picture.visible
        show_as(labels, filled=self._filled)

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        for picture, outline in list(self._outlines.items()):
            if layer is picture or layer is outline.labels:
                self._forget(picture)

    def _forget(self, picture: Image) -> None:
        self._outlines.pop(picture, None)
        self._store.drop(picture)
        self.forgotten.emit(picture)


_sessions: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(viewer: ViewerModel) -> Session:
    """Give the one session of a viewer, made at first need: all widgets of a window share it."""
    if viewer not in _sessions:
        _sessions[viewer] = Session(viewer)
    return _sessions[viewer]
