"""Export: write what was signed as a data set that other tools accept."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QWidget,
)

from napari_lesionseg.datasets.export import ExportReport, export_dataset
from napari_lesionseg.datasets.export_checks import Step
from napari_lesionseg.datasets.formats import FORMATS, DatasetInfo, ExportConfig
from napari_lesionseg.datasets.formats.dicom import with_originals
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.plugin.tasks import run_task
from napari_lesionseg.plugin.widgets.forms import keep_narrow, small
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.study.datasets import study_records
from napari_lesionseg.study.study import Study

NAMES = {
    "patients": "rename patients",
    "all": "rename everything",
    "nothing": "keep names",
}
"""What `ExportConfig.pseudonymize` takes, in words."""


class ExportRun(QObject):
    """One export, in another thread.

    Attributes
    ----------
    stepped : Signal
        Emitted with each `Step`.
    finished : Signal
        Emitted with the `ExportReport`.
    failed : Signal
        Emitted with the exception; a `CancelledError` when the user gave up, and nothing was written then.
    """

    stepped = Signal(object)
    finished = Signal(object)
    failed = Signal(object)

    def __init__(
        self,
        study: Study,
        out: Path,
        convention: str,
        config: ExportConfig,
        originals: Path | None = None,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._given_up = threading.Event()
        self._job = run_task(
            "writing the data set",
            _export,
            study,
            out,
            convention,
            config,
            originals,
            self.stepped.emit,
            self._given_up,
            done=self.finished.emit,
            failed=self.failed.emit,
        )

    def give_up(self) -> None:
        """End soon; nothing is left behind."""
        self._given_up.set()

    def abandon(self) -> None:
        """Give up, and let nobody hear of it: the window is closing."""
        self._job.close()
        self.give_up()


def _export(
    study: Study,
    out: Path,
    convention: str,
    config: ExportConfig,
    originals: Path | None,
    tell: Callable[[Step], None],
    given_up: threading.Event,
) -> ExportReport:
    """Write the data set; runs in another thread."""
    records = study_records(study)
    if originals is not None:
        records = with_originals(records, originals)
    work = export_dataset(records, out, convention, config=config, info=DatasetInfo(title=out.name))
    with contextlib.closing(work):  # the error's traceback would keep it, and what it has written, alive
        for event in work:
            if isinstance(event, ExportReport):
                return event
            tell(event)
            if given_up.is_set():
                break
    raise CancelledError("The export was given up; nothing was written.")


class ExportPanel(QWidget):
    """Choose a format and a place, and write.

    Parameters
    ----------
    session : StudySession
        The study at work.
    """

    def __init__(self, session: StudySession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.run: ExportRun | None = None
        self.format = QComboBox()
        self.names = QComboBox()
        self.single_region = QCheckBox("one part, no holes")
        self.export = QPushButton("Export\N{HORIZONTAL ELLIPSIS}")
        self.cancel = QPushButton("Cancel")
        self.bar = QProgressBar()
        self.report = small(QLabel())
        self._describe()
        self._lay_out()
        self.export.clicked.connect(self._on_export)
        self.cancel.clicked.connect(self._on_cancel)
        session.changed.connect(self._update)
        self._update()

    def close_session(self) -> None:
        """Let go of the session, and give up what is being written."""
        self._session.changed.disconnect(self._update)
        if self.run is not None:
            self.run.abandon()
        self.run = None

    def start(self, out: Path, originals: Path | None = None) -> None:
        """Write the data set.

        Parameters
        ----------
        out : Path
            A folder that does not exist or is empty.
        originals : Path, optional
            For DICOM, the photographs that the images came from.
        """
        config = ExportConfig(
            pseudonymize=self.names.currentData(), single_region=self.single_region.isChecked()
        )
        self.report.setText("")
        convention = self.format.currentData()
        self.run = run = ExportRun(self._session.study, out, convention, config, originals, self)
        run.stepped.connect(self._on_step)
        run.finished.connect(self._on_finished)
        run.failed.connect(self._on_failed)
        self._update()

    def _describe(self) -> None:
        for name, found in FORMATS.items():
            if found.write:
                self.format.addItem(found.title, name)
        self.format.setCurrentIndex(max(0, self.format.findData("isic")))
        for value, words in NAMES.items():
            self.names.addItem(words, value)
        keep_narrow(self.format)
        keep_narrow(self.names)
        self.format.setToolTip("Which tools the data set is for")
        self.single_region.setToolTip("Write the largest part of each outline alone, with its holes closed")
        self.names.setToolTip("What gets running numbers in place of its name; EXIF never leaves the house")
        self.cancel.setToolTip("Stop; nothing is left behind")
        self.report.setWordWrap(True)
        self.report.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.report.setMinimumHeight(3 * self.report.fontMetrics().lineSpacing())
        self.report.setAlignment(Qt.AlignmentFlag.AlignTop)

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.format, 0, 0)
        grid.addWidget(self.names, 0, 1)
        grid.addWidget(self.single_region, 1, 0, 1, 2)
        grid.addWidget(self.export, 2, 0)
        grid.addWidget(self.cancel, 2, 1)
        grid.addWidget(self.bar, 3, 0, 1, 2)
        grid.addWidget(self.report, 4, 0, 1, 2)

    def _on_export(self) -> None:
        originals = None
        needed = FORMATS[self.format.currentData()].origin
        if needed:
            asked = f"Folder of the {needed} photographs that the images came from"
            originals = QFileDialog.getExistingDirectory(self, asked)
            if not originals:
                return
        folder, _ = QFileDialog.getSaveFileName(self, "Name a new folder for the data set")
        if folder:
            self.start(Path(folder), Path(originals) if originals else None)

    def _on_cancel(self) -> None:
        if self.run is not None:
            self.run.give_up()

    def _on_step(self, step: Step) -> None:
        self.bar.setMaximum(max(1, step.total))
        self.bar.setValue(step.done)
        self.bar.setFormat(f"{step.stage} %v of %m")

    def _on_finished(self, report: ExportReport) -> None:
        self.run = None
        parts = ", ".join(f"{part} {count}" for part, count in report.parts.items())
        left_out = f"; {report.left_out} left out (point here)" if report.left_out else ""
        self.bar.reset()
        self.report.setText(f"{report.written} images written to {report.folder} ({parts}){left_out}")
        self.report.setToolTip(
            "\n".join(f"{problem.name}: {problem.reason}" for problem in report.problems[:40])
        )
        self._update()

    def _on_failed(self, error: Exception) -> None:
        self.run = None
        self.report.setText(str(error))
        self.bar.reset()
        if not isinstance(error, CancelledError):
            show_error(str(error))
        self._update()

    def _update(self) -> None:
        signed = sum(state.status.done for state in self._session.study.state.images.values())
        why = "The data set is being written" if self.run is not None else ""
        why = why or ("" if signed else "Approve some images first")
        self.export.setEnabled(not why)
        self.export.setToolTip(why or f"Write the {signed} signed images as a data set")
        self.cancel.setEnabled(self.run is not None)
