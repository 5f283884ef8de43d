"""Kill workers in the middle of saving, check what they left, and print the result as JSON.

Run as a script by the tests: one process that forks its workers, so that a kill costs milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from scenario import Work, differences, plan, read_world
from seam import Disk, PowerCutError, Tap, cut_at, die_at

from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.io import atomic
from napari_lesionseg.io import images as images_module
from napari_lesionseg.study import event_log, mask_store
from napari_lesionseg.study.event_log import EventWriter
from napari_lesionseg.study.mask_store import MaskStore, name_revision
from napari_lesionseg.study.study import Study


def careful() -> None:
    """Save as the package does."""


def line_first() -> None:
    """Write the event before the mask that it refers to."""
    write, append, waiting = MaskStore.write, EventWriter.append, []

    def late(self: MaskStore, image_id: str, labels: Any, known: Any) -> tuple[str, str]:
        waiting.append(lambda: write(self, image_id, labels, known))
        with tempfile.TemporaryDirectory(dir=self.path("x", "x").parents[3]) as probe:
            images_module.write_mask(Path(probe, "mask.png"), labels)
            return name_revision(labels), atomic.sha256_file(Path(probe, "mask.png"))

    def append_then_write(self: EventWriter, *args: Any, **named: Any) -> Any:
        entry = append(self, *args, **named)
        while waiting:
            waiting.pop()()
        return entry

    MaskStore.write, EventWriter.append = late, append_then_write


def events_in_place() -> None:
    """Write the whole event file again for each event, over the old one."""

    def rewrite(self: EventWriter, line: bytes) -> None:
        before = self._path.read_bytes() if self._path.exists() else b""
        with self._path.open("wb") as stream:
            stream.write(before + line)
            os.fsync(stream.fileno())
        atomic.sync_folder(self._path.parent)

    EventWriter._write = rewrite


def mask_in_place() -> None:
    """Write masks straight to one place for each image, over the old one: what most programs do."""

    def direct(path: Path, payload: bytes) -> None:
        with Path(path).open("wb") as stream:
            stream.write(payload)

    mask_store.name_revision = lambda labels: "0" * 16
    images_module.write_atomically = direct


class _LazySystem:
    """The module `os`, but for `fsync`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        pass


def no_fsync() -> None:
    """Trust the system to write in time."""
    atomic.os = event_log.os = _LazySystem()


WRITERS = {
    writer.__name__: writer for writer in (careful, line_first, mask_in_place, events_in_place, no_fsync)
}


def make_study(folder: Path) -> list[str]:
    """Make a study of three small images with some work in it."""
    rng = np.random.default_rng(1)
    images = {f"nevus {n}": rng.integers(0, 256, (12, 17, 3), np.uint8) for n in range(3)}
    with Study.create(folder, "am", images=images) as study:
        return list(study.state.images)


def run(folder: Path, work: Work, report: Callable[[], object], tap: Tap | None = None) -> None:
    """Do all steps, and report after each."""
    with Study.open(folder, "am") as study:
        for step in work.steps:
            if tap is None:
                step(study)
            else:
                with tap:
                    step(study)
            report()


def fork_worker(
    folder: Path,
    work: Work,
    writer: Callable[[], None],
    kill_at: int | None = None,
    kill_after: float | None = None,
) -> tuple[int, int]:
    """Fork a process that works; return it and the pipe through which it counts its steps.

    It dies at a point of the save path, or after some seconds of its own processor time, which do not depend
    on what else the machine does: the system ends it at whatever instruction it has come to.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child:
        os.close(write_end)
        return child, read_end
    status = 1
    try:
        writer()
        if kill_after is not None:
            signal.setitimer(signal.ITIMER_PROF, kill_after)
        tap = None if kill_at is None else Tap(folder, die_at(kill_at))
        run(folder, work, lambda: os.write(write_end, b"."), tap)
        status = 0
    finally:
        os._exit(status)


def wait_for(child: int, read_end: int) -> tuple[int, bool, float]:
    """Count the steps of a dead worker; return whether it was killed, and how long it worked."""
    done = 0
    while received := os.read(read_end, 4096):
        done += len(received)
    os.close(read_end)
    _, status, usage = os.wait4(child, 0)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a worker failed by itself")
    return done, os.WIFSIGNALED(status), usage.ru_utime + usage.ru_stime


def list_points(template: Path, folder: Path, work: Work) -> list[str]:
    """Name all points of the save path, in the order they are passed."""
    names: list[str] = []
    shutil.copytree(template, folder)
    with Tap(folder, lambda point, name: names.append(name)) as tap:
        tap.__exit__(None, None, None)
        run(folder, work, lambda: None, tap)
    shutil.rmtree(folder)
    return names


def judge(folder: Path, work: Work, done: int) -> list[str]:
    """Look at what is left; a study that cannot be read at all is wrong too."""
    try:
        wrong = differences(folder, work, done)
        if not wrong:
            wrong = finish(folder, work)
    except (LesionSegError, OSError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    shutil.rmtree(folder)
    return wrong


def finish(folder: Path, work: Work) -> list[str]:
    """Continue after the crash: a step that was lost can be done now."""
    with Study.open(folder, "am") as study:
        world = read_world(study)
        place = max(n for n, expected in enumerate(work.worlds) if expected == world)
        for step in work.steps[place:]:
            step(study)
        return [] if read_world(study) == work.worlds[-1] else ["the work cannot be finished"]


def kill_everywhere(base: Path, work: Work, template: Path, writer: str, stride: int) -> dict[str, Any]:
    """Kill a worker at every point of the save path."""
    points = list_points(template, base / "points", work)
    killed: Counter[str] = Counter()
    failures = []
    for number in range(0, len(points), stride):
        folder = base / f"kill-{number}"
        shutil.copytree(template, folder)
        done, dead, _ = wait_for(*fork_worker(folder, work, WRITERS[writer], number))
        killed[points[number]] += dead
        failures += [f"{points[number]} ({number}): {wrong}" for wrong in judge(folder, work, done)]
    return {"kills": killed.total(), "points": killed, "failures": failures}


def kill_at_random(base: Path, work: Work, template: Path, writer: str, times: int) -> dict[str, Any]:
    """Kill workers at any time, until so many were killed; one that was done before is judged, too."""
    chance = random.Random(7)  # noqa: S311
    shutil.copytree(template, base / "whole")
    _, _, seconds = wait_for(*fork_worker(base / "whole", work, WRITERS[writer]))
    killed, failures = 0, []
    for number in range(10 * times):
        folder = base / f"random-{number}"
        shutil.copytree(template, folder)
        after = max(chance.uniform(0, seconds), 1e-6)
        done, dead, worked = wait_for(*fork_worker(folder, work, WRITERS[writer], kill_after=after))
        failures += [f"random kill {number}: {wrong}" for wrong in judge(folder, work, done)]
        killed += dead
        if killed == times:
            break
        if not dead:  # the first worker was slow: from now on no later than this one took
            seconds = min(seconds, worked)
    return {"kills": killed, "points": {"any time": killed}, "failures": failures}


def cut_everywhere(base: Path, work: Work, template: Path, writer: str, stride: int) -> dict[str, Any]:
    """Take the power away at every point: all that was not forced to the disk is gone."""
    points = list_points(template, base / "points", work)
    WRITERS[writer]()
    cuts: Counter[str] = Counter()
    failures = []
    for number in range(0, len(points), stride):
        folder, after = base / f"cut-{number}", base / f"after-{number}"
        shutil.copytree(template, folder)
        disk, done = Disk(folder), []
        try:
            run(folder, work, lambda done=done: done.append(1), Tap(folder, cut_at(number), disk))
        except PowerCutError:
            cuts[points[number]] += 1
        disk.leave(after)
        shutil.rmtree(folder)
        failures += [f"{points[number]} ({number}): {wrong}" for wrong in judge(after, work, len(done))]
    return {"kills": cuts.total(), "points": cuts, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base", type=Path)
    parser.add_argument("--how", choices=("points", "random", "power"), required=True)
    parser.add_argument("--writer", choices=sorted(WRITERS), default="careful")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args()
    template = options.base / "template"
    work = plan(make_study(template), options.rounds)
    if options.how == "random":
        found = kill_at_random(options.base, work, template, options.writer, options.times)
    else:
        spread = kill_everywhere if options.how == "points" else cut_everywhere
        found = spread(options.base, work, template, options.writer, options.stride)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
