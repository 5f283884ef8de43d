"""Settings given on the command line: ``--set NAME=VALUE``, checked, with errors that name the setting."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from napari_lesionseg.config import Settings
from napari_lesionseg.errors import TrainingError

SettingsType = TypeVar("SettingsType", bound=Settings)


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """Turn ``NAME=VALUE`` into settings; a value that is no JSON is a text."""
    return {name: _value(text) for name, _, text in (change.partition("=") for change in changes)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def make_settings(
    kind: type[SettingsType], *layers: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> SettingsType:
    """Join settings, the later ones over the earlier.

    Parameters
    ----------
    kind : type
        What they are.
    *layers : mapping
        Settings by name; None is a value like any other.
    options : mapping, optional
        Settings that have an option of their own, over all others; those that are None were not given.

    Raises
    ------
    TrainingError
        If a setting is unknown or wrong.
    """
    joined = {name: value for layer in layers for name, value in layer.items()}
    joined |= {name: value for name, value in (options or {}).items() if value is not None}
    try:
        return kind.model_validate(joined)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise TrainingError(f"The setting '{name}' is wrong: {first['msg']}.") from error


def check_out(path: Path) -> None:
    """Refuse a place for a model before hours of training go by.

    Raises
    ------
    TrainingError
        If the file's name does not end in ``.safetensors`` or its folder cannot be made.
    """
    if path.suffix != ".safetensors":
        raise TrainingError(f"The name of a model must end in .safetensors; {path.name} does not.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
    if path.is_dir():
        raise TrainingError(f"{path} is a folder; give the name of a file.")
