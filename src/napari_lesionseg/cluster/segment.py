"""Segment many files: decided as a whole, cut into chunks, written by whoever runs the chunk."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from napari_lesionseg.cluster.engine import Engine, cut, describe_plan, find_unseen
from napari_lesionseg.cluster.segment_chunk import (
    FileResult,
    FileTask,
    SegmentJob,
    segment_chunk,
    segment_chunk_on_worker,
)
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.io.atomic import sha256_file, write_atomically
from napari_lesionseg.io.folders import exists

CHUNK = 32
LOG = ".lesionseg-segment.jsonl"
"""Append-only record beside the masks: what each was made from, so that an interrupted run can continue."""


def segment_files(
    engine: Engine,
    job: SegmentJob,
    sources: Sequence[Path],
    out: Path,
    *,
    resume: bool = False,
    batch_size: int | None = None,
    announce: Callable[[str], None] = lambda plan: None,
) -> Iterator[FileResult]:
    """Segment files into a folder; yield the result of each in the order of `sources`.

    `announce` is told once what runs where.

    Which files clash is decided on the whole list before it is cut, so that the result does not depend on
    where the chunks run.
    """
    log = SegmentLog(out / LOG)
    done = log.read(job) if resume else {}
    tasks: dict[int, FileTask] = {}
    results: dict[int, FileResult] = {}
    written: dict[str, Path] = {}
    for index, source in enumerate(sources):
        task = FileTask(source, out)
        try:
            _check_free(task, written, own=resume and task.mask.name in done)
        except LesionSegError as error:
            results[index] = FileResult(source, str(error))
            continue
        if resume and _is_done(task, done, job):
            results[index] = FileResult(source, skipped=True)
        else:
            tasks[index] = task
    finished: Iterator[FileResult] = iter(())
    if tasks:
        todo = list(tasks.values())
        log.make()
        unseen = find_unseen(engine, (out / LOG, todo[0].source))
        announce(describe_plan(engine, unseen))
        finished = _run_chunks(engine, job, todo, unseen is None, batch_size)
    for index, source in enumerate(sources):
        result = results.get(index)
        if result is None:
            result = _store(next(finished), tasks[index], job)
            if not result.error:
                result = _logged(log, job, tasks[index], result)
        yield replace(result, source=source, mask=None, overlay=b"")


def _run_chunks(
    engine: Engine,
    job: SegmentJob,
    tasks: Sequence[FileTask],
    shared: bool,
    batch_size: int | None,
) -> Iterator[FileResult]:
    size = engine.chunk_size(len(tasks), CHUNK if shared else CHUNK // 4)
    chunks = (chunk if shared else [_with_payload(task) for task in chunk] for chunk in cut(tasks, size))
    # Here, a damaged model is one error, not one for each image.
    work = segment_chunk if engine.in_process else segment_chunk_on_worker
    for results in engine.map(functools.partial(work, job, batch_size=batch_size), chunks):
        yield from results


def _with_payload(task: FileTask) -> FileTask:
    """Read the file here; one that cannot be read is left to the worker's error message."""
    try:
        return replace(task, payload=task.source.read_bytes())
    except OSError:
        return replace(task, payload=b"")


def _store(result: FileResult, task: FileTask, job: SegmentJob) -> FileResult:
    """Write here what a worker sent back."""
    if result.error or result.mask is None:
        return result
    try:
        write_atomically(task.mask, result.mask)
        if job.overlay:
            write_atomically(task.overlay, result.overlay)
    except OSError as error:
        return FileResult(task.source, f"{task.mask} cannot be written: {error.strerror}.")
    return result


def _logged(log: SegmentLog, job: SegmentJob, task: FileTask, result: FileResult) -> FileResult:
    """Record what a mask was made from; a disk that is full is the error of this image."""
    try:
        log.append(job, task, result)
    except OSError as error:
        return FileResult(
            task.source, f"{task.mask} is written, but {LOG} beside it cannot be: {error.strerror}."
        )
    return result


def _check_free(task: FileTask, written: dict[str, Path], *, own: bool) -> None:
    """Raise unless the mask of an image replaces neither another one of this run nor an annotator's."""
    first = written.setdefault(task.source.stem.casefold(), task.source)
    if first is not task.source:
        raise LesionSegError(f"{task.source}: left out, because its mask would replace that of {first}.")
    if not own and exists(task.mask) and task.folder.samefile(task.source.parent):
        raise LesionSegError(
            f"{task.source}: left out, because {task.mask.name} beside it may be an annotator's own mask."
        )


class SegmentLog:
    """Which masks were made from which images, models and settings: one line each, only ever appended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> None:
        """Make the file, so that workers that see the folder see it."""
        try:
            with self._path.open("ab") as stream:
                os.fsync(stream.fileno())
        except OSError as error:
            folder = self._path.parent
            raise LesionSegError(f"The folder {folder} cannot be written: {error.strerror}.") from error

    def read(self, job: SegmentJob) -> dict[str, dict[str, str]]:
        """Lines of the same job by the name of the mask, the last one counts; torn lines are ignored."""
        done: dict[str, dict[str, str]] = {}
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return done
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                if entry["job"] == asdict(job):
                    done[entry["mask"]] = {key: str(entry[key]) for key in ("image_sha256", "mask_sha256")}
        return done

    def append(self, job: SegmentJob, task: FileTask, result: FileResult) -> None:
        """Write a line and force it to disk: the mask is there already."""
        entry = {
            "mask": task.mask.name,
            "image": task.source.name,
            "image_sha256": result.image_sha256,
            "mask_sha256": result.mask_sha256,
            "job": asdict(job),
        }
        line = json.dumps(entry, ensure_ascii=True) + "\n"
        with self._path.open("ab") as stream:
            # After a crash in the middle of a line, the next one begins a line of its own.
            stream.write(line.encode() if self._ends_a_line() else b"\n" + line.encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _ends_a_line(self) -> bool:
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                return stream.read(1) == b"\n"
        return True


def _is_done(task: FileTask, done: dict[str, dict[str, str]], job: SegmentJob) -> bool:
    """Whether the mask is whole and was made from these bytes by the same job."""
    entry = done.get(task.mask.name)
    if entry is None or (job.overlay and not task.overlay.is_file()):
        return False
    try:
        return (
            sha256_file(task.source) == entry["image_sha256"]
            and sha256_file(task.mask) == entry["mask_sha256"]
        )
    except OSError:
        return False
