"""Fine-tuning at work behind the window: in another thread, with pause and stop. No widgets in here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.data.batches import CachedPair, shrink_pair
from napari_lesionseg.data.splits import SplitItem
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.plugin.workers import Job
from napari_lesionseg.study.fold import PictureState
from napari_lesionseg.study.records import signed_outline
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari_lesionseg.engine.candidate import Candidate
    from napari_lesionseg.engine.finetuning import Event, FineTuning
    from napari_lesionseg.engine.inference import Model

SIDE = 512
"""Longer side in pixels of the pictures kept in memory while a model learns."""


def lessons_of(study: Study) -> list[PictureState]:
    """List the pictures that a model can learn from: those with a verdict."""
    return [state for state in study.state.pictures.values() if state.status.done]


def read_lesson(study: Study, state: PictureState) -> CachedPair:
    """Read a signed picture and its outline, shrunk; to be called in a worker."""
    return shrink_pair(state.name, study.read_picture(state.picture), signed_outline(study, state), SIDE)


class LearnRun(QObject):
    """One fine-tuning.

    Parameters
    ----------
    study : Study
        Whose signed outlines are learned from.
    model : Model
        What to start from; it stays as it is and can be used meanwhile.
    seconds : float
        Budget.
    state_path : Path
        Where the state is kept, so that a crash loses one round at most.

    Attributes
    ----------
    happened : Signal
        Emitted on the main thread with each event of the engine's `FineTuning`.
    finished : Signal
        Emitted with the `Candidate`.
    failed : Signal
        Emitted with the exception; a `CancelledError` when the user gave up.
    """

    happened = Signal(object)
    finished = Signal(object)
    failed = Signal(object)

    def __init__(
        self, study: Study, model: Model, seconds: float, state_path: Path, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._go = threading.Event()
        self._go.set()
        self._given_up = threading.Event()
        self._tuning: FineTuning | None = None
        self._job: Job[Any] = Job(
            "learning from the approved pictures",
            self._work,
            study,
            lessons_of(study),
            model,
            FineTuneConfig(max_seconds=seconds),
            state_path,
            done=self.finished.emit,
            failed=self.failed.emit,
        )

    @property
    def paused(self) -> bool:
        """Whether it waits for `resume`."""
        return not self._go.is_set()

    def pause(self) -> None:
        """Wait after the step in hand."""
        self._go.clear()

    def resume(self) -> None:
        """Go on."""
        self._go.set()

    def stop(self) -> None:
        """End soon, and keep the best so far."""
        if self._tuning is not None:
            self._tuning.stop()
        self._go.set()

    def give_up(self) -> None:
        """End after the step in hand; nothing comes of it."""
        self._given_up.set()
        self._go.set()

    def abandon(self) -> None:
        """Give up, and let nobody hear of it: the window is closing."""
        self._job.drop()
        self.give_up()

    def _work(
        self,
        study: Study,
        states: list[PictureState],
        model: Model,
        config: FineTuneConfig,
        state_path: Path,
    ) -> Candidate:
        """Run the engine in this, another, thread."""
        from napari_lesionseg.engine.finetuning import FineTuning

        pairs = [read_lesson(study, state) for state in states]
        items = [SplitItem(s.name, patient=s.added.patient, lesion=s.added.lesion) for s in states]
        self._tuning = tuning = FineTuning(model, pairs, config, items=items, state_path=state_path)
        self._drive(tuning, self.happened.emit)
        candidate = tuning.candidate()
        tuning.forget()
        return candidate

    def _drive(self, tuning: FineTuning, tell: Callable[[Event], None]) -> None:
        for event in tuning.steps():
            tell(event)
            self._go.wait()
            if self._given_up.is_set():
                tuning.close()
                raise CancelledError("The learning was given up; the model is as it was.")
