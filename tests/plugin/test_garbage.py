from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from napari_lesionseg.plugin.garbage import collector
from napari_lesionseg.plugin.tasks import run_task


class Knot:
    """An object that only the garbage collector can delete."""

    def __init__(self) -> None:
        self.itself = self


def leave_garbage(threads: list[int]) -> list[list[int]]:
    """Leave an object behind, and allocate so many that Python would collect many times."""
    weakref.finalize(Knot(), lambda: threads.append(threading.get_ident()))
    return [[number] for number in range(20 * gc.get_threshold()[0])]


def test_garbage_of_a_task_is_collected_on_the_main_thread(qtbot: QtBot) -> None:
    threads: list[int] = []
    kept: list[Any] = []
    run_task("testing", leave_garbage, threads, done=kept.append, failed=kept.append)
    qtbot.waitUntil(lambda: bool(kept and threads), timeout=20_000)
    assert threads == [threading.main_thread().ident]


def test_old_garbage_is_collected_too(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    collector.start()
    knot = Knot()
    gone = weakref.ref(knot)
    gc.collect()  # makes it one of the old objects
    del knot
    low = (1, 0, 0)
    monkeypatch.setattr(gc, "get_threshold", lambda: low)
    monkeypatch.setattr(collector, "_next_full", 0.0)  # whatever was collected before
    kept: list[list[int]] = []
    qtbot.waitUntil(lambda: kept.append([]) is None and gone() is None, timeout=20_000)


def test_python_collects_again_after_the_end(qtbot: QtBot) -> None:
    collector.start()
    collector.start()
    assert not gc.isenabled()
    collector.stop()
    assert gc.isenabled()


def test_a_collector_that_the_user_switched_off_stays_off(qtbot: QtBot) -> None:
    gc.disable()
    try:
        collector.start()
        collector.stop()
        assert not gc.isenabled()
    finally:
        gc.enable()
