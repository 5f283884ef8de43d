from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from napari_lesionseg.config import AugmentConfig, Skeleton, TrainConfig
from napari_lesionseg.inference.landmarks import LandmarkModel
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.landmark_head import OFFSET_UNIT, STRIDE
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.landmarks import (
    LandmarkTrainer,
    augment_landmarks,
    cache_landmarks,
    landmark_loss,
    make_landmark_network,
    validate_landmarks,
)
from napari_lesionseg.training.trainer import EpochResult
from napari_lesionseg.types import NOT_LABELED, make_landmarks

DOTS = Skeleton.from_names(["left_dot", "right_dot", "bar"])
COLORED = Skeleton.from_names(["red", "green", "blue"])
COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)])
GEOMETRY = AugmentConfig(color=0, blur=0, artifacts=0, scale=(0.8, 1.2), aspect=0.1, shift=0.05)


def draw(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a soft dot of its own color at each landmark."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    image = np.zeros((*shape, 3))
    for (row, col), color in zip(points, COLORS, strict=True):
        image += np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / 8)[..., None] * color
    return image.clip(0, 255).astype(np.uint8)


def scene(number: int, people: int = 1) -> CachedPair:
    rng = np.random.default_rng(number)
    image, found = np.zeros((64, 64 * people, 3), np.uint8), []
    for person in range(people):
        corner = np.array([rng.uniform(8, 20), 64 * person + rng.uniform(8, 20)])
        points = corner + np.array([(0, 0), (0, 30), (28, 15)]) + rng.uniform(-3, 3, (3, 2))
        image = np.maximum(image, draw(points, (64, 64 * people)))
        found.append(make_landmarks(points))
    return cache_landmarks(f"scene-{number}", image, found, 1000, (people, 3))


@pytest.mark.parametrize("shape", [(80, 80), (60, 100)])
def test_landmarks_move_with_the_image_and_left_and_right_change_in_a_mirrored_one(
    shape: tuple[int, int],
) -> None:
    points = np.array([(25.0, 30.0), (30.0, 55.0), (45.0, 40.0)])
    pair = cache_landmarks("a", draw(points, shape), [make_landmarks(points)], 1000, (1, 3))
    mirrored = set()
    for seed in range(12):
        sample = augment_landmarks(
            pair.image, pair.labels, GEOMETRY, 96, np.random.default_rng(seed), skeleton=DOTS
        )
        found = sample.labels[0].numpy()
        if (found[:, 2] == NOT_LABELED).any():
            continue
        centers = np.array([ndimage.center_of_mass(plane.astype(float)) for plane in sample.image.numpy()])
        swapped = np.linalg.norm(centers - found[:, :2]) > np.linalg.norm(centers[[1, 0, 2]] - found[:, :2])
        mirrored.add(bool(swapped))
        assert (centers[[1, 0, 2]] if swapped else centers) == pytest.approx(found[:, :2], abs=0.6)
    assert mirrored == {False, True}


def test_landmarks_that_leave_the_image_are_not_labeled() -> None:
    config = GEOMETRY.model_copy(update={"scale": (3.0, 3.0), "shift": 0.0})
    pair = cache_landmarks(
        "a", np.zeros((64, 64, 3), np.uint8), [make_landmarks([(2, 2), (32, 32), (60, 3)])], 1000, (1, 3)
    )
    sample = augment_landmarks(pair.image, pair.labels, config, 64, np.random.default_rng(0), skeleton=DOTS)
    assert sorted(sample.labels[0, :, 2].tolist()) == [0, 0, 2]


def test_a_smaller_image_has_its_landmarks_in_the_same_place() -> None:
    pair = cache_landmarks(
        "a",
        np.zeros((100, 200, 3), np.uint8),
        [make_landmarks([(-0.5, -0.5), (99.5, 199.5), (49.5, 99.5)])],
        100,
        (2, 3),
    )
    assert pair.image.shape == (50, 100, 3)
    assert pair.labels[0, :, :2].tolist() == [[-0.5, -0.5], [49.5, 99.5], [24.5, 49.5]]
    assert np.isnan(pair.labels[1]).all()


def labels_of(*people: list[tuple[float, float, int]]) -> torch.Tensor:
    return torch.tensor(people, dtype=torch.float32)[None]


def test_what_is_not_labeled_costs_nothing() -> None:
    labels = labels_of([(20, 20, 2), (float("nan"), float("nan"), 0), (30, 30, 1)])
    maps = torch.zeros(1, 3, 32, 32, requires_grad=True)
    landmark_loss(maps, labels, several=False).backward()
    gradient = maps.grad
    assert gradient is not None
    assert (gradient[0, 1] == 0).all()
    assert (gradient[0, 0] != 0).any()
    assert (gradient[0, 2] != 0).any()


def test_of_several_people_the_box_of_the_one_who_lacks_it_costs_nothing() -> None:
    nan = float("nan")
    labels = labels_of([(20, 20, 2), (nan, nan, 0), (40, 30, 2)], [(20, 100, 2), (20, 120, 2), (40, 110, 2)])
    maps = torch.zeros(1, 10, 32, 64, requires_grad=True)
    landmark_loss(maps, labels, several=True).backward()
    gradient = maps.grad
    assert gradient is not None
    assert (gradient[0, 1, 10:20, 10:15] == 0).all()
    assert (gradient[0, 1, 10:20, 50:60] != 0).all()
    assert (gradient[0, 0, 10:20, 10:15] != 0).all()


def test_the_loss_is_smallest_for_the_truth() -> None:
    labels = labels_of([(20, 20, 2), (20, 50, 2), (40, 30, 2)])
    rows, cols = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    maps = torch.zeros(1, 10, 32, 32)
    boxes = labels[0, 0, :, :2] / STRIDE - 0.25
    center = (boxes.amin(0) + boxes.amax(0)) / 2
    for index, (row, col) in enumerate([*boxes.tolist(), center.tolist()]):
        heat = torch.exp(-((rows - row) ** 2 + (cols - col) ** 2) / 8).clamp(1e-6, 1 - 1e-6)
        maps[0, index] = torch.logit(heat)
    for index, (row, col) in enumerate(boxes.tolist()):
        maps[0, 4 + 2 * index], maps[0, 5 + 2 * index] = (
            (row - rows) / OFFSET_UNIT,
            (col - cols) / OFFSET_UNIT,
        )
    best = landmark_loss(maps, labels, several=True)
    for channel in range(10):
        changed = maps.clone()
        changed[0, channel] += 0.3
        assert landmark_loss(changed, labels, several=True) > best


CONFIG = TrainConfig(
    pretrained=False,
    epochs=5,
    batch_size=4,
    sizes=((0.0, 64),),
    decoder_lr=1e-2,
    average=0.9,
    precision="float32",
    augment=GEOMETRY.model_copy(update={"rotation": 15}),
)


def train(card: ModelCard, config: TrainConfig, people: int) -> tuple[LandmarkTrainer, list[EpochResult]]:
    torch.manual_seed(0)
    learn, held_out = [scene(n, people) for n in range(24)], [scene(100 + n, people) for n in range(4)]
    trainer = LandmarkTrainer(make_landmark_network(card), card, learn, held_out, config, device="cpu")
    return trainer, list(trainer.run())


def card_of(individuals: str) -> ModelCard:
    settings = {"width": 8, "depth": 2}
    return ModelCard(
        arch="unet", arch_settings=settings, working_size=64, landmarks=COLORED, individuals=individuals
    )


def test_dots_are_learned() -> None:
    card = card_of("one")
    trainer, history = train(card, CONFIG, 1)
    assert history[-1].loss < history[0].loss
    assert history[-1].validation is None
    scores = history[-1].landmarks
    assert scores is not None
    assert scores.pck > 0.9
    model = LandmarkModel(Model(trainer.averaged_network, card, "cpu", precision="float32"))
    assert validate_landmarks(model, [scene(100 + n) for n in range(4)]) == scores


def test_several_people_are_learned_with_their_centers() -> None:
    card = card_of("several")
    _, history = train(card, CONFIG.model_copy(update={"epochs": 2}), 2)
    assert history[-1].loss < history[0].loss
    assert history[-1].landmarks is not None
