"""Artifacts lie over an image: they change it, leave the one given alone, and come again with their seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lesionseg.datasets.synthetic import artifacts
from napari_lesionseg.datasets.synthetic.artifacts import Artifact
from napari_lesionseg.types import ByteImage

ALL: tuple[Artifact, ...] = (
    artifacts.hairs,
    artifacts.bubbles,
    artifacts.ruler,
    artifacts.ink,
    artifacts.sticker,
    artifacts.vignette,
    artifacts.black_corners,
    artifacts.color_cast,
)
each = pytest.mark.parametrize("artifact", ALL, ids=lambda artifact: artifact.__name__)


def skin(height: int, width: int) -> ByteImage:
    return np.full((height, width, 3), (205, 160, 140), dtype=np.uint8)


@each
@pytest.mark.parametrize("shape", [(32, 32), (33, 200), (200, 37), (96, 128)])
def test_changes_a_copy(artifact: Artifact, shape: tuple[int, int]) -> None:
    image = skin(*shape)
    for seed in range(12):
        changed = artifact(image, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        assert not np.shares_memory(changed, image)
        assert (changed != image).any(), seed
    np.testing.assert_array_equal(image, skin(*shape))


@each
def test_same_seed_same_image(artifact: Artifact) -> None:
    image = skin(64, 80)
    first, again, other = (artifact(image, np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@each
def test_takes_read_only_and_strided_images(artifact: Artifact) -> None:
    image = skin(64, 160)[:, ::2]
    image.flags.writeable = False
    changed = artifact(image, np.random.default_rng(0))
    assert changed.flags.writeable
    np.testing.assert_array_equal(changed, artifact(skin(64, 80), np.random.default_rng(0)))


@pytest.mark.parametrize("artifact", [artifacts.hairs, artifacts.ruler], ids=["hairs", "ruler"])
def test_strands_and_ticks_leave_most_of_the_skin_bare(artifact: Artifact) -> None:
    image = skin(256, 256)
    covered = [
        (np.abs(artifact(image, np.random.default_rng(seed)).astype(int) - image) > 20).any(axis=2).mean()
        for seed in range(15)
    ]
    assert min(covered) > 0.0005
    assert max(covered) < 0.15


@pytest.mark.parametrize(
    "artifact", [artifacts.black_corners, artifacts.sticker], ids=["black_corners", "sticker"]
)
def test_what_hides_the_skin_keeps_to_the_rim(artifact: Artifact) -> None:
    image = skin(120, 160)
    for seed in range(30):
        changed = artifact(image, np.random.default_rng(seed))
        np.testing.assert_array_equal(changed[45:75, 60:100], image[45:75, 60:100])


def test_aperture_is_dark_in_a_corner_only() -> None:
    for seed in range(20):
        seen = artifacts.black_corners(skin(112, 154), np.random.default_rng(seed)).mean(axis=2)
        assert min(seen[0, 0], seen[0, -1], seen[-1, 0], seen[-1, -1]) < 60
        assert seen[56, 77] > 160


def test_vignette_darkens_only_and_towards_the_rim() -> None:
    for seed in range(10):
        seen = artifacts.vignette(skin(90, 120), np.random.default_rng(seed)).astype(int)
        assert (seen <= skin(90, 120)).all()
        corners = seen[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
        assert corners < seen[40:50, 55:65].mean() - 10


def test_ink_is_bluish() -> None:
    for seed in range(10):
        image = skin(128, 128)
        changed = artifacts.ink(image, np.random.default_rng(seed)).astype(int)
        loss = (image - changed).sum(axis=(0, 1))
        assert loss[2] < loss[0]


def test_no_artifact_at_probability_zero() -> None:
    image = skin(48, 48)
    for seed in range(10):
        same = artifacts.random_artifacts(image, np.random.default_rng(seed), 0.0)
        np.testing.assert_array_equal(same, image)
        assert not np.shares_memory(same, image)


def test_some_artifact_at_probability_one() -> None:
    image = skin(48, 48)
    for seed in range(30):
        assert (artifacts.random_artifacts(image, np.random.default_rng(seed), 1.0) != image).any()
    np.testing.assert_array_equal(image, skin(48, 48))


def test_probability_is_the_share_of_changed_images() -> None:
    rng = np.random.default_rng(0)
    image = skin(32, 32)
    changed = [(artifacts.random_artifacts(image, rng, 0.3) != image).any() for _ in range(300)]
    assert 0.2 < np.mean(changed) < 0.4


@settings(max_examples=40, deadline=None)
@given(height=st.integers(32, 160), width=st.integers(32, 160), seed=st.integers(0, 2**32 - 1))
def test_any_size_and_seed(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert artifacts.random_artifacts(image, rng, 1.0).shape == image.shape
