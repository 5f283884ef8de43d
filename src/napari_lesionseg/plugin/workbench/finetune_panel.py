"""Learn: let the model learn from the approved images, look at the curve, take the new model or not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyqtgraph as pg
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QCoreApplication, Qt, Signal
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QWidget,
)

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.errors import CancelledError, LesionSegError
from napari_lesionseg.finetuning.checkpoint import FineTuneCheckpoint, find_checkpoint
from napari_lesionseg.finetuning.run import Progress
from napari_lesionseg.finetuning.schedule import Plan, describe_domain_shift
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.models.store import ModelEntry, ModelStore
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.widgets.forms import small
from napari_lesionseg.plugin.workbench.finetune_report import FineTuneReport
from napari_lesionseg.plugin.workbench.finetune_task import (
    LearnRun,
    describe_split,
    describe_training_images,
    parent_of,
    state_path_of,
    training_images_of,
)
from napari_lesionseg.plugin.workbench.session import StudySession
from napari_lesionseg.training.resources import background_threads
from napari_lesionseg.training.trainer import EpochResult, StepResult

if TYPE_CHECKING:
    from napari_lesionseg.finetuning.comparison import Candidate
    from napari_lesionseg.finetuning.session import Event
    from napari_lesionseg.study.state import ImageState

DEFAULT_SECONDS = 60
PLOT_HEIGHT = 110
# Okabe and Ito (2008): blue for the loss, orange for the figure that counts.
LOSS_COLOR, DICE_COLOR = "#56b4e9", "#e69f00"
LOSS_PEN, DICE_PEN = pg.mkPen(LOSS_COLOR, width=1), pg.mkPen(DICE_COLOR, width=2)
DOING = {
    "reading": "reading the images",
    "measuring": "outlining what is held out",
    "timing": "looking how long it takes",
    "comparing": "comparing old and new",
}


class LearnPanel(QWidget):
    """Start, pause and stop a fine-tuning, and decide about its outcome.

    Parameters
    ----------
    session : StudySession
        The study at work; its model is what learns.

    Attributes
    ----------
    added : Signal
        Emitted with the name of a new model in the model store.
    chosen : Signal
        Emitted with the name of the model that is to outline from now on, a new one or one to go back to.
    """

    added = Signal(str)
    chosen = Signal(str)

    def __init__(self, session: StudySession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.run: LearnRun | None = None
        self.candidate: Candidate | None = None
        self._plan: Plan | None = None
        self._training_images: tuple[ImageState, ...] | None = None
        self._going_back: Task[ModelEntry | None] | None = None
        self.count, self.split, self.plan = small(QLabel()), small(QLabel()), small(QLabel())
        self.seconds = QSpinBox()
        self.start = QPushButton("Fine-tune")
        self.pause = QPushButton("Pause")
        self.stop = QPushButton("Stop")
        self.give_up = QPushButton("Give up")
        self.offer = small(QLabel())
        self.resume = QPushButton("Continue")
        self.forget = QPushButton("Forget it")
        self.bar = QProgressBar()
        self.plot = pg.PlotWidget(background=None)
        self.verdict = small(QLabel())
        self.use = QPushButton("Use")
        self.keep = QPushButton("Keep both")
        self.discard = QPushButton("Discard")
        self.card = FineTuneReport(_row(self.use, self.keep, self.discard))
        self.go_back = QPushButton("Back to the old model")
        self._describe()
        self._lay_out()
        self._connect()
        self._offer_checkpoint()
        self._update()

    # ------------------------------------------------------------------------------------- building

    def _describe(self) -> None:
        self.seconds.setRange(10, 3600)
        self.seconds.setValue(DEFAULT_SECONDS)
        self.seconds.setSuffix(" s")
        self.seconds.setToolTip("How long the model may learn")
        self.pause.setToolTip("Wait, and go on later")
        self.stop.setToolTip("End now, and keep the best so far")
        self.give_up.setToolTip("End at once; nothing comes of it")
        self.resume.setToolTip("Go on where it was interrupted")
        self.forget.setToolTip("Let nothing come of what was interrupted")
        self.keep.setToolTip("Put the new model into the list, and go on with the old one")
        self.discard.setToolTip("Forget the new model")
        for label in (self.count, self.split, self.plan, self.offer, self.verdict):
            label.setWordWrap(True)
        self.plot.setFixedHeight(PLOT_HEIGHT)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.plot.setMenuEnabled(False)
        self.plot.addLegend(offset=(-5, 5), labelTextSize="7pt")
        self._losses = self.plot.plot(pen=LOSS_PEN, name="error")
        self._dices = self.plot.plot(
            pen=DICE_PEN, symbol="o", symbolSize=5, symbolBrush=DICE_COLOR, name="held-out Dice"
        )

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(3)
        for label in (self.count, self.split):
            grid.addWidget(label)
        self._offer_row = _row(self.offer, self.resume, self.forget)
        self._progress = QWidget()
        inside = QGridLayout(self._progress)
        inside.setContentsMargins(0, 0, 0, 0)
        inside.setVerticalSpacing(3)
        for widget in (self.plan, self.bar, self.plot):
            inside.addWidget(widget)
        self._progress.hide()
        for widget in (
            self._offer_row,
            _row(self.seconds, self.start, self.pause, self.stop, self.give_up),
            self._progress,
            self.card,
            self.verdict,
            self.go_back,
        ):
            grid.addWidget(widget)

    def _connect(self) -> None:
        self.start.clicked.connect(self._on_start)
        self.pause.clicked.connect(self._on_pause)
        self.stop.clicked.connect(self._on_stop)
        self.give_up.clicked.connect(self._on_give_up)
        self.resume.clicked.connect(self._on_resume)
        self.forget.clicked.connect(self._on_forget)
        self.use.clicked.connect(self._on_use)
        self.keep.clicked.connect(self._on_keep)
        self.discard.clicked.connect(self._on_discard)
        self.go_back.clicked.connect(self._on_go_back)
        self._session.changed.connect(self._update)
        self._session.model_changed.connect(self._update)

    def close_session(self) -> None:
        """Let go of the session, and give up what is being learned; it can be continued the next time."""
        self._session.changed.disconnect(self._update)
        self._session.model_changed.disconnect(self._update)
        run = self.run
        self.abandon()
        if run is not None:
            run.wait()
            QCoreApplication.sendPostedEvents()  # napari learns that the work has ended, and does not ask

    def may_close(self) -> bool:
        """Ask whether to interrupt what is being learned, if anything is."""
        if self.run is None:
            return True
        answer = QMessageBox.question(
            self,
            "The model is still learning",
            "Close all the same? What was learned so far is kept, and can be continued the next time.",
            QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
            QMessageBox.StandardButton.No,
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def abandon(self) -> None:
        """Let nothing come of what is being done; Qt's side of the panel may be gone."""
        if self._going_back is not None:
            self._going_back.close()
        if self.run is not None:
            self.run.abandon()
        self.run = None

    # ------------------------------------------------------------------------------------- learning

    @property
    def _state_path(self) -> Path:
        return state_path_of(self._session.study)

    def _config(self) -> FineTuneConfig:
        return FineTuneConfig(max_seconds=self.seconds.value(), num_threads=background_threads())

    def _on_start(self) -> None:
        self._begin(self._config(), resume=False)

    def _begin(self, config: FineTuneConfig, *, resume: bool) -> None:
        model = self._session.model
        if model is None:
            return
        self._steps: list[tuple[float, float]] = []
        self._rounds: list[tuple[float, float]] = []
        self._losses.setData([], [])
        self._dices.setData([], [])
        self._drop_candidate()
        self._plan = None
        self.verdict.setText("")
        self.plan.setText("")
        self._offer_row.hide()
        for widget in (self._progress, self.plan, self.bar):
            widget.show()
        self._state_path.parent.mkdir(exist_ok=True)
        study = self._session.study
        self.run = run = LearnRun(study, model, config, self._state_path, resume=resume, parent=self)
        run.happened.connect(self._on_event)
        run.finished.connect(self._on_finished)
        run.failed.connect(self._on_failed)
        self._update()

    def _on_pause(self) -> None:
        if self.run is not None:
            (self.run.resume if self.run.paused else self.run.pause)()
        self._update()

    def _on_stop(self) -> None:
        if self.run is not None:
            self.run.stop()
            self.stop.setEnabled(False)

    def _on_give_up(self) -> None:
        if self.run is not None:
            self.run.give_up()
            self.give_up.setEnabled(False)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Plan):
            self._plan = event
            self.plan.setText(describe_plan(event))
        elif isinstance(event, Progress):
            self._show_progress(DOING[event.stage], event.done / max(1, event.total))
        elif isinstance(event, StepResult):
            self._steps.append((event.seconds, event.loss))
            self._losses.setData(*zip(*self._steps, strict=True))
            self._show_progress(describe_time_left(event, self._plan), event.progress)
        elif isinstance(event, EpochResult) and event.validation is not None:
            self._rounds.append((event.seconds, event.validation.dice))
            self._dices.setData(*zip(*self._rounds, strict=True))

    def _show_progress(self, words: str, share: float) -> None:
        self.bar.setValue(round(100 * share))
        self.bar.setFormat(words)

    def _on_finished(self, candidate: Candidate) -> None:
        problems = self.run.problems if self.run is not None else ()
        self.run, self.candidate = None, candidate
        self.verdict.setText(" ".join(problems))
        self.card.show_candidate(candidate)
        self.plan.hide()
        self.bar.hide()
        self._update()

    def _on_failed(self, error: Exception) -> None:
        self.run = None
        self.verdict.setText(str(error))
        self._progress.hide()
        if isinstance(error, CancelledError):
            self._forget_state()
        elif isinstance(error, LesionSegError):
            show_error(str(error))
        self._update()

    # ----------------------------------------------------------------------------- what was interrupted

    @property
    def offers_to_continue(self) -> bool:
        """Whether a learning was interrupted that could be continued."""
        return not self._offer_row.isHidden()

    def _offer_checkpoint(self) -> None:
        """Offer to continue a learning that a crash or a closed window interrupted."""
        state = find_checkpoint(self._state_path)
        self._offer_row.setVisible(state is not None)
        if state is not None:
            self.offer.setText(describe_checkpoint(state))

    def _on_resume(self) -> None:
        state = find_checkpoint(self._state_path)
        if state is not None:
            self._begin(state.config, resume=True)

    def _on_forget(self) -> None:
        self._forget_state()
        self._offer_row.hide()

    def _forget_state(self) -> None:
        try:
            self._state_path.unlink(missing_ok=True)
        except OSError as error:
            show_info(f"{self._state_path} could not be removed: {error.strerror}.")

    # ---------------------------------------------------------------------------------- the new model

    def _on_use(self) -> None:
        name = self._register()
        if name:
            self.verdict.setText(f"“{name}” outlines from now on; the old model is in the list.")
            self.chosen.emit(name)

    def _on_keep(self) -> None:
        name = self._register()
        if name:
            self.verdict.setText(f"The new model is in the list as “{name}”; the old one goes on.")

    def _on_discard(self) -> None:
        self._drop_candidate()
        self._forget_state()
        self.verdict.setText("The new model was discarded; the old one is as it was.")
        self._update()

    def _register(self) -> str:
        """Put the new model into the list under a name of its own; nothing is ever overwritten."""
        if self.candidate is None:
            return ""
        model = self.candidate.model
        try:
            path = ModelStore().add(checkpoint_bytes(model.network, model.card), model.card.name)
        except LesionSegError as error:
            show_error(str(error))
            return ""
        self._drop_candidate()
        self._forget_state()
        self.added.emit(path.stem)
        self._update()
        return path.stem

    def _drop_candidate(self) -> None:
        self.candidate = None
        self.card.clear()

    def _on_go_back(self) -> None:
        model = self._session.model
        if model is None or self._going_back is not None:
            return
        self._going_back = run_task(
            "looking for the old model",
            parent_of,
            model,
            done=self._on_parent,
            failed=partial(self._on_parent, None),
        )

    def _on_parent(self, entry: ModelEntry | None, error: Exception | None = None) -> None:
        self._going_back = None
        if entry is None:
            show_info(str(error or "The model it was fine-tuned from is not in the list any more."))
            return
        self.verdict.setText(f"“{entry.name}” outlines again; the new model stays in the list.")
        self.chosen.emit(entry.name)

    # --------------------------------------------------------------------------------------- showing

    def _update(self) -> None:
        self._update_training_images()
        running, model = self.run is not None, self._session.model
        why = _why_not(len(self._training_images or ()), model is not None, running)
        self.start.setEnabled(not why)
        self.start.setToolTip(why or "Let the model learn from the approved images, and go on correcting")
        self.resume.setEnabled(model is not None and not running)
        for widget in (self.seconds, self.start):
            widget.setVisible(not running)
        for button in (self.pause, self.stop, self.give_up):
            button.setEnabled(running)
            button.setVisible(running)
        self.pause.setText("Go on" if self.run is not None and self.run.paused else "Pause")
        offered = self.candidate is not None and self.candidate.offered
        self.use.setEnabled(offered)
        self.use.setToolTip(
            "Outline with the new model from now on; the old one stays in the list"
            if offered
            else "It is no better on the held-out images; keep both to try it all the same"
        )
        fine_tuned = model is not None and model.card.parent is not None
        self.go_back.setVisible(fine_tuned and self.candidate is None and not running)
        parent = str(model.card.training.get("parent_name", "the old model")) if model is not None else ""
        self.go_back.setText(f"Back to {parent}")
        self.go_back.setToolTip("Outline with the model that this one was fine-tuned from; both stay")

    def _update_training_images(self) -> None:
        """Count the approved images anew, if anything happened to them."""
        training_images = tuple(training_images_of(self._session.study))
        if self._training_images is not None and [id(s) for s in training_images] == [
            id(s) for s in self._training_images
        ]:
            return
        self._training_images = training_images
        self.count.setText(describe_training_images(training_images))
        words = describe_split(training_images, FineTuneConfig())
        self.split.setText(words)
        self.split.setVisible(bool(words))


def describe_plan(plan: Plan) -> str:
    """Say what is going to be done, in one line."""
    text = f"About {plan.seconds:.0f} s on {plan.device}"
    parts = [f"{len(plan.skipped)} images cannot be used"] if plan.skipped else []
    return ". ".join(part for part in ("; ".join([text, *parts]), describe_domain_shift(plan)) if part)


def describe_time_left(step: StepResult, plan: Plan | None) -> str:
    """Say how long it will take still."""
    left = step.seconds * (1 - step.progress) / max(step.progress, 1e-3)
    if plan is not None:
        left = max(0.0, plan.seconds - step.seconds)
    return f"{left:.0f} s left"


def describe_checkpoint(state: FineTuneCheckpoint) -> str:
    """Say what could be continued, in two lines."""
    when = state.saved.astimezone().strftime("%d %B, %H:%M")
    model = f" of “{state.model}”" if state.model else ""
    return (
        f"A learning{model} was interrupted on {when}, {state.progress:.0%} done, "
        f"{len(state.images)} images. Continue?"
    )


def _row(*widgets: QWidget) -> QWidget:
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(3)
    for widget in widgets:
        layout.addWidget(widget, int(isinstance(widget, QLabel)), Qt.AlignmentFlag(0))
    return row


def _why_not(training_images: int, has_model: bool, running: bool) -> str:
    """Say why a fine-tuning cannot be started; empty when it can."""
    if running:
        return "The model is learning already"
    if not has_model:
        return "Choose a model first"
    return "" if training_images else "Approve some images first"
