from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lesionseg.config import PromptConfig, TrainConfig
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.prompt_samples import (
    CHANGES,
    PromptBatch,
    PromptSource,
    make_sample,
    randomize_colors,
)
from napari_lesionseg.types import IGNORED

SIZE = 96


@pytest.fixture(scope="module")
def pairs() -> list[CachedPair]:
    return [
        CachedPair(str(number), sample.image[::4, ::4].copy(), (sample.mask[::4, ::4] > 0).astype(np.uint8))
        for number, sample in enumerate(sample_set(6))
    ]


def make_source(pairs: list[CachedPair], **settings: object) -> PromptSource:
    config = TrainConfig(prompts=PromptConfig.model_validate(settings))
    return PromptSource(pairs, config, batch_size=8)


def take(source: PromptSource, step: int = 0) -> PromptBatch:
    batch = source.batch(step, SIZE)
    assert isinstance(batch, PromptBatch)
    return batch


def test_the_same_step_gives_the_same_batch(pairs: list[CachedPair]) -> None:
    first, again, other = take(make_source(pairs)), take(make_source(pairs)), take(make_source(pairs), 1)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert all(
        np.array_equal(one.logit, two.logit) for one, two in zip(first.priors, again.priors, strict=True)
    )
    assert not torch.equal(first.images, other.images)


def test_shapes_and_kinds(pairs: list[CachedPair]) -> None:
    batch = take(make_source(pairs))
    assert batch.images.shape == (8, 3, SIZE, SIZE)
    assert batch.images.dtype == batch.labels.dtype == torch.uint8
    assert batch.labels.shape == (8, SIZE, SIZE)
    assert set(batch.labels.unique().tolist()) <= {0, 1}
    assert all(prior.logit.shape == (SIZE, SIZE) for prior in batch.priors)


@pytest.mark.parametrize("lasso", [0.0, 1.0])
def test_gestures_fit_the_lesion_in_the_window(pairs: list[CachedPair], lasso: float) -> None:
    batch = take(make_source(pairs, strokes_only=0, lasso=lasso))
    overlaps = []
    for labels, prior in zip(batch.labels.numpy(), batch.priors, strict=True):
        expected = prior.logit > 0
        overlaps.append((expected & (labels > 0)).sum() / (expected | (labels > 0)).sum())
    assert np.mean(overlaps) > 0.6


def test_strokes_alone_have_no_prior(pairs: list[CachedPair]) -> None:
    batch = take(make_source(pairs, strokes_only=1))
    assert not any(prior.logit.any() or prior.inside.any() for prior in batch.priors)


def test_the_margin_sets_how_large_the_lesion_is(pairs: list[CachedPair]) -> None:
    def share(margin: tuple[float, float]) -> float:
        batch = take(make_source(pairs, strokes_only=0, margin=margin))
        return float((batch.labels == 1).float().mean())

    assert share((0.1, 0.15)) > share((0.8, 0.85))


def test_one_of_several_lesions_is_meant() -> None:
    labels = np.zeros((120, 120), np.uint8)
    labels[20:50, 20:50] = labels[70:100, 70:100] = 1
    image = np.full((120, 120, 3), 128, np.uint8)
    config = PromptConfig(recolor=0, artifacts=0, margin=(1.0, 1.0))
    counts = []
    for seed in range(20):
        sample = make_sample(image, labels, config, SIZE, np.random.default_rng(seed))
        assert sample is not None
        counts.append(int(sample.target.sum()))
    assert len(counts) == 20
    assert min(counts) < 0.8 * max(counts)


def test_ignored_pixels_and_tiny_lesions_are_no_lesions() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    ignored, tiny, usable = (np.zeros((64, 64), np.uint8) for _ in range(3))
    ignored[10:40, 10:40], tiny[5:8, 5:8], usable[10:40, 10:40] = IGNORED, 1, 1
    pairs = [CachedPair(name, image, labels) for name, labels in (("a", ignored), ("b", tiny), ("c", usable))]
    batch = take(make_source(pairs))
    assert (batch.labels.flatten(1).sum(1) > 0).all()


@pytest.mark.parametrize(("change", "share"), CHANGES)
def test_every_change_of_color_keeps_an_image_an_image(change: object, share: float) -> None:
    assert 0 < share <= 1
    image = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    changed = change(image, np.random.default_rng(0))  # type: ignore[operator]
    assert changed.shape == image.shape
    assert torch.isfinite(changed).all()
    assert torch.equal(image, before)
    assert not torch.equal(changed, image)


def test_no_strength_no_change() -> None:
    image = torch.rand(3, 8, 8)
    assert torch.equal(randomize_colors(image, 0, np.random.default_rng(0)), image)
    assert not torch.equal(randomize_colors(image, 1, np.random.default_rng(0)), image)
