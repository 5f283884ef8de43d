from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.config import AugmentConfig
from napari_lesionseg.errors import ImageError, MaskError
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.training.dataset import BatchSource, CachedPair, prefetch, read_pair, shrink_pair
from napari_lesionseg.types import Pair

OFF = AugmentConfig(scale=(1, 1), aspect=0, shift=0, color=0, artifacts=0, blur=0)


def plain_pairs(count: int) -> list[CachedPair]:
    """Images of one gray each, by which they can be distinguished."""
    return [
        CachedPair(f"p{n}", np.full((20, 24, 3), 10 * n + 5, np.uint8), np.full((20, 24), n % 2, np.uint8))
        for n in range(count)
    ]


def drawn(source: BatchSource, steps: range) -> list[int]:
    """Which images the steps hold, in order."""
    return [int(image[0, 8, 8]) // 10 for step in steps for image in source.batch(step, 16).images]


def test_a_batch() -> None:
    batch = BatchSource(plain_pairs(5), AugmentConfig(), 4, seed=1).batch(0, 32)
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, 32, 32), torch.uint8)
    assert (batch.labels.shape, batch.labels.dtype) == ((4, 32, 32), torch.uint8)


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    pairs = plain_pairs(7)
    config = AugmentConfig(artifacts=1, blur=1)
    source, again = (BatchSource(pairs, config, 4, seed=3) for _ in range(2))
    for step in (0, 5, 2):
        one, same = source.batch(step, 24), again.batch(step, 24)
        assert torch.equal(one.images, same.images)
        assert torch.equal(one.labels, same.labels)
    assert not torch.equal(source.batch(0, 24).images, source.batch(1, 24).images)
    assert not torch.equal(
        BatchSource(pairs, config, 4, seed=4).batch(0, 24).images, source.batch(0, 24).images
    )


@pytest.mark.parametrize(("count", "size", "steps"), [(8, 4, 2), (9, 4, 3), (3, 4, 1), (1, 4, 1)])
def test_steps_of_a_pass(count: int, size: int, steps: int) -> None:
    assert BatchSource(plain_pairs(count), OFF, size, seed=0).steps_per_pass == steps


def test_every_image_is_drawn_once_in_each_pass_in_another_order() -> None:
    source = BatchSource(plain_pairs(10), OFF, 5, seed=0)
    first, second = drawn(source, range(2)), drawn(source, range(2, 4))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_few_images_come_again_within_a_batch() -> None:
    assert sorted(drawn(BatchSource(plain_pairs(3), OFF, 6, seed=0), range(1))) == [0, 0, 1, 1, 2, 2]


def test_made_ahead_they_are_the_same() -> None:
    source = BatchSource(plain_pairs(6), AugmentConfig(), 4, seed=0)
    sizes = {step: 16 if step < 4 else 32 for step in range(7)}
    ahead = list(source.prefetch(2, 7, sizes.__getitem__))
    assert [batch.images.shape[-1] for batch in ahead] == [16, 16, 32, 32, 32]
    for step, batch in zip(range(2, 7), ahead, strict=True):
        assert torch.equal(batch.images, source.batch(step, sizes[step]).images)
    assert list(source.prefetch(3, 3, sizes.__getitem__)) == []


def test_errors_while_making_ahead_come_through() -> None:
    def make(step: int, size: int) -> int:
        if step == 2:
            raise ImageError("lost")
        return step

    made = prefetch(make, 0, 5, lambda step: 8)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ImageError, match="lost"):
        next(made)


def test_stopping_early_ends_the_thread() -> None:
    before = set(threading.enumerate())  # other tests may have left batches to the garbage collector
    made = prefetch(lambda step, size: step, 0, 1000, lambda step: 8)
    assert next(made) == 0
    made.close()
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [
        ((400, 600), 300, (200, 300)),
        ((600, 400), 300, (300, 200)),
        ((50, 60), 300, (50, 60)),
        ((1, 900), 90, (1, 90)),
    ],
)
def test_images_are_shrunk_and_never_enlarged(
    shape: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    pair = shrink_pair("p", np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), side)
    assert pair.image.shape == (*expected, 3)
    assert pair.labels.shape == expected


def test_pairs_from_disk(tmp_path: Path) -> None:
    pair = Pair("æ ø", tmp_path / "æ ø.png", tmp_path / "æ ø_mask.png")
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 15:45] = 1
    write_image(pair.image, np.full((40, 60, 3), 99, np.uint8))
    write_mask(pair.mask, labels)
    cached = read_pair(pair, 30)
    assert cached.stem == "æ ø"
    assert cached.image.shape == (20, 30, 3)
    assert cached.labels.mean() == pytest.approx(0.25)
    write_mask(pair.mask, np.zeros((40, 61), np.uint8))
    with pytest.raises(MaskError, match="61 x 40"):
        read_pair(pair, 30)
    pair.image.write_bytes(b"no image")
    with pytest.raises(ImageError):
        read_pair(pair, 30)
