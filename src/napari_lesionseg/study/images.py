"""Where the images of a study are: found by their SHA-256, wherever they were moved to.

An image's file is hashed when it is first needed, and again when its size or time has changed. Opening a
study hashes nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter, ValidationError

from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.atomic import sha256_file, write_atomically
from napari_lesionseg.io.images import image_suffixes
from napari_lesionseg.study.events import Added, RelativePath, Sha256

_Moved: TypeAlias = dict[Sha256, RelativePath]
_MOVED = TypeAdapter(_Moved)
_Stamp: TypeAlias = tuple[int, int]


class ImageFiles:
    """Finds the files of images.

    Parameters
    ----------
    own : Path
        The study's own folder of images, resolved.
    outside : Path, optional
        The folder of the images that were not copied, resolved.
    cache : Path
        File that remembers where moved images were found. What it says is checked; it may be deleted.
    """

    def __init__(self, own: Path, outside: Path | None, cache: Path) -> None:
        self.own = own
        self.outside = outside
        self._cache = cache
        self._hashes: dict[Path, tuple[_Stamp, str]] = {}
        self._listing: dict[int, list[Path]] | None = None
        self._inside: dict[Path, bool] = {}
        self._moved = _read_moved(cache)
        self._moved_before = dict(self._moved)

    def place(self, added: Added) -> Path | None:
        """Return where an image was when it was added; None when the study has no such folder.

        Parameters
        ----------
        added : Added
            The image.

        Returns
        -------
        Path or None
        """
        folder = self.own if added.own else self.outside
        return None if folder is None else folder / added.path

    def leads_out(self, added: Added) -> bool:
        """Tell whether links on its path lead an image out of its folder.

        Parameters
        ----------
        added : Added
            The image.

        Returns
        -------
        bool
        """
        path = self.place(added)
        return path is not None and not self._stays_inside(path, self.own if added.own else self.outside)

    def find(self, added: Added) -> Path:
        """Find an image's file and make sure that it is this image.

        Parameters
        ----------
        added : Added
            The image.

        Returns
        -------
        Path

        Raises
        ------
        StudyError
            When the image is nowhere to be found.
        OSError
            When a file cannot be read.
        """
        for path in self._places(added):
            if self._is_image(path, added):
                self._remember(path, added)
                return path
        if not added.own and (self.outside is None or not self.outside.is_dir()):
            raise StudyError(
                f"The folder of the images{_named(self.outside)} cannot be reached; connect its disk, or "
                "say where the images are now."
            )
        raise StudyError(
            f"The image {added.name} was moved away or changed; put it back, or say where the images are."
        )

    def present(self, added: Added) -> bool:
        """Tell whether a file of the right size is where the image was; quick, and not proof.

        Parameters
        ----------
        added : Added
            The image.

        Returns
        -------
        bool
        """
        path = self.place(added)
        return path is not None and _size(path) == added.size

    def forget_listing(self) -> None:
        """Look through the folders anew when the next image is missing."""
        self._listing = None

    def save(self) -> None:
        """Remember where moved images were found.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        if self._moved != self._moved_before:
            self._cache.parent.mkdir(exist_ok=True)
            write_atomically(self._cache, _MOVED.dump_json(self._moved))
            self._moved_before = dict(self._moved)

    def _places(self, added: Added) -> Iterator[Path]:
        """Yield where an image may be, the likely places first; folders are listed only for the rest."""
        place = self.place(added)
        if place is not None:
            yield place
        moved = self._moved.get(added.image_id)
        if moved is not None and self.outside is not None:
            yield self.outside / moved
        if self._listing is None:
            self._listing = _list_by_size(self.own, self.outside)
        yield from self._listing.get(added.size, [])

    def _is_image(self, path: Path, added: Added) -> bool:
        """Compare size, then hash."""
        folder = self.own if path.is_relative_to(self.own) else self.outside
        if _size(path) != added.size or not self._stays_inside(path, folder):
            return False
        return self._hash(path) == added.image_id

    def _hash(self, path: Path) -> str:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        known = self._hashes.get(path)
        if known is None or known[0] != stamp:
            known = self._hashes[path] = (stamp, sha256_file(path))
        return known[1]

    def _remember(self, path: Path, added: Added) -> None:
        """Note the place of an image that was moved."""
        if path == self.place(added):
            self._moved.pop(added.image_id, None)
        elif self.outside is not None and path.is_relative_to(self.outside):
            self._moved[added.image_id] = path.relative_to(self.outside).as_posix()

    def _stays_inside(self, path: Path, folder: Path | None) -> bool:
        """Tell whether a path is still in its folder once links are followed; folders are asked once."""
        if folder is None:
            return False
        if path.is_symlink():
            return path.resolve().is_relative_to(folder)
        parent = path.parent
        if parent not in self._inside:
            self._inside[parent] = parent.resolve().is_relative_to(folder)
        return self._inside[parent]


def _read_moved(cache: Path) -> _Moved:
    """Read where moved images were found; a cache that is missing or damaged is an empty one."""
    try:
        return _MOVED.validate_json(cache.read_bytes())
    except (OSError, ValidationError):
        return {}


def _list_by_size(own: Path, outside: Path | None) -> dict[int, list[Path]]:
    """List the image files of both folders by their size, without the study's masks."""
    listing: dict[int, list[Path]] = defaultdict(list)
    study = own.parent
    for folder in (own, outside):
        for parent, children, names in os.walk(folder) if folder is not None else ():
            children[:] = [name for name in children if Path(parent, name) != study]
            for path in (Path(parent, name) for name in sorted(names)):
                if path.suffix.lower() in image_suffixes:
                    listing[_size(path)].append(path)
    return listing


def _named(folder: Path | None) -> str:
    return "" if folder is None else f" ({folder})"


def _size(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
