from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_lesionseg.plugin.editor.prediction_cache import Answer
from napari_lesionseg.plugin.editor.undo_history import History, PackedMask, Snapshot


def snapshot(value: int, shape=(12, 15), answer: Answer | None = None) -> Snapshot:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[2 : 2 + value, 3:9] = 1
    return Snapshot(mask, mask > 5, answers=(answer,))


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
def test_masks_come_back_as_they_were(mask):
    packed = PackedMask.of(mask)
    restored = packed.unpack()
    np.testing.assert_array_equal(restored, mask)
    assert restored.dtype == mask.dtype
    assert restored.flags.writeable


def test_a_lesion_of_24_megapixels_takes_few_bytes():
    rows, cols = np.ogrid[:4000, :6000]
    lesion = ((rows - 2000) ** 2 + (cols - 3000) ** 2 < 1200**2).astype(np.uint8)
    assert PackedMask.of(lesion).nbytes < 30_000


def test_an_empty_mask_takes_next_to_nothing():
    assert PackedMask.of(np.zeros((4000, 6000), dtype=bool)).nbytes < 100


def test_steps_are_taken_back_and_brought_back():
    history = History(snapshot(1))
    history.record(snapshot(2), "stroke")
    history.record(snapshot(3), "click")
    assert value(history.undo()) == 2
    assert value(history.undo()) == 1
    assert not history.can_undo
    assert value(history.undo()) == 1
    assert value(history.redo()) == 2
    assert value(history.redo()) == 3
    assert not history.can_redo
    assert value(history.redo()) == 3


def test_a_new_step_ends_what_could_be_brought_back():
    history = History(snapshot(1))
    history.record(snapshot(2), "stroke")
    history.undo()
    history.record(snapshot(3), "stroke")
    assert not history.can_redo
    assert value(history.undo()) == 1


def test_steps_of_one_kind_merge():
    history = History(snapshot(1))
    for number in (2, 3, 4):
        history.record(snapshot(number), "threshold", merge=True)
    assert value(history.current) == 4
    assert value(history.undo()) == 1
    assert value(history.redo()) == 4


@pytest.mark.parametrize("between", ["stroke", "undo and redo"])
def test_something_in_between_begins_a_new_step(between):
    history = History(snapshot(1))
    history.record(snapshot(2), "threshold", merge=True)
    if between == "stroke":
        history.record(snapshot(3), "stroke")
    else:
        history.undo()
        history.redo()
    before = value(history.current)
    history.record(snapshot(5), "threshold", merge=True)
    assert value(history.undo()) == before


def test_amending_is_no_step():
    history = History(snapshot(1))
    history.amend(snapshot(4))
    assert value(history.current) == 4
    assert not history.can_undo


def test_everything_of_a_snapshot_comes_back():
    answer = Answer.of(np.full((12, 15), 0.5, dtype=np.float32))
    first = snapshot(4, answer=answer)
    history = History(first)
    history.record(snapshot(5), "click")
    back = history.undo()
    assert back.answer is answer
    assert back.config == first.config
    np.testing.assert_array_equal(back.hand, first.hand)


def test_the_oldest_steps_go_when_memory_is_short():
    answers = [Answer(np.zeros((50, 50), dtype=np.float32), 0, 0, (50, 50)) for _ in range(10)]
    history = History(snapshot(1, answer=answers[0]), budget=4 * answers[0].nbytes)
    for number, answer in enumerate(answers[1:], start=2):
        history.record(snapshot(number, answer=answer), "click")
    assert history.nbytes <= history.budget
    assert value(history.current) == 10
    steps = 0
    while history.can_undo:
        history.undo()
        steps += 1
    assert 1 <= steps <= 3


def test_shared_answers_are_counted_once():
    answer = Answer(np.zeros((50, 50), dtype=np.float32), 0, 0, (50, 50))
    history = History(snapshot(1, answer=answer))
    for number in range(2, 8):
        history.record(snapshot(number, answer=answer), "threshold")
    assert history.nbytes < 2 * answer.nbytes


def test_one_step_can_always_be_taken_back():
    history = History(snapshot(1), budget=0)
    history.record(snapshot(2), "stroke")
    history.record(snapshot(3), "stroke")
    assert value(history.undo()) == 2
