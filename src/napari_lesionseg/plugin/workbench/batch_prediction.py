"""Outline every image of a study that nobody has looked at, in the background, while the annotator works."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.quality import quality_estimate
from napari_lesionseg.inference.postprocess import postprocess, resolve_threshold
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.plugin.workbench.save_queue import SaveQueue
from napari_lesionseg.study.events import Provenance
from napari_lesionseg.study.state import ImageState, Status
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import LabelImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_lesionseg.inference.predictor import Model


def outline_image(
    study: Study, image_id: str, model: Model, config: PostprocessConfig
) -> tuple[LabelImage, Provenance]:
    """Read and outline an image of a study; to be called in a worker.

    Returns
    -------
    tuple of ndarray and Origin
        The outline, (H, W) uint8, and what it came from.
    """
    probability = model.predict(study.read_image(image_id))
    threshold = resolve_threshold(None, config, model.card.threshold)
    mask = postprocess(probability, config, threshold)
    quality = quality_estimate(probability, threshold)
    return mask, Provenance(model=model.sha256, threshold=threshold, quality=quality)


class StudyRun:
    """Outlines images one after the other; each is saved as predicted before the next one is begun.

    So a full disk halts the run, and it goes on when there is room again. An image that the annotator has on
    the screen, or has looked at in the meantime, is left out.

    Parameters
    ----------
    study : Study
        The study.
    outbox : Outbox
        Saves the outlines.
    on_screen : callable
        Tells the SHA-256 of the image that is on the screen.

    Attributes
    ----------
    progressed : psygnal.Signal
        Emitted with (images done, images in all).
    finished : psygnal.Signal
        Emitted once with the sentences that say what could not be outlined, also after `cancel`.
    """

    progressed = Signal(int, int)
    finished = Signal(object)

    def __init__(self, study: Study, save_queue: SaveQueue, on_screen: Callable[[], str | None]) -> None:
        self._study, self._save_queue, self._on_screen = study, save_queue, on_screen
        self._waiting: deque[str] = deque()
        self._job: Task[tuple[LabelImage, Provenance]] | None = None
        self._problems: list[str] = []
        self._total = 0
        self._active = self._refreshing = False

    def start(
        self, images: Iterable[str], model: Model, config: PostprocessConfig, *, refresh: bool = False
    ) -> None:
        """Begin.

        Parameters
        ----------
        images : iterable of str
            SHA-256 of images, the first one first; those that were looked at are left out.
        model : Model
            The network.
        config : PostprocessConfig
            How outlines are made of its answers.
        refresh : bool
            Outline those anew that another network outlined and nobody touched, and no others.
        """
        self._model, self._config, self._refreshing = model, config, refresh
        self._waiting = deque(image_id for image_id in images if self._is_free(image_id))
        self._total, self._active = len(self._waiting), True
        self._save_queue.saved.connect(self._next)
        self._next()

    @property
    def is_active(self) -> bool:
        """Whether it has not finished yet."""
        return self._active

    def cancel(self) -> None:
        """Stop; what is outlined stays, and nothing comes of the image at work."""
        if self._active:
            self._active = False
            self._waiting.clear()
            if self._job is not None:
                self._job.close()
            self._job = None
            self._save_queue.saved.disconnect(self._next)
            self.finished.emit(tuple(self._problems))

    def _is_free(self, image_id: str) -> bool:
        """Whether nobody has looked at an image, or touched it, as far as is known now."""
        state = self._study.state.images[image_id]
        if image_id == self._on_screen() or self._save_queue.draft(image_id) is not None:
            return False
        if self._refreshing:
            return state.status is Status.PREDICTED and not self._is_by_model(state)
        return state.status is Status.UNREVIEWED

    def _is_by_model(self, state: ImageState) -> bool:
        return state.current is not None and state.current.model == self._model.sha256

    def _next(self) -> None:
        if self._job is not None or self._save_queue.pending or not self._active:
            return
        while self._waiting and not self._is_free(self._waiting[0]):
            self._waiting.popleft()
        self.progressed.emit(self._total - len(self._waiting), self._total)
        if not self._waiting:
            self.cancel()
            return
        image_id = self._waiting.popleft()
        self._job = run_task(
            f"outlining {self._study.state.images[image_id].name}",
            outline_image,
            self._study,
            image_id,
            self._model,
            self._config,
            done=lambda outlined: self._on_outlined(image_id, *outlined),
            failed=self._on_failed,
        )

    def _on_outlined(self, image_id: str, mask: LabelImage, origin: Provenance) -> None:
        self._job = None
        if self._is_free(image_id):
            self._save_queue.prediction(image_id, mask, origin)
        self._next()

    def _on_failed(self, error: Exception) -> None:
        self._job = None
        self._problems.append(str(error) if isinstance(error, LesionSegError) else repr(error))
        self._next()
