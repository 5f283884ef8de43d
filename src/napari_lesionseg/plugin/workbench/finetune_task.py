"""Fine-tuning in another thread, with pause and stop. No widgets in here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lesionseg.cluster.engine import IN_PROCESS, ClusterOptions
from napari_lesionseg.config import FineTuneConfig
from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import ClusterError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.models.store import ModelEntry, ModelStore
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.study.datasets import final_mask
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.study.study import Study
from napari_lesionseg.training.dataset import CachedPair, shrink_pair

if TYPE_CHECKING:
    from napari_lesionseg.cluster.finetune import ClusterFineTuning
    from napari_lesionseg.finetuning.comparison import Candidate
    from napari_lesionseg.finetuning.session import FineTuning
    from napari_lesionseg.inference.predictor import Model

FEW = 5
"""With fewer images, a test says little."""

MOSTLY = 0.9
"""Part of the outlines that, approved unchanged, leaves next to nothing to learn."""

SIDE = 512
"""Longer side in pixels of the images kept in memory during fine-tuning."""

CANCEL_MS = 2000
"""Time in which a canceled fine-tuning ends."""


def training_images_of(study: Study) -> list[ImageState]:
    """Return the images to train on: those that were approved or have no lesion."""
    return [state for state in study.state.images.values() if state.status.done]


def split_items(training_images: Sequence[ImageState]) -> list[SplitItem]:
    """Return the patient and lesion of each image, so that none of them is split."""
    return [SplitItem(s.name, patient=s.patient, lesion=s.lesion) for s in training_images]


def read_training_image(study: Study, state: ImageState) -> CachedPair:
    """Read an image and its final outline, shrunk; runs in another thread."""
    return shrink_pair(state.name, study.read_image(state.image_id), final_mask(study, state), SIDE)


def checkpoint_path_of(study: Study) -> Path:
    """Return the path of this annotator's fine-tuning checkpoint."""
    return study.folder / "cache" / f"finetune-{study.annotator}.checkpoint.safetensors"


def describe_training_images(training_images: Sequence[ImageState]) -> str:
    """Describe how many images there are to train on, and who approved them."""
    counts = Counter(state.annotator for state in training_images if state.annotator)
    images = "1 image" if len(training_images) == 1 else f"{len(training_images)} images"
    if not counts:
        return f"{images} to train on"
    approved = ", ".join(f"{count} by {annotator}" for annotator, count in sorted(counts.items()))
    return f"{images} to train on: {approved}"


def describe_unchanged(training_images: Sequence[ImageState]) -> str:
    """Warn when there is next to nothing to learn; empty if there is enough."""
    unchanged = sum(is_unchanged(state) for state in training_images)
    if not training_images or unchanged < MOSTLY * len(training_images):
        return ""
    return (
        f"{unchanged} of {len(training_images)} outlines were approved unchanged. "
        "The model already draws what you want, so fine-tuning will hardly change it"
    )


def is_unchanged(state: ImageState) -> bool:
    """Whether the model's outline was approved as it was."""
    approved, predicted = state.approved, state.predicted
    return approved is not None and predicted is not None and approved.revision == predicted.revision


def describe_split(training_images: Sequence[ImageState], config: FineTuneConfig) -> str:
    """Describe how the new model is tested, and what the test cannot show; empty without any images."""
    from napari_lesionseg.finetuning.cross_validation import NOT_HELD_OUT, assign_folds

    if not training_images:
        return ""
    folds = assign_folds(
        [state.name for state in training_images], split_items(training_images), config.folds, config.seed
    )
    sizes = Counter(fold for fold in folds if fold != NOT_HELD_OUT)
    if not sizes:
        return "Too few images for a test: it will not be known whether the new model is better"
    patients = {state.patient for state in training_images}
    kept = "" if None in patients else f"; {len(patients)} patients, each on one side only"
    if len(sizes) == 1:
        return f"{len(training_images) - sizes[0]} for training, {sizes[0]} for testing{kept}"
    if sizes.total() < FEW:
        return f"Tested on {sizes.total()} images{kept}: too few to show whether the new model is better"
    return f"Tested on every image, by models that have not seen it{kept}"


def parent_of(model: Model) -> ModelEntry | None:
    """Find the model that a model was fine-tuned from; reads all models, so run it in another thread."""
    if model.card.parent is None:
        return None
    usable = (entry for entry in ModelStore().list() if entry.card is not None)
    return next((entry for entry in usable if sha256_file(entry.path) == model.card.parent), None)


class FineTuneTask(Task["Candidate"]):
    """One fine-tuning; `progressed` is emitted with each event of `FineTuning.steps`.

    The checkpoint stays until the result was accepted or discarded, so that a crash loses little. A canceled
    or closed task ends after the current step.
    """

    cancelled_message = "The fine-tuning was canceled. The model is unchanged."

    def __init__(
        self,
        study: Study,
        model: Model,
        config: FineTuneConfig,
        checkpoint_path: Path,
        *,
        resume: bool = False,
        compute: ClusterOptions = IN_PROCESS,
    ) -> None:
        super().__init__(
            "fine-tuning the model",
            self._run,
            study,
            training_images_of(study),
            model,
            config,
            checkpoint_path,
            resume,
        )
        self._compute = compute
        self.problems: tuple[str, ...] = ()
        """What went wrong without ending it, one sentence each; known at the end."""
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._ended = threading.Event()
        self._tuning: FineTuning | ClusterFineTuning | None = None

    @property
    def is_paused(self) -> bool:
        """Whether it waits for `resume`."""
        return not self._may_go_on.is_set()

    def pause(self) -> None:
        """Wait after the current step."""
        self._may_go_on.clear()

    def resume(self) -> None:
        """Go on."""
        self._may_go_on.set()

    def stop(self) -> None:
        """End soon, and keep the best model so far."""
        if self._tuning is not None:
            self._tuning.stop()
        self._may_go_on.set()

    def cancel(self) -> None:
        """End after the current step, also when it is paused; the model is unchanged."""
        super().cancel()
        self._may_go_on.set()

    def wait(self) -> bool:
        """Wait for a closed task to end; False if it takes too long."""
        return self._ended.wait(CANCEL_MS / 1000)

    def _run(self, *arguments: Any) -> Candidate:
        """Train in a thread of its own: a lowered priority stays, and Qt reuses its threads."""
        from napari_lesionseg.training.resources import lower_priority, short_holds

        try:
            with short_holds(), ThreadPoolExecutor(1, "fine-tuning", initializer=lower_priority) as pool:
                return pool.submit(self._train, *arguments).result()
        finally:
            self._ended.set()

    def _train(
        self,
        study: Study,
        training_images: list[ImageState],
        model: Model,
        config: FineTuneConfig,
        checkpoint_path: Path,
        resume: bool,
    ) -> Candidate:
        from napari_lesionseg.finetuning.fold_processes import FoldProcesses
        from napari_lesionseg.finetuning.session import FineTuning

        pairs = []
        for state in training_images:
            self.check_cancelled()
            pairs.append(read_training_image(study, state))
        self.check_cancelled()
        items = split_items(training_images)
        lost = ""
        # An interrupted fine-tuning goes on here, where its checkpoint is.
        if not self._compute.in_process and not resume:
            from napari_lesionseg.cluster.finetune import ClusterFineTuning

            try:
                return self._follow(
                    ClusterFineTuning(self._compute, model, pairs, config, items, check=self.check_cancelled)
                )
            except ClusterError as error:
                self.report(f"{error} The model is being fine-tuned on this computer.")
                lost = f"{error} The model was fine-tuned on this computer."
        candidate = self._follow(
            FineTuning(
                model,
                pairs,
                config,
                items=items,
                state_path=checkpoint_path,
                resume=resume,
                workers=FoldProcesses(background=True),
            )
        )
        self.problems = (lost, *self.problems) if lost else self.problems
        return candidate

    def _follow(self, tuning: FineTuning | ClusterFineTuning) -> Candidate:
        """Report every event, and wait or end when asked to."""
        self._tuning = tuning
        try:
            for event in tuning.steps():
                self.report(event)
                self._may_go_on.wait()
                self.check_cancelled()
            return tuning.candidate()
        finally:
            self.problems = tuning.problems
            tuning.close()
