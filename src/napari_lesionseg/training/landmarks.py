"""Training of landmarks: augmentation that moves them, the loss on heat maps, and their scores."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.config import AugmentConfig, Skeleton, TrainConfig
from napari_lesionseg.datasets.synthetic.artifacts import random_artifacts
from napari_lesionseg.errors import TrainingError
from napari_lesionseg.evaluation.keypoints import LandmarkScores, score_landmarks
from napari_lesionseg.inference.device import autocast
from napari_lesionseg.inference.landmarks import LandmarkModel
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.resize import resize_image
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import Checkpoint
from napari_lesionseg.models.landmark_head import OFFSET_UNIT, SIGMA, STRIDE, landmark_maps, replace_head
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.training.augmentation import (
    BLACK_SURROUNDINGS,
    TrainingSample,
    change_look,
    random_affine,
    warp_image,
)
from napari_lesionseg.training.dataset import Batch, BatchSource, CachedPair
from napari_lesionseg.training.learner import Learner
from napari_lesionseg.training.trainer import EpochResult, Trainer, ValidationScores
from napari_lesionseg.types import NOT_LABELED, ByteImage, Landmarks, make_landmarks

OFFSET_WEIGHT = 1.0
"""Of the loss of the distances, relative to that of the heat maps."""

_MARGIN = 0.2  # around the labeled landmarks of a person, where an unlabeled one may lie
_CENTER_REACH = 2  # pixels around a center at which the distances are learned


def cache_landmarks(
    stem: str, image: ByteImage, people: Sequence[Landmarks], side: int, room: tuple[int, int]
) -> CachedPair:
    """Shrink an image and its landmarks for training; ``room`` is for so many people and landmarks."""
    height, width = image.shape[:2]
    factor = min(1.0, side / max(height, width))
    shape = (max(1, round(height * factor)), max(1, round(width * factor)))
    scale = np.array(shape) / (height, width)
    labels = np.full((*room, 3), np.nan, np.float32)
    for place, person in zip(labels, people, strict=False):
        place[:, :2] = (person.points + 0.5) * scale - 0.5
        place[:, 2] = person.visibility
    return CachedPair(stem, resize_image(image, shape), labels)


def augment_landmarks(
    image: ByteImage,
    labels: NDArray[Any],
    config: AugmentConfig,
    size: int,
    rng: np.random.Generator,
    *,
    skeleton: Skeleton,
) -> TrainingSample:
    """Change an image and its landmarks (P, K, 3) at random; a mirrored image swaps left and right.

    Landmarks that leave the image are not labeled any more.
    """
    image = random_artifacts(image, rng, config.artifacts, hiding=False)
    theta = random_affine(config, rng).double()
    height, width = image.shape[:2]
    # A pixel of the sample stands for as many of the image down as across, unlike in masks of lesions: a
    # person who is stretched is rare in what the model will see, and its joints would bend.
    side = (height * width) ** 0.5
    theta[0] *= side / width
    theta[1] *= side / height
    grid = functional.affine_grid(theta.float()[None], [1, 3, size, size], align_corners=False)
    # Not mirrored at the border as lesions are: half a second person would be one without landmarks.
    padding = "zeros" if rng.random() < BLACK_SURROUNDINGS else "border"
    warped = warp_image(image, grid, padding)
    moved = _move_points(labels, theta.numpy(), (height, width), size)
    if np.linalg.det(theta[:, :2].numpy()) < 0:
        moved = moved[:, skeleton.mirrored]
    return TrainingSample(change_look(warped, config, rng), torch.from_numpy(moved))


def _move_points(
    labels: NDArray[Any], theta: NDArray[np.float64], shape: tuple[int, int], size: int
) -> NDArray[np.float32]:
    """Move landmarks (P, K, 3) by the inverse of the map (2, 3) from the sample to the image."""
    across_down = (labels[..., 1::-1] + 0.5) * 2 / np.array(shape)[::-1] - 1  # in [-1, 1] within the image
    in_sample = (across_down - theta[:, 2]) @ np.linalg.inv(theta[:, :2]).T
    points = ((in_sample + 1) * size / 2 - 0.5)[..., ::-1]
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(-1)
    visibility = np.where(inside | np.isnan(labels[..., 2]), labels[..., 2], NOT_LABELED)
    return np.concatenate([points, visibility[..., None]], -1).astype(np.float32)


# --------------------------------------------------------------------------------------------------- loss


def landmark_loss(maps: Tensor, labels: Tensor, *, several: bool) -> Tensor:
    """Return the loss of maps (B, C, h, w) against landmarks (B, P, K, 3) in pixels of the sample.

    Heat maps are compared by cross-entropy with Gaussians, which is smallest where both agree. Landmarks that
    are not labeled count for nothing, wherever the network sees them.
    """
    points = (labels[..., :2] + 0.5) / STRIDE - 0.5  # (B, P, K, 2)
    labeled = labels[..., 2] > NOT_LABELED  # (B, P, K)
    present = ~labels[..., 2].isnan()  # (B, P, K)
    points = torch.where(labeled[..., None], points, 0)
    boxes = bounding_boxes(points, labeled)  # (B, P, 4)
    targets, weights = (
        draw_heat(points, labeled, maps.shape[-2:]),
        known_weights(labeled, present, boxes, maps, several),
    )
    if several:
        someone = labeled.any(-1)  # (B, P)
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        crowd = draw_heat(centers[:, :, None], someone[..., None], maps.shape[-2:])
        targets, weights = torch.cat([targets, crowd], 1), torch.cat([weights, torch.ones_like(crowd)], 1)
    heats = maps[:, : targets.shape[1]]
    entropy = functional.binary_cross_entropy_with_logits(heats, targets, weights, reduction="sum")
    # A Gaussian covers about 2 pi SIGMA^2 pixels: the loss of one landmark is that of its pixels.
    loss = entropy / (2 * torch.pi * SIGMA**2 * labeled.sum().clamp(min=1))
    if several:
        loss = loss + OFFSET_WEIGHT * _offset_loss(maps[:, targets.shape[1] :], points, labeled, centers)
    return loss


def bounding_boxes(points: Tensor, labeled: Tensor) -> Tensor:
    """Return top, left, bottom and right of the labeled points (B, P, K, 2) of each person, (B, P, 4)."""
    far = torch.where(labeled[..., None], points, torch.inf).amin(2)
    near = torch.where(labeled[..., None], points, -torch.inf).amax(2)
    return torch.cat([far, near], -1).nan_to_num(0, 0, 0)


def draw_heat(points: Tensor, labeled: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Draw a Gaussian at each labeled point (B, P, K, 2), the highest of all people's; (B, K, h, w)."""
    rows, cols = (torch.arange(length, device=points.device) for length in shape)
    down = torch.exp(-((points[..., :1] - rows) ** 2) / (2 * SIGMA**2)) * labeled[..., None]  # (B, P, K, h)
    across = torch.exp(-((points[..., 1:] - cols) ** 2) / (2 * SIGMA**2))  # (B, P, K, w)
    return (down[..., :, None] * across[..., None, :]).amax(1)


def known_weights(labeled: Tensor, present: Tensor, boxes: Tensor, maps: Tensor, several: bool) -> Tensor:
    """Return 0 where a landmark that is not labeled may be, else 1; (B, K, h, w).

    That is the whole image if it shows one person, and the box around each of several people.
    """
    unknown = present & ~labeled  # (B, P, K)
    height, width = maps.shape[-2:]
    if not several:
        return (~unknown.any(1)).to(maps.dtype)[..., None, None].expand(-1, -1, height, width)
    top, left, bottom, right = boxes.unbind(-1)
    margin = _MARGIN * torch.maximum(bottom - top, right - left)[..., None] + 3 * SIGMA  # (B, P, 1)
    rows, cols = (torch.arange(length, device=maps.device) for length in (height, width))
    down = (rows > top[..., None] - margin) & (rows < bottom[..., None] + margin)  # (B, P, h)
    across = (cols > left[..., None] - margin) & (cols < right[..., None] + margin)  # (B, P, w)
    boxed = down[..., :, None] & across[..., None, :]  # (B, P, h, w)
    hidden = (unknown[..., None, None] & boxed[:, :, None]).any(1)
    return (~hidden).to(maps.dtype)


def _offset_loss(offsets: Tensor, points: Tensor, labeled: Tensor, centers: Tensor) -> Tensor:
    """Return the mean error of the distances (B, 2K, h, w), in units, in the pixels around each center."""
    height, width = offsets.shape[-2:]
    reach = torch.arange(-_CENTER_REACH, _CENTER_REACH + 1, device=offsets.device)
    around = torch.cartesian_prod(reach, reach)  # (N, 2)
    pixels = centers.round().long()[:, :, None] + around  # (B, P, N, 2)
    limits = torch.tensor([height, width], device=offsets.device)
    inside = ((pixels >= 0) & (pixels < limits)).all(-1)  # (B, P, N)
    pixels = torch.minimum(pixels.clamp(min=0), limits - 1)
    flat = (pixels[..., 0] * width + pixels[..., 1]).flatten(1)  # (B, P * N)
    at = offsets.flatten(2).gather(2, flat[:, None].expand(-1, offsets.shape[1], -1))  # (B, 2K, P * N)
    found = at.unflatten(2, pixels.shape[1:3]).unflatten(1, (-1, 2)).permute(0, 3, 4, 1, 2)  # (B, P, N, K, 2)
    wanted = (points[:, :, None] - pixels[:, :, :, None]) / OFFSET_UNIT
    counted = (labeled[:, :, None] & inside[..., None]).to(offsets.dtype)  # (B, P, N, K)
    errors = functional.smooth_l1_loss(found, wanted, reduction="none", beta=0.1).sum(-1)
    return (errors * counted).sum() / counted.sum().clamp(min=1)


# ------------------------------------------------------------------------------------------------ training


def make_landmark_network(card: ModelCard, start: SegmentationNetwork | None = None) -> SegmentationNetwork:
    """Return a network for a card, with the weights of another one of that architecture but for its head."""
    if start is None:
        network = build_network(card.arch, card.out_channels, **card.arch_settings)
    else:
        network = copy.deepcopy(start)
    replace_head(network, card.out_channels)
    return network


class LandmarkLearner(Learner):
    """A learner of landmarks: no masks, no simulated clicks."""

    def _run_network(self, batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        """Return the maps (B, C, h, w) of a batch, and its landmarks (B, P, K, 3)."""
        del number
        with autocast(self._device, self._config.precision):
            maps = landmark_maps(self.network, self.network.encode(self._normalize(batch.images)))
        return maps.float(), batch.labels.to(self._device)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return landmark_loss(logits, labels, several=self._card.individuals == "several") / self._ranks.count


class LandmarkTrainer(Trainer):
    """Training of landmarks; the card says which, and whether an image may show several people."""

    def _new_source(self, pairs: Sequence[CachedPair]) -> BatchSource:
        source = super()._new_source(pairs)
        source.augment = partial(augment_landmarks, skeleton=_skeleton(self._card))
        return source

    def _new_learner(self, network: SegmentationNetwork) -> Learner:
        frozen = network.early_modules(self._config.frozen_stages) if self._config.pretrained else ()
        config, ranks = self._config, self._ranks
        return LandmarkLearner(network, self._card, config, self._device, frozen=frozen, ranks=ranks)

    def _score(self) -> ValidationScores | None:
        return None

    def _finish_pass(self, size: int) -> EpochResult:
        result = super()._finish_pass(size)
        if not self._held_out:
            return result
        model = LandmarkModel(Model(self.averaged_network, self._card, self._device))
        return replace(result, landmarks=validate_landmarks(model, self._held_out))


def validate_landmarks(model: LandmarkModel, pairs: Sequence[CachedPair]) -> LandmarkScores:
    """Score a model on images with known landmarks."""
    return score_landmarks([people_of(pair) for pair in pairs], [model.predict(pair.image) for pair in pairs])


def _skeleton(card: ModelCard) -> Skeleton:
    if card.landmarks is None:
        raise TrainingError("The card names no landmarks.")
    return card.landmarks


def people_of(pair: CachedPair) -> list[Landmarks]:
    """Return the people of an image that was read for training."""
    present = ~np.isnan(pair.labels[..., 2]).all(1)
    return [make_landmarks(person[:, :2], person[:, 2]) for person in pair.labels[present]]


class LandmarkStart(NamedTuple):
    """What a training of landmarks starts from."""

    network: SegmentationNetwork
    card: ModelCard


def start_landmarks(
    config: TrainConfig, skeleton: Skeleton, people: int, start: Checkpoint | None, **about: Any
) -> LandmarkStart:
    """Return a network and its card for the landmarks of a skeleton, of up to so many people in an image.

    Encoder and decoder are those of the starting model, whatever it was trained for; without one, the encoder
    comes from ImageNet where the settings ask for it. A model of the same landmarks keeps its head as well.
    """
    individuals = "one" if people <= 1 else "several"
    side = max(size for _, size in config.sizes)
    described = {"landmarks": skeleton, "individuals": individuals, "working_size": side, **about}
    if start is None:
        torch.manual_seed(config.seed)
        card = ModelCard(arch=config.arch, arch_settings=config.arch_settings, **described)
        network = make_landmark_network(card)
        if config.pretrained:
            network.load_pretrained()
        return LandmarkStart(network, card)
    kept = {name: getattr(start.card, name) for name in ("arch", "arch_settings", "mean", "std")}
    card = ModelCard(**{**kept, **described})
    known = start.card.landmarks
    if known is not None and (known.names, start.card.individuals) == (skeleton.names, individuals):
        return LandmarkStart(start.network, card)
    torch.manual_seed(config.seed)
    return LandmarkStart(make_landmark_network(card, start.network), card)
