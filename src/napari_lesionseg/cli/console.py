"""What the commands say: results on standard output, progress and errors on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Result = TypeVar("Result")

# Names of files and models are shown as they are: brackets are no markup, and colons make no emoji.
results = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def say(message: str) -> None:
    """Print one line of a result."""
    results.print(one_line(message))


def say_error(message: str) -> None:
    """Print one line about what went wrong."""
    messages.print(f"lesionseg: {one_line(message)}")


def one_line(text: str) -> str:
    """Escape line breaks, control characters and broken letters, all of which may be in a file's name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """Show a progress bar on standard error, if that is a terminal; it disappears when done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not messages.is_terminal  # a log file gets the errors alone
    with Progress(*columns, console=messages, transient=True, disable=hidden) as progress:
        yield progress, progress.add_task(description, total=total)


class _Counted(Protocol):
    """Progress: how much of how much is done."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...


def follow(work: Iterable[_Counted | Result]) -> Result:
    """Show the progress of work that yields steps and, last, its result.

    Parameters
    ----------
    work : iterable
        Yields values with ``done`` and ``total``, and at the end the result.

    Returns
    -------
    object
        The result.
    """
    last: _Counted | Result | None = None
    with progress_bar("Working", 0) as (progress, task):
        for last in work:
            if hasattr(last, "done") and hasattr(last, "total"):
                stage = getattr(last, "stage", "checking")
                progress.update(task, description=stage.capitalize(), total=last.total, completed=last.done)
    return cast("Result", last)
