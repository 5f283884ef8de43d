"""Parts of the panel for landmarks: the list of names, the line of status, and what follows its dock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_lesionseg.datasets.landmarks.skeletons import PRESETS, describe_skeleton
from napari_lesionseg.errors import DatasetError, LesionSegError
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.plugin.widgets.forms import ignore_wheel, keep_narrow

if TYPE_CHECKING:
    from napari_lesionseg.config import Skeleton


FILES = "COCO keypoints (*.json);;DeepLabCut (*.csv)"
_ENDINGS = (".json", ".csv")


def ask_new_file(parent: QWidget) -> Path | None:
    """Ask for a file to write; its ending is that of the chosen format, unless a known one was typed."""
    name, kind = QFileDialog.getSaveFileName(parent, "Export landmarks", "landmarks.json", FILES)
    if not name:
        return None
    asked = Path(name)
    # The first format is chosen unless somebody chooses the other.
    ending = ".csv" if kind.endswith("(*.csv)") else ".json"
    if asked.suffix.lower() == ending or (ending == ".json" and asked.suffix.lower() in _ENDINGS):
        return asked
    kept = asked.with_suffix("") if asked.suffix.lower() in _ENDINGS else asked
    path = kept.with_name(kept.name + ending)
    if path.exists():  # the dialog has only asked about the other name
        raise DatasetError(f"{path.name} is there already. Choose it in the list of files to replace it.")
    return path


class SkeletonBox(QComboBox):
    """A list of skeletons that are needed often, in which others can be typed."""

    chosen = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setEditable(True)
        ignore_wheel(self)
        keep_narrow(self)
        self.addItems(list(PRESETS.values()))
        self.setToolTip(
            "Names with commas between them, and “ - ” between those that a line joins, such as "
            "“nose, shoulder - elbow - hand”"
        )
        self.activated.connect(self.chosen)
        self._line = self.lineEdit()
        if self._line is not None:
            self._line.editingFinished.connect(self.chosen)
            self._line.home(False)  # else the end of long names would be shown

    def show_skeleton(self, skeleton: Skeleton) -> None:
        """Show the names of a skeleton."""
        self.setEditText(describe_skeleton(skeleton))
        if self._line is not None:
            self._line.home(False)


class WorkLine(QWidget):
    """Works in another thread, one thing at a time, and says how it went."""

    busy = Signal(bool)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.status, self.cancel = QLabel(text), QPushButton("Cancel")
        self.status.setWordWrap(True)
        self.status.setTextFormat(Qt.TextFormat.PlainText)
        self.cancel.setToolTip("Stop; what is there stays as it is")
        self.cancel.setVisible(False)
        self.cancel.clicked.connect(self._on_cancel)
        self._task: Task[Any] | None = None
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.status, 1)
        row.addWidget(self.cancel, 0, Qt.AlignmentFlag.AlignTop)

    def start(self, task: Task[Any], done: Callable[[Any], object]) -> None:
        """Start a task; `done` gets its result."""
        self._task = task
        task.progressed.connect(self._on_progress)
        task.finished.connect(partial(self._on_done, done))
        task.failed.connect(self._on_failed)
        self.busy.emit(True)
        task.start()

    def stop(self) -> None:
        """Stop working; touches no widget that Qt has deleted."""
        if self._task is not None:
            self._task.close()
            if isalive(self):  # type: ignore[no-untyped-call]
                self._end()

    def _on_progress(self, text: str) -> None:
        self.cancel.setVisible(True)
        self.status.setText(text)

    def _on_cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _on_done(self, done: Callable[[Any], object], result: Any) -> None:
        self._end()
        try:
            done(result)
        except LesionSegError as error:
            show_error(str(error))

    def _on_failed(self, error: Exception) -> None:
        self._end()
        self.status.setText(str(error))

    def _end(self) -> None:
        self._task = None
        self.cancel.setVisible(False)
        self.busy.emit(False)


class WhenDocked(QObject):
    """Calls a function when a widget is taken out of its dock, and another when it is put into one.

    The cross of a dock leaves the widget to Python, which may keep it.
    """

    def __init__(self, widget: QWidget, docked: Callable[[], None], removed: Callable[[], None]) -> None:
        super().__init__(widget)
        self._widget, self._docked, self._removed = widget, docked, removed
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802  Qt's name
        """Notice another parent."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            (self._removed if self._widget.parentWidget() is None else self._docked)()
        return False
