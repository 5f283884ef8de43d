from __future__ import annotations

import pytest
import torch

from napari_lesionseg.errors import DeviceError
from napari_lesionseg.inference import device as module
from napari_lesionseg.inference.device import (
    autocast,
    available_devices,
    choose_device,
    describe_device,
    has_fast_bfloat16,
    is_out_of_memory,
)


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if cuda else 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "cuda")],
)
def test_auto_takes_the_quickest(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto").type == chosen
    assert choose_device().type == chosen
    assert available_devices() == ("auto", "cpu", *["cuda"] * cuda, *["mps"] * mps)


def test_every_available_device_can_be_chosen() -> None:
    for name in available_devices():
        assert choose_device(name) == choose_device(choose_device(name))


@pytest.mark.parametrize(
    "name", ["gpu", "", "CPU", "tpu", "cpu:0", "auto:1", "cuda:", "cuda:-1", "cuda:x", "meta"]
)
def test_unknown_devices(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch)
    with pytest.raises(DeviceError, match="choose one of"):
        choose_device(name)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(DeviceError, match="choose one of auto, cpu"):
            choose_device(name)
    pretend(monkeypatch, cuda=True)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match="cuda:2"):
        choose_device("cuda:2")


def test_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_device(torch.device("cpu")) == "CPU, 1 thread"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert describe_device(torch.device("cpu")) == "CPU, 4 threads"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla")
    assert describe_device(torch.device("cuda")) == "GPU, Tesla"
    assert describe_device(torch.device("mps")) == "GPU, Apple"


def test_an_older_pytorch_does_not_know_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_fast_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize(
    ("found", "fast"),
    [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx512_bf16": False}, True)],
)
def test_processors_with_bfloat16(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    cpu = torch.device("cpu")
    assert has_fast_bfloat16(cpu) is fast
    assert not has_fast_bfloat16(torch.device("mps"))
    a = torch.rand(2, 2)
    for precision, rounded in (("auto", fast), ("bfloat16", True), ("float32", False)):
        with autocast(cpu, precision):
            assert (a @ a).dtype == (torch.bfloat16 if rounded else torch.float32)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_out_of_memory_in_all_its_words(error: RuntimeError, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


def test_the_processor_of_this_machine_is_described() -> None:
    assert module.describe_device(torch.device("cpu")).startswith("CPU, ")
