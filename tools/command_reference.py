"""Print docs/reference/commands.md, generated from the commands' help.

python tools/command_reference.py > docs/reference/commands.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from napari_lesionseg.cli.main import COMMANDS, build_parser

HEAD = """\
# Commands

This page is generated from `lesionseg COMMAND --help` by `tools/command_reference.py`.

`lesionseg [FOLDER]` is `lesionseg app [FOLDER]`. Results go to standard output, progress and errors to
standard error. If an input fails, it is listed and the others are processed.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | some inputs failed, or a dask cluster cannot be used |
| 2 | invalid usage, or nothing could be done; standard error gives the reason |
| 130, 143, 129 | stopped by Ctrl+C, SIGTERM, or a terminal that was closed |
"""


def main() -> None:
    """Print the page."""
    sys.stdout.write(page())


def page() -> str:
    """Make the page."""
    return "\n".join([HEAD, *(line for name in COMMANDS for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    parser = _subparsers(build_parser(name))[name]
    yield f"## lesionseg {name}\n"
    yield f"{parser.description}\n"
    yield from _arguments(parser)
    for action, subparser in _subparsers(parser).items():
        yield f"### lesionseg {name} {action}\n"
        yield f"{_helps(parser)[action].capitalize()}.\n"
        yield from _arguments(subparser)
    if parser.epilog:
        yield f"```\n{_example(parser.epilog)}\n```\n"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = [_row(action) for action in parser._actions if _is_argument(action)]
    if rows:
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows, ""])


def _is_argument(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)


def _row(action: argparse.Action) -> str:
    meaning = [action.help or ""]
    if action.required and action.option_strings:
        meaning.append("(required)")
    if action.option_strings and action.default not in (None, False, "", []) and "default" not in meaning[0]:
        meaning.append(f"(default: {_words(action.default)})")
    return f"| `{_name(action)}` | {' '.join(filter(None, meaning))} |"


def _name(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if not action.option_strings:
        patterns = {"+": "{} ...", "*": "[{} ...]", "?": "[{}]"}
        return patterns.get(str(action.nargs), "{}").format(value)
    if action.nargs == 0:
        return action.option_strings[-1]
    return f"{action.option_strings[-1]} {value}{' ...' if action.nargs == '+' else ''}"


def _words(default: object) -> str:
    return " ".join(default) if isinstance(default, list) else str(default)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the help text of each action of a command."""
    (actions,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {choice.dest: choice.help or "" for choice in actions._choices_actions}


def _example(epilog: str) -> str:
    """Return the lines below the title, without their indentation."""
    return "\n".join(line.strip() for line in epilog.splitlines()[1:])


if __name__ == "__main__":
    main()
