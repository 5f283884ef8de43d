"""The dock widget that outlines images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QRadioButton, QWidget

from napari_lesionseg.plugin.commands import new_study
from napari_lesionseg.plugin.focus import DockFocus
from napari_lesionseg.plugin.layout import DockTabs
from napari_lesionseg.plugin.napari_layers.layers import shown_frame
from napari_lesionseg.plugin.segment.outlines import ImageEditors
from napari_lesionseg.plugin.segment.task import SegmentTask
from napari_lesionseg.plugin.settings import open_images_without_asking
from napari_lesionseg.plugin.shortcuts import bind_key, set_tip
from napari_lesionseg.plugin.tasks import Delay
from napari_lesionseg.plugin.widgets.forms import captioned, small, when_gone
from napari_lesionseg.plugin.widgets.layer_combo import ImagesCombo
from napari_lesionseg.plugin.widgets.model_picker import ModelPicker
from napari_lesionseg.plugin.widgets.postprocess_form import PostprocessForm
from napari_lesionseg.plugin.widgets.run_bar import RunBar

if TYPE_CHECKING:
    import napari
    from napari.layers import Image

    from napari_lesionseg.config import PostprocessConfig

_NO_IMAGE = "Open an image first: File > Open File(s), or File > Open Sample > LesionSeg."
_NONE_SELECTED = "Select images in the layer list first."
_NO_DECISIONS = (
    "Ctrl+Z takes back steps of an outline. To approve or flag, and to undo decisions, make a study."
)
_AT_WORK = "Wait until the outlines are done, or cancel them."


class SegmentWidget(QWidget):
    """Choose images and a model, outline, and make the outlines tighter or looser."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        DockTabs(self)
        DockFocus(self)
        open_images_without_asking()
        self._viewer = napari_viewer
        self._editors = ImageEditors(napari_viewer)
        self._task: SegmentTask | None = None
        self.images = ImagesCombo(napari_viewer, self._editors)
        self.models = ModelPicker(self)
        self.controls = PostprocessForm(self)
        self.shown_as = ShownAs(self._editors)
        self._bar = RunBar()
        self.segment, self.cancel = self._bar.segment, self._bar.cancel
        self.progress_bar, self.status = self._bar.progress_bar, self._bar.status
        self._redraw_soon = Delay(0, self._redraw_shown)
        self._settings = self.controls.config
        self._moved: set[str] = set()  # settings that were changed for the chosen images
        self._describe()
        self._lay_out()
        self._connect()
        self._on_images_changed()

    def _describe(self) -> None:
        set_tip(self.images.native, "Image to outline, or all images selected in the layer list", "image")
        bind_key(self.images.native, "image")
        bind_key(self.segment, "segment")
        bind_key(self.cancel, "cancel")

    def _lay_out(self) -> None:
        grid = captioned(("Image", self.images.native))
        row = self.controls.add_to(grid, self.models.add_to(grid, 1))
        grid.addWidget(QLabel("Show as"), row, 0)
        grid.addWidget(self.shown_as, row, 1)
        self._bar.lay_out(self, grid)
        self.layout().addWidget(StudyRow(self._viewer))

    def _connect(self) -> None:
        self.images.changed.connect(self._on_images_changed)
        self.controls.changed.connect(self._on_settings)
        self.controls.settled.connect(self._redraw_all)
        self.segment.clicked.connect(self._on_segment)
        self.cancel.clicked.connect(self._on_cancel)
        when_gone(self, self._tear_down)

    def _tear_down(self) -> None:
        """Stop listening and working; Qt has deleted the widget."""
        self.images.disconnect_viewer()
        self.models.close()
        self._redraw_soon.cancel()
        if self._task is not None:
            self._task.close()
        self._bar.end_activity()

    def _on_segment(self) -> None:
        run = SegmentTask(self._editors, self.images.images(), self.controls.config)
        run.progressed.connect(self._on_progress)
        run.finished.connect(self._on_finished)
        self._task = run
        self._bar.start_activity("Outlining images", run.frames)
        self._update()
        run.start(self.models.choice, self.models.loaded)

    def _on_cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._bar.say("Stopping after the current image.")
            self.cancel.setEnabled(False)

    def _on_progress(self, done: int, total: int, name: str) -> None:
        self._bar.set_progress(done, total if name else 0)
        self._bar.say(f"Outlining {name}" if name else "Loading the model")

    def _on_finished(self, run: SegmentTask) -> None:
        self._task = None
        self._bar.end_activity()
        if run.model is not None:
            self.models.remember(run.choice, run.model)
        if self.controls.config != run.config:  # the user changed it meanwhile
            self._moved = set(type(run.config).model_fields)
            self._redraw_all()
            self._update()
        else:
            self._on_images_changed()
        editor = self._editors.editor_for(run.done[-1]) if len(run.done) == 1 else None
        if editor is not None:  # so that Ctrl+Z and the brush work on the outline at once
            self._viewer.layers.selection.active = editor.labels
        self._bar.say(_summary(run))
        if run.errors:
            more = f" ({len(run.errors) - 1} more did not work.)" if len(run.errors) > 1 else ""
            show_error(f"{run.errors[0]}{more}")

    def _on_images_changed(self) -> None:
        """Show the settings an outline was drawn with; a new image starts at the model's threshold."""
        images = self.images.images()
        editor = self._editors.editor_for(images[0]) if len(images) == 1 else None
        snapshot = editor.document.snapshot if editor is not None else None
        if snapshot is not None and snapshot.prediction is not None:
            self.controls.set_config(snapshot.config, snapshot.model_threshold)
        else:
            kept = {"threshold": None} if len(images) == 1 else {}
            self.controls.set_config(self.controls.config.model_copy(update=kept), self.models.threshold)
        self._settings, self._moved = self.controls.config, set()
        self._update()

    def _on_settings(self) -> None:
        settings, before = self.controls.config, self._settings
        self._moved |= {name for name, value in settings if value != getattr(before, name)}
        self._settings = settings
        self._redraw_soon.start()

    def _settings_for(self, image: Image) -> PostprocessConfig:
        """Return the settings of an image with those that were changed; each keeps the others of its own."""
        editor = self._editors.editor_for(image)
        own = self._settings if editor is None else editor.document.snapshot.config
        return own.model_copy(update={name: getattr(self._settings, name) for name in self._moved})

    def _redraw_shown(self) -> None:
        """Redraw at once what is seen; the other frames of a stack follow in `_redraw_all`."""
        for image in self.images.images():
            self._editors.redraw(image, self._settings_for(image), [shown_frame(image, self._viewer)])

    def _redraw_all(self) -> None:
        self._redraw_soon.cancel()
        for image in self.images.images():
            self._editors.redraw(image, self._settings_for(image))
            self._editors.settle(image)

    def _update(self) -> None:
        """Bring buttons, tooltips and the status line up to date."""
        images = self.images.images()
        running = self._task is not None
        reason = _why_not(running, bool(self._editors.images()), bool(images))
        self.segment.setEnabled(not reason)
        self.segment.setText(f"Segment {len(images)} images" if len(images) > 1 else "Segment")
        set_tip(
            self.segment,
            reason or "Outline the chosen images",
            "segment",
        )
        self.cancel.setEnabled(running)
        set_tip(
            self.cancel,
            "Stop; outlines that are done stay" if running else "Nothing is being outlined",
            "cancel",
        )
        self.progress_bar.setVisible(running)
        self._bar.say(reason if not running else self.status.text())


class ShownAs(QWidget):
    """Whether outlines are drawn as a line or filled."""

    def __init__(self, editors: ImageEditors) -> None:
        super().__init__()
        self._editors = editors
        self.contour, self.filled = QRadioButton("Outline"), QRadioButton("Filled")
        set_tip(self.contour, "Show the border alone, so that what lies under it is seen", "show outline")
        set_tip(self.filled, "Show the whole area in color", "show filled")
        bind_key(self.contour, "show outline")
        bind_key(self.filled, "show filled")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.contour)
        row.addWidget(self.filled)
        row.addStretch()
        (self.filled if editors.filled else self.contour).setChecked(True)
        self.filled.toggled.connect(self._on_toggled)

    def _on_toggled(self, filled: bool) -> None:
        self._editors.filled = filled


class StudyRow(QWidget):
    """Says that decisions are made in a study, and leads to one."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.text = small(QLabel(_NO_DECISIONS))
        self.text.setWordWrap(True)
        self.button = QPushButton("New study\N{HORIZONTAL ELLIPSIS}")
        self.button.setToolTip("Open the workbench, and make a study of the open images or of a folder")
        self.button.clicked.connect(lambda: new_study(viewer))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.button)


def _why_not(running: bool, any_image: bool, any_chosen: bool) -> str:
    """Return why nothing can be outlined now; empty if it can."""
    if running:
        return _AT_WORK
    if not any_image:
        return _NO_IMAGE
    return "" if any_chosen else _NONE_SELECTED


def _summary(run: SegmentTask) -> str:
    """Return the result of a run in one sentence."""
    if run.cancelled:
        return f"Canceled; {len(run.done)} outlined before." if run.done else "Canceled; nothing was changed."
    if not run.done:
        return "Nothing was outlined."
    what = run.done[0].name if len(run.done) == 1 else f"{len(run.done)} images"
    return f"Outlined {what}."
