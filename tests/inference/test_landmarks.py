from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_lesionseg import find_landmarks, load_landmark_model, load_model
from napari_lesionseg.config import Skeleton
from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.inference.landmarks import LandmarkModel, find_peaks, group_people
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.landmark_head import SIGMA
from napari_lesionseg.models.registry import build_network

EYES = Skeleton.from_names(["left_eye", "right_eye"])


def gaussian(shape: tuple[int, int], *places: tuple[float, float]) -> NDArray[np.float32]:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    drawn = [np.exp(-((rows - r) ** 2 + (cols - c) ** 2) / (2 * SIGMA**2)) for r, c in places]
    return np.max(drawn, axis=0).astype(np.float32)


def card(**settings: object) -> ModelCard:
    return ModelCard(
        arch="unet", arch_settings={"width": 4, "depth": 2}, working_size=64, landmarks=EYES, **settings
    )


def test_peaks_are_found_between_pixels() -> None:
    peaks = find_peaks(gaussian((32, 40), (7.3, 9.6), (20, 30.25)), 0.5, 10)
    order = np.argsort(peaks.places[:, 0])
    assert peaks.places[order] == pytest.approx(np.array([(7.3, 9.6), (20, 30.25)]), abs=1e-3)
    assert find_peaks(gaussian((32, 40), (7.3, 9.6), (20, 30.25)), 0.5, 1).places.shape == (1, 2)


def test_a_peak_at_the_rim_stays_there() -> None:
    assert find_peaks(gaussian((16, 16), (0, 15)), 0.5, 3).places.tolist() == [[0, 15]]
    assert len(find_peaks(np.zeros((8, 8), np.float32), 0.0, 3).places) == 0


def people_maps(*people: tuple[tuple[float, float], tuple[float, float]]) -> NDArray[np.float32]:
    """Draw the maps of people with two landmarks each; the distances are a little off."""
    shape = (48, 64)
    maps = np.zeros((7, *shape), np.float32)
    centers = [tuple(np.mean(person, axis=0)) for person in people]
    for landmark in range(2):
        maps[landmark] = gaussian(shape, *(person[landmark] for person in people))
    maps[2] = gaussian(shape, *centers)
    for person, center in zip(people, centers, strict=True):
        row, col = (round(float(value)) for value in center)
        for landmark in range(2):
            maps[3 + 2 * landmark : 5 + 2 * landmark, row, col] = (
                np.array(person[landmark]) - (row, col) + 0.6
            )
    return maps


def test_each_landmark_goes_to_its_person() -> None:
    people = [((10.0, 10.0), (30.4, 12.0)), ((12.0, 40.0), (33.0, 44.6))]
    found = sorted(group_people(people_maps(*people), 2), key=lambda person: person[0][0, 1])
    for (places, heights), person in zip(found, people, strict=True):
        assert places == pytest.approx(np.array(person), abs=0.05)
        assert heights.min() > 0.8


def test_a_landmark_without_a_peak_stands_where_the_center_expects_it() -> None:
    maps = people_maps(((10.0, 10.0), (30.0, 12.0)))
    maps[1] = 0.01
    ((places, heights),) = group_people(maps, 2)
    assert places[1] == pytest.approx(np.array([30.6, 12.6]), abs=1e-3)
    assert heights[1] == pytest.approx(0.01)


def test_nobody_is_found_in_empty_maps() -> None:
    assert list(group_people(np.zeros((7, 16, 16), np.float32), 2)) == []


@pytest.mark.parametrize("individuals", ["one", "several"])
@pytest.mark.parametrize("shape", [(64, 64), (33, 90)])
def test_landmarks_of_a_file_lie_in_the_image(
    tmp_path: Path, individuals: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    described = card(individuals=individuals)
    assert described.out_channels == (2 if individuals == "one" else 7)
    network = build_network("unet", described.out_channels, width=4, depth=2)
    save_checkpoint(tmp_path / "eyes.safetensors", network, described)
    model = load_landmark_model(tmp_path / "eyes.safetensors", "cpu")
    assert model.card == described
    image = rng.integers(0, 255, (*shape, 3), np.uint8)
    people = find_landmarks(image, model)
    assert len(people) == 1 if individuals == "one" else len(people) >= 0
    for person in people:
        assert person.points.shape == (2, 2)
        assert (person.points >= 0).all()
        assert (person.points <= np.array(shape) - 1).all()
        assert ((person.scores > 0) & (person.scores < 1)).all()


def test_models_of_outlines_and_of_landmarks_are_not_mixed_up(tmp_path: Path, tiny_model: Model) -> None:
    save_checkpoint(tmp_path / "a.safetensors", tiny_model.network, tiny_model.card)
    with pytest.raises(CheckpointError, match="finds no landmarks"):
        load_landmark_model(tmp_path / "a.safetensors", "cpu")
    with pytest.raises(CheckpointError, match="finds no landmarks"):
        find_landmarks(np.zeros((20, 20, 3), np.uint8), tiny_model)  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "b.safetensors", build_network("unet", 2, width=4, depth=2), card())
    with pytest.raises(CheckpointError, match="draws no outlines"):
        load_model(tmp_path / "b.safetensors", "cpu")


def test_a_network_without_a_landmark_head_is_refused(rng: np.random.Generator) -> None:
    described = card().model_copy(update={"arch": "segnet", "arch_settings": {}})
    model = LandmarkModel(Model(build_network("segnet", 2), described, "cpu"))
    with pytest.raises(CheckpointError, match="cannot find landmarks"):
        model.predict(rng.integers(0, 255, (32, 32, 3), np.uint8))
