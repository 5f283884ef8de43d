"""The table of commands: find one, run it, turn errors into one line and an exit code.

Hardly anything is imported at the top, so that Ctrl+C ends in one line even while a command is loading.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import pairwise, takewhile
from typing import Any, NamedTuple, NoReturn

from napari_lesionseg import __version__
from napari_lesionseg.cli.signals import discard, output_error, stop_on_signals
from napari_lesionseg.errors import ClusterError, LesionSegError


class UsageError(LesionSegError):
    """The command line does not say what to do."""


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, also when its help cannot be written."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; a wrong option comes before anything that is missing because of it."""
        words = list(args or ())
        # What follows the name of a command is for its own parser.
        own = words if self._subparsers is None else takewhile(lambda word: word.startswith("-"), words)
        for word in takewhile(lambda word: word != "--", own):
            name = word.partition("=")[0]
            known = self._option_string_actions
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                self.error(f"There is no option {name}{_nearest(name, known)}")
        if self._subparsers is not None:
            return super().parse_known_args(words, namespace)
        for before, word in pairwise(("", *words)):
            # Of a variable that is not set; as a path it would be the current folder.
            if not word or re.fullmatch("--[^=]+=", word):
                option = word.rstrip("=") or (before if re.match("--.", before) else "")
                self.error(f"{option}: the value is empty" if option else "an argument is empty")
        found, rest = super().parse_known_args(words, namespace)
        if rest:  # said here, where the page of help is that of the command
            self.error(f"unrecognized arguments: {shlex.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError` that names the page of help."""
        text = re.sub(r"invalid \w+ value: (.+)", r"\1 does not fit", message.removeprefix("argument "))
        sentence = f"{text[:1].upper()}{text[1:]}".rstrip(".")
        raise UsageError(f"{sentence}; `{self.prog} --help` shows what there is.")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not sys.stdout or sys.stdout is None:  # None: closed by whoever started the program
            super()._print_message(message, file)
            return
        try:
            sys.stdout.write(message)
            sys.stdout.flush()
        except OSError as error:
            raise output_error(error) from error


class Command(NamedTuple):
    """A command: the functions ``configure_COMMAND`` and ``run_COMMAND`` of a module of this package."""

    module: str
    summary: str


DONE, SOME_FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

COMMANDS = {
    "app": Command("app", "open the viewer with the workbench"),
    "demo": Command("demo", "segment built-in sample images and show them"),
    "segment": Command("segment", "outline the lesions in images"),
    "landmarks": Command("landmarks", "find landmarks in images, such as the joints of people"),
    "train": Command("train", "train a network on images with masks"),
    "finetune": Command("finetune", "fine-tune a model on corrected images"),
    "evaluate": Command("evaluate", "measure a model on images with masks"),
    "tune": Command("evaluate", "choose a model's threshold on held-out images"),
    "models": Command("models", "list, add, rename or remove models"),
    "export": Command("datasets", "write a study as a dataset that other tools accept"),
    "import": Command("datasets", "import a dataset for the workbench"),
    "fields": Command("studies", "list, fill in or write the fields of a study, such as the diagnosis"),
    "followup": Command("studies", "measure lesions over time"),
    "review": Command("studies", "show how reviews and gold standards turned out"),
    "verify": Command("datasets", "check that a dataset is as it was written"),
    "agreement": Command("studies", "measure how well the annotators of a study agree"),
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the module of ``command`` is imported, so that help and errors are instant."""
    parser = _Parser(
        prog="lesionseg",
        description="Outline skin lesions: segment, correct, fine-tune, export.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=28),
        epilog="Without a command, or with a folder in its place, the viewer opens. "
        "Exit codes: 0 done, 1 some inputs failed, 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"napari-lesionseg {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary[:1].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            _function("configure", name)(subparser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the process, and return its exit code."""
    with stop_on_signals(until_exit=arguments is None) as stop:
        try:
            code = _run(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt as error:
            stop.has_ended = True
            if sys.stderr is not None:  # as where it was closed by whoever started the program
                try:
                    sys.stderr.write("lesionseg: Stopped.\n")
                    sys.stderr.flush()
                except OSError:  # the terminal may be gone
                    discard(sys.stderr)
            return 128 + error.args[0] if error.args else INTERRUPTED
        return code


def _run(arguments: Sequence[str]) -> int:
    _show_every_letter()
    words = list(arguments)
    try:
        if not words or (words[0] not in COMMANDS and not words[0].startswith("-")):
            check_folder(*words[:1])
            words = ["app", *words]
        command = words[0] if words[0] in COMMANDS else None
        options = build_parser(command).parse_args(words)
        code: int = _function("run", options.command)(options)
    except SystemExit as stop:  # argparse's way out
        return stop.code if isinstance(stop.code, int) else DONE
    except LesionSegError as error:
        importlib.import_module(".console", __package__).print_error(str(error))
        return SOME_FAILED if isinstance(error, ClusterError) else WRONG_USAGE
    except OSError as error:
        if error.filename is None:
            raise
        reason = f"{error.filename} cannot be used: {error.strerror}."
        importlib.import_module(".console", __package__).print_error(reason)
        return WRONG_USAGE
    return code


def check_folder(word: str = ".") -> None:
    """Raise a `UsageError` with the right command if what stands in a command's place is no folder."""
    if os.path.isdir(word):  # noqa: PTH112 - never raises
        return
    if not os.path.isfile(word):  # noqa: PTH113
        found = f"'{word}'{_nearest(word, COMMANDS)}"
        raise UsageError(f"There is no command or folder {found}; `lesionseg --help` lists the commands.")
    folder = os.path.dirname(word) or os.curdir  # noqa: PTH120
    raise UsageError(
        f"'{word}' is a file; open its folder with `{shlex.join(['lesionseg', 'app', folder])}`, "
        "or outline an image with `lesionseg segment IMAGE --out FOLDER`."
    )


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return the question whether a similar word was meant; empty if none is similar."""
    found = get_close_matches(word, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _show_every_letter() -> None:
    """Print letters that the terminal lacks as their codes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _function(role: str, command: str) -> Callable[..., Any]:
    """Import the function that configures or runs a command."""
    module = importlib.import_module(f".{COMMANDS[command].module}", __package__)
    function: Callable[..., Any] = getattr(module, f"{role}_{command}")
    return function
