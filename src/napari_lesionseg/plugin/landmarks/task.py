"""Training on marked images and finding landmarks in others, in another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from napari_lesionseg.config import Skeleton, TrainConfig
from napari_lesionseg.datasets.landmarks.records import keep_inside, marks_of
from napari_lesionseg.datasets.splits import SplitItem, hold_out
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.plugin.tasks import Task
from napari_lesionseg.types import ByteImage, Landmarks, Mark

if TYPE_CHECKING:
    from napari_lesionseg.evaluation.keypoints import LandmarkScores
    from napari_lesionseg.inference.landmarks import LandmarkModel
    from napari_lesionseg.training.dataset import CachedPair

FEWEST_IMAGES = 2
FEWEST_FOR_TEST = 10
"""Images from which some are held out; fewer would say little, and are all needed to learn from."""


@dataclass(frozen=True, slots=True)
class MarkedImage:
    """An image to learn from."""

    item: SplitItem  # its name, patient and lesion
    load: Callable[[], ByteImage]  # called in the other thread
    people: tuple[Landmarks, ...]


class TrainedLandmarks(NamedTuple):
    """A model in the model store, and its scores on the images that were held out."""

    model: LandmarkModel
    name: str
    scores: LandmarkScores | None
    held_out: int


class TrainLandmarksTask(Task[TrainedLandmarks]):
    """Trains a model and saves it; `progressed` is emitted with the share that is done, 0 to 1."""

    cancelled_message = "Training was canceled. No model was saved."

    def __init__(
        self, images: Sequence[MarkedImage], skeleton: Skeleton, config: TrainConfig, name: str
    ) -> None:
        self._stop_now = threading.Event()
        super().__init__("learning landmarks", self._train, tuple(images), skeleton, config, name)

    def finish_now(self) -> None:
        """Stop training and keep what was learned."""
        self._stop_now.set()

    def _train(
        self, images: Sequence[MarkedImage], skeleton: Skeleton, config: TrainConfig, name: str
    ) -> TrainedLandmarks:
        # Here and not above: PyTorch takes seconds to start.
        from napari_lesionseg.inference.landmarks import LandmarkModel, load_landmark_model
        from napari_lesionseg.inference.predictor import Model
        from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint
        from napari_lesionseg.models.store import ModelStore
        from napari_lesionseg.training.landmarks import LandmarkTrainer, start_landmarks, validate_landmarks
        from napari_lesionseg.training.resources import lower_priority, short_holds

        if len(images) < FEWEST_IMAGES:
            raise TrainingError(f"Mark landmarks in at least {FEWEST_IMAGES} images first.")
        lower_priority()
        people = max(len(image.people) for image in images)
        store = ModelStore()
        start = load_checkpoint(store.resolve(None)) if config.pretrained else None
        network, card = start_landmarks(config, skeleton, max(people, 1), start, name=name)
        learn, test = _parts_of(images)
        room = max(people, 1), len(skeleton.names)
        cached, held_out = (self._read(part, round(card.working_size * 1.25), room) for part in (learn, test))
        trainer = LandmarkTrainer(network, card, cached, [], config, device="cpu")
        with short_holds():
            for event in trainer.steps():
                self.report(event.progress)
                if self._stop_now.is_set():
                    break
        trained = trainer.averaged_network
        scores = None
        if held_out:
            scores = validate_landmarks(LandmarkModel(Model(trained, card, "cpu")), held_out)
            known = {"held out": {"pck@0.1": scores.pck, "oks_ap": scores.precision}}
            card = card.model_copy(update={"scores": known})
        self.check_cancelled()
        path = store.add(checkpoint_bytes(trained, card), name)
        return TrainedLandmarks(load_landmark_model(path, "cpu"), path.stem, scores, len(held_out))

    def _read(self, images: Sequence[MarkedImage], side: int, room: tuple[int, int]) -> list[CachedPair]:
        from napari_lesionseg.training.landmarks import cache_landmarks

        cached = []
        for image in images:
            self.check_cancelled()
            pixels = image.load()
            inside = [keep_inside(person, (pixels.shape[0], pixels.shape[1])) for person in image.people]
            cached.append(cache_landmarks(image.item.stem, pixels, inside, side, room))
        return cached


def _parts_of(images: Sequence[MarkedImage]) -> tuple[list[MarkedImage], list[MarkedImage]]:
    """Return the images to learn from, and those held out, with no patient in both."""
    if len(images) < FEWEST_FOR_TEST:
        return list(images), []
    held_out = hold_out([image.item for image in images])
    return (
        [image for image in images if image.item.stem not in held_out],
        [image for image in images if image.item.stem in held_out],
    )


def find_marks(model: LandmarkModel, image: ByteImage) -> tuple[Mark, ...]:
    """Find the landmarks of an image, without uncertain ones; runs in another thread."""
    from napari_lesionseg.inference.landmarks import keep_certain

    return marks_of([keep_certain(person) for person in model.predict(image)], model.skeleton)


class FindLandmarksTask(Task[list[tuple[Mark, ...]]]):
    """Finds the landmarks of images; `progressed` is emitted with a sentence."""

    def __init__(self, model: LandmarkModel, images: Sequence[ByteImage]) -> None:
        super().__init__("finding landmarks", self._find, model, tuple(images))

    def _find(self, model: LandmarkModel, images: Sequence[ByteImage]) -> list[tuple[Mark, ...]]:
        found = []
        for number, image in enumerate(images, 1):
            self.report(f"Finding landmarks in image {number} of {len(images)}.")
            found.append(find_marks(model, image))
        self.check_cancelled()
        return found
