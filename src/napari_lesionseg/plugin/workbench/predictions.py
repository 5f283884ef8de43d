"""Predictions in the background: of the images that come next, and of every image of a study."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.workbench.autosave import SaveQueue
from napari_lesionseg.study.events import MaskOrigin
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.followup import CarriedOutline, carry_outline
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage, LabelImage

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import EncodedImage, Model

AHEAD = 2
"""Images that are prepared ahead of the one on the screen."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image that is ready to be shown."""

    image_id: str
    image: ByteImage  # (H, W, 3)
    when: datetime  # when the image's state was last changed, as far as was known
    mask: LabelImage | None  # (H, W), as saved
    prediction: Prediction | None  # None without a model
    encoded: EncodedImage | None
    carried: CarriedOutline | None = None  # of the last visit, to begin with


def prepare(study: Study, image_id: str, model: Model | None) -> Prepared:
    """Read an image and its outline, and predict; runs in another thread."""
    when = study.state.images[image_id].when
    image = study.read_image(image_id)
    mask = study.read_mask(image_id)
    is_followed = study.state.images[image_id].lesion is not None
    carried = carry_outline(study, StudyFields(study), image_id) if is_followed else None
    if model is None:
        return Prepared(image_id, image, when, mask, None, None, carried)
    encoded = model.encode(image)
    return Prepared(image_id, image, when, mask, encoded.predict_logits(), encoded, carried)


class Prefetcher:
    """Prepares images, the most urgent first, one at a time."""

    ready = Signal(object)
    failed = Signal(str, object)

    def __init__(self, study: Study) -> None:
        self._study = study
        self._model: Model | None = None
        self._wanted: list[str] = []
        self._prepared: dict[str, Prepared] = {}
        self._task: Task[Prepared] | None = None
        self._working_on: str | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an image is being prepared."""
        return self._task is not None

    def set_model(self, model: Model | None) -> None:
        """Use another model; all predictions of the former one are dropped."""
        self._model = model
        self._prepared.clear()
        self._close_task()
        self._begin()

    def prefetch(self, images: Sequence[str]) -> None:
        """Prepare these images, the first one first, and no others."""
        self._wanted = list(images)
        self._prepared = {key: made for key, made in self._prepared.items() if key in self._wanted}
        if self._working_on is not None and self._missing()[:1] != [self._working_on]:
            self._close_task()
        self._begin()

    def take(self, state: ImageState) -> Prepared | None:
        """Return an image that is ready, unless its state changed since it was read."""
        made = self._prepared.pop(state.image_id, None)
        if made is None or made.when != state.when:
            return None
        self._wanted = [image_id for image_id in self._wanted if image_id != state.image_id]
        return made

    def close(self) -> None:
        """Stop, and drop what is ready."""
        self._close_task()
        self._wanted.clear()
        self._prepared.clear()

    def _close_task(self) -> None:
        if self._task is not None:
            self._task.close()
        self._task, self._working_on = None, None

    def _missing(self) -> list[str]:
        return [image_id for image_id in self._wanted if image_id not in self._prepared]

    def _begin(self) -> None:
        missing = self._missing()
        if self._task is not None or not missing:
            return
        self._working_on = missing[0]
        self._task = run_task(
            "preparing the next image",
            prepare,
            self._study,
            self._working_on,
            self._model,
            done=self._on_done,
            failed=self._on_failed,
        )

    def _on_done(self, made: Prepared) -> None:
        self._task, self._working_on = None, None
        self._prepared[made.image_id] = made
        self.ready.emit(made)
        self._begin()

    def _on_failed(self, error: Exception) -> None:
        image_id, self._task, self._working_on = self._working_on, None, None
        if image_id is not None:
            self._wanted = [other for other in self._wanted if other != image_id]
            self.failed.emit(image_id, error)
        self._begin()


def predict_image(
    study: Study, image_id: str, model: Model, config: PostprocessConfig
) -> tuple[str, LabelImage, MaskOrigin]:
    """Read and segment an image of a study; runs in another thread."""
    probability = model.predict(study.read_image(image_id))
    threshold = resolve_threshold(None, config, model.card.threshold)
    mask = postprocess(probability, config, threshold)
    quality = quality_estimate(probability, threshold)
    return image_id, mask, MaskOrigin(model=model.sha256, threshold=threshold, quality=quality)


class BatchPrediction:
    """Segments images one after the other; each is saved as predicted before the next one is begun.

    So a full disk pauses the batch until there is room again. An image that is on the screen or was reviewed
    in the meantime is skipped.
    """

    progressed = Signal(int, int)
    finished = Signal(object)

    def __init__(self, study: Study, save_queue: SaveQueue, on_screen: Callable[[], str | None]) -> None:
        self._study, self._save_queue, self._on_screen = study, save_queue, on_screen
        self._waiting: deque[str] = deque()
        self._task: Task[tuple[str, LabelImage, MaskOrigin]] | None = None
        self._problems: list[str] = []
        self._total = 0
        self.is_active = False
        self._refreshing = False

    def start(
        self, images: Iterable[str], model: Model, config: PostprocessConfig, *, refresh: bool = False
    ) -> None:
        """Begin with the first of the images that nobody has reviewed.

        With `refresh`, segment those again that another model predicted and nobody touched, and no others.
        """
        self._model, self._config, self._refreshing = model, config, refresh
        self._waiting = deque(image_id for image_id in images if self._is_free(image_id))
        self._problems = []
        self._total, self.is_active = len(self._waiting), True
        self._save_queue.saved.connect(self._next)
        self._next()

    def cancel(self) -> None:
        """Stop; finished predictions stay, that of the current image is discarded."""
        if self.is_active:
            self.is_active = False
            self._waiting.clear()
            if self._task is not None:
                self._task.close()
            self._task = None
            self._save_queue.saved.disconnect(self._next)
            self.finished.emit(tuple(self._problems))

    def _is_free(self, image_id: str) -> bool:
        """Whether nobody has reviewed or touched an image, as far as is known now."""
        state = self._study.state.images[image_id]
        if image_id == self._on_screen() or self._save_queue.unsaved_mask(image_id) is not None:
            return False
        if state.current is not None and state.current.carried is not None:
            return False
        if self._refreshing:
            is_known = state.current is not None and state.current.model == self._model.sha256
            return state.status is Status.PREDICTED and not is_known
        return state.status is Status.UNREVIEWED

    def _next(self) -> None:
        if self._task is not None or self._save_queue.pending or not self.is_active:
            return
        while self._waiting and not self._is_free(self._waiting[0]):
            self._waiting.popleft()
        self.progressed.emit(self._total - len(self._waiting), self._total)
        if not self._waiting:
            self.cancel()
            return
        image_id = self._waiting.popleft()
        self._task = run_task(
            f"segmenting {self._study.state.images[image_id].name}",
            predict_image,
            self._study,
            image_id,
            self._model,
            self._config,
            done=self._on_predicted,
            failed=self._on_failed,
        )

    def _on_predicted(self, result: tuple[str, LabelImage, MaskOrigin]) -> None:
        image_id, mask, origin = result
        self._task = None
        if self._is_free(image_id):
            self._save_queue.save_mask("prediction", image_id, mask, origin)
        self._next()

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        self._problems.append(str(error) if isinstance(error, LesionSegError) else repr(error))
        self._next()
