"""The models a user has: the one that is shipped, and those in the user's own folder.

A model is one file; the folder is the registry. Nothing else is stored, so that two programs may use it at once,
and a damaged file is shown as damaged and does no harm.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import platformdirs

from napari_lesionseg.files import write_atomically
from napari_lesionseg.errors import CheckpointError, ModelNotFoundError
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint, read_card

SUFFIX = ".safetensors"
FOLDER_VARIABLE = "LESIONSEG_MODELS"
_NAME = re.compile(r"[\w][\w .+-]{0,99}", re.UNICODE)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as the registry shows it."""

    name: str
    path: Path
    shipped: bool
    card: ModelCard | None
    """None when the file is damaged."""
    problem: str = ""
    """Why it cannot be used; empty when it can."""


class ModelRegistry:
    """Finds, adds, renames and removes models.

    Parameters
    ----------
    folder : Path, optional
        The user's models; None: the folder named by the environment variable LESIONSEG_MODELS, or the place where
        the system keeps a user's data.
    """

    def __init__(self, folder: Path | None = None) -> None:
        chosen = folder or os.environ.get(FOLDER_VARIABLE)
        self.folder = (
            Path(chosen) if chosen else Path(platformdirs.user_data_path("napari-lesionseg")) / "models"
        )

    def list(self) -> tuple[ModelEntry, ...]:
        """Describe all models: the shipped ones first, then the user's by name."""
        own = sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.is_dir() else []
        own = [path for path in own if not path.name.endswith(f".state{SUFFIX}")]
        return (
            *(_describe(path, shipped=True) for path in _shipped()),
            *(_describe(path, shipped=False) for path in own),
        )

    def resolve(self, name: str | Path | None = None) -> Path:
        """Find the file of a model.

        Parameters
        ----------
        name : str or Path, optional
            A registered name or a path; None: the shipped default.

        Raises
        ------
        ModelNotFoundError
            If there is no such model.
        """
        shipped = list(_shipped())
        if name is None:
            return shipped[0]
        known = {path.stem: path for path in (*shipped, *self.folder.glob(f"*{SUFFIX}"))}
        if str(name) in known:
            return known[str(name)]
        if Path(name).suffix == SUFFIX and Path(name).is_file():
            return Path(name)
        raise ModelNotFoundError(f"There is no model '{name}'; `lesionseg models` lists those there are.")

    def add(self, source: Path | bytes, name: str) -> Path:
        """Add a model under a name of its own; nothing is ever overwritten.

        Parameters
        ----------
        source : Path or bytes
            A checkpoint, or its bytes.
        name : str
            Wanted name; a number is added when it is taken.

        Returns
        -------
        Path
            The new file.

        Raises
        ------
        CheckpointError
            If the source is no usable model, the name is unusable, or the folder cannot be written.
        """
        if isinstance(source, Path):
            load_checkpoint(source)
            source = source.read_bytes()
        path = self._free_path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, source)
        except OSError as error:
            raise CheckpointError(f"The model cannot be written to {path}: {error.strerror}.") from error
        return path

    def rename(self, name: str, new_name: str) -> Path:
        """Give one of the user's models another name.

        Raises
        ------
        ModelNotFoundError, CheckpointError
            If it is not there, is a shipped one, or the name is taken or unusable.
        """
        path, target = self._own(name), self._path(new_name)
        if target.exists() or new_name in {entry.stem for entry in _shipped()}:
            raise CheckpointError(f"There already is a model '{new_name}'.")
        return path.rename(target)

    def remove(self, name: str) -> None:
        """Delete one of the user's models.

        Raises
        ------
        ModelNotFoundError, CheckpointError
            If it is not there, or is a shipped one.
        """
        self._own(name).unlink()

    def _own(self, name: str) -> Path:
        path = self._path(name)
        if path.is_file():
            return path
        if name in {entry.stem for entry in _shipped()}:
            raise CheckpointError(f"The model '{name}' is shipped with the program and stays as it is.")
        raise ModelNotFoundError(f"There is no model '{name}'; `lesionseg models` lists those there are.")

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name) or name.endswith((".", " ")):
            raise CheckpointError(
                f"'{name}' cannot be the name of a model: use letters, digits, spaces, dots and dashes."
            )
        return self.folder / f"{name}{SUFFIX}"

    def _free_path(self, name: str) -> Path:
        taken = {entry.stem for entry in _shipped()}
        candidates = [name, *(f"{name}-{number}" for number in range(2, 10_000))]
        return next(p for c in candidates if c not in taken and not (p := self._path(c)).exists())


def _shipped() -> Iterator[Path]:
    """Files of the shipped models, the default first."""
    folder = Path(str(resources.files("napari_lesionseg"))) / "weights"
    return iter(sorted(folder.glob(f"*{SUFFIX}")))


def _describe(path: Path, *, shipped: bool) -> ModelEntry:
    try:
        return ModelEntry(path.stem, path, shipped, read_card(path))
    except CheckpointError as error:
        return ModelEntry(path.stem, path, shipped, None, str(error))
