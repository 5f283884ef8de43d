"""Asks what a new study is to be: its images, its place, who reads, and who may see what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.plugin.widgets.forms import small
from napari_lesionseg.plugin.workbench.open_study import NewStudy
from napari_lesionseg.study.events import LESION
from napari_lesionseg.study.layout import STUDY_FOLDER
from napari_lesionseg.types import ByteImage

_WIDTH = 560
_COPY_TIP = "Off: the files stay where they are, and the study refers to them. On: copies without EXIF"
_COPY_FIXED = "These images are always saved in the study"


class PathRow(QWidget):
    """A path to be typed or looked for.

    Until it was touched, `suggest` changes it.

    Parameters
    ----------
    browse : callable
        Opens a dialog with the present path, and gives the chosen one, or "".
    """

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
        """What is written there; ``Path()`` for nothing."""
        return Path(self.edit.text().strip()).expanduser()

    def set_path(self, path: Path) -> None:
        """Write a path as if it was typed."""
        self._touch()
        self.edit.setText(str(path))

    def suggest(self, path: Path) -> None:
        """Write a path, unless there is one of the user's own."""
        if not self._touched:
            self.edit.setText(str(path))

    def _touch(self) -> None:
        self._touched = True

    def _on_browse(self) -> None:
        chosen = self._browse(self.edit.text())
        if chosen:
            self.set_path(Path(chosen))


class NewStudyDialog(QDialog):
    """Asks what a new study is to be; `plan` is the answer.

    Parameters
    ----------
    annotator : str
        Who works in it, as a suggestion.
    images : mapping of str to ndarray
        Images that are open in the viewer, (H, W, 3) uint8.
    """

    def __init__(
        self, annotator: str, images: Mapping[str, ByteImage], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._images = images
        self.setWindowTitle("New study")
        self.setMinimumWidth(_WIDTH)
        self.from_folder = QRadioButton("in a folder: plain, PH2 or ISIC")
        self.from_viewer = QRadioButton(f"open in the viewer ({len(images)})")
        self.images = PathRow(lambda at: _ask_folder(self, "The folder of the images", at))
        self.folder = PathRow(lambda at: _ask_folder(self, "A new or empty folder for the study", at))
        self.key_file = PathRow(lambda at: _ask_file(self, "Where the key of the pseudonyms is kept", at))
        self.annotator = QLineEdit(annotator)
        self.classes = QLineEdit(LESION.name)
        self.copy = QCheckBox("Copy the images into the study")
        self.pseudonyms = QCheckBox("Give images, patients and lesions pseudonyms")
        self.blinded = QCheckBox("Annotators do not see each other's outlines")
        self.problem = small(QLabel())
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.make = QPushButton("Make the study")
        self._describe()
        self._lay_out()
        self._connect()
        (self.from_viewer if images else self.from_folder).setChecked(True)
        self._update()

    @property
    def plan(self) -> NewStudy:
        """What was asked for."""
        in_folder = self.from_folder.isChecked()
        return NewStudy(
            folder=self.folder.path,
            annotator=self.annotator.text().strip(),
            images_folder=self.images.path if in_folder and self.images.path != Path() else None,
            images={} if in_folder else self._images,
            classes=tuple(name.strip() for name in self.classes.text().split(",") if name.strip()),
            copy=self.copy.isChecked(),
            key_file=self.key_file.path if self.pseudonyms.isChecked() else None,
            blinded=self.blinded.isChecked(),
        )

    def _describe(self) -> None:
        self.from_viewer.setEnabled(bool(self._images))
        self.from_viewer.setToolTip(
            "They are saved in the study" if self._images else "No image is open in the viewer"
        )
        self.annotator.setToolTip("Your name or initials: every outline is signed with it")
        self.classes.setToolTip("What is outlined; several names with commas between them")
        self.pseudonyms.setToolTip("Names are replaced by random numbers; only the key file tells them")
        self.blinded.setToolTip("Each sees only the own work, until somebody compares the annotators")
        self.problem.setWordWrap(True)
        self.make.setDefault(True)
        self.buttons.addButton(self.make, QDialogButtonBox.ButtonRole.AcceptRole)

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        form.addRow("Images", self.from_folder)
        form.addRow("", self.images)
        form.addRow("", self.from_viewer)
        form.addRow("Study in", self.folder)
        form.addRow("Annotator", self.annotator)
        form.addRow("To outline", self.classes)
        form.addRow("", self.copy)
        form.addRow("", self.pseudonyms)
        form.addRow("Key file", self.key_file)
        form.addRow("", self.blinded)
        column = QVBoxLayout(self)
        column.addLayout(form)
        column.addWidget(self.problem)
        column.addWidget(self.buttons)

    def _connect(self) -> None:
        for row in (self.images, self.folder, self.key_file):
            row.edit.textChanged.connect(self._update)
        for edit in (self.annotator, self.classes):
            edit.textChanged.connect(self._update)
        for box in (self.from_folder, self.copy, self.pseudonyms):
            box.toggled.connect(self._update)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)

    def _update(self) -> None:
        """Suggest what is not given, switch off what does not matter, and say what is missing."""
        in_folder = self.from_folder.isChecked()
        self.images.setEnabled(in_folder)
        self._suggest(in_folder)
        fixed = self.pseudonyms.isChecked() or not in_folder
        with QSignalBlocker(self.copy):
            self.copy.setChecked(fixed or (self.copy.isChecked() and self.copy.isEnabled()))
        self.copy.setEnabled(not fixed)
        self.copy.setToolTip(_COPY_FIXED if fixed else _COPY_TIP)
        self.key_file.setEnabled(self.pseudonyms.isChecked())
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
