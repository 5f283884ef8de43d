"""The dock widget that marks, learns and finds landmarks."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QWidget,
)

from napari_lesionseg.config import Skeleton, TrainConfig
from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.landmarks.records import LandmarkDataset, match_images, reorder
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.landmarks.layer import LandmarkLayer
from napari_lesionseg.plugin.landmarks.task import MarkedImage, TrainLandmarksTask, find_all
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import when_gone
from napari_lesionseg.training.resources import background_threads

if TYPE_CHECKING:
    import napari

    from napari_lesionseg.inference.landmarks import LandmarkModel
    from napari_lesionseg.types import Landmarks

FILES = "COCO keypoints (*.json);;DeepLabCut (*.csv)"
FIRST_NAMES = "left_eye, right_eye"
SECONDS = 60


class LandmarksPanel(QWidget):
    """Mark landmarks on images, train on them, find them in other images, and read and write files."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.layers: list[LandmarkLayer] = []
        self.skeleton = Skeleton.from_names(["landmark"])
        self.model: LandmarkModel | None = None
        self._task: Task[Any] | None = None
        self.names = QLineEdit(FIRST_NAMES)
        self.seconds = QSpinBox()
        self.status = QLabel("Name the landmarks, then press Mark and click on the image.")
        self.progress_bar = QProgressBar()
        self.buttons: dict[str, QPushButton] = {}
        self._lay_out()
        when_gone(self, self._close)

    def _lay_out(self) -> None:
        self.seconds.setRange(1, 36000)
        self.seconds.setValue(SECONDS)
        self.seconds.setSuffix(" s")
        self.status.setWordWrap(True)
        self.progress_bar.setRange(0, 100)
        grid = QGridLayout(self)
        grid.addWidget(QLabel("Landmarks"), 0, 0)
        grid.addWidget(self.names, 0, 1, 1, 2)
        tips = (
            ("Mark", self.mark, "Mark landmarks on the active image"),
            ("Next person", self._next_person, "Mark another person in the same image"),
            ("Undo", self.undo, "Take back the last change of the landmarks (Ctrl+Z)"),
            ("Occluded", self._toggle_occluded, "Mark the selected landmarks as hidden behind something (H)"),
            ("Train", self.train, "Learn the landmarks from the marked images"),
            ("Finish now", self._end, "Stop training and use what was learned"),
            ("Cancel", self.cancel, "Stop training and discard what was learned"),
            ("Find", self.find_others, "Find the landmarks in the images that have none"),
            ("Import...", self._ask_import, "Read landmarks of the open images from a file"),
            ("Export...", self._ask_export, "Write the landmarks of all images to a file"),
        )
        for index, (text, function, tip) in enumerate(tips):
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(lambda checked=False, call=function: self._call(call))
            self.buttons[text] = button
            grid.addWidget(button, 1 + index // 2, 1 + index % 2)
        grid.addWidget(QLabel("Training time"), 6, 0)
        grid.addWidget(self.seconds, 6, 1, 1, 2)
        grid.addWidget(self.progress_bar, 7, 0, 1, 3)
        grid.addWidget(self.status, 8, 0, 1, 3)
        grid.setRowStretch(9, 1)

    def _call(self, function: Any) -> None:
        try:
            function()
        except LesionSegError as error:
            show_error(str(error))

    # -------------------------------------------------------------------------------------------- marking

    def mark(self) -> LandmarkLayer | None:
        """Show the landmarks of the active image, ready for the next click."""
        layer = self._layer_of(self._viewer.layers.selection.active)
        if layer is None:
            show_info("Open an image and select it first.")
            return None
        self._viewer.layers.selection.active = layer.points
        layer.points.mode = "add"
        return layer

    def undo(self) -> None:
        """Take back the last change of the shown landmarks."""
        layer = self._shown()
        if layer is None or not layer.undo():
            show_info("There is nothing to undo.")

    def _next_person(self) -> None:
        layer = self._shown()
        if layer is not None:
            layer.start_person()

    def _toggle_occluded(self) -> None:
        layer = self._shown()
        if layer is not None:
            layer.toggle_occluded()

    def _shown(self) -> LandmarkLayer | None:
        active = self._viewer.layers.selection.active
        return next((one for one in self._open() if active in (one.points, one.image, one.bones)), None)

    def _layer_of(self, active: Any) -> LandmarkLayer | None:
        """Return the landmarks of an image, new if it has none."""
        shown = self._shown()
        if shown is not None or not isinstance(active, Image):
            return shown
        if not self._open():
            self.skeleton = self._named()
        layer = LandmarkLayer(self._viewer, active, self.skeleton)
        self.layers.append(layer)
        return layer

    def _open(self) -> list[LandmarkLayer]:
        """Return the landmarks whose layers are still open."""
        listed = set(self._viewer.layers)
        self.layers = [one for one in self.layers if one.points in listed and one.image in listed]
        return self.layers

    def _named(self) -> Skeleton:
        names = [name.strip() for name in self.names.text().split(",") if name.strip()]
        if not names or len(set(names)) < len(names):
            raise LesionSegError("Give each landmark a name of its own, with commas between them.")
        return Skeleton.from_names(names, [(n, n + 1) for n in range(len(names) - 1)])

    # ------------------------------------------------------------------------------------------- learning

    def config(self) -> TrainConfig:
        """Return the settings of the training."""
        recipe = resources.files("napari_lesionseg") / "recipes" / "landmarks.json"
        settings = json.loads(recipe.read_text(encoding="utf-8"))
        limits = {"max_seconds": self.seconds.value(), "epochs": 10000, "num_threads": background_threads()}
        return TrainConfig.model_validate(settings | limits)

    def train(self) -> None:
        """Train on the marked images in another thread."""
        marked = [
            MarkedImage(one.name, read_frame(one.image, ()), one.people) for one in self._open() if one.people
        ]
        task = TrainLandmarksTask(marked, self.skeleton, self.config())
        task.progressed.connect(self._on_progress)
        task.finished.connect(self._on_trained)
        task.failed.connect(self._on_failed)
        self._task = task
        self.status.setText(f"Learning from {len(marked)} images.")
        task.start()

    def cancel(self) -> None:
        """Stop the work."""
        if self._task is not None:
            self._task.cancel()

    def _end(self) -> None:
        if isinstance(self._task, TrainLandmarksTask):
            self._task.end()

    def find_others(self) -> None:
        """Find the landmarks of the images that have none."""
        if self.model is None:
            show_info("Train a model first.")
            return
        marked = {one.image for one in self._open() if len(one.points.data)}
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image) and layer not in marked]
        pixels = [read_frame(image, ()) for image in images]

        def put(found: list[list[Landmarks]]) -> None:
            self._on_found(images, found)

        self._task = run_task(
            "finding landmarks", find_all, self.model, pixels, done=put, failed=self._on_failed
        )

    def _on_progress(self, share: object) -> None:
        self.progress_bar.setValue(round(100 * float(str(share))))

    def _on_trained(self, model: LandmarkModel) -> None:
        self.model, self._task = model, None
        self.progress_bar.setValue(100)
        self.status.setText("The model is trained. Press Find to mark the other images.")

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.progress_bar.setValue(0)
        self.status.setText(str(error))

    def _on_found(self, images: list[Image], found: list[list[Landmarks]]) -> None:
        self._task = None
        for image, people in zip(images, found, strict=True):
            if image in self._viewer.layers:
                self._viewer.layers.selection.active = image
                layer = self._layer_of(image)
                if layer is not None:
                    layer.put(people)
        self.status.setText(f"Landmarks found in {len(images)} images. Check and correct them.")

    # ---------------------------------------------------------------------------------------------- files

    def export_to(self, path: Path) -> None:
        """Write the landmarks of all images."""
        images = tuple(one.record() for one in self._open())
        problems = [problem for one in self._open() for problem in one.problems]
        problems += write_landmarks(path, LandmarkDataset(self.skeleton, images))
        told = " ".join(f"{problem.name}: {problem.reason}" for problem in problems)
        self.status.setText(f"Landmarks of {len(images)} images written to {path.name}. {told}".strip())

    def import_from(self, path: Path) -> None:
        """Read landmarks; those of images that are open are shown, the others are counted."""
        dataset = read_landmarks(path)
        if self._open():
            dataset = reorder(dataset, self.skeleton)
        self.skeleton = dataset.skeleton
        self.names.setText(", ".join(self.skeleton.names))
        images = {Path(str(i.source.path or i.name)): i for i in self._viewer.layers if isinstance(i, Image)}
        search = match_images(list(images), dataset)
        for pair in search.pairs:
            self._viewer.layers.selection.active = images[pair.path]
            layer = self._layer_of(images[pair.path])
            if layer is not None:
                layer.put(pair.image.people)
        problems = [*dataset.problems, *search.problems]
        told = " ".join(f"{problem.name}: {problem.reason}" for problem in problems)
        lost = (
            f" {len(search.without_image)} images of the file are not open." if search.without_image else ""
        )
        self.status.setText(f"Landmarks of {len(search.pairs)} images read.{lost} {told}".strip())

    def _ask_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import landmarks", "", FILES)
        if name:
            self.import_from(Path(name))

    def _ask_export(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Export landmarks", "landmarks.json", FILES)
        if name:
            self.export_to(Path(name))

    def _close(self) -> None:
        """Stop working; Qt has deleted the widget."""
        if self._task is not None:
            self._task.close()
        for layer in self.layers:
            layer.close()
