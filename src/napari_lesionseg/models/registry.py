"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable

from napari_lesionseg.errors import CheckpointError
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.lite_unet import LiteUNet
from napari_lesionseg.models.mixture import ARCHITECTURE, ExpertNetwork
from napari_lesionseg.models.segnet import SegNet
from napari_lesionseg.models.unet import UNet

ARCHITECTURES: dict[str, Callable[..., SegmentationNetwork]] = {
    "lite-unet": LiteUNet,
    ARCHITECTURE: ExpertNetwork,
    "segnet": SegNet,
    "unet": UNet,
}


def build_network(arch: str, out_channels: int = 1, **settings: int) -> SegmentationNetwork:
    """Return an untrained network of `ARCHITECTURES`; raise `CheckpointError` if the settings do not fit."""
    if arch not in ARCHITECTURES:
        raise CheckpointError(
            f"There is no network '{arch}'; choose one of {', '.join(sorted(ARCHITECTURES))}."
        )
    try:
        return ARCHITECTURES[arch](out_channels=out_channels, **settings)
    except TypeError as error:
        raise CheckpointError(f"The network '{arch}' does not take these settings: {settings}.") from error
    except ValueError as error:
        raise CheckpointError(
            f"The network '{arch}' does not take these settings: {settings}; {error}."
        ) from error
