"""Files from strangers: names that stay inside their folder, archives that cannot fill the disk, tables.

Nothing here executes or unpickles anything. Whatever is wrong with a file is said in one `DatasetError`.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import json
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from napari_lesionseg.errors import DatasetError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of the archives that are unpacked, in lower case."""

MAX_ENTRIES = 500_000
"""Most files in one folder tree or archive."""

MAX_RATIO = 200
"""Most an archive may grow by; images grow little, and 1000 is a bomb."""

MAX_ARCHIVE_BYTES = 512 * 1024**3
MAX_JSON_BYTES = 2 * 1024**3
MAX_TABLE_BYTES = 256 * 1024**2
MAX_DEPTH = 24
_STUDY = "study.json"
_SLACK = 64 * 1024**2  # small archives of flat masks grow by more than any fixed ratio
_CHUNK = 1024**2
_MOST_AT_ONCE = 16 * 1024**2

# All that zipfile, tarfile and their decompressors were seen to raise on damaged archives.
_UNPACKING_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def contained(root: Path, name: str) -> Path:
    r"""Return the path of `name` inside `root`, and make sure that it is inside.

    Parameters
    ----------
    root : Path
        The folder that must not be left.
    name : str
        A relative path with ``/`` or ``\`` between its parts.

    Returns
    -------
    Path
        ``root / name``; the file need not exist.

    Raises
    ------
    DatasetError
        When the path is absolute, climbs out, or leads out through a link.
    """
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

    Parameters
    ----------
    root : Path
        The folder.

    Yields
    ------
    Path
        Files.

    Raises
    ------
    DatasetError
        When a folder cannot be listed, or holds more than `MAX_ENTRIES` files.
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


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that `unpack` understands."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()


def unpack(archive: Path, folder: Path) -> Iterator[str]:
    """Unpack a ZIP or TAR archive into an empty folder, safely.

    Names are checked before anything is written: an archive with absolute names, names that climb out, links,
    devices, encrypted or doubled entries is refused whole. What is written is counted as it comes, so that an
    archive cannot grow beyond what it announced, `MAX_RATIO` times its size, or the free disk.

    Parameters
    ----------
    archive : Path
        The archive.
    folder : Path
        Where to unpack; must exist.

    Yields
    ------
    str
        Name of each file after it was written.

    Raises
    ------
    DatasetError
        When the archive is damaged or unsafe, or the disk is too small.
    """
    try:
        limit = _size_limit(archive, folder)
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                yield from _write_members(_gather(_zip_members(opened), limit), folder, limit)
        else:
            with _open_tar(archive) as opened_tar:
                yield from _write_members(_gather(_tar_members(opened_tar), limit), folder, limit)
    except _UNPACKING_ERRORS as error:
        raise DatasetError(f"{archive} is damaged or cannot be unpacked: {error}.") from error


class _Careful(io.BufferedIOBase):
    """A stream that refuses to hand out very much at once, as TAR headers are read whole."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MOST_AT_ONCE:
            raise DatasetError("The archive holds a header that is too large; it is not unpacked.")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextlib.contextmanager
def _open_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open a TAR file, compressed or not."""
    zipped = archive.name.lower().endswith(("gz", "tgz"))
    with (
        gzip.open(archive, "rb") if zipped else archive.open("rb") as stream,
        tarfile.open(fileobj=_Careful(cast("IO[bytes]", stream)), mode="r:") as opened,
    ):
        yield opened


def _gather(members: Iterable[_Member], limit: int) -> list[_Member]:
    """List an archive's files; stop before it grows too large."""
    gathered = []
    for member in members:
        limit -= member.size
        gathered.append(member)
        if limit < 0 or member.size < 0:
            raise DatasetError(
                "The archive would grow too large for its size or for the disk; it is not unpacked."
            )
        if len(gathered) > MAX_ENTRIES:
            raise DatasetError(f"The archive holds more than {MAX_ENTRIES} files; it is not unpacked.")
    return gathered


def _zip_members(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        mode = info.external_attr >> 16
        if info.flag_bits & 1:
            raise DatasetError(f"{info.filename!r} is encrypted; unpack the archive yourself.")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DatasetError(f"{info.filename!r} is a link or device; such archives are not unpacked.")
        if not info.is_dir():
            yield _Member(info.filename, info.file_size, functools.partial(opened.open, info))


def _tar_members(opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        if info.isdir():
            continue
        if not info.isreg():
            raise DatasetError(f"{info.name!r} is a link or device; such archives are not unpacked.")
        yield _Member(info.name, info.size, functools.partial(_tar_stream, opened, info))


def _tar_stream(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = opened.extractfile(info)
    if stream is None:
        raise DatasetError(f"{info.name!r} is not a file.")
    return stream


def _write_members(members: list[_Member], folder: Path, limit: int) -> Iterator[str]:
    paths = [contained(folder, member.name) for member in members]
    if len({str(path).casefold() for path in paths}) != len(paths):
        raise DatasetError("Two entries of the archive have the same name; it is not unpacked.")
    for member, path in zip(members, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as stream, path.open("xb") as target:
            limit -= _copy(stream, target, min(limit, member.size))
        yield member.name


def _size_limit(archive: Path, folder: Path) -> int:
    free = shutil.disk_usage(folder).free
    return min(archive.stat().st_size * MAX_RATIO + _SLACK, MAX_ARCHIVE_BYTES, free)


def _copy(stream: IO[bytes], target: IO[bytes], limit: int) -> int:
    """Copy at most `limit` bytes; more is an error. Return how many."""
    copied = 0
    while chunk := stream.read(_CHUNK):
        copied += len(chunk)
        if copied > limit:
            raise DatasetError("An entry of the archive is larger than it says; the archive is not unpacked.")
        target.write(chunk)
    return copied


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : Path
        UTF-8 text of at most `MAX_JSON_BYTES`.

    Returns
    -------
    object
        What the file holds.

    Raises
    ------
    DatasetError
        When it cannot be read, is too large, or is not JSON.
    """
    text = _text(path, MAX_JSON_BYTES)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON that can be read: {error}.") from error


def read_table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """Read a CSV file with a header line.

    Parameters
    ----------
    path : Path
        Text of at most `MAX_TABLE_BYTES`.
    delimiter : str
        What separates the cells.

    Returns
    -------
    list of dict
        One dict a row, header to cell, without surrounding space; missing cells are "".

    Raises
    ------
    DatasetError
        When it cannot be read or is not such a table.
    """
    lines = _text(path, MAX_TABLE_BYTES).splitlines()
    try:
        reader = csv.DictReader(lines, delimiter=delimiter, restval="")
        return [_clean_row(row) for row in reader]
    except csv.Error as error:
        raise DatasetError(f"{path} is not a table that can be read: {error}.") from error


def _clean_row(row: dict[str | None, Any]) -> dict[str, str]:
    return {key.strip(): value.strip() for key, value in row.items() if key and isinstance(value, str)}


def write_table(path: Path, rows: Iterable[dict[str, str]], columns: Iterable[str]) -> None:
    """Write a CSV file with a header line.

    Parameters
    ----------
    path : Path
        The file.
    rows : iterable of dict
        One dict a row; what is missing stays empty.
    columns : iterable of str
        The header.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(columns), restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _text(path: Path, limit: int) -> str:
    """Return a text file's contents; bytes that are no UTF-8 become the replacement character."""
    try:
        if path.stat().st_size > limit:
            raise DatasetError(f"{path} is larger than {limit // 1024**2} MB and is not read.")
        return path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
