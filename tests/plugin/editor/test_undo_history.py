from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from napari_lesionseg.inference.prediction import Prediction
from napari_lesionseg.plugin.editor.undo_history import PackedMask, Snapshot, UndoHistory


def snapshot(value: int, shape: tuple[int, int] = (12, 15), prediction: Prediction | None = None) -> Snapshot:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[2 : 2 + value, 3:9] = 1
    return Snapshot(mask, mask > 5, predictions=(prediction,))


def value(shown: Snapshot) -> int:
    return int(shown.mask.any(axis=1).sum())


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements={"min_value": 0, "max_value": 3},
    )
    | hnp.arrays(np.bool_, (4, 7))
)
def test_masks_come_back_as_they_were(mask: NDArray[Any]) -> None:
    packed = PackedMask.of(mask)
    restored = packed.unpack()
    np.testing.assert_array_equal(restored, mask)
    assert restored.dtype == mask.dtype
    assert restored.flags.writeable


def test_a_lesion_of_24_megapixels_takes_few_bytes() -> None:
    rows, cols = np.ogrid[:4000, :6000]
    lesion = ((rows - 2000) ** 2 + (cols - 3000) ** 2 < 1200**2).astype(np.uint8)
    assert PackedMask.of(lesion).nbytes < 30_000


def test_an_empty_mask_takes_next_to_nothing() -> None:
    assert PackedMask.of(np.zeros((4000, 6000), dtype=bool)).nbytes < 100


def test_steps_are_taken_back_and_brought_back() -> None:
    history = UndoHistory(snapshot(1))
    history.record(snapshot(2), "stroke")
    history.record(snapshot(3), "click")
    assert value(history.undo()) == 2
    assert value(history.undo()) == 1
    assert not history.depth
    assert value(history.undo()) == 1
    assert value(history.redo()) == 2
    assert value(history.redo()) == 3
    assert not history.can_redo
    assert value(history.redo()) == 3


def test_a_new_step_ends_what_could_be_brought_back() -> None:
    history = UndoHistory(snapshot(1))
    history.record(snapshot(2), "stroke")
    history.undo()
    history.record(snapshot(3), "stroke")
    assert not history.can_redo
    assert value(history.undo()) == 1


def test_steps_of_one_kind_merge() -> None:
    history = UndoHistory(snapshot(1))
    for number in (2, 3, 4):
        history.record(snapshot(number), "threshold", merge=True)
    assert value(history.current) == 4
    assert value(history.undo()) == 1
    assert value(history.redo()) == 4


@pytest.mark.parametrize("between", ["stroke", "undo and redo"])
def test_something_in_between_begins_a_new_step(between: str) -> None:
    history = UndoHistory(snapshot(1))
    history.record(snapshot(2), "threshold", merge=True)
    if between == "stroke":
        history.record(snapshot(3), "stroke")
    else:
        history.undo()
        history.redo()
    before = value(history.current)
    history.record(snapshot(5), "threshold", merge=True)
    assert value(history.undo()) == before


def test_amending_is_no_step() -> None:
    history = UndoHistory(snapshot(1))
    history.amend(snapshot(4))
    assert value(history.current) == 4
    assert not history.depth


def test_everything_of_a_snapshot_comes_back() -> None:
    prediction = Prediction(np.zeros((1, 12, 15), np.float32), (12, 15))
    first = snapshot(4, prediction=prediction)
    history = UndoHistory(first)
    history.record(snapshot(5), "click")
    back = history.undo()
    assert back.prediction is prediction
    assert back.config == first.config
    np.testing.assert_array_equal(back.manual_mask, first.manual_mask)


def test_the_oldest_steps_go_when_memory_is_short() -> None:
    predictions = [Prediction(np.zeros((1, 50, 50), np.float32), (50, 50)) for _ in range(10)]
    history = UndoHistory(snapshot(1, prediction=predictions[0]), budget=4 * predictions[0].nbytes)
    for number, prediction in enumerate(predictions[1:], start=2):
        history.record(snapshot(number, prediction=prediction), "click")
    assert history.nbytes <= history.budget
    assert value(history.current) == 10
    steps = 0
    while history.depth:
        history.undo()
        steps += 1
    assert 1 <= steps <= 3


def test_shared_predictions_are_counted_once() -> None:
    prediction = Prediction(np.zeros((1, 50, 50), np.float32), (50, 50))
    history = UndoHistory(snapshot(1, prediction=prediction))
    for number in range(2, 8):
        history.record(snapshot(number, prediction=prediction), "threshold")
    assert history.nbytes < 2 * prediction.nbytes


def test_one_step_can_always_be_taken_back() -> None:
    history = UndoHistory(snapshot(1), budget=0)
    history.record(snapshot(2), "stroke")
    history.record(snapshot(3), "stroke")
    assert value(history.undo()) == 2
