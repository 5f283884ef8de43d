from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.compat import isalive
from qtpy.QtCore import QObject

from napari_lesionseg.errors import CancelledError, CheckpointError, DeviceError
from napari_lesionseg.plugin.tasks import Delay, Task, call_soon, explain_device_failure, run_task

Run = Callable[..., tuple[list[Any], list[Exception]]]


@pytest.fixture
def run(qtbot: QtBot) -> Run:
    """Run a function in a task; return its results and errors."""

    def run_and_wait(function: Callable[..., Any], *arguments: Any) -> tuple[list[Any], list[Exception]]:
        results: list[Any] = []
        errors: list[Exception] = []
        task = run_task("testing", function, *arguments, done=results.append, failed=errors.append)
        qtbot.waitUntil(lambda: bool(results or errors), timeout=10_000)
        assert not task.is_cancelled
        return results, errors

    return run_and_wait


class CountTask(Task[int]):
    """Counts up to a number, and waits at each step until it may continue."""

    def __init__(self, number: int) -> None:
        super().__init__("counting", self._count, number)
        self.may_go_on = threading.Semaphore(0)
        self.reported: list[Any] = []
        self.results: list[int] = []
        self.errors: list[Exception] = []
        self.threads: set[int] = set()
        self.ended = threading.Event()
        self.progressed.connect(self._on_progress)
        self.finished.connect(self.results.append)
        self.failed.connect(self.errors.append)

    def _on_progress(self, step: object) -> None:
        self.reported.append(step)
        self.threads.add(threading.get_ident())

    def _count(self, number: int) -> int:
        try:
            for step in range(number):
                self.report(step)
                self.may_go_on.acquire(timeout=10)
            return number
        finally:
            self.ended.set()


def test_work_is_done_in_another_thread_and_results_arrive_in_this_one(qtbot: QtBot) -> None:
    here: list[int] = []
    results: list[tuple[int, int]] = []

    def done(result: tuple[int, int]) -> None:
        here.append(threading.get_ident())
        results.append(result)

    task = run_task("testing", lambda a, b: (a + b, threading.get_ident()), 2, 3, done=done, failed=print)
    qtbot.waitUntil(lambda: bool(results), timeout=10_000)
    assert not task.is_cancelled
    assert results[0][0] == 5
    assert results[0][1] != threading.get_ident()
    assert here == [threading.get_ident()]


def test_progress_is_reported_in_the_main_thread(qtbot: QtBot) -> None:
    task = CountTask(3)
    task.start()
    task.may_go_on.release(3)
    qtbot.waitUntil(lambda: bool(task.results), timeout=10_000)
    assert task.results == [3]
    assert task.reported == [0, 1, 2]
    assert task.threads == {threading.get_ident()}
    assert not task.errors


def test_a_canceled_task_fails_with_its_own_error(qtbot: QtBot) -> None:
    task = CountTask(3)
    task.start()
    qtbot.waitUntil(lambda: task.reported == [0], timeout=10_000)
    task.cancel()
    task.may_go_on.release(3)
    qtbot.waitUntil(lambda: bool(task.errors), timeout=10_000)
    assert isinstance(task.errors[0], CancelledError)
    assert task.reported == [0]
    assert not task.results


def test_a_closed_task_stops_and_emits_nothing(qtbot: QtBot, run: Run) -> None:
    task = CountTask(3)
    task.start()
    qtbot.waitUntil(lambda: task.reported == [0], timeout=10_000)
    task.close()
    task.may_go_on.release(3)
    qtbot.waitUntil(task.ended.is_set, timeout=10_000)
    run(lambda: None)  # what the closed task might have emitted would have arrived before this
    assert task.reported == [0]
    assert not task.results
    assert not task.errors


def test_named_errors_arrive_as_they_are(run: Run) -> None:
    def work() -> None:
        raise CheckpointError("The model file is damaged; choose another one.")

    results, errors = run(work)
    assert not results
    assert [str(error) for error in errors] == ["The model file is damaged; choose another one."]


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: unspecified launch failure"), MemoryError()])
def test_failures_of_the_device_become_a_sentence(run: Run, error: Exception) -> None:
    def work() -> None:
        raise error

    _, errors = run(work)
    assert isinstance(errors[0], DeviceError)
    assert "Choose the CPU" in str(errors[0])


def test_unexpected_errors_are_shown_by_napari_and_passed_on(run: Run) -> None:
    shown = len(notification_manager.records)
    _, errors = run(lambda: np.zeros(3)[7])
    assert isinstance(errors[0], IndexError)
    assert len(notification_manager.records) == shown + 1
    notification_manager.records.clear()


def test_an_owner_that_is_gone_is_not_called(qtbot: QtBot, run: Run) -> None:
    gate, calls = threading.Event(), []

    class Owner:
        def done(self, result: object) -> None:
            calls.append(result)

    owner = Owner()
    task = run_task("testing", gate.wait, 10, done=owner.done, failed=owner.done)
    del owner
    gate.set()
    run(lambda: None)
    assert not task.is_cancelled
    assert not calls


def test_a_delay_calls_once_after_the_last_start_unless_canceled(qtbot: QtBot) -> None:
    calls: list[str] = []
    delay, canceled = Delay(20, lambda: calls.append("called")), Delay(1, lambda: calls.append("canceled"))
    canceled.start()
    canceled.cancel()
    for _ in range(3):
        delay.start()
    qtbot.waitUntil(lambda: bool(calls))
    assert calls == ["called"]


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "not enough memory"),
        (RuntimeError("expected 3 channels\nat line 7"), "(expected 3 channels)"),
        (RuntimeError(), "(RuntimeError)"),
    ],
)
def test_the_reason_is_one_line(error: Exception, part: str) -> None:
    sentence = explain_device_failure(error)
    assert part in sentence
    assert "\n" not in sentence


class Counter(QObject):
    """Counts its calls in a list that outlives it."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls

    def count(self) -> None:
        self.calls.append("method")


def test_what_an_owner_wanted_is_not_called_after_it_was_deleted(qtbot: QtBot) -> None:
    calls: list[str] = []
    owner, other = Counter(calls), QObject()
    call_soon(owner, owner.count)
    call_soon(owner, lambda: calls.append("function"))
    owner.deleteLater()
    qtbot.waitUntil(lambda: not isalive(owner))
    call_soon(other, lambda: calls.append("other"))
    qtbot.waitUntil(lambda: "other" in calls)
    assert calls == ["other"]
