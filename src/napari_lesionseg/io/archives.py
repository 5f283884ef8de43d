"""ZIP and TAR archives, unpacked so that they can neither leave their folder nor fill the disk."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import MAX_ENTRIES, contained, is_file

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of the archives that are unpacked, in lower case."""

MAX_RATIO = 200
"""Most an archive may grow by; images grow little, and 1000 is a bomb."""

MAX_ARCHIVE_BYTES = 512 * 1024**3
_SLACK = 64 * 1024**2  # small archives of flat masks grow by more than any fixed ratio
_CHUNK = 1024**2
_MOST_AT_ONCE = 16 * 1024**2

ZIP_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""All that zipfile and its decompressors were seen to raise on damaged archives."""

_UNPACKING_ERRORS = (*ZIP_ERRORS, tarfile.TarError)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Tell by its name whether a file is an archive that `unpack` understands."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and is_file(path)


def unpack(archive: Path, folder: Path) -> Iterator[str]:
    """Unpack a ZIP or TAR archive into an empty folder, safely.

    Names are checked before anything is written: an archive with absolute names, names that climb out, links,
    devices, encrypted or doubled entries is refused whole. What is written is counted as it comes, so that an
    archive cannot grow beyond what it announced, `MAX_RATIO` times its size, or the free disk.
    """
    try:
        limit = _size_limit(archive, folder)
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                yield from _write_members(_gather(_zip_members(opened), limit), folder, limit)
        else:
            with _open_tar(archive) as opened_tar:
                yield from _write_members(_gather(_tar_members(opened_tar, folder), limit), folder, limit)
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


def _tar_members(opened: tarfile.TarFile, folder: Path) -> Iterator[_Member]:
    for info in opened:
        if info.isdir():
            continue
        if not info.isreg():
            raise DatasetError(f"{info.name!r} is a link or device; such archives are not unpacked.")
        tarfile.data_filter(info, str(folder))
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
