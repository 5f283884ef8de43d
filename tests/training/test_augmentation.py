from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lesionseg.config import AugmentConfig
from napari_lesionseg.training import augmentation
from napari_lesionseg.training.augmentation import augment, plain_sample

OFF = AugmentConfig(scale=(1, 1), aspect=0, shift=0, color=0, artifacts=0, blur=0)


def lesion(shape: tuple[int, int] = (80, 120)) -> tuple[np.ndarray, np.ndarray]:
    """A dark disc on light skin, and its mask."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    labels = (np.hypot(rows - shape[0] / 2, cols - shape[1] / 2) < min(shape) / 4).astype(np.uint8)
    image = np.where(labels[..., None] > 0, np.uint8(40), np.uint8(220)) * np.ones((1, 1, 3), np.uint8)
    return image, labels


@pytest.mark.parametrize("shape", [(80, 120), (33, 33), (1, 1), (5, 300)])
@pytest.mark.parametrize("config", [AugmentConfig(), OFF, AugmentConfig(artifacts=1, blur=1, color=3)])
def test_samples_have_the_size_asked_for(shape: tuple[int, int], config: AugmentConfig) -> None:
    image, labels = lesion(shape)
    for seed in range(3):
        sample = augment(image, labels, config, 64, np.random.default_rng(seed))
        assert (sample.image.shape, sample.image.dtype) == ((3, 64, 64), torch.uint8)
        assert (sample.labels.shape, sample.labels.dtype) == ((64, 64), torch.uint8)


def test_the_seed_alone_decides() -> None:
    image, labels = lesion()
    config = AugmentConfig(artifacts=1, blur=1)
    one, same, other = (augment(image, labels, config, 48, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.image, other.image)


def test_the_pair_stays_as_it_is() -> None:
    image, labels = lesion()
    before = image.copy(), labels.copy()
    for seed in range(10):
        augment(image, labels, AugmentConfig(artifacts=1, blur=1), 32, np.random.default_rng(seed))
    assert np.array_equal(image, before[0])
    assert np.array_equal(labels, before[1])


def test_labels_move_with_the_image() -> None:
    image, labels = lesion()
    config = OFF.model_copy(update={"scale": (0.6, 1.6), "aspect": 0.25, "shift": 0.15})
    for seed in range(12):
        sample = augment(image, labels, config, 96, np.random.default_rng(seed))
        dark = (sample.image[0] > 20) & (sample.image[0] < 130)  # black is what surrounds the image
        wrong = dark != (sample.labels > 0)
        assert wrong.float().mean() < 0.02
        assert sample.labels.any()


def test_class_indices_are_never_mixed() -> None:
    image, labels = lesion()
    labels[:, 60:] *= 7
    labels[:10] = 255
    for seed in range(10):
        sample = augment(image, labels, AugmentConfig(), 50, np.random.default_rng(seed))
        assert set(sample.labels.unique().tolist()) <= {0, 1, 7, 255}


def test_directions_and_mirror_images_vary() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[8:32, 8:20] = 1  # lies to the top left, and is longer than wide
    image = np.repeat(labels[..., None] * 200, 3, axis=-1)
    centers = []
    for seed in range(40):
        sample = augment(image, labels, OFF, 64, np.random.default_rng(seed))
        centers.append(torch.nonzero(sample.labels).float().mean(0).numpy() - 31.5)
    angles = np.arctan2(*np.array(centers).T)
    assert len(np.unique(np.floor((angles + np.pi) / (np.pi / 4)))) >= 7


def test_scale_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation, "BLACK_SURROUNDINGS", 1.0)  # mirrored ones may show the lesion again
    image, labels = lesion((96, 96))
    for zoom in (0.6, 1.0, 1.5):
        config = OFF.model_copy(update={"scale": (zoom, zoom)})
        areas = [
            augment(image, labels, config, 96, np.random.default_rng(s)).labels.float().sum()
            for s in range(4)
        ]
        np.testing.assert_allclose(areas, labels.sum() * zoom**2, rtol=0.05)


def test_surroundings_are_mirrored_or_black() -> None:
    image, labels = np.full((60, 60, 3), 200, np.uint8), np.zeros((60, 60), np.uint8)
    config = OFF.model_copy(update={"scale": (0.5, 0.5)})
    black = [
        bool((augment(image, labels, config, 60, np.random.default_rng(s)).image == 0).any())
        for s in range(60)
    ]
    assert 0.1 < np.mean(black) < 0.55


def test_colors_change_and_stay_bytes() -> None:
    image, labels = lesion()
    config = OFF.model_copy(update={"color": 1.0})
    means = np.array(
        [
            augment(image, labels, config, 40, np.random.default_rng(s)).image.float().mean((1, 2)).numpy()
            for s in range(20)
        ]
    )
    assert (means.std(axis=0) > 3).all()
    assert np.ptp(means, axis=1).max() > 3  # a cast of color


def test_artifacts_do_not_hide_what_touches_the_rim(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(image: np.ndarray, rng: np.random.Generator, share: float, *, hiding: bool) -> np.ndarray:
        asked.append(hiding)
        return image

    monkeypatch.setattr(augmentation, "random_artifacts", note)
    image, labels = lesion()
    augment(image, labels, AugmentConfig(), 32, np.random.default_rng(0))
    labels[0, 5] = 1
    augment(image, labels, AugmentConfig(), 32, np.random.default_rng(0))
    assert asked == [True, False]


def test_a_plain_sample_is_the_image_resized() -> None:
    image, labels = lesion((64, 64))
    sample = plain_sample(image, labels, 64)
    assert np.array_equal(sample.image.permute(1, 2, 0).numpy(), image)
    assert np.array_equal(sample.labels.numpy(), labels)
    assert plain_sample(*lesion((50, 90)), 32).image.shape == (3, 32, 32)
