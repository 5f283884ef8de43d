"""Part affinity fields, the other way to tell several people apart, for `landmarks.py` to compare with.

For each line of the skeleton, a network learns a field of unit vectors that point along it (Cao et al. 2017,
"Realtime multi-person 2D pose estimation using part affinity fields", arXiv:1611.08050). Peaks of two heat
maps belong to one person if the field between them points from one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from napari_lesionseg.inference.landmarks import MAX_PEOPLE, Heat, Peaks, find_peaks
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.landmark_head import SIGMA, STRIDE, landmark_maps
from napari_lesionseg.training.landmarks import (
    LandmarkLearner,
    LandmarkTrainer,
    bounding_boxes,
    draw_heat,
    known_weights,
)
from napari_lesionseg.types import NOT_LABELED, ByteImage, Landmarks, make_landmarks

Edges = Sequence[tuple[int, int]]

MIN_PEAK = 0.1
MIN_ALONG, MIN_SHARE = 0.05, 0.8
"""Two peaks may belong together if so much of the field between them points along, as in the paper."""

FEWEST = 3
"""Landmarks of the smallest group that is a person."""

_HALF_WIDTH = 2.0  # of a line, in pixels of the maps
_SAMPLES = 12  # along a line


class FieldTrainer(LandmarkTrainer):
    """Training of heat maps and fields, with a channel for each landmark and two for each line."""

    def __init__(self, *arguments: Any, edges: Edges, **options: Any) -> None:
        self._edges = edges
        super().__init__(*arguments, **options)

    def _new_learner(self, network: SegmentationNetwork) -> LandmarkLearner:
        frozen = network.early_modules(self._config.frozen_stages) if self._config.pretrained else ()
        learner = _FieldLearner(network, self._card, self._config, self._device, frozen=frozen)
        learner.edges = self._edges
        return learner


class _FieldLearner(LandmarkLearner):
    edges: Edges

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return field_loss(logits, labels, self.edges)


def field_loss(maps: Tensor, labels: Tensor, edges: Edges) -> Tensor:
    """Return the loss of maps (B, K + 2 E, h, w) against landmarks (B, P, K, 3) in pixels of the sample."""
    labeled, present = labels[..., 2] > NOT_LABELED, ~labels[..., 2].isnan()  # (B, P, K)
    points = torch.where(labeled[..., None], (labels[..., :2] + 0.5) / STRIDE - 0.5, 0)
    boxes = bounding_boxes(points, labeled)
    count, shape = labeled.shape[-1], maps.shape[-2:]
    weights = known_weights(labeled, present, boxes, maps, several=True)
    entropy = functional.binary_cross_entropy_with_logits(
        maps[:, :count], draw_heat(points, labeled, shape), weights, reduction="sum"
    )
    heat = entropy / (2 * torch.pi * SIGMA**2 * labeled.sum().clamp(min=1))
    first, second = (torch.tensor([edge[end] for edge in edges], device=maps.device) for end in (0, 1))
    both, either = labeled[..., first] & labeled[..., second], present[..., first]
    wanted, covered = _draw_fields(points[..., first, :], points[..., second, :], both, shape)
    known = known_weights(both, either, boxes, maps, several=True)[:, :, None]  # (B, E, 1, h, w)
    errors = (maps[:, count:].unflatten(1, (-1, 2)) - wanted).square() * known
    return heat + errors.sum() / covered.sum().clamp(min=1)


def _draw_fields(start: Tensor, end: Tensor, both: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return unit vectors (B, E, 2, h, w) along the lines (B, P, E, 2), and which pixels they cover."""
    rows, cols = (torch.arange(length, device=start.device, dtype=start.dtype) for length in shape)
    along = end - start
    length = along.norm(dim=-1).clamp(min=1e-3)
    unit = along / length[..., None]  # (B, P, E, 2)
    down = (rows - start[..., :1])[..., :, None]  # (B, P, E, h, 1)
    across = (cols - start[..., 1:])[..., None, :]  # (B, P, E, 1, w)
    u, v = unit[..., 0, None, None], unit[..., 1, None, None]
    on = (down * u + across * v).clamp(min=0)
    on = torch.minimum(on, length[..., None, None])
    apart = ((down - on * u) ** 2 + (across - on * v) ** 2).sqrt()
    covered = (apart <= _HALF_WIDTH) & both[..., None, None]  # (B, P, E, h, w)
    total = (covered[:, :, :, None] * unit[..., None, None]).sum(1)  # (B, E, 2, h, w)
    times = covered.sum(1)[:, :, None]
    return total / times.clamp(min=1), times > 0


def decode_drawn(labels: NDArray[np.float32], shape: Sequence[int], edges: Edges) -> list[Landmarks]:
    """Decode the maps that a perfect network would give for people (P, K, 3) in an image (H, W)."""
    size = [-(-side // STRIDE) for side in shape]
    people = torch.from_numpy(labels)[None]
    labeled = people[..., 2] > NOT_LABELED
    points = torch.where(labeled[..., None], (people[..., :2] + 0.5) / STRIDE - 0.5, 0)
    first, second = (torch.tensor([edge[end] for edge in edges]) for end in (0, 1))
    both = labeled[..., first] & labeled[..., second]
    fields, _ = _draw_fields(points[..., first, :], points[..., second, :], both, size)
    found = group_by_fields(draw_heat(points, labeled, tuple(size))[0].numpy(), fields[0].numpy(), edges)
    return _in_image(found, shape, size)


def _in_image(
    people: Sequence[NDArray[np.float64]], shape: Sequence[int], maps: Sequence[int]
) -> list[Landmarks]:
    scale = np.array(shape[:2]) / np.array(maps)
    return [make_landmarks((person[:, :2] + 0.5) * scale - 0.5, scores=person[:, 2]) for person in people]


class FieldModel:
    """Finds people by their fields."""

    def __init__(self, model: Model, count: int, edges: Edges) -> None:
        self._model, self._count, self._edges = model, count, edges

    @torch.inference_mode()
    def predict(self, image: ByteImage) -> list[Landmarks]:
        """Find the people of an image (H, W, 3)."""
        network = self._model.network
        maps = landmark_maps(network, network.encode(self._model.network_input(image)))[0].float().numpy()
        heats = 1 / (1 + np.exp(-maps[: self._count]))
        fields = maps[self._count :].reshape(len(self._edges), 2, *maps.shape[1:])
        return _in_image(group_by_fields(heats, fields, self._edges), image.shape, maps.shape[-2:])


def group_by_fields(heats: Heat, fields: Heat, edges: Edges) -> list[NDArray[np.float64]]:
    """Return row, column and height (K, 3) of the landmarks of each person; NaN where one was not found."""
    peaks = [find_peaks(heat, MIN_PEAK, MAX_PEOPLE) for heat in heats]
    links = [link for edge, field in zip(edges, fields, strict=True) for link in _links(edge, field, peaks)]
    group_of: dict[tuple[int, int], dict[int, int]] = {}  # a peak's person: its peaks by landmark
    for _, one, other in sorted(links, reverse=True):
        first, second = (group_of.get(node, {node[0]: node[1]}) for node in (one, other))
        if first is second or first.keys() & second.keys():
            continue  # a loop of the skeleton, or two people who would share a landmark
        joined = first | second
        group_of.update(dict.fromkeys(joined.items(), joined))
    people = {id(group): group for group in group_of.values() if len(group) >= FEWEST}
    return [_person(group, peaks) for group in people.values()]


def _links(
    edge: tuple[int, int], field: Heat, peaks: Sequence[Peaks]
) -> list[tuple[float, tuple[int, int], tuple[int, int]]]:
    """Return how well the ends of a line belong together, each end once."""
    one, other = edge
    starts, ends = peaks[one].places, peaks[other].places
    if not len(starts) or not len(ends):
        return []
    share = np.linspace(0, 1, _SAMPLES)[:, None, None, None]
    along = ends[None] - starts[:, None]  # (N, M, 2)
    unit = along / np.maximum(np.linalg.norm(along, axis=-1, keepdims=True), 1e-3)
    at = np.rint(starts[:, None] + share * along).astype(int)  # (S, N, M, 2)
    rows, cols = np.moveaxis(np.clip(at, 0, np.array(field.shape[1:]) - 1), -1, 0)
    samples = field[0, rows, cols] * unit[..., 0] + field[1, rows, cols] * unit[..., 1]  # (S, N, M)
    points_along = (samples > MIN_ALONG).mean(0) >= MIN_SHARE  # (N, M)
    scores = np.where(points_along, samples.mean(0), 0)
    pairs = zip(*linear_sum_assignment(-scores), strict=True)
    return [(float(scores[n, m]), (one, int(n)), (other, int(m))) for n, m in pairs if scores[n, m] > 0]


def _person(group: dict[int, int], peaks: Sequence[Peaks]) -> NDArray[np.float64]:
    person = np.full((len(peaks), 3), np.nan)
    for landmark, index in group.items():
        person[landmark] = *peaks[landmark].places[index], peaks[landmark].heights[index]
    return person
