"""Output of the commands: results on standard output, progress and errors on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Result = TypeVar("Result")

# Names of files and models are shown as they are: brackets are no markup, and colons make no emoji.
results = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def print_result(message: str) -> None:
    """Print one line of a result."""
    results.print(one_line(message))


def print_error(message: str) -> None:
    """Print one line about a problem."""
    messages.print(f"lesionseg: {one_line(message)}")


def one_line(text: str) -> str:
    """Escape what does not print: a file name may hold line breaks and broken letters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """Show a progress bar on standard error, if that is a terminal; it disappears when done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not messages.is_terminal  # a log file gets the errors alone
    with Progress(*columns, console=messages, transient=True, disable=hidden) as progress:
        yield progress, progress.add_task(description, total=total)


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
