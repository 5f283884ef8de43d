"""Export: write the approved outlines or landmarks, with their images, as a dataset for other tools."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QProgressBar,
    QPushButton,
)

from napari_lesionseg.datasets.export import ExportReport, export_dataset, write_key
from napari_lesionseg.datasets.export_checks import Step
from napari_lesionseg.datasets.formats import FORMATS, DatasetInfo, ExportConfig
from napari_lesionseg.datasets.formats.dicom import with_originals
from napari_lesionseg.datasets.splits import WHOLE
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.plugin.widgets.forms import ReportBox, keep_narrow, settings_form
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.datasets import study_records
from napari_lesionseg.study.landmarks import landmark_records
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari.components import ViewerModel


SHOWN = 5
"""Images that were left out and are named in the report."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and the file with the old name of each new one, if names were replaced."""

    report: ExportReport
    key: Path | None = None


class ExportTask(Task[Exported]):
    """Writes a dataset; `progressed` is emitted with each `Step`. Nothing is left behind after `cancel`."""

    cancelled_message = "The export was canceled. Nothing was written."

    def __init__(
        self, study: Study, out: Path, format_name: str, config: ExportConfig, originals: Path | None = None
    ) -> None:
        super().__init__("writing the dataset", self._export, study, out, format_name, config, originals)

    def _export(
        self, study: Study, out: Path, format_name: str, config: ExportConfig, originals: Path | None
    ) -> Exported:
        records = study_records(study) if study.info.landmarks is None else landmark_records(study)[0]
        if originals is not None:
            records = with_originals(records, originals)
        info, key = DatasetInfo(title=out.name), _Key(out, config)
        work = export_dataset(records, out, format_name, config=config, info=info, keep_names=key.save)
        with contextlib.closing(work):  # the error's traceback would keep it, and what it has written, alive
            for event in work:
                if isinstance(event, ExportReport):
                    return Exported(event, key.path)
                self.report(event)
        raise CancelledError(self.cancelled_message)


class _Key:
    """Where it is saved, beside the dataset, which new name stands for which old one."""

    def __init__(self, dataset: Path, config: ExportConfig) -> None:
        self.path: Path | None = None
        self._dataset, self._config = dataset, config

    def save(self, names: Mapping[str, str]) -> None:
        """Write a key, if names were replaced."""
        if self._config.pseudonymize == "nothing" or all(old == new for old, new in names.items()):
            return
        beside, number = self._dataset.with_name(f"{self._dataset.name}-key.csv"), 1
        while beside.exists():
            number += 1
            beside = self._dataset.with_name(f"{self._dataset.name}-key-{number}.csv")
        write_key(names, beside)
        self.path = beside


def describe_export(exported: Exported) -> str:
    """Describe what was written, left out or needs a look and why, and where the key of new names is."""
    report = exported.report
    parts = ", ".join(f"{part} {count}" for part, count in report.parts.items())
    lines = [f"{report.written} images written to {report.folder} ({parts})"]
    left_out = [f"{problem.name}: {problem.reason}" for problem in report.problems if problem.left_out]
    to_check = [f"{problem.name}: {problem.reason}" for problem in report.problems if not problem.left_out]
    for what, problems in (("left out", left_out), ("to check", to_check)):
        if problems:
            lines += [f"{len(problems)} {what}:", *problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"and {len(problems) - SHOWN} more (hover here)")
    if exported.key is not None:
        lines.append(f"The old names are in {exported.key}. Keep it apart from the dataset.")
    return "\n".join(lines)


class ExportPanel(Panel):
    """Choose a format and a folder, and write."""

    title = "Export"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.task: ExportTask | None = None
        self._written: Path | None = None
        self.format = QComboBox()
        self._form = settings_form(ExportConfig, "pseudonymize", "single_region")
        self.export = QPushButton("Export\N{HORIZONTAL ELLIPSIS}")
        self.cancel = QPushButton("Cancel")
        self.bar = QProgressBar()
        self.report = ReportBox(4)
        self.open_folder = QPushButton("Open the dataset's folder")
        self._describe()
        self._lay_out()
        self.export.clicked.connect(self._on_export)
        self.cancel.clicked.connect(self._on_cancel)
        self.open_folder.clicked.connect(self._on_open_folder)

    def show_session(self, session: StudySession) -> None:
        """Offer to export a study."""
        self._offer(landmarks=session.study.info.landmarks is not None)
        self.report.setText("")
        self.open_folder.setEnabled(False)
        self.bar.reset()
        self.listen(session.changed, self._update)
        self._update()

    def close_session(self) -> None:
        """Stop writing."""
        if self.task is not None:
            self.task.close()
        self.task = None

    def start(self, out: Path, originals: Path | None = None) -> None:
        """Write the dataset to a new or empty folder; `originals` are photographs for DICOM."""
        if self.session is None:
            return
        has_landmarks = self.session.study.info.landmarks is not None
        config = self._form.settings(**{"shares": WHOLE} if has_landmarks else {})
        self.report.setText("")
        self.open_folder.setEnabled(False)
        self.task = ExportTask(self.session.study, out, self.format.currentData(), config, originals)
        self.task.progressed.connect(self._on_step)
        self.task.finished.connect(self._on_finished)
        self.task.failed.connect(self._on_failed)
        self.task.start()
        self._update()

    def _describe(self) -> None:
        self._offer(landmarks=False)
        keep_narrow(self.format)
        self.format.setToolTip("Format of the dataset")
        self.cancel.setToolTip("Stop the export. Nothing is written")

    def _offer(self, *, landmarks: bool) -> None:
        """List the formats that hold outlines, or landmarks."""
        former = self.format.currentData()
        self.format.clear()
        for name, found in FORMATS.items():
            if found.write and found.landmarks == landmarks:
                self.format.addItem(found.title, name)
        preferred = self.format.findData(former)
        self.format.setCurrentIndex(max(0, preferred if preferred >= 0 else self.format.findData("isic")))
        self._form.native("single_region").setVisible(not landmarks)
        # A study of landmarks has another button, for a file without images.
        self.export.setText(f"Export{' with images' * landmarks}\N{HORIZONTAL ELLIPSIS}")

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.format, 0, 0)
        grid.addWidget(self._form.native("pseudonymize"), 0, 1)
        grid.addWidget(self._form.native("single_region"), 1, 0, 1, 2)
        grid.addWidget(self.export, 2, 0)
        grid.addWidget(self.cancel, 2, 1)
        grid.addWidget(self.bar, 3, 0, 1, 2)
        grid.addWidget(self.report, 4, 0, 1, 2)
        grid.addWidget(self.open_folder, 5, 0, 1, 2)
        self.open_folder.setEnabled(False)

    def _on_export(self) -> None:
        originals = None
        needed = FORMATS[self.format.currentData()].origin
        if needed:
            asked = f"Folder of the {needed} photographs the images were made from"
            originals = QFileDialog.getExistingDirectory(self, asked)
            if not originals:
                return
        folder, _ = QFileDialog.getSaveFileName(self, "New folder for the dataset")
        if folder:
            self.start(Path(folder), Path(originals) if originals else None)

    def _on_cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def _on_step(self, step: Step) -> None:
        self.bar.setMaximum(max(1, step.total))
        self.bar.setValue(step.done)
        self.bar.setFormat(f"{step.stage} %v of %m")

    def _on_finished(self, exported: Exported) -> None:
        self.task, self._written = None, exported.report.folder
        self.bar.reset()
        self.open_folder.setEnabled(True)
        self.report.setText(describe_export(exported))
        problems = exported.report.problems[:40]
        self.report.setToolTip("\n".join(f"{problem.name}: {problem.reason}" for problem in problems))
        self._update()

    def _on_open_folder(self) -> None:
        if self._written is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._written)))

    def _on_failed(self, error: Exception) -> None:
        self.task = None
        self.report.setText(str(error))
        self.bar.reset()
        if not isinstance(error, CancelledError):
            show_error(str(error))
        self._update()

    def _update(self) -> None:
        if self.session is None:
            return
        done = sum(state.status.done for state in self.session.study.state.images.values())
        why_not = "The dataset is being written" if self.task is not None else ""
        why_not = why_not or ("" if done else "Approve some images first")
        count = "1 approved image" if done == 1 else f"{done} approved images"
        self.export.setEnabled(not why_not)
        self.export.setToolTip(why_not or f"Write the {count} as a dataset")
        self.cancel.setEnabled(self.task is not None)
