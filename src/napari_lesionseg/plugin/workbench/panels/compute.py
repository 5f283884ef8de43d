"""Where the long work runs: on this computer, or on a dask cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QComboBox, QGridLayout, QLabel, QLineEdit, QPushButton

from napari_lesionseg.cluster.engine import IN_PROCESS, ClusterOptions, open_engine
from napari_lesionseg.plugin.settings import read_preferences, remember_scheduler
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import MessageLabel, small, when_gone
from napari_lesionseg.plugin.workbench.panels.base import Panel

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.plugin.workbench.session import StudySession

HERE, CLUSTER = "This computer", "Cluster…"
WHAT_RUNS_THERE = "“Segment all” and fine-tuning run there.\nUse only a cluster that you trust."
DETAILS = (
    "Clicks, boxes and the next images stay on this computer, which answers faster. Images and outlines are "
    "sent to the cluster: connect to your own, through TLS or an SSH tunnel."
)


class ComputePanel(Panel):
    """Chooses the cluster, and tests the connection to it."""

    title, needs_study, only_for = "Compute", False, "outlines"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._testing: Task[str] | None = None
        self.where, self.address, self.test = QComboBox(), QLineEdit(), QPushButton("Test")
        self.where.addItems([HERE, CLUSTER])
        self.where.setToolTip("Where all images are segmented and models are fine-tuned")
        self.address.setText(read_preferences().scheduler)
        self.address.setPlaceholderText("tcp://server:8786")
        self.address.setToolTip("Address of the dask scheduler")
        self.test.setToolTip("Connect, and compare the versions of the workers")
        self.status, self.explanation = MessageLabel(), small(QLabel(WHAT_RUNS_THERE))
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(0, 1)
        grid.addWidget(self.where, 0, 0, 1, 2)
        grid.addWidget(self.address, 1, 0)
        grid.addWidget(self.test, 1, 1)
        self.explanation.setToolTip(DETAILS)
        for row, label in enumerate((self.status, self.explanation), 2):
            grid.addWidget(label, row, 0, 1, 2)
        self.where.currentTextChanged.connect(self._update)
        self.address.textChanged.connect(self._update)
        self.address.editingFinished.connect(lambda: remember_scheduler(self.address.text().strip()))
        self.test.clicked.connect(self._on_test)
        when_gone(self, self._close_task)
        self._update()

    @property
    def compute(self) -> ClusterOptions:
        """Where to run the long work; on this computer as long as there is no address."""
        address = self.address.text().strip()
        if self.where.currentText() == HERE or not address:
            return IN_PROCESS
        return ClusterOptions(scheduler=address)

    def show_session(self, session: StudySession) -> None:
        """Use the choice for a study."""
        session.compute = self.compute

    def _update(self) -> None:
        on_cluster = self.where.currentText() == CLUSTER
        for widget in (self.address, self.test, self.status, self.explanation):
            widget.setVisible(on_cluster)
        self.status.setText("")
        self.test.setEnabled(not self.compute.in_process and self._testing is None)
        if self.session is not None:
            self.session.compute = self.compute

    def _on_test(self) -> None:
        self.status.setText("Connecting…")
        self.test.setEnabled(False)
        self._testing = run_task(
            "connecting to the cluster",
            _describe_cluster,
            self.compute,
            done=self._on_tested,
            failed=lambda error: self._on_tested(str(error)),
        )

    def _on_tested(self, message: str) -> None:
        self._testing = None
        self.status.setText(message)
        self.test.setEnabled(not self.compute.in_process)

    def _close_task(self) -> None:
        if self._testing is not None:
            self._testing.close()


def _describe_cluster(compute: ClusterOptions) -> str:
    """Connect, check the versions, and describe the cluster; runs in another thread."""
    with open_engine(compute) as engine:
        return " ".join([f"Connected: {engine.description}.", *engine.problems])
