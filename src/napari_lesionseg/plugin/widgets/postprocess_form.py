"""The controls that say how a mask is made of the network's answer. They know neither viewer nor network."""

from __future__ import annotations

from qtpy.QtCore import QObject, QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.plugin.shortcuts import bind_key, set_tip

SETTLE_MS = 500
"""Pause after which moves by keys, wheel or arrows count as finished; a dragged slider is let go."""

LOWEST_THRESHOLD = 0.02
"""Lowest threshold that the slider offers; the highest is 1 minus it."""

_HIGHEST_AREA = 1_000_000


def small(label: QLabel) -> QLabel:
    """Make a label's letters smaller, for captions."""
    label.setStyleSheet("font-size: 9pt;")
    return label


def keep_narrow(box: QComboBox) -> None:
    """Keep long names from widening a list: they are cut off with an ellipsis."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(12)


class ThresholdSlider(QWidget):
    """A slider from a tight outline to a loose one.

    Until it is moved, and after Reset, it stands for the model's own threshold: `threshold` is None.

    Attributes
    ----------
    moved : Signal
        The user changed the threshold; emitted all along a drag.
    let_go : Signal
        The user let go of the slider.
    """

    moved = Signal()
    let_go = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._own: float | None = None
        self._threshold: float | None = None
        lowest = round(LOWEST_THRESHOLD * 100)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(lowest, 100 - lowest)  # looseness: 100 minus the threshold in per cent
        self.slider.setPageStep(5)
        self.reset = QPushButton("Reset")
        self._value = small(QLabel())
        self._value.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._lay_out()
        self.slider.valueChanged.connect(self._on_slid)
        self.slider.sliderReleased.connect(self.let_go)
        self.reset.clicked.connect(self._on_reset)
        self._show()

    @property
    def threshold(self) -> float | None:
        """The threshold in [0.02, 0.98], or None for the model's own."""
        return self._threshold

    @property
    def caption(self) -> str:
        """What is written under the slider."""
        return str(self._value.text())

    def set_threshold(self, threshold: float | None, own: float | None) -> None:
        """Show a threshold without emitting signals.

        Parameters
        ----------
        threshold : float or None
            In (0, 1), or None for the model's own.
        own : float or None
            The model's own, if it is known.
        """
        self._threshold, self._own = threshold, own
        self._show()

    def _lay_out(self) -> None:
        set_tip(
            self.slider,
            "Left: a tight outline. Right: a loose one. It is redrawn at once, arrow keys work too",
            "threshold",
        )
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
        self.let_go.emit()

    def _show(self) -> None:
        shown = self._threshold if self._threshold is not None else self._own
        with QSignalBlocker(self.slider):
            self.slider.setValue(round(100 - 100 * (0.5 if shown is None else shown)))
        number = "" if shown is None else f"{shown:.2f}"
        self._value.setText(number if self._threshold is not None else f"{number} (the model's own)".strip())
        self.reset.setEnabled(self._threshold is not None)
        if self._threshold is None:
            set_tip(self.reset, "The threshold is the model's own already", "own threshold")
        else:
            set_tip(self.reset, "Go back to the model's own threshold", "own threshold")


class PostprocessForm(QObject):
    """Threshold, holes, largest part, smallest part: a form for `PostprocessConfig`.

    A bundle of widgets rather than a widget, so that they line up with the rest of the form they are put in.

    Attributes
    ----------
    changed : Signal
        The user changed something; emitted all along a drag.
    settled : Signal
        The change is finished: the slider was let go, a box ticked, or nothing moved for half a second.
    """

    changed = Signal()
    settled = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._unsettled = False
        self.threshold = ThresholdSlider()
        self.fill_holes = QCheckBox("Fill holes")
        self.largest_only = QCheckBox("Largest part only")
        self.min_area = QSpinBox()
        self.min_area.setRange(0, _HIGHEST_AREA)
        self.min_area.setSuffix(" px")
        self.min_area.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(SETTLE_MS)
        self._describe()
        self.set_config(PostprocessConfig(), own=None)
        self._connect()

    @property
    def config(self) -> PostprocessConfig:
        """The settings as they stand."""
        return PostprocessConfig(
            threshold=self.threshold.threshold,
            fill_holes=self.fill_holes.isChecked(),
            largest_only=self.largest_only.isChecked(),
            min_area=self.min_area.value(),
        )

    @property
    def is_held(self) -> bool:
        """Whether the mouse holds the slider."""
        return bool(self.threshold.slider.isSliderDown())

    def set_config(self, config: PostprocessConfig, own: float | None) -> None:
        """Show settings without emitting signals.

        Parameters
        ----------
        config : PostprocessConfig
            The settings.
        own : float or None
            The model's own threshold, if it is known.
        """
        self.threshold.set_threshold(config.threshold, own)
        for box, checked in ((self.fill_holes, config.fill_holes), (self.largest_only, config.largest_only)):
            with QSignalBlocker(box):
                box.setChecked(checked)
        with QSignalBlocker(self.min_area):
            self.min_area.setValue(config.min_area)

    def add_to(self, grid: QGridLayout, row: int) -> int:
        """Put the controls into the rows of a form, so that their names line up with its others.

        Returns
        -------
        int
            The first free row.
        """
        grid.addWidget(QLabel("Threshold"), row, 0, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(self.threshold, row, 1)
        grid.addWidget(QLabel("Smallest part"), row + 1, 0)
        grid.addWidget(self.min_area, row + 1, 1)
        boxes = QHBoxLayout()
        boxes.addWidget(self.fill_holes)
        boxes.addWidget(self.largest_only)
        boxes.addStretch()
        grid.addLayout(boxes, row + 2, 1)
        return row + 3

    def _describe(self) -> None:
        set_tip(self.fill_holes, "Close holes inside the outline", "fill holes")
        set_tip(self.largest_only, "Keep the largest part alone", "largest part")
        set_tip(self.min_area, "Parts with fewer pixels are dropped", "smallest part")
        bind_key(self.threshold.slider, "threshold")
        bind_key(self.threshold.reset, "own threshold")
        bind_key(self.fill_holes, "fill holes")
        bind_key(self.largest_only, "largest part")
        bind_key(self.min_area, "smallest part")

    def _connect(self) -> None:
        self._pause.timeout.connect(self._settle)
        self.threshold.moved.connect(self._on_changed)
        self.threshold.let_go.connect(self._settle)
        self.min_area.valueChanged.connect(self._on_changed)
        self.min_area.editingFinished.connect(self._settle)
        for box in (self.fill_holes, self.largest_only):
            box.toggled.connect(self._on_changed)
            box.toggled.connect(self._settle)

    def _on_changed(self) -> None:
        self._unsettled = True
        if not self.is_held:
            self._pause.start()
        self.changed.emit()

    def _settle(self) -> None:
        self._pause.stop()
        if self._unsettled:
            self._unsettled = False
            self.settled.emit()
