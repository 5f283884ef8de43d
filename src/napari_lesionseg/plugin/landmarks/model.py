"""The landmarks of all open images, and their files. No widgets in here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from napari_lesionseg.datasets.landmarks import write_landmarks
from napari_lesionseg.datasets.landmarks.records import (
    LandmarkDataset,
    LandmarkImage,
    check_places,
    marks_of,
    match_images,
    people_of,
)
from napari_lesionseg.datasets.landmarks.skeletons import parse_skeleton
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import LandmarkError
from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor, new_landmark_layers
from napari_lesionseg.plugin.landmarks.task import MarkedImage
from napari_lesionseg.plugin.napari_layers.layers import image_shape, read_frame

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.types import Mark


class LandmarkSet:
    """The landmarks of the images in a viewer; all of them have the same names."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._editors: list[LandmarkEditor] = []
        self.skeleton = parse_skeleton("eyes")

    @property
    def editors(self) -> list[LandmarkEditor]:
        """The landmarks whose layers are still open."""
        listed = set(self._viewer.layers)
        self._editors = [one for one in self._editors if one.points in listed and one.image in listed]
        return self._editors

    @property
    def shown(self) -> LandmarkEditor | None:
        """The landmarks of the active layer."""
        active = self._viewer.layers.selection.active
        return next((one for one in self.editors if active in (one.points, one.image, one.bones)), None)

    @property
    def marked(self) -> list[MarkedImage]:
        """Copies of the images that have landmarks."""
        return [
            MarkedImage(SplitItem(f"{n}/{_file_name(one.image)}"), read_frame(one.image, ()).copy, one.people)
            for n, one in enumerate(self.editors)
            if one.people
        ]

    @property
    def unmarked(self) -> list[Image]:
        """The images without landmarks."""
        marked = [one.image for one in self.editors if one.marks]
        return [layer for layer in self._viewer.layers if isinstance(layer, Image) and layer not in marked]

    def editor_of(self, layer: Any) -> LandmarkEditor | None:
        """Return the landmarks of an image, new ones if it has none; None for any other layer."""
        for one in self.editors:
            if layer in (one.points, one.image, one.bones):
                return one
        if not isinstance(layer, Image):
            return None
        if len(image_shape(layer)) != 2:
            raise LandmarkError(f"“{layer.name}” is a stack; landmarks are marked on single images.")
        bones, points = new_landmark_layers(layer)
        self._viewer.layers.extend([bones, points])
        made = LandmarkEditor(self._viewer, layer, bones, points, self.skeleton)
        self._editors.append(made)
        return made

    def put(self, image: Image, marks: Sequence[Mark]) -> None:
        """Show what was found or read in an image, if it is still open."""
        editor = self.editor_of(image) if image in self._viewer.layers else None
        if editor is not None:
            editor.put(marks, "prediction")

    def collect(self) -> tuple[LandmarkDataset, list[Problem]]:
        """Return the landmarks of all images, and those that cannot be used."""
        images, problems = [], []
        for one in self.editors:
            people, unused = people_of(one.marks, self.skeleton, one.image.name)
            height, width = image_shape(one.image)
            images.append(LandmarkImage(_file_name(one.image), people, (height, width)))
            problems += [*unused, *check_places(images[-1], self.skeleton.names)]
        return LandmarkDataset(self.skeleton, tuple(images)), problems

    def show_dataset(self, dataset: LandmarkDataset) -> str:
        """Show the landmarks of the open images that were read from a file; return what to tell the user.

        Points whose label the images' skeleton lacks are shown, but not used.
        """
        if not self.editors:
            self.skeleton = dataset.skeleton
        images = {Path(str(i.source.path or i.name)): i for i in self._viewer.layers if isinstance(i, Image)}
        search = match_images(list(images), dataset)
        problems = [*dataset.problems, *search.problems]
        for pair in search.pairs:
            marks = marks_of(pair.image.people, dataset.skeleton)
            self.put(images[pair.path], marks)
            problems += people_of(marks, self.skeleton, pair.image.name)[1]
        lost = len(search.without_image)
        not_open = f"{lost} images of the file are not open. " if lost else ""
        return f"Landmarks of {len(search.pairs)} images read. {not_open}{_sentences(problems)}".strip()

    def close(self) -> None:
        """Stop following the layers."""
        for one in self._editors:
            one.close()


def save_landmarks(path: Path, dataset: LandmarkDataset, problems: Sequence[Problem]) -> str:
    """Write landmarks; return what to tell the user. Runs in another thread."""
    problems = [*problems, *write_landmarks(path, dataset)]
    return f"Landmarks of {len(dataset.images)} images written to {path.name}. {_sentences(problems)}".strip()


def _file_name(image: Image) -> str:
    """Return the name of an image's file, else of its layer."""
    path = image.source.path
    return Path(path).name if path else str(image.name)


def _sentences(problems: Sequence[Problem]) -> str:
    return " ".join(f"{problem.name}: {problem.reason}" for problem in problems)
