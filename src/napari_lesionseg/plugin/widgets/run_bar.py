"""The bottom of a widget that works in the background: buttons, progress and status."""

from __future__ import annotations

from napari.utils import progress
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_lesionseg.plugin.widgets.forms import MessageLabel, keep_place


class RunBar:
    """Segment, Cancel, a progress bar and a status line: a bundle of widgets, not a widget."""

    def __init__(self) -> None:
        self.segment = QPushButton("Segment")
        self.cancel = QPushButton("Cancel")
        self.progress_bar = QProgressBar()
        keep_place(self.progress_bar)
        self.progress_bar.setVisible(False)
        self.status = MessageLabel()
        self._activity: progress | None = None

    def say(self, text: str) -> None:
        """Show a status."""
        self.status.setText(text)

    def start_activity(self, title: str, total: int = 0) -> None:
        """Show the work in napari's list of activities, too."""
        self._activity = progress(total=total, desc=title)

    def set_progress(self, done: int, total: int) -> None:
        """Show progress; a total of 0 stands for an unknown amount of work."""
        self.progress_bar.setRange(0, total)
        self.progress_bar.setValue(done)
        if self._activity is not None and done > self._activity.n:
            self._activity.total = total
            self._activity.update(done - self._activity.n)

    def end_activity(self) -> None:
        """Remove the work from napari's list of activities."""
        if self._activity is not None:
            self._activity.close()
            self._activity = None

    def lay_out(self, widget: QWidget, form: QGridLayout) -> None:
        """Fill a widget with a form and, below it, the bar."""
        buttons = QHBoxLayout()
        buttons.addWidget(self.segment, 2)
        buttons.addWidget(self.cancel, 1)
        column = QVBoxLayout(widget)
        column.addLayout(form)
        column.addSpacing(6)
        column.addLayout(buttons)
        column.addWidget(self.progress_bar)
        column.addWidget(self.status)
        column.addStretch()
