"""Output of the commands: results on standard output, progress and errors on standard error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from napari_lesionseg.cli.signals import output_error

Result = TypeVar("Result")


class _Output(Console):
    """A console that shows file names as they are, and reports in one line when nothing can be written."""

    def __init__(self, *, stderr: bool = False) -> None:
        # Brackets in names are no markup, and colons make no emoji.
        super().__init__(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def print(self, *args: Any, **settings: Any) -> None:
        try:
            super().print(*args, **settings)
        except OSError as error:
            if not self.stderr:  # about standard error itself, nothing can be said
                raise output_error(error) from error


results = _Output()
messages = _Output(stderr=True)


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
