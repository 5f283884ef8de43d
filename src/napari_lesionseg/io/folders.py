"""Paths of strangers that stay inside their folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from napari_lesionseg.errors import DatasetError

MAX_ENTRIES = 500_000
"""Most files in one folder tree or archive."""

MAX_DEPTH = 24
_STUDY = "study.json"


def contained(root: Path, name: str) -> Path:
    r"""Return the path of `name` inside `root`, and make sure that it is inside."""
    try:
        path = root.joinpath(*_safe_parts(name))
        if not path.resolve().is_relative_to(root.resolve()):
            raise DatasetError(f"{name!r} leads out of {root} and is not read.")
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{name[:200]!r} is not a file name that can be used.") from error
    return path


def _safe_parts(name: str) -> tuple[str, ...]:
    """Cut a relative path into its parts; refuse what could point elsewhere."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or ":" in path.parts[0]:
        raise DatasetError(f"{name[:200]!r} is not a path inside its data set and is not read.")
    return path.parts


def walk(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, in order of their names.

    Left out are hidden files, links that lead out of the folder, and studies, which are no part of the data
    set that they are in.
    """
    inside = root.resolve()
    folders = [(root, 0)]
    count = 0
    while folders:
        folder, depth = folders.pop()
        for entry in _listed(folder):
            count += 1
            if count > MAX_ENTRIES:
                raise DatasetError(f"{root} holds more than {MAX_ENTRIES} files; give a smaller folder.")
            if entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                if (Path(entry.path) / _STUDY).is_file():
                    continue
                folders.append((Path(entry.path), depth + 1))
            elif _is_file_within(entry, inside):
                yield Path(entry.path)


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from error


def _is_file_within(entry: os.DirEntry[str], root: Path) -> bool:
    try:
        return entry.is_file() and (not entry.is_symlink() or Path(entry.path).resolve().is_relative_to(root))
    except (OSError, RuntimeError):
        return False
