"""Files that a crash cannot tear: written beside their place, then moved there in one step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-z]+\.tmp")
_NAME_LENGTH = 48  # 48 characters take at most 192 bytes, which leaves room within a file system's usual 255
_ATTEMPTS = 3
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}


def write_atomically(path: str | Path, payload: bytes | memoryview) -> None:
    """Write a whole file, or leave what was there untouched.

    The bytes go to a temporary file in the same folder, are forced to disk, and take the name in one step
    (`os.replace`). Whoever reads sees the old file or the new one, never a part. A kill or a power cut
    leaves at worst a temporary file, which `sweep_temporaries` removes. Links are followed; pipes, devices
    and the file that this process prints into (``/dev/stdout``) are written into.
    """
    if is_stream(Path(path)):  # /dev/stdout is a link that leads to no path, yet it can be opened
        with Path(path).open("wb") as stream:  # a file in its place would break whoever reads from it
            stream.write(payload)
        return
    path = follow_link(path)
    if (output := _own_output(path)) is not None:
        for said_before in filter(None, (sys.stdout, sys.stderr)):  # a window has neither
            said_before.flush()
        with os.fdopen(os.dup(output), "wb") as stream:
            stream.write(payload)
        return
    for attempts_left in reversed(range(_ATTEMPTS)):
        temporary = _write_temporary(path, payload)
        try:
            os.replace(temporary, path)  # noqa: PTH105 - the name of the one call that everything rests on
        except FileNotFoundError:
            # Another process's sweep took the temporary for a dead one: write it again.
            if not attempts_left:
                raise
            continue
        finally:
            _remove(temporary)
        sync_folder(path.parent)
        return


def check_writable(folder: Path) -> None:
    """Raise the `OSError` that a file in this folder would raise."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def _own_output(path: Path) -> int | None:
    """Return the descriptor of this process's output that goes into a file; None: neither does."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
    return None


def follow_link(path: str | Path) -> Path:
    """Return the path that a link leads to, which need not exist; what is no link stays as it is."""
    if not os.path.islink(path):  # noqa: PTH114
        return Path(path)
    # Not Path.resolve, whose error for links that lead round in a circle is no OSError.
    place = os.path.realpath(path)
    if os.path.islink(place):  # noqa: PTH114
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return Path(place)


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device, into which one writes; it cannot be replaced or read again."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))  # noqa: PTH110,PTH112,PTH113


def sweep_temporaries(folder: str | Path) -> list[Path]:
    """Remove the temporary files that killed writers left in a folder.

    Safe at any time: a writer at work whose temporary file is taken away writes it again.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    found = sorted(entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name))
    return [entry for entry in found if _remove(entry)]


def sha256_file(path: str | Path) -> str:
    """Hash a file's contents."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: str | Path) -> None:
    """Force a folder's entries (new, renamed, removed names) to disk.

    Where the system cannot (Windows, some network shares) nothing happens.
    """
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _write_temporary(path: Path, payload: bytes | memoryview) -> Path:
    """Write the payload beside `path`, forced to disk, and return where."""
    temporary = path.with_name(f".{path.name[:_NAME_LENGTH]}.{os.getpid()}-{secrets.token_hex(6)}.tmp")
    stream = temporary.open("xb")
    try:
        with stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        _remove(temporary)
        raise
    return temporary


def _remove(path: Path) -> bool:
    """Remove a file; tell whether it was there and is gone."""
    with contextlib.suppress(OSError):
        path.unlink()
        return True
    return False
