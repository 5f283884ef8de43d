"""Entry point: finds the command, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import io
import keyword
import sys
from collections.abc import Sequence
from functools import partial
from types import ModuleType

from napari_lesionseg import __version__
from napari_lesionseg.cli.console import say_error
from napari_lesionseg.errors import LesionSegError

DONE, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "app": "open the viewer with the workbench",
    "demo": "segment built-in sample images and show them",
    "segment": "outline the lesions of images",
    "train": "train a network on images with masks",
    "finetune": "let a model learn from corrected images",
    "evaluate": "measure a model on images with masks",
    "tune": "choose a model's threshold on held-out images",
    "models": "list, add, rename or remove models",
    "export": "write a study as a data set that other tools accept",
    "import": "bring a data set in, for the workbench",
    "verify": "check that a data set is as it was written",
    "agreement": "say how well the annotators of a study agree",
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Make the parser; only the module of ``command`` is imported, so that help and errors are instant."""
    parser = argparse.ArgumentParser(
        prog="lesionseg",
        description="Outline skin lesions: segment, correct, fine-tune, export.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=28),
        epilog="Without a command, or with a folder in its place, the viewer opens. "
        "Exit codes: 0 done, 1 some inputs failed, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"napari-lesionseg {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary.capitalize() + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            _module(name).configure(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after the program's name; None: those of the process.

    Returns
    -------
    int
        0 done, 1 some inputs failed, 2 wrong usage.
    """
    _show_every_letter()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0] not in COMMANDS and not words[0].startswith("-")):
        words = ["app", *words]
    command = words[0] if words[0] in COMMANDS else None
    options = build_parser(command).parse_args(words)
    try:
        result: int = _module(options.command).run(options)
    except LesionSegError as error:
        say_error(str(error))
        return WRONG_USAGE
    except KeyboardInterrupt:
        say_error("Stopped.")
        return INTERRUPTED
    return result


def _show_every_letter() -> None:
    """Let letters that the terminal cannot show appear as their codes, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _module(command: str) -> ModuleType:
    """Import the module of a command; ``import`` is a word of Python's and has a trailing underscore."""
    name = f"{command}_" if keyword.iskeyword(command) else command
    return importlib.import_module(f".{name}", __package__)
