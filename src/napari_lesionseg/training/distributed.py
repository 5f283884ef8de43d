"""Training on several processes started by torchrun: each takes its part of every batch.

A run of K processes learns what one process with the same batches learns: gradients, losses and the
statistics of batch normalization are those of the whole batch. The first process alone decides and writes.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from napari_lesionseg.errors import LesionSegError, TrainingError
from napari_lesionseg.inference.device import choose_device
from napari_lesionseg.io.atomic import write_atomically

PATIENCE = timedelta(hours=2)  # one process may read slower disks, or measure while the others wait
LOST = "Another process of the training stopped or cannot be reached. Start all again with --resume."
STOPPED = "The training was stopped, perhaps because another process of it died. Continue it with --resume."


class Ranks(Protocol):
    """The processes of a training, and what they tell each other."""

    index: int
    """Number of this process; the first, 0, decides and writes."""
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this process decides and writes."""
        ...

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, without gradients."""
        ...

    def decided(self, value: float) -> float:
        """Return the value of the first process."""
        ...

    def collect(self, parts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the arrays of all processes, each of which fills its own rows."""
        ...

    def share(self, data: bytes) -> bytes:
        """Return the bytes of the first process."""
        ...

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module that averages its gradients over all processes."""
        ...


class OneRank:
    """Training in this process alone."""

    index, count, is_first = 0, 1, True

    def total(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def decided(self, value: float) -> float:
        """Return the value."""
        return value

    def collect(self, parts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the array."""
        return parts

    def share(self, data: bytes) -> bytes:
        """Return the bytes."""
        return data

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module."""
        return module


ONE_RANK = OneRank()


class ProcessGroup:
    """The processes that torchrun started."""

    def __init__(self, device: torch.device) -> None:
        self.index, self.count, self._device = dist.get_rank(), dist.get_world_size(), device

    @property
    def is_first(self) -> bool:
        """Whether this process decides and writes."""
        return self.index == 0

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, without gradients."""
        return _all_reduced(value.to(self._device, torch.float32)).to(value.device)

    def decided(self, value: float) -> float:
        """Return the value of the first process."""
        shared = torch.tensor([value], dtype=torch.float64, device=self._device)
        dist.broadcast(shared, 0)
        return float(shared)

    def collect(self, parts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of the arrays of all processes."""
        return _all_reduced(torch.from_numpy(parts).to(self._device)).cpu().numpy()

    def share(self, data: bytes) -> bytes:
        """Return the bytes of the first process."""
        size = int(self.decided(len(data)))
        if not size:
            return b""
        shared = torch.zeros(size, dtype=torch.uint8, device=self._device)
        if self.is_first:
            shared.copy_(torch.from_numpy(np.frombuffer(data, np.uint8).copy()))
        dist.broadcast(shared, 0)
        return shared.cpu().numpy().tobytes()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module that averages its gradients, and normalizes batches as a whole."""
        for part in module.modules():
            if type(part) is nn.BatchNorm2d:
                # In place, unlike SyncBatchNorm.convert_sync_batchnorm, which also refuses to run on the CPU:
                # the optimizer and the lists of frozen parts hold these very modules.
                part.__class__ = SyncedBatchNorm
        return DistributedDataParallel(module)


def _all_reduced(value: Tensor) -> Tensor:
    summed = value.detach().clone()
    dist.all_reduce(summed)
    return summed


class _SumOverRanks(torch.autograd.Function):
    """The sum over all processes, whose gradient is that sum of the gradients."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return _all_reduced(value)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _all_reduced(*gradients)


def _sum_over_ranks(value: Tensor) -> Tensor:
    summed: Tensor = _SumOverRanks.apply(value)  # type: ignore[no-untyped-call]
    return summed


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch normalization with the statistics of the images of all processes."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """Normalize features (B, C, H, W)."""
        if not self.training:
            return super().forward(input)
        features = input.float()
        count = torch.full((1,), features.numel() / features.shape[1], device=features.device)
        sums = _sum_over_ranks(torch.cat([features.sum((0, 2, 3)), count]))
        whole = sums[-1].detach()
        mean = sums[:-1] / whole
        # In two passes: the difference of two large sums would lose the precision of small variances.
        centered = features - mean.view(1, -1, 1, 1)
        variance = _sum_over_ranks(centered.square().sum((0, 2, 3))) / whole
        self._update(mean.detach(), variance.detach() * (whole / (whole - 1)))
        normalized = centered * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        if self.affine:
            normalized = normalized * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        result: Tensor = normalized.to(input.dtype)
        return result

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum or 1 / int(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


@dataclass(frozen=True, slots=True)
class Joined:
    """The processes of a training, and the device of this one."""

    ranks: Ranks
    device: str | torch.device


def is_launched() -> bool:
    """Whether torchrun started this process together with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def join_ranks(device: str) -> Iterator[Joined]:
    """Join the other processes that torchrun started; without torchrun, there is one.

    An error in any of them ends all, and one of them reports it: the first that has one.
    """
    if not is_launched():
        yield Joined(ONE_RANK, device)
        return
    store = None
    try:
        chosen = _device_of_rank(device)
        # torchrun holds the store, so it outlives the processes, which agree there on who reports an error.
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(
            backend,
            store=store,
            rank=rank,
            world_size=count,
            timeout=PATIENCE,
            device_id=chosen if backend == "nccl" else None,
        )
        yield Joined(ProcessGroup(chosen), chosen)
        dist.barrier()
        dist.destroy_process_group()  # only here: after an error it would wait for those that are gone
    except LesionSegError as error:
        raise _report_once(store, str(error)) from error
    except KeyboardInterrupt as stop:
        if stop.args != (signal.SIGTERM,):
            raise _report_once(store, "Stopped.") from stop
        raise _report_once(store, STOPPED) from stop
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise _report_once(store, LOST) from error


def _device_of_rank(name: str) -> torch.device:
    """Return the device of this process: on a computer with several GPUs, each takes its own."""
    device, place = choose_device(name), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "mps":
        raise TrainingError("Several processes cannot share Apple's GPU; add --device cpu.")
    if device.type == "cuda":
        if place >= torch.cuda.device_count():
            raise TrainingError(
                f"This computer has {torch.cuda.device_count()} GPUs; start at most as many processes on it."
            )
        torch.cuda.set_device(place)
        return torch.device("cuda", place)
    return device


def _report_once(store: Store | None, message: str) -> BaseException:
    """Return the error to raise: the message in one process, a silent exit in all others."""
    try:
        first = store is None or store.add("reported", 1) == 1
    except RuntimeError:  # the store is gone with the machine that held it
        first = True
    if not first:
        return SystemExit(2)
    _tell_torchrun(message)
    return TrainingError(message)


def _tell_torchrun(message: str) -> None:
    """Let torchrun's own report, which comes last, say what is wrong: it reads that from a file."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        about = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            report = {"message": {"message": message, "extraInfo": about}}
            write_atomically(Path(path), json.dumps(report).encode())


def _is_lost(error: RuntimeError) -> bool:
    """Whether the connection to another process broke; gloo raises no class of its own."""
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)
