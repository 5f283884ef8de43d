from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pytestqt.qtbot import QtBot

from napari_lesionseg.errors import StudyError
from napari_lesionseg.plugin.workbench import autosave
from napari_lesionseg.plugin.workbench.autosave import Autosaver


@pytest.fixture
def autosaver(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(autosave, "RETRY_MS", 10)
    made = Autosaver()
    yield made
    made.close()


class Disk:
    """Notes what is saved; refuses while it is full, or always what is named."""

    def __init__(self) -> None:
        self.full = False
        self.refused: set[str] = set()
        self.saved: list[str] = []

    def save(self, what: str) -> None:
        if self.full or what in self.refused:
            raise StudyError(f"no room for {what}")
        self.saved.append(what)

    def of(self, what: str) -> Any:
        return lambda: self.save(what)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def done(autosaver: Any) -> bool:
    return autosaver.pending == 0


def test_all_is_saved_in_order_and_in_another_thread(qtbot: QtBot, autosaver: Any, disk: Disk) -> None:
    threads = []
    autosaver.put(lambda: threads.append(threading.get_ident()))
    for number in range(5):
        autosaver.put(disk.of(str(number)))
    qtbot.waitUntil(lambda: done(autosaver))
    assert disk.saved == list("01234")
    assert threads != [threading.get_ident()]


def test_what_is_newer_takes_the_place_of_what_waits_but_not_of_what_is_being_saved(
    qtbot: QtBot, autosaver: Any, disk: Disk
) -> None:
    gate, begun = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        gate.wait(10)
        disk.save("first")

    autosaver.put(first, kind="outline")
    assert begun.wait(10)
    autosaver.put(disk.of("second"), kind="outline")
    autosaver.put(disk.of("other"), kind="other")
    autosaver.put(disk.of("third"), kind="outline")
    assert autosaver.pending == 3
    gate.set()
    qtbot.waitUntil(lambda: done(autosaver))
    assert disk.saved == ["first", "other", "third"]


def test_a_failed_save_is_reported_and_tried_again(qtbot: QtBot, autosaver: Any, disk: Disk) -> None:
    disk.full = True
    told = []
    autosaver.failed.connect(told.append)
    autosaver.put(disk.of("a"))
    qtbot.waitUntil(lambda: len(told) >= 2)
    assert set(told) == {"no room for a"}
    assert autosaver.pending == 1
    disk.full = False
    qtbot.waitUntil(lambda: done(autosaver))
    assert disk.saved == ["a"]


def test_an_unexpected_error_is_reported_and_tried_again(qtbot: QtBot, autosaver: Any) -> None:
    calls, told = [], []

    def save() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("what")

    autosaver.failed.connect(told.append)
    autosaver.put(save)
    qtbot.waitUntil(lambda: done(autosaver))
    assert told == ["ZeroDivisionError: what"]


def test_one_that_never_works_holds_up_its_own_group_alone(qtbot: QtBot, autosaver: Any, disk: Disk) -> None:
    disk.refused = {"a1"}
    for what in ("a1", "b1", "a2", "b2"):
        autosaver.put(disk.of(what), group=what[0])
    qtbot.waitUntil(lambda: disk.saved == ["b1", "b2"])
    disk.refused = set()
    qtbot.waitUntil(lambda: done(autosaver))
    assert disk.saved == ["b1", "b2", "a1", "a2"]


def test_flush_saves_here_and_now(qtbot: QtBot, autosaver: Any, disk: Disk) -> None:
    gate = threading.Event()
    autosaver.put(lambda: gate.wait(10))
    autosaver.put(disk.of("a"))
    autosaver.put(disk.of("b"))
    gate.set()
    assert autosaver.flush() == ""
    assert disk.saved == ["a", "b"]
    assert done(autosaver)


def test_flush_says_what_failed_saves_the_rest_and_goes_on_trying(
    qtbot: QtBot, autosaver: Any, disk: Disk
) -> None:
    disk.refused = {"a1"}
    for what in ("a1", "a2", "b1"):
        autosaver.put(disk.of(what), group=what[0])
    assert autosaver.flush() == "no room for a1"
    assert disk.saved == ["b1"]
    assert autosaver.pending == 2
    disk.refused = set()
    qtbot.waitUntil(lambda: done(autosaver))
    assert disk.saved == ["b1", "a1", "a2"]


def test_closing_leaves_what_waits(qtbot: QtBot, disk: Disk) -> None:
    autosaver = Autosaver()
    disk.full = True
    autosaver.put(disk.of("a"))
    with qtbot.waitSignal(autosaver.failed):
        pass
    autosaver.close()
    assert done(autosaver)
    assert disk.saved == []
