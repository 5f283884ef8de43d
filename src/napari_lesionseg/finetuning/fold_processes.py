"""Train the folds' models in processes of their own, so that a fine-tuning uses more than one core.

One thread each: two threads in one process wait for each other at every layer, and fall to a tenth of their
speed as soon as another program needs one of their cores.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_lesionseg.finetuning.fold import FoldJob, FoldLostError, FoldModels
from napari_lesionseg.inference.device import available_cores
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint
from napari_lesionseg.training.resources import BACKGROUND_NICENESS, blocked_interrupts, reuse_memory

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
KILL_SECONDS = 5.0


class FoldProcesses:
    """Processes of this computer that train the models of the folds."""

    def __init__(self, *, background: bool = False) -> None:
        self._background = background
        self._processes: list[_FoldProcess] = []

    def begin(self, model: Model, folds: int) -> bool:
        """Start the processes, which takes seconds; False with one core, one fold, or on a GPU."""
        cores = available_cores()
        # Where a process cannot be put into the background, one core is left to the window.
        if self._background and not hasattr(os, "nice"):
            cores -= 1
        if model.device.type != "cpu" or min(cores, folds) < 2:
            return False
        # One more than cores, for three folds on two cores would otherwise leave one idle every other time.
        count = min(folds, cores + 1)
        payload = checkpoint_bytes(model.network, model.card, half=False)
        threads = max(1, cores // count)
        try:
            for _ in range(count):
                self._processes.append(_FoldProcess(payload, model.precision, threads, self._background))
        except OSError as error:  # too many processes, or too little memory
            logger.warning("The folds are trained one after the other: %s", error)
            self.close()
        return bool(self._processes)

    def wait(self) -> bool:
        """Wait a moment; whether all processes are ready, or gone."""
        deadline = time.monotonic() + POLL_SECONDS
        return all(process.is_ready(deadline) for process in self._processes)

    def open(self, job: FoldJob) -> _RemoteFold:
        """Make the model of a fold in its process."""
        process = self._processes[job.index % len(self._processes)]
        process.send(job.index, "open", (job,))
        return _RemoteFold(process, job.index)

    def close(self) -> None:
        """End all processes at once."""
        for process in self._processes:
            process.kill()
        self._processes = []


class _RemoteFold:
    """A fold's model in another process."""

    def __init__(self, process: _FoldProcess, index: int) -> None:
        self._process, self._index = process, index

    def call(self, method: str, *arguments: Any) -> Callable[[], Any]:
        """Begin a method of the `FoldModel`; return a function that waits for its result."""
        self._process.send(self._index, method, arguments)
        return self._process.receive


class _FoldProcess:
    """A process, and the pipe to it; it answers in the order in which it was asked, but not to "open"."""

    def __init__(self, *settings: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *settings), daemon=True)
        with blocked_interrupts():
            self._process.start()
        theirs.close()
        self._ready = False

    def is_ready(self, deadline: float) -> bool:
        """Whether it has begun to listen, or is gone; waits until the deadline."""
        if not self._ready and self._pipe.poll(max(0.0, deadline - time.monotonic())):
            self._ready = True
            with contextlib.suppress(FoldLostError):
                self.receive()
        return self._ready

    def send(self, index: int, method: str, arguments: tuple[Any, ...]) -> None:
        """Begin a method; where the process is gone, `receive` reports it."""
        with contextlib.suppress(OSError):
            self._pipe.send((index, method, tuple(map(_to_arrays, arguments))))

    def receive(self) -> Any:
        """Wait for the next result."""
        try:
            result, error = self._pipe.recv()
        except (EOFError, OSError) as gone:
            raise FoldLostError from gone
        if error is not None:
            raise error
        return _to_tensors(result)

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join(KILL_SECONDS)
        self._pipe.close()


def _serve(pipe: Connection, payload: bytes, precision: str, threads: int, background: bool) -> None:
    """Train folds as asked until the pipe is closed; runs in the process."""
    # Where it could not be blocked; the process that asked ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if background and hasattr(os, "nice"):
        os.nice(BACKGROUND_NICENESS)
    torch.set_num_threads(threads)
    reuse_memory()
    folds = FoldModels(_unpack(payload, precision))
    # Short of memory, this process ends: the other one goes on in its own.
    with contextlib.suppress(EOFError, OSError, MemoryError, RuntimeError):
        pipe.send((None, None))
        while True:
            index, method, arguments = pipe.recv()
            if method == "open":
                folds.open(*arguments)
            else:
                result, error = folds.run(index, method, tuple(map(_to_tensors, arguments)))
                pipe.send((_to_arrays(result), error))


def _unpack(payload: bytes, precision: str) -> Model:
    with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(payload)
        return Model(*load_checkpoint(path), "cpu", precision=precision)


def _to_arrays(value: Any) -> Any:
    """Convert a dictionary of tensors: torch would share them as files, of which there may be too few."""
    if isinstance(value, dict) and all(isinstance(item, Tensor) for item in value.values()):
        return {name: tensor.numpy() for name, tensor in value.items()}
    return value


def _to_tensors(value: Any) -> Any:
    """Convert back what `_to_arrays` made."""
    if isinstance(value, dict) and all(isinstance(item, np.ndarray) for item in value.values()):
        return {name: torch.from_numpy(array) for name, array in value.items()}
    return value
