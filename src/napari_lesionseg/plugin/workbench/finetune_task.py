"""Fine-tuning at work behind the window: in another thread, with pause and stop. No widgets in here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import CancelledError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.models.store import ModelEntry, ModelStore
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.study.datasets import final_mask
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.study.study import Study
from napari_lesionseg.training.dataset import CachedPair, shrink_pair

if TYPE_CHECKING:
    from napari_lesionseg.finetuning.comparison import Candidate
    from napari_lesionseg.finetuning.session import Event, FineTuning
    from napari_lesionseg.inference.predictor import Model

SIDE = 512
"""Longer side in pixels of the images kept in memory while a model learns."""

CANCEL_MS = 2000
"""Time in which a learning that is given up ends."""


def training_images_of(study: Study) -> list[ImageState]:
    """List the images that a model can learn from: those with a verdict."""
    return [state for state in study.state.images.values() if state.status.done]


def split_items(training_images: Sequence[ImageState]) -> list[SplitItem]:
    """Say of which patient and lesion images are, so that none is torn apart."""
    return [SplitItem(s.name, patient=s.added.patient, lesion=s.added.lesion) for s in training_images]


def read_training_image(study: Study, state: ImageState) -> CachedPair:
    """Read a signed image and its outline, shrunk; to be called in a worker."""
    return shrink_pair(state.name, study.read_image(state.image_id), final_mask(study, state), SIDE)


def state_path_of(study: Study) -> Path:
    """Return the path of this annotator's fine-tuning checkpoint."""
    return study.folder / "cache" / f"learning-{study.annotator}.state.safetensors"


def describe_training_images(training_images: Sequence[ImageState]) -> str:
    """Count the images to learn from, and who signed them, in one line."""
    counts = Counter(state.annotator for state in training_images if state.annotator)
    images = "1 image" if len(training_images) == 1 else f"{len(training_images)} images"
    if not counts:
        return f"{images} to learn from"
    signed = ", ".join(f"{count} by {annotator}" for annotator, count in sorted(counts.items()))
    return f"{images} to learn from: {signed}"


def describe_split(training_images: Sequence[ImageState], config: FineTuneConfig) -> str:
    """Say which of them are held out to measure on, in one line; empty where there are none."""
    from napari_lesionseg.finetuning.cross_validation import NOT_HELD_OUT, assign_folds

    if not training_images:
        return ""
    dealt = assign_folds(
        [state.name for state in training_images], split_items(training_images), config.folds, config.seed
    )
    sizes = Counter(fold for fold in dealt if fold != NOT_HELD_OUT)
    if not sizes:
        return "None can be held out: whether the new model is better will not be known"
    patients = {state.added.patient for state in training_images}
    kept = "" if None in patients else f"; {len(patients)} patients, none on both sides"
    if len(sizes) == 1:
        return f"{len(training_images) - sizes[0]} to learn, {sizes[0]} held out{kept}"
    parts = " + ".join(str(sizes[fold]) for fold in sorted(sizes))
    return f"Held out in turn: {parts}{kept}"


def parent_of(model: Model) -> ModelEntry | None:
    """Find the model that a model was fine-tuned from; to be called in a worker, as it reads all models."""
    if model.card.parent is None:
        return None
    usable = (entry for entry in ModelStore().list() if entry.card is not None)
    return next((entry for entry in usable if sha256_file(entry.path) == model.card.parent), None)


class LearnRun(QObject):
    """One fine-tuning.

    Parameters
    ----------
    study : Study
        Whose signed outlines are learned from.
    model : Model
        What to start from; it stays as it is and can be used meanwhile.
    config : FineTuneConfig
        How it learns, and its budget.
    state_path : Path
        Where the state is kept, so that a crash loses one round at most. It stays there until the outcome was
        decided about.
    resume : bool
        Continue from that state.

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
        self,
        study: Study,
        model: Model,
        config: FineTuneConfig,
        state_path: Path,
        *,
        resume: bool = False,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._go = threading.Event()
        self._go.set()
        self._given_up = threading.Event()
        self._ended = threading.Event()
        self._tuning: FineTuning | None = None
        self.problems: tuple[str, ...] = ()
        """What went wrong without ending it, one sentence each; known at the end."""
        self._job: Task[Any] = run_task(
            "learning from the approved images",
            self._work,
            study,
            training_images_of(study),
            model,
            config,
            state_path,
            resume,
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
        """Give up, and let nobody hear of it: the window is closing. It can be continued the next time."""
        self._job.close()
        self.give_up()

    def wait(self) -> bool:
        """Wait for a learning that was given up to end; False if it takes too long."""
        return self._ended.wait(CANCEL_MS / 1000)

    def _work(self, *arguments: Any) -> Candidate:
        """Learn in a thread of its own: priority is for good, and Qt's threads are used for other work."""
        from napari_lesionseg.training.resources import lower_priority, short_holds

        try:
            with short_holds(), ThreadPoolExecutor(1, "learning", initializer=lower_priority) as pool:
                return pool.submit(self._learn, *arguments).result()
        finally:
            self._ended.set()

    def _learn(
        self,
        study: Study,
        training_images: list[ImageState],
        model: Model,
        config: FineTuneConfig,
        state_path: Path,
        resume: bool,
    ) -> Candidate:
        from napari_lesionseg.finetuning.session import FineTuning

        pairs = [
            read_training_image(study, state) for state in training_images if not self._given_up.is_set()
        ]
        self._check_given_up()
        items = split_items(training_images)
        self._tuning = tuning = FineTuning(
            model, pairs, config, items=items, state_path=state_path, resume=resume
        )
        self._drive(tuning, self.happened.emit)
        self.problems = tuning.problems
        return tuning.candidate()

    def _drive(self, tuning: FineTuning, tell: Callable[[Event], None]) -> None:
        try:
            for event in tuning.steps():
                tell(event)
                self._go.wait()
                self._check_given_up()
        finally:
            tuning.close()

    def _check_given_up(self) -> None:
        if self._given_up.is_set():
            raise CancelledError("The learning was given up; the model is as it was.")
