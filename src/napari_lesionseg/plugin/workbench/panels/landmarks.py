"""The landmarks of a study: marking, a model that marks the next images first, and files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPushButton, QVBoxLayout

from napari_lesionseg.datasets.landmarks import read_landmarks, write_landmarks
from napari_lesionseg.datasets.records import Problem
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.landmarks.controls import MarkingControls, RulerControls, TrainingControls
from napari_lesionseg.plugin.landmarks.editor import has_ruler
from napari_lesionseg.plugin.landmarks.task import MarkedImage
from napari_lesionseg.plugin.landmarks.widgets import FILES, ask_new_file
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import MessageLabel, when_gone
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.study.followup import SCALE_FIELD
from napari_lesionseg.study.landmarks import (
    approved_landmarks,
    import_landmarks,
    people_in,
    skeleton_of,
)
from napari_lesionseg.study.layout import study_name
from napari_lesionseg.study.state import Status

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.config import Skeleton
    from napari_lesionseg.inference.landmarks import LandmarkModel
    from napari_lesionseg.plugin.workbench.session import StudySession
    from napari_lesionseg.study.study import Study

SHOWN = 3
"""Problems that are named after an import or export."""


class LandmarkPanel(Panel):
    """Marks the landmarks of a study's images, trains on approved ones, and reads and writes files."""

    title, folded, only_for = "Landmarks", False, "landmarks"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.marking = MarkingControls()
        self.training = TrainingControls(self._approved_images, self._skeleton)
        self.ruler = RulerControls(lambda: self.marking.editor)
        self.read = QPushButton("Import file\N{HORIZONTAL ELLIPSIS}")
        self.write = QPushButton("Export file\N{HORIZONTAL ELLIPSIS}")
        self.status = MessageLabel()
        self._task: Task[str] | None = None
        self._lay_out()
        self.training.model_changed.connect(self._on_model)
        self.read.clicked.connect(self._ask_import)
        self.write.clicked.connect(self._ask_export)
        when_gone(self, self.close_session)

    def show_session(self, session: StudySession) -> None:
        """Mark the images of a study, with the model that is loaded."""
        self.ruler.setVisible(has_ruler(skeleton_of(session.study)))
        self.training.name = f"{study_name(session.study.folder)} landmarks"
        self.status.setText("")
        self.listen(session.opened, self.marking.set_editor)
        session.set_model(self.training.loaded)

    def close_session(self) -> None:
        """Stop reading and writing files."""
        if self._task is not None:
            self._task.close()
        self._task = None

    def import_from(self, path: Path) -> None:
        """Read landmarks from a file into the images that nobody has marked yet."""
        self._run("reading landmarks", _import, path)

    def export_to(self, path: Path) -> None:
        """Write the landmarks of all approved images."""
        self._run("writing landmarks", _export, path)

    def _lay_out(self) -> None:
        self.read.setToolTip("Read COCO keypoints or a DeepLabCut table; marked images are left alone")
        self.write.setToolTip(
            "Write the approved landmarks as COCO keypoints or as a DeepLabCut table; the section Export "
            "writes the images as well"
        )
        self.ruler.told.connect(self._on_scale)
        files = QHBoxLayout()
        files.addWidget(self.read)
        files.addWidget(self.write)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addWidget(self.marking)
        column.addWidget(self.ruler)
        column.addWidget(self.training)
        column.addLayout(files)
        column.addWidget(self.status)

    def _skeleton(self) -> Skeleton:
        if self.session is None:
            raise LesionSegError("Open a study first.")
        return skeleton_of(self.session.study)

    def _approved_images(self) -> list[MarkedImage]:
        """Return the images to learn from: those that were approved, or show nothing to mark."""
        if self.session is None:
            return []
        study = self.session.study
        return [
            MarkedImage(
                SplitItem(image_id, state.patient, state.lesion),
                partial(study.read_image, image_id),
                people_in(study, state.approved if state.status is Status.APPROVED else None),
            )
            for image_id, state in study.state.images.items()
            if state.status.done
        ]

    def _on_model(self, model: LandmarkModel | None) -> None:
        if self.session is not None:
            self.session.set_model(model)

    def _on_scale(self, told: str) -> None:
        if self.session is not None and self.session.fields.template.find(SCALE_FIELD) is not None:
            told += " It is filled in under Fields, where Undo takes it back."
        self.status.setText(told)

    def _ask_import(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Import landmarks", "", FILES)
        if name:
            self.import_from(Path(name))

    def _ask_export(self) -> None:
        try:
            path = ask_new_file(self)
        except LesionSegError as error:
            show_error(str(error))
            return
        if path is not None:
            self.export_to(path)

    def _run(self, title: str, function: Callable[[Study, Path], str], path: Path) -> None:
        session = self.session
        if session is None or self._task is not None:
            return
        session.display.save()
        problem = session.save_queue.flush()
        if problem:
            show_error(problem)
            return
        self._task = run_task(
            title, function, session.study, path, done=self._on_done, failed=self._on_failed
        )

    def _on_done(self, told: str) -> None:
        self._task = None
        self.status.setText(told)
        if self.session is not None:
            self.session.poller.show_changes()

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self.status.setText(str(error))


def _import(study: Study, path: Path) -> str:
    """Import a file; runs in another thread."""
    saved, problems = import_landmarks(study, read_landmarks(path))
    return f"Landmarks of {saved} images read. {_describe(problems)}".strip()


def _export(study: Study, path: Path) -> str:
    """Write a file; runs in another thread."""
    dataset = approved_landmarks(study)
    problems = (*dataset.problems, *write_landmarks(path, dataset))
    return f"Landmarks of {len(dataset.images)} approved images written. {_describe(problems)}".strip()


def _describe(problems: tuple[Problem, ...]) -> str:
    named = " ".join(f"{problem.name}: {problem.reason}" for problem in problems[:SHOWN])
    more = len(problems) - SHOWN
    return f"{named} And {more} more." if more > 0 else named
