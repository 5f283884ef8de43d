from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest
import torch

from napari_lesionseg.training.resources import (
    BACKGROUND_NICENESS,
    NO_FULL_COLLECTION,
    SHORT_SECONDS,
    ContentionWatch,
    ThreadLimit,
    background_threads,
    lower_priority,
    short_holds,
)


def test_threads_are_given_back_after_an_error() -> None:
    before, seen = torch.get_num_threads(), list[int]()

    def fail() -> None:
        with ThreadLimit(before + 1):
            seen.append(torch.get_num_threads())
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  any error will do
        fail()
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


def test_none_leaves_the_number_alone() -> None:
    before = torch.get_num_threads()
    with ThreadLimit(None):
        assert torch.get_num_threads() == before


def test_a_number_that_is_changed_inside_holds_in_the_next_block() -> None:
    before = torch.get_num_threads()
    limit, seen = ThreadLimit(before + 2), list[int]()
    with limit:
        torch.set_num_threads(before + 1)
    between = torch.get_num_threads()
    with limit:
        seen.append(torch.get_num_threads())
    assert (between, seen, torch.get_num_threads()) == (before, [before + 1], before)


def test_a_few_slow_steps_are_no_contention() -> None:
    watch = ContentionWatch(1.0)
    assert not any(watch.contended(seconds) for seconds in (1, 9, 1, 9, 1, 1, 9, 1))


def test_steps_that_stay_slow_are() -> None:
    watch = ContentionWatch(1.0)
    assert [watch.contended(seconds) for seconds in (4, 4, 4, 4, 4)] == [False] * 4 + [True]


def test_slow_when_it_was_planned() -> None:
    """A machine that was busy at first and then free shows what a step takes."""
    watch = ContentionWatch(10.0)
    assert not any(watch.contended(1.0) for _ in range(5))
    assert [watch.contended(4.0) for _ in range(5)][-1]


def test_one_thread_less_is_none() -> None:
    with ThreadLimit(2):
        watch = ContentionWatch(1.0)
        assert watch.yield_cores()
        assert torch.get_num_threads() == 1
        assert not watch.yield_cores()


def test_a_core_is_left_for_the_window() -> None:
    assert 1 <= background_threads() <= max(1, (os.cpu_count() or 1) - 1)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_count_all_cores_and_keep_priorities(
    monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    for function in ("sched_getaffinity", "getpriority", "setpriority"):  # Windows has none of them
        monkeypatch.delattr(os, function, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert background_threads() == 7
    lower_priority()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows priorities of threads")
def test_only_the_thread_itself_gives_way() -> None:
    seen = list[int]()

    def work() -> None:
        lower_priority()
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert seen == [max(before, BACKGROUND_NICENESS)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_old_objects_are_left_in_peace_for_a_while() -> None:
    before = gc.get_threshold(), sys.getswitchinterval()
    with short_holds():
        with short_holds():
            pass
        assert gc.get_threshold() == (*before[0][:2], NO_FULL_COLLECTION)
        assert sys.getswitchinterval() <= SHORT_SECONDS * 1.01
        assert gc.isenabled()
    assert (gc.get_threshold(), sys.getswitchinterval()) == before


MEMORY = """
import resource
import torch
from napari_lesionseg.training.resources import reuse_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

reuse_memory()
print([faults() for _ in range(4)][-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc of Linux")
def test_memory_is_reused_and_not_cleared_again() -> None:
    """A page that is not kept is a page fault; there would be 20 000 or more a tensor, or 40 large ones."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20
