"""The landmarks of all open images, and their files. No widgets in here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image

from napari_lesionseg.config import Skeleton
from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.records import (
    LandmarkDataset,
    LandmarkImage,
    match_images,
    reorder,
)
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.errors import LandmarkError
from napari_lesionseg.plugin.landmarks.layer import LandmarkLayer
from napari_lesionseg.plugin.landmarks.task import MarkedImage
from napari_lesionseg.plugin.napari_layers.layers import read_frame

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.types import Landmarks


def parse_names(text: str) -> Skeleton:
    """Read names with commas between them; neighbors are joined by a line."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise LandmarkError("Give each landmark a name of its own, with commas between them.")
    return Skeleton.from_names(names, [(n, n + 1) for n in range(len(names) - 1)])


class LandmarkSet:
    """The landmarks of the images in a viewer; all of them have the same names."""

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layers: list[LandmarkLayer] = []
        self.skeleton = Skeleton.from_names(["landmark"])

    @property
    def layers(self) -> list[LandmarkLayer]:
        """The landmarks whose layers are still open."""
        listed = set(self._viewer.layers)
        self._layers = [one for one in self._layers if one.points in listed and one.image in listed]
        return self._layers

    @property
    def shown(self) -> LandmarkLayer | None:
        """The landmarks of the active layer."""
        active = self._viewer.layers.selection.active
        return next((one for one in self.layers if active in (one.points, one.image, one.bones)), None)

    @property
    def marked(self) -> list[MarkedImage]:
        """Copies of the images that have landmarks."""
        return [
            MarkedImage(_file_name(one.image), read_frame(one.image, ()), one.people)
            for one in self.layers
            if one.people
        ]

    @property
    def unmarked(self) -> list[Image]:
        """The images without landmarks."""
        marked = [one.image for one in self.layers if len(one.points.data)]
        return [layer for layer in self._viewer.layers if isinstance(layer, Image) and layer not in marked]

    def layer_of(self, image: Any) -> LandmarkLayer | None:
        """Return the landmarks of an image, new ones if it has none; None for any other layer."""
        for one in self.layers:
            if image in (one.points, one.image, one.bones):
                return one
        if not isinstance(image, Image):
            return None
        made = LandmarkLayer(self._viewer, image, self.skeleton)
        self._layers.append(made)
        return made

    def put(self, image: Image, people: Sequence[Landmarks]) -> None:
        """Show what was found or read in an image, if it is still open."""
        layer = self.layer_of(image) if image in self._viewer.layers else None
        if layer is not None:
            layer.put(people)

    def export_to(self, path: Path) -> str:
        """Write the landmarks of all images; return what to tell the user."""
        images = tuple(_record(one) for one in self.layers)
        problems = [problem for one in self.layers for problem in one.problems]
        problems += write_landmarks(path, LandmarkDataset(self.skeleton, images))
        return f"Landmarks of {len(images)} images written to {path.name}. {_sentences(problems)}".strip()

    def import_from(self, path: Path) -> str:
        """Read the landmarks of the open images; return what to tell the user."""
        dataset = read_landmarks(path)
        if self.layers:
            dataset = reorder(dataset, self.skeleton)
        self.skeleton = dataset.skeleton
        images = {Path(str(i.source.path or i.name)): i for i in self._viewer.layers if isinstance(i, Image)}
        search = match_images(list(images), dataset)
        for pair in search.pairs:
            self.put(images[pair.path], pair.image.people)
        lost = len(search.without_image)
        not_open = f"{lost} images of the file are not open. " if lost else ""
        told = _sentences([*dataset.problems, *search.problems])
        return f"Landmarks of {len(search.pairs)} images read. {not_open}{told}".strip()

    def close(self) -> None:
        """Stop following the layers."""
        for one in self._layers:
            one.close()


def _record(layer: LandmarkLayer) -> LandmarkImage:
    """Return the landmarks of an image as they are written to files."""
    height, width = layer.image.data.shape[:2]
    return LandmarkImage(_file_name(layer.image), layer.people, (height, width))


def _file_name(image: Image) -> str:
    """Return the name of an image's file, else of its layer."""
    path = image.source.path
    return Path(path).name if path else str(image.name)


def _sentences(problems: Sequence[Problem]) -> str:
    return " ".join(f"{problem.name}: {problem.reason}" for problem in problems)
