"""The dock widget for very large images, which are segmented in parts. It only wires."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image, Labels
from napari.utils import progress
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QLabel,
    QRadioButton,
    QSpinBox,
    QWidget,
)

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import CancelledError, LesionSegError
from napari_lesionseg.inference.tiling import TileConfig
from napari_lesionseg.plugin.editor.editor import editor_of, open_editor
from napari_lesionseg.plugin.napari_layers.layers import fits, image_shape, new_outline, show_as
from napari_lesionseg.plugin.napari_layers.links import CLASSES
from napari_lesionseg.plugin.segment import task
from napari_lesionseg.plugin.segment.tiled_task import LargeOutline, TiledTask, draw
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import captioned, when_gone
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

CONTOUR_PIXELS = 30_000_000
"""Masks of larger images are shown filled, since napari takes seconds to draw their contours."""

_SMALLEST_SCALE, _LARGEST_SCALE = 1 / 64, 8.0
_NO_IMAGE = "Open an image first: File > Open File(s)."
_AT_WORK = "Wait until the outline is done, or cancel it"


class LargeWidget(QWidget):
    """Segment an image of many megapixels in bounded memory; it may be on disk (dask, zarr) or multiscale.

    `outline` is the Labels layer that was drawn last.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._task: TiledTask | None = None
        self._loading: Task[Model] | None = None
        self._drawing: Task[LabelImage] | None = None
        self._made: LargeOutline | None = None
        self._image: Image | None = None
        self._bar: progress | None = None
        self.outline: Labels | None = None
        self.images = LayerCombo(napari_viewer, Image, "no image is open")
        self.models = ModelPicker(self)
        self.closely = QRadioButton("many small lesions")
        self.whole = QRadioButton("one large lesion")
        self.width_of_lesions = QSpinBox()
        self.threshold = ThresholdSlider()
        self.smallest = QSpinBox()
        self._bottom = RunBar()
        self.segment, self.cancel = self._bottom.segment, self._bottom.cancel
        self.progress_bar, self.status = self._bottom.progress_bar, self._bottom.status
        self._redraw_soon = QTimer(self)
        self._describe()
        self._lay_out()
        self._connect()
        self._update()

    # ------------------------------------------------------------------------------------- building

    def _describe(self) -> None:
        self.closely.setChecked(True)
        self.closely.setToolTip("For photographs of the whole body: every part is segmented in detail")
        self.whole.setToolTip("For dermoscopy: one lesion that fills much of the image")
        self.width_of_lesions.setRange(10, 3000)
        self.width_of_lesions.setValue(BEST_WIDTH)
        self.width_of_lesions.setSuffix(" px")
        self.width_of_lesions.setToolTip(
            "Approximate width of the lesions. The model works best on lesions 50 to 200 pixels wide, "
            "so the image is scaled accordingly"
        )
        self.smallest.setRange(0, 1000)
        self.smallest.setValue(64)
        self.smallest.setSuffix(" px")
        self.smallest.setToolTip("Smaller parts are removed")
        self.segment.setToolTip("Segment the image in the background")
        self.cancel.setToolTip("Stop after the current part and change nothing")
        self._redraw_soon.setSingleShot(True)
        self._redraw_soon.setInterval(300)

    def _lay_out(self) -> None:
        grid = captioned(("Image", self.images.native))
        row = self.models.add_to(grid, 1)
        for caption, part in (
            ("Look for", self.closely),
            ("", self.whole),
            ("Lesion width", self.width_of_lesions),
            ("Threshold", self.threshold),
            ("Smallest part", self.smallest),
        ):
            grid.addWidget(QLabel(caption), row, 0)
            grid.addWidget(part, row, 1)
            row += 1
        self._bottom.lay_out(self, grid)

    def _connect(self) -> None:
        self.images.changed.connect(self._update)
        self.closely.toggled.connect(self._update)
        self.width_of_lesions.valueChanged.connect(self._update)
        self.segment.clicked.connect(self.start)
        self.cancel.clicked.connect(self._on_cancel)
        self.threshold.moved.connect(self._redraw_soon.start)
        self.smallest.valueChanged.connect(self._redraw_soon.start)
        self._redraw_soon.timeout.connect(self._redraw)
        when_gone(self, self._tear_down)

    def _tear_down(self) -> None:
        """Stop listening and working; Qt has deleted the widget."""
        self.images.disconnect_viewer()
        self.models.drop()
        for job in (self._loading, self._drawing):
            if job is not None:
                job.close()
        if self._task is not None:
            self._task.close()
        self._close_bar()

    # ----------------------------------------------------------------------------------- outlining

    @property
    def config(self) -> TileConfig | None:
        """The tiles; None: the image is predicted as a whole."""
        if self.whole.isChecked():
            return None
        scale = float(np.clip(BEST_WIDTH / self.width_of_lesions.value(), _SMALLEST_SCALE, _LARGEST_SCALE))
        return TileConfig(scale=scale)

    def start(self) -> None:
        """Segment the image."""
        if self.images.layer is None or self._at_work():
            return
        if self.models.loaded is not None:
            self._go(self.models.loaded)
            return
        choice = self.models.choice
        self._loading = run_task(
            "loading the model",
            task.load,
            choice,
            done=partial(self._on_model, choice),
            failed=self._on_failed,
        )
        self._update()

    def _on_model(self, choice: ModelChoice, model: Model) -> None:
        self._loading = None
        self.models.remember(choice, model)
        self._go(model)

    def _go(self, model: Model) -> None:
        image = self.images.layer
        if image is None:
            self._update()
            return
        level = self.threshold.threshold
        self.threshold.set_threshold(level, model.card.threshold)
        try:
            self._task = TiledTask(model, image, self.config, self._level(model), self.smallest.value())
        except LesionSegError as error:
            self._on_failed(error)
            return
        self._image = image
        self._task.progressed.connect(self._on_progress)
        self._task.finished.connect(partial(self._on_finished, model))
        self._task.failed.connect(self._on_failed)
        self._task.start()
        self._bar = progress(total=0, desc=f"Outlining {image.name}")
        self._update()

    def _on_cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self.cancel.setEnabled(False)
            self._bottom.say("Stopping after the current part.")

    def _on_progress(self, progress: tuple[int, int]) -> None:
        done, total = progress
        if self._task is None or not self.cancel.isEnabled():
            return
        self.progress_bar.setRange(0, total)
        self.progress_bar.setValue(done)
        self._bottom.say(
            f"Part {done} of {total}." if done < total else "Drawing the outline\N{HORIZONTAL ELLIPSIS}"
        )
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def _on_finished(self, model: Model, made: LargeOutline) -> None:
        image = self._image
        self._end()
        if image is None or image not in self._viewer.layers:
            self._bottom.say("The image was closed before its outline was ready.")
            return
        if image_shape(image) != made.mask.shape:
            self._bottom.say("The image was changed before its outline was ready; segment it again.")
            return
        self._made = made
        self._write(image, made.mask, model.card.classes)
        self._bottom.say(self._result(made.mask))

    def _on_failed(self, error: Exception) -> None:
        self._loading = self._drawing = None
        self._end()
        cancelled = isinstance(error, CancelledError)
        self._bottom.say("Canceled; nothing was changed." if cancelled else str(error))

    def _end(self) -> None:
        self._task = None
        self._close_bar()
        self._update()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _write(self, image: Image, mask: LabelImage, classes: tuple[str, ...]) -> None:
        """Draw a mask, as an undoable step; the first time, into a new Labels layer."""
        if self.outline is None or self.outline not in self._viewer.layers or not fits(self.outline, image):
            self.outline = new_outline(image)
            self.outline.metadata[CLASSES] = classes
            self.outline.data[...] = mask  # nobody has seen the layer yet: there is nothing to undo
            show_as(self.outline, filled=mask.size > CONTOUR_PIXELS)
            self._viewer.layers.insert(self._viewer.layers.index(image) + 1, self.outline)
        editor = editor_of(self.outline) or open_editor(
            self._viewer, image, self.outline, PostprocessConfig()
        )
        editor.document.apply_mask(mask, editor.document.snapshot, manual=False)

    # ------------------------------------------------------------------------------- another threshold

    def _redraw(self) -> None:
        """Redraw the mask from the stored probabilities, in another thread."""
        made, model = self._made, self.models.loaded
        if made is None or model is None or self._at_work() or self._image is not self.images.layer:
            return
        self._drawing = run_task(
            "drawing the outline",
            draw,
            made.stored,
            self._level(model),
            self.smallest.value(),
            done=self._on_drawn,
            failed=self._on_failed,
        )

    def _on_drawn(self, mask: LabelImage) -> None:
        self._drawing = None
        model = self.models.loaded
        if self._image is not None and self._image in self._viewer.layers and model is not None:
            self._write(self._image, mask, model.card.classes)
            self._bottom.say(self._result(mask))

    def _level(self, model: Model) -> float:
        chosen = self.threshold.threshold
        return model.card.threshold if chosen is None else chosen

    # -------------------------------------------------------------------------------- what is shown

    def _at_work(self) -> bool:
        return self._task is not None or self._loading is not None or self._drawing is not None

    def _update(self) -> None:
        image, running = self.images.layer, self._task is not None or self._loading is not None
        self.segment.setEnabled(image is not None and not running)
        self.segment.setToolTip(
            _AT_WORK if running else _NO_IMAGE if image is None else "Segment the image in the background"
        )
        self.cancel.setEnabled(self._task is not None)
        self.width_of_lesions.setEnabled(self.closely.isChecked())
        self.progress_bar.setVisible(running)
        self.progress_bar.setRange(0, 0)
        if running:
            self._bottom.say("Loading the model" if self._task is None else "Segmenting the first part")
        else:
            self._bottom.say(_NO_IMAGE if image is None else _size_of(image))

    @staticmethod
    def _result(mask: LabelImage) -> str:
        share = np.count_nonzero(mask) / mask.size
        if not share:
            return "Nothing was found. Try a lower threshold or another width of the lesions."
        return f"Outlined {share:.2%} of the image. Plugins > LesionSeg > Single lesions lists the lesions."


def _size_of(image: Image) -> str:
    """Format the size of an image."""
    height, width = image_shape(image)[-2:]
    return f"{width} x {height} pixels, {height * width / 1e6:.1f} megapixels."
