"""The models a user has: the one that is shipped, and those in the user's own folder.

A model is one file; the folder is the store. Nothing else is kept, so that two programs may use it at
once, and a damaged file is shown as damaged and does no harm.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import platformdirs

from napari_lesionseg.errors import CheckpointError, ModelNotFoundError
from napari_lesionseg.io.atomic import follow_link, sha256_file, sync_folder, write_atomically
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint, read_card

SUFFIX = ".safetensors"
ONNX_SUFFIX = ".onnx"
STATE_SUFFIX = ".state"  # before the suffix: the file is that of a training that is not finished
FOLDER_VARIABLE = "LESIONSEG_MODELS"
MAX_NAME_BYTES = 200  # file systems take 255, suffix and name of the temporary file included
_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10)),
}
_NAME = re.compile(r"[\w][\w .+-]{0,99}", re.UNICODE)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as the store shows it."""

    name: str
    path: Path
    shipped: bool
    card: ModelCard | None
    """None when the file is damaged."""
    problem: str = ""
    """Why it cannot be used; empty when it can."""


class ModelStore:
    """Finds, adds, renames and removes models."""

    def __init__(self, folder: Path | None = None) -> None:
        chosen = folder or os.environ.get(FOLDER_VARIABLE)
        default = platformdirs.user_data_path("napari-lesionseg", appauthor=False) / "models"
        self.folder = Path(chosen) if chosen else default

    def list(self) -> tuple[ModelEntry, ...]:
        """Describe all models: the shipped ones first, then the user's by name."""
        return (
            *(_describe(path, shipped=True) for path in _shipped()),
            *(_describe(path, shipped=False) for path in _models_in(self.folder)),
        )

    def resolve(self, name: str | Path | None = None) -> Path:
        """Find the file of a model."""
        known = {path.stem: path for path in (*_models_in(self.folder), *_shipped())}
        if name is None:
            default = next(_shipped(), None)
            if default is None:
                raise ModelNotFoundError("This installation has no model; install napari-lesionseg again.")
            return default
        if str(name) in known:
            return known[str(name)]
        if Path(str(name)).suffix in {SUFFIX, ONNX_SUFFIX} and os.path.isfile(str(name)):  # noqa: PTH113 - never raises
            return Path(str(name))
        raise ModelNotFoundError(f"There is no model '{name}'; `lesionseg models` lists those there are.")

    def add(self, source: Path | bytes, name: str) -> Path:
        """Add a model file, or its bytes; a number is appended to a name that is taken."""
        if isinstance(source, Path):
            load_checkpoint(source)
        try:
            payload = source.read_bytes() if isinstance(source, Path) else source
            path = self._claim_free(name)
            self._fill(path, payload)
        except OSError as error:
            raise CheckpointError(
                f"The model cannot be written to {self.folder}: {error.strerror}."
            ) from error
        return path

    def free_name(self, name: str) -> str:
        """Return a name that no model has, with a number appended if it is taken."""
        taken = {path.stem for path in (*_models_in(self.folder), *_shipped())}
        return next(each for each in _with_numbers(name) if each not in taken)

    def rename(self, name: str, new_name: str) -> Path:
        """Rename one of the user's models."""
        path = self._own(name)
        try:
            target = self._claim(new_name)
            if target is None:
                raise CheckpointError(f"A model named '{new_name}' already exists; choose another name.")
            path.replace(target)
            sync_folder(self.folder)
        except OSError as error:
            raise CheckpointError(f"The model '{name}' cannot be renamed: {error.strerror}.") from error
        return target

    def remove(self, name: str) -> None:
        """Delete one of the user's models."""
        try:
            self._own(name).unlink()
        except OSError as error:
            raise CheckpointError(f"The model '{name}' cannot be removed: {error.strerror}.") from error

    def history(self, name: str) -> tuple[ModelEntry, ...]:
        """Return a model and what it was fine-tuned from, as far as that is here, the newest first.

        To roll back, take the second.
        """
        entry = _describe(self.resolve(name), shipped=name in _shipped_names())
        by_hash = {sha256_file(other.path): other for other in self.list() if other.card is not None}
        line = [entry]
        while line[-1].card is not None and line[-1].card.parent in by_hash:
            parent = by_hash.pop(line[-1].card.parent)  # popped, so that a forged circle ends
            line.append(parent)
        return tuple(line)

    def export(self, name: str, folder: Path) -> tuple[Path, ...]:
        """Write a model for others: the file, and its card and license as texts; nothing is overwritten."""
        source = self.resolve(name)
        card = read_card(source)
        files = {
            folder / source.name: source.read_bytes(),
            folder / f"{source.stem}.card.json": card.model_dump_json(indent=1).encode(),
            folder / f"{source.stem}.license.txt": _license_text(source, card).encode(),
        }
        taken = next((path for path in files if path.exists()), None)
        if taken is not None:
            raise CheckpointError(f"{taken} already exists; choose another folder.")
        try:
            follow_link(folder).mkdir(parents=True, exist_ok=True)
            for path, payload in files.items():
                write_atomically(path, payload)
        except OSError as error:
            raise CheckpointError(f"The model cannot be written to {folder}: {error.strerror}.") from error
        return tuple(files)

    def _own(self, name: str) -> Path:
        path = self._path(name)
        if path.is_file():
            return path
        if name in _shipped_names():
            raise CheckpointError(f"The model '{name}' is shipped with the program and stays as it is.")
        raise ModelNotFoundError(f"There is no model '{name}'; `lesionseg models` lists those there are.")

    def _path(self, name: str) -> Path:
        if name.endswith((SUFFIX, ONNX_SUFFIX)):
            raise CheckpointError(f"'{name}' cannot be the name of a model: leave out {Path(name).suffix}.")
        if name.partition(".")[0].rstrip().upper() in _RESERVED:
            raise CheckpointError(f"'{name}' cannot be the name of a model: Windows keeps it for a device.")
        usable = _NAME.fullmatch(name) and len(name.encode()) <= MAX_NAME_BYTES
        if not usable or name.endswith((".", " ", STATE_SUFFIX)):
            raise CheckpointError(
                f"'{name}' cannot be the name of a model: "
                "use at most 100 letters, digits, spaces, dots and dashes."
            )
        return self.folder / f"{name}{SUFFIX}"

    def _claim(self, name: str) -> Path | None:
        """Take a name in one step, so that no two programs get the same; None when it is taken."""
        path = self._path(name)
        if name in _shipped_names():
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return None
        return path

    def _claim_free(self, name: str) -> Path:
        for candidate in itertools.islice(_with_numbers(name), 10_000):
            path = self._claim(candidate)
            if path is not None:
                return path
        raise CheckpointError(f"There are too many models named '{name}'; choose another name.")

    def _fill(self, path: Path, payload: bytes) -> None:
        """Write a model under a claimed name, and give the name up when it proves unusable."""
        try:
            write_atomically(path, payload)
            load_checkpoint(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _with_numbers(name: str) -> Iterator[str]:
    """Yield a name, alone and then with numbers from 2."""
    yield name
    yield from (f"{name[:90]}-{number}" for number in itertools.count(2))


def _models_in(folder: Path) -> Iterator[Path]:
    """Files of finished models, by name."""
    return (path for path in sorted(folder.glob(f"*{SUFFIX}")) if not path.stem.endswith(STATE_SUFFIX))


def _shipped() -> Iterator[Path]:
    """Files of the shipped models, the default first."""
    return _models_in(Path(str(resources.files("napari_lesionseg"))) / "weights")


def _shipped_names() -> set[str]:
    return {path.stem for path in _shipped()}


def _describe(path: Path, *, shipped: bool) -> ModelEntry:
    try:
        return ModelEntry(path.stem, path, shipped, read_card(path))
    except CheckpointError as error:
        return ModelEntry(path.stem, path, shipped, None, str(error))


def _license_text(path: Path, card: ModelCard) -> str:
    lines = [
        f"Model: {card.name}, version {card.version}",
        f"File: {path.name}, SHA-256 {sha256_file(path)}",
        f"License of the weights: {card.license}",
    ]
    if card.parent:
        lines.append(f"Fine-tuned from the model with SHA-256 {card.parent}; its license holds as well.")
    return "\n".join(lines) + "\n"
