"""Find landmarks: heat maps, their peaks, and whose landmark each of several people's is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from napari_lesionseg.config import Skeleton
from napari_lesionseg.errors import CheckpointError, DeviceError
from napari_lesionseg.inference.device import is_out_of_memory
from napari_lesionseg.inference.predictor import Model, open_model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.landmark_head import OFFSET_UNIT, landmark_maps
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.types import NOT_LABELED, ByteImage, Landmarks, make_landmarks

MIN_CENTER = 0.2
"""Peak of a center from which a person is reported."""

MIN_PEAK = 0.05
"""Peak of a landmark from which it can belong to one of several people."""

REACH = 0.25
"""How far a peak may lie from where its person's center expects it, as a share of the person's extent."""

MIN_SCORE = 0.1
"""Score from which a landmark is reported, where nothing else is said."""

MAX_PEOPLE = 50
_NEIGHBORHOOD = 5
_LOWEST = 1e-8

Heat = NDArray[np.float32]


class Peaks(NamedTuple):
    """Peaks of one heat map, the highest first."""

    places: NDArray[np.float32]
    """Rows and columns with fractions, shape (N, 2)."""
    heights: NDArray[np.float32]
    """Shape (N,)."""


class LandmarkModel:
    """A model that finds landmarks, see `load_landmark_model`."""

    def __init__(self, model: Model) -> None:
        if model.card.landmarks is None:
            raise CheckpointError(
                f"The model {model.card.name} outlines images and finds no landmarks; "
                "train one with `lesionseg train IMAGES --landmarks KEYPOINTS.json`."
            )
        self._model = model
        self.skeleton: Skeleton = model.card.landmarks

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._model.card

    @property
    def device(self) -> torch.device:
        """Device that computes predictions."""
        return self._model.device

    @property
    def sha256(self) -> str | None:
        """Hash of the file that the model came from."""
        return self._model.sha256

    def predict(self, image: ByteImage) -> list[Landmarks]:
        """Find the landmarks of an image (H, W, 3), as `find_landmarks` does."""
        maps = self._maps(image)
        if self.card.individuals == "one":
            found = [_one_person(maps)]
        else:
            found = list(group_people(maps, len(self.skeleton.names)))
        return [_in_image(people, maps.shape[-2:], image.shape[:2]) for people in found]

    def _maps(self, image: ByteImage) -> Heat:
        """Return the maps (C, h, w); heat in [0, 1], distances in pixels of the maps."""
        planes = self._model.network_input(image)
        try:
            maps = self._run(planes)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if self.device.type == "cpu":
                raise DeviceError("There is too little free memory for this image.") from error
            self._model.move_to_cpu()
            maps = self._run(planes)
        heats = len(self.skeleton.names) + (self.card.individuals == "several")
        return np.concatenate([_sigmoid(maps[:heats]), maps[heats:] * np.float32(OFFSET_UNIT)])

    @torch.inference_mode()
    def _run(self, planes: torch.Tensor) -> Heat:
        model = self._model.device_model
        maps = landmark_maps(model.network, model.encode(planes))
        return np.asarray(maps[0].float().cpu().numpy())


def load_landmark_model(name: str | Path, device: str | torch.device = "auto") -> LandmarkModel:
    """Load a model that finds landmarks.

    Parameters
    ----------
    name : str or Path
        The name of a model, or a ``.safetensors`` file, as `lesionseg train --landmarks` writes it.
    device : str
        "auto", "cpu", "cuda" or "mps".

    Raises
    ------
    ModelNotFoundError, CheckpointError, DeviceError
        If there is no such model, its file is damaged or it draws outlines, or the device is not available.
    """
    return LandmarkModel(open_model(ModelStore().resolve(name), device))


def find_landmarks(image: ByteImage, model: LandmarkModel | str | Path) -> list[Landmarks]:
    """Find the landmarks of an image.

    Parameters
    ----------
    image : ByteImage
        Shape (H, W, 3), RGB, 0 to 255.
    model : LandmarkModel, str or Path
        The model, or what `load_landmark_model` loads.

    Returns
    -------
    list of Landmarks
        One for each person, the most certain first; exactly one if the model knows images of one person. The
        landmarks stand in the order of ``model.skeleton.names``; a score is the height of the peak in the
        heat map, 0 to 1.

    Raises
    ------
    ImageError
        If ``image`` is of another shape or type.
    DeviceError
        If the computer has too little memory.
    """
    if isinstance(model, Model):
        model = LandmarkModel(model)  # which says that it finds none
    loaded = model if isinstance(model, LandmarkModel) else load_landmark_model(model)
    return loaded.predict(image)


def keep_certain(person: Landmarks, lowest: float = MIN_SCORE) -> Landmarks:
    """Return landmarks of which those with a lower score are not labeled."""
    seen = np.where(person.scores < lowest, NOT_LABELED, person.visibility)
    return make_landmarks(person.points, seen, person.scores, person.id)


# ------------------------------------------------------------------------------------------------- peaks


def find_peaks(heat: Heat, lowest: float, most: int) -> Peaks:
    """Return the local maxima of a heat map (h, w) above ``lowest``."""
    highest = (ndimage.maximum_filter(heat, _NEIGHBORHOOD, mode="constant") == heat) & (heat > lowest)
    plateaus, _ = ndimage.label(highest, np.ones((3, 3)))  # pixels of equal height are one peak
    rows, cols = np.nonzero(highest)
    _, first = np.unique(plateaus[rows, cols], return_index=True)
    rows, cols = rows[first], cols[first]
    order = np.argsort(-heat[rows, cols], kind="stable")[:most]
    places = [_refined(heat, row, col) for row, col in zip(rows[order], cols[order], strict=True)]
    return Peaks(np.array(places, np.float32).reshape(-1, 2), heat[rows[order], cols[order]])


def _refined(heat: Heat, row: int, col: int) -> tuple[float, float]:
    """Move a peak to the maximum of the parabolas through the logarithms of its neighbors.

    The logarithm of a Gaussian is a parabola, so that this is exact for what the network is trained to give
    (Zhang et al. 2020, "Distribution-aware coordinate representation", arXiv:1910.06278).
    """
    return row + _vertex(heat[:, col], row), col + _vertex(heat[row], col)


def _vertex(line: Heat, at: int) -> float:
    if not 0 < at < len(line) - 1:
        return 0.0
    before, here, after = np.log(np.maximum(line[at - 1 : at + 2].astype(np.float64), _LOWEST))
    curvature = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature < 0 else 0.0


def _one_person(maps: Heat) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the highest peak of each heat map: places (K, 2), heights (K,)."""
    places, heights = [], []
    for heat in maps:
        row, col = np.unravel_index(int(heat.argmax()), heat.shape)
        places.append(_refined(heat, int(row), int(col)))
        heights.append(heat[row, col])
    return np.array(places, np.float32), np.array(heights, np.float32)


def group_people(maps: Heat, count: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yield places (K, 2) and heights (K,) of each person, the most certain first.

    Each center says where it expects its landmarks; a peak of the heat map near there is more exact, and goes
    to one person alone.
    """
    heats, centers, offsets = maps[:count], maps[count], maps[count + 1 :].reshape(count, 2, *maps.shape[1:])
    people = find_peaks(centers, MIN_CENTER, MAX_PEOPLE)
    if not len(people.places):
        return
    rows, cols = np.rint(people.places).astype(int).T
    expected = np.stack([rows, cols], 1)[:, None] + offsets[:, :, rows, cols].transpose(2, 0, 1)  # (P, K, 2)
    extents = np.ptp(expected, axis=1).max(axis=1)  # (P,)
    places, heights = expected.astype(np.float32), np.zeros(expected.shape[:2], np.float32)
    for landmark, heat in enumerate(heats):
        inside = np.clip(np.rint(expected[:, landmark]).astype(int), 0, np.array(heat.shape) - 1)
        heights[:, landmark] = heat[inside[:, 0], inside[:, 1]]
        peaks = find_peaks(heat, MIN_PEAK, MAX_PEOPLE)
        if not len(peaks.places):
            continue
        gaps = np.linalg.norm(expected[:, landmark, None] - peaks.places, axis=2) / extents[:, None]  # (P, N)
        for person, peak in zip(*linear_sum_assignment(np.minimum(gaps, REACH)), strict=True):
            if gaps[person, peak] < REACH:
                places[person, landmark], heights[person, landmark] = peaks.places[peak], peaks.heights[peak]
    yield from zip(places, heights, strict=True)


def _in_image(
    person: tuple[NDArray[np.float32], NDArray[np.float32]], maps: tuple[int, ...], shape: tuple[int, ...]
) -> Landmarks:
    """Convert places in the maps to pixels of the image, where the center of the first pixel is 0."""
    places, heights = person
    scale = np.array(shape, np.float32) / np.array(maps, np.float32)
    points = np.clip((places + 0.5) * scale - 0.5, 0, np.array(shape) - 1)
    return make_landmarks(points, scores=heights)


def _sigmoid(logits: Heat) -> Heat:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
