"""The dock widget for very large images, which are segmented in parts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from qtpy.QtWidgets import QGridLayout, QLabel, QRadioButton, QWidget

from napari_lesionseg.errors import CancelledError, LesionSegError
from napari_lesionseg.inference.tiling import TileConfig
from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.layout import DockTabs
from napari_lesionseg.plugin.napari_layers.layers import image_shape
from napari_lesionseg.plugin.segment import task
from napari_lesionseg.plugin.segment.tiled_task import TiledOutline, TiledResult, TiledTask, draw
from napari_lesionseg.plugin.tasks import Delay, Task, run_task
from napari_lesionseg.plugin.widgets.forms import captioned, when_gone, whole_number_box
from napari_lesionseg.plugin.widgets.layer_combo import LayerCombo
from napari_lesionseg.plugin.widgets.model_picker import ModelPicker
from napari_lesionseg.plugin.widgets.postprocess_form import ThresholdSlider
from napari_lesionseg.plugin.widgets.run_bar import RunBar
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    import napari.viewer

    from napari_lesionseg.inference.predictor import Model
    from napari_lesionseg.plugin.segment.task import ModelChoice

BEST_WIDTH = 100
"""Pixels; the image is scaled so that lesions have this width for the network."""

REDRAW_MS = 300
_SMALLEST_SCALE, _LARGEST_SCALE = 1 / 64, 8.0
_NO_IMAGE = "Open an image first: File > Open File(s)."
_AT_WORK = "Wait until the outline is done, or cancel it"


class TileForm:
    """Widgets for what to look for, to be added to a form."""

    def __init__(self) -> None:
        self.closely = QRadioButton("many small lesions")
        self.closely.setChecked(True)
        self.closely.setToolTip("For photographs of the whole body: every part is segmented in detail")
        self.whole = QRadioButton("one large lesion")
        self.whole.setToolTip("For dermoscopy: one lesion that fills much of the image")
        self.width_of_lesions = whole_number_box()
        self.width_of_lesions.setRange(10, 3000)
        self.width_of_lesions.setValue(BEST_WIDTH)
        self.width_of_lesions.setSuffix(" px")
        self.width_of_lesions.setToolTip(
            "Approximate width of the lesions. The model works best on lesions 50 to 200 pixels wide, "
            "so the image is scaled accordingly"
        )
        self.threshold = ThresholdSlider()
        self.smallest = whole_number_box()
        self.smallest.setRange(0, 1000)
        self.smallest.setValue(64)
        self.smallest.setSuffix(" px")
        self.smallest.setToolTip("Smaller parts are removed")
        self.closely.toggled.connect(self.width_of_lesions.setEnabled)

    @property
    def config(self) -> TileConfig | None:
        """The tiles; None: the image is predicted as a whole."""
        if self.whole.isChecked():
            return None
        scale = float(np.clip(BEST_WIDTH / self.width_of_lesions.value(), _SMALLEST_SCALE, _LARGEST_SCALE))
        return TileConfig(scale=scale)

    def threshold_for(self, model: Model) -> float:
        """Return the chosen threshold, or the model's own."""
        chosen = self.threshold.threshold
        return model.card.threshold if chosen is None else chosen

    def add_to(self, grid: QGridLayout, row: int) -> None:
        """Add the widgets to the rows of a form."""
        for caption, part in (
            ("Look for", self.closely),
            ("", self.whole),
            ("Lesions of", self.width_of_lesions),
            ("Threshold", self.threshold),
            ("Smallest part", self.smallest),
        ):
            grid.addWidget(QLabel(caption), row, 0)
            grid.addWidget(part, row, 1)
            row += 1


class TiledWidget(QWidget):
    """Segment an image of many megapixels in bounded memory; it may be on disk (dask, zarr) or multiscale."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        DockTabs(self)
        DockFocus(self)
        self._task: Task[Any] | None = None  # that loads the model, then that segments
        self._drawing: Task[LabelImage] | None = None
        self.outline = TiledOutline(napari_viewer)
        self.images = LayerCombo(napari_viewer, Image, "no image is open")
        self.models = ModelPicker(self)
        self.form = TileForm()
        self._bar = RunBar()
        self.segment, self.cancel, self.status = self._bar.segment, self._bar.cancel, self._bar.status
        self._redraw_soon = Delay(REDRAW_MS, self._redraw)
        grid = captioned(("Image", self.images.native))
        self.form.add_to(grid, self.models.add_to(grid, 1))
        self._bar.lay_out(self, grid)
        self.cancel.setToolTip("Stop after the current part and change nothing")
        self._connect()
        self._update()

    def _connect(self) -> None:
        self.images.changed.connect(self._update)
        self.segment.clicked.connect(self.start)
        self.cancel.clicked.connect(self._on_cancel)
        self.form.threshold.moved.connect(self._redraw_soon.start)
        self.form.smallest.valueChanged.connect(self._redraw_soon.start)
        when_gone(self, self._tear_down)

    def _tear_down(self) -> None:
        """Stop listening and working; Qt has deleted the widget."""
        self.images.disconnect_viewer()
        self.models.close()
        self._redraw_soon.cancel()
        for job in (self._task, self._drawing):
            if job is not None:
                job.close()
        self._bar.end_activity()

    # ------------------------------------------------------------------------------------- segmenting

    def start(self) -> None:
        """Segment the image."""
        if self.images.layer is None or self._at_work():
            return
        if self.models.loaded is not None:
            self._go(self.models.loaded)
            return
        choice = self.models.choice
        self._task = run_task(
            "loading the model",
            task.load,
            choice,
            done=partial(self._on_model, choice),
            failed=self._on_failed,
        )
        self._update()

    def _on_model(self, choice: ModelChoice, model: Model) -> None:
        self._task = None
        self.models.remember(choice, model)
        self._go(model)

    def _go(self, model: Model) -> None:
        image, form = self.images.layer, self.form
        if image is None:
            self._update()
            return
        form.threshold.set_threshold(form.threshold.threshold, model.card.threshold)
        try:
            run = TiledTask(model, image, form.config, form.threshold_for(model), form.smallest.value())
        except LesionSegError as error:
            self._on_failed(error)
            return
        run.progressed.connect(self._on_progress)
        run.finished.connect(partial(self._on_finished, image, model))
        run.failed.connect(self._on_failed)
        self._task = run
        run.start()
        self._bar.start_activity(f"Outlining {image.name}")
        self._update()

    def _on_cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self.cancel.setEnabled(False)
            self._bar.say("Stopping after the current part.")

    def _on_progress(self, progress: tuple[int, int]) -> None:
        done, total = progress
        if self._task is None or not self.cancel.isEnabled():
            return
        self._bar.set_progress(done, total)
        self._bar.say(
            f"Part {done} of {total}." if done < total else "Drawing the outline\N{HORIZONTAL ELLIPSIS}"
        )

    def _on_finished(self, image: Image, model: Model, result: TiledResult) -> None:
        try:
            self.outline.accept(image, result, model.card.classes)
        except LesionSegError as error:
            self._on_failed(error)
            return
        self._end(_summary(result.mask))

    def _on_failed(self, error: Exception) -> None:
        cancelled = isinstance(error, CancelledError)
        self._end("Canceled; nothing was changed." if cancelled else str(error))

    def _end(self, status: str) -> None:
        self._task = self._drawing = None
        self._bar.end_activity()
        self._update()
        self._bar.say(status)

    # ------------------------------------------------------------------------------- another threshold

    def _redraw(self) -> None:
        """Redraw the mask from the stored probabilities, in another thread."""
        stored, model = self.outline.stored, self.models.loaded
        if stored is None or model is None or self._at_work() or self.outline.image is not self.images.layer:
            return
        self._drawing = run_task(
            "drawing the outline",
            draw,
            stored,
            self.form.threshold_for(model),
            self.form.smallest.value(),
            done=self._on_drawn,
            failed=self._on_failed,
        )

    def _on_drawn(self, mask: LabelImage) -> None:
        self._drawing = None
        if self.outline.stored is not None:
            self.outline.redraw(mask)
            self._bar.say(_summary(mask))

    def _at_work(self) -> bool:
        return self._task is not None or self._drawing is not None

    def _update(self) -> None:
        """Bring buttons, tooltips and the status line up to date."""
        image, running = self.images.layer, self._task is not None
        segmenting = isinstance(self._task, TiledTask)
        self.segment.setEnabled(image is not None and not running)
        self.segment.setToolTip(
            _AT_WORK if running else _NO_IMAGE if image is None else "Segment the image in the background"
        )
        self.cancel.setEnabled(segmenting)
        self._bar.progress_bar.setVisible(running)
        self._bar.set_progress(0, 0)
        if running:
            self._bar.say("Segmenting the first part" if segmenting else "Loading the model")
        else:
            self._bar.say(_NO_IMAGE if image is None else _size_of(image))


def _summary(mask: LabelImage) -> str:
    """Format how much of an image was outlined."""
    fraction = np.count_nonzero(mask) / mask.size
    if not fraction:
        return "Nothing was found. Try a lower threshold or another width of the lesions."
    return f"Outlined {fraction:.2%} of the image. Plugins > LesionSeg > Single lesions lists the lesions."


def _size_of(image: Image) -> str:
    """Format the size of an image."""
    height, width = image_shape(image)[-2:]
    return f"{width} x {height} pixels, {height * width / 1e6:.1f} megapixels."
