"""The list of a dataset's files with their hashes, and the check that none has changed."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.folders import FolderScan, contained, exists, is_dir, is_file, spelled, walk
from napari_lesionseg.io.tables import read_json

MANIFEST_NAME = "manifest.json"


class ManifestEntry(BaseModel):
    """One file: its path inside the folder with ``/``, its SHA-256, and its size in bytes."""

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(BaseModel):
    """The files of a dataset; `format` names its convention and `created` is ISO 8601."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(1, ge=1, le=1)
    software: str = ""
    format: str = ""
    created: str = ""
    files: tuple[ManifestEntry, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What became of a dataset since it was written."""

    checked: int
    missing: tuple[str, ...]
    changed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """True when every file is there as it was written; added files do no harm to it."""
        return not (self.missing or self.changed)


@dataclass(frozen=True, slots=True)
class Hashed:
    """Progress: `done` of `total` files are hashed."""

    done: int
    total: int
    name: str


def write_manifest(folder: Path, *, software: str, convention: str, created: str) -> Iterator[Hashed]:
    """Hash every file of a folder, and write the list."""
    files = sorted(walk(folder))
    entries = []
    for number, path in enumerate(files, 1):
        name = path.relative_to(folder).as_posix()
        entries.append(ManifestEntry(path=name, sha256=sha256_file(path), bytes=path.stat().st_size))
        yield Hashed(number, len(files), name)
    manifest = Manifest(software=software, format=convention, created=created, files=tuple(entries))
    text = json.dumps(manifest.model_dump(), indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST_NAME).write_bytes(text.encode())


def read_manifest(folder: Path) -> Manifest:
    """Read the list of a dataset's files."""
    path = folder / MANIFEST_NAME
    if not is_dir(folder):
        raise DatasetError(f"{folder} does not exist." if not exists(folder) else f"{folder} is no folder.")
    if not is_file(path):
        raise DatasetError(f"{folder} has no {MANIFEST_NAME}; only exported datasets can be verified.")
    try:
        manifest = Manifest.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{path} is damaged ({where}: {first['msg']}).") from error
    for entry in manifest.files:
        contained(folder, entry.path)
    return manifest


def verify(folder: str | Path) -> Iterator[Hashed | Verification]:
    """Check that a dataset is as it was written."""
    folder = Path(folder)
    entries = read_manifest(folder).files
    missing, changed = [], []
    for number, entry in enumerate(entries, 1):
        state = _compare(folder, entry)
        if state == "missing":
            missing.append(entry.path)
        elif state == "changed":
            changed.append(entry.path)
        yield Hashed(number, len(entries), entry.path)
    known = {_composed(entry.path) for entry in entries} | {MANIFEST_NAME}
    scan = FolderScan(folder)  # links that lead elsewhere count, too
    paths = (*scan.files, *(path for path, _ in scan.passed_over))
    found = (path.relative_to(folder).as_posix() for path in paths)
    added = tuple(sorted(name for name in found if _composed(name) not in known))
    yield Verification(len(entries), tuple(missing), tuple(changed), added)


def _composed(name: str) -> str:
    """Return a name with composed letters; some systems and archives decompose them."""
    return unicodedata.normalize("NFC", name)


def _compare(folder: Path, entry: ManifestEntry) -> str:
    path = spelled(contained(folder, entry.path))
    if path is None:
        return "missing"
    try:
        same = path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from error
    return "same" if same else "changed"
