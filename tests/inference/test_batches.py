"""Images in batches are predicted as they are alone, and a GPU that is short of memory gets smaller ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_lesionseg.errors import DeviceError, ImageError, LesionSegError
from napari_lesionseg.inference import batches
from napari_lesionseg.inference.batches import BatchPredictor, ImageWork, default_batch_size, predict_images
from napari_lesionseg.inference.device import DeviceModel
from napari_lesionseg.inference.predictor import Model


class Crowded(DeviceModel):
    """A GPU, of which the CPU plays the part, with memory for a few images."""

    fitting = 2
    attempts: list[int] = []  # noqa: RUF012  shared, as a named tuple has no other attributes

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")

    def encode(self, planes: Tensor) -> tuple[Tensor, ...]:
        self.attempts.append(len(planes))
        if len(planes) > self.fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network.encode(planes)

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None) -> Tensor:
        return self.network.decode(features, guidance)

    def _place(self, planes: Tensor) -> Tensor:
        return planes


@pytest.fixture
def crowded(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    tiny_model.device_model = Crowded(*tiny_model.device_model)
    monkeypatch.setattr(batches, "describe_device", lambda device: "GPU")
    monkeypatch.setattr(batches, "empty_cache", lambda: None)
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 0)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 0)
    monkeypatch.setattr(Crowded, "attempts", [])
    return tiny_model


@pytest.fixture
def planes(tiny_model: Model, rng: np.random.Generator) -> Tensor:
    images = rng.integers(0, 256, (7, 40, 48, 3)).astype(np.uint8)
    return torch.cat([tiny_model.network_input(image) for image in images])


def predict(model: Model, planes: Tensor, size: int) -> tuple[Any, list[str]]:
    predictor = BatchPredictor(model, size)
    return predictor.predict(predictor.expert_of(planes[:1]), planes)


@pytest.mark.parametrize("augment", [False, True])
def test_batches_change_nothing(new_model: Any, planes: Tensor, augment: bool) -> None:
    model = new_model()
    model = Model(model.network, model.card.model_copy(update={"test_time_augmentation": augment}), "cpu")
    alone, _ = predict(model, planes, 1)
    together, messages = predict(model, planes, 4)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert messages == [""] * 7


def test_batches_are_halved_until_they_fit(
    crowded: Model, new_model: Any, planes: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, messages = predict(crowded, planes, 7)
    assert Crowded.attempts == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(logits, predict(new_model(), planes, 1)[0], atol=1e-5)
    assert messages == [""] * 7
    monkeypatch.setattr(Crowded, "fitting", 3)
    Crowded.attempts.clear()
    predict(crowded, planes, 7)
    assert Crowded.attempts == [7, 3, 3, 1]


def test_an_image_that_does_not_fit_is_predicted_on_the_cpu(
    crowded: Model, new_model: Any, planes: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crowded, "fitting", 0)
    logits, messages = predict(crowded, planes[:2], 2)
    np.testing.assert_allclose(logits, predict(new_model(), planes[:2], 1)[0], atol=1e-5)
    assert messages == ["GPU ran out of memory; this image was outlined on the CPU."] * 2


def test_too_little_memory_of_the_computer_is_one_sentence(
    tiny_model: Model, planes: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(DeviceModel, "encode", fail)
    with pytest.raises(DeviceError, match="too little free memory"):
        predict(tiny_model, planes, 4)


@pytest.mark.parametrize(("free", "size"), [(0, 1), (1 << 30, 32), (24 << 20, 2)])
def test_the_batch_fits_into_the_memory_of_the_gpu(
    crowded: Model, free: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 1 << 34))
    assert default_batch_size(crowded) == size


def test_memory_that_torch_keeps_for_reuse_is_free_for_the_next_batch(
    crowded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 1 << 34))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 2 << 30)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 1 << 30)
    assert default_batch_size(crowded) == 32


def test_the_cpu_takes_one_image_at_a_time(tiny_model: Model) -> None:
    assert default_batch_size(tiny_model) == 1


def work_on(images: dict[int, Any], read: list[int]) -> ImageWork[int, int, Any]:
    """Work that reads numbered images, and returns the number with its probability or what is wrong."""

    def read_one(number: int) -> tuple[Any, int]:
        read.append(number)
        if images[number] is None:
            raise ImageError("no image")
        return images[number], number * 10

    def finish(number: int, kept: int, probability: Any, message: str) -> Any:
        if number == 4:
            raise OSError(28, "No space left on device")
        assert kept == number * 10
        return number, probability, message

    def failed(number: int, error: LesionSegError | OSError) -> Any:
        return number, str(error), ""

    return ImageWork(read_one, finish, failed)


@pytest.fixture
def numbered(rng: np.random.Generator) -> dict[int, Any]:
    """Images of three shapes, of which one is rare, and one that cannot be read."""
    sizes = {number: (40, 48) if number % 2 else (48, 40) for number in range(23)} | {1: (32, 90)}
    images = {number: rng.integers(0, 256, (*size, 3)).astype(np.uint8) for number, size in sizes.items()}
    return images | {7: None}


@pytest.mark.parametrize("size", [1, 2, 4, 64])
def test_many_images_come_in_order_as_they_would_alone(
    tiny_model: Model, numbered: dict[int, Any], size: int
) -> None:
    results = list(predict_images(tiny_model, numbered, work_on(numbered, []), size))
    assert [number for number, *_ in results] == list(numbered)
    for number, found, _ in results:
        if number in (4, 7):
            assert found == ("[Errno 28] No space left on device" if number == 4 else "no image")
        else:
            np.testing.assert_allclose(found, tiny_model.predict(numbered[number]), atol=1e-5)


def test_a_gpu_gets_images_of_one_shape_together(
    crowded: Model, numbered: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crowded, "fitting", 4)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (48 << 20, 1 << 34))
    assert default_batch_size(crowded) == 4
    results = list(predict_images(crowded, numbered, work_on(numbered, [])))
    assert [number for number, *_ in results] == list(numbered)
    assert sum(Crowded.attempts) == len(numbered) - 1  # each once, but the one that cannot be read
    assert len(Crowded.attempts) <= 9
    assert max(Crowded.attempts) == 4


@pytest.mark.parametrize("size", [1, 4])
def test_images_are_read_as_they_are_needed_and_no_more_after_a_stop(
    tiny_model: Model, numbered: dict[int, Any], size: int
) -> None:
    read: list[int] = []
    endless: Iterator[int] = itertools.cycle(numbered)
    results = predict_images(tiny_model, endless, work_on(numbered, read), size)
    assert next(results)[0] == 0
    assert len(read) <= 1 if size == 1 else len(read) <= 7 * size
    results.close()  # type: ignore[attr-defined]
    seen = len(read)
    assert next(endless) is not None
    assert len(read) == seen


def test_a_mistake_in_the_program_is_no_failed_image(tiny_model: Model, numbered: dict[int, Any]) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    work = work_on(numbered, [])
    for size in (1, 4):
        with pytest.raises(ZeroDivisionError):
            list(predict_images(tiny_model, numbered, ImageWork(work.read, broken, work.failed), size))
