"""Entry point of the installed program."""

from __future__ import annotations

import ctypes.util
import lzma
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def find_library(name: str, others: Callable[[str], str | None] = ctypes.util.find_library) -> str | None:
    """Find a library in the installed folder, else in the system."""
    folder = Path(__file__).parent
    return next((str(path) for path in sorted(folder.glob(f"lib{name}.so*"))), None) or others(name)


def get_data(
    package: str, name: str, plain: Callable[[str, str], bytes | None] = pkgutil.get_data
) -> bytes | None:
    """Read a file of a package, which the installer may have compressed."""
    try:
        return plain(package, name)
    except FileNotFoundError:
        packed = plain(package, f"{name}.xz")
        return None if packed is None else lzma.decompress(packed)


def main() -> int:
    """Run the command line; without arguments it opens the window."""
    ctypes.util.find_library = find_library  # VisPy asks the system's tools, which not every computer has
    pkgutil.get_data = get_data  # highdicom's table of the standard is 23 MB
    unused = "PySide6.QtOpenGL"  # VisPy only looks whether it is there, and it is 9 MB
    sys.modules[unused] = ModuleType(unused)
    multiprocessing.freeze_support()
    os.environ.setdefault("QT_API", "pyside6")  # the binding in the installer
    if sys.stdout is None or sys.stderr is None:  # a program without a console, on Windows
        sink = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  open until the end
        sys.stdout, sys.stderr = sys.stdout or sink, sys.stderr or sink
    from napari_lesionseg.cli import main as run  # after the binding is chosen

    return run()


if __name__ == "__main__":
    sys.exit(main())
