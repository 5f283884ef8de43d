"""The landmarks of all open images, and their files. No widgets in here."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Points, Vectors

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

    from napari_lesionseg.config import Skeleton
    from napari_lesionseg.plugin.editor.undo_history import UndoHistory
    from napari_lesionseg.plugin.landmarks.editor import Marks
    from napari_lesionseg.types import Mark


_KEPT = "lesionseg_landmarks"  # of a layer's metadata


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the points of an editor that was closed belong to, weakly and by object."""

    image: weakref.ref[Image]
    bones: weakref.ref[Vectors]
    name: str  # of the image, which may be opened again
    skeleton: Skeleton
    history: UndoHistory[Marks]


class LandmarkSet:
    """The landmarks of the images in a viewer; all of them have the same names."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._editors: list[LandmarkEditor] = []
        self.skeleton = parse_skeleton("eyes")

    def resume(self) -> bool:
        """Edit the landmarks that were left; return whether there were any."""
        found = False
        for layer in list(self._viewer.layers):
            kept = layer.metadata.get(_KEPT)
            image = kept.image() if isinstance(kept, _Kept) else None
            if isinstance(kept, _Kept) and image is not None and image in self._viewer.layers:
                self.skeleton, found = kept.skeleton, True
                self._edit(image)
        return found

    @property
    def editors(self) -> list[LandmarkEditor]:
        """The landmarks whose layers are still open."""
        listed = set(self._viewer.layers)
        gone = [one for one in self._editors if one.points not in listed or one.image not in listed]
        self._editors = [one for one in self._editors if one not in gone]
        for one in gone:
            _leave(one)
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
        """The images without landmarks; stacks are left out."""
        marked = [one.image for one in self.editors if one.marks]
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        return [image for image in images if image not in marked and len(image_shape(image)) == 2]

    def editor_of(self, layer: Any) -> LandmarkEditor | None:
        """Return the landmarks of an image, new ones if it has none; None for any other layer."""
        for one in self.editors:
            if layer in (one.points, one.image, one.bones):
                return one
        if not isinstance(layer, Image):
            return None
        if len(image_shape(layer)) != 2:
            raise LandmarkError(f"“{layer.name}” is a stack; landmarks are marked on single images.")
        return self._edit(layer)

    def _edit(self, image: Image) -> LandmarkEditor:
        """Edit the landmarks that an image had before, else new ones."""
        bones, points = new_landmark_layers(image)
        layer, kept = self._kept_for(image), None
        if layer is not None:
            points, kept = layer, layer.metadata.pop(_KEPT)
            former = kept.bones()
            bones = former if former is not None and former in self._viewer.layers else bones
        self._viewer.layers.extend(layer for layer in (bones, points) if layer not in self._viewer.layers)
        made = LandmarkEditor(self._viewer, image, bones, points, self.skeleton)
        if kept is not None and kept.history.current == made.history.current:
            made.restore(kept.history)
        self._editors.append(made)
        return made

    def _kept_for(self, image: Image) -> Points | None:
        """Return the landmarks that an image had when they were left."""
        for layer in self._viewer.layers:
            kept = layer.metadata.get(_KEPT)
            if isinstance(kept, _Kept) and isinstance(layer, Points):
                former = kept.image()
                same_name = kept.name == image.name and former not in self._viewer.layers
                if former is image or same_name:
                    return layer
        return None

    def use(self, skeleton: Skeleton) -> list[str]:
        """Mark other landmarks in all images from now on; return names in use that these lack."""
        if skeleton != self.skeleton:
            self.skeleton = skeleton
            for one in self.editors:
                one.use_skeleton(skeleton)
        used = dict.fromkeys(mark.label for one in self.editors for mark in one.marks)
        return [name for name in used if name not in skeleton.names]

    def take_skeleton(self, skeleton: Skeleton) -> list[str]:
        """Use the skeleton of a file or model if nothing is marked; return its names that are not used."""
        if not any(one.marks for one in self.editors):
            self.use(skeleton)
        return [name for name in skeleton.names if name not in self.skeleton.names]

    def put(self, image: Image, marks: Sequence[Mark]) -> None:
        """Show what was found or read in an image, if it is still open."""
        editor = self.editor_of(image) if image in self._viewer.layers else None
        if editor is not None:
            editor.put(marks, "prediction")

    def collect(self) -> tuple[LandmarkDataset, list[Problem]]:
        """Return the landmarks of all images, and those that cannot be used."""
        images, problems = [], []
        names = _file_names([one.image for one in self.editors])
        for one, name in zip(self.editors, names, strict=True):
            people, unused = people_of(one.marks, self.skeleton, one.image.name)
            height, width = image_shape(one.image)
            images.append(LandmarkImage(name, people, (height, width)))
            problems += [*unused, *check_places(images[-1], self.skeleton.names)]
        return LandmarkDataset(self.skeleton, tuple(images)), problems

    def show_dataset(self, dataset: LandmarkDataset) -> str:
        """Show the landmarks of the open images that were read from a file; return what to tell the user.

        Points whose label the images' skeleton lacks are shown, but not used.
        """
        self.take_skeleton(dataset.skeleton)
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
        """Stop following the layers, which another set can go on with."""
        for one in self.editors:
            _leave(one)
        self._editors = []


def _leave(editor: LandmarkEditor) -> None:
    """Close an editor whose layers may be edited again."""
    editor.close()
    refs = weakref.ref(editor.image), weakref.ref(editor.bones)
    editor.points.metadata[_KEPT] = _Kept(*refs, str(editor.image.name), editor.skeleton, editor.history)


def save_landmarks(path: Path, dataset: LandmarkDataset, problems: Sequence[Problem]) -> str:
    """Write landmarks; return what to tell the user. Runs in another thread."""
    problems = [*problems, *write_landmarks(path, dataset)]
    return f"Landmarks of {len(dataset.images)} images written to {path.name}. {_sentences(problems)}".strip()


def bring_to_view(viewer: ViewerModel, landmarks: LandmarkSet, editor: LandmarkEditor) -> None:
    """Show an image and its landmarks; hide images in the same place, which may lie over it, and theirs."""
    others = [layer for layer in viewer.layers if isinstance(layer, Image) and layer is not editor.image]
    covering = [] if viewer.canvas.grid.enabled else [o for o in others if _overlap(o, editor.image)]
    theirs = [part for one in landmarks.editors if one.image in covering for part in (one.points, one.bones)]
    for layer in (*covering, *theirs):
        layer.visible = False
    for layer in (editor.image, editor.bones, editor.points):
        layer.visible = True


def _overlap(one: Image, other: Image) -> bool:
    """Whether two images share a place in the world."""
    (low, high), (other_low, other_high) = (layer.extent.world[:, -2:] for layer in (one, other))
    return bool((low < other_high).all() and (other_low < high).all())


def _file_name(image: Image) -> str:
    """Return the name of an image's file, else of its layer."""
    path = image.source.path
    return Path(path).name if path else str(image.name)


def _file_names(images: Sequence[Image]) -> list[str]:
    """Return the names of images' files; where several have one name, with the folders that differ."""
    ends = [_parts(image) for image in images]
    names = []
    for parts in ends:
        same = [other[:-1] for other in ends if other[-1] == parts[-1]]
        levels = zip(*same, strict=False)  # ends with the shortest
        shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
        names.append("/".join(parts[shared:]))
    return names


def _parts(image: Image) -> list[str]:
    """Return the folders of an image's file and its name."""
    file = Path(image.source.path or "")
    return [part for part in file.parts if part != file.anchor] or [str(image.name)]


def _sentences(problems: Sequence[Problem]) -> str:
    return " ".join(f"{problem.name}: {problem.reason}" for problem in problems)
