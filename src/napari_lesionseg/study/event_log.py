"""The event log of a study: append-only files of JSON lines, one for each run of an annotator.

No two writers share a file, a line is on the disk before anyone is told that it was saved, and nothing that
was written is ever changed. The log is read line by line: only a bad line is left out, and it is reported.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.atomic import sync_folder, write_atomically
from napari_lesionseg.study.events import EVENT, SCHEMA_VERSION, AnyEvent, Event

MAX_LINE = 1 << 20
"""Bytes of the longest line that is written or read."""

_NAME = re.compile(r"(?P<annotator>[A-Za-z0-9][A-Za-z0-9_-]{0,39})-(?P<writer>[0-9a-f]{32})\.jsonl")
_MAX_REASON = 200

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class StudyProblem:
    """Something in a study folder that was left out."""

    file: str  # relative to the study, if it is inside
    line: int  # from 1; 0 stands for the whole file
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


class EventWriter:
    """Appends the events of one annotator in one run.

    The file is made with the first event. When writing fails, the file is left as it is, and the next event
    starts a new one: what was written before stays valid, and a torn line stays the last.
    """

    def __init__(self, folder: Path, annotator: str) -> None:
        self.annotator = annotator
        self.own_files: set[str] = set()
        self._folder = folder
        self._start_file()

    def append(self, kind: type[E], *, time: datetime, **fields: Any) -> E:
        """Write one event and force it to disk.

        After an `OSError` the event may be there or not; writing it again does no harm.
        """
        if self._length != _size(self._path):  # someone else has changed or removed the file
            self._start_file()
        event = _build(
            kind, writer=self._writer, seq=self._seq, annotator=self.annotator, time=time, **fields
        )
        line = _encode(event)
        try:
            self._write(line)
        except OSError:
            self._close_file()
            raise
        self._length += len(line)
        self._seq += 1
        return event

    def append_together(
        self, kind: type[E], records: Iterable[Mapping[str, Any]], *, time: datetime
    ) -> list[E]:
        """Write many events in one step, all or none, as a file of their own."""
        writer = uuid.uuid4().hex
        common = {"writer": writer, "annotator": self.annotator, "time": time}
        events = [_build(kind, seq=seq, **common, **record) for seq, record in enumerate(records)]
        if events:
            name = f"{self.annotator}-{writer}.jsonl"
            write_atomically(self._folder / name, b"".join(map(_encode, events)))
            self.own_files.add(name)
        return events

    def _start_file(self) -> None:
        self._writer = uuid.uuid4().hex
        self._path = self._folder / f"{self.annotator}-{self._writer}.jsonl"
        self._seq = 0
        self._length = 0
        self.own_files.add(self._path.name)

    def _close_file(self) -> None:
        """Continue in a new file, and remove one without any good line."""
        if not self._length:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._start_file()

    def _write(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as stream:
            left = memoryview(line)
            while left:  # an unbuffered write may be cut short
                left = left[stream.write(left) :]
            os.fsync(stream.fileno())
        if not self._length:  # the file is new: its name must reach the disk too
            sync_folder(self._folder)


@dataclass(slots=True)
class _Tail:
    """How far one file was read."""

    offset: int = 0
    line: int = 0
    seen: set[int] = field(default_factory=set)  # numbers of the events
    discarding: bool = False  # inside a line that is too long


class EventReader:
    """Reads new events of all writers; `refuse` returns why an event is left out, or None."""

    def __init__(self, folder: Path, refuse: Callable[[AnyEvent], str | None] | None = None) -> None:
        self.problems: dict[StudyProblem, None] = {}
        self._folder = folder
        self._refuse = refuse
        self._tails: dict[str, _Tail] = {}

    def read_new(self, skip: Collection[str] = ()) -> list[AnyEvent]:
        """Read the lines that were completed since the last call, in no particular order.

        A last line without its end is left for the next call. Bad lines and files are among the `problems`.
        """
        events: list[AnyEvent] = []
        with os.scandir(self._folder) as found:
            files = sorted(found, key=lambda file: file.name)
        for file in files:
            if file.name not in skip and not file.name.startswith("."):
                events.extend(self._read_file(file))
        return events

    def _read_file(self, file: os.DirEntry[str]) -> Iterator[AnyEvent]:
        """Read one file on from where the last call stopped."""
        name = _NAME.fullmatch(file.name)
        if name is None or not file.is_file(follow_symlinks=False):
            self._report(file.name, 0, "it is not an event file of this program, and was left out")
            return
        tail = self._tails.setdefault(file.name, _Tail())
        try:
            size = file.stat(follow_symlinks=False).st_size
            if size < tail.offset:  # replaced by a shorter file, such as an older copy
                tail = self._tails[file.name] = _Tail()
            if size > tail.offset:
                with Path(file.path).open("rb") as stream:
                    yield from self._read_lines(stream, file.name, tail, name["annotator"], name["writer"])
        except OSError as error:
            self._report(file.name, 0, f"it cannot be read ({error.strerror})")

    def _read_lines(
        self, stream: BinaryIO, file: str, tail: _Tail, annotator: str, writer: str
    ) -> Iterator[AnyEvent]:
        for line in _complete_lines(stream, tail):
            event = None
            if line is None:
                reason: str | None = "the line is too long"
            else:
                event, reason = _parse(line)
            if event is not None:
                reason = _foreign(event, annotator, writer, tail.seen) or self._judge(event)
            if reason is not None:
                self._report(file, tail.line, reason)
            elif event is not None:
                tail.seen.add(event.seq)
                yield event

    def _judge(self, event: AnyEvent) -> str | None:
        return None if self._refuse is None else self._refuse(event)

    def _report(self, file: str, line: int, reason: str) -> None:
        self.problems[StudyProblem(f"{self._folder.name}/{file}", line, reason)] = None


def explain(error: ValidationError) -> str:
    """Return in at most 200 printable characters what is wrong with a record."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    text = f"{where}: {first['msg']}" if where else first["msg"]
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= _MAX_REASON else printable[: _MAX_REASON - 3] + "..."


def _complete_lines(stream: BinaryIO, tail: _Tail) -> Iterator[bytes | None]:
    """Yield whole lines, or None for one that is too long, and move the tail on."""
    stream.seek(tail.offset)
    while piece := stream.readline(MAX_LINE + 1):
        ended = piece.endswith(b"\n")
        too_long = len(piece) > MAX_LINE
        if not ended and not too_long and not tail.discarding:
            return
        tail.offset += len(piece)
        if not tail.discarding:
            tail.line += 1
            yield None if too_long else piece
        tail.discarding = not ended


def _parse(line: bytes) -> tuple[AnyEvent | None, str | None]:
    """Return the event of a line, or why there is none."""
    try:
        return EVENT.validate_json(line), None
    except ValidationError as error:
        return None, _newer(line) or explain(error)


class _Versioned(BaseModel):
    v: int


def _newer(line: bytes) -> str | None:
    """Return the reason if a line is of a newer version, or None."""
    try:
        version = _Versioned.model_validate_json(line).v
    except ValidationError:
        return None
    if version <= SCHEMA_VERSION:
        return None
    return f"it was written by a newer version of the program (schema {version})"


def _foreign(event: Event, annotator: str, writer: str, seen: Collection[int]) -> str | None:
    """Return why an event does not belong in the file that it is in, or None."""
    if (event.annotator, event.writer) != (annotator, writer):
        return "the line belongs in another file"
    if event.seq in seen:
        return "the line's number is used twice"
    return None


def _build(kind: type[E], **fields: Any) -> E:
    try:
        return kind(**fields)
    except ValidationError as error:
        raise StudyError(f"This cannot be saved: {explain(error)}.") from error


def _encode(event: Event) -> bytes:
    line = event.model_dump_json(exclude_none=True).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise StudyError("This cannot be saved: it is too long.")
    return line


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
