"""Folds that are trained in processes of their own learn what they learn here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from tests.fakes import QUICK_FINE_TUNING

from napari_lesionseg.finetuning import fold_processes
from napari_lesionseg.finetuning.comparison import Candidate
from napari_lesionseg.finetuning.fold import LOST
from napari_lesionseg.finetuning.fold_processes import FoldProcesses
from napari_lesionseg.finetuning.session import Event, FineTuning
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.trainer import EpochResult, StepResult

CONFIG = QUICK_FINE_TUNING.model_copy(update={"epochs": 12, "folds": 3, "interpolations": (0.5, 1.0)})
pytestmark = pytest.mark.timeout(600)  # every process loads torch first


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_processes, "available_cores", lambda: 2)


@pytest.fixture
def workers() -> Iterator[FoldProcesses]:
    made = FoldProcesses()
    yield made
    made.close()


def children() -> list[psutil.Process]:
    started = [process for process in psutil.Process().children() if process.status() != psutil.STATUS_ZOMBIE]
    return [process for process in started if "spawn_main" in " ".join(process.cmdline())]


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepResult)]


def assert_same(one: Candidate, other: Candidate) -> None:
    mine, theirs = one.model.network.state_dict(), other.model.network.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert one.comparison is not None
    assert other.comparison is not None
    assert one.comparison.to_record() == other.comparison.to_record()
    assert (one.interpolation, one.reason) == (other.interpolation, other.reason)


@pytest.fixture
def here(tiny_model: Model, discs: list[CachedPair]) -> tuple[list[Event], Candidate]:
    tuning = FineTuning(tiny_model, discs, CONFIG)
    return list(tuning.steps()), tuning.candidate()


def test_processes_learn_the_same(
    tiny_model: Model, discs: list[CachedPair], here: tuple[list[Event], Candidate], workers: FoldProcesses
) -> None:
    tuning = FineTuning(tiny_model, discs, CONFIG, workers=workers)
    events, started = [], 0
    for event in tuning.steps():
        events.append(event)
        started = max(started, len(children()))
    assert started == 3
    assert losses(events) == losses(here[0])
    assert_same(tuning.candidate(), here[1])
    assert not children()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_says_nothing_in_processes_that_start(
    tiny_model: Model, workers: FoldProcesses, capfd: pytest.CaptureFixture[str]
) -> None:
    assert workers.begin(tiny_model, 2)
    for _ in range(20):
        for process in children():
            process.send_signal(signal.SIGINT)  # as a terminal does
        time.sleep(0.1)
    while not workers.wait():
        pass
    assert len(children()) == 2
    assert capfd.readouterr().err == ""


def test_a_killed_process_is_replaced_by_this_one_with_the_same_result(
    tiny_model: Model, discs: list[CachedPair], here: tuple[list[Event], Candidate], workers: FoldProcesses
) -> None:
    tuning = FineTuning(tiny_model, discs, CONFIG, workers=workers)
    events: list[Event] = []
    for event in tuning.steps():
        events.append(event)
        if len(losses(events)) == 8:
            for process in children()[:2]:
                process.kill()
    assert losses(events) == losses(here[0])
    assert_same(tuning.candidate(), here[1])
    assert tuning.problems == (LOST,)


def test_a_checkpoint_of_processes_is_continued_here(
    tiny_model: Model,
    discs: list[CachedPair],
    here: tuple[list[Event], Candidate],
    workers: FoldProcesses,
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.safetensors"
    tuning = FineTuning(tiny_model, discs, CONFIG, state_path=path, workers=workers)
    rounds = 0
    for event in tuning.steps():
        rounds += isinstance(event, EpochResult)
        if rounds == 2:
            break
    tuning.close()
    again = FineTuning(tiny_model, discs, CONFIG, state_path=path, resume=True)
    events = list(again.steps())
    assert losses(events) == losses(here[0])[-len(losses(events)) :]
    assert_same(again.candidate(), here[1])


def test_pause_leaves_them_idle_and_close_ends_them_within_a_step(
    tiny_model: Model, discs: list[CachedPair], workers: FoldProcesses
) -> None:
    config = CONFIG.model_copy(update={"epochs": 5000, "rounds": 1})
    tuning = FineTuning(tiny_model, discs, config, workers=workers)
    next(event for event in tuning.steps() if isinstance(event, StepResult))
    paused = children()
    assert len(paused) == 3
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        before = [process.cpu_times().user for process in paused]
        time.sleep(0.3)
        if [process.cpu_times().user for process in paused] == before:
            break
    else:
        pytest.fail("the processes work during a pause")
    tuning.close()
    assert not children()


def test_processes_end_when_this_one_is_killed(workers: FoldProcesses, tiny_model: Model) -> None:
    assert workers.begin(tiny_model, 2)
    while not workers.wait():
        pass
    (process, *_) = workers._processes
    number = process._process.pid
    assert number is not None
    process._pipe.close()  # as the system does when this process dies
    process._process.join(60)
    assert not psutil.pid_exists(number) or process._process.exitcode == 0


def test_one_core_or_one_fold_needs_no_processes(
    workers: FoldProcesses, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not workers.begin(tiny_model, 1)
    monkeypatch.setattr(fold_processes, "available_cores", lambda: 1)
    assert not workers.begin(tiny_model, 3)
    assert not children()


@pytest.mark.skipif(not hasattr(os, "nice"), reason="processes have no niceness")
def test_in_the_background_processes_have_a_low_priority(tiny_model: Model) -> None:
    workers, before = FoldProcesses(background=True), signal.getsignal(signal.SIGINT)
    try:
        assert workers.begin(tiny_model, 2)
        while not workers.wait():
            pass
        assert all(process.nice() > psutil.Process().nice() for process in children())
    finally:
        workers.close()
    assert signal.getsignal(signal.SIGINT) is before, "they also changed this process"
