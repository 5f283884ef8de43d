"""The form for how a mask is made from a prediction. It knows neither viewer nor network."""

from __future__ import annotations

from qtpy.QtCore import QObject, QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QSlider, QVBoxLayout, QWidget

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.shortcuts import bind_key, set_tip
from napari_lesionseg.plugin.tasks import Delay
from napari_lesionseg.plugin.widgets.forms import settings_form, small

SETTLE_MS = 500
"""Pause after which moves by keys, wheel or arrows count as finished; a dragged slider is released."""

LOWEST_THRESHOLD = 0.02
"""Lowest threshold that the slider offers; the highest is 1 minus it."""


class ThresholdSlider(QWidget):
    """A slider from a tight outline to a loose one.

    Until it is moved, and after Reset, it stands for the model's own threshold: `threshold` is None.
    """

    moved = Signal()  # all along a drag
    released = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._own: float | None = None
        self._threshold: float | None = None
        lowest = round(LOWEST_THRESHOLD * 100)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(lowest, 100 - lowest)  # looseness: 100 minus the threshold in percent
        self.slider.setPageStep(5)
        self.reset = QPushButton("Reset")
        self._value = small(QLabel())
        self._value.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._lay_out()
        self.slider.valueChanged.connect(self._on_slid)
        self.slider.sliderReleased.connect(self.released)
        self.reset.clicked.connect(self._on_reset)
        self._show()

    @property
    def threshold(self) -> float | None:
        """The threshold in [0.02, 0.98], or None for the model's own."""
        return self._threshold

    @property
    def caption(self) -> str:
        """The text under the slider."""
        return str(self._value.text())

    def set_threshold(self, threshold: float | None, own: float | None) -> None:
        """Show a threshold, and the model's own if it is known, without emitting signals."""
        self._threshold, self._own = threshold, own
        self._show()

    def _lay_out(self) -> None:
        tip = "Drag left for a tighter outline, right for a looser one. The arrow keys work too"
        set_tip(self.slider, tip, "threshold")
        row = QHBoxLayout()
        row.addWidget(self.slider, 1)
        row.addWidget(self.reset)
        captions = QHBoxLayout()
        captions.addWidget(small(QLabel("tight")))
        captions.addWidget(self._value, 1)
        captions.addWidget(small(QLabel("loose")))
        captions.setContentsMargins(0, 0, 0, 0)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(row)
        column.addLayout(captions)

    def _on_slid(self, looseness: int) -> None:
        self._threshold = (100 - looseness) / 100
        self._show()
        self.moved.emit()

    def _on_reset(self) -> None:
        self._threshold = None
        self._show()
        self.moved.emit()
        self.released.emit()

    def _show(self) -> None:
        shown = self._threshold if self._threshold is not None else self._own
        with QSignalBlocker(self.slider):
            self.slider.setValue(round(100 - 100 * (0.5 if shown is None else shown)))
        number = "" if shown is None else f"{shown:.2f}"
        self._value.setText(number if self._threshold is not None else f"{number} (default)".strip())
        self.reset.setEnabled(self._threshold is not None)
        own = self._threshold is None
        tip = "The model's own threshold is already in use" if own else "Use the model's own threshold again"
        set_tip(self.reset, tip, "own threshold")


class PostprocessForm(QObject):
    """Widgets for a `PostprocessConfig`, to be added to a form."""

    changed = Signal()
    """The settings changed; emitted all along a drag."""
    settled = Signal()
    """The user paused or released the slider, so that slow work may begin."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._unsettled = False
        self.threshold = ThresholdSlider()
        self._form = settings_form(PostprocessConfig, "fill_holes", "largest_only", "min_area")
        self.fill_holes, self.largest_only, self.min_area = map(self._form.native, self._form.widgets)
        self._pause = Delay(SETTLE_MS, self._settle)
        self._bind_keys()
        self.set_config(PostprocessConfig(), own=None)
        self._connect()

    @property
    def config(self) -> PostprocessConfig:
        """The settings as they stand."""
        return self._form.settings(threshold=self.threshold.threshold)

    @property
    def is_held(self) -> bool:
        """Whether the mouse holds the slider."""
        return bool(self.threshold.slider.isSliderDown())

    def set_config(self, config: PostprocessConfig, own: float | None) -> None:
        """Show settings, and the model's own threshold if it is known, without emitting signals."""
        self.threshold.set_threshold(config.threshold, own)
        self._form.show(config)

    def add_to(self, grid: QGridLayout, row: int) -> int:
        """Add the widgets to the rows of a form; return the first free row."""
        grid.addWidget(QLabel("Threshold"), row, 0, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(self.threshold, row, 1)
        grid.addWidget(QLabel(self._form.widgets["min_area"].label), row + 1, 0)
        grid.addWidget(self.min_area, row + 1, 1)
        boxes = QHBoxLayout()
        boxes.addWidget(self.fill_holes)
        boxes.addWidget(self.largest_only)
        boxes.addStretch()
        grid.addLayout(boxes, row + 2, 0, 1, 2)  # beside a caption, they would need the widest dock
        return row + 3

    def _bind_keys(self) -> None:
        for widget, action in (
            (self.fill_holes, "fill holes"),
            (self.largest_only, "largest part"),
            (self.min_area, "smallest part"),
        ):
            set_tip(widget, widget.toolTip().removesuffix("."), action)
            bind_key(widget, action)
        bind_key(self.threshold.slider, "threshold")
        bind_key(self.threshold.reset, "own threshold")

    def _connect(self) -> None:
        self.threshold.moved.connect(self._on_changed)
        self.threshold.released.connect(self._settle)
        self._form.changed.connect(self._on_changed)
        self.min_area.editingFinished.connect(self._settle)
        for box in (self.fill_holes, self.largest_only):
            box.clicked.connect(self._settle)  # emitted after `changed`

    def _on_changed(self) -> None:
        self._unsettled = True
        if not self.is_held:
            self._pause.start()
        self.changed.emit()

    def _settle(self) -> None:
        self._pause.cancel()
        if self._unsettled:
            self._unsettled = False
            self.settled.emit()
