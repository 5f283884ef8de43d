"""What there is to choose from on this computer: models and devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_lesionseg.models.store import ModelEntry

DEVICES = {"auto": "Automatic", "cpu": "Processor", "cuda": "NVIDIA GPU", "mps": "Apple GPU"}
"""Names of the devices, as settings know them and as users read them."""


@dataclass(frozen=True, slots=True)
class AvailableModels:
    """Models and devices that can be used here.

    Parameters
    ----------
    models : tuple of ModelEntry
        All in the model store, the default first; damaged ones say what is wrong with them.
    devices : dict of str to str
        What each device that works is, in words: ``{"auto": "CPU, 2 threads", ...}``.
    """

    models: tuple[ModelEntry, ...]
    devices: dict[str, str]


def available_models() -> AvailableModels:
    """Look for models and devices; to be called in a worker, as PyTorch takes a second or more to start."""
    from napari_lesionseg.inference.device import available_devices, choose_device, describe_device
    from napari_lesionseg.models.store import ModelStore

    devices = {name: describe_device(choose_device(name)) for name in available_devices()}
    return AvailableModels(ModelStore().list(), devices)
