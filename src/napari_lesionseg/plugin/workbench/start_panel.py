"""The ways to a study: a new one, a folder, sample images. Reads in the background, and can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image, Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QFileDialog, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_lesionseg.errors import CancelledError, LesionSegError
from napari_lesionseg.plugin.napari_layers.layers import image_shape, read_frame
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import small
from napari_lesionseg.plugin.workbench.new_study_dialog import NewStudyDialog
from napari_lesionseg.plugin.workbench.open_study import (
    NewStudy,
    Watched,
    make_study,
    open_folder,
    open_samples,
)
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari.components import ViewerModel

TELL_MS = 150
"""How often it is said how far the reading of images is."""


class StartPanel(QWidget):
    """Buttons that lead to a study, and what they do.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Where images may be open.
    annotator : callable
        Gives the annotator's name.
    may_leave : callable
        Closes the study that is open; False when the annotator chose to stay.

    Attributes
    ----------
    opened : Signal
        Emitted with a `Study` that is open now.
    in_use : collection of napari.layers.Layer
        Layers that are no images to be taken, since a study shows its own in them.
    """

    opened = Signal(object)

    def __init__(
        self,
        viewer: ViewerModel,
        annotator: Callable[[], str],
        may_leave: Callable[[], bool],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._annotator, self._may_leave = viewer, annotator, may_leave
        self.in_use: Collection[Layer] = ()
        self._job: Task[Study] | None = None
        self._watched = Watched()
        self._taken: list[Image] = []
        self.new_button = QPushButton("New study\N{HORIZONTAL ELLIPSIS}")
        self.open_button = QPushButton("Open a folder\N{HORIZONTAL ELLIPSIS}")
        self.samples_button = QPushButton("Try sample images")
        self.stop_button = QPushButton("Stop")
        self.progress = QProgressBar()
        self._tell = QTimer(self)
        self._tell.setInterval(TELL_MS)
        self._lay_out()
        self._tell.timeout.connect(self._show_progress)
        self.new_button.clicked.connect(self.ask_for_new)
        self.open_button.clicked.connect(self.ask_for_folder)
        self.samples_button.clicked.connect(self.open_samples)
        self.stop_button.clicked.connect(self._on_stop)

    def ask_for_new(self) -> None:
        """Ask what a new study is to be, and make it."""
        layers = [layer for layer in self._viewer.layers if self._can_be_taken(layer)]
        try:
            images = {image.name: read_frame(image, ()) for image in layers}
        except LesionSegError as error:
            show_error(str(error))
            return
        dialog = NewStudyDialog(self._annotator(), images, self)
        if dialog.exec():
            self.make(dialog.plan, layers if dialog.from_viewer.isChecked() else ())

    def ask_for_folder(self) -> None:
        """Ask for a study, or a folder of images, and open it."""
        folder = QFileDialog.getExistingDirectory(self, "Open a study or a folder of images")
        if folder:
            self.open_folder(Path(folder))

    def make(self, plan: NewStudy, taken: Sequence[Image] = ()) -> None:
        """Make a study and open it.

        Parameters
        ----------
        plan : NewStudy
            What it is to be.
        taken : sequence of napari.layers.Image
            Layers that go once they are images of the study.
        """
        self._begin(partial(make_study, plan), taken)

    def open_folder(self, folder: Path) -> None:
        """Open a study, or a folder of images."""
        self._begin(partial(open_folder, folder, self._annotator()))

    def open_samples(self) -> None:
        """Open a study of synthetic images."""
        self._begin(partial(open_samples, self._annotator()))

    def drop(self) -> None:
        """Let nothing come of what is being opened."""
        self._watched.stop()
        if self._job is not None:
            self._job.close()
        self._job = None

    def _lay_out(self) -> None:
        self.new_button.setToolTip("Choose images, where the study is kept, and who may see what")
        self.open_button.setToolTip("Open a study, or a folder of images, which becomes one")
        self.samples_button.setToolTip("Try everything on synthetic images")
        self.stop_button.setToolTip("Stop reading the images; nothing is opened then")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(small(QLabel("No study is open.")))
        for widget in (self.new_button, self.open_button, self.samples_button):
            column.addWidget(widget)
        column.addWidget(self.progress)
        column.addWidget(self.stop_button)
        self._show_at_work(False)

    def _can_be_taken(self, layer: Layer) -> bool:
        return isinstance(layer, Image) and layer not in self.in_use and len(image_shape(layer)) == 2

    def _begin(self, opening: Callable[[Watched], Study], taken: Sequence[Image] = ()) -> None:
        if not self._may_leave():
            return
        self.drop()
        self._watched, self._taken = Watched(), list(taken)
        self._job = run_task(
            "opening the study", opening, self._watched, done=self._on_opened, failed=self._on_failed
        )
        self._show_at_work(True)

    def _on_opened(self, study: Study) -> None:
        self._job = None
        self._show_at_work(False)
        for layer in self._taken:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._taken = []
        self.opened.emit(study)

    def _on_failed(self, error: Exception) -> None:
        self._job = None
        self._taken = []
        self._show_at_work(False)
        if not isinstance(error, CancelledError):
            show_error(str(error))

    def _on_stop(self) -> None:
        self._watched.stop()
        self.stop_button.setEnabled(False)

    def _show_at_work(self, working: bool) -> None:
        for button in (self.new_button, self.open_button, self.samples_button):
            button.setEnabled(not working)
        for widget in (self.progress, self.stop_button):
            widget.setVisible(working)
        self.stop_button.setEnabled(working)
        if working:
            self._show_progress()
            self._tell.start()
        else:
            self._tell.stop()

    def _show_progress(self) -> None:
        self.progress.setMaximum(max(1, self._watched.total))
        self.progress.setValue(self._watched.done)
        self.progress.setFormat(str(self._watched))
