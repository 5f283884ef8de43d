"""What the landmark widget and the workbench share: buttons for marking, and the training of a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.compat import isalive
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QWidget,
)

from napari_lesionseg.config import Skeleton, TrainConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.landmarks.editor import LandmarkEditor, set_scale_from_ruler
from napari_lesionseg.plugin.landmarks.task import MarkedImage, TrainedLandmarks, TrainLandmarksTask
from napari_lesionseg.plugin.shortcuts import LANDMARK_TIPS, set_tip
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import (
    DecimalBox,
    MessageLabel,
    ignore_wheel,
    keep_narrow,
    keep_place,
    when_gone,
    whole_number_box,
)
from napari_lesionseg.training.resources import background_threads

if TYPE_CHECKING:
    from napari_lesionseg.inference.landmarks import LandmarkModel

SECONDS = 60
NO_MODEL = "none"
_BUTTONS = (
    ("Undo", "undo landmark"),
    ("Redo", "redo landmark"),
    ("Occluded", "occluded"),
    ("Next person", "next person"),
    ("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "previous landmark"),
    ("\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", "next landmark"),
)


class MarkingControls(QWidget):
    """Which landmark the next click marks, and buttons for what the keys of the landmarks do."""

    def __init__(self) -> None:
        super().__init__()
        self.editor: LandmarkEditor | None = None
        self.next = MessageLabel()
        self.buttons: dict[str, QPushButton] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.next, 0, 0, 1, 4)
        for place, (text, action) in enumerate(_BUTTONS):
            button = QPushButton(text)
            set_tip(button, LANDMARK_TIPS[action], action)
            button.clicked.connect(partial(self._on_clicked, action))
            self.buttons[action] = button
            row, column = (0, place) if place > 3 else (1, place)
            grid.addWidget(button, row, column)
        for column in range(4):
            grid.setColumnStretch(column, 1)
        when_gone(self, self._release)
        self.set_editor(None)

    def set_editor(self, editor: LandmarkEditor | None) -> None:
        """Follow the landmarks of another image."""
        self._release()
        self.editor = editor
        if editor is not None:
            editor.changed.connect(self._update)
            editor.undo_offered.connect(self._update)
            editor.noted.connect(show_info)
        self._update()

    def _release(self) -> None:
        if self.editor is not None:
            self.editor.changed.disconnect(self._update)
            self.editor.undo_offered.disconnect(self._update)
            self.editor.noted.disconnect(show_info)
        self.editor = None

    def _on_clicked(self, action: str) -> None:
        editor = self.editor
        if editor is None:
            return
        calls: dict[str, Callable[[], None]] = {
            "undo landmark": editor.undo,
            "redo landmark": editor.redo,
            "occluded": editor.toggle_occluded,
            "next person": editor.start_person,
            "next landmark": partial(editor.choose, 1),
            "previous landmark": partial(editor.choose, -1),
        }
        calls[action]()

    def _update(self, *_: object) -> None:
        editor = self.editor
        for button in self.buttons.values():
            button.setEnabled(editor is not None)
        if editor is None:
            self.next.setText("No landmarks are shown.")
            return
        self.buttons["undo landmark"].setEnabled(editor.history.depth > 0 or editor.undo_verdict is not None)
        self.buttons["redo landmark"].setEnabled(editor.history.can_redo)
        people = len({mark.id for mark in editor.marks})
        count = f"{len(editor.marks)} marked" + (f", {people} people" if people > 1 else "")
        self.next.setText(f"Click on: {editor.label} ({count})" if editor.label else f"Complete ({count})")


class RulerControls(QWidget):
    """Sets the scale of the image whose landmarks `editor_of` returns from the two ends of its ruler."""

    told = Signal(str)

    def __init__(self, editor_of: Callable[[], LandmarkEditor | None]) -> None:
        super().__init__()
        self._editor_of = editor_of
        self.length, self.button = DecimalBox(), QPushButton("Set scale")
        self.length.setRange(0.1, 1000)
        self.length.setValue(10)
        self.length.setSuffix(" mm")
        self.length.setToolTip("Length between the landmarks ruler_start and ruler_end")
        self.button.setToolTip("Take the scale of the image from the two ends of its ruler")
        self.button.clicked.connect(self._on_clicked)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Ruler"))
        row.addWidget(self.length, 1)
        row.addWidget(self.button)

    def _on_clicked(self) -> None:
        editor = self._editor_of()
        if editor is None:
            show_info("Select an image with landmarks first.")
            return
        try:
            self.told.emit(set_scale_from_ruler(editor, self.length.value()))
        except LesionSegError as error:
            show_error(str(error))


class TrainingControls(QWidget):
    """Chooses a landmark model of the model store, or trains one on the images that `images_of` returns."""

    model_changed = Signal(object)

    def __init__(
        self, images_of: Callable[[], Sequence[MarkedImage]], skeleton_of: Callable[[], Skeleton]
    ) -> None:
        super().__init__()
        self._images_of, self._skeleton_of = images_of, skeleton_of
        self.name = "landmarks"
        self.loaded: LandmarkModel | None = None
        self._task: Task[Any] | None = None
        self.models, self.seconds, self.progress = QComboBox(), whole_number_box(), QProgressBar()
        self.status = MessageLabel()
        self.train = QPushButton("Train")
        self.finish = QPushButton("Finish now")
        self.cancel = QPushButton("Cancel")
        self._lay_out()
        self.train.clicked.connect(self.begin)
        self.finish.clicked.connect(partial(self._on_stop, True))
        self.cancel.clicked.connect(partial(self._on_stop, False))
        self.models.activated.connect(self._on_model)
        self._listing = run_task(
            "looking for landmark models",
            list_landmark_models,
            done=self._offer,
            failed=lambda error: self.status.setText(str(error)),
        )
        when_gone(self, self.stop)

    @property
    def is_busy(self) -> bool:
        """Whether a model is trained or loaded."""
        return self._task is not None

    def begin(self) -> None:
        """Train on the marked images in another thread."""
        images = self._images_of()
        task = TrainLandmarksTask(
            images, self._skeleton_of(), training_config(self.seconds.value()), self.name
        )
        task.progressed.connect(self._on_progress)
        task.finished.connect(self._on_trained)
        task.failed.connect(self._on_failed)
        self._task = task
        self.status.setText(f"Training on {len(images)} images.")
        self._show_busy()
        task.start()

    def _lay_out(self) -> None:
        keep_narrow(self.models)
        ignore_wheel(self.models)
        self.models.addItem(NO_MODEL, None)
        self.models.setToolTip("The model that finds landmarks; training adds one")
        self.seconds.setRange(1, 36000)
        self.seconds.setValue(SECONDS)
        self.seconds.setSuffix(" s")
        self.seconds.setToolTip("Time for the training")
        self.train.setToolTip("Learn the landmarks from the marked images")
        self.finish.setToolTip("Stop training, and use what was learned")
        self.cancel.setToolTip("Stop training, and discard what was learned")
        self.progress.setRange(0, 100)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        grid.addWidget(QLabel("Model"), 0, 0)
        grid.addWidget(self.models, 0, 1, 1, 2)
        for column, widget in enumerate((QLabel("Training"), self.seconds, self.train)):
            grid.addWidget(widget, 1, column)
        for column, button in enumerate((self.progress, self.finish, self.cancel)):
            grid.addWidget(button, 2, column)
        keep_place(self.progress, self.finish, self.cancel)
        grid.addWidget(self.status, 3, 0, 1, 3)
        self._show_busy()

    def _show_busy(self) -> None:
        training = isinstance(self._task, TrainLandmarksTask)
        self.train.setEnabled(not self.is_busy)
        self.models.setEnabled(not self.is_busy)
        for widget in (self.progress, self.finish, self.cancel):
            widget.setVisible(training)

    def _offer(self, names: Sequence[str]) -> None:
        for name in names:
            if self.models.findData(name) < 0:
                self.models.addItem(name, name)

    def _on_model(self) -> None:
        name = self.models.currentData()
        if name is None:
            self._use(None)
            return
        self._task = run_task(
            "loading the landmark model", load_model, name, done=self._on_loaded, failed=self._on_failed
        )
        self._show_busy()

    def _on_loaded(self, model: LandmarkModel) -> None:
        self._task = None
        self._show_busy()
        self.status.setText("")
        self._use(model)

    def _on_progress(self, share: float) -> None:
        self.progress.setValue(round(100 * share))

    def _on_trained(self, trained: TrainedLandmarks) -> None:
        self._task = None
        self._show_busy()
        scores = trained.scores
        tested = "" if scores is None else f" {scores.pck:.0%} found in {trained.held_out} images held out."
        self.status.setText(f"“{trained.name}” is trained and in use.{tested}")
        self._offer([trained.name])
        self.models.setCurrentIndex(self.models.findData(trained.name))
        self._use(trained.model)

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self._show_busy()
        self.status.setText(str(error))

    def _on_stop(self, keep: bool, *_: object) -> None:
        if isinstance(self._task, TrainLandmarksTask):
            if keep:
                self._task.finish_now()
            else:
                self._task.cancel()

    def _use(self, model: LandmarkModel | None) -> None:
        self.loaded = model
        self.model_changed.emit(model)

    def stop(self) -> None:
        """Stop working; touches no widget of Qt's, which may be deleted."""
        for task in (self._task, self._listing):
            if task is not None:
                task.close()
        self._task = None
        if isalive(self):  # type: ignore[no-untyped-call]
            self._show_busy()


def list_landmark_models() -> list[str]:
    """Return the names of the landmark models in the store; runs in another thread."""
    from napari_lesionseg.models.store import ModelStore

    entries = (entry for entry in ModelStore().list() if entry.card is not None)
    return [entry.name for entry in entries if entry.card is not None and entry.card.landmarks is not None]


def load_model(name: str) -> LandmarkModel:
    """Load a model of the store; runs in another thread."""
    from napari_lesionseg.inference.landmarks import load_landmark_model

    return load_landmark_model(name, "cpu")


def training_config(seconds: float) -> TrainConfig:
    """Return the settings of a training of so many seconds."""
    recipe = resources.files("napari_lesionseg") / "recipes" / "landmarks.json"
    settings = json.loads(recipe.read_text(encoding="utf-8"))
    limits = {"max_seconds": seconds, "epochs": 10000, "num_threads": background_threads()}
    return TrainConfig.model_validate(settings | limits)
