"""Bringing images into a study: in place, or as copies without metadata."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from napari_lesionseg.datasets.splits import SplitItem
from napari_lesionseg.errors import ImageError, StudyError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import image_shape, read_image, to_byte_image, write_image
from napari_lesionseg.io.pairing import find_images
from napari_lesionseg.study.event_log import Problem
from napari_lesionseg.study.layout import MASKS
from napari_lesionseg.study.pseudonyms import KeyFile
from napari_lesionseg.types import ByteImage

Progress: TypeAlias = Callable[[int, int], None]
"""Gets the number of images done and of all; may raise `CancelledError`."""

_UNSAFE = re.compile(r"[^\w-]+")
_NAME_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Source:
    """An image that is to come into a study.

    Parameters
    ----------
    name : str
        What it is called.
    content : Path or ndarray
        Its file, or its pixels.
    group : SplitItem
        What it belongs together with.
    """

    name: str
    content: Path | ByteImage
    group: SplitItem


def list_sources(
    files: Iterable[Path], images: Mapping[str, ArrayLike], groups: Iterable[SplitItem]
) -> list[Source]:
    """List what is to be imported.

    Parameters
    ----------
    files : iterable of Path
        Image files; the stem is the name.
    images : mapping of str to array
        Pixels by name, of any kind that `to_byte_image` takes.
    groups : iterable of SplitItem
        Patients, lesions and strata by name.

    Returns
    -------
    list of Source

    Raises
    ------
    ImageError
        When an array is no image.
    """
    known = {group.stem: group for group in groups}
    contents: list[tuple[str, Path | ByteImage]] = [(path.stem, path) for path in files]
    contents += [(name, to_byte_image(image)) for name, image in images.items()]
    return [Source(name, content, known.get(name, SplitItem(name))) for name, content in contents]


def pseudonymize(source: Source, key: KeyFile) -> Source:
    """Replace every name of an image by a pseudonym.

    Parameters
    ----------
    source : Source
        The image.
    key : KeyFile
        Where the pseudonyms are kept; it is not saved here.

    Returns
    -------
    Source
        The same image under another name.

    Raises
    ------
    OSError
        When the image's file cannot be read.
    """
    if isinstance(source.content, Path):
        name = key.pseudonym("image", str(source.content), sha256_file(source.content))
    else:
        name = key.pseudonym("image", source.name, _hash_pixels(source.content))
    group = source.group
    patient = key.pseudonym("patient", group.patient) if group.patient else None
    # Lesions are often numbered within a patient: the patient is part of what the key knows them by.
    lesion = key.pseudonym("lesion", f"{group.patient or ''}/{group.lesion}") if group.lesion else None
    return replace(source, name=name, group=replace(group, stem=name, patient=patient, lesion=lesion))


def pseudonymize_all(sources: Sequence[Source], key_file: str | Path | None, study: Path) -> list[Source]:
    """Replace every name, and save the key before anything else is written.

    Parameters
    ----------
    sources : sequence of Source
        The images.
    key_file : str or Path, optional
        Where the key is kept.
    study : Path
        The study's folder, which must not hold the key.

    Raises
    ------
    StudyError
        When there are images and no key file, or it is inside the study, or is none.
    OSError
        When an image's file cannot be read, or the key not be written.
    """
    if key_file is None:
        if not sources:
            return []
        raise StudyError("The images of this study get pseudonyms; say where their key is kept.")
    key = KeyFile(Path(key_file), study)
    renamed = [pseudonymize(source, key) for source in sources]
    key.save()
    return renamed


def find_files(images: str | Path | Iterable[str | Path], study: Path) -> list[Path]:
    """Find image files as `find_images` does, but for the masks of the study.

    Raises
    ------
    PairingError
        When something is given and no images are found.
    """
    given = [images] if isinstance(images, str | Path) else list(images)
    masks = study.resolve() / MASKS
    found = find_images(given) if given else []
    return [path for path in found if not path.resolve().is_relative_to(masks)]


def common_folder(files: Iterable[Path]) -> Path:
    """Return the folder that holds all files, links to folders followed.

    Parameters
    ----------
    files : iterable of Path
        At least one.

    Returns
    -------
    Path

    Raises
    ------
    StudyError
        When they are on several drives.
    """
    parents = {path.parent for path in files}
    try:
        return Path(os.path.commonpath([parent.resolve() for parent in parents]))
    except ValueError as error:
        raise StudyError("The images are on several drives; have them copied into the study.") from error


def describe(
    sources: Iterable[Source],
    own: Path,
    outside: Path | None,
    known: Container[str] = (),
    progress: Progress | None = None,
) -> Iterator[dict[str, Any] | Problem]:
    """Bring images into a study one by one, and say what the journal must know of them.

    Parameters
    ----------
    sources : iterable of Source
        The images.
    own : Path
        The study's own folder of images, resolved. Arrays are saved there as PNG.
    outside : Path, optional
        Folder in which image files stay, resolved. None: files are copied to `own` as PNG, upright and
        without EXIF.
    known : container of str
        SHA-256 of the images that the study has: no copies are made of them.
    progress : callable, optional
        Told about each image.

    Yields
    ------
    dict or Problem
        Fields of an `Added` entry, or why an image was left out.

    Raises
    ------
    OSError, ImageError
        When the study's folder cannot be written.
    """
    sources = list(sources)
    for done, source in enumerate(sources, start=1):
        content = source.content
        if not isinstance(content, Path):
            yield _described_copy(source, content, own)
        elif outside is not None:
            yield _described_in_place(source, content, own, outside)
        else:
            yield from _described_file_copy(source, content, own, known)
        if progress is not None:
            progress(done, len(sources))


def _described_in_place(source: Source, path: Path, own: Path, outside: Path) -> dict[str, Any] | Problem:
    """Describe an image that stays where it is."""
    try:
        place = path.parent.resolve() / path.name
        folder = own if place.is_relative_to(own) else outside
        if not place.is_relative_to(folder) or not place.resolve().is_relative_to(folder):
            return Problem(str(path), 0, f"it is not inside {folder}; have it copied into the study")
        return _fields(source, place, folder, image_shape(place), own=folder == own)
    except ImageError as error:
        return Problem(str(path), 0, str(error))
    except OSError as error:
        return Problem(str(path), 0, f"it cannot be read ({error.strerror})")


def _described_file_copy(
    source: Source, path: Path, own: Path, known: Container[str]
) -> Iterator[dict[str, Any] | Problem]:
    """Copy an image file, unless the study has it already."""
    try:
        if sha256_file(path) in known:
            return
        image = read_image(path)
    except ImageError as error:
        yield Problem(str(path), 0, str(error))
    except OSError as error:
        yield Problem(str(path), 0, f"it cannot be read ({error.strerror})")
    else:
        yield _described_copy(source, image, own)


def _described_copy(source: Source, image: ByteImage, own: Path) -> dict[str, Any]:
    """Save an image in the study and describe the copy."""
    base = _UNSAFE.sub("_", source.name).strip("_")[:_NAME_LENGTH] or "image"
    # The hash keeps apart images of one name, also those that another annotator brings in at the same time.
    path = own / f"{base}-{_hash_pixels(image)[:8]}.png"
    if not _shows(path, image):
        write_image(path, image)
    return _fields(source, path, own, (image.shape[0], image.shape[1]), own=True)


def _shows(path: Path, image: ByteImage) -> bool:
    """Tell whether a file holds these pixels; it then stays, since another encoder would change its hash."""
    try:
        return path.is_file() and np.array_equal(read_image(path), image)
    except ImageError:
        return False


def _fields(source: Source, path: Path, folder: Path, shape: tuple[int, int], *, own: bool) -> dict[str, Any]:
    """Return what an `Added` entry says of an image."""
    return {
        "image_id": sha256_file(path),
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
