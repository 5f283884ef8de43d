from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_lesionseg.errors import MaskError
from napari_lesionseg.masks.instance_edits import (
    delete_instances,
    follow_outline,
    merge_instances,
    renumber_instance,
    split_at_narrow_point,
    split_by_line,
    split_by_seeds,
)


@pytest.fixture(params=[np.uint8, np.int32, np.uint32])
def ids(request: pytest.FixtureRequest) -> np.ndarray:
    """Lesion 2, which is 20 x 40, and lesion 5, which is two 10 x 10 squares."""
    made = np.zeros((60, 80), request.param)
    made[10:30, 10:50] = 2
    made[40:50, 10:20] = 5
    made[40:50, 40:50] = 5
    return made


def test_merged_under_the_lowest_number(ids: np.ndarray) -> None:
    merged = merge_instances(ids, [5, 2])
    assert set(np.unique(merged)) == {0, 2}
    assert ((merged > 0) == (ids > 0)).all()


def test_cut_along_a_line(ids: np.ndarray) -> None:
    cut = split_by_line(ids, 2, [(5, 20), (35, 20)])
    assert cut.dtype == ids.dtype
    assert ((cut > 0) == (ids > 0)).all()
    assert (cut[10:30, 23:50] == 2).all()
    assert (cut[10:30, 10:18] == 6).all()
    assert (cut[ids == 5] == 5).all()


def test_cut_along_a_bent_line_from_border_to_border(ids: np.ndarray) -> None:
    cut = split_by_line(ids, 2, [(10, 20), (20, 30), (29, 20)])
    assert set(np.unique(cut)) == {0, 2, 5, 6}
    assert cut[20, 12] == 6
    assert cut[20, 45] == 2


@pytest.mark.parametrize("end", [(28, 12), (29, 31), (35, 48)])
def test_no_diagonal_line_leaks(ids: np.ndarray, end: tuple[int, int]) -> None:
    assert set(np.unique(split_by_line(ids, 2, [(9, 30), end, (40, end[1])]))) == {0, 2, 5, 6}


def test_a_line_cuts_only_the_piece_it_crosses(ids: np.ndarray) -> None:
    cut = split_by_line(ids, 5, [(38, 14), (52, 14)])
    assert (cut[40:50, 40:50] == 5).all()
    assert set(np.unique(cut[40:50, 10:20])) == {5, 6}


def test_a_line_that_does_not_reach_the_border_is_refused(ids: np.ndarray) -> None:
    for line in ([(5, 20), (20, 20)], [(35, 5), (35, 70)], [(20, 20)], []):
        with pytest.raises(MaskError, match="border to border"):
            split_by_line(ids, 2, line)


def test_cut_between_points(ids: np.ndarray) -> None:
    cut = split_by_seeds(ids, 2, [(20, 45), (20, 12), (20.4, 30)])
    assert cut[20, 45] == 2
    assert cut[20, 12] == 6
    assert cut[20, 30] == 7
    assert ((cut > 0) == (ids > 0)).all()


def test_points_in_pieces_that_do_not_touch(ids: np.ndarray) -> None:
    cut = split_by_seeds(ids, 5, [(45, 12), (45, 18)])
    assert set(np.unique(cut[ids == 5])) == {5, 6}


def test_points_outside_do_not_count(ids: np.ndarray) -> None:
    for seeds in ([(20, 20), (35, 20)], [(20, 20), (20.2, 20.1)], [(20, 20), (-5, 900)], []):
        with pytest.raises(MaskError, match="two points"):
            split_by_seeds(ids, 2, seeds)


def test_cut_at_the_narrow_point() -> None:
    rows, cols = np.ogrid[:80, :120]
    ids = (((rows - 40) ** 2 + (cols - 40) ** 2 < 900) | ((rows - 40) ** 2 + (cols - 85) ** 2 < 500)).astype(
        int
    )
    cut = split_at_narrow_point(3 * ids, 3)
    assert cut[40, 40] == 3
    assert cut[40, 85] == 4


def test_without_a_narrow_point(ids: np.ndarray) -> None:
    with pytest.raises(MaskError, match="no narrow point"):
        split_at_narrow_point(ids, 2)


def test_new_numbers_can_be_asked_for(ids: np.ndarray) -> None:
    line = [(5, 20), (35, 20)]
    assert set(np.unique(split_by_line(ids, 2, line, unused=9))) == {0, 2, 5, 9}
    assert set(np.unique(split_by_line(ids, 2, line, unused=3))) == {0, 2, 5, 6}  # never one in use


def test_another_number(ids: np.ndarray) -> None:
    changed = renumber_instance(ids, 5, 1)
    assert changed.dtype == ids.dtype
    assert ((changed == 1) == (ids == 5)).all()
    assert (renumber_instance(ids, 5, 5) == ids).all()


def test_deleted(ids: np.ndarray) -> None:
    assert ((delete_instances(ids, [5]) > 0) == (ids == 2)).all()
    assert not delete_instances(ids, [2, 5]).any()


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: merge_instances(ids, [2, 3]),
        lambda ids: delete_instances(ids, [3]),
        lambda ids: delete_instances(ids, [0]),
        lambda ids: renumber_instance(ids, 3, 4),
        lambda ids: split_by_line(ids, 3, [(0, 0), (50, 50)]),
        lambda ids: split_by_seeds(ids, 3, [(0, 0), (50, 50)]),
        lambda ids: split_at_narrow_point(ids, 3),
    ],
)
def test_a_lesion_that_is_not_there_is_named(ids: np.ndarray, change: Callable[[np.ndarray], object]) -> None:
    with pytest.raises(MaskError, match=r"no lesion [03]"):
        change(ids)


def test_impossible_numbers_are_refused(ids: np.ndarray) -> None:
    with pytest.raises(MaskError, match="taken"):
        renumber_instance(ids, 2, 5)
    with pytest.raises(MaskError, match="not possible"):
        renumber_instance(ids, 2, 0)
    with pytest.raises(MaskError, match="not possible"):
        renumber_instance(ids, 2, 2**40)
    with pytest.raises(MaskError, match="at least two"):
        merge_instances(ids, [2, 2])


def test_corrected_outlines_keep_numbers_and_cuts(ids: np.ndarray) -> None:
    cut = split_by_line(ids, 2, [(5, 20), (35, 20)])
    outline = ids > 0
    outline[10:30, 50:55] = True  # grown on the right
    outline[10:30, 10:13] = False  # wiped off on the left
    outline[2:6, 70:76] = True  # another lesion
    followed = follow_outline(cut, outline)
    assert ((followed > 0) == outline).all()
    assert (followed[10:30, 23:55] == 2).all()
    assert (followed[10:30, 13:18] == 6).all()
    assert (followed[2:6, 70:76] == 7).all()
    assert (followed[ids == 5] == 5).all()  # two squares under one number stay one lesion
    assert followed.dtype == ids.dtype


def test_a_lesion_that_was_cut_through_gets_a_second_number(ids: np.ndarray) -> None:
    outline = ids > 0
    outline[:, 20:22] = False
    outline[45] = False  # cuts both squares of lesion 5
    followed = follow_outline(ids, outline, unused=20)
    assert (followed[10:30, 22:50] == 2).all()
    pieces = {int(followed[20, 12]), int(followed[48, 15]), int(followed[48, 45])}
    assert pieces == {20, 21, 22}
    assert followed[42, 15] == followed[42, 45] == 5


def test_an_outline_wiped_off_leaves_nothing(ids: np.ndarray) -> None:
    assert not follow_outline(ids, np.zeros_like(ids)).any()
    with pytest.raises(MaskError, match="shape"):
        follow_outline(ids, np.zeros((3, 3)))


def test_a_full_byte_has_no_number_left() -> None:
    ids = np.zeros((20, 20), np.uint8)
    ids[5:15, 5:15] = 255
    with pytest.raises(MaskError, match="1 to 255"):
        split_by_line(ids, 255, [(0, 10), (19, 10)])


def test_arguments_are_left_alone(ids: np.ndarray) -> None:
    ids.setflags(write=False)
    merge_instances(ids, [2, 5])
    delete_instances(ids, [2])
    follow_outline(ids, ids == 2)
    renumber_instance(ids, 2, 3)
    split_by_line(ids, 2, [(5, 20), (35, 20)])
    split_by_seeds(ids, 2, [(20, 15), (20, 40)])
