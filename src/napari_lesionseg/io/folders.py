"""Paths of strangers that stay inside their folder."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from napari_lesionseg.errors import DatasetError

MAX_ENTRIES = 500_000
"""Most files in one folder tree or archive."""

MAX_DEPTH = 24
_STUDY = "study.json"
LITTER = frozenset({"@eaDir", "__MACOSX"})
"""Folders that Synology and macOS leave behind; they are skipped, as hidden files are."""

_PLACEHOLDERS = {".dvc": "fetch it with `dvc pull`", ".icloud": "download it from iCloud"}

# Everything that walks or checks paths below asks for it. A variable of the process, not of a context: the
# threads of the window, which read studies, would not inherit that.
_followed: Path | None = None


@contextlib.contextmanager
def follow_links(root: Path | None) -> Iterator[None]:
    """Follow links that stay inside `root`, in addition to those that stay inside the dataset or study.

    None changes nothing; what is no folder is a `DatasetError`.
    """
    global _followed
    if root is not None and not is_dir(root):
        raise DatasetError(f"Links cannot be followed into {root}, which is no folder.")
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
    """Whether a file or folder of this name is hidden, or left behind by a system or by Excel."""
    return name in LITTER or (name.startswith((".", "~$")) and not name.endswith(".icloud"))


def is_placeholder(name: str) -> bool:
    """Whether a file of this name may stand for another one, which is elsewhere."""
    return name.lower().endswith((*_PLACEHOLDERS,))


def awaited_file(path: Path) -> Path | None:
    """Return the file that a placeholder stands for, if it is not there."""
    if not is_placeholder(path.name):
        return None
    stem = path.name[: -len(path.suffix)]
    place = path.with_name(stem.removeprefix(".") or stem)  # iCloud hides its own
    return None if exists(place) else place


def why_awaited(path: Path) -> str:
    """Say what is to be done about a placeholder; "" where nothing is."""
    awaited = awaited_file(path)
    return f"{awaited.name} is not there; {_PLACEHOLDERS[path.suffix.lower()]}." if awaited else ""


def stays_inside(path: Path, root: Path) -> bool:
    """Whether a path is inside a folder, or where links may lead, once links are followed."""
    try:
        if _is_below(path, root):
            return True
        target = path.resolve()
    except (OSError, RuntimeError):
        return False
    return target.is_relative_to(root.resolve()) or may_follow(target)


def _is_below(path: Path, root: Path) -> bool:
    """Whether a path leads to a place below a folder without any link; raises ValueError for no path."""
    # Strings and the folders below alone: to resolve every path of 10 000 images takes seconds.
    place = os.fspath(root)
    text, start = os.fspath(path), place if place.endswith(os.sep) else f"{place}{os.sep}"
    names = text[len(start) :].split(os.sep)  # noqa: PTH206
    if not text.startswith(start) or ".." in names:
        return False
    for name in names:
        place = os.path.join(place, name)  # noqa: PTH118
        try:
            if stat.S_ISLNK(os.lstat(place).st_mode):
                return False
        except FileNotFoundError:
            return True
    return True


def folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder, links to folders included; raises OSError where it cannot be listed."""
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if _leads_to_folder(entry)]


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def has_folders(folder: Path) -> bool:
    """Whether there are folders in a folder that may hold images: no hidden ones, and no study."""
    try:
        below = [path for path in folders_in(folder) if not is_litter(path.name)]
    except OSError:
        return False
    return any(not is_file(path / _STUDY) for path in below)


def contained(root: Path, name: str) -> Path:
    r"""Return the path of `name` inside `root`, and make sure that it is inside."""
    try:
        path = root.joinpath(*_safe_parts(name))
        if _is_below(path, root):
            return path
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

    Left out are hidden files, `LITTER`, links that lead out of the folder (see `FolderScan.passed_over`), and
    studies, which do not belong to the dataset that they are in.
    """
    return (path for path, reason in _told_apart(root) if not reason)


class FolderScan:
    """What lies below a folder, as `walk` tells it, listed once for all that ask."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def files(self) -> list[Path]:
        """The files, in order of their names."""
        return self._listed[0]

    @property
    def passed_over(self) -> list[tuple[Path, str]]:
        """The links and folders that are left out though they may hold data, each with the reason."""
        return self._listed[1]

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """The folders that the files lie in."""
        # Strings, since asking 10 000 paths for their parents takes longer than listing them.
        return tuple(map(Path, dict.fromkeys(os.path.dirname(path) for path in self.files)))  # noqa: PTH120

    @cached_property
    def suffixes(self) -> dict[str, list[int]]:
        """The endings that files have, in lower case, each with the places of its files."""
        places: dict[str, list[int]] = {}
        for place, path in enumerate(self.files):
            places.setdefault(os.path.splitext(path)[1].lower(), []).append(place)  # noqa: PTH122
        return places

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with one of some endings, given in lower case, in order of their names."""
        places = (place for suffix in suffixes for place in self.suffixes.get(suffix, ()))
        return [self.files[place] for place in sorted(places)]

    @cached_property
    def _listed(self) -> tuple[list[Path], list[tuple[Path, str]]]:
        files: list[Path] = []
        passed_over: list[tuple[Path, str]] = []
        for path, reason in _told_apart(self.root):
            if reason:
                passed_over.append((path, reason))
            else:
                files.append(path)
        return files, passed_over


def _told_apart(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files below a folder, and what is passed over though it may hold data, with the reason."""
    for entry in _entries(root):
        if entry.is_symlink():
            path = Path(entry.path)
            reason = _why_not_followed(path, root)
            if reason or is_file(path):
                yield path, reason
        elif entry.is_dir():
            yield Path(entry.path), "The folder cannot be listed, or is nested too deep."
        elif _leads_to_file(entry):
            path = Path(entry.path)
            yield path, why_awaited(path) if is_placeholder(entry.name) else ""


def _why_not_followed(link: Path, root: Path) -> str:
    """Say why a link is not followed; "" for one to a file that is."""
    if not exists(link):
        return "The link leads to a file that is not there; fetch it first."
    if not stays_inside(link, root):
        return "The link leads out of the folder; allow it with --follow-links ROOT."
    return "Links to folders inside the dataset are not followed." if is_dir(link) else ""


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
            shown = [entry for entry in entries if not is_litter(entry.name)]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror}.") from error
    return sorted(shown, key=lambda entry: entry.name)


def _leads_to_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
