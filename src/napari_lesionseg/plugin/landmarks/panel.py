"""The dock widget that marks, learns and finds landmarks in the open images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QPushButton, QWidget

from napari_lesionseg.datasets.landmarks import read_landmarks
from napari_lesionseg.datasets.landmarks.skeletons import parse_skeleton
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.landmarks.controls import MarkingControls, RulerControls, TrainingControls
from napari_lesionseg.plugin.landmarks.model import LandmarkSet, bring_to_view, save_landmarks
from napari_lesionseg.plugin.landmarks.task import FindLandmarksTask
from napari_lesionseg.plugin.landmarks.widgets import FILES, SkeletonBox, WhenDocked, WorkLine, ask_new_file
from napari_lesionseg.plugin.layout import DockTabs
from napari_lesionseg.plugin.napari_layers.layers import read_frame
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.plugin.widgets.forms import when_gone

if TYPE_CHECKING:
    import napari
    from napari.layers import Image

    from napari_lesionseg.datasets.landmarks.records import LandmarkDataset
    from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor
    from napari_lesionseg.types import Mark

HELP = (
    "Select an image, press Mark, and click on one landmark after the other. Drag a point to move it; click "
    "on it and press Del to remove it."
)
_NOT_LISTED = "Marked landmarks that are not in the list are kept, but neither learned nor exported:"


class LandmarksPanel(QWidget):
    """Mark landmarks on images, train on them, find them in other images, and read and write files."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        DockFocus(self)
        DockTabs(self)
        self._viewer = napari_viewer
        self.landmarks = LandmarkSet(napari_viewer)
        self.names = SkeletonBox()
        self.marking = MarkingControls()
        self.training = TrainingControls(lambda: self.landmarks.marked, lambda: self.landmarks.skeleton)
        self.ruler = RulerControls(lambda: self.landmarks.shown)
        self.work = WorkLine(HELP)
        self.status = self.work.status
        self.buttons: dict[str, QPushButton] = {}
        self._lay_out()
        napari_viewer.layers.selection.events.active.connect(self._on_active)
        napari_viewer.layers.events.removed.connect(self._on_active)
        self._on_docked()
        WhenDocked(self, self._on_docked, self._stop)
        when_gone(self, self._close)

    def _lay_out(self) -> None:
        self.work.busy.connect(self._on_busy)
        self.names.chosen.connect(partial(self._call, self._use_names))
        self.ruler.told.connect(self.status.setText)
        buttons: tuple[tuple[str, Callable[[], object], str], ...] = (
            ("Mark", self.mark, "Mark landmarks on the active image, and hide other images in its place"),
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
        grid.addWidget(self.work, 5, 0, 1, 3)
        grid.setRowStretch(6, 1)

    def _call(self, function: Callable[[], object], *_: object) -> None:
        try:
            function()
        except LesionSegError as error:
            show_error(str(error))

    def _on_busy(self, busy: bool) -> None:
        for button in self.buttons.values():
            button.setEnabled(not busy)

    def mark(self) -> LandmarkEditor | None:
        """Show the landmarks of the active image, ready for the next click."""
        self._use_names()
        editor = self.landmarks.editor_of(self._viewer.layers.selection.active)
        if editor is None:
            show_info("Open an image and select it first.")
            return None
        bring_to_view(self._viewer, self.landmarks, editor)
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
        if not images:
            self.status.setText("All open images have landmarks already.")
            return
        model = self.training.loaded
        lacks = self.landmarks.take_skeleton(model.skeleton)
        self.names.show_skeleton(self.landmarks.skeleton)
        task = FindLandmarksTask(model, [read_frame(image, ()) for image in images])
        self.work.start(
            task, partial(self._on_found, images, f"{_NOT_LISTED} {', '.join(lacks)}." * bool(lacks))
        )

    def _on_found(self, images: Sequence[Image], warning: str, found: Sequence[tuple[Mark, ...]]) -> None:
        # What was marked by hand in the meantime stays.
        free = self.landmarks.unmarked
        used = [(image, marks) for image, marks in zip(images, found, strict=True) if image in free]
        for image, marks in used:
            self.landmarks.put(image, marks)
        told = f"Landmarks found in {len(used)} images. Check and correct them."
        self.status.setText(f"{told} {warning}".strip())

    def _on_docked(self) -> None:
        """Go on with the landmarks that another panel, or this one, left."""
        if self.landmarks.resume():
            self.names.show_skeleton(self.landmarks.skeleton)
        self._on_active()

    def _on_active(self) -> None:
        shown = self.landmarks.shown
        if shown is not self.marking.editor:
            self.marking.set_editor(shown)

    def _use_names(self) -> None:
        """Mark what the list of names says, from now on."""
        chosen, current = parse_skeleton(self.names.currentText()), self.landmarks.skeleton
        # What a file says about left and right is kept unless the names have changed.
        if (chosen.names, chosen.edges) != (current.names, current.edges):
            unused = self.landmarks.use(chosen)
            self.status.setText(f"{_NOT_LISTED} {', '.join(unused)}." if unused else HELP)

    def _on_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import landmarks", "", FILES)
        if name:
            self.work.start(Task("reading landmarks", read_landmarks, Path(name)), self._on_read)

    def _on_read(self, dataset: LandmarkDataset) -> None:
        self.status.setText(self.landmarks.show_dataset(dataset))
        self.names.show_skeleton(self.landmarks.skeleton)

    def _on_export(self) -> None:
        if not any(one.marks for one in self.landmarks.editors):
            show_info("Mark landmarks first.")
            return
        path = ask_new_file(self)
        if path is not None:
            task = Task("writing landmarks", save_landmarks, path, *self.landmarks.collect())
            self.work.start(task, self.status.setText)

    def _close(self) -> None:
        """Stop working; Qt has deleted the widget."""
        self._viewer.layers.selection.events.active.disconnect(self._on_active)
        self._viewer.layers.events.removed.disconnect(self._on_active)
        self._stop()

    def _stop(self) -> None:
        """Stop working, and leave the landmarks to another panel; touches no widget of Qt's."""
        self.work.stop()
        self.training.stop()
        self.landmarks.close()
