"""The ways to a study: a new one, a folder, sample images. Images are read in the background."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Image, Layer
from napari.utils.notifications import show_error
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.errors import CancelledError, LesionSegError
from napari_lesionseg.plugin.landmarks.widgets import SkeletonBox
from napari_lesionseg.plugin.napari_layers.layers import image_shape, read_frame
from napari_lesionseg.plugin.widgets.forms import small, when_gone
from napari_lesionseg.plugin.workbench.open_study import (
    NewStudy,
    OpenStudyTask,
    import_folder,
    make_study,
    open_folder,
    open_samples,
)
from napari_lesionseg.study.events import LESION
from napari_lesionseg.study.images import Progress
from napari_lesionseg.study.layout import STUDY_FOLDER, find_study
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage

if TYPE_CHECKING:
    from napari.components import ViewerModel

OUTLINES, LANDMARKS = "Outlines", "Landmarks"
_WIDTH = 560
_COPY_TIP = "Off: the study refers to the files where they are. On: it gets copies without EXIF metadata"
_COPY_FIXED = "These images are always saved in the study"


class StartPanel(QWidget):
    """Buttons to make or open a study.

    `annotator` returns the annotator's name, or an empty string when the question is dismissed.
    `may_leave` closes the study that is open, and returns False when the annotator chose to stay.
    """

    opened = Signal(object)

    def __init__(
        self, viewer: ViewerModel, annotator: Callable[[], str], may_leave: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._viewer, self._annotator, self._may_leave = viewer, annotator, may_leave
        self.in_use: Collection[Layer] = ()
        self._task: OpenStudyTask | None = None
        self._imported_layers: list[Image] = []
        self.new_button = QPushButton("New study\N{HORIZONTAL ELLIPSIS}")
        self.open_button = QPushButton("Open folder\N{HORIZONTAL ELLIPSIS}")
        self.import_button = QPushButton("Import dataset\N{HORIZONTAL ELLIPSIS}")
        self.samples_button = QPushButton("Try sample images")
        self.cancel_button = QPushButton("Cancel")
        self.progress = QProgressBar()
        self._lay_out()
        self.new_button.clicked.connect(self.ask_for_new)
        self.open_button.clicked.connect(self.ask_for_folder)
        self.import_button.clicked.connect(self.ask_for_import)
        self.samples_button.clicked.connect(self.open_samples)
        self.cancel_button.clicked.connect(self._on_cancel)
        when_gone(self, self._close_task)

    def ask_for_new(self) -> None:
        """Ask for the settings of a new study, and make it."""
        layers = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Image) and layer not in self.in_use and len(image_shape(layer)) == 2
        ]
        try:
            images = {image.name: read_frame(image, ()) for image in layers}
        except LesionSegError as error:
            show_error(str(error))
            return
        annotator = self._annotator()
        if not annotator:
            return
        dialog = NewStudyDialog(annotator, images, self)
        if dialog.exec():
            self.make(dialog.plan, layers if dialog.from_viewer.isChecked() else ())

    def ask_for_folder(self) -> None:
        """Ask for a study, or a folder of images, and open it."""
        folder = QFileDialog.getExistingDirectory(self, "Open a study or a folder of images")
        if folder:
            self.open_folder(Path(folder))

    def ask_for_import(self) -> None:
        """Ask for a dataset, and a folder for what is imported from it; open that as a study."""
        source = QFileDialog.getExistingDirectory(self, "Dataset to import (COCO, nnU-Net, DICOM or other)")
        if not source:
            return
        out, _ = QFileDialog.getSaveFileName(self, "New folder for the imported images and their study")
        annotator = self._annotator() if out else ""
        if annotator:
            self._begin(partial(import_folder, Path(source), Path(out), annotator))

    def make(self, plan: NewStudy, layers: Sequence[Image] = ()) -> None:
        """Make a study and open it; `layers` are removed once they are images of the study."""
        self._begin(partial(make_study, plan), layers)

    def open_folder(self, folder: Path, reviewer: str = "", *, landmarks: str = "") -> None:
        """Open a study, or a folder of images; a `reviewer` opens a study to see the work of others."""
        if reviewer:
            place = find_study(folder) or folder
            self._begin(lambda progress: Study.open(place, reviewer, reviewer=True))
            return
        annotator = self._annotator()
        if annotator:
            self._begin(partial(open_folder, folder, annotator, landmarks=landmarks))

    def open_samples(self) -> None:
        """Open a study of synthetic images."""
        annotator = self._annotator()
        if annotator:
            self._begin(partial(open_samples, annotator))

    def _lay_out(self) -> None:
        self.new_button.setToolTip("Choose images, a folder for the study, and what annotators see")
        self.open_button.setToolTip("Open a study, or a folder of images, which becomes one")
        self.import_button.setToolTip("Copy a dataset with its outlines into a new study; it is not changed")
        self.samples_button.setToolTip("Try LesionSeg on synthetic images")
        self.cancel_button.setToolTip("Stop reading the images. No study is opened")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(small(QLabel("No study is open.")))
        for widget in (self.new_button, self.open_button, self.import_button, self.samples_button):
            column.addWidget(widget)
        column.addWidget(self.progress)
        column.addWidget(self.cancel_button)
        self._set_busy(False)

    def _begin(self, open_study: Callable[[Progress], Study], layers: Sequence[Image] = ()) -> None:
        if not self._may_leave():
            return
        self._close_task()
        self._imported_layers = list(layers)
        self._task = OpenStudyTask(open_study)
        self._task.progressed.connect(self._on_progress)
        self._task.finished.connect(self._on_opened)
        self._task.failed.connect(self._on_failed)
        self._task.start()
        self._set_busy(True)

    def _close_task(self) -> None:
        """Stop opening a study; touches no widget, which may be gone."""
        if self._task is not None:
            self._task.close()
        self._task = None

    def _on_opened(self, study: Study) -> None:
        self._task = None
        self._set_busy(False)
        for layer in self._imported_layers:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._imported_layers = []
        self.opened.emit(study)

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self._imported_layers = []
        self._set_busy(False)
        if not isinstance(error, CancelledError):
            show_error(str(error))

    def _on_cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self.cancel_button.setEnabled(False)

    def _on_progress(self, progress: tuple[int, int]) -> None:
        done, total = progress
        self.progress.setMaximum(max(1, total))
        self.progress.setValue(done)
        self.progress.setFormat(f"Reading the images: {done} of {total}")

    def _set_busy(self, busy: bool) -> None:
        for button in (self.new_button, self.open_button, self.import_button, self.samples_button):
            button.setEnabled(not busy)
        for widget in (self.progress, self.cancel_button):
            widget.setVisible(busy)
        self.cancel_button.setEnabled(busy)
        self.progress.setFormat("Opening\N{HORIZONTAL ELLIPSIS}")
        self.progress.setValue(0)


class PathRow(QWidget):
    """A path to type or to choose; `browse` opens a dialog at a path, and returns the chosen one, or ""."""

    def __init__(self, browse: Callable[[str], str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._browse, self._touched = browse, False
        self.edit = QLineEdit()
        self.button = QPushButton("Browse\N{HORIZONTAL ELLIPSIS}")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.edit, 1)
        row.addWidget(self.button)
        self.edit.textEdited.connect(self._touch)
        self.button.clicked.connect(self._on_browse)

    @property
    def path(self) -> Path:
        """The path; ``Path()`` when it is empty."""
        return Path(self.edit.text().strip()).expanduser()

    def set_path(self, path: Path) -> None:
        """Set the path as if it was typed."""
        self._touch()
        self.edit.setText(str(path))

    def suggest(self, path: Path) -> None:
        """Set the path, unless the user changed it."""
        if not self._touched:
            self.edit.setText(str(path))

    def _touch(self) -> None:
        self._touched = True

    def _on_browse(self) -> None:
        chosen = self._browse(self.edit.text())
        if chosen:
            self.set_path(Path(chosen))


class NewStudyDialog(QDialog):
    """Asks for the settings of a new study; `images` are those that are open in the viewer."""

    def __init__(
        self, annotator: str, images: Mapping[str, ByteImage], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._images = images
        self.setWindowTitle("New study")
        self.setMinimumWidth(_WIDTH)
        self.from_folder = QRadioButton("From a folder (plain, PH2 or ISIC)")
        self.from_viewer = QRadioButton(f"From the viewer ({len(images)})")
        self.images = PathRow(lambda at: _ask_folder(self, "Folder of the images", at))
        self.folder = PathRow(lambda at: _ask_folder(self, "New or empty folder for the study", at))
        self.key_file = PathRow(lambda at: _ask_file(self, "Key file of the pseudonyms", at))
        self.annotator = QLineEdit(annotator)
        self.classes = QLineEdit(LESION.name)
        self.task = QComboBox()
        self.task.addItems([OUTLINES, LANDMARKS])
        self.landmarks = SkeletonBox()
        self.copy = QCheckBox("Copy the images into the study")
        self.pseudonyms = QCheckBox("Use pseudonyms for images, patients and lesions")
        self.blinded = QCheckBox("Hide annotators' outlines from each other")
        self.problem = small(QLabel())
        self.make = QPushButton("Create study")
        self._describe()
        self._lay_out()
        self._connect()
        (self.from_viewer if images else self.from_folder).setChecked(True)
        self._update()

    @property
    def plan(self) -> NewStudy:
        """The settings that were entered."""
        in_folder = self.from_folder.isChecked()
        return NewStudy(
            folder=self.folder.path,
            annotator=self.annotator.text().strip(),
            images_folder=self.images.path if in_folder and self.images.path != Path() else None,
            images={} if in_folder else self._images,
            classes=tuple(name.strip() for name in self.classes.text().split(",") if name.strip()),
            landmarks=self.landmarks.currentText() if self.task.currentText() == LANDMARKS else "",
            copy=self.copy.isChecked(),
            key_file=self.key_file.path if self.pseudonyms.isChecked() else None,
            blinded=self.blinded.isChecked(),
        )

    def _describe(self) -> None:
        self.from_viewer.setEnabled(bool(self._images))
        self.from_viewer.setToolTip(
            "The images are saved in the study" if self._images else "No image is open in the viewer"
        )
        self.annotator.setToolTip("Your name or initials, saved with every outline")
        self.task.setToolTip("What is marked in each image; this cannot be changed later")
        self.classes.setToolTip("What to outline, separated by commas")
        self.pseudonyms.setToolTip("Names are replaced by random numbers. Only the key file links them")
        self.blinded.setToolTip("All annotators see only their own work")
        self.problem.setWordWrap(True)
        self.make.setDefault(True)

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Images", self.from_folder)
        form.addRow("", self.images)
        form.addRow("", self.from_viewer)
        form.addRow("Study folder", self.folder)
        form.addRow("Annotator", self.annotator)
        form.addRow("Task", self.task)
        form.addRow("Classes", self.classes)
        form.addRow("Landmarks", self.landmarks)
        form.addRow("", self.copy)
        form.addRow("", self.pseudonyms)
        form.addRow("Key file", self.key_file)
        form.addRow("", self.blinded)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.problem)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        buttons.addButton(self.make, QDialogButtonBox.ButtonRole.AcceptRole)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)

    def _connect(self) -> None:
        for row in (self.images, self.folder, self.key_file):
            row.edit.textChanged.connect(self._update)
        for edit in (self.annotator, self.classes):
            edit.textChanged.connect(self._update)
        for box in (self.from_folder, self.copy, self.pseudonyms):
            box.toggled.connect(self._update)
        self.task.currentTextChanged.connect(self._update)
        self.landmarks.currentTextChanged.connect(self._update)

    def _update(self) -> None:
        """Suggest paths, disable what does not apply, and show what is missing."""
        in_folder = self.from_folder.isChecked()
        self.images.setEnabled(in_folder)
        self._suggest(in_folder)
        fixed = self.pseudonyms.isChecked() or not in_folder
        with QSignalBlocker(self.copy):
            self.copy.setChecked(fixed or (self.copy.isChecked() and self.copy.isEnabled()))
        self.copy.setEnabled(not fixed)
        self.copy.setToolTip(_COPY_FIXED if fixed else _COPY_TIP)
        self.key_file.setEnabled(self.pseudonyms.isChecked())
        has_outlines = self.task.currentText() == OUTLINES
        self.classes.setEnabled(has_outlines)
        self.landmarks.setEnabled(not has_outlines)
        problem = self.plan.problem
        self.problem.setText(problem)
        self.make.setEnabled(not problem)

    def _suggest(self, in_folder: bool) -> None:
        if in_folder and self.images.path != Path():
            self.folder.suggest(self.images.path / STUDY_FOLDER)
        elif not in_folder:
            self.folder.suggest(Path.home() / STUDY_FOLDER)
        if self.folder.path != Path():
            beside = self.images.path if in_folder and self.images.path != Path() else self.folder.path
            self.key_file.suggest(beside.parent / f"{beside.name}-key.csv")


def _ask_folder(parent: QWidget, title: str, at: str) -> str:
    return str(QFileDialog.getExistingDirectory(parent, title, at))


def _ask_file(parent: QWidget, title: str, at: str) -> str:
    return str(QFileDialog.getSaveFileName(parent, title, at, "Tables (*.csv)")[0])
