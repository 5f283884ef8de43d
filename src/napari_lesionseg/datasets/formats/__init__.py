"""Data set conventions, one module each, all with the same small interface (`Format`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from napari_lesionseg.datasets.formats import (
    coco,
    coco_panoptic,
    dicom,
    folder,
    imagefolder,
    isic,
    nnunet,
    ph2,
)
from napari_lesionseg.datasets.formats.base import DatasetInfo, ExportConfig, Format
from napari_lesionseg.datasets.manifest import MANIFEST_NAME, read_manifest
from napari_lesionseg.errors import DatasetError

__all__ = ["FORMATS", "DatasetInfo", "ExportConfig", "Format", "get_format", "recognize"]

FORMATS: Mapping[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (ph2, coco, coco_panoptic, isic, nnunet, imagefolder, dicom, folder)
}
"""All conventions by name; a folder is tried against them in this order."""


def get_format(name: str) -> Format:
    """Return a convention by its name.

    Parameters
    ----------
    name : str
        A key of `FORMATS`.

    Returns
    -------
    Format
        The convention.

    Raises
    ------
    DatasetError
        When there is none of that name.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise DatasetError(f"There is no format {name!r}; choose one of {', '.join(FORMATS)}.") from None


def recognize(folder: Path) -> Format | None:
    """Find out which convention a folder follows.

    Parameters
    ----------
    folder : Path
        Any folder.

    Returns
    -------
    Format or None
        What its manifest says, else the first convention that can be read and recognizes it.
    """
    if (folder / MANIFEST_NAME).is_file():
        try:
            return FORMATS.get(read_manifest(folder).format)
        except DatasetError:
            pass  # a damaged list does not make the images unreadable
    return next((found for found in FORMATS.values() if found.recognizes and found.recognizes(folder)), None)
