from __future__ import annotations

import threading

import numpy as np
import pytest
from napari.utils.notifications import notification_manager

from napari_lesionseg.errors import CheckpointError, DeviceError
from napari_lesionseg.plugin.tasks import Job, explain_device_failure


@pytest.fixture
def run(qtbot):
    """Run a function in a job; give what came of it."""

    def run_job(function, *arguments):
        answers, errors = [], []
        job = Job("testing", function, *arguments, done=answers.append, failed=errors.append)
        qtbot.waitUntil(lambda: bool(answers or errors), timeout=10_000)
        assert job is not None
        return answers, errors

    return run_job


def test_work_is_done_elsewhere_and_answers_arrive_here(qtbot, run):
    here = []
    answers, errors = [], []

    def done(answer):
        here.append(threading.get_ident())
        answers.append(answer)

    job = Job("testing", lambda a, b: (a + b, threading.get_ident()), 2, 3, done=done, failed=errors.append)
    qtbot.waitUntil(lambda: bool(answers), timeout=10_000)
    assert job is not None
    assert answers[0][0] == 5
    assert answers[0][1] != threading.get_ident()
    assert here == [threading.get_ident()]
    assert not errors


def test_named_errors_arrive_as_they_are(run):
    def work():
        raise CheckpointError("The model file is damaged; choose another one.")

    answers, errors = run(work)
    assert not answers
    assert [str(error) for error in errors] == ["The model file is damaged; choose another one."]


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: unspecified launch failure"), MemoryError()])
def test_failures_of_the_device_become_a_sentence(run, error):
    def work():
        raise error

    _, errors = run(work)
    assert isinstance(errors[0], DeviceError)
    assert "choose the CPU" in str(errors[0])


def test_errors_nobody_foresaw_are_shown_by_napari_and_passed_on(run):
    shown = len(notification_manager.records)
    _, errors = run(lambda: np.zeros(3)[7])
    assert isinstance(errors[0], IndexError)
    assert len(notification_manager.records) == shown + 1
    notification_manager.records.clear()


def test_nothing_comes_of_dropped_work(qtbot):
    gate, over = threading.Event(), threading.Event()
    arrived = []

    def work():
        gate.wait(10)
        over.set()

    job = Job("testing", work, done=arrived.append, failed=arrived.append)
    job.drop()
    gate.set()
    qtbot.waitUntil(over.is_set, timeout=10_000)
    after = []
    Job("testing", lambda: None, done=after.append, failed=after.append)
    qtbot.waitUntil(lambda: bool(after), timeout=10_000)
    assert not arrived


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"), "not enough memory"),
        (RuntimeError("expected 3 channels\nat line 7"), "(expected 3 channels)"),
        (RuntimeError(), "(RuntimeError)"),
    ],
)
def test_the_reason_is_one_sentence(error, part):
    sentence = explain_device_failure(error)
    assert part in sentence
    assert "\n" not in sentence
