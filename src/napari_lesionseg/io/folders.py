"""Paths of strangers that stay inside their folder."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from napari_lesionseg.errors import DatasetError

MAX_ENTRIES = 500_000
"""Most files in one folder tree or archive."""

MAX_DEPTH = 24
_STUDY = "study.json"
LITTER = frozenset({"@eaDir", "__MACOSX"})
"""Folders that Synology and macOS leave behind; they are skipped, as hidden files are."""

# Everything that walks or checks paths below asks for it. A variable of the process, not of a context: the
# threads of the window, which read studies, would not inherit that.
_followed: Path | None = None


@contextlib.contextmanager
def follow_links(root: Path | None) -> Iterator[None]:
    """Follow links that stay inside `root`, in addition to those that stay inside the dataset or study.

    None changes nothing.
    """
    global _followed
    before = _followed
    _followed = before if root is None else root.resolve()
    try:
        yield
    finally:
        _followed = before


def may_follow(target: Path) -> bool:
    """Whether a path with all links followed is where links may lead."""
    return _followed is not None and target.is_relative_to(_followed)


# pathlib raises errors for folders without permission, lost shares and impossible names; these say no.


def exists(path: Path) -> bool:
    """Whether something is there that can be asked for."""
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: Path) -> bool:
    """Whether a file is there."""
    return os.path.isfile(path)  # noqa: PTH113


def is_dir(path: Path) -> bool:
    """Whether a folder is there."""
    return os.path.isdir(path)  # noqa: PTH112


def spelled(path: Path) -> Path | None:
    """Return the file of this name, whichever way its letters are composed; None where there is none."""
    normal = (unicodedata.normalize(form, path.name) for form in ("NFC", "NFD"))
    found = (path.with_name(name) for name in dict.fromkeys([path.name, *normal]))
    return next((candidate for candidate in found if is_file(candidate)), None)


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left behind by a system."""
    return name.startswith(".") or name in LITTER


def stays_inside(path: Path, root: Path) -> bool:
    """Whether a path is inside a folder, or where links may lead, once links are followed."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        return False
    return target.is_relative_to(root.resolve()) or may_follow(target)


def has_folders(folder: Path) -> bool:
    """Whether there are folders in a folder that may hold images: no hidden ones, and no study."""
    try:
        with os.scandir(folder) as entries:
            below = [Path(entry.path) for entry in entries if entry.is_dir() and not is_litter(entry.name)]
    except OSError:
        return False
    return any(not is_file(path / _STUDY) for path in below)


def contained(root: Path, name: str) -> Path:
    r"""Return the path of `name` inside `root`, and make sure that it is inside."""
    try:
        path = root.joinpath(*_safe_parts(name))
        path.resolve()
        if not stays_inside(path, root):
            raise DatasetError(f"{name!r} leads out of {root} and is not read.")
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{name[:200]!r} is not a file name that can be used.") from error
    return path


def _safe_parts(name: str) -> tuple[str, ...]:
    """Cut a relative path into its parts; refuse what could point elsewhere."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name or ":" in path.parts[0]:
        raise DatasetError(f"{name[:200]!r} is not a path inside its dataset and is not read.")
    return path.parts


def walk(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, in order of their names.

    Left out are hidden files, `LITTER`, links that lead out of the folder (see `passed_over`), and
    studies, which do not belong to the dataset that they are in.
    """
    for entry in _entries(root):
        if _leads_to_file(entry) and (not entry.is_symlink() or stays_inside(Path(entry.path), root)):
            yield Path(entry.path)


def passed_over(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the links and folders that `walk` leaves out though they may hold data, each with the reason."""
    for entry in _entries(root):
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield path, "The folder cannot be listed, or is nested too deep."
        elif entry.is_symlink() and not exists(path):
            yield path, "The link leads to a file that is not there; fetch it first."
        elif entry.is_symlink() and not stays_inside(path, root):
            yield path, "The link leads out of the folder; allow it with --follow-links ROOT."
        elif entry.is_symlink() and is_dir(path):
            yield path, "Links to folders inside the dataset are not followed."


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is in a folder and those below it; of the folders only those that cannot be entered."""
    left = [(_listed(root), 0)]
    count = 0
    while left:
        entries, depth = left.pop()
        count += len(entries)
        if count > MAX_ENTRIES:
            raise DatasetError(f"{root} holds more than {MAX_ENTRIES} files; give a smaller folder.")
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False) and not _is_followed_folder(entry, root):
                yield entry
            elif not is_file(Path(entry.path) / _STUDY):
                try:
                    below = _listed(Path(entry.path)) if depth < MAX_DEPTH else None
                except DatasetError:
                    below = None
                if below is None:
                    yield entry
                else:
                    left.append((below, depth + 1))


def _is_followed_folder(entry: os.DirEntry[str], root: Path) -> bool:
    """Whether an entry is a link to a folder elsewhere that may be followed."""
    if not entry.is_symlink():  # asked first, since a path for each of 10 000 files takes half a second
        return False
    path = Path(entry.path)
    return (
        is_dir(path)
        and stays_inside(path, root)
        and not path.resolve().is_relative_to(root.resolve())
        and not root.resolve().is_relative_to(path.resolve())
    )


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [
                entry for entry in entries if not entry.name.startswith(".") and entry.name not in LITTER
            ]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from error
    return sorted(shown, key=lambda entry: entry.name)


def _leads_to_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
