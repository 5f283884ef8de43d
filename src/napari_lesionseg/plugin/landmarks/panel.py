"""The dock widget that marks, learns and finds landmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

from napari_lesionseg.config import TrainConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.landmarks.layer import LandmarkLayer
from napari_lesionseg.plugin.landmarks.model import LandmarkSet, parse_names
from napari_lesionseg.plugin.landmarks.task import TrainLandmarksTask, find_all
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
        self.landmarks = LandmarkSet(napari_viewer)
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
            (
                "Next person",
                partial(self._with_shown, LandmarkLayer.start_person),
                "Mark another person in the same image",
            ),
            (
                "Undo",
                partial(self._with_shown, LandmarkLayer.undo),
                "Take back the last change of the landmarks (Ctrl+Z)",
            ),
            (
                "Occluded",
                partial(self._with_shown, LandmarkLayer.toggle_occluded),
                "Mark the selected landmarks as hidden behind something (H)",
            ),
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

    def _with_shown(self, change: Callable[[LandmarkLayer], object]) -> None:
        """Change the landmarks of the active layer."""
        shown = self.landmarks.shown
        if shown is None:
            show_info("Select an image with landmarks first.")
        elif change(shown) is False:
            show_info("There is nothing to undo.")

    def mark(self) -> LandmarkLayer | None:
        """Show the landmarks of the active image, ready for the next click."""
        if not self.landmarks.layers:
            self.landmarks.skeleton = parse_names(self.names.text())
        layer = self.landmarks.layer_of(self._viewer.layers.selection.active)
        if layer is None:
            show_info("Open an image and select it first.")
            return None
        self._viewer.layers.selection.active = layer.points
        layer.points.mode = "add"
        return layer

    def train(self) -> None:
        """Train on the marked images in another thread."""
        marked = self.landmarks.marked
        settings = training_config(self.seconds.value())
        task = TrainLandmarksTask(marked, self.landmarks.skeleton, settings)
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
        images = self.landmarks.unmarked
        pixels = [read_frame(image, ()) for image in images]

        def put(found: list[list[Landmarks]]) -> None:
            self._task = None
            for image, people in zip(images, found, strict=True):
                self.landmarks.put(image, people)
            self.status.setText(f"Landmarks found in {len(images)} images. Check and correct them.")

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

    def _ask_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import landmarks", "", FILES)
        if name:
            self.status.setText(self.landmarks.import_from(Path(name)))
            self.names.setText(", ".join(self.landmarks.skeleton.names))

    def _ask_export(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Export landmarks", "landmarks.json", FILES)
        if name:
            self.status.setText(self.landmarks.export_to(Path(name)))

    def _close(self) -> None:
        """Stop working; Qt has deleted the widget."""
        if self._task is not None:
            self._task.close()
        self.landmarks.close()


def training_config(seconds: float) -> TrainConfig:
    """Return the settings of a training of so many seconds."""
    recipe = resources.files("napari_lesionseg") / "recipes" / "landmarks.json"
    settings = json.loads(recipe.read_text(encoding="utf-8"))
    limits = {"max_seconds": seconds, "epochs": 10000, "num_threads": background_threads()}
    return TrainConfig.model_validate(settings | limits)
