"""Entry point of the installed program."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path


def main() -> int:
    """Run the command line; without arguments it opens the window."""
    multiprocessing.freeze_support()
    os.environ.setdefault("QT_API", "pyside6")  # the binding in the installer
    if sys.stdout is None or sys.stderr is None:  # a program without a console, on Windows
        sink = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  open until the end
        sys.stdout, sys.stderr = sys.stdout or sink, sys.stderr or sink
    from napari_lesionseg.cli import main as run  # after the binding is chosen

    return run()


if __name__ == "__main__":
    sys.exit(main())
