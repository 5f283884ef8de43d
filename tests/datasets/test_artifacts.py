"""Artefacts lie over a picture: they change it, leave the one given alone, and come again with their seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lesionseg.datasets.synthetic import artifacts
from napari_lesionseg.datasets.synthetic.artifacts import Artefact
from napari_lesionseg.types import ByteImage

ALL: tuple[Artefact, ...] = (
    artifacts.hairs,
    artifacts.bubbles,
    artifacts.ruler,
    artifacts.ink,
    artifacts.sticker,
    artifacts.vignette,
    artifacts.black_corners,
    artifacts.colour_cast,
)
each = pytest.mark.parametrize("artefact", ALL, ids=lambda artefact: artefact.__name__)


def skin(height: int, width: int) -> ByteImage:
    return np.full((height, width, 3), (205, 160, 140), dtype=np.uint8)


@each
@pytest.mark.parametrize("shape", [(32, 32), (33, 200), (200, 37), (96, 128)])
def test_changes_a_copy(artefact: Artefact, shape: tuple[int, int]) -> None:
    picture = skin(*shape)
    for seed in range(12):
        changed = artefact(picture, np.random.default_rng(seed))
        assert changed.shape == picture.shape
        assert changed.dtype == np.uint8
        assert not np.shares_memory(changed, picture)
        assert (changed != picture).any(), seed
    np.testing.assert_array_equal(picture, skin(*shape))


@each
def test_same_seed_same_picture(artefact: Artefact) -> None:
    picture = skin(64, 80)
    first, again, other = (artefact(picture, np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@each
def test_takes_read_only_and_strided_pictures(artefact: Artefact) -> None:
    picture = skin(64, 160)[:, ::2]
    picture.flags.writeable = False
    changed = artefact(picture, np.random.default_rng(0))
    assert changed.flags.writeable
    np.testing.assert_array_equal(changed, artefact(skin(64, 80), np.random.default_rng(0)))


@pytest.mark.parametrize("artefact", [artifacts.hairs, artifacts.ruler], ids=["hairs", "ruler"])
def test_strands_and_ticks_leave_most_of_the_skin_bare(artefact: Artefact) -> None:
    picture = skin(256, 256)
    covered = [
        (np.abs(artefact(picture, np.random.default_rng(seed)).astype(int) - picture) > 20).any(axis=2).mean()
        for seed in range(15)
    ]
    assert min(covered) > 0.0005
    assert max(covered) < 0.15


@pytest.mark.parametrize(
    "artefact", [artifacts.black_corners, artifacts.sticker], ids=["black_corners", "sticker"]
)
def test_what_hides_the_skin_keeps_to_the_rim(artefact: Artefact) -> None:
    picture = skin(120, 160)
    for seed in range(30):
        changed = artefact(picture, np.random.default_rng(seed))
        np.testing.assert_array_equal(changed[45:75, 60:100], picture[45:75, 60:100])


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
        picture = skin(128, 128)
        changed = artifacts.ink(picture, np.random.default_rng(seed)).astype(int)
        loss = (picture - changed).sum(axis=(0, 1))
        assert loss[2] < loss[0]


def test_no_artefact_at_probability_zero() -> None:
    picture = skin(48, 48)
    for seed in range(10):
        same = artifacts.random_artefacts(picture, np.random.default_rng(seed), 0.0)
        np.testing.assert_array_equal(same, picture)
        assert not np.shares_memory(same, picture)


def test_some_artefact_at_probability_one() -> None:
    picture = skin(48, 48)
    for seed in range(30):
        assert (artifacts.random_artefacts(picture, np.random.default_rng(seed), 1.0) != picture).any()
    np.testing.assert_array_equal(picture, skin(48, 48))


def test_probability_is_the_share_of_changed_pictures() -> None:
    rng = np.random.default_rng(0)
    picture = skin(32, 32)
    changed = [(artifacts.random_artefacts(picture, rng, 0.3) != picture).any() for _ in range(300)]
    assert 0.2 < np.mean(changed) < 0.4


@settings(max_examples=40, deadline=None)
@given(height=st.integers(32, 160), width=st.integers(32, 160), seed=st.integers(0, 2**32 - 1))
def test_any_size_and_seed(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert artifacts.random_artefacts(picture, rng, 1.0).shape == picture.shape
