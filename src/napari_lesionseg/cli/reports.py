"""What the commands say of a data set that was written."""

from __future__ import annotations

from collections.abc import Iterable

from napari_lesionseg.cli.console import say, say_error
from napari_lesionseg.datasets.export import ExportReport
from napari_lesionseg.datasets.formats import FORMATS
from napari_lesionseg.datasets.records import Problem

MOST_NAMES = 8
"""Names that are listed where many entries have the same problem."""


def say_problems(problems: Iterable[Problem]) -> None:
    """Say what was left out or needs a look; one line a reason, so that thousands do not hide the others."""
    names: dict[str, list[str]] = {}
    for problem in problems:
        names.setdefault(problem.reason, []).append(problem.name)
    for reason, found in names.items():
        more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
        say_error(f"{', '.join(found[:MOST_NAMES])}{more}: {reason}")


def say_report(report: ExportReport) -> int:
    """Say what was written and what was left out; 1 if something was."""
    say_problems(report.problems)
    parts = ", ".join(f"{part} {count}" for part, count in report.parts.items())
    left_out = f"; {report.left_out} left out" if report.left_out else ""
    title = FORMATS[report.format].title
    say(f"{report.written} images written to {report.folder} ({title}; {parts}){left_out}")
    return 1 if report.left_out else 0
