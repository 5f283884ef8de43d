"""The bottom of a widget that outlines in the background: buttons, progress and status."""

from __future__ import annotations

from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_lesionseg.plugin.widgets.forms import status_line


class RunBar:
    """Segment, Cancel, a progress bar and a status line: a bundle of widgets, not a widget."""

    def __init__(self) -> None:
        self.segment = QPushButton("Segment")
        self.cancel = QPushButton("Cancel")
        self.progress_bar = QProgressBar()
        self.progress_bar.setVisible(False)
        self.status = status_line()

    def say(self, text: str) -> None:
        """Show a status."""
        self.status.setText(text)

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
