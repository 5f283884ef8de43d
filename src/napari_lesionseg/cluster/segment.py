"""Segment many files: decided as a whole, cut into chunks, written here."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from napari_lesionseg.cluster.engine import Engine, cut, describe_plan, find_unseen
from napari_lesionseg.cluster.segment_chunk import (
    FileResult,
    FileTask,
    SegmentJob,
    segment_chunk,
    segment_chunk_on_worker,
)
from napari_lesionseg.errors import LesionSegError, MaskError
from napari_lesionseg.io.atomic import sha256_file, write_atomically
from napari_lesionseg.io.folders import exists
from napari_lesionseg.io.images import read_mask

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
    own = log.own_masks()
    tasks: dict[int, FileTask] = {}
    results: dict[int, FileResult] = {}
    written: dict[str, Path] = {}
    for index, source in enumerate(sources):
        task = FileTask(source, out)
        try:
            _check_free(task, written, own)
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
            result = _store(next(finished), tasks[index], job, log, own)
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


def _store(
    result: FileResult, task: FileTask, job: SegmentJob, log: SegmentLog, own: Mapping[str, Collection[str]]
) -> FileResult:
    """Record a mask, then write it: one that is there without a record was drawn by somebody."""
    if result.error or result.mask is None:
        return result
    try:
        if exists(task.mask) and not _is_own(task.mask, own):
            # Drawn meanwhile, or written by another run into the same folder.
            _check_own(task, log.own_masks())
        log.append(job, task, result)
        write_atomically(task.mask, result.mask)
        if result.overlay:
            write_atomically(task.overlay, result.overlay)
    except OSError as error:
        return FileResult(task.source, f"{task.mask} cannot be written: {error.strerror}.")
    except LesionSegError as error:
        return FileResult(task.source, str(error))
    return result


def _check_free(task: FileTask, written: dict[str, Path], own: Mapping[str, Collection[str]]) -> None:
    """Raise unless the mask of an image replaces neither another one of this run nor an annotator's."""
    first = written.setdefault(unicodedata.normalize("NFC", task.source.stem).casefold(), task.source)
    if first is not task.source:
        raise LesionSegError(f"{task.source}: left out, because its mask would replace that of {first}.")
    _check_own(task, own)


def _check_own(task: FileTask, own: Mapping[str, Collection[str]]) -> None:
    """Raise if the mask of an image is there already, and is not one that a run wrote."""
    if exists(task.mask) and not _is_own(task.mask, own):
        raise LesionSegError(
            f"{task.source}: left out, because {task.mask} was drawn or changed by somebody; "
            "choose another folder, or remove it."
        )


def _is_own(mask: Path, own: Mapping[str, Collection[str]]) -> bool:
    """Whether a mask is one that an earlier run wrote, and that is damaged or as it was."""
    if mask.name not in own:
        return False
    try:
        if sha256_file(mask) not in own[mask.name]:
            read_mask(mask)
            return False
    except (OSError, MaskError):
        pass
    return True


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
        """Lines of the same job by the name of the mask, the last one counts."""
        done: dict[str, dict[str, str]] = {}
        for entry in self._entries():
            with contextlib.suppress(KeyError, TypeError):
                if entry["job"] == asdict(job):
                    done[entry["mask"]] = {key: str(entry[key]) for key in ("image_sha256", "mask_sha256")}
        return done

    def own_masks(self) -> dict[str, set[str]]:
        """Return the hashes of all contents that each mask was given here."""
        own: dict[str, set[str]] = {}
        for entry in self._entries():
            with contextlib.suppress(KeyError, TypeError):
                own.setdefault(entry["mask"], set()).add(str(entry["mask_sha256"]))
        return own

    def _entries(self) -> Iterator[Any]:
        """Yield all lines but torn ones."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def append(self, job: SegmentJob, task: FileTask, result: FileResult) -> None:
        """Write a line and force it to disk, before the mask is written."""
        try:
            self._append(job, task, result)
        except OSError as error:
            raise LesionSegError(f"{LOG} beside {task.mask} cannot be written: {error.strerror}.") from error

    def _append(self, job: SegmentJob, task: FileTask, result: FileResult) -> None:
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
