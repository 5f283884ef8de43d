"""Stands between the package and the file system: counts what it asks for, and lets it fail or die there.

Nothing in the package knows of this. `Tap` replaces the few calls through which it writes (`Path.open`,
`Path.mkdir`, `os.open`, `os.fsync`, `os.replace`) for paths inside one folder.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Listener = Callable[[int, str], None]
"""Gets the number of a point of the save path and its name, such as ``"before fsync of mask"``."""

_WRITING = {"xb", "wb", "ab"}


class PowerCutError(BaseException):
    """The simulated end of electricity; no code of the package may catch it."""


class Tap:
    """Calls a listener at every point of the save path inside `root`."""

    def __init__(self, root: Path, listener: Listener, disk: Disk | None = None) -> None:
        self.root = root
        self.points = 0
        self._listener = listener
        self._disk = disk
        self._paths: dict[int, Path] = {}
        self._real: dict[str, Any] = {}

    def __enter__(self) -> Tap:
        self._real = {
            "open": os.open,
            "fsync": os.fsync,
            "replace": os.replace,
            "path_open": Path.open,
            "mkdir": Path.mkdir,
        }
        tap = self
        os.open, os.fsync, os.replace = self._open, self._fsync, self._replace
        Path.open = lambda path, *args, **named: tap._path_open(path, *args, **named)
        Path.mkdir = lambda path, *args, **named: tap._mkdir(path, *args, **named)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.open, os.fsync, os.replace = (self._real[name] for name in ("open", "fsync", "replace"))
        Path.open, Path.mkdir = self._real["path_open"], self._real["mkdir"]

    def at(self, what: str, path: Path) -> None:
        self.points += 1
        self._listener(self.points - 1, f"{what} of {self._kind(path)}")

    def _kind(self, path: Path) -> str:
        parts = path.relative_to(self.root).parts
        if path.is_dir() or not parts:
            return f"folder {parts[0] if parts else 'itself'}"
        return {"masks": "mask", "images": "image_id"}.get(parts[0], parts[0])

    def _inside(self, path: Path) -> bool:
        return path.is_relative_to(self.root)

    def _open(self, path: Any, *args: Any, **named: Any) -> int:
        descriptor = self._real["open"](path, *args, **named)
        self._paths[descriptor] = Path(path)
        return descriptor

    def _path_open(self, path: Path, mode: str = "r", *args: Any, **named: Any) -> Any:
        if mode not in _WRITING or not self._inside(path):
            return self._real["path_open"](path, mode, *args, **named)
        self.at("before opening", path)
        stream = self._real["path_open"](path, mode, *args, **named)
        self._paths[stream.fileno()] = path
        return TappedStream(stream, path, self)

    def _mkdir(self, path: Path, *args: Any, **named: Any) -> None:
        if not self._inside(path):
            return self._real["mkdir"](path, *args, **named)
        self.at("before making", path)
        self._real["mkdir"](path, *args, **named)
        return self.at("after making", path)

    def _fsync(self, descriptor: int) -> None:
        path = self._paths.get(descriptor, Path("/"))
        if not self._inside(path):
            return self._real["fsync"](descriptor)
        self.at("before fsync", path)
        self._real["fsync"](descriptor)
        if self._disk is not None:
            self._disk.synced(path)
        return self.at("after fsync", path)

    def _replace(self, source: Any, target: Any) -> None:
        if not self._inside(Path(target)):
            return self._real["replace"](source, target)
        self.at("before replacing", Path(target))
        self._real["replace"](source, target)
        return self.at("after replacing", Path(target))


class TappedStream:
    """A file whose writes go through in two halves, with points before, between and after."""

    def __init__(self, stream: Any, path: Path, tap: Tap) -> None:
        self._stream = stream
        self._path = path
        self._tap = tap

    def write(self, payload: Any) -> int:
        payload = bytes(payload)
        self._tap.at("before writing", self._path)
        self._stream.write(payload[: len(payload) // 2])
        self._stream.flush()
        self._tap.at("middle of writing", self._path)
        self._stream.write(payload[len(payload) // 2 :])
        self._stream.flush()
        self._tap.at("after writing", self._path)
        return len(payload)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def __enter__(self) -> TappedStream:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


class Disk:
    """What a power cut would leave in the worst case: only what was forced to the disk.

    A file's bytes are those of its last fsync, a name is there once its folder was fsynced after it was made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bytes: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            for path in folder.iterdir():
                if path.is_file():
                    self._bytes[path.stat().st_ino] = path.read_bytes()
            self._sync_folder(folder)

    def synced(self, path: Path) -> None:
        if path.is_dir():
            self._sync_folder(path)
        else:
            self._bytes[path.stat().st_ino] = path.read_bytes()

    def _sync_folder(self, folder: Path) -> None:
        self._names[folder] = {path.name: path.stat().st_ino for path in folder.iterdir()}

    def leave(self, target: Path) -> None:
        """Write what is left into another folder."""
        self._leave(self._root, target)

    def _leave(self, folder: Path, target: Path) -> None:
        target.mkdir()
        for name, inode in self._names.get(folder, {}).items():
            if (folder / name).is_dir():
                self._leave(folder / name, target / name)
            else:
                (target / name).write_bytes(self._bytes.get(inode, b""))


def die_at(number: int) -> Listener:
    """Kill this process at one point."""

    def listener(point: int, name: str) -> None:
        if point == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return listener


def fail_at(number: int, error: int, *, lasting: bool) -> Listener:
    """Raise an error of the system at one point, and if lasting at all later ones too.

    An error can only come out of a call, so points after a call never raise.
    """

    def listener(point: int, name: str) -> None:
        if not name.startswith("after") and (point == number or (lasting and point > number)):
            raise OSError(error, os.strerror(error))

    return listener


def cut_at(number: int) -> Listener:
    """Take the power away at one point."""

    def listener(point: int, name: str) -> None:
        if point >= number:
            raise PowerCutError(name)

    return listener
