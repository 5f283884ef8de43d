from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks.instances import (
    NARROW_POINT,
    as_columns,
    each_instance,
    find_instances,
    keep_numbers,
    list_instances,
    split_touching,
)
from napari_lesionseg.types import IGNORED

SHAPE = (120, 200)
small_maps = hnp.arrays(np.int32, (9, 11), elements=st.integers(0, 4))


def disc(row: float, col: float, radius: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return (rows - row) ** 2 + (cols - col) ** 2 <= radius**2


def pair(distance: float, radii: tuple[float, float] = (30, 25)) -> np.ndarray:
    return (disc(60, 60, radii[0]) | disc(60, 60 + distance, radii[1])).astype(np.uint8)


# ------------------------------------------------------------------------------------------ finding


def test_apart_from_each_other() -> None:
    ids = find_instances(pair(70))
    assert ids.dtype == np.int32
    assert ids[60, 60] == 1
    assert ids[60, 130] == 2
    assert ids.max() == 2


def test_touching_lesions_are_cut_at_their_narrow_point() -> None:
    mask = pair(50)
    assert find_instances(mask).max() == 1
    ids = find_instances(mask, narrow_point=NARROW_POINT)
    assert ids.max() == 2
    assert ((ids > 0) == (mask > 0)).all()
    # the circles cross where the distances to both centers are the radii: at column 87.75
    assert (ids[:, :86][mask[:, :86] > 0] == ids[60, 60]).all()
    assert (ids[:, 90:][mask[:, 90:] > 0] == ids[60, 110]).all()


def test_the_narrow_point_is_compared_with_the_thinner_lesion() -> None:
    # half the chord where the circles cross, as a share of the smaller radius
    distance, one, two = 42.0, 30.0, 25.0
    along = (distance**2 + one**2 - two**2) / (2 * distance)
    share = (one**2 - along**2) ** 0.5 / two
    assert find_instances(pair(distance), narrow_point=share - 0.08).max() == 1
    assert find_instances(pair(distance), narrow_point=share + 0.08).max() == 2


@pytest.mark.parametrize("factor", [1, 3, 6])
def test_the_size_of_the_lesions_does_not_matter(factor: int) -> None:
    mask = pair(50)
    assert (
        find_instances(np.kron(mask, np.ones((factor, factor), np.uint8)), narrow_point=NARROW_POINT).max()
        == 2
    )


def test_a_bump_is_no_lesion() -> None:
    assert find_instances(disc(60, 60, 40) | disc(60, 102, 11), narrow_point=0.95).max() == 1


def test_a_ragged_border_makes_no_lesions(rng: np.random.Generator) -> None:
    ragged = disc(60, 60, 30) ^ ((rng.random(SHAPE) < 0.5) & disc(60, 60, 32) & ~disc(60, 60, 28))
    whole = find_instances(ragged)
    assert find_instances(ragged, narrow_point=NARROW_POINT).max() == whole.max()


def test_most_lesions_stay_whole() -> None:
    samples = [synthetic_sample(seed, (128, 160), artifacts=False) for seed in range(12)]
    assert all(find_instances(s.mask, narrow_point=NARROW_POINT).max() == 1 for s in samples)


def test_several_lesions_are_found_one_by_one() -> None:
    sample = synthetic_sample(3, (200, 260), n_lesions=5, artifacts=False)
    ids = find_instances(sample.mask)
    assert ids.max() == 5
    pairs = set(zip(ids[ids > 0].tolist(), sample.instances[ids > 0].tolist(), strict=True))
    assert len(pairs) == 5


def test_classes_that_touch_are_different_lesions() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[20:60, 20:60] = 1
    labels[20:60, 60:100] = 2
    assert find_instances(labels).max() == 2


def test_ignored_pixels_are_no_lesion() -> None:
    labels = pair(70)
    labels[:, 100:] = np.where(labels[:, 100:], IGNORED, 0)
    assert find_instances(labels).max() == 1


def test_nothing_in_nothing() -> None:
    assert not find_instances(np.zeros((4, 5), np.uint8)).any()


@given(small_maps)
def test_no_pixel_is_lost_or_won(parts: np.ndarray) -> None:
    pieces = split_touching(parts)
    assert ((pieces > 0) == (parts > 0)).all()
    for value in np.unique(pieces[pieces > 0]):
        assert len(np.unique(parts[pieces == value])) == 1


# ------------------------------------------------------------------------------------------ numbers


def test_a_corrected_lesion_keeps_its_number() -> None:
    before = find_instances(pair(70))
    grown = find_instances(pair(70, (33, 20)), previous=before)
    assert grown[60, 60] == before[60, 60]
    assert grown[60, 130] == before[60, 130]


def test_a_lesion_that_appears_first_takes_no_number_of_another() -> None:
    before = find_instances(pair(70))
    mask = pair(70) | disc(10, 10, 5)
    after = find_instances(mask, previous=before)
    assert after[10, 10] == 3
    assert (after[before > 0] == before[before > 0]).all()


def test_a_deleted_number_does_not_come_back() -> None:
    before = find_instances(disc(60, 60, 20))
    after = find_instances(disc(20, 20, 10), previous=before)
    assert after[20, 20] == 2
    assert find_instances(disc(20, 20, 10), previous=before, unused=7)[20, 20] == 7
    assert find_instances(disc(20, 20, 10), previous=before, unused=1)[20, 20] == 2


def test_the_larger_piece_keeps_the_number() -> None:
    before = np.zeros(SHAPE, np.int32)
    before[20:40, 20:100] = 4
    mask = (before > 0).astype(np.uint8)
    mask[:, 50:52] = 0
    after = find_instances(mask, previous=before)
    assert after[30, 80] == 4
    assert after[30, 30] == 5


def test_joined_lesions_have_the_number_of_the_larger() -> None:
    before = np.zeros(SHAPE, np.int32)
    before[20:40, 20:40] = 1
    before[20:40, 60:100] = 2
    mask = np.zeros(SHAPE, np.uint8)
    mask[20:40, 20:100] = 1
    assert set(np.unique(find_instances(mask, previous=before))) == {0, 2}


@given(small_maps, small_maps)
def test_numbers_stay_unique_and_parts_whole(previous: np.ndarray, parts: np.ndarray) -> None:
    named = keep_numbers(previous, parts)
    pairs = set(zip(named.ravel().tolist(), parts.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(parts)) == len(np.unique(named))
    kept = set(np.unique(named)) & set(np.unique(previous)) - {0}
    assert all(((named == value) & (previous == value)).any() for value in kept)


@given(small_maps)
def test_the_same_parts_keep_all_numbers(previous: np.ndarray) -> None:
    assert (keep_numbers(previous, previous * 3 % 7) == previous).all()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(MaskError, match="shape"):
        keep_numbers(np.zeros((3, 4), np.int32), np.zeros((4, 3), np.int32))


def test_huge_numbers() -> None:
    ids = np.zeros((6, 6), np.int64)
    ids[0, 0], ids[4:, 4:] = 3, 2**30
    assert [(value, int(own.sum())) for value, _, own in each_instance(ids)] == [(3, 1), (2**30, 4)]


# ---------------------------------------------------------------------------------------- the table


def test_a_row_for_each_lesion() -> None:
    ids = np.zeros((20, 30), np.int32)
    ids[2:6, 3:13] = 7
    labels = np.zeros((20, 30), np.uint8)
    labels[2:6, 3:13] = 2
    labels[2, 3:6] = 1
    labels[2, 6] = IGNORED
    probability = np.zeros((3, 20, 30), np.float32)
    probability[2, 2:6, 3:13] = 0.5
    probability[2, 2:6, 3:8] = 0.75
    (row,) = list_instances(ids, labels, probability, ("skin", "hair", "nevus"))
    assert (row.index, row.area, row.class_index, row.class_name) == (7, 40, 2, "nevus")
    assert (row.row, row.col) == (3.5, 7.5)
    assert (row.top, row.left, row.bottom, row.right) == (2, 3, 6, 13)
    assert row.confidence == pytest.approx(0.625)


def test_without_classes_and_probability() -> None:
    rows = list_instances(find_instances(pair(70)))
    assert [row.index for row in rows] == [1, 2]
    assert {row.class_name for row in rows} == {"lesion"}
    assert {row.confidence for row in rows} == {None}


def test_confidence_of_one_class() -> None:
    ids = find_instances(pair(70))
    probability = np.where(ids == 1, 0.9, 0.2).astype(np.float32)
    assert [row.confidence for row in list_instances(ids, probability=probability)] == pytest.approx(
        [0.9, 0.2]
    )


def test_columns_fit_the_features_of_a_layer() -> None:
    columns = as_columns(list_instances(find_instances(pair(70))))
    assert columns["index"].tolist() == [1, 2]
    assert np.isnan(columns["confidence"]).all()
    assert columns["class_name"].tolist() == ["lesion", "lesion"]
    assert len({len(column) for column in columns.values()}) == 1
    assert as_columns([]) == {}


def test_a_table_of_other_shapes_is_refused() -> None:
    ids = np.ones((4, 4), np.int32)
    with pytest.raises(MaskError, match="shape"):
        list_instances(ids, labels=np.zeros((5, 4), np.uint8))
    with pytest.raises(MaskError, match="shape"):
        list_instances(ids, probability=np.zeros((2, 5, 4), np.float32))
