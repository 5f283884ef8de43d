"""Predict several images at once: on a GPU they take little longer than one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_lesionseg.errors import DeviceError
from napari_lesionseg.inference.device import DeviceModel, describe_device, is_out_of_memory
from napari_lesionseg.inference.predictor import TOO_LITTLE_MEMORY, Model, average_quarter_turns

LARGEST_BATCH = 32
BYTES_PER_PIXEL = 4096
"""Memory that a network needs for each pixel it sees; the shipped one needs less than half of it."""
USABLE = 0.5  # share of the free memory: other programs use the GPU as well


def default_batch_size(model: Model) -> int:
    """Return how many images to predict at once: what fits into the memory of an NVIDIA GPU; 1 elsewhere."""
    # On the CPU, batches bring nothing: `benchmarks/scale.py`.
    if model.device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(model.device)
    fitting = int(USABLE * free / (BYTES_PER_PIXEL * model.card.working_size**2))
    return max(1, min(LARGEST_BATCH, 1 << max(0, fitting.bit_length() - 1)))


class BatchPredictor:
    """Predicts images of one working shape at once, without prompts.

    If a GPU runs out of memory, batches are halved from then on; an image for which even that is too much is
    predicted on the CPU.
    """

    def __init__(self, model: Model, size: int) -> None:
        self._model, self.size = model, size
        self._on_cpu: DeviceModel | None = None

    def expert_of(self, planes: Tensor) -> DeviceModel:
        """Return the part of the model for an image (1, 3, h, w), which all images of a batch share."""
        try:
            return self._model.device_model.for_image(planes)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return self._cpu().for_image(planes)

    def predict(self, expert: DeviceModel, planes: Tensor) -> tuple[NDArray[np.float32], list[str]]:
        """Return the logits (B, C, h, w) of images (B, 3, h, w), and for each what went wrong, or nothing."""
        parts, messages = [], []
        while len(planes):
            part, message = planes[: self.size], ""
            logits = self._attempt(expert, part)
            if logits is None and self.size > 1:
                self.size = max(1, len(part) // 2)
                continue
            if logits is None and expert.device.type != "cpu":
                device = describe_device(expert.device)
                message = f"{device} ran out of memory; this image was outlined on the CPU."
                logits = self._attempt(self._cpu().for_image(part), part)
            if logits is None:
                raise DeviceError(TOO_LITTLE_MEMORY)
            parts.append(logits)
            messages += [message] * len(part)
            planes = planes[len(part) :]
        return np.concatenate(parts), messages

    @torch.inference_mode()
    def _attempt(self, expert: DeviceModel, planes: Tensor) -> NDArray[np.float32] | None:
        """Return the logits of a batch; None if the memory is not enough."""
        card = self._model.card
        try:
            logits = expert.decode(expert.encode(planes), None) / card.temperature
            if card.test_time_augmentation:
                logits = average_quarter_turns(expert, planes, logits, card.temperature)
            return np.asarray(logits.cpu().contiguous().numpy())
        except MemoryError:
            return None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if expert.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _cpu(self) -> DeviceModel:
        if self._on_cpu is None:
            self._on_cpu = self._model.prepare(torch.device("cpu"))
        return self._on_cpu
