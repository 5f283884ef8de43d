"""The dock widget that marks, learns and finds landmarks in the open images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import QComboBox, QFileDialog, QGridLayout, QLabel, QPushButton, QWidget

from napari_lesionseg.datasets.landmarks import read_landmarks
from napari_lesionseg.datasets.landmarks.skeletons import PRESETS, describe_skeleton, parse_skeleton
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.landmarks.controls import MarkingControls, RulerControls, TrainingControls
from napari_lesionseg.plugin.landmarks.model import LandmarkSet, save_landmarks
from napari_lesionseg.plugin.landmarks.task import find_all
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import keep_narrow, when_gone

if TYPE_CHECKING:
    import napari

    from napari_lesionseg.datasets.landmarks.records import LandmarkDataset
    from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor
    from napari_lesionseg.types import Mark

FILES = "COCO keypoints (*.json);;DeepLabCut (*.csv)"
HELP = (
    "Select an image, press Mark, and click on one landmark after the other. Drag a point to move it; select "
    "it with napari's arrow and press Del to remove it."
)


class LandmarksPanel(QWidget):
    """Mark landmarks on images, train on them, find them in other images, and read and write files."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        DockFocus(self)
        self._viewer = napari_viewer
        self.landmarks = LandmarkSet(napari_viewer)
        self.names = skeleton_box()
        self.marking = MarkingControls()
        self.training = TrainingControls(lambda: self.landmarks.marked, lambda: self.landmarks.skeleton)
        self.ruler = RulerControls(lambda: self.landmarks.shown)
        self.status = QLabel(HELP)
        self.buttons: dict[str, QPushButton] = {}
        self._task: Task[Any] | None = None
        self._lay_out()
        napari_viewer.layers.selection.events.active.connect(self._on_active)
        when_gone(self, self._close)

    def _lay_out(self) -> None:
        self.status.setWordWrap(True)
        self.ruler.told.connect(self.status.setText)
        buttons: tuple[tuple[str, Callable[[], object], str], ...] = (
            ("Mark", self.mark, "Mark landmarks on the active image"),
            ("Find", self.find_others, "Find the landmarks in the images that have none"),
            (
                "Import\N{HORIZONTAL ELLIPSIS}",
                self._on_import,
                "Read landmarks of the open images",
            ),
            ("Export\N{HORIZONTAL ELLIPSIS}", self._on_export, "Write the landmarks of all images"),
        )
        for text, function, tip in buttons:
            button = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._call, function))
            self.buttons[text.rstrip("\N{HORIZONTAL ELLIPSIS}")] = button
        grid = QGridLayout(self)
        grid.setColumnStretch(1, 1)
        grid.addWidget(QLabel("Landmarks"), 0, 0)
        grid.addWidget(self.names, 0, 1)
        grid.addWidget(self.buttons["Mark"], 0, 2)
        grid.addWidget(self.marking, 1, 0, 1, 3)
        grid.addWidget(self.training, 2, 0, 1, 3)
        for column, name in enumerate(("Find", "Import", "Export")):
            grid.addWidget(self.buttons[name], 3, column)
        grid.addWidget(self.ruler, 4, 0, 1, 3)
        grid.addWidget(self.status, 5, 0, 1, 3)
        grid.setRowStretch(6, 1)

    def _call(self, function: Callable[[], object], *_: object) -> None:
        try:
            function()
        except LesionSegError as error:
            show_error(str(error))

    def mark(self) -> LandmarkEditor | None:
        """Show the landmarks of the active image, ready for the next click."""
        if not self.landmarks.editors:
            self.landmarks.skeleton = parse_skeleton(self.names.currentText())
        editor = self.landmarks.editor_of(self._viewer.layers.selection.active)
        if editor is None:
            show_info("Open an image and select it first.")
            return None
        self._viewer.layers.selection.active = editor.points
        editor.points.mode = "add"
        self.marking.set_editor(editor)
        return editor

    def find_others(self) -> None:
        """Find the landmarks of the images that have none."""
        if self.training.loaded is None:
            show_info("Choose or train a model first.")
            return
        images = self.landmarks.unmarked
        pixels = [read_frame(image, ()) for image in images]

        def put(found: Sequence[tuple[Mark, ...]]) -> None:
            for image, marks in zip(images, found, strict=True):
                self.landmarks.put(image, marks)
            self.status.setText(f"Landmarks found in {len(images)} images. Check and correct them.")

        self._start("finding landmarks", partial(find_all, self.training.loaded, pixels), put)

    def _on_active(self) -> None:
        self.marking.set_editor(self.landmarks.shown)

    def _on_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import landmarks", "", FILES)
        if name:
            self._start("reading landmarks", partial(read_landmarks, Path(name)), self._on_read)

    def _on_read(self, dataset: LandmarkDataset) -> None:
        self.status.setText(self.landmarks.show_dataset(dataset))
        self.names.setEditText(describe_skeleton(self.landmarks.skeleton))
        line = self.names.lineEdit()
        if line is not None:
            line.home(False)  # else its end would be shown

    def _on_export(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Export landmarks", "landmarks.json", FILES)
        if name:
            work = partial(save_landmarks, Path(name), *self.landmarks.collect())
            self._start("writing landmarks", work, self.status.setText)

    def _start(self, title: str, function: Callable[[], Any], done: Callable[[Any], object]) -> None:
        """Run a function in another thread, one at a time."""
        for button in self.buttons.values():
            button.setEnabled(False)
        self._task = run_task(title, function, done=partial(self._on_done, done), failed=self._on_failed)

    def _on_done(self, done: Callable[[Any], object], result: Any) -> None:
        self._end_task()
        self._call(partial(done, result))

    def _on_failed(self, error: Exception) -> None:
        self._end_task()
        self.status.setText(str(error))

    def _end_task(self) -> None:
        self._task = None
        for button in self.buttons.values():
            button.setEnabled(True)

    def _close(self) -> None:
        """Stop working; Qt has deleted the widget."""
        self._viewer.layers.selection.events.active.disconnect(self._on_active)
        if self._task is not None:
            self._task.close()
        self.landmarks.close()


def skeleton_box() -> QComboBox:
    """Return a list of skeletons that are needed often, in which others can be typed."""
    box = QComboBox()
    box.setEditable(True)
    keep_narrow(box)
    box.addItems(list(PRESETS.values()))
    box.setToolTip(
        "Names with commas between them, and “ - ” between those that a line joins, such as "
        "“nose, shoulder - elbow - hand”"
    )
    return box
