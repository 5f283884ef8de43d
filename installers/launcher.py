"""Entry point of the installed program."""

from __future__ import annotations

import ctypes.util
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path


def find_library(name: str, others: Callable[[str], str | None] = ctypes.util.find_library) -> str | None:
    """Find a library in the installed folder, else in the system."""
    folder = Path(__file__).parent
    return next((str(path) for path in sorted(folder.glob(f"lib{name}.so*"))), None) or others(name)


def main() -> int:
    """Run the command line; without arguments it opens the window."""
    ctypes.util.find_library = find_library  # VisPy asks the system's tools, which not every computer has
    multiprocessing.freeze_support()
    os.environ.setdefault("QT_API", "pyside6")  # the binding in the installer
    if sys.stdout is None or sys.stderr is None:  # a program without a console, on Windows
        sink = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  open until the end
        sys.stdout, sys.stderr = sys.stdout or sink, sys.stderr or sink
    from napari_lesionseg.cli import main as run  # after the binding is chosen

    return run()


if __name__ == "__main__":
    sys.exit(main())
