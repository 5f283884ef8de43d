"""Output of the commands: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from napari_lesionseg.cli.signals import discard, output_error

Result = TypeVar("Result")

LOG_SECONDS = 30.0


class _Output(Console):
    """A console that shows file names as they are, and reports in one line when nothing can be written."""

    def __init__(self, *, stderr: bool = False) -> None:
        # Brackets in names are no markup, and colons make no emoji.
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def print(self, *args: Any, **settings: Any) -> None:
        try:
            super().print(*args, **settings)
        except OSError as error:
            if not self.stderr:
                raise output_error(error) from error
            discard(sys.stderr)  # about standard error itself, nothing can be said

    def on_broken_pipe(self) -> None:
        """Raise the error, during which rich calls this; rich itself would end the program."""
        raise


results = _Output()
messages = _Output(stderr=True)


def print_result(message: str) -> None:
    """Print one line of a result."""
    results.print(one_line(message))


def print_error(message: str) -> None:
    """Print one line about a problem."""
    messages.print(f"lesionseg: {one_line(message)}")


def print_plan(plan: str) -> None:
    """Print what runs where on standard error, if there is something to say."""
    if plan:
        messages.print(one_line(plan))


@contextmanager
def silenced(silent: bool) -> Iterator[None]:
    """Print nothing for a while, if another process of the same training prints it."""
    for console in (results, messages):
        console.quiet = silent
    try:
        yield
    finally:
        for console in (results, messages):
            console.quiet = False


def one_line(text: str) -> str:
    """Escape what does not print: a file name may hold line breaks and broken letters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class LoggedProgress(Progress):
    """A progress bar on a terminal; a line at most every `LOG_SECONDS` in a log file."""

    def __init__(self, *columns: ProgressColumn, **settings: Any) -> None:
        self._logged = self._since = time.monotonic()
        self._stage, self._done_before = "", 0.0
        super().__init__(*columns, console=messages, disable=not messages.is_terminal, **settings)

    def stop(self) -> None:
        """Remove the bar, if there is one: rich 13 would write an empty line to a log file."""
        if not self.disable:
            super().stop()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count work that is done."""
        super().advance(task_id, advance)
        self.write_line(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change what is known about the work."""
        super().update(task_id, **changes)
        self.write_line(task_id)

    def write_line(self, task_id: TaskID) -> None:
        """Write a line to a log file, unless the last one is recent."""
        with self._lock:
            self._log(task_id)

    def _log(self, task_id: TaskID) -> None:
        now = time.monotonic()
        task = self.tasks[self.task_ids.index(task_id)]
        if task.description != self._stage:  # another part of the work has a rate of its own
            # What was there before does not count: a resumed training begins in the middle.
            self._since, self._done_before = now, task.completed
            self._stage = task.description
        if messages.is_terminal or now - self._logged < LOG_SECONDS:
            return
        # Since the last line: what is skipped at the start of a resumed run goes much faster than the rest.
        done, seconds = task.completed - self._done_before, now - self._since
        rate = max(done, 0) / seconds if seconds else 0.0
        self._logged = now
        if done > 0:
            self._since, self._done_before = now, task.completed
        parts = [f"{task.completed:g} of {task.total:g}" if task.total else f"{task.completed:g} done"]
        if rate:
            parts.append(f"{rate:.3g} a second")
        if task.total and rate:
            parts.append(f"{timedelta(seconds=round((task.total - task.completed) / rate))} left")
        parts += [f"{name} {value:.4f}" for name, value in task.fields.items()]
        messages.print(f"{task.description}: {', '.join(parts)}")


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """Show progress on standard error: a bar that disappears when done, or lines in a log file."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with LoggedProgress(*columns, transient=True) as progress:
        task = progress.add_task(description, total=total)
        with _logged_while_silent(progress, task):
            yield progress, task


@contextmanager
def _logged_while_silent(progress: LoggedProgress, task: TaskID) -> Iterator[None]:
    """Write lines to a log file also while nothing is counted, as when a network is measured after a pass."""
    ended = threading.Event()

    def log() -> None:
        while not ended.wait(max(LOG_SECONDS / 2, 1)):
            progress.write_line(task)

    thread = threading.Thread(target=log, daemon=True)
    if not messages.is_terminal:
        thread.start()
    try:
        yield
    finally:
        ended.set()


def name_image(image: Path | str, reason: str) -> str:
    """Put the image's name before what is wrong with it, unless the reason names it."""
    return reason if str(image) in reason else f"{image}: {reason}"


class _Counted(Protocol):
    """A step of work that knows how much is done."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...


def run_with_progress(work: Iterable[_Counted | Result]) -> Result:
    """Show the progress of work that yields steps, then its result; return the result."""
    last: _Counted | Result | None = None
    with progress_bar("Working", 0) as (progress, task):
        for last in work:
            if hasattr(last, "done") and hasattr(last, "total"):
                stage = getattr(last, "stage", "checking")
                progress.update(task, description=stage.capitalize(), total=last.total, completed=last.done)
    return cast("Result", last)
