"""The image files of a study: finding them by their SHA-256 after they were moved, and adding new ones.

An image's file is hashed when it is first read, and again when its size or time has changed. Opening a study
hashes nothing; adding the images of a folder hashes only the files that the cache does not know.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter, ValidationError

from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import ImageError, StudyError
from napari_lesionseg.io.atomic import sha256_file, write_atomically
from napari_lesionseg.io.folders import is_dir, may_follow
from napari_lesionseg.io.images import (
    image_shape,
    image_suffixes,
    read_image,
    to_byte_image,
    unread_pages,
    write_image,
)
from napari_lesionseg.io.pairing import find_images
from napari_lesionseg.study.event_log import StudyProblem, explain
from napari_lesionseg.study.events import Added, Label, RelativePath, Sha256
from napari_lesionseg.study.layout import MASKS
from napari_lesionseg.study.pseudonyms import KeyFile
from napari_lesionseg.types import ByteImage

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of images done and the total; may raise `CancelledError`."""

_Stamp: TypeAlias = tuple[int, int, Sha256]  # bytes, time of modification in ns, hash
_CACHE = TypeAdapter(dict[RelativePath, _Stamp])
_PATH = TypeAdapter(RelativePath)
_NAMES = TypeAdapter(tuple[Label, RelativePath, Label | None, Label | None, Label | None])
_UNSAFE = re.compile(r"[^\w-]+")
_NAME_LENGTH = 100


class HashCache:
    """Hashes of the files in a folder, remembered in a file that may be deleted."""

    def __init__(self, folder: Path | None, file: Path) -> None:
        self._folder = folder
        self._file = file
        self._hashes: dict[Path, _Stamp] = {}  # made by this object

    def hash(self, path: Path) -> str:
        """Return the SHA-256 of a file, from the cache if its size and time are the same."""
        status = path.stat()
        cached = self._cache.get(self._key(path))
        if cached is not None and cached[:2] == (status.st_size, status.st_mtime_ns):
            return cached[2]
        return self.hash_now(path)

    def hash_now(self, path: Path) -> str:
        """Return the SHA-256 of a file, hashed once by this object and again when it has changed."""
        status = path.stat()
        known = self._hashes.get(path)
        if known is None or known[:2] != (status.st_size, status.st_mtime_ns):
            known = self._hashes[path] = (status.st_size, status.st_mtime_ns, sha256_file(path))
        return known[2]

    def path_of(self, sha256: str) -> Path | None:
        """Return the file in the folder that had this SHA-256 when the cache was written."""
        return self._cached_paths.get(sha256)

    def save(self) -> None:
        """Write the cache, if there is anything new."""
        new = {self._key(path): stamp for path, stamp in self._hashes.items()}
        cache = {**self._cache, **{key: stamp for key, stamp in new.items() if _is_relative(key)}}
        cache.pop("", None)
        if cache != self._cache:
            self._file.parent.mkdir(exist_ok=True)
            write_atomically(self._file, _CACHE.dump_json(cache))
            self._cache = cache

    @cached_property
    def _cache(self) -> dict[RelativePath, _Stamp]:
        """Hashes by path relative to the folder; a cache that is missing or damaged is empty."""
        try:
            return _CACHE.validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return {}

    @cached_property
    def _cached_paths(self) -> dict[str, Path]:
        if self._folder is None:
            return {}
        return {sha256: self._folder / name for name, (_, _, sha256) in self._cache.items()}

    def _key(self, path: Path) -> str:
        """Return a file's name in the cache; empty for files that are not in the folder."""
        folder, name = f"{self._folder}{os.sep}", str(path)  # strings are ten times as fast as paths
        return name.removeprefix(folder).replace(os.sep, "/") if name.startswith(folder) else ""


def _is_relative(path: str) -> bool:
    """Whether a path can be written into a study, and leads into its folder on every system."""
    try:
        _PATH.validate_python(path)
    except ValidationError:
        return False
    return True


class ImageFiles:
    """Finds the files of images: in the study's folder `own`, and in `outside` those that were not copied.

    A file is hashed before it is first read, whatever the cache says: it must never show another image.
    """

    def __init__(self, own: Path, outside: Path | None, cache: Path) -> None:
        self.own = own
        self.outside = outside
        self.hashes = HashCache(outside, cache)
        self._listing: dict[int, list[Path]] | None = None
        # Of folders, once each: resolving each of 10 000 files takes most of the time of opening a study.
        self._parents: dict[Path, Path] = {}
        self._inside: dict[tuple[Path, Path], bool] = {}

    def folder_of(self, place: Path) -> Path | None:
        """Return the folder that a file is in, the study's own or `outside`; None: in neither."""
        folder = self.own if place.is_relative_to(self.own) else self.outside
        inside = folder is not None and place.is_relative_to(folder) and self._stays_inside(place, folder)
        return folder if inside else None

    def leads_out(self, added: Added) -> bool:
        """Whether links on its path lead an image out of its folder."""
        path = self._place(added)
        return path is not None and not self._stays_inside(path, self.own if added.own else self.outside)

    def find(self, added: Added) -> Path:
        """Return an image's file, after making sure that it is this image."""
        for path in self._places(added):
            if self._is_image(path, added):
                return path
        if not added.own and (self.outside is None or not is_dir(self.outside)):
            folder = "" if self.outside is None else f" ({self.outside})"
            raise StudyError(
                f"The folder of the images{folder} cannot be reached. Connect its disk, or set the folder "
                "with Locate images… or `lesionseg app STUDY --images FOLDER`."
            )
        raise StudyError(
            f"The image {added.name} was moved away or changed. Put it back, or set the folder of the images "
            "with Locate images… or `lesionseg app STUDY --images FOLDER`."
        )

    def is_present(self, added: Added) -> bool:
        """Whether a file of the right size is where the image was; quick, and not proof."""
        return any(_size(path) == added.size for path in self._likely_places(added))

    def holds_any(self, images: Iterable[Added]) -> bool:
        """Whether any file in the folders has the size of one of these images."""
        sizes = {added.size for added in images}
        return any(files for size, files in _list_by_size(self.own, self.outside).items() if size in sizes)

    def clear_listing(self) -> None:
        """List the folders again when the next image is missing."""
        self._listing = None

    def _place(self, added: Added) -> Path | None:
        """Return where an image was when it was added; None when the study has no such folder."""
        folder = self.own if added.own else self.outside
        return None if folder is None else folder / added.path

    def _likely_places(self, added: Added) -> Iterator[Path]:
        place = self._place(added)
        if place is not None:
            yield place
        moved = self.hashes.path_of(added.image_id)
        if moved is not None:
            yield moved

    def _places(self, added: Added) -> Iterator[Path]:
        """Yield where an image may be; folders are listed only if it is in none of the likely places."""
        yield from self._likely_places(added)
        if self._listing is None:
            self._listing = _list_by_size(self.own, self.outside)
        yield from self._listing.get(added.size, [])

    def _is_image(self, path: Path, added: Added) -> bool:
        folder = self.own if path.is_relative_to(self.own) else self.outside
        if _size(path) != added.size or not self._stays_inside(path, folder):
            return False
        return self.hashes.hash_now(path) == added.image_id

    def resolve_parent(self, path: Path) -> Path:
        """Return a path with all links but the last followed."""
        parent = path.parent
        if parent not in self._parents:
            self._parents[parent] = parent.resolve()
        return self._parents[parent] / path.name

    def _stays_inside(self, path: Path, folder: Path | None) -> bool:
        """Whether a path is still in its folder once links are followed."""
        if folder is None:
            return False
        if path.is_symlink():
            target = path.resolve()
            return target.is_relative_to(folder) or may_follow(target)
        place = path.parent, folder
        if place not in self._inside:
            self._inside[place] = self.resolve_parent(path).parent.is_relative_to(folder)
        return self._inside[place] or may_follow(self.resolve_parent(path).parent)


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


def _size(path: Path) -> int:
    """Return the bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


@dataclass(frozen=True, slots=True)
class Source:
    """An image to be added: its name, its file or pixels, and what it belongs together with."""

    name: str
    content: Path | ByteImage
    group: SplitItem


def find_files(images: str | Path | Iterable[str | Path], study: Path) -> list[Path]:
    """Find image files as `find_images` does, except the masks of the study."""
    given = [images] if isinstance(images, str | Path) else list(images)
    masks = study.resolve() / MASKS
    found = find_images(given) if given else []
    own = {parent for parent in {path.parent for path in found} if parent.resolve().is_relative_to(masks)}
    return [path for path in found if path.parent not in own] if own else found


def list_sources(
    files: Iterable[Path], images: Mapping[str, ArrayLike], groups: Iterable[SplitItem]
) -> list[Source]:
    """List the images to be added: files, whose stem is the name, and arrays by name."""
    known = {group.stem: group for group in groups}
    contents: list[tuple[str, Path | ByteImage]] = [(path.stem, path) for path in files]
    contents += [(name, to_byte_image(image)) for name, image in images.items()]
    return [Source(name, content, known.get(name, SplitItem(name))) for name, content in contents]


def pseudonymize_all(sources: Sequence[Source], key_file: str | Path | None, study: Path) -> list[Source]:
    """Replace every name, and save the key before anything else is written."""
    if key_file is None:
        if not sources:
            return []
        raise StudyError("The images of this study get pseudonyms; choose a file for their key.")
    key = KeyFile(Path(key_file), study)
    renamed = [pseudonymize(source, key) for source in sources]
    key.save()
    return renamed


def pseudonymize(source: Source, key: KeyFile) -> Source:
    """Replace every name of an image by a pseudonym; the key is not saved here."""
    if isinstance(source.content, Path):
        name = key.pseudonym("image", str(source.content), sha256_file(source.content))
    else:
        name = key.pseudonym("image", source.name, _hash_pixels(source.content))
    group = source.group
    patient = key.pseudonym("patient", group.patient) if group.patient else None
    # Lesions are often numbered within a patient: the patient is part of what the key knows them by.
    lesion = key.pseudonym("lesion", f"{group.patient or ''}/{group.lesion}") if group.lesion else None
    return replace(source, name=name, group=replace(group, stem=name, patient=patient, lesion=lesion))


def common_folder(files: Iterable[Path]) -> Path:
    """Return the folder that holds all files, links to folders followed."""
    parents = {path.parent for path in files}
    try:
        return Path(os.path.commonpath([parent.resolve() for parent in parents]))
    except ValueError as error:
        raise StudyError("The images are on several drives; have them copied into the study.") from error


def describe(
    sources: Iterable[Source],
    files: ImageFiles,
    known: Container[str],
    progress: Progress | None = None,
    *,
    copy: bool,
) -> Iterator[dict[str, Any] | StudyProblem]:
    """Yield the fields of an `Added` event for each new image, or why it was left out.

    With `copy`, image files are copied into the study as PNG, upright and without EXIF; else they stay where
    they are. Arrays are always copied. Images whose SHA-256 is `known` to the study are passed over.
    """
    sources = list(sources)
    for done, source in enumerate(sources, start=1):
        content = source.content
        if not isinstance(content, Path):
            yield _checked(source, _describe_copy(source, content, files.own))
        elif not copy:
            yield from _checked_file(source, content, _describe_in_place(source, content, files, known))
        else:
            yield from _checked_file(source, content, _describe_file_copy(source, content, files.own, known))
        if progress is not None:
            progress(done, len(sources))


def _checked_file(
    source: Source, path: Path, found: Iterable[dict[str, Any] | StudyProblem]
) -> Iterator[dict[str, Any] | StudyProblem]:
    """Check what is to be saved of an image file that is new, and name the pages of it that are not used."""
    for item in found:
        checked = _checked(source, item)
        yield checked
        if not isinstance(checked, StudyProblem) and (unread := unread_pages(path)):
            yield StudyProblem(str(path), 0, unread)


def _checked(source: Source, item: dict[str, Any] | StudyProblem) -> dict[str, Any] | StudyProblem:
    """Return the fields of an image, or a problem if its name, patient or lesion cannot be saved."""
    if isinstance(item, StudyProblem):
        return item
    try:
        _NAMES.validate_python([item[key] for key in ("name", "path", "patient", "lesion", "stratify_by")])
    except ValidationError as error:
        shown = str(source.content) if isinstance(source.content, Path) else source.name
        field = ("name", "name", "patient", "lesion", "diagnosis")[int(error.errors()[0]["loc"][0])]
        if field == "name":
            reason = "its name is not valid on every system; rename the file, without : and \\"
        else:
            reason = f"its {field} cannot be saved ({explain(error)})"
        return StudyProblem(shown, 0, reason)
    return item


def _describe_in_place(
    source: Source, path: Path, files: ImageFiles, known: Container[str]
) -> Iterator[dict[str, Any] | StudyProblem]:
    try:
        place = files.resolve_parent(path)
        sha256 = files.hashes.hash(place)
        if sha256 in known:
            return
        folder = files.folder_of(place)
        if folder is None:
            reason = f"it is not inside {files.outside}; have it copied into the study"
            yield StudyProblem(str(path), 0, reason)
        else:
            yield _fields(source, place, folder, image_shape(place), sha256, own=folder == files.own)
    except ImageError as error:
        yield _unreadable(path, error)
    except OSError as error:
        yield StudyProblem(str(path), 0, f"it cannot be read ({error.strerror})")


def _unreadable(path: Path, error: ImageError) -> StudyProblem:
    return StudyProblem(str(path), 0, str(error).rpartition(f"{path.name}: ")[2])  # which names the file, too


def _describe_file_copy(
    source: Source, path: Path, own: Path, known: Container[str]
) -> Iterator[dict[str, Any] | StudyProblem]:
    try:
        if sha256_file(path) in known:
            return
        image = read_image(path)
    except ImageError as error:
        yield _unreadable(path, error)
    except OSError as error:
        yield StudyProblem(str(path), 0, f"it cannot be read ({error.strerror})")
    else:
        yield _describe_copy(source, image, own)


def _describe_copy(source: Source, image: ByteImage, own: Path) -> dict[str, Any]:
    base = _UNSAFE.sub("_", source.name).strip("_")[:_NAME_LENGTH] or "image"
    # The hash keeps apart images of one name, also those that another annotator adds at the same time.
    path = own / f"{base}-{_hash_pixels(image)[:8]}.png"
    if not _shows(path, image):
        write_image(path, image)
    return _fields(source, path, own, (image.shape[0], image.shape[1]), sha256_file(path), own=True)


def _shows(path: Path, image: ByteImage) -> bool:
    """Whether a file holds these pixels; it then stays, since another encoder would change its hash."""
    try:
        return path.is_file() and np.array_equal(read_image(path), image)
    except ImageError:
        return False


def _fields(
    source: Source, path: Path, folder: Path, shape: tuple[int, int], sha256: str, *, own: bool
) -> dict[str, Any]:
    """Return the fields of an `Added` event."""
    return {
        "image_id": sha256,
        "name": source.name,
        "path": path.relative_to(folder).as_posix(),
        "own": own,
        "size": path.stat().st_size,
        "shape": shape,
        "patient": source.group.patient,
        "lesion": source.group.lesion,
        "stratify_by": source.group.stratify_by,
    }


def _hash_pixels(image: ByteImage) -> str:
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()
