"""Fine-tuning: train the model on the approved images, follow its progress, and accept the result or not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyqtgraph as pg
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QCoreApplication
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.errors import CancelledError, LesionSegError
from napari_lesionseg.finetuning.checkpoint import FineTuneCheckpoint, find_checkpoint
from napari_lesionseg.finetuning.run import Progress
from napari_lesionseg.finetuning.schedule import FineTunePlan, describe_domain_shift
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.models.store import ModelEntry, ModelStore
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import MessageLabel, settings_form, small
from napari_lesionseg.plugin.workbench.finetune_task import (
    FineTuneTask,
    checkpoint_path_of,
    describe_split,
    describe_training_images,
    describe_unchanged,
    parent_of,
    training_images_of,
)
from napari_lesionseg.plugin.workbench.panels.base import Panel
from napari_lesionseg.plugin.workbench.panels.finetune_report import FineTuneReport
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.training.resources import background_threads
from napari_lesionseg.training.trainer import EpochResult, StepResult

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.finetuning.comparison import Candidate
    from napari_lesionseg.finetuning.session import Event
    from napari_lesionseg.inference.predictor import Model

PLOT_HEIGHT = 110
PLOT_TIP = (
    "Blue: how far the model is from your outlines while it trains (the training loss). "
    "Orange: how well it agrees with outlines it has not seen (mean Dice index)"
)
# Okabe and Ito (2008): blue for the loss, orange for the agreement.
LOSS_COLOR, DICE_COLOR = "#56b4e9", "#e69f00"
PLAN_LINES = 3
STAGES = {
    "reading": "reading the images",
    "measuring": "testing the old model",
    "timing": "estimating the time",
    "comparing": "comparing the models",
}
INTERRUPTIBLE = (
    "The model is still being fine-tuned. Its progress is kept, and you can continue when the study is open "
    "again."
)


class FinetunePanel(Panel):
    """Starts, pauses and stops a fine-tuning, and accepts or discards its result."""

    title, only_for = "Fine-tune", "outlines"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.task: FineTuneTask | None = None
        self.candidate: Candidate | None = None
        self._counted: list[int] = []
        self.training_images = small(QLabel())
        self.controls = FinetuneControls()
        self.checkpoint = CheckpointOffer()
        self.progress = TrainingProgress()
        self.report = FineTuneReport()
        self.message = MessageLabel()
        self.parent_model = ParentModel()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        self.training_images.setWordWrap(True)
        for widget in (
            self.training_images,
            self.checkpoint,
            self.controls,
            self.progress,
            self.report,
            self.message,
            self.parent_model,
        ):
            column.addWidget(widget)
        self.controls.start.clicked.connect(self._on_start)
        self.checkpoint.resume.clicked.connect(self._on_resume)
        self.report.use.clicked.connect(partial(self._on_accept, True))
        self.report.keep.clicked.connect(partial(self._on_accept, False))
        self.report.discard.clicked.connect(self._on_discard)
        self.progress.result.clicked.connect(self._show_result)
        self.unfold.connect(self._show_result)

    def show_session(self, session: StudySession) -> None:
        """Offer to fine-tune the model on the images of a study."""
        self.candidate = None
        self.message.setText("")
        self.progress.hide()
        self.report.clear()
        if self.checkpoint.show_path(checkpoint_path_of(session.study)):
            self.notice.emit(self.checkpoint.text.text())
        self.parent_model.session = session
        self.listen(session.changed, self._update)
        self.listen(session.model_changed, self._update)
        self._update()

    def close_session(self) -> None:
        """Stop training; it can be continued the next time."""
        self.parent_model.close_task()
        task, self.task, self.candidate = self.task, None, None
        if task is not None:
            task.close()
            task.wait()
            QCoreApplication.sendPostedEvents()  # napari learns that the work has ended, and does not ask

    def _on_start(self) -> None:
        self._begin(self.controls.config, resume=False)

    def _on_resume(self) -> None:
        checkpoint = self.checkpoint.load()
        if checkpoint is not None:
            self._begin(checkpoint.config, resume=True)

    def _begin(self, config: FineTuneConfig, *, resume: bool) -> None:
        session = self.session
        if session is None or session.model is None:
            return
        self.candidate = None
        self.report.clear()
        self.message.setText("")
        self.checkpoint.hide()
        self.notice.emit("")
        self.progress.begin()
        path = checkpoint_path_of(session.study)
        path.parent.mkdir(exist_ok=True)
        self.task = FineTuneTask(
            session.study, cast("Model", session.model), config, path, resume=resume, compute=session.compute
        )
        self.task.progressed.connect(self.progress.show_event)
        self.task.finished.connect(self._on_finished)
        self.task.failed.connect(self._on_failed)
        self.task.start()
        session.interruptible = INTERRUPTIBLE
        self._update()

    def _on_finished(self, candidate: Candidate) -> None:
        problems = self.task.problems if self.task is not None else ()
        self.candidate = candidate
        self.report.set_candidate(candidate)
        if self.isVisible():  # it would move the tools, on which somebody is about to click
            self.progress.offer_result()
        else:
            self._show_result()
        headline = self.report.figures.text().splitlines()[0]
        self.notice.emit(f"Fine-tuning has ended. {headline}")
        self._end(" ".join(problems))

    def _show_result(self) -> None:
        """Show both models, and the buttons to decide."""
        if self.candidate is not None:
            self.progress.show_plot_only()
            self.report.show()

    def _on_failed(self, error: Exception) -> None:
        self.progress.hide()
        if isinstance(error, CancelledError):
            self.checkpoint.delete()
        elif isinstance(error, LesionSegError):
            show_error(str(error))
            self.notice.emit(f"Fine-tuning has ended with an error: {error}")
        self._end(str(error))

    def _end(self, message: str) -> None:
        self.task = None
        if self.session is not None:
            self.session.interruptible = ""
        self.message.setText(message)
        self._update()

    def _on_accept(self, use: bool) -> None:
        """Save the new model under the name that was entered; nothing is ever overwritten."""
        if self.candidate is None or self.session is None:
            return
        model = self.candidate.model
        try:
            name = self.report.name.text().strip() or model.card.name
            card = model.card.model_copy(update={"name": name})
            path = ModelStore().add(checkpoint_bytes(model.network, card), name)
        except LesionSegError as error:
            show_error(str(error))
            return
        self._close_report(
            f"“{path.stem}” is used from now on. The old model is in the list."
            if use
            else f"The new model is in the list as “{path.stem}”. The old one stays in use."
        )
        self.session.model_added.emit(path.stem, use)

    def _on_discard(self) -> None:
        self._close_report("The new model was discarded. The old one stays in use.")

    def _close_report(self, message: str) -> None:
        self.candidate = None
        self.report.clear()
        self.notice.emit("")
        self.checkpoint.delete()
        self.message.setText(message)
        self._update()

    def _update(self) -> None:
        session = self.session
        if session is None:
            return
        images = training_images_of(session.study)
        if self._counted != [id(state) for state in images] or not images:  # the split takes its time
            self._counted = [id(state) for state in images]
            lines = (
                describe_training_images(images),
                describe_split(images, FineTuneConfig()),
                describe_unchanged(images),
            )
            self.training_images.setText("\n".join(line for line in lines if line))
        why_not = "" if images else "Approve some images first"
        self.controls.update_for(self.task, "Choose a model first" if session.model is None else why_not)
        self.checkpoint.resume.setEnabled(session.model is not None and self.task is None)
        self.parent_model.update_for(
            cast("Model | None", session.model), self.candidate is None and self.task is None
        )


class FinetuneControls(QWidget):
    """The time budget, and the buttons to start, pause, stop and cancel."""

    def __init__(self) -> None:
        super().__init__()
        self._form = settings_form(FineTuneConfig, "max_seconds")
        self.seconds = self._form.native("max_seconds")
        self.start = QPushButton("Fine-tune")
        self.pause = QPushButton("Pause")
        self.stop = QPushButton("Finish now")
        self.cancel = QPushButton("Cancel")
        self.pause.setToolTip("Pause the fine-tuning, and continue later")
        self.stop.setToolTip("Stop now, and keep the best model so far")
        self.cancel.setToolTip("Stop, and discard what was trained")
        self._task: FineTuneTask | None = None
        _lay_out_row(self, self.seconds, self.start, self.pause, self.stop, self.cancel)
        self.pause.clicked.connect(self._on_pause)
        self.stop.clicked.connect(self._on_stop)
        self.cancel.clicked.connect(self._on_cancel)

    @property
    def config(self) -> FineTuneConfig:
        """The settings for the next fine-tuning."""
        return self._form.settings(num_threads=background_threads())

    def update_for(self, task: FineTuneTask | None, why_not: str) -> None:
        """Show the buttons for a task, or those to start one, unless there is a reason why not."""
        self._task = task
        self.start.setEnabled(task is None and not why_not)
        self.start.setToolTip(why_not or "Fine-tune the model on the approved images while you work")
        for widget in (self.seconds, self.start):
            widget.setVisible(task is None)
        for button in (self.pause, self.stop, self.cancel):
            button.setEnabled(task is not None and not task.is_cancelled)
            button.setVisible(task is not None)
        self.pause.setText("Continue" if task is not None and task.is_paused else "Pause")

    def _on_pause(self) -> None:
        if self._task is not None:
            (self._task.resume if self._task.is_paused else self._task.pause)()
            self.update_for(self._task, "")

    def _on_stop(self) -> None:
        if self._task is not None:
            self._task.stop()
            self.stop.setEnabled(False)

    def _on_cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self.update_for(self._task, "")


class CheckpointOffer(QWidget):
    """Offers to continue a fine-tuning that a crash or a closed window interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.text = small(QLabel())
        self.text.setWordWrap(True)
        self.resume = QPushButton("Continue")
        self.discard = QPushButton("Discard")
        self.resume.setToolTip("Continue the interrupted run")
        self.discard.setToolTip("Discard the interrupted run")
        self._path = Path()
        _lay_out_row(self, self.text, self.resume, self.discard)
        self.discard.clicked.connect(self._on_discard)

    def load(self) -> FineTuneCheckpoint | None:
        """Return the checkpoint, if there is one."""
        return find_checkpoint(self._path)

    def show_path(self, path: Path) -> bool:
        """Show the offer if there is a checkpoint; return whether there is one."""
        self._path = path
        checkpoint = self.load()
        self.setVisible(checkpoint is not None)
        if checkpoint is not None:
            self.text.setText(describe_checkpoint(checkpoint))
        return checkpoint is not None

    def delete(self) -> None:
        """Delete the checkpoint."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            show_info(f"{self._path} could not be removed: {error.strerror}.")

    def _on_discard(self) -> None:
        self.delete()
        self.hide()


class TrainingProgress(QWidget):
    """The plan, a progress bar, and a plot of loss and agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = MessageLabel(PLAN_LINES)
        self.bar = QProgressBar()
        self.result = QPushButton("Show the result")
        self._row = QStackedWidget()
        self._row.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        self._row.addWidget(self.bar)
        self._row.addWidget(self.result)
        self.plot = pg.PlotWidget(background=None)
        self.plot.setFixedHeight(PLOT_HEIGHT)
        self.plot.setToolTip(PLOT_TIP)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.plot.setMenuEnabled(False)
        self.plot.addLegend(offset=(-5, 5), labelTextSize="7pt")
        self._loss_curve = self.plot.plot(pen=pg.mkPen(LOSS_COLOR, width=1), name="training error")
        self._dice_curve = self.plot.plot(
            pen=pg.mkPen(DICE_COLOR, width=2),
            symbol="o",
            symbolSize=5,
            symbolBrush=DICE_COLOR,
            name="agreement in the test",
        )
        self._plan: FineTunePlan | None = None
        self._losses: list[tuple[float, float]] = []  # (seconds, loss)
        self._dices: list[tuple[float, float]] = []  # (seconds, Dice)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(3)
        for widget in (self.plan, self._row, self.plot):
            grid.addWidget(widget)
        self.hide()

    def begin(self) -> None:
        """Show an empty plot."""
        self._plan = None
        self._losses, self._dices = [], []
        self._loss_curve.setData([], [])
        self._dice_curve.setData([], [])
        self.plan.setText("")
        self._row.setCurrentWidget(self.bar)
        for widget in (self.plan, self._row, self):
            widget.show()

    def show_event(self, event: Event | str) -> None:
        """Show what a fine-tuning reported."""
        if isinstance(event, str):  # the cluster was lost, and all begins again here
            show_info(event)
            self.begin()
            self.plan.setText(event)
        elif isinstance(event, FineTunePlan):
            self._plan = event
            self.plan.setText(describe_plan(event))
        elif isinstance(event, Progress):
            self._show_bar(STAGES[event.stage], event.done / max(1, event.total))
        elif isinstance(event, StepResult):
            self._losses.append((event.seconds, event.loss))
            self._loss_curve.setData(*zip(*self._losses, strict=True))
            self._show_bar(describe_time_left(event, self._plan), event.progress)
        elif isinstance(event, EpochResult) and event.validation is not None:
            self._dices.append((event.seconds, event.validation.dice))
            self._dice_curve.setData(*zip(*self._dices, strict=True))

    def offer_result(self) -> None:
        """Show the button that leads to the result where the progress was."""
        self._row.setCurrentWidget(self.result)

    def show_plot_only(self) -> None:
        """Hide all but the plot, when training has ended."""
        self.plan.hide()
        self._row.hide()

    def _show_bar(self, text: str, fraction: float) -> None:
        self.bar.setValue(round(100 * fraction))
        self.bar.setFormat(text)


class ParentModel(QPushButton):
    """A button that goes back to the model that the present one was fine-tuned from."""

    def __init__(self) -> None:
        super().__init__()
        self.session: StudySession | None = None
        self._task: Task[ModelEntry | None] | None = None
        self.setToolTip("Use the model that this one was fine-tuned from. Both stay in the list")
        self.clicked.connect(self._on_clicked)

    def update_for(self, model: Model | None, idle: bool) -> None:
        """Show the button if the model was fine-tuned, and nothing else is to be decided."""
        name = "" if model is None else model.card.training.get("parent_name", "")
        self.setVisible(idle and bool(name))  # the shipped model has a parent, too, but was not fine-tuned
        self.setText(f"Back to {name}")

    def close_task(self) -> None:
        """Stop looking for the model."""
        if self._task is not None:
            self._task.close()
        self._task = self.session = None

    def _on_clicked(self) -> None:
        model = None if self.session is None else self.session.model
        if model is not None and self._task is None:
            self._task = run_task(
                "looking for the old model", parent_of, model, done=self._on_found, failed=self._on_failed
            )

    def _on_found(self, entry: ModelEntry | None) -> None:
        self._task = None
        if entry is None:
            show_info("The model that it was fine-tuned from is not in the list any more.")
        elif self.session is not None:
            self.session.model_added.emit(entry.name, True)

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        show_info(str(error))


def describe_plan(plan: FineTunePlan) -> str:
    """Describe what is going to be done, in one line."""
    text = f"About {plan.seconds:.0f} s on {plan.device}"
    parts = [f"{len(plan.skipped)} images cannot be used"] if plan.skipped else []
    return ". ".join(part for part in ("; ".join([text, *parts]), describe_domain_shift(plan)) if part)


def describe_time_left(step: StepResult, plan: FineTunePlan | None) -> str:
    """Describe how much time is left."""
    left = step.seconds * (1 - step.progress) / max(step.progress, 1e-3)
    if plan is not None:
        left = max(0.0, plan.seconds - step.seconds)
    return f"{left:.0f} s left"


def describe_checkpoint(checkpoint: FineTuneCheckpoint) -> str:
    """Describe what could be continued."""
    when = checkpoint.saved.astimezone().strftime("%d %B, %H:%M")
    model = f" of “{checkpoint.model}”" if checkpoint.model else ""
    return (
        f"Fine-tuning{model} was interrupted on {when}, {checkpoint.progress:.0%} done, "
        f"{len(checkpoint.images)} images. Continue?"
    )


def _lay_out_row(parent: QWidget, *widgets: QWidget) -> None:
    row = QHBoxLayout(parent)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(3)
    for widget in widgets:
        row.addWidget(widget, int(isinstance(widget, QLabel)))
