"""Choice and description of the device that computes, and networks on it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NamedTuple

import torch
from torch import Tensor

from napari_lesionseg.errors import DeviceError
from napari_lesionseg.models.base import SegmentationNetwork

DEVICES = ("auto", "cpu", "cuda", "mps")


def available_devices() -> tuple[str, ...]:
    """Names that `choose_device` takes on this machine."""
    found = ["auto", "cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found)


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return a device by name; "auto" takes CUDA, then Apple's MPS, then the CPU; "cuda:1" the second GPU."""
    if isinstance(name, torch.device):
        return name
    kind, _, number = str(name).partition(":")
    if kind not in DEVICES or (number and not (kind == "cuda" and number.isdecimal())):
        raise DeviceError(f"There is no device '{name}'; choose one of {', '.join(DEVICES)}.")
    present = available_devices()
    if kind == "auto":
        return torch.device(next((device for device in ("cuda", "mps") if device in present), "cpu"))
    if kind not in present or (number and int(number) >= torch.cuda.device_count()):
        raise DeviceError(
            f"This machine has no device '{name}' that torch can use; choose one of {', '.join(present)}."
        )
    return torch.device(name)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def describe_device(device: torch.device) -> str:
    """Describe a device in words, such as "CPU, 2 threads"."""
    if device.type == "cuda":
        return f"GPU, {torch.cuda.get_device_name(device)}"
    if device.type == "mps":
        return "GPU, Apple"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is faster than float32 on ``device``."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # PyTorch before 2.10
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def autocast(device: torch.device, precision: str = "auto") -> contextlib.AbstractContextManager[None]:
    """Return the context of mixed precision; "auto" takes bfloat16 where the device is fast at it."""
    wanted = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()


def empty_cache() -> None:
    """Return the memory that torch keeps for reuse to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory: some devices raise an error class for it, others only a message."""
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in words)


class DeviceModel(NamedTuple):
    """A network prepared for inference on a device; never changed, so that threads can share it."""

    network: SegmentationNetwork
    device: torch.device
    precision: str
    answers_prompts: bool = False  # the network is the part of a model for boxes, lassos and strokes

    def for_image(self, planes: Tensor) -> DeviceModel:
        """Return the model for an image (1, 3, h, w): one of its experts, if the network has several."""
        return self._replace(network=self.network.network_for(self._place(planes)))

    def for_prompts(self) -> DeviceModel | None:
        """Return the part of the model that answers to boxes, lassos and strokes, if it has one."""
        prompted = self.network.for_prompts()
        return None if prompted is None else self._replace(network=prompted, answers_prompts=True)

    def encode(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, 3, h, w) in float32."""
        # Rounding errors of the encoder grow on their way through the decoder: with the decoder alone in
        # bfloat16 logits differ four times less from float32 than with both. It costs little time, for the
        # encoder's thin filters wait for memory, not for arithmetic.
        return self.network.encode(self._place(planes))

    def decode(self, features: tuple[Tensor, ...], guidance: Tensor | None) -> Tensor:
        """Decode features, with guidance (B, 3, h, w), into logits (B, C, h, w) in float32."""
        placed = None if guidance is None else self._place(guidance)
        with autocast(self.device, self.precision):
            return self.network.decode(features, placed).float()

    def _place(self, planes: Tensor) -> Tensor:
        return planes.to(self.device).contiguous(memory_format=torch.channels_last)
