"""Drawn images come again for the same seed; their masks are exact in all sizes, kinds and skins."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_lesionseg.datasets.synthetic import (
    FIGURE_SKELETON,
    LESION_KINDS,
    Sample,
    sample_set,
    synthetic_figure,
    synthetic_sample,
)
from napari_lesionseg.datasets.synthetic.skin import SKIN_LAB
from napari_lesionseg.errors import ImageError
from napari_lesionseg.types import VISIBLE

SIZE = (112, 154)
EIGHT = np.ones((3, 3))


def check_sample(sample: Sample, size: tuple[int, int], count: int) -> None:
    assert sample.image.shape == (*size, 3)
    assert sample.image.dtype == sample.mask.dtype == sample.instances.dtype == np.uint8
    assert sample.mask.shape == sample.instances.shape == size
    np.testing.assert_array_equal(sample.mask, sample.instances > 0)
    assert set(np.unique(sample.instances)) - {0} == set(range(1, count + 1))
    assert ndimage.label(sample.mask, structure=EIGHT)[1] == count
    assert sample.mask.mean() < 0.75


def lightness(sample: Sample) -> float:
    away = ndimage.distance_transform_edt(sample.mask == 0) > 12
    return float(sample.image[away].mean())


@pytest.mark.parametrize("kind", LESION_KINDS)
def test_every_kind(kind: str) -> None:
    for seed in range(3):
        sample = synthetic_sample(seed, SIZE, kind=kind)
        check_sample(sample, SIZE, count=1)
        assert sample.name == f"{kind}-{seed}"


@pytest.mark.parametrize("kind", LESION_KINDS)
@pytest.mark.parametrize("skin_type", range(1, 7))
def test_lesion_stands_out_from_the_skin_around(kind: str, skin_type: int) -> None:
    sample = synthetic_sample(5, SIZE, kind=kind, skin_type=skin_type, artifacts=False)
    inside = sample.image[ndimage.binary_erosion(sample.mask, iterations=3)].mean(axis=0)
    around = ndimage.binary_dilation(sample.mask, iterations=16)
    around &= ~ndimage.binary_dilation(sample.mask, iterations=6)
    skin = sample.image[around].mean(axis=0)
    assert inside[1] < skin[1] - 8  # green: both melanin and blood take it away
    assert inside[1] < 0.85 * skin[1]


@pytest.mark.parametrize("kind", LESION_KINDS)
def test_outline_is_at_half_strength(kind: str) -> None:
    rings: dict[int, list[float]] = {step: [] for step in (-9, -1, 1, 9)}
    for seed in range(4):
        sample = synthetic_sample(seed, (224, 300), kind=kind, skin_type=2, artifacts=False)
        inwards = ndimage.distance_transform_edt(sample.mask)
        outwards = ndimage.distance_transform_edt(sample.mask == 0)
        depth = np.where(sample.mask, inwards, -outwards)
        for step, found in rings.items():
            found.append(float(sample.image[np.abs(depth - step) <= 1, 1].mean()))
    deep, inside, outside, skin = (float(np.mean(rings[step])) for step in (9, 1, -1, -9))
    assert deep < inside < outside < skin
    assert 0.2 < (skin - (inside + outside) / 2) / (skin - deep) < 0.7


def test_brightness_falls_with_skin_type() -> None:
    for seed in (0, 9):
        values = [
            lightness(synthetic_sample(seed, SIZE, skin_type=skin_type, artifacts=False))
            for skin_type in range(1, 7)
        ]
        assert all(lighter > darker + 3 for lighter, darker in pairwise(values))


def test_skin_colors_lie_in_their_typology_groups() -> None:
    bounds = (90, 55, 41, 28, 10, -30, -90)  # Chardon et al. 1991
    for skin_type, (bright, _, yellow) in SKIN_LAB.items():
        angle = np.degrees(np.arctan2(bright - 50, yellow))
        assert bounds[skin_type] < angle < bounds[skin_type - 1]


def test_same_seed_same_bytes() -> None:
    first, again = (synthetic_sample(11, SIZE, n_lesions=2) for _ in range(2))
    assert first.name == again.name
    for name in ("image", "mask", "instances"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()


def test_other_seed_other_image() -> None:
    first, other = synthetic_sample(1, SIZE), synthetic_sample(2, SIZE)
    assert (first.image != other.image).any()
    assert (first.mask != other.mask).any()


def test_skin_and_artifacts_leave_the_outline() -> None:
    plain = synthetic_sample(4, SIZE, kind="melanoma", skin_type=1, artifacts=False)
    dark = synthetic_sample(4, SIZE, kind="melanoma", skin_type=6, artifacts=False)
    covered = [synthetic_sample(seed, SIZE, kind="melanoma", skin_type=1) for seed in range(8)]
    bare = [synthetic_sample(seed, SIZE, kind="melanoma", skin_type=1, artifacts=False) for seed in range(8)]
    np.testing.assert_array_equal(plain.instances, dark.instances)
    assert any((one.image != other.image).any() for one, other in zip(covered, bare, strict=True))
    for one, other in zip(covered, bare, strict=True):
        np.testing.assert_array_equal(one.instances, other.instances)


def test_left_out_skin_type_and_kind_vary() -> None:
    samples = [synthetic_sample(seed, (64, 64), artifacts=False) for seed in range(20)]
    assert len({sample.name.rsplit("-", 1)[0] for sample in samples}) >= 4
    values = [lightness(sample) for sample in samples if sample.mask.mean() < 0.2]
    assert max(values) - min(values) > 60


def test_some_lesions_are_cut_by_the_border() -> None:
    cut = 0
    for seed in range(40):
        mask = synthetic_sample(seed, (48, 64), artifacts=False).mask
        cut += bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())
    assert 1 <= cut <= 20


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_several_lesions_do_not_touch(count: int) -> None:
    for seed in range(3):
        check_sample(synthetic_sample(seed, (140, 190), n_lesions=count), (140, 190), count)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(32, 120), width=st.integers(32, 120), seed=st.integers(0, 10**9), data=st.data())
def test_any_size(height: int, width: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, height * width // 512))
    check_sample(synthetic_sample(seed, (height, width), n_lesions=count), (height, width), count)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (31, 400)}, "too small"),
        ({"size": (32, 32), "n_lesions": 3}, "do not fit"),
        ({"n_lesions": 0}, "do not fit"),
        ({"skin_type": 0}, "Skin type"),
        ({"skin_type": 7}, "Skin type"),
        ({"kind": "wart"}, "common-nevus"),
    ],
)
def test_impossible_wishes_are_explained(options: dict[str, object], words: str) -> None:
    with pytest.raises(ImageError, match=words):
        synthetic_sample(0, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return sample_set()


def test_sample_set_is_varied(samples: list[Sample]) -> None:
    assert samples[0].name == "sample-1-common-nevus"
    assert len({sample.name.split("-", 2)[2] for sample in samples}) == 6
    assert {int(sample.instances.max()) for sample in samples} == {1, 2}
    for sample in samples:
        check_sample(sample, (560, 768), int(sample.instances.max()))


def test_smaller_set_is_the_beginning(samples: list[Sample]) -> None:
    (first,) = sample_set(1)
    np.testing.assert_array_equal(first.image, samples[0].image)
    assert sample_set(0) == []


def test_longer_set_goes_on_with_new_images(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(seed: int, **options: object) -> Sample:
        asked.append((seed, tuple(options.values())))
        return Sample("", *np.zeros((3, 2, 2), dtype=np.uint8))

    monkeypatch.setattr("napari_lesionseg.datasets.synthetic.synthetic_sample", note)
    names = [sample.name for sample in sample_set(30)]
    assert len(set(asked)) == len(set(names)) == 30


def figures() -> Iterator[Sample]:
    for seed in range(12):
        yield synthetic_figure(seed, (128, 128))


def test_figures_are_people_apart() -> None:
    counts = set()
    for sample in figures():
        count = int(sample.instances.max())
        check_sample(sample, (128, 128), count)
        assert 0.03 < sample.mask.mean() < 0.5
        rows, cols = np.nonzero(sample.instances == 1)
        assert np.ptp(rows) > 0.9 * np.ptp(cols)
        counts.add(count)
    assert counts == {1, 2}


def test_figures_differ_and_come_again() -> None:
    first, again = list(figures()), list(figures())
    for one, other in zip(first, again, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.mask.tobytes() == other.mask.tobytes()
    assert len({sample.mask.tobytes() for sample in first}) == len(first)


@pytest.mark.parametrize("size", [(32, 32), (40, 200), (200, 40), (256, 256)])
def test_figures_of_any_size(size: tuple[int, int]) -> None:
    for seed in range(4):
        sample = synthetic_figure(seed, size)
        check_sample(sample, size, int(sample.instances.max()))


def test_figure_too_small_is_refused() -> None:
    with pytest.raises(ImageError, match="too small"):
        synthetic_figure(0, (20, 64))


def test_figures_know_their_joints() -> None:
    names = FIGURE_SKELETON.names
    for seed in range(6):
        sample = synthetic_figure(seed, (192, 256), people=1 + seed % 3)
        assert len(sample.landmarks) == 1 + seed % 3
        for number, person in enumerate(sample.landmarks, 1):
            inner = [n for n in range(len(names)) if not names[n].endswith(("wrist", "eye"))]
            rows, cols = np.rint(person.points[inner]).astype(int).T
            assert (sample.instances[rows, cols] == number).mean() > 0.85
            place = dict(zip(names, person.points, strict=True))
            assert place["left_shoulder"][1] > place["right_shoulder"][1]
            assert place["nose"][0] < place["left_hip"][0] < place["left_ankle"][0]
            assert (person.visibility == VISIBLE).all()


def test_joints_outside_the_image_are_not_labeled() -> None:
    people = [p for seed in range(40) for p in synthetic_figure(seed, (200, 40)).landmarks]
    for person in people:
        inside = person.points[person.labeled]
        assert (inside >= -0.5).all()
        assert (inside <= np.array([199.5, 39.5])).all()
