"""What the dock widgets' forms share: their shape, the line that says what goes on, and their end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_lesionseg.plugin.widgets.model_picker import ModelPicker
from napari_lesionseg.plugin.widgets.postprocess_form import small


def status_line() -> QLabel:
    """Make a label of two lines, so that the form does not jump when more is said."""
    label = small(QLabel())
    label.setWordWrap(True)
    label.setMinimumHeight(2 * label.fontMetrics().lineSpacing())
    return label


def captioned(*rows: tuple[str, QWidget]) -> QGridLayout:
    """Make a form of captions and widgets; the widgets take the width that is left."""
    grid = QGridLayout()
    grid.setColumnStretch(1, 1)
    for row, (caption, part) in enumerate(rows):
        grid.addWidget(QLabel(caption), row, 0)
        grid.addWidget(part, row, 1)
    return grid


class RunBar:
    """What a widget that outlines in the background ends with: Segment, Cancel, how far it is, what goes on.

    A bundle of widgets rather than a widget, as `PostprocessForm`.
    """

    def __init__(self) -> None:
        self.segment = QPushButton("Segment")
        self.cancel = QPushButton("Cancel")
        self.progress_bar = QProgressBar()
        self.progress_bar.setVisible(False)
        self.status = status_line()

    def say(self, text: str) -> None:
        """Write what goes on."""
        self.status.setText(text)

    def lay_out(self, widget: QWidget, form: QGridLayout) -> None:
        """Fill a widget with a form and, below it, the rest."""
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


def image_and_model(images: QWidget, models: ModelPicker) -> tuple[QGridLayout, int]:
    """Begin a form with the image and the model; also give its first free row."""
    grid = captioned(("Image", images))
    return grid, models.add_to(grid, 1)


def when_gone(widget: QWidget, *callbacks: Callable[[], None]) -> None:
    """Call functions after a widget's Qt side has gone, methods of the widget among them."""
    # Not the methods themselves: Qt would have cut them off before the signal is sent.
    widget.destroyed.connect(partial(_call_all, callbacks))


def _call_all(callbacks: tuple[Callable[[], None], ...], *_: Any) -> None:
    for callback in callbacks:
        callback()
