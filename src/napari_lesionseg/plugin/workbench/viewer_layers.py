"""The layers in which a study's images are shown, one image at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from napari.layers import Image, Labels, Layer, Points, Vectors
from napari.utils.notifications import show_info
from psygnal import Signal
from qtpy.QtCore import QTimer

from napari_lesionseg.config import PostprocessConfig, Skeleton
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.editor.editor import MaskEditor
from napari_lesionseg.plugin.editor.layout_guard import LayoutGuard
from napari_lesionseg.plugin.editor.undo_history import KeptHistories
from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor, new_landmark_layers
from napari_lesionseg.plugin.napari_layers.layers import new_outline, place_like, protect, show_as
from napari_lesionseg.plugin.workbench.autosave import SaveQueue
from napari_lesionseg.plugin.workbench.image_review import ImageReview
from napari_lesionseg.plugin.workbench.landmark_review import LandmarkReview
from napari_lesionseg.plugin.workbench.predictions import AHEAD, AnyModel, Prefetcher, Prepared
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.landmarks import LandmarkModel
    from napari_lesionseg.inference.predictor import Model


AnyReview: TypeAlias = ImageReview | LandmarkReview
"""The review of an outline, or of landmarks, as the study needs it."""

_SAME_ZOOM = 0.01
"""Relative difference of zooms that nobody chose."""


class ImageDisplay:
    """Loads the images of a study and shows one of them; the next ones are loaded ahead."""

    opened = Signal(object)
    failed = Signal(str)

    def __init__(
        self,
        viewer: ViewerModel,
        study: Study,
        save_queue: SaveQueue,
        ahead_of: Callable[[str, int], list[str]],
        config: PostprocessConfig,
    ) -> None:
        self.review: AnyReview | None = None
        self.model: AnyModel | None = None
        self.config = config
        self._study, self._save_queue, self._ahead_of = study, save_queue, ahead_of
        self._awaited: str | None = None
        self._first_view: Mapping[str, Any] | None = None
        self._views: dict[str, Mapping[str, Any]] = {}  # of images that the annotator zoomed
        self._layers = ViewerLayers(viewer)
        self._reviews = Reviews(study, save_queue, self._layers)
        self._layers.losing.connect(self._on_losing)
        self._prefetcher = Prefetcher(study)
        self._prefetcher.ready.connect(self._on_ready)
        self._prefetcher.failed.connect(self._on_unreadable)

    @property
    def is_busy(self) -> bool:
        """Whether an image is being loaded."""
        return self._prefetcher.is_busy

    def expected(self) -> str | None:
        """Return the image that is on the screen, or will be."""
        return self._awaited if self.review is None else self.review.image_id

    def open(self, image_id: str, view: Mapping[str, Any] | None = None) -> None:
        """Show an image as soon as it is loaded, zoomed as a `view` says, or else as it was left."""
        prepared = self._prefetcher.take(self._study.state.images[image_id])
        self._close_review()
        self._awaited, self._first_view = image_id, view or self._views.get(image_id)
        if prepared is not None:
            self._show(prepared)
        else:
            self._layers.hide()
        self.prefetch()

    def prefetch(self) -> None:
        """Load the images that come next."""
        current = self.expected()
        if current is not None:
            awaited = [] if self._awaited is None else [self._awaited]
            self._prefetcher.prefetch([*awaited, *self._ahead_of(current, AHEAD)])

    def set_model(self, model: AnyModel | None) -> None:
        """Use another model for this and all later images.

        Whether later images keep all parts follows from the model, unless the user has chosen since the last.
        """
        if self._study.info.landmarks is None and model is not None:
            before = self.model is None or self.model.card.largest_only
            if model.card.largest_only != before:
                self.config = self.config.model_copy(update={"largest_only": model.card.largest_only})
        self.model = model
        self._reviews.histories.clear()
        self._prefetcher.set_model(model)
        if self.review is not None:
            self.review.set_model(model)

    def set_config(self, config: PostprocessConfig) -> None:
        """Draw this outline with other settings, and all later ones too, except for the threshold."""
        threshold = config.threshold if self.review is None else self.config.threshold
        self.config = config.model_copy(update={"threshold": threshold})
        if isinstance(self.review, ImageReview):
            self.review.editor.set_config(config)

    def save(self) -> None:
        """Put the outline, and where the annotator is, into the save queue."""
        if self.review is not None:
            self.review.save()
            view = self._layers.view
            if view is not None:
                self._save_queue.save_place(self.review.image_id, view)

    def close(self) -> None:
        """Remove the layers and release the viewer; nothing is saved."""
        self._save_queue.dirty = False
        self._prefetcher.close()
        self._close_review(with_guard=True)
        self._layers.close()

    def _close_review(self, *, with_guard: bool = False) -> None:
        self._awaited = None
        if self.review is not None:
            review, self.review = self.review, None
            self._views.pop(review.image_id, None)
            view = self._layers.view
            if view is not None and abs(view["zoom"] - 1) > _SAME_ZOOM:
                self._views[review.image_id] = view
            self._reviews.close(review)
            self.opened.emit(None)
        if with_guard:
            self._reviews.close_guard()

    def _show(self, prepared: Prepared) -> None:
        viewer = self._layers.viewer
        if viewer is None:
            return
        self._awaited = None
        self.review = self._reviews.open(viewer, prepared, self.model, self.config)
        if isinstance(self.review, ImageReview):
            self.review.editor.changed.connect(self._on_edited)
        self._layers.zoom_to(self._first_view)
        self.save()
        self.opened.emit(self.review)

    def _on_ready(self, prepared: Prepared) -> None:
        if prepared.image_id == self._awaited:
            taken = self._prefetcher.take(self._study.state.images[prepared.image_id])
            if taken is not None:
                self._show(taken)

    def _on_unreadable(self, image_id: str, error: Exception) -> None:
        if image_id == self._awaited:
            self._awaited = None
            self.failed.emit(str(error) if isinstance(error, LesionSegError) else repr(error))
            self.opened.emit(None)

    def _on_edited(self, what: str) -> None:
        if what in {"undo", "redo"} and isinstance(self.review, ImageReview):
            config = self.review.editor.requests.config
            self.config = config.model_copy(update={"threshold": self.config.threshold})

    def _on_losing(self) -> None:
        """Save and close the image when the user deletes one of its layers."""
        self.save()
        self._close_review(with_guard=True)


class Reviews:
    """Opens images for correction in a study's layers, and keeps the undo history of each."""

    def __init__(self, study: Study, save_queue: SaveQueue, layers: ViewerLayers) -> None:
        self.histories = KeptHistories()
        self._study, self._save_queue, self._layers = study, save_queue, layers
        self._guard: LayoutGuard | None = None

    def open(
        self, viewer: ViewerModel, prepared: Prepared, model: AnyModel | None, config: PostprocessConfig
    ) -> AnyReview:
        """Show an image with its outline or landmarks, ready for correction."""
        skeleton = self._study.info.landmarks
        if skeleton is None:
            return self._open_outline(viewer, prepared, cast("Model | None", model), config)
        return self._open_landmarks(viewer, prepared, cast("LandmarkModel | None", model), skeleton)

    def close(self, review: AnyReview) -> None:
        """Close an image and keep its history."""
        review.history.end_merging()  # a move of the slider after the return is a step of its own
        self.histories.keep(review.image_id, review.history)
        review.close()

    def close_guard(self) -> None:
        """Allow other layouts of the viewer again."""
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _open_outline(
        self, viewer: ViewerModel, prepared: Prepared, model: Model | None, config: PostprocessConfig
    ) -> ImageReview:
        name = self._study.state.images[prepared.image_id].name
        image, labels = self._layers.show(viewer, prepared.image, name)
        if self._guard is None:
            self._guard = LayoutGuard(
                viewer, image, labels, lambda: len(self._study.info.classes), in_study=True
            )
        editor = MaskEditor(viewer, image, labels, config=config, model=model)
        review = ImageReview(self._study, self._save_queue, editor, prepared.image_id)
        review.show(prepared, self.histories.take(prepared.image_id))
        return review

    def _open_landmarks(
        self, viewer: ViewerModel, prepared: Prepared, model: LandmarkModel | None, skeleton: Skeleton
    ) -> LandmarkReview:
        name = self._study.state.images[prepared.image_id].name
        image, bones, points = self._layers.show_landmarks(viewer, prepared.image, name)
        editor = LandmarkEditor(viewer, image, bones, points, skeleton)
        review = LandmarkReview(self._study, self._save_queue, editor, prepared.image_id)
        review.show(prepared, model, self.histories.take(prepared.image_id))
        return review


class ViewerLayers:
    """An image and its outline or landmarks in a viewer; the same layers serve all images."""

    losing = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self._layers: tuple[Layer, ...] | None = None
        self._fitted = 0.0  # zoom at which the whole image is in view
        self._resized: tuple[tuple[float, ...], float] | None = None  # center and magnification before
        viewer.layers.events.removed.connect(self._on_layer_removed)
        viewer.canvas.events.size.connect(self._on_resized)
        self._end_protection = protect(viewer, lambda: self._layers or (), _refuse_to_delete)

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, as long as it is open."""
        return self._viewer()

    @property
    def view(self) -> dict[str, Any] | None:
        """Center and zoom of the viewer; the zoom is relative to the one that shows the whole image."""
        viewer = self._viewer()
        if viewer is None:
            return None
        view = describe_view(viewer)
        return view | {"zoom": view["zoom"] / self._fitted} if self._fitted else view

    def show(self, viewer: ViewerModel, image: ByteImage, name: str) -> tuple[Image, Labels]:
        """Show an image with an empty outline, which becomes the active layer.

        The layers are kept, since napari takes about half a second to remove two and add two.
        """
        if self._layers is None:
            layer = Image(image, rgb=True, name=name)
            labels = new_outline(layer)
            viewer.layers.extend([layer, labels])
        else:
            layer, labels = cast("tuple[Image, Labels]", self._layers)
            _set_visible(self._layers, visible=True)  # napari computes no extent of a hidden layer's new data
            layer.data, labels.data = image, np.zeros(image.shape[:2], np.uint8)
        layer.name, labels.name = name, f"{name} outline"
        _set_visible((layer, labels), visible=True)
        labels.selected_label = 1  # else the network's outline would be of the class painted last
        place_like(labels, layer)
        show_as(labels, filled=False)
        viewer.layers.selection.active = labels
        viewer.update_status_from_cursor()  # else the status bar names the image before until the mouse moves
        self._layers = layer, labels
        return layer, labels

    def show_landmarks(
        self, viewer: ViewerModel, image: ByteImage, name: str
    ) -> tuple[Image, Vectors, Points]:
        """Show an image without landmarks, whose layer becomes the active one, ready for the next click."""
        if self._layers is None:
            layer = Image(image, rgb=True, name=name)
            bones, points = new_landmark_layers(layer)
            viewer.layers.extend([layer, bones, points])
        else:
            layer, bones, points = cast("tuple[Image, Vectors, Points]", self._layers)
            _set_visible(self._layers, visible=True)
            layer.data = image
            points.selected_data = set()  # napari would look for the points of before
            points.data, bones.data = np.empty((0, 2)), np.empty((0, 2, 2))
        layer.name, bones.name, points.name = name, f"{name} skeleton", f"{name} landmarks"
        _set_visible((layer, bones, points), visible=True)
        viewer.layers.selection.active = points
        points.mode = "add"
        viewer.update_status_from_cursor()
        self._layers = layer, bones, points
        return layer, bones, points

    def zoom_to(self, view: Mapping[str, Any] | None) -> None:
        """Show the whole image, or what a `view` says."""
        viewer = self._viewer()
        if viewer is not None:
            viewer.reset_view()
            self._fitted = viewer.scene.camera.zoom
            if view is not None and isinstance(view.get("zoom"), int | float):
                apply_view(viewer, {**view, "zoom": view["zoom"] * self._fitted})

    def hide(self) -> None:
        """Show nothing until the next image is ready."""
        _set_visible(self._layers or (), visible=False)

    def close(self) -> None:
        """Remove the layers and release the viewer."""
        layers, self._layers = self._layers, None
        viewer = self._viewer()
        if viewer is not None:
            viewer.layers.events.removed.disconnect(self._on_layer_removed)
            viewer.canvas.events.size.disconnect(self._on_resized)
            self._end_protection()
        _remove(self._viewer, layers or ())

    def _on_resized(self) -> None:
        """Keep as much of the image in view as before, when the window or a dock changes its size."""
        viewer = self._viewer()
        if viewer is not None and self._layers is not None and self._fitted and self._resized is None:
            camera = viewer.scene.camera
            self._resized = (camera.center, camera.zoom / self._fitted)
            QTimer.singleShot(0, self._refit)  # napari has yet to pass the size on to its camera

    def _refit(self) -> None:
        viewer, resized, self._resized = self._viewer(), self._resized, None
        if viewer is None or resized is None or self._layers is None:
            return
        center, magnified = resized
        camera = viewer.scene.camera
        viewer.reset_view()
        self._fitted = camera.zoom
        if abs(magnified - 1) > _SAME_ZOOM:
            camera.center, camera.zoom = center, magnified * self._fitted

    def _on_layer_removed(self, event: Any) -> None:
        if self._layers is None or event.value not in self._layers:
            return
        self.losing.emit()
        left = [layer for layer in self._layers if layer is not event.value]
        self._layers = None
        QTimer.singleShot(0, partial(_remove, self._viewer, left))  # napari may still be removing others


def _set_visible(layers: Iterable[Layer], *, visible: bool) -> None:
    """Show or hide layers; napari redraws all of them even where nothing changes."""
    for layer in layers:
        if layer.visible != visible:
            layer.visible = visible


def describe_view(viewer: ViewerModel) -> dict[str, Any]:
    """Return center and zoom of the viewer as plain values."""
    camera = viewer.scene.camera
    return {"center": [float(value) for value in camera.center], "zoom": float(camera.zoom)}


def apply_view(viewer: ViewerModel, view: Mapping[str, Any]) -> None:
    """Set center and zoom; anything else than what `describe_view` returns is ignored."""
    center, zoom, camera = view.get("center"), view.get("zoom"), viewer.scene.camera
    if not isinstance(center, list) or len(center) != len(camera.center):
        return
    if isinstance(zoom, int | float) and zoom > 0 and all(isinstance(value, int | float) for value in center):
        camera.center, camera.zoom = tuple(center), zoom


def _refuse_to_delete() -> None:
    show_info("The layers of a study cannot be deleted. Close the study to remove them.")


def _remove(viewer: Callable[[], ViewerModel | None], layers: Iterable[Layer]) -> None:
    """Remove layers from a viewer, if both still exist."""
    model = viewer()
    for layer in layers:
        if model is not None and layer in model.layers:
            model.layers.remove(layer)
