"""Named exceptions: the message of each is one sentence that the user can act on."""

from __future__ import annotations

import sys


class LesionSegError(Exception):
    """Base of every error this package raises on purpose."""


class ImageError(LesionSegError):
    """An image cannot be read, or is of a kind that cannot be segmented."""


class MaskError(LesionSegError):
    """A mask cannot be read or written, or does not fit its image."""


class PromptError(LesionSegError):
    """A box, lasso, scribble or click cannot be used on its image."""


class SettingsError(LesionSegError):
    """A setting has a value that it cannot have."""


class PairingError(LesionSegError):
    """No images, or no masks that belong to them, were found."""


class CheckpointError(LesionSegError):
    """A model file is damaged, foreign, or of a newer version."""


class ModelNotFoundError(LesionSegError):
    """No model of that name or path exists."""


class DeviceError(LesionSegError):
    """The asked-for device is not there, or ran out of memory."""


class TrainingError(LesionSegError):
    """Training cannot start or continue."""


class StudyError(LesionSegError):
    """A study folder cannot be opened, read or written."""


class FieldError(StudyError):
    """A value does not fit its field."""


class DatasetError(LesionSegError):
    """A dataset cannot be imported or exported."""


class CancelledError(LesionSegError):
    """The user asked for the work to stop."""


class ClusterError(LesionSegError):
    """A dask cluster cannot be started, joined or used."""


class NoRoomError(ClusterError):
    """A worker has no room for a model."""


class LandmarkError(LesionSegError):
    """Landmarks cannot be used: their number, positions or visibility do not fit."""


def how_to_install(extra: str) -> str:
    """Say how to get the packages of an extra; nothing can be added to the program of the installer."""
    if getattr(sys, "frozen", False):
        return f'install LesionSeg with uv or pip as "napari-lesionseg[all,{extra}]" instead of its installer'
    return f'pip install "napari-lesionseg[{extra}]"'
