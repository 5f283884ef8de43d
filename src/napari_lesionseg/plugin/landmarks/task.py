"""Training on landmarks marked in the viewer, and finding them in other images, in another thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from napari_lesionseg.config import Skeleton, TrainConfig
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.types import ByteImage, Landmarks

if TYPE_CHECKING:
    from napari_lesionseg.inference.landmarks import LandmarkModel

FEWEST_IMAGES = 2


class MarkedImage(NamedTuple):
    """An image and its landmarks, copied from the viewer."""

    name: str
    image: ByteImage
    people: tuple[Landmarks, ...]


class TrainLandmarksTask(Task["LandmarkModel"]):
    """Trains a model; `progressed` is emitted with the share that is done, 0 to 1."""

    def __init__(self, images: Sequence[MarkedImage], skeleton: Skeleton, config: TrainConfig) -> None:
        self._ended = threading.Event()
        super().__init__("learning landmarks", self._train, tuple(images), skeleton, config)

    def end(self) -> None:
        """Stop training now and keep what was learned."""
        self._ended.set()

    def _train(self, images: Sequence[MarkedImage], skeleton: Skeleton, config: TrainConfig) -> LandmarkModel:
        # Here and not above: PyTorch takes seconds to start.
        from napari_lesionseg.inference.landmarks import LandmarkModel
        from napari_lesionseg.inference.predictor import Model
        from napari_lesionseg.models.checkpoint import load_checkpoint
        from napari_lesionseg.models.store import ModelStore
        from napari_lesionseg.training.landmarks import LandmarkTrainer, cache_landmarks, start_landmarks
        from napari_lesionseg.training.resources import lower_priority, short_holds

        if len(images) < FEWEST_IMAGES:
            raise TrainingError(f"Mark landmarks in at least {FEWEST_IMAGES} images first.")
        lower_priority()
        people = max(len(image.people) for image in images)
        start = load_checkpoint(ModelStore().resolve(None)) if config.pretrained else None
        network, card = start_landmarks(config, skeleton, people, start, name="landmarks")
        side, room = round(card.working_size * 1.25), (people, len(skeleton.names))
        cached = [cache_landmarks(i.name, i.image, i.people, side, room) for i in images]
        trainer = LandmarkTrainer(network, card, cached, [], config, device="cpu")
        with short_holds():
            for event in trainer.steps():
                self.report(event.progress)
                if self._ended.is_set():
                    break
        return LandmarkModel(Model(trainer.averaged_network, card, "cpu"))


def find_all(model: LandmarkModel, images: Sequence[ByteImage]) -> list[list[Landmarks]]:
    """Find the landmarks of images; runs in another thread."""
    return [model.predict(image) for image in images]
