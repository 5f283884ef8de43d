"""Predictions in the background: of the images that come next, and of every image of a study."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, TypeAlias, cast

from psygnal import Signal

from napari_lesionseg.cluster.engine import IN_PROCESS, ClusterOptions, open_engine
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.plugin.landmarks.task import find_marks
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.workbench.autosave import SaveQueue, Work
from napari_lesionseg.study.events import MaskOrigin
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.followup import CarriedOutline, carry_outline
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage, LabelImage, Mark

if TYPE_CHECKING:
    from napari_lesionseg.cluster.predict import ImageFile, OutlineResult
    from napari_lesionseg.inference.landmarks import LandmarkModel
    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import EncodedImage, Model

AnyModel: TypeAlias = "Model | LandmarkModel"
"""A model that draws outlines, or one that finds landmarks, as the study needs it."""

AHEAD = 2
"""Images that are prepared ahead of the one on the screen."""
UNSAVED = 64
"""Masks from a cluster that may wait to be saved, which bounds the memory."""


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
    found: tuple[Mark, ...] | None = None  # in a study of landmarks, what the model found


def prepare(study: Study, image_id: str, model: AnyModel | None) -> Prepared:
    """Read an image and its outline, and predict, or find its landmarks; runs in another thread."""
    when = study.state.images[image_id].when
    image = study.read_image(image_id)
    if study.info.landmarks is not None:
        found = None if model is None else find_marks(cast("LandmarkModel", model), image)
        return Prepared(image_id, image, when, None, None, None, found=found)
    mask = study.read_mask(image_id)
    is_followed = study.state.images[image_id].lesion is not None
    carried = carry_outline(study, StudyFields(study), image_id) if is_followed else None
    if model is None:
        return Prepared(image_id, image, when, mask, None, None, carried)
    encoded = cast("Model", model).encode(image)
    return Prepared(image_id, image, when, mask, encoded.predict_logits(), encoded, carried)


class Prefetcher:
    """Prepares images, the most urgent first, one at a time."""

    ready = Signal(object)
    failed = Signal(str, object)

    def __init__(self, study: Study) -> None:
        self._study = study
        self._model: AnyModel | None = None
        self._wanted: list[str] = []
        self._prepared: dict[str, Prepared] = {}
        self._task: Task[Prepared] | None = None
        self._working_on: str | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an image is being prepared."""
        return self._task is not None

    def set_model(self, model: AnyModel | None) -> None:
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


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """What a model found in an image, or why there is nothing."""

    image_id: str
    content: Work | None
    origin: MaskOrigin
    error: str = ""


def predict_images(
    study: Study, images: Sequence[str], model: AnyModel, config: PostprocessConfig
) -> list[Predicted]:
    """Read images of a study, and segment them or find their landmarks; runs in another thread."""
    if study.info.landmarks is not None:
        return [_find_landmarks(study, image_id, cast("LandmarkModel", model)) for image_id in images]
    from napari_lesionseg.cluster.predict import outline_images

    results = outline_images(cast("Model", model), config, images, study.read_image)
    return [_to_predicted(result, model) for result in results]


def _find_landmarks(study: Study, image_id: str, model: LandmarkModel) -> Predicted:
    try:
        marks = find_marks(model, study.read_image(image_id))
    except LesionSegError as error:
        return Predicted(image_id, None, MaskOrigin(), str(error))
    quality = fmean(mark.score for mark in marks) if marks else None
    return Predicted(image_id, marks, MaskOrigin(model=model.sha256, quality=quality))


def _to_predicted(result: OutlineResult, model: AnyModel) -> Predicted:
    outline = result.outline
    if outline is None:
        return Predicted(result.key, None, MaskOrigin(), result.error)
    origin = MaskOrigin(model=model.sha256, threshold=outline.threshold, quality=outline.quality)
    return Predicted(result.key, outline.mask, origin)


@dataclass(frozen=True, slots=True, eq=False)
class ClusterJob:
    """Images to segment on a cluster."""

    study: Study
    images: tuple[str, ...]
    model: Model
    config: PostprocessConfig
    compute: ClusterOptions


class ClusterPrediction(Task[None]):
    """Segments images on a cluster; `progressed` is emitted with the result of each, in order."""

    def __init__(self, job: ClusterJob) -> None:
        super().__init__("segmenting on the cluster", self._run, job)
        self._room = threading.Semaphore(UNSAVED)

    def make_room(self) -> None:
        """Count a result as saved, so that another one may come."""
        self._room.release()

    def cancel(self) -> None:
        """Stop after the next result."""
        super().cancel()
        self._room.release()

    def _run(self, job: ClusterJob) -> None:
        from napari_lesionseg.cluster.predict import outline_files

        files = (_read_file(job.study, image_id) for image_id in job.images)
        with open_engine(job.compute, check=self.check_cancelled) as engine:
            for result in outline_files(engine, job.model, job.config, files):
                self._room.acquire()
                self.report(_to_predicted(result, job.model))


def _read_file(study: Study, image_id: str) -> ImageFile:
    """Read the file of an image; one that cannot be read is left to the worker's error."""
    from napari_lesionseg.cluster.predict import ImageFile

    name = study.state.images[image_id].name
    try:
        path = study.image_path(image_id)
        return ImageFile(image_id, f"{name}{path.suffix}", path.read_bytes())
    except (OSError, LesionSegError):
        return ImageFile(image_id, name, b"")


class BatchPrediction:
    """Segments images, several at once on a GPU; they are saved as predicted before the next ones are begun.

    So a full disk pauses the batch until there is room again. An image that is on the screen or was reviewed
    in the meantime is skipped.
    """

    progressed = Signal(int, int)
    finished = Signal(object)
    failed = Signal(str)

    def __init__(self, study: Study, save_queue: SaveQueue, on_screen: Callable[[], str | None]) -> None:
        self._study, self._save_queue, self._on_screen = study, save_queue, on_screen
        self._waiting: deque[str] = deque()
        self._task: Task[list[Predicted]] | None = None
        self._working_on: list[str] = []
        self._cluster: ClusterPrediction | None = None
        self._arrived: deque[Predicted] = deque()
        self._problems: list[str] = []
        self._total = 0
        self.is_active = False
        self._refreshing = False

    def start(
        self,
        images: Iterable[str],
        model: AnyModel,
        config: PostprocessConfig,
        *,
        refresh: bool = False,
        compute: ClusterOptions = IN_PROCESS,
    ) -> None:
        """Begin with the first of the images that nobody has reviewed.

        With `refresh`, segment those again that another model predicted and nobody touched, and no others.
        """
        self._model, self._config, self._refreshing = model, config, refresh
        self._waiting = deque(image_id for image_id in images if self._is_free(image_id))
        self._problems = []
        self._total, self.is_active = len(self._waiting), True
        self._save_queue.saved.connect(self._next)
        if self._waiting and not compute.in_process:
            job = ClusterJob(self._study, tuple(self._waiting), cast("Model", model), config, compute)
            self._cluster = ClusterPrediction(job)
            self._cluster.progressed.connect(self._on_arrived)
            self._cluster.finished.connect(self._on_cluster_ended)
            self._cluster.failed.connect(self._on_cluster_ended)
            self._cluster.start()
        self._next()

    def cancel(self) -> None:
        """Stop; finished predictions stay, that of the current image is discarded."""
        if self.is_active:
            self.is_active = False
            self._waiting.clear()
            for task in (self._task, self._cluster):
                if task is not None:
                    task.close()
            self._task = self._cluster = None
            self._arrived.clear()
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
        if self._arrived:
            self._save_arrived(self._arrived.popleft())
            return
        if self._cluster is not None:
            self.progressed.emit(self._total - len(self._waiting), self._total)
            return
        while self._waiting and not self._is_free(self._waiting[0]):
            self._waiting.popleft()
        self.progressed.emit(self._total - len(self._waiting), self._total)
        if not self._waiting:
            self.cancel()
            return
        self._working_on = self._next_batch()
        self._task = run_task(
            f"segmenting {self._study.state.images[self._working_on[0]].name}",
            predict_images,
            self._study,
            self._working_on,
            self._model,
            self._config,
            done=self._on_predicted,
            failed=self._on_failed,
        )

    def _next_batch(self) -> list[str]:
        """Return the next images to predict at once; they stay in line until they are saved."""
        from napari_lesionseg.inference.batches import default_batch_size

        size = 1 if self._study.info.landmarks is not None else default_batch_size(cast("Model", self._model))
        return list(islice(filter(self._is_free, self._waiting), size))

    def _on_predicted(self, results: list[Predicted]) -> None:
        self._task = None
        self._arrived.extend(results)
        self._next()

    def _on_arrived(self, result: Predicted) -> None:
        self._arrived.append(result)
        self._next()

    def _save_arrived(self, result: Predicted) -> None:
        """Save what was predicted; the rest stays in line, in case the connection to a cluster is lost."""
        if self._cluster is not None:
            self._cluster.make_room()
        self._waiting.remove(result.image_id)
        if result.content is None:
            self._problems.append(result.error)
        elif self._is_free(result.image_id):
            self._save_queue.save_mask("prediction", result.image_id, result.content, result.origin)
        self._next()

    def _on_cluster_ended(self, error: Exception | None) -> None:
        """Go on here with the images that did not come, if the cluster failed."""
        self._cluster = None
        if error is not None:
            self.failed.emit(f"{error} The remaining images are segmented on this computer.")
        self._next()

    def _on_failed(self, error: Exception) -> None:
        self._task = None
        for image_id in self._working_on:
            self._waiting.remove(image_id)
        self._problems.append(str(error) if isinstance(error, LesionSegError) else repr(error))
        self._next()
