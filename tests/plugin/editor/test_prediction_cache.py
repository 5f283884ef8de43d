from __future__ import annotations

import numpy as np
import pytest

from napari_lesionseg.plugin.editor.prediction_cache import LOWEST_THRESHOLD, Answer, AnswerStore


def bump(shape=(40, 60)) -> np.ndarray:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((rows - 12) ** 2 + (cols - 40) ** 2) / 60).astype(np.float32)


@pytest.mark.parametrize("threshold", [LOWEST_THRESHOLD, 0.1, 0.5, 0.97])
def test_masks_at_any_threshold_are_the_same(threshold):
    probability = bump()
    kept = Answer.of(probability).probability()
    assert kept.shape == probability.shape
    np.testing.assert_array_equal(kept >= threshold, probability >= threshold)


def test_only_what_matters_is_kept():
    answer = Answer.of(bump((400, 600)))
    assert answer.nbytes < 40 * 40 * 4


def test_classes_keep_their_background():
    lesion = bump()
    probability = np.stack([1 - lesion, lesion * 0.7, lesion * 0.3]).astype(np.float32)
    kept = Answer.of(probability).probability()
    np.testing.assert_array_equal(kept.argmax(axis=0), probability.argmax(axis=0))
    assert kept[0, -1, 0] == 1


def test_an_answer_shares_no_memory():
    probability = bump()
    answer = Answer.of(probability)
    expected = answer.probability()
    probability[:] = 0
    np.testing.assert_array_equal(answer.probability(), expected)


def test_an_answer_without_lesion_is_all_background():
    answer = Answer.of(np.zeros((40, 60), dtype=np.float32))
    assert answer.nbytes == 0
    assert not answer.probability().any()


def test_the_images_used_last_stay():
    one = {(): Answer.of(bump())}
    store = AnswerStore(budget=2 * one[()].nbytes)
    for name in ("a", "b"):
        store.put(name, one)
    store.get("a")
    store.put("c", one)
    assert store.get("a")
    assert not store.get("b")
    assert store.get("c")
    assert store.nbytes <= store.budget


def test_a_dropped_image_takes_no_memory():
    store = AnswerStore()
    store.put("a", {(): Answer.of(bump())})
    store.drop("a")
    store.drop("never there")
    assert store.nbytes == 0
    assert not store.get("a")
