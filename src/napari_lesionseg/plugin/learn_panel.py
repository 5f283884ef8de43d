"""Learn: let the model learn from the approved pictures, look at the curve, take the new model or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QGridLayout, QLabel, QProgressBar, QPushButton, QSpinBox, QWidget

from napari_lesionseg.engine.course import Progress
from napari_lesionseg.engine.planning import Plan
from napari_lesionseg.engine.training import EpochResult, StepResult
from napari_lesionseg.errors import CancelledError, LesionSegError
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.models.registry import ModelRegistry
from napari_lesionseg.plugin.controls import small
from napari_lesionseg.plugin.learning import LearnRun, lessons_of
from napari_lesionseg.plugin.study_session import StudySession

if TYPE_CHECKING:
    from napari_lesionseg.engine.candidate import Candidate
    from napari_lesionseg.engine.finetuning import Event

DEFAULT_SECONDS = 60
PLOT_HEIGHT = 110
STATE_NAME = "learning.state.safetensors"
# Okabe and Ito (2008): blue for the loss, orange for the figure that counts.
LOSS_COLOUR, DICE_COLOUR = "#56b4e9", "#e69f00"
LOSS_PEN, DICE_PEN = pg.mkPen(LOSS_COLOUR, width=1), pg.mkPen(DICE_COLOUR, width=2)


class LearnPanel(QWidget):
    """Start, pause and stop a fine-tuning, and decide about its outcome.

    Parameters
    ----------
    session : StudySession
        The study at work; its model is what learns.
    """

    def __init__(self, session: StudySession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._session = session
        self.run: LearnRun | None = None
        self.candidate: Candidate | None = None
        self.count = small(QLabel())
        self.seconds = QSpinBox()
        self.start = QPushButton("Fine-tune")
        self.pause = QPushButton("Pause")
        self.stop = QPushButton("Stop")
        self.bar = QProgressBar()
        self.plot = pg.PlotWidget(background=None)
        self.verdict = small(QLabel())
        self.use = QPushButton("Use")
        self.keep = QPushButton("Keep both")
        self.discard = QPushButton("Discard")
        self._describe()
        self._lay_out()
        self._connect()
        self._update()

    # ------------------------------------------------------------------------------------- building

    def _describe(self) -> None:
        self.seconds.setRange(10, 3600)
        self.seconds.setValue(DEFAULT_SECONDS)
        self.seconds.setSuffix(" s")
        self.seconds.setToolTip("How long the model may learn")
        self.pause.setToolTip("Wait, and go on later")
        self.stop.setToolTip("End now, and keep the best so far")
        self.use.setToolTip("Outline with the new model from now on; the old one stays in the list")
        self.keep.setToolTip("Put the new model into the list, and go on with the old one")
        self.discard.setToolTip("Forget the new model")
        self.count.setWordWrap(True)
        self.verdict.setWordWrap(True)
        self.verdict.setMinimumHeight(2 * self.verdict.fontMetrics().lineSpacing())
        self.plot.setFixedHeight(PLOT_HEIGHT)
        self.plot.setMouseEnabled(x=False, y=False)
        self.plot.hideButtons()
        self.plot.setMenuEnabled(False)
        self.plot.addLegend(offset=(-5, 5), labelTextSize="7pt")
        self._losses = self.plot.plot(pen=LOSS_PEN, name="error")
        self._dices = self.plot.plot(
            pen=DICE_PEN, symbol="o", symbolSize=5, symbolBrush="#e69f00", name="held-out Dice"
        )

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(self.count, 0, 0, 1, 4)
        for column, widget in enumerate((self.seconds, self.start, self.pause, self.stop)):
            grid.addWidget(widget, 1, column)
        grid.addWidget(self.bar, 2, 0, 1, 4)
        grid.addWidget(self.plot, 3, 0, 1, 4)
        grid.addWidget(self.verdict, 4, 0, 1, 4)
        for column, button in enumerate((self.use, self.keep, self.discard)):
            grid.addWidget(button, 5, column + 1)

    def _connect(self) -> None:
        self.start.clicked.connect(self._on_start)
        self.pause.clicked.connect(self._on_pause)
        self.stop.clicked.connect(self._on_stop)
        self.use.clicked.connect(self._on_use)
        self.keep.clicked.connect(self._on_keep)
        self.discard.clicked.connect(self._on_discard)
        self._session.changed.connect(self._update)

    def close_session(self) -> None:
        """Let go of the session, and give up what is being learned."""
        self._session.changed.disconnect(self._update)
        if self.run is not None:
            self.run.abandon()
        self.run = None

    # ---------------------------------------------------------------------------------------- slots

    def _on_start(self) -> None:
        model = self._session.model
        if model is None:
            return
        self._steps: list[tuple[float, float]] = []
        self._rounds: list[tuple[float, float]] = []
        self._losses.setData([], [])
        self._dices.setData([], [])
        self.candidate = None
        self.verdict.setText("")
        state_path = self._session.study.folder / "cache" / STATE_NAME
        state_path.parent.mkdir(exist_ok=True)
        self.run = run = LearnRun(self._session.study, model, self.seconds.value(), state_path, self)
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
            self.run.stop() if self._rounds else self.run.give_up()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Plan):
            self.verdict.setText(
                f"{event.pictures} pictures, {len(event.held_out)} of them held out in turn; "
                f"about {event.seconds:.0f} s on {event.device}"
            )
        elif isinstance(event, Progress):
            self._show_progress(event.stage, event.done / max(1, event.total))
        elif isinstance(event, StepResult):
            self._steps.append((event.seconds, event.loss))
            self._losses.setData(*zip(*self._steps, strict=True))
            left = event.seconds * (1 - event.progress) / max(event.progress, 1e-3)
            self._show_progress(f"{left:.0f} s left", event.progress)
        elif isinstance(event, EpochResult) and event.validation is not None:
            self._rounds.append((event.seconds, event.validation.dice))
            self._dices.setData(*zip(*self._rounds, strict=True))

    def _show_progress(self, words: str, share: float) -> None:
        self.bar.setValue(round(100 * share))
        self.bar.setFormat(words)

    def _on_finished(self, candidate: Candidate) -> None:
        self.run, self.candidate = None, candidate
        self.verdict.setText(candidate.reason)
        self._show_progress("done", 1.0)
        self._update()

    def _on_failed(self, error: Exception) -> None:
        self.run = None
        self.verdict.setText(str(error))
        self._show_progress("", 0.0)
        if isinstance(error, LesionSegError) and not isinstance(error, CancelledError):
            show_error(str(error))
        self._update()

    def _on_use(self) -> None:
        if self.candidate is not None:
            model = self.candidate.model
            if self._register():
                self._session.set_model(model)

    def _on_keep(self) -> None:
        self._register()

    def _on_discard(self) -> None:
        self.candidate = None
        self.verdict.setText("The new model was discarded; the old one is as it was.")
        self._update()

    def _register(self) -> bool:
        """Put the new model into the list under a name of its own; nothing is ever overwritten."""
        if self.candidate is None:
            return False
        model = self.candidate.model
        try:
            path = ModelRegistry().add(checkpoint_bytes(model.network, model.card), model.card.name)
        except LesionSegError as error:
            show_error(str(error))
            return False
        self.candidate = None
        self.verdict.setText(f"The new model is in the list as “{path.stem}”.")
        self._update()
        return True

    # --------------------------------------------------------------------------------------- showing

    def _update(self) -> None:
        states = lessons_of(self._session.study)
        readers = sorted({state.reader for state in states if state.reader})
        by = f", signed by {', '.join(readers)}" if readers else ""
        self.count.setText(f"{len(states)} pictures to learn from{by}")
        why = _why_not(len(states), self._session.model is not None, self.run is not None)
        self.start.setEnabled(not why)
        self.start.setToolTip(why or "Let the model learn from the approved pictures, and go on correcting")
        for button in (self.pause, self.stop):
            button.setEnabled(self.run is not None)
        self.pause.setText("Go on" if self.run is not None and self.run.paused else "Pause")
        for button in (self.keep, self.discard):
            button.setEnabled(self.candidate is not None)
        self.use.setEnabled(self.candidate is not None and self.candidate.offered)


def _why_not(lessons: int, has_model: bool, running: bool) -> str:
    """Say why a fine-tuning cannot be started; empty when it can."""
    if running:
        return "The model is learning already"
    if not has_model:
        return "Choose a model first"
    return "" if lessons else "Approve some pictures first"
