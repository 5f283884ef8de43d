"""The next images, read and outlined before they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.study.state import ImageState
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import ByteImage, LabelImage

if TYPE_CHECKING:
    from napari_lesionseg.inference.prediction import Prediction
    from napari_lesionseg.inference.predictor import EncodedImage, Model

AHEAD = 2
"""Images that are got ready ahead of the one on the screen."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An image that is ready to be shown.

    Parameters
    ----------
    image_id : str
        SHA-256 of the image.
    image : ndarray
        (H, W, 3) uint8.
    when : datetime
        When the image's state was last changed, as far as was known.
    mask : ndarray or None
        The outline on the disk, (H, W) uint8.
    prediction : Prediction or None
        None without a model.
    encoded : EncodedImage or None
        The image as the network keeps it for clicks.
    """

    image_id: str
    image: ByteImage
    when: datetime
    mask: LabelImage | None
    prediction: Prediction | None
    encoded: EncodedImage | None


def prepare(study: Study, image_id: str, model: Model | None) -> Prepared:
    """Read an image and its outline, and let the network outline it; to be called in a worker.

    Raises
    ------
    StudyError, ImageError, DeviceError
        With a sentence that says why it cannot be shown.
    """
    when = study.state.images[image_id].when
    image = study.read_image(image_id)
    mask = study.read_mask(image_id)
    if model is None:
        return Prepared(image_id, image, when, mask, None, None)
    encoded = model.encode(image)
    return Prepared(image_id, image, when, mask, encoded.predict_logits(), encoded)


class Prefetcher:
    """Gets images ready, the most urgent first, one at a time.

    Attributes
    ----------
    ready : psygnal.Signal
        Emitted on the main thread with a `Prepared`.
    failed : psygnal.Signal
        Emitted with the SHA-256 of an image that cannot be shown, and the exception.
    """

    ready = Signal(object)
    failed = Signal(str, object)

    def __init__(self, study: Study) -> None:
        self._study = study
        self._model: Model | None = None
        self._wanted: list[str] = []
        self._kept: dict[str, Prepared] = {}
        self._job: Task[Prepared] | None = None
        self._working_on: str | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an image is being got ready."""
        return self._job is not None

    def set_model(self, model: Model | None) -> None:
        """Take another network; what the former one said is forgotten."""
        self._model = model
        self._kept.clear()
        self._drop_job()
        self._begin()

    def want(self, images: Sequence[str]) -> None:
        """Get these images ready, the first one first, and forget all others."""
        self._wanted = list(images)
        self._kept = {image_id: made for image_id, made in self._kept.items() if image_id in self._wanted}
        if self._working_on is not None and self._missing()[:1] != [self._working_on]:
            self._drop_job()
        self._begin()

    def take(self, state: ImageState) -> Prepared | None:
        """Give an image that is ready, unless something happened to it since it was read."""
        made = self._kept.pop(state.image_id, None)
        if made is None or made.when != state.when:
            return None
        self._wanted = [image_id for image_id in self._wanted if image_id != state.image_id]
        return made

    def close(self) -> None:
        """Let nothing come of what is being done."""
        self._drop_job()
        self._wanted.clear()
        self._kept.clear()

    def _drop_job(self) -> None:
        if self._job is not None:
            self._job.close()
        self._job, self._working_on = None, None

    def _missing(self) -> list[str]:
        return [image_id for image_id in self._wanted if image_id not in self._kept]

    def _begin(self) -> None:
        missing = self._missing()
        if self._job is not None or not missing:
            return
        self._working_on = missing[0]
        self._job = run_task(
            "getting the next image ready",
            prepare,
            self._study,
            self._working_on,
            self._model,
            done=self._on_done,
            failed=self._on_failed,
        )

    def _on_done(self, made: Prepared) -> None:
        self._job, self._working_on = None, None
        self._kept[made.image_id] = made
        self.ready.emit(made)
        self._begin()

    def _on_failed(self, error: Exception) -> None:
        image_id, self._job, self._working_on = self._working_on, None, None
        if image_id is not None:
            self._wanted = [other for other in self._wanted if other != image_id]
            self.failed.emit(image_id, error)
        self._begin()
